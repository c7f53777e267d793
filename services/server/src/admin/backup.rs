//! Backups of the running server, into a directory that its operator has chosen.
//!
//! A backup may take longer than a call, so it is told of in a stream: that it began, then how it ended. It goes on if the
//! caller leaves. One is made at a time.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::{StreamExt, stream};
use tertulia_proto::admin::v1::create_backup_response::Step;
use tertulia_proto::admin::v1::{BackupFinished, BackupStarted, CreateBackupRequest, CreateBackupResponse};
use tonic::Status;

use super::gate::Peer;
use super::metrics::Metrics;
use super::service::Service;
use super::status::Error;
use crate::shard::Copied;

/// The longest name, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// What is told of one backup.
pub(super) type Stream =
    Pin<Box<dyn tonic::codegen::tokio_stream::Stream<Item = Result<CreateBackupResponse, Status>> + Send>>;

impl Service {
    pub(super) fn start_backup(&self, peer: Peer, request: &CreateBackupRequest) -> Result<Stream, Error> {
        let parent = self.backup_dir.clone().ok_or(Error::NoBackupDirectory)?;
        let name = name(&request.name)?;
        let place = Arc::clone(&self.backing_up).try_acquire_owned().map_err(|_| Error::BackupUnderWay)?;
        let directory = parent.join(name);
        let task = tokio::spawn({
            let (shards, to, metrics) = (self.shards.clone(), directory.clone(), Arc::clone(&self.metrics));
            async move {
                let result = shards.back_up(to.clone()).await;
                drop(place);
                match &result {
                    Ok(Copied { groups, bytes }) => {
                        metrics.backups_made.increment(1);
                        metrics.newest_backup_was(SystemTime::now());
                        tracing::info!(%peer, directory = %to.display(), groups, bytes, "backup made");
                    }
                    Err(error) => {
                        metrics.backups_failed.increment(1);
                        tracing::warn!(%peer, directory = %to.display(), %error, "backup failed");
                    }
                }
                result
            }
        });
        let told = directory.display().to_string();
        let started = response(Step::Started(BackupStarted { directory: told.clone() }));
        let finished = async move {
            let copied = task.await.map_err(|_| Error::Stopped)?.map_err(Error::Backup)?;
            let Copied { groups, bytes } = copied;
            Ok(response(Step::Finished(BackupFinished { directory: told, groups, bytes })))
        };
        let finished = async { finished.await.map_err(|error: Error| error.into()) };
        Ok(Box::pin(stream::iter([Ok(started)]).chain(stream::once(finished))))
    }
}

/// Tells when the newest backup that is there was made, else that it is to be made from now on.
pub(super) fn tell_newest(directory: PathBuf, metrics: &Arc<Metrics>) {
    metrics.newest_backup_was(SystemTime::now());
    let metrics = Arc::clone(metrics);
    // It may be on a file system that does not answer.
    drop(tokio::task::spawn_blocking(move || {
        if let Some(made) = newest(&directory) {
            metrics.newest_backup_was(made);
        }
    }));
}

/// When the newest of the backups in a directory was made. One that is being made, or that was given up, has a name with a dot. The time
/// is the directory's: `log verify` writes to the files of a backup, however old it is.
fn newest(directory: &Path) -> Option<SystemTime> {
    let entries = std::fs::read_dir(directory).ok()?.filter_map(Result::ok);
    let whole = entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| self::name(name).is_ok()));
    let made = whole.filter(|entry| entry.path().join("messages.redb").exists());
    made.filter_map(|entry| entry.metadata().ok()?.modified().ok()).max()
}

fn response(step: Step) -> CreateBackupResponse {
    CreateBackupResponse { step: Some(step) }
}

/// A name that cannot lead out of the directory; one by the time if none is given.
fn name(given: &str) -> Result<PathBuf, Error> {
    let is_plain = given.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if !is_plain || given.len() > MAX_NAME_BYTES {
        return Err(Error::argument(format!("name must be at most {MAX_NAME_BYTES} letters, digits, - and _")));
    }
    if given.is_empty() {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        return Ok(PathBuf::from(format!("backup-{seconds}")));
    }
    Ok(PathBuf::from(given))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_nowhere_else() {
        for bad in ["..", "a/b", "/etc", "a.partial", "a b", "é", &"a".repeat(65)] {
            assert!(name(bad).is_err(), "{bad}");
        }
        assert_eq!(name("monday_1-2").unwrap(), PathBuf::from("monday_1-2"));
        assert!(name("").unwrap().to_string_lossy().starts_with("backup-1"));
    }

    #[test]
    fn the_newest_backup_is_the_one_that_was_made_last_and_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(newest(&directory.path().join("nowhere")), None);
        let at = |seconds| UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        for (name, made) in [("a", at(1_000)), ("b", at(3_000)), ("c", at(2_000)), ("d.partial", at(4_000))] {
            let backup = directory.path().join(name);
            std::fs::create_dir(&backup).unwrap();
            std::fs::write(backup.join("messages.redb"), "").unwrap();
            std::fs::File::open(backup).unwrap().set_modified(made).unwrap();
        }
        std::fs::create_dir(directory.path().join("no-backup")).unwrap();
        assert_eq!(newest(directory.path()), Some(at(3_000)));
    }
}
