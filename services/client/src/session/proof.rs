//! What proves to the server who the person is: a file that others write, and may replace at any time.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::task::JoinHandle;
use tokio::time::sleep_until;

/// Nothing longer is a token or a password; a server takes no such line either.
const LONGEST: u64 = 64 * 1024;
/// How much of a token's time may go by before its file is looked at.
const SPENT: f64 = 0.8;
/// The file is looked at so many times in the rest, if that is not too often or too rarely.
const LOOKS: u32 = 10;
const SOONEST: Duration = Duration::from_millis(200);
const LATEST: Duration = Duration::from_secs(5);

/// Which file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    /// A token, which also says who the person is.
    Token(PathBuf),
    /// The password of the user that is asked for.
    Password(PathBuf),
}

/// What a file has. It is shown to the server, and nowhere else.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Shown {
    /// A token.
    Token(String),
    /// A password.
    Password(String),
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It cannot be read.
    #[error("cannot read the {what} in {}: {source}", path.display())]
    Unreadable {
        /// A token or a password.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It holds something else.
    #[error("{} must hold a {what}, one line of at most {LONGEST} bytes: {reason}", path.display())]
    Wrong {
        /// A token or a password.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
}

impl Proof {
    /// What the file has now. A thread of its own waits for it: it may be a pipe, or far away.
    pub(crate) async fn read(self) -> Result<Shown, Error> {
        let (what, path) = (self.what(), self.path().to_owned());
        let read = tokio::task::spawn_blocking(move || self.content()).await;
        read.unwrap_or_else(|error| Err(Error::Unreadable { what, path, source: io::Error::other(error) }))
    }

    fn what(&self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::Password(_) => "password",
        }
    }

    fn path(&self) -> &Path {
        let (Self::Token(path) | Self::Password(path)) = self;
        path
    }

    fn content(&self) -> Result<Shown, Error> {
        let (what, path) = (self.what(), || self.path().to_owned());
        let mut content = Vec::new();
        let read = File::open(self.path()).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut content));
        read.map_err(|source| Error::Unreadable { what, path: path(), source })?;
        let wrong = |reason| Error::Wrong { what, path: path(), reason };
        if content.len() as u64 > LONGEST {
            return Err(wrong("it is longer"));
        }
        let text = String::from_utf8(content).map_err(|_| wrong("it is not text in UTF-8"))?;
        // Some programs put this before a text to say that it is UTF-8.
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let line = match self {
            Self::Token(_) => text.trim(),
            // Blanks may be part of it, the end of its line is none.
            Self::Password(_) => text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line)),
        };
        if line.is_empty() {
            return Err(wrong("it is empty"));
        }
        if line.contains(['\n', '\r']) {
            return Err(wrong("it has several lines"));
        }
        let line = line.to_owned();
        Ok(if matches!(self, Self::Token(_)) { Shown::Token(line) } else { Shown::Password(line) })
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Token(_)) { "Token(…)" } else { "Password(…)" })
    }
}

/// Looks at the file while the token that was shown nears its end.
#[derive(Debug)]
pub(crate) struct Watch {
    proof: Option<Proof>,
    /// When to look; `None` while nothing is known to end.
    next: Option<Instant>,
    pace: Duration,
    looking: Option<JoinHandle<Result<Shown, Error>>>,
}

impl Watch {
    /// For one connection. Nothing is looked at before it is known when a token ends.
    pub(crate) fn new(proof: Option<Proof>) -> Self {
        Self { proof, next: None, pace: LATEST, looking: None }
    }

    /// The token ends then, in milliseconds since 1970.
    pub(crate) fn ends(&mut self, at: u64, now: Instant, wall: SystemTime) {
        let wall = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        // Nothing is left where the clocks differ by more; then it is looked at now and then from the start.
        let left = Duration::from_millis(at).saturating_sub(wall);
        let spent = left.mul_f64(SPENT);
        self.pace = ((left - spent) / LOOKS).clamp(SOONEST, LATEST);
        self.next = now.checked_add(spent);
    }

    /// What the file has, each time it is looked at; never, if there is nothing to look for.
    ///
    /// Cancel safe: what is read already is given the next time.
    pub(crate) async fn look(&mut self) -> Shown {
        loop {
            let (Some(proof), Some(next)) = (&self.proof, self.next) else { return std::future::pending().await };
            sleep_until(next.into()).await;
            let looking = self.looking.get_or_insert_with(|| tokio::spawn(proof.clone().read()));
            let read = looking.await;
            self.looking = None;
            self.next = Some(Instant::now() + self.pace);
            // It may be about to be replaced. If it stays so, that is told when the connection has ended.
            if let Ok(Ok(shown)) = read {
                return shown;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_file_holds_a_token_or_a_password_and_says_so_if_not() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secret");
        let (token, password) = (Proof::Token(file.clone()), Proof::Password(file.clone()));
        fs::write(&file, " a.b.c \r\n").unwrap();
        assert_eq!(token.clone().read().await.unwrap(), Shown::Token("a.b.c".into()));
        assert_eq!(password.clone().read().await.unwrap(), Shown::Password(" a.b.c ".into()));
        fs::write(&file, "\u{feff}a.b.c\r\n").unwrap();
        assert_eq!(token.clone().read().await.unwrap(), Shown::Token("a.b.c".into()));
        assert_eq!(password.clone().read().await.unwrap(), Shown::Password("a.b.c".into()));
        for (content, told) in [
            (&b"\n"[..], "one line of at most 65536 bytes: it is empty"),
            ("\u{feff}\n".as_bytes(), "it is empty"),
            (b"a\nb\n", "it has several lines"),
            (b"\xff", "it is not text in UTF-8"),
            (&[b'x'; 65_537], "it is longer"),
        ] {
            fs::write(&file, content).unwrap();
            for (proof, what) in [(&token, "must hold a token"), (&password, "must hold a password")] {
                let error = proof.clone().read().await.unwrap_err().to_string();
                assert!(error.contains(told) && error.contains(what) && error.contains("secret"), "{error}");
            }
        }
        fs::remove_file(&file).unwrap();
        let error = token.read().await.unwrap_err().to_string();
        assert!(error.starts_with("cannot read the token in "), "{error}");
    }

    #[test]
    fn what_is_shown_to_the_server_is_shown_nowhere_else() {
        let shown = format!("{:?} {:?}", Shown::Token("secret".into()), Shown::Password("secret".into()));
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn a_file_is_looked_at_when_most_of_the_time_is_over_and_then_neither_too_often_nor_too_rarely() {
        let (now, wall) = (Instant::now(), UNIX_EPOCH + Duration::from_secs(1_000));
        let mut watch = Watch::new(None);
        for (seconds, first, pace) in [(3_600, 2_880, 5_000), (60, 48, 1_200), (5, 4, 200), (0, 0, 200), (-500, 0, 200)]
        {
            watch.ends(1_000_000_u64.checked_add_signed(seconds * 1_000).unwrap(), now, wall);
            let told = (watch.next, watch.pace);
            assert_eq!(told, (Some(now + Duration::from_secs(first)), Duration::from_millis(pace)), "{seconds}");
        }
        watch.ends(u64::MAX, now, wall);
        assert!(watch.next.is_none_or(|next| next > now + Duration::from_secs(1 << 32)));
    }

    #[tokio::test]
    async fn a_file_is_looked_at_again_and_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        fs::write(&file, "one").unwrap();
        let mut watch = Watch::new(Some(Proof::Token(file.clone())));
        watch.ends(0, Instant::now(), SystemTime::now());
        assert_eq!(watch.look().await, Shown::Token("one".into()));
        fs::write(&file, "two").unwrap();
        assert_eq!(watch.look().await, Shown::Token("two".into()));
    }
}
