//! The bearer tokens that callers present: what a file says of them.
//!
//! Each line is a token, and may say before it whose it is and that it may only read: `TOKEN`, `NAME TOKEN`, `NAME read TOKEN`.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;

/// What is said of itself by a token that may only read.
const READ: &str = "read";
/// The first word of a line that says nothing.
const COMMENT: &str = "#";
/// Bytes of a name. It stands in each line of the log of what its bearer does.
const NAME: usize = 64;

/// What a bearer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Everything.
    All,
    /// Calls that change nothing.
    Read,
}

/// Who is let in, and to what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grant {
    /// Whose token it is, if that is said.
    pub(super) name: Option<Arc<str>>,
    pub(super) scope: Scope,
}

/// What a caller may present. It shows in no log.
#[derive(PartialEq, Eq)]
pub(super) struct Token {
    grant: Grant,
    secret: Box<str>,
}

/// Why tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the tokens in {} (admin.token_file)", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is nothing in the file.
    #[error("there is no token in {} (admin.token_file)", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// No caller could present it, or it is not known what it is.
    #[error(
        "line {line} of {} (admin.token_file) must be 'TOKEN', 'NAME TOKEN' or 'NAME read TOKEN', each a word of visible ASCII characters other than 'read', and a name of at most {NAME}",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// It would not be known whose it is.
    #[error("line {line} of {} (admin.token_file) has the token of line {before}: each may stand there once", path.display())]
    Twice {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// The other one.
        before: usize,
    },
}

/// Reads the tokens in a file. Lines that are empty or begin with the word `#` do not count.
///
/// # Errors
/// The file cannot be read, has no token, or a line that is none.
pub(super) fn read(path: &Path) -> Result<Vec<Token>, Error> {
    let path_buf = || path.to_owned();
    let bytes = fs::read(path).map_err(|source| Error::Unreadable { path: path_buf(), source })?;
    let mut tokens: Vec<(usize, Token)> = Vec::new();
    for (line, bytes) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        let malformed = || Error::Malformed { path: path_buf(), line };
        let text = str::from_utf8(bytes).map_err(|_| malformed())?;
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        if words.first().is_none_or(|word| *word == COMMENT) {
            continue;
        }
        let token = Token::of(&words).ok_or_else(malformed)?;
        if let Some((before, _)) = tokens.iter().find(|(_, other)| other.secret == token.secret) {
            return Err(Error::Twice { path: path_buf(), line, before: *before });
        }
        tokens.push((line, token));
    }
    if tokens.is_empty() {
        return Err(Error::Empty { path: path_buf() });
    }
    Ok(tokens.into_iter().map(|(_, token)| token).collect())
}

/// The value of an `authorization` header that presents a token in a file: the first that may do everything, or the first if all may only
/// read.
///
/// # Errors
/// The file cannot be read, has no token, or a line that is none.
pub fn authorization(path: &Path) -> Result<String, Error> {
    let tokens = read(path)?;
    let full = tokens.iter().find(|token| token.grant.scope == Scope::All);
    let token = full.or(tokens.first()).ok_or_else(|| Error::Empty { path: path.to_owned() })?;
    Ok(format!("Bearer {}", token.secret))
}

impl Token {
    fn of(words: &[&str]) -> Option<Self> {
        let (name, scope, secret) = match *words {
            // Something was left out, as by a template without a value: it must not make a token that may do everything.
            [READ] | [READ, ..] | [.., READ] => return None,
            [secret] => (None, Scope::All, secret),
            [name, secret] => (Some(name), Scope::All, secret),
            [name, READ, secret] => (Some(name), Scope::Read, secret),
            _ => return None,
        };
        let is_visible = words.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_graphic()));
        let is_short = name.is_none_or(|name| name.len() <= NAME);
        let grant = Grant { name: name.map(Arc::from), scope };
        (is_visible && is_short).then(|| Self { grant, secret: secret.into() })
    }

    /// Whether the value of an `authorization` header presents this token. The time it takes tells nothing of the token but its
    /// length.
    pub(super) fn is_presented_by(&self, authorization: &[u8]) -> bool {
        const SCHEME: &[u8] = b"bearer ";
        let Some((scheme, presented)) = authorization.split_at_checked(SCHEME.len()) else { return false };
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return false;
        }
        verify_slices_are_equal(presented.trim_ascii(), self.secret.as_bytes()).is_ok()
    }

    /// What its bearer may do.
    pub(super) fn grant(&self) -> Grant {
        self.grant.clone()
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

    fn tokens(content: &[u8]) -> Result<Vec<Token>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, content).unwrap();
        let shown = path.display().to_string();
        read(&path).map_err(|error| error.to_string().replace(&shown, "FILE"))
    }

    #[test]
    fn only_the_whole_token_is_let_in() {
        let tokens = tokens(b"  s3cret\n").unwrap();
        let [token] = &tokens[..] else { panic!("{tokens:?}") };
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
    fn a_line_may_say_whose_its_token_is_and_that_it_may_only_read() {
        let tokens = tokens(b"# of 2026\nold\r\n\nada n3w\ngrafana\tread  w4tch\n").unwrap();
        let told = |token: &Token| {
            (token.grant.name.as_deref().map(str::to_owned), token.grant.scope, token.secret.to_string())
        };
        let name = |name: &str| Some(name.to_owned());
        let expected = [
            (None, Scope::All, "old".to_owned()),
            (name("ada"), Scope::All, "n3w".to_owned()),
            (name("grafana"), Scope::Read, "w4tch".to_owned()),
        ];
        assert_eq!(tokens.iter().map(told).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_token_that_is_presented_may_do_everything_if_one_may() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let presented = |content: &str| {
            fs::write(&path, content).unwrap();
            authorization(&path).unwrap()
        };
        assert_eq!(presented("grafana read w4tch\nada n3w\nold\n"), "Bearer n3w");
        assert_eq!(presented("grafana read w4tch\nops read l00k\n"), "Bearer w4tch");
    }

    #[test]
    fn a_file_that_cannot_be_used_is_an_error_that_names_it_and_the_line() {
        for empty in [&b" \n"[..], b"", b"# none\n"] {
            assert_eq!(tokens(empty).unwrap_err(), "there is no token in FILE (admin.token_file)");
        }
        let long = format!("{} token", "n".repeat(NAME + 1));
        for bad in [
            "größe",
            "read",
            "read token",
            "ada read",
            "ada read read",
            "ada write token",
            "one two three four",
            "ada größe",
            &long,
        ] {
            let error = tokens(format!("first\n{bad}\n").as_bytes()).unwrap_err();
            assert!(error.starts_with("line 2 of FILE (admin.token_file) must be 'TOKEN', "), "{bad}: {error}");
        }
        assert!(tokens(b"\xff").unwrap_err().starts_with("line 1 of FILE"));
        let error = tokens(b"ada one\nbob read two\ncy one").unwrap_err();
        assert_eq!(error, "line 3 of FILE (admin.token_file) has the token of line 1: each may stand there once");
        let error = read(Path::new("nowhere/token")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read the tokens in nowhere/token (admin.token_file)");
    }
}
