//! The bearer token that callers present.

use std::fmt;
use std::fs;
use std::hint::black_box;
use std::io;
use std::path::{Path, PathBuf};

/// What callers must present. It shows in no log.
#[derive(Clone)]
pub struct Token(Box<[u8]>);

/// Why a token cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the token in {} (admin.token_file)", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is nothing in the file.
    #[error("there is no token in {} (admin.token_file): it is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// No caller could present it.
    #[error("the token in {} (admin.token_file) must be one word of visible ASCII characters", path.display())]
    NotOneWord {
        /// The file.
        path: PathBuf,
    },
}

impl Token {
    /// Reads the token from a file; white space around it does not count.
    ///
    /// # Errors
    /// The file cannot be read, or holds no token that can be presented.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let path_buf = || path.to_owned();
        let bytes = fs::read(path).map_err(|source| Error::Unreadable { path: path_buf(), source })?;
        let token = bytes.trim_ascii();
        if token.is_empty() {
            return Err(Error::Empty { path: path_buf() });
        }
        if !token.iter().all(u8::is_ascii_graphic) {
            return Err(Error::NotOneWord { path: path_buf() });
        }
        Ok(Self(token.into()))
    }

    /// Whether the value of an `authorization` header presents this token. The time it takes tells nothing of the token but its
    /// length.
    #[must_use]
    pub fn is_presented_by(&self, authorization: &[u8]) -> bool {
        const SCHEME: &[u8] = b"bearer ";
        let Some((scheme, presented)) = authorization.split_at_checked(SCHEME.len()) else { return false };
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return false;
        }
        let presented = presented.trim_ascii();
        if presented.len() != self.0.len() {
            return false;
        }
        let differences = presented.iter().zip(&self.0).fold(0, |all, (one, other)| black_box(all | (one ^ other)));
        differences == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &[u8]) -> Result<Token, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, content).unwrap();
        let shown = path.display().to_string();
        Token::read(&path).map_err(|error| error.to_string().replace(&shown, "FILE"))
    }

    #[test]
    fn only_the_whole_token_is_let_in() {
        let token = read(b"  s3cret\n").unwrap();
        for good in ["Bearer s3cret", "bearer s3cret", "BEARER  s3cret "] {
            assert!(token.is_presented_by(good.as_bytes()), "{good:?}");
        }
        for bad in
            ["", "s3cret", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3crets", "Bearer S3cret", "Basic s3cret"]
        {
            assert!(!token.is_presented_by(bad.as_bytes()), "{bad:?}");
        }
        assert_eq!(format!("{token:?}"), "Token(…)");
    }

    #[test]
    fn a_file_without_a_usable_token_is_an_error_that_names_it() {
        assert_eq!(read(b" \n").unwrap_err(), "there is no token in FILE (admin.token_file): it is empty");
        let rule = "the token in FILE (admin.token_file) must be one word of visible ASCII characters";
        assert_eq!(read(b"one\ntwo").unwrap_err(), rule);
        assert_eq!(read("größe".as_bytes()).unwrap_err(), rule);
        let error = Token::read(Path::new("nowhere/token")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read the token in nowhere/token (admin.token_file)");
    }
}
