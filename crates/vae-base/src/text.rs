//! Text from files made safe for a terminal.

/// `text` as one line without control characters: they are escaped, and so are characters that end a line or
/// change the direction of writing. For file names, which may contain anything.
///
/// ```
/// assert_eq!(vae_base::one_line("a\nb\u{1b}[2J.jpg"), "a\\nb\\u{1b}[2J.jpg");
/// ```
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        let is_hidden = matches!(character,
            '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if character.is_control() || is_hidden {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

/// A number with its noun, which gets an s unless there is one: "1 image", "3 images".
///
/// ```
/// assert_eq!(vae_base::counted(1, "bad file"), "1 bad file");
/// assert_eq!(vae_base::counted(0, "epoch"), "0 epochs");
/// ```
#[must_use]
pub fn counted(n: usize, noun: &str) -> String {
    let ending = if n == 1 { "" } else { "s" };
    format!("{n} {noun}{ending}")
}
