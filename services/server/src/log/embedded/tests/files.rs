//! Files of the commit log that are used again, or cannot be.

use std::cell::Cell;

use super::faults::eventually;
use super::*;
use crate::log::embedded::files::{Demand, Files, Limits};
use crate::log::embedded::frame::{BLOCK_HEADER, BlockHeader, FileHeader, PAGE, Position, seal};
use crate::log::embedded::scan::{file_name, file_number};
use crate::log::embedded::simulated::{Faults, Random};
use crate::log::embedded::trouble::Trouble;

const MIB: u64 = 1024 * 1024;
const SEGMENT: u64 = 64 * 1024;

/// Files with one that nobody needs any more, and a spare file wanted.
fn with_one_retired(disk: &SimulatedDisk) -> Files {
    disk.open(&file_name(1), true).unwrap();
    disk.set_content(&file_name(1), vec![1; SEGMENT as usize]);
    let limits = Limits { segment: SEGMENT, spares: 1, reserve: 0, disk: 0 };
    let files = Files::new(Arc::new(disk.clone()), limits, Arc::new(Trouble::default()), &[1]).unwrap();
    files.retire(2);
    files
}

/// Whether a file can be begun after some attempts to provide one; its bytes.
fn begun(files: &Files, disk: &SimulatedDisk) -> Option<Vec<u8>> {
    for _ in 0..4 {
        drop(files.provide(&Demand::default));
    }
    disk.set_faults(Faults::default());
    let header = FileHeader { log: 1, file: 2, previous: Position::default() };
    files.begin(header, 0).ok()?;
    Some(disk.content(&file_name(2)))
}

#[test]
fn a_file_is_used_again() {
    let disk = SimulatedDisk::default();
    let files = with_one_retired(&disk);
    let content = begun(&files, &disk).unwrap();
    assert_eq!((content.len() as u64, content.last()), (SEGMENT, Some(&1)));
    assert_eq!(disk.list().unwrap(), [file_name(2)]);
}

#[test]
fn a_bound_that_is_exceeded_is_told_with_what_the_commit_log_takes() {
    let disk = SimulatedDisk::default();
    let trouble = Arc::new(Trouble::default());
    let limits = Limits { segment: SEGMENT, spares: 1, reserve: 0, disk: 3 * SEGMENT };
    let files = Files::new(Arc::new(disk), limits, Arc::clone(&trouble), &[]).unwrap();
    files.prepare().unwrap();
    files.watch(Demand { tables: 2 * SEGMENT, ..Demand::default() });
    assert_eq!(trouble.any(), None);
    files.watch(Demand { tables: 2 * SEGMENT + 1, ..Demand::default() });
    let told = trouble.any().unwrap();
    assert!(told.contains("196609 bytes are used, 65536 of them by the commit log"), "{told}");
}

#[test]
fn room_in_the_tables_counts_as_free_down_to_half_of_the_reserve() {
    let disk = SimulatedDisk::default();
    let trouble = Arc::new(Trouble::default());
    let limits = Limits { segment: SEGMENT, spares: 1, reserve: 4 * SEGMENT, disk: 0 };
    let files = Files::new(Arc::new(disk.clone()), limits, Arc::clone(&trouble), &[]).unwrap();
    let unapplied = SEGMENT;
    let is_taken = |free: u64, room: u64| {
        disk.set_faults(Faults { capacity: Some(free), ..Faults::default() });
        files.watch(Demand { unapplied, room, ..Demand::default() });
        (trouble.any().is_none(), files.is_short())
    };
    assert_eq!(is_taken(7 * SEGMENT, 0), (true, false));
    assert_eq!(is_taken(7 * SEGMENT - 1, 0), (true, true), "there is no room for another file");
    assert_eq!(is_taken(6 * SEGMENT - 1, 0), (false, true));
    assert_eq!(is_taken(6 * SEGMENT - 1, 1), (true, true));
    assert_eq!(is_taken(2 * SEGMENT, 100 * SEGMENT), (true, true));
    assert_eq!(is_taken(2 * SEGMENT - 1, 100 * SEGMENT), (false, true));
}

/// A post that is taken before they are written may meet their old error.
#[test]
fn there_is_no_space_until_the_tables_have_been_written_again() {
    let disk = SimulatedDisk::default();
    let trouble = Arc::new(Trouble::default());
    let limits = Limits { segment: SEGMENT, spares: 1, reserve: SEGMENT, disk: 0 };
    let files = Files::new(Arc::new(disk.clone()), limits, Arc::clone(&trouble), &[]).unwrap();
    let is_taken = |free: u64, is_failing: bool| {
        disk.set_faults(Faults { capacity: Some(free), ..Faults::default() });
        files.watch(Demand { is_failing, ..Demand::default() });
        trouble.any().is_none()
    };
    assert!(is_taken(2 * SEGMENT, true), "it was not for want of space");
    assert!(!is_taken(SEGMENT / 4, true));
    assert!(!is_taken(2 * SEGMENT, true));
    assert!(is_taken(2 * SEGMENT, false));
}

#[test]
fn it_is_known_when_the_directory_has_little_left_of_its_bound() {
    let limits = Limits { segment: SEGMENT, spares: 1, reserve: 0, disk: 64 * SEGMENT };
    let files = Files::new(Arc::new(SimulatedDisk::default()), limits, Arc::default(), &[]).unwrap();
    for (left, near) in [(SEGMENT, None), (SEGMENT - 1, Some((SEGMENT - 1, SEGMENT)))] {
        files.watch(Demand { tables: 64 * SEGMENT - left, ..Demand::default() });
        assert_eq!(files.nears_bound(), near);
    }
}

#[test]
fn nobody_keeps_a_processor_busy_while_there_is_no_space_for_another_spare() {
    let disk = SimulatedDisk::default();
    let limits = Limits { segment: SEGMENT, spares: 2, reserve: 0, disk: 0 };
    let files = Files::new(Arc::new(disk.clone()), limits, Arc::new(Trouble::default()), &[]).unwrap();
    files.prepare().unwrap();
    disk.set_faults(Faults { capacity: Some(SEGMENT + 1), ..Faults::default() });
    let asked = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let demand = || {
            asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Demand::default()
        };
        let running = scope.spawn({
            let files = &files;
            move || files.run(&demand)
        });
        std::thread::sleep(Duration::from_millis(300));
        files.close();
        running.join().unwrap();
    });
    let asked = asked.into_inner();
    assert!((1..50).contains(&asked), "{asked} times in 0.3 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_begins_anew_does_not_take_what_another_one_left_for_its_own() {
    let disk = SimulatedDisk::default();
    let log = start_counting(&disk, &config());
    for seq in 1..=5 {
        log.append(0, vec![batch("Old", 7, seq, seq)]).await.unwrap();
    }
    log.crash();
    let old = disk.content(&file_name(1));

    // Its file is a spare one now, and everything else was removed.
    let disk = SimulatedDisk::default();
    disk.open("spare-7", true).unwrap();
    disk.set_content("spare-7", old);
    let log = start_counting(&disk, &config());
    log.append(0, vec![batch("New", 8, 1, 1)]).await.unwrap();
    log.crash();
    let log = start_on(&disk.copy(), &config());
    assert_eq!(log.groups("", None, 9).await.unwrap().len(), 1);
    assert_holds(&*log, "New", 8, 1, 1).await;
    log.close().await;
}

/// A page with a whole block that says it is of the file with this number, and that all before it was on the disk: what a poster can write
/// into a file of the commit log as the text of a message.
fn forged(file: u64) -> Vec<u8> {
    let mut page = vec![0; BLOCK_HEADER];
    page.extend_from_slice(b"it looks like a block");
    let length = page.len() as u32;
    seal(&mut page, BlockHeader { length, operations: 0, file, block: 1, synced: u64::MAX });
    page
}

#[tokio::test(flavor = "multi_thread")]
async fn what_posters_wrote_into_a_file_that_is_used_again_is_never_taken_for_a_block() {
    let disk = SimulatedDisk::default();
    let log = start_on(&disk, &config());
    log.append(0, vec![batch("Dogs", 7, 1, 1)]).await.unwrap();
    log.crash();
    let disk = disk.copy();
    let names = disk.list().unwrap();
    let newest = names.iter().filter_map(|name| file_number(name)).max().unwrap();
    names.iter().filter(|name| name.starts_with("spare-")).for_each(|name| disk.remove(name).unwrap());
    disk.open("spare-7", true).unwrap();
    // Whoever knows the number of the newest file can count on.
    disk.set_content("spare-7", (0..SEGMENT / PAGE).flat_map(|page| forged(newest + 1 + page % 4)).collect());

    let log = start_on(&disk, &config());
    log.append(0, vec![batch("Dogs", 7, 2, 2)]).await.unwrap();
    log.crash();
    let log = start_on(&disk.copy(), &config());
    assert_holds(&*log, "Dogs", 7, 1, 2).await;
    log.close().await;
}

#[test]
fn a_file_that_somebody_removed_is_not_waited_for() {
    let disk = SimulatedDisk::default();
    let files = with_one_retired(&disk);
    disk.remove(&file_name(1)).unwrap();
    assert!(begun(&files, &disk).is_some());
    // Nor one that was not wanted anyway.
    let disk = SimulatedDisk::default();
    disk.open("spare-0", true).unwrap();
    disk.set_content("spare-0", vec![0; SEGMENT as usize]);
    let files = with_one_retired(&disk);
    disk.remove(&file_name(1)).unwrap();
    files.provide(&Demand::default).unwrap();
    assert_eq!(files.bytes(), SEGMENT);
}

#[test]
fn a_file_that_cannot_be_opened_makes_way_for_another() {
    let disk = SimulatedDisk::default();
    let files = with_one_retired(&disk);
    disk.set_faults(Faults { failing_opens: 1, ..Faults::default() });
    let content = begun(&files, &disk).unwrap();
    assert_eq!(content.last(), Some(&0), "another one");
    assert_eq!(disk.list().unwrap(), [file_name(2)]);
}

#[test]
fn files_go_on_while_none_can_be_opened() {
    let disk = SimulatedDisk::default();
    let files = with_one_retired(&disk);
    for number in 2..10 {
        disk.set_faults(Faults { failing_opens: u64::MAX, ..Faults::default() });
        // The one that is not needed any more goes, and another is made.
        files.provide(&Demand::default).unwrap();
        files.provide(&Demand::default).unwrap();
        files.begin(FileHeader { log: 1, file: number, previous: Position::default() }, 0).unwrap();
        files.retire(number);
    }
    files.provide(&Demand::default).unwrap();
    assert_eq!(files.bytes(), SEGMENT, "the last one");
}

#[test]
fn a_file_that_lost_its_name_on_the_way_is_not_waited_for() {
    for rename_back_fails in [false, true] {
        let disk = SimulatedDisk::default();
        let files = with_one_retired(&disk);
        let failing_renames = rename_back_fails.then_some("commit-");
        disk.set_faults(Faults { failing_directory_syncs: 1, failing_renames, ..Faults::default() });
        files.provide(&Demand::default).unwrap_err();
        let content = begun(&files, &disk).unwrap();
        assert_eq!(content.last(), Some(&u8::from(!rename_back_fails)));
    }
}

#[test]
fn a_file_whose_name_may_not_last_is_not_left_behind() {
    let disk = SimulatedDisk::default();
    let limits = Limits { segment: SEGMENT, spares: 1, reserve: 0, disk: 0 };
    let files = Files::new(Arc::new(disk.clone()), limits, Arc::new(Trouble::default()), &[]).unwrap();
    let begin = |number| {
        files.prepare().unwrap();
        files.begin(FileHeader { log: 1, file: number, previous: Position::default() }, 0)
    };
    for number in 1..=3 {
        disk.set_faults(Faults { failing_directory_syncs: 1, ..Faults::default() });
        begin(number).unwrap_err();
        assert_eq!((disk.list().unwrap(), files.bytes()), (Vec::new(), 0));
    }
    begin(4).unwrap();
    assert_eq!((disk.list().unwrap(), files.bytes()), (vec![file_name(4)], SEGMENT));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_void_and_posts_go_on_where_the_directory_cannot_be_synced_for_a_while() {
    for seed in 1..=8 {
        let disk = SimulatedDisk::default();
        let log = start_on(&disk, &config());
        log.append(0, vec![batch("Dogs", 7, 1, 3)]).await.unwrap();
        disk.set_faults(Faults {
            failing_syncs: Some(("commit-", 1)),
            failed_sync_keeps: true,
            failing_directory_syncs: u64::MAX,
            ..Faults::default()
        });
        log.append(0, vec![batch("Dogs", 7, 4, 9)]).await.unwrap_err();
        let found = disk.after_power_cut(&mut Random::new(seed));
        let files = disk.list().unwrap().iter().filter(|name| name.starts_with("commit-")).count();
        assert_eq!(files, 1, "each attempt has left one");
        disk.set_faults(Faults::default());
        eventually(async || log.append(0, vec![batch("Dogs", 7, 4, 5)]).await).await;
        log.crash();
        for (disk, last) in [(found, 3), (disk.after_power_cut(&mut Random::new(seed)), 5)] {
            let log = start_on(&disk, &config());
            assert_holds(&*log, "Dogs", 7, 1, last).await;
            log.close().await;
        }
    }
}

#[test]
fn a_quota_is_not_written_up_to_all_the_time() {
    // Not even half a file may be written, then one and a half.
    for (quota, spares) in [(SEGMENT / 2, 0), (SEGMENT + SEGMENT / 2, 1)] {
        let disk = SimulatedDisk::default();
        let limits = Limits { segment: SEGMENT, spares: 2, reserve: 0, disk: 0 };
        let files = Files::new(Arc::new(disk.clone()), limits, Arc::new(Trouble::default()), &[]).unwrap();
        disk.set_faults(Faults { quota: Some(quota), ..Faults::default() });
        for _ in 0..100 {
            match files.provide(&Demand::default) {
                Ok(_) => assert_eq!(spares, 1),
                Err(error) => assert_eq!((error.kind(), spares), (std::io::ErrorKind::QuotaExceeded, 0)),
            }
        }
        // Without one it is tried again now and then.
        assert!(disk.files_made() < 10, "{} attempts", disk.files_made() - spares);
        assert_eq!(disk.list().unwrap().len(), spares);
        disk.set_faults(Faults::default());
        // The one that there is has to do until it is used.
        if spares == 1 {
            assert!(!files.provide(&Demand::default).unwrap());
            files.begin(FileHeader { log: 1, file: 1, previous: Position::default() }, 0).unwrap();
        }
        let begun = std::time::Instant::now();
        while files.bytes() < 2 * SEGMENT {
            drop(files.provide(&Demand::default));
            assert!(begun.elapsed() < Duration::from_secs(30), "space that came is not used");
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_file_for_one_large_append_is_not_made_of_the_reserve() {
    let disk = SimulatedDisk::default();
    let limits = Limits { segment: SEGMENT, spares: 1, reserve: SEGMENT, disk: 0 };
    let files = Files::new(Arc::new(disk.clone()), limits, Arc::new(Trouble::default()), &[]).unwrap();
    let begin = |number| {
        files
            .begin(FileHeader { log: 1, file: number, previous: Position::default() }, 2 * SEGMENT)
            .map(|file| file.size)
    };
    let size = 2 * SEGMENT + PAGE;
    disk.set_faults(Faults { capacity: Some(size + SEGMENT), ..Faults::default() });
    files.watch(Demand { unapplied: 1, ..Demand::default() });
    assert_eq!(begin(1).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(disk.files_made(), 0);
    files.watch(Demand::default());
    assert_eq!(begin(2).unwrap(), size);
}

#[tokio::test]
async fn many_appends_together_need_no_file_of_their_own() {
    let disk = SimulatedDisk::default();
    let log = start_on(&disk, &config());
    let groups: Vec<String> = (0..100).map(|number| format!("g{number}")).collect();
    for group in &groups {
        log.append(0, vec![batch(group, 7, 1, 1)]).await.unwrap();
    }
    // More than two files of them, while the writer waits for the disk with the first.
    let mut appends: Vec<_> = groups.iter().map(|group| log.append(0, vec![batch(group, 7, 2, 2)])).collect();
    let held_up = disk.hold_up();
    for append in &mut appends {
        drop(futures_util::FutureExt::now_or_never(append));
    }
    drop(held_up);
    for append in appends {
        append.await.unwrap();
    }
    let sizes = disk.list().unwrap().into_iter().filter(|name| name.starts_with("commit-"));
    let sizes: Vec<u64> = sizes.map(|name| disk.content(&name).len() as u64).collect();
    assert!(sizes.len() > 2 && sizes.iter().all(|size| *size == SEGMENT), "{sizes:?}");
    log.close().await;
}

#[test]
fn a_stop_does_not_wait_until_a_file_is_filled() {
    let disk = SimulatedDisk::default();
    let limits = Limits { segment: 8 * MIB, spares: 1, reserve: 0, disk: 0 };
    let files = Files::new(Arc::new(disk.clone()), limits, Arc::default(), &[]).unwrap();
    let asked = Cell::new(0);
    files.run(&|| {
        asked.set(asked.get() + 1);
        // That is right before it is filled.
        if asked.get() == 2 {
            files.close();
        }
        Demand::default()
    });
    assert_eq!((asked.get(), disk.list().unwrap()), (2, Vec::new()));
}

#[test]
fn the_space_is_watched_while_a_file_is_filled() {
    let disk = SimulatedDisk::default();
    let trouble = Arc::new(Trouble::default());
    let limits = Limits { segment: 3 * MIB, spares: 1, reserve: MIB, disk: 0 };
    let files = Files::new(Arc::new(disk.clone()), limits, Arc::clone(&trouble), &[]).unwrap();
    let slow_syncs = Some(("spare-", Duration::from_millis(150)));
    disk.set_faults(Faults { capacity: Some(8 * MIB), slow_syncs, ..Faults::default() });
    let asked = Cell::new(0);
    let more_each_time = || {
        asked.set(asked.get() + 1);
        Demand { unapplied: (asked.get() - 1) * 4 * MIB, ..Demand::default() }
    };
    assert!(files.provide(&more_each_time).unwrap());
    assert!(trouble.any().is_some_and(|told| told.contains("log.reserve_bytes")), "{:?}", trouble.any());
}
