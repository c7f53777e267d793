//! Looks at the files of a port again and again, and has the port show what is new.
//!
//! The files are read and compared rather than watched: a mounted Secret is renewed by replacing a symbolic link above them, of which
//! watchers of the files themselves hear nothing, and file systems over a network tell nobody.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::acceptor::Acceptor;
use super::keys::{Error, Identity, Source};
use crate::reload::Looks;

/// Files that cannot be used may be half replaced: they are looked at once more after this time.
const AGAIN: Duration = Duration::from_secs(1);

/// What is known of the files.
struct Watch {
    acceptor: Acceptor,
    source: Arc<Source>,
    /// What is shown; `None` if it is of no one state of the files.
    used: Option<u128>,
    /// What was last complained about.
    complaint: Option<String>,
}

impl Acceptor {
    /// Looks at the files of `source` whenever it is time, until `stop`. `used` is what is shown, as [`Acceptor::new`] told.
    pub async fn follow(self, source: Source, used: u128, mut looks: Looks, stop: CancellationToken) {
        let mut watch = Watch { acceptor: self, source: Arc::new(source), used: Some(used), complaint: None };
        while stop.run_until_cancelled(looks.next()).await.is_some() {
            if stop.run_until_cancelled(watch.look()).await.is_none() {
                return;
            }
        }
    }
}

/// Whether one certificate is to take the place of another: unless it alone is not good now.
fn is_better(new: &Identity, old: &Identity) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    new.is_valid_at(now) || !old.is_valid_at(now)
}

impl Watch {
    async fn look(&mut self) {
        let mut found = self.read().await;
        if matches!(&found, Some(Err(error)) if self.complaint.as_ref() != Some(&error.to_string())) {
            sleep(AGAIN).await;
            found = self.read().await;
        }
        match found {
            None => self.on_used(),
            // Such as one of an older backup: the one that is shown is better.
            Some(Ok((_, identity))) if !is_better(&identity, &self.acceptor.current()) => {
                self.trust_anew().await;
                self.on_unusable(&self.source.not_valid(&identity));
            }
            Some(Ok((fingerprint, identity))) => {
                self.acceptor.replace(&self.source, identity);
                self.used = Some(fingerprint);
                self.on_used();
            }
            Some(Err(error)) => {
                self.trust_anew().await;
                self.on_unusable(&error);
            }
        }
    }

    /// Who may not vouch for clients any more is not to go on because of a certificate or a key that cannot be used.
    async fn trust_anew(&mut self) {
        let (source, shown) = (Arc::clone(&self.source), self.acceptor.current());
        let reading = tokio::task::spawn_blocking(move || source.with_authorities(&shown));
        // What is wrong with these files is told as what is wrong with all of them.
        if let Ok(Ok(Some(identity))) = reading.await {
            self.acceptor.replace(&self.source, identity);
            // Files that go back to what they were before are not what is shown any more.
            self.used = None;
        }
    }

    /// What is in the files, unless it is what is shown.
    async fn read(&self) -> Option<Result<(u128, Identity), Error>> {
        let (source, used) = (Arc::clone(&self.source), self.used);
        let reading = tokio::task::spawn_blocking(move || {
            let contents = match source.read() {
                Ok(contents) => contents,
                Err(error) => return Some(Err(error)),
            };
            let fingerprint = contents.fingerprint();
            if used == Some(fingerprint) {
                return None;
            }
            Some(source.identity(contents).map(|identity| (fingerprint, identity)))
        });
        // It only fails when the runtime is about to end.
        reading.await.ok().flatten()
    }

    fn on_used(&mut self) {
        self.acceptor.metrics().failing.set(0.0);
        self.complaint = None;
    }

    fn on_unusable(&mut self, error: &Error) {
        let complaint = error.to_string();
        if self.complaint.as_ref() != Some(&complaint) {
            let port = self.source.port.as_str();
            tracing::error!(port, error = %complaint, "the new certificate cannot be used: the old one stays");
            self.acceptor.metrics().not_reloaded.increment(1);
        }
        self.acceptor.metrics().failing.set(1.0);
        self.complaint = Some(complaint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::tests::{Directory, config, issue_for};

    #[tokio::test(start_paused = true)]
    async fn a_certificate_that_is_not_good_now_takes_the_place_of_none_that_is() {
        let directory = Directory::new();
        // At the start there is nothing better.
        issue_for(&directory, -20, 10);
        let (acceptor, used) = Acceptor::new(&config(8, AGAIN), &directory.source()).unwrap();
        let mut watch = Watch { acceptor, source: Arc::new(directory.source()), used: Some(used), complaint: None };
        // From one that has expired to another one, to one that is good, which stays; and to a better one.
        for (from, days, is_shown) in
            [(-15, 10, true), (-1, 2, true), (-20, 10, false), (5, 10, false), (-1, 3, true), (-1, 3, true)]
        {
            let before = watch.acceptor.current().validity;
            issue_for(&directory, from, days);
            watch.look().await;
            assert_eq!(watch.complaint.is_none(), is_shown, "{from}, {days}: {:?}", watch.complaint);
            if !is_shown {
                assert_eq!(watch.acceptor.current().validity, before);
                assert!(watch.complaint.as_ref().unwrap().contains("is good from"), "{:?}", watch.complaint);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn authorities_change_though_the_certificate_beside_them_is_not_good() {
        let directory = Directory::new();
        issue_for(&directory, -1, 2);
        let source = || directory.source_with_authorities();
        directory.authorise();
        let (acceptor, used) = Acceptor::new(&config(8, AGAIN), &source()).unwrap();
        let mut told = acceptor.authorities();
        let mut watch = Watch { acceptor, source: Arc::new(source()), used: Some(used), complaint: None };
        let before = watch.acceptor.current();
        issue_for(&directory, -20, 10);
        directory.authorise();
        for _ in 0..2 {
            watch.look().await;
            let now = watch.acceptor.current();
            assert!(now.validity == before.validity && now.authorities != before.authorities);
            assert!(watch.complaint.is_some());
        }
        assert!(told.has_changed().unwrap());
        told.mark_unchanged();
        watch.look().await;
        assert!(!told.has_changed().unwrap(), "nobody is told twice");
        // Nor is a key that belongs to no certificate in their way.
        let before = watch.acceptor.current();
        directory.lose_key();
        directory.authorise();
        watch.look().await;
        let now = watch.acceptor.current();
        assert!(now.validity == before.validity && now.authorities != before.authorities);
        assert!(watch.complaint.is_some() && told.has_changed().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn files_that_go_back_to_what_they_were_are_taken_up() {
        let directory = Directory::new();
        issue_for(&directory, -1, 2);
        directory.authorise();
        let source = directory.source_with_authorities();
        let (acceptor, used) = Acceptor::new(&config(8, AGAIN), &source).unwrap();
        let mut watch = Watch { acceptor, source: Arc::new(source), used: Some(used), complaint: None };
        let before = watch.acceptor.current().authorities;
        let files = directory.files();
        directory.lose_key();
        directory.authorise();
        watch.look().await;
        assert!(watch.acceptor.current().authorities != before && watch.complaint.is_some());
        directory.restore(&files);
        watch.look().await;
        assert!(watch.acceptor.current().authorities == before && watch.complaint.is_none());
    }
}
