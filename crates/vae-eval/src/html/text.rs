//! Text for a page: escaping, and formatting of names and numbers.

use std::fmt::{self, Display, Formatter, Write};

use crate::number::grouped;

/// Arbitrary text, escaped so that it is safe between tags and in quoted attributes.
pub(super) struct Escaped<T>(pub(super) T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        struct Escaping<'a, 'b>(&'a mut Formatter<'b>);
        impl Write for Escaping<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                for c in text.chars() {
                    match c {
                        '&' => self.0.write_str("&amp;")?,
                        '<' => self.0.write_str("&lt;")?,
                        '>' => self.0.write_str("&gt;")?,
                        '"' => self.0.write_str("&quot;")?,
                        '\'' => self.0.write_str("&#39;")?,
                        // HTML cannot represent them, escaped or not.
                        c if c.is_control() && !matches!(c, '\n' | '\t') => {
                            self.0.write_char('\u{fffd}')?;
                        }
                        c => self.0.write_char(c)?,
                    }
                }
                Ok(())
            }
        }
        write!(Escaping(f), "{}", self.0)
    }
}

/// `10,000`.
pub(super) fn count(n: usize) -> String {
    grouped(n as u64)
}

/// A name with spaces: `kl per dimension`.
pub(super) fn words(name: &str) -> String {
    name.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_escaped_can_open_a_tag_or_end_an_attribute() {
        let text = Escaped("<script>alert('1' & \"2\")</script>\u{0}").to_string();
        let wanted = "&lt;script&gt;alert(&#39;1&#39; &amp; &quot;2&quot;)&lt;/script&gt;\u{fffd}";
        assert_eq!(text, wanted);
    }
}
