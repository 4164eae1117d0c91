//! The pictures of a page.

use std::fmt::{self, Write};

use super::text::Escaped;
use crate::figures::{Figures, Picture};

pub(super) fn pictures(page: &mut impl Write, figures: &Figures) -> fmt::Result {
    let Figures {
        pictures,
        pictures_of,
        ..
    } = figures;
    if pictures.is_empty() {
        return Ok(());
    }
    page.write_str("<section id=\"figures\">\n<h2>Figures</h2>\n")?;
    if !pictures_of.is_empty() {
        writeln!(page, "<p>Of {}.</p>", Escaped(pictures_of))?;
    }
    for shown in pictures {
        picture(page, shown)?;
    }
    page.write_str("</section>\n")
}

/// A picture with its caption. A click on it, or the space bar, shows it as large as the window; another one puts it back. That is
/// a checkbox, since the page has no scripts.
pub(super) fn picture(page: &mut impl Write, picture: &Picture) -> fmt::Result {
    let Picture {
        title,
        caption,
        alt,
        png,
        width,
        height,
    } = picture;
    // Small images are enlarged.
    let shown = if *width < 500 { width * 2 } else { *width };
    write!(
        page,
        "<figure class=\"picture\"><h3>{title}</h3>\n<label class=\"plate\"><input class=\"zoom\" type=\"checkbox\" \
         aria-label=\"{title} in full size\"><img alt=\"{}\" width=\"{width}\" \
         height=\"{height}\" style=\"width:{shown}px\" src=\"data:image/png;base64,",
        Escaped(alt),
        title = Escaped(title),
    )?;
    base64(page, png)?;
    writeln!(
        page,
        "\"></label>\n<figcaption>{}</figcaption></figure>",
        Escaped(caption)
    )
}

/// RFC 4648, with padding.
pub(super) fn base64(page: &mut impl Write, bytes: &[u8]) -> fmt::Result {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let sextet = (bits >> (18 - 6 * i)) & 63;
            let is_padding = i > chunk.len();
            page.write_char(match is_padding {
                true => '=',
                false => char::from(ALPHABET[sextet as usize]),
            })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let pairs = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (bytes, text) in pairs {
            let mut encoded = String::new();
            base64(&mut encoded, bytes.as_bytes()).unwrap();
            assert_eq!(encoded, text);
        }
    }
}
