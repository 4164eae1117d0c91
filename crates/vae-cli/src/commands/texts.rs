//! Results that are texts: on stdout, or in a file.

use std::path::Path;

use anyhow::{Context, Result, bail};
use tch::Tensor;
use vae_base::{one_line, write_whole};
use vae_model::Vae;

use crate::output::{self, out};
use crate::run_config::ConfigError;

/// Whether a file name is that of a text.
pub(super) fn is_text(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("txt"))
}

/// The texts of items; none if the model's items are no texts.
pub(super) fn of(vae: &Vae, items: &Tensor) -> Result<Option<Vec<String>>> {
    Ok(vae_view::texts(vae.item(), items)?)
}

/// Whether the model's items are texts. Refuses a file name that does not go with them.
pub(super) fn check_name(vae: &Vae, out: Option<&Path>) -> Result<bool> {
    let has_texts = vae.item().text.is_some();
    match (has_texts, out) {
        (true, Some(out)) if !is_text(out) => bail!(
            "{}: these items are texts, and are written to a .txt file, or without --out to stdout",
            out.display()
        ),
        (false, Some(out)) if is_text(out) => bail!(
            "{}: these items are no texts; a file that ends in .png or .npy would fit",
            out.display()
        ),
        (false, None) => {
            let said = "--out: is needed, the file to write, such as out.png";
            Err(ConfigError::new(said.to_owned()).into())
        }
        (has_texts, _) => Ok(has_texts),
    }
}

/// Writes lines to a file, whose name is printed, or prints them.
pub(super) fn print(lines: &[String], out: Option<&Path>) -> Result<()> {
    let lines = lines.iter().map(|line| one_line(line));
    match out {
        None => lines.for_each(|line| out!("{line}")),
        Some(out) => {
            write_lines(lines, out)?;
            output::print_path(out);
        }
    }
    Ok(())
}

/// Writes lines to a file.
pub(super) fn write(lines: &[String], out: &Path) -> Result<()> {
    write_lines(lines.iter().map(|line| one_line(line)), out)
}

fn write_lines(lines: impl Iterator<Item = String>, out: &Path) -> Result<()> {
    let page: String = lines.map(|line| line + "\n").collect();
    write_whole(out, page.as_bytes()).with_context(|| out.display().to_string())
}
