//! Tables on stdout.

use comfy_table::{CellAlignment, Table, presets};
use vae_data::one_line;

use crate::output::out;

/// Prints columns two spaces apart, the first `n_left` left-aligned and the others right-aligned. Control characters, for example in
/// names, are escaped.
pub(super) fn print(n_left: usize, header: &[&str], rows: Vec<Vec<String>>) {
    out!("{}", text(n_left, header, rows));
}

/// The output of [`print()`].
pub(super) fn text(n_left: usize, header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(header.iter().map(|name| one_line(name)));
    table.add_rows(
        rows.into_iter()
            .map(|row| row.iter().map(|cell| one_line(cell)).collect::<Vec<_>>()),
    );
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if i >= n_left {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// An unknown value.
pub(super) const UNKNOWN: &str = "-";

/// Hours, minutes and seconds.
pub(super) fn duration(seconds: f64) -> String {
    let duration = std::time::Duration::try_from_secs_f64(seconds.round()).unwrap_or_default();
    indicatif::FormattedDuration(duration).to_string()
}

/// Nats per image.
pub(super) fn nats(value: Option<f64>) -> String {
    value.map_or(UNKNOWN.to_owned(), |value| format!("{value:.2}"))
}
