//! The tokens that are in the file now, as long as the server runs.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use metrics::Gauge;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Config;
use super::token::{Error, Grant, Token, read};
use crate::reload::{Looks, follow};

/// The tokens that are in a file now.
#[derive(Debug)]
pub struct Tokens {
    file: PathBuf,
    current: RwLock<Vec<Token>>,
    /// Tells whenever they are others.
    changes: watch::Sender<()>,
}

impl Tokens {
    /// Reads the tokens, if the configuration names a file for them.
    ///
    /// # Errors
    /// The file has none, or a line that says none.
    pub fn of(config: &Config) -> Result<Option<Self>, Error> {
        config.token_file.clone().map(Self::read).transpose()
    }

    /// # Errors
    /// As [`read`].
    pub(super) fn read(file: PathBuf) -> Result<Self, Error> {
        let current = RwLock::new(read(&file)?);
        Ok(Self { file, current, changes: watch::Sender::new(()) })
    }

    /// Tells when other tokens have taken the place of those of now: whoever was let in then may not be any more.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Whom the value of an `authorization` header lets in, and to what; `None` if it presents no token of these. The time it takes
    /// tells nothing of the tokens but how long they are and how many.
    pub(super) fn grant(&self, authorization: &[u8]) -> Option<Grant> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let presented = current.iter().filter(|token| token.is_presented_by(authorization));
        presented.fold(None, |_, token| Some(token.grant()))
    }

    /// Answers whether they are others.
    fn replace(&self, tokens: Vec<Token>) -> bool {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = *current != tokens;
        if is_new {
            *current = tokens;
            self.changes.send_replace(());
        }
        is_new
    }

    /// Reads the file whenever it is time, until `stop`. While it cannot be used, those before stay, and `failing` is 1.
    pub(super) async fn follow(self: Arc<Self>, looks: Looks, failing: Gauge, stop: CancellationToken) {
        let read = || {
            let file = self.file.clone();
            move || read(&file)
        };
        let replace = |tokens: Vec<Token>| {
            let count = tokens.len();
            if self.replace(tokens) {
                tracing::info!(file = %self.file.display(), count, "the admin API has new tokens");
            }
        };
        let text = "the new tokens cannot be used: the old ones stay";
        follow(looks, read, replace, text, failing, stop).await;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;
    use crate::reload::Reload;

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
                while tokens.grant(token).is_none() {
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
        assert_eq!(tokens.grant(b"Bearer one"), None);
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
        assert!(tokens.grant(b"Bearer two").is_some(), "without a file the last one stays");
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
}
