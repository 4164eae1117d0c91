//! A part of a page that a program writes, between two marks: `<!-- NAME: begin -->` and `end`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Puts `text` between the marks of `name` in a page, which is created where it is missing and gets the
/// marks at its end where it lacks them.
///
/// # Errors
/// A mark without its other one; the file system refuses.
pub(crate) fn write(page: &Path, title: &str, name: &str, text: &str) -> Result<()> {
    let context = || format!("cannot write {}", page.display());
    let before = match fs::read_to_string(page) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => format!("# {title}\n"),
        read => read.with_context(context)?,
    };
    let after = replaced(&before, name, text).with_context(context)?;
    fs::write(page, after).with_context(context)
}

fn replaced(page: &str, name: &str, text: &str) -> Result<String> {
    let (begin, end) = (
        format!("<!-- {name}: begin -->"),
        format!("<!-- {name}: end -->"),
    );
    let body = format!("{begin}\n{}\n{end}", text.trim_end());
    match (page.find(&begin), page.find(&end)) {
        (None, None) => Ok(format!("{}\n\n{body}\n", page.trim_end())),
        (Some(from), Some(to)) if from < to => Ok(format!(
            "{}{body}{}",
            &page[..from],
            &page[to + end.len()..]
        )),
        (from, _) => {
            ensure!(from.is_none(), "{begin} without {end} after it");
            anyhow::bail!("{end} without {begin}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_section_is_replaced() {
        let page = replaced("# Title\n\nIntro.\n", "a", "one\n").unwrap();
        assert_eq!(
            page,
            "# Title\n\nIntro.\n\n<!-- a: begin -->\none\n<!-- a: end -->\n"
        );
        let page = replaced(&page, "b", "two").unwrap();
        let page = replaced(&page, "a", "three").unwrap();
        assert_eq!(
            page,
            "# Title\n\nIntro.\n\n<!-- a: begin -->\nthree\n<!-- a: end -->\n\n<!-- b: begin -->\ntwo\n\
             <!-- b: end -->\n"
        );
        assert!(replaced("<!-- a: begin -->", "a", "").is_err());
        assert!(replaced("<!-- a: end -->", "a", "").is_err());
    }
}
