//! The epochs of a log that was set apart.

use super::*;
use crate::log::embedded::simulated::Faults;
use crate::log::embedded::table::Tables;
use crate::log::embedded::{back_up, open};

/// A backup of a running log.
async fn copy_of(log: &Embedded) -> SimulatedDisk {
    assert!(log.flush().await);
    let copy = SimulatedDisk::default();
    log.core.copy_into(&(Arc::new(copy.clone()) as Arc<dyn Disk>)).unwrap();
    copy
}

/// So that a client that has seen more is told, however many messages there are by the time it comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_goes_on_in_another_epoch_and_stays_in_it() {
    let disk = SimulatedDisk::default();
    let log = start_on(&disk, &config());
    for name in ["Cats", "Dogs"] {
        log.append(0, vec![batch(name, 7, 1, 8)]).await.unwrap();
    }
    let copy = copy_of(&log).await;
    log.append(0, vec![batch("Dogs", 7, 9, 10)]).await.unwrap();
    log.crash();
    // What was copied is not touched by it.
    let log = start_on(&disk.copy(), &config());
    assert_holds(&*log, "Dogs", 7, 1, 10).await;
    log.close().await;

    let log = start_on(&copy, &config());
    let epoch = epoch_of(&*log, "Dogs").await;
    assert!(epoch > 7 && epoch_of(&*log, "Cats").await > 7);
    log.append(0, vec![batch("Dogs", 7, 9, 12)]).await.unwrap_err();
    log.append(0, vec![batch("Dogs", epoch, 9, 12)]).await.unwrap();
    let second = copy_of(&log).await;
    log.crash();
    for (disk, is_copy) in [(copy.copy(), false), (second, true)] {
        let log = start_on(&disk, &config());
        let now = epoch_of(&*log, "Dogs").await;
        assert_eq!(now > epoch, is_copy, "{now} after {epoch}");
        assert_holds_of(&*log, "Dogs", &[(7, 1, 8), (epoch, 9, 12), (now, 13, 12)]).await;
        log.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_log_at_rest_goes_on_in_another_epoch() {
    let home = tempfile::tempdir().unwrap();
    let (data, copy) = (home.path().join("data"), home.path().join("copy"));
    let log = open(&Config { data_dir: data.clone(), ..config() }).unwrap();
    // In more rows than are looked at together, and of one whose epoch is ahead of the clock.
    let ahead = 1 << 52;
    let batches = (0..5000).map(|number| batch(&format!("g{number}"), 7, 1, 1));
    log.append(0, batches.chain([batch("Dogs", ahead, 1, 1)]).collect()).await.unwrap();
    log.close().await;
    back_up(&data, &copy).unwrap();
    for (directory, is_copy) in [(data, false), (copy, true)] {
        let log = open(&Config { data_dir: directory, ..config() }).unwrap();
        let groups = log.groups("", None, usize::MAX).await.unwrap();
        assert_eq!(groups.len(), 5001);
        for (name, head) in groups {
            let before = if name.as_str() == "Dogs" { ahead } else { 7 };
            assert_eq!(head.epoch > before, is_copy, "{name}: {head:?}");
        }
        log.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn however_often_the_first_start_of_a_backup_is_tried_its_epochs_change_once() {
    let log = start_on(&SimulatedDisk::default(), &config());
    log.append(0, vec![batch("Dogs", 7, 1, 8)]).await.unwrap();
    let copy = copy_of(&log).await;
    log.close().await;
    let stored = || {
        let tables = Tables::open(Arc::new(copy.clone()), 1024 * 1024, 1).unwrap();
        let epoch = tables.row(&group("Dogs")).unwrap().unwrap().head.epoch;
        tables.close().unwrap();
        epoch
    };
    assert_eq!(stored(), 7);
    // It ends where the first file of the commit log is to be made.
    copy.set_faults(Faults { failing_writes: Some(("spare-", 2)), ..Faults::default() });
    let fails = || start(Arc::new(copy.clone()) as Arc<dyn Disk>, &config()).unwrap_err();
    drop(fails());
    let epoch = stored();
    assert!(epoch > 7);
    drop(fails());
    assert_eq!(stored(), epoch);
    let log = start_on(&copy, &config());
    assert_holds_of(&*log, "Dogs", &[(7, 1, 8), (epoch, 9, 8)]).await;
    log.close().await;
}
