//! The bearer token that callers present.

use std::fmt;
use std::fs;
use std::hint::black_box;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use metrics::Gauge;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Config;
use crate::reload::Looks;

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

/// The token that is in a file now.
#[derive(Debug)]
pub struct Tokens {
    file: PathBuf,
    current: RwLock<Token>,
    /// Tells of each new one.
    changes: watch::Sender<()>,
}

impl Tokens {
    /// Reads the token, if the configuration names a file for it.
    ///
    /// # Errors
    /// There is none in it that can be used.
    pub fn of(config: &Config) -> Result<Option<Self>, Error> {
        config.token_file.clone().map(Self::read).transpose()
    }

    /// # Errors
    /// As [`Token::read`].
    pub(super) fn read(file: PathBuf) -> Result<Self, Error> {
        let current = RwLock::new(Token::read(&file)?);
        Ok(Self { file, current, changes: watch::Sender::new(()) })
    }

    /// Tells when another token has taken the place of that of now: whoever was let in then may not be any more.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// As [`Token::is_presented_by`].
    pub(super) fn are_presented_by(&self, authorization: &[u8]) -> bool {
        self.current.read().unwrap_or_else(PoisonError::into_inner).is_presented_by(authorization)
    }

    /// Answers whether it is another one.
    fn replace(&self, token: Token) -> bool {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = *current.0 != *token.0;
        if is_new {
            *current = token;
            self.changes.send_replace(());
        }
        is_new
    }

    /// Reads the file whenever it is time, until `stop`. While it holds no token that can be used, the one before stays, and `failing` is 1.
    ///
    /// It is read again, not watched, for the same reasons as certificates are (see [`crate::tls`]).
    pub(super) async fn follow(self: Arc<Self>, mut looks: Looks, failing: Gauge, stop: CancellationToken) {
        let mut complaint = None;
        while stop.run_until_cancelled(looks.next()).await.is_some() {
            let file = self.file.clone();
            let reading = tokio::task::spawn_blocking(move || Token::read(&file));
            // A file system that does not answer is not waited for.
            let Some(Ok(found)) = stop.run_until_cancelled(reading).await else { return };
            match found {
                Ok(token) => {
                    complaint = None;
                    failing.set(0.0);
                    if self.replace(token) {
                        tracing::info!(file = %self.file.display(), "callers of the admin API must present a new token");
                    }
                }
                Err(error) => {
                    let text = error.to_string();
                    if complaint.as_ref() != Some(&text) {
                        tracing::error!(error = text, "the new token cannot be used: the old one stays");
                    }
                    complaint = Some(text);
                    failing.set(1.0);
                }
            }
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;
    use crate::reload::Reload;

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

    #[tokio::test]
    async fn a_new_token_in_the_file_takes_the_place_of_the_old_one() {
        const SOON: Duration = Duration::from_millis(1);
        const NEVER: Duration = Duration::from_secs(30);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        fs::write(&file, "one").unwrap();
        let tokens = Arc::new(Tokens::read(file.clone()).unwrap());
        let stop = CancellationToken::new();
        let failing = Arc::new(AtomicU64::new(0));
        let gauge = Gauge::from_arc(Arc::clone(&failing));
        let following = tokio::spawn(Arc::clone(&tokens).follow(Reload::default().looks(SOON), gauge, stop.clone()));
        let until = async |token: &'static [u8]| {
            let looking = async {
                while !tokens.are_presented_by(token) {
                    tokio::time::sleep(SOON).await;
                }
            };
            tokio::time::timeout(NEVER, looking).await.expect("it is never taken up");
        };
        until(b"Bearer one").await;
        // As a mounted Secret changes; what cannot be used is passed over.
        for content in ["", "two"] {
            let new = directory.path().join("new");
            fs::write(&new, content).unwrap();
            fs::rename(&new, &file).unwrap();
        }
        until(b"Bearer two").await;
        assert!(!tokens.are_presented_by(b"Bearer one"));
        let until_it_fails = async |fails: bool| {
            let looking = async {
                while failing.load(Ordering::Relaxed) != f64::from(u8::from(fails)).to_bits() {
                    tokio::time::sleep(SOON).await;
                }
            };
            tokio::time::timeout(NEVER, looking).await.expect("the gauge never tells");
        };
        until_it_fails(false).await;
        fs::remove_file(&file).unwrap();
        until_it_fails(true).await;
        assert!(tokens.are_presented_by(b"Bearer two"), "without a file the last one stays");
        fs::write(&file, "two").unwrap();
        until_it_fails(false).await;
        stop.cancel();
        following.await.unwrap();
    }

    #[tokio::test]
    async fn a_stop_does_not_wait_for_a_file_that_nobody_can_read() {
        const NEVER: Duration = Duration::from_secs(30);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        fs::write(&file, "one").unwrap();
        let tokens = Arc::new(Tokens::read(file.clone()).unwrap());
        fs::remove_file(&file).unwrap();
        // Whoever reads a FIFO waits for somebody who writes.
        mknodat(CWD, &file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let stop = CancellationToken::new();
        let following = tokio::spawn(tokens.follow(Reload::default().looks(NEVER), Gauge::noop(), stop.clone()));
        // It can be opened to write once somebody reads.
        let opening = tokio::task::spawn_blocking(move || fs::File::options().write(true).open(file));
        let writer = tokio::time::timeout(NEVER, opening).await.expect("nobody reads it").unwrap();
        stop.cancel();
        let stopped = tokio::time::timeout(NEVER / 10, following).await;
        drop(writer);
        stopped.expect("it waits for the file").unwrap();
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
