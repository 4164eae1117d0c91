//! `vae compare --html`: runs side by side on one self-contained page.

use std::fmt::{self, Write};

use super::figures;
use super::text::Escaped;
use crate::Picture;

/// A part of a page.
#[derive(Clone, Debug)]
pub enum Block {
    /// A table, whose first column names the rows.
    Table {
        /// Its title.
        title: String,
        /// The names of the columns.
        header: Vec<String>,
        /// Its rows.
        rows: Vec<Vec<String>>,
        /// Lines below it.
        notes: Vec<String>,
    },
    /// A picture.
    Picture(Picture),
    /// A plot as an SVG file.
    Plot {
        /// Its title, which is also the alternative text.
        title: String,
        /// The file.
        svg: String,
    },
}

/// The page, which loads nothing and runs nothing.
#[must_use]
pub fn render_comparison(title: &str, about: &str, blocks: &[Block]) -> String {
    let mut page = String::new();
    write_page(&mut page, title, about, blocks).expect("a String takes any text");
    page
}

fn write_page(page: &mut impl Write, title: &str, about: &str, blocks: &[Block]) -> fmt::Result {
    super::begin(page, title)?;
    writeln!(
        page,
        "<header>\n<p class=\"kicker\">Comparison</p>\n<h1>{}</h1>\n<p class=\"model\">{}</p>\n</header>\n<main>",
        Escaped(title),
        Escaped(about)
    )?;
    for block in blocks {
        match block {
            Block::Table {
                title,
                header,
                rows,
                notes,
            } => table(page, title, header, rows, notes)?,
            Block::Picture(picture) => {
                page.write_str("<section>\n")?;
                figures::picture(page, picture)?;
                page.write_str("</section>\n")?;
            }
            Block::Plot { title, svg } => {
                write!(
                    page,
                    "<section>\n<h2>{0}</h2>\n<div class=\"plate\"><img alt=\"{0}\" src=\"data:image/svg+xml;base64,",
                    Escaped(title)
                )?;
                figures::base64(page, svg.as_bytes())?;
                page.write_str("\"></div>\n</section>\n")?;
            }
        }
    }
    page.write_str(
        "</main>\n<footer>Written by <code>vae compare</code>.</footer>\n</body>\n</html>\n",
    )
}

fn table(
    page: &mut impl Write,
    title: &str,
    header: &[String],
    rows: &[Vec<String>],
    notes: &[String],
) -> fmt::Result {
    writeln!(
        page,
        "<section>\n<h2>{}</h2>\n<div class=\"wide\"><table class=\"compared\"><thead><tr>",
        Escaped(title)
    )?;
    for name in header {
        write!(page, "<th scope=\"col\">{}</th>", Escaped(name))?;
    }
    page.write_str("</tr></thead>\n<tbody>\n")?;
    for row in rows {
        page.write_str("<tr>")?;
        for (i, cell) in row.iter().enumerate() {
            let is_best = if cell.contains('◂') {
                " class=\"best\""
            } else {
                ""
            };
            match i {
                0 => write!(page, "<th scope=\"row\">{}</th>", Escaped(cell))?,
                _ => write!(page, "<td{is_best}>{}</td>", Escaped(cell))?,
            }
        }
        page.write_str("</tr>\n")?;
    }
    page.write_str("</tbody></table></div>\n")?;
    for note in notes {
        writeln!(page, "<p class=\"about\">{}</p>", Escaped(note))?;
    }
    page.write_str("</section>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_shows_its_tables_escaped_and_asks_no_host_for_anything() {
        let blocks = [
            Block::Table {
                title: "elbo <of> runs".to_owned(),
                header: vec!["".to_owned(), "a".to_owned(), "b&b".to_owned()],
                rows: vec![
                    ["elbo", "−3.0 ◂ best", "<script>"]
                        .map(str::to_owned)
                        .into(),
                ],
                notes: vec!["a note".to_owned()],
            },
            Block::Plot {
                title: "curves".to_owned(),
                svg: "<svg></svg>".to_owned(),
            },
        ];
        let page = render_comparison("a and b", "two runs", &blocks);
        assert!(page.contains("<td class=\"best\">−3.0 ◂ best</td>"));
        assert!(page.contains("elbo &lt;of&gt; runs") && page.contains("b&amp;b"));
        assert!(!page.contains("<script") && !page.contains("://"), "{page}");
        assert!(page.contains("default-src 'none'"));
        assert!(page.contains("data:image/svg+xml;base64,PHN2Zz48L3N2Zz4="));
    }
}
