//! Makes text of strangers safe to print. Pure.
//!
//! A terminal obeys control characters: they move the cursor, change the title, answer questions into the input. And
//! some invisible characters turn the direction of what follows, so that one reads what is not there. Both are written
//! as `\n`, `\t`, `\r` or `\u{1b}` instead.

use std::fmt::Write as _;

/// What a backslash becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backslash {
    /// It stays: pleasant for people.
    Keep,
    /// It is doubled: then every text can be told from every other, and be read back.
    Double,
}

/// Appends `text` to `out`, escaped.
pub(crate) fn escape(text: &str, backslash: Backslash, out: &mut String) {
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' if backslash == Backslash::Double => out.push_str("\\\\"),
            c if is_unsafe(c) => {
                // Writing to a `String` cannot fail.
                write!(out, "\\u{{{:x}}}", u32::from(c)).ok();
            }
            c => out.push(c),
        }
    }
}

/// Control characters (of ASCII and the C1 range), line separators, and those that turn the direction of text.
/// The joiners that emoji and some scripts need are not among them.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(text: &str, backslash: Backslash) -> String {
        let mut out = String::new();
        escape(text, backslash, &mut out);
        out
    }

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        for code in (0..=0x9f).chain([0x2028, 0x2029, 0x202e, 0x2066, 0xfeff]) {
            let c = char::from_u32(code).unwrap();
            if (0x20..0x7f).contains(&code) {
                assert_eq!(escaped(&c.to_string(), Backslash::Keep), c.to_string());
            } else {
                assert!(escaped(&c.to_string(), Backslash::Keep).starts_with('\\'), "{code:x}");
            }
        }
        assert_eq!(escaped("\u{1b}]0;owned\u{7}\u{9b}2J", Backslash::Keep), r"\u{1b}]0;owned\u{7}\u{9b}2J");
        assert_eq!(escaped("a\r\nb\tc", Backslash::Keep), r"a\r\nb\tc");
    }

    #[test]
    fn languages_and_emoji_stay_as_they_are() {
        for text in ["Grüße, мир, 世界", "👩‍👩‍👧", "\u{200f}שלום"] {
            assert_eq!(escaped(text, Backslash::Double), text);
        }
    }

    #[test]
    fn a_doubled_backslash_tells_an_escape_from_a_text_that_looks_like_one() {
        assert_eq!(escaped("a\\nb", Backslash::Keep), "a\\nb");
        assert_eq!(escaped("a\\nb", Backslash::Double), "a\\\\nb");
        assert_eq!(escaped("a\nb", Backslash::Double), "a\\nb");
    }
}
