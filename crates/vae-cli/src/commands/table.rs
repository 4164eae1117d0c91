//! Tables on stdout.

use std::io::IsTerminal;

use comfy_table::{CellAlignment, Table, presets};
use vae_data::one_line;

use crate::output::out;

/// Prints columns two spaces apart, the first `n_left` left-aligned and the others right-aligned. Control characters, for example in
/// names, are escaped. On a terminal no line is wider than it: a table with more columns continues below with the first ones
/// repeated.
pub(super) fn print(n_left: usize, header: &[&str], rows: Vec<Vec<String>>) {
    let width = match std::io::stdout().is_terminal() {
        true => terminal_size::terminal_size().map(|(width, _)| usize::from(width.0)),
        false => None,
    };
    out!("{}", text(n_left, header, rows, width));
}

/// The output of [`print()`] for a terminal of `width` columns.
pub(super) fn text(
    n_left: usize,
    header: &[&str],
    rows: Vec<Vec<String>>,
    width: Option<usize>,
) -> String {
    let mut cells: Vec<Vec<String>> = vec![header.iter().map(|name| one_line(name)).collect()];
    cells.extend(
        rows.iter()
            .map(|row| row.iter().map(|cell| one_line(cell)).collect()),
    );
    let columns = match width {
        None => vec![(0..header.len()).collect()],
        Some(width) => {
            // Names give way to numbers.
            let widest = widths(&cells).iter().skip(1).copied().max().unwrap_or(0);
            let most = width.saturating_sub(widest + 2).max(LEAST_NAME);
            for name in cells.iter_mut().filter_map(|row| row.first_mut()) {
                *name = shortened(name, most);
            }
            blocks(n_left, &widths(&cells), width)
        }
    };
    let block = |columns: &Vec<usize>| {
        let row = |row: &Vec<String>| {
            let cell = |&column: &usize| row.get(column).cloned().unwrap_or_default();
            columns.iter().map(cell).collect::<Vec<_>>()
        };
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_header(row(&cells[0]));
        table.add_rows(cells[1..].iter().map(row));
        for (i, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if i >= n_left {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.trim_fmt()
    };
    columns.iter().map(block).collect::<Vec<_>>().join("\n\n")
}

/// The shortest that a name may become.
const LEAST_NAME: usize = 16;

/// A name of at most `most` letters: its middle is left out.
fn shortened(name: &str, most: usize) -> String {
    let letters: Vec<char> = name.chars().collect();
    if letters.len() <= most {
        return name.to_owned();
    }
    let (start, end) = ((most - 1).div_ceil(2), (most - 1) / 2);
    let start: String = letters[..start].iter().collect();
    let end: String = letters[letters.len() - end..].iter().collect();
    format!("{start}…{end}")
}

/// The letters of the widest cell of each column.
fn widths(cells: &[Vec<String>]) -> Vec<usize> {
    let n_columns = cells.iter().map(Vec::len).max().unwrap_or(0);
    let widest = |column: usize| {
        let of_column = cells.iter().filter_map(|row| row.get(column));
        of_column
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    (0..n_columns).map(widest).collect()
}

/// The columns of each part of a table whose lines are at most `width` letters wide. Every part begins with the first column.
fn blocks(n_left: usize, widths: &[usize], width: usize) -> Vec<Vec<usize>> {
    const BETWEEN: usize = 2;
    let n_repeated = n_left.min(1);
    let repeated: Vec<usize> = (0..n_repeated).collect();
    let start: usize = repeated
        .iter()
        .map(|&column| widths[column] + BETWEEN)
        .sum();
    let mut blocks = vec![repeated.clone()];
    let mut used = start;
    for (column, of_column) in widths.iter().enumerate().skip(n_repeated) {
        let is_empty = blocks.last().is_some_and(|block| block.len() == n_repeated);
        if used + of_column > width && !is_empty {
            blocks.push(repeated.clone());
            used = start;
        }
        if let Some(block) = blocks.last_mut() {
            block.push(column);
        }
        used += of_column + BETWEEN;
    }
    blocks
}

/// A table for a terminal and for a page.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    pub(super) title: String,
    pub(super) header: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
    /// Lines below it.
    pub(super) notes: Vec<String>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_no_wider_than_its_terminal_and_loses_no_number() {
        let header = ["run", "elbo", "reconstruction", "kl", "parameters"];
        let row = |name: &str| {
            let numbers = ["-101.23", "90.12", "11.11", "1,234,567"];
            let cells = std::iter::once(name).chain(numbers);
            cells.map(str::to_owned).collect::<Vec<_>>()
        };
        let rows = || vec![row("runs/a-name-that-is-quite-long-indeed, best"), row("b")];
        let whole = text(1, &header, rows(), None);
        assert_eq!(whole.lines().count(), 3);
        assert!(whole.contains("quite-long"));
        for width in [40, 60, 200] {
            let text = text(1, &header, rows(), Some(width));
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(width), "{width}: {text}");
            for cell in row("b").iter().chain([&header[2].to_owned()]) {
                assert!(text.contains(cell.as_str()), "{width}: {cell}: {text}");
            }
        }
        assert_eq!(shortened("abcdefghij", 5), "ab…ij");
        assert_eq!(text(1, &header, rows(), Some(200)).lines().count(), 3);
    }
}
