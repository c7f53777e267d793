//! Going on without the commit log.

use super::*;
use crate::log::embedded::forget::{Forgotten, forget};
use crate::log::embedded::frame::{FileHeader, Position};
use crate::log::embedded::scan::{file_name, file_number};
use crate::log::embedded::{OfflineError, OpenError};

fn begin(disk: &SimulatedDisk) -> Result<Arc<Embedded>, OpenError> {
    start(Arc::new(disk.clone()) as Arc<dyn Disk>, &config())
}

fn forget_on(disk: &SimulatedDisk) -> Result<Forgotten, OfflineError> {
    forget(&(Arc::new(disk.clone()) as Arc<dyn Disk>))
}

fn commit_files(disk: &SimulatedDisk) -> Vec<u64> {
    disk.list().unwrap().iter().filter_map(|name| file_number(name)).collect()
}

/// A log that was killed with `applied` of its `all` messages in the tables, one in a block, and the block after these damaged; and where
/// the tables stand.
async fn damaged(applied: u64, all: u64) -> (SimulatedDisk, Position) {
    let disk = SimulatedDisk::default();
    let log = begin(&disk).unwrap();
    for seq in 1..=all {
        log.append(0, vec![batch("Dogs", 7, seq, seq)]).await.unwrap();
        if seq == applied {
            assert!(log.flush().await);
        }
    }
    let position = log.core.tables.applied().unwrap();
    log.crash();
    let disk = disk.copy();
    let name = file_name(position.file);
    let mut content = disk.content(&name);
    content[position.end as usize + 50] ^= 1;
    disk.set_content(&name, content);
    match begin(&disk) {
        Err(OpenError::Corrupt { path, offset, .. }) => assert!(path.ends_with(name) && offset == position.end),
        other => panic!("{other:?}"),
    }
    (disk, position)
}

/// What is there is what had been applied, and it goes on.
async fn goes_on(disk: &SimulatedDisk, applied: u64) {
    let log = begin(disk).unwrap();
    let epoch = epoch_of(&*log, "Dogs").await;
    assert!(epoch > 7, "clients may have seen more");
    assert_holds_of(&*log, "Dogs", &[(7, 1, applied), (epoch, applied + 1, applied)]).await;
    log.append(0, vec![batch("Dogs", epoch, applied + 1, applied + 2)]).await.unwrap();
    log.crash();
    let log = begin(&disk.copy()).unwrap();
    assert_holds_of(&*log, "Dogs", &[(7, 1, applied), (epoch, applied + 1, applied + 2)]).await;
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_commit_log_can_be_given_up_once_it_was_moved_away() {
    // In one file; and in several, of which the oldest is the one in which the tables stand.
    for (applied, all) in [(3, 6), (20, 60)] {
        let (disk, position) = damaged(applied, all).await;
        let mut files = commit_files(&disk);
        files.retain(|file| *file >= position.file);
        assert_eq!(files[0], position.file);
        assert_eq!(files.len() > 1, all > 6, "{files:?}");

        let refusal = forget_on(&disk).unwrap_err();
        assert!(matches!(refusal, OfflineError::CommitLogThere { .. }), "{refusal}");
        assert!(refusal.to_string().contains(&file_name(position.file)), "{refusal}");
        for file in files {
            disk.remove(&file_name(file)).unwrap();
        }
        let error = begin(&disk).unwrap_err();
        assert!(matches!(error, OpenError::NoCommitLog { .. }), "{error}");
        assert!(error.to_string().contains("log forget-commit-log"), "{error}");

        let expected =
            Forgotten { file: Some(file_name(position.file)), offset: position.end, groups: 1, messages: applied };
        assert_eq!(forget_on(&disk).unwrap(), expected);
        // As refused blocks may be in them, under a number that is used again.
        assert!(!disk.list().unwrap().iter().any(|name| name.starts_with("spare-")));
        assert_eq!(forget_on(&disk).unwrap(), expected, "it may be repeated");
        goes_on(&disk, applied).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_older_than_the_tables_may_stay() {
    let (disk, position) = damaged(20, 60).await;
    let content = disk.content(&file_name(position.file));
    for file in commit_files(&disk) {
        disk.remove(&file_name(file)).unwrap();
    }
    let leftover = file_name(position.file - 1);
    disk.open(&leftover, true).unwrap();
    // Its header says that it is another file.
    disk.set_content(&leftover, content);
    assert!(matches!(begin(&disk), Err(OpenError::NoCommitLog { .. })));
    forget_on(&disk).unwrap();
    assert!(matches!(begin(&disk), Err(OpenError::Corrupt { .. })), "what is no file of ours is not used again");

    let mut header = FileHeader::decode(&disk.content(&leftover)).unwrap();
    header.file = position.file - 1;
    let mut content = header.encode();
    content.resize(64 * 1024, 0);
    disk.set_content(&leftover, content);
    goes_on(&disk, 20).await;
}
