//! Progress bars on stderr; nothing is drawn where stderr is not a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over bytes; without a known total it only counts.
pub(crate) fn bytes(what: &str, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "  {msg} {wide_bar} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left",
        ),
        None => (
            ProgressBar::no_length(),
            "  {msg} {spinner} {bytes}, {bytes_per_sec}",
        ),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.with_message(what.to_owned())
}
