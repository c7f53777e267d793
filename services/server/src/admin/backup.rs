//! Backups of the running server, into a directory that its operator has chosen.
//!
//! A backup may take longer than a call, so it is told of in a stream: that it began, then how it ended. It goes on if the
//! caller leaves. One is made at a time.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::{StreamExt, stream};
use tertulia_proto::admin::v1::create_backup_response::Step;
use tertulia_proto::admin::v1::{BackupFinished, BackupStarted, CreateBackupRequest, CreateBackupResponse};
use tonic::Status;

use super::gate::Peer;
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
}
