//! The token that all connections show.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};

/// Nothing longer is one.
const LONGEST: u64 = 64 * 1024;

/// Reads a token, which needs no escaping then.
///
/// # Errors
/// The file cannot be read, or has none.
pub(crate) fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST).read_to_string(&mut text));
    read.with_context(|| format!("read the token in {} (--token-file)", path.display()))?;
    let token = of(&text).map(str::to_owned);
    token.with_context(|| format!("{} (--token-file) must hold one JSON Web Token and nothing else", path.display()))
}

fn of(text: &str) -> Option<&str> {
    let token = text.trim();
    let is_of_it = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (!token.is_empty() && token.bytes().all(is_of_it)).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_needs_no_escaping() {
        assert_eq!(of(" eyJh.e_-J.x\r\n"), Some("eyJh.e_-J.x"));
        for wrong in ["", "\n", "a\"b", "a\\b", "a\nb", "ä"] {
            assert_eq!(of(wrong), None, "{wrong:?}");
        }
    }
}
