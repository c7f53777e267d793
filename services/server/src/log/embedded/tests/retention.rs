//! Retention where what is stored is not what was written, or cannot be read.

use redb::ReadableTable;

use super::unreadable::sectors;
use super::*;
use crate::log::embedded::simulated::Faults;
use crate::log::embedded::table::{GROUPS, MESSAGES};

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_group_keeps_no_other_one_from_going_on() {
    let disk = SimulatedDisk::default();
    let log = start_on(&disk, &config());
    for name in ["A", "A2", "B", "C"] {
        log.append(0, vec![batch(name, 7, 1, 40)]).await.unwrap();
    }
    assert!(log.flush().await);
    let id = log.core.tables.row(&group("A")).unwrap().unwrap().id;
    let spoiled = log.core.tables.write(|transaction| {
        let mut messages = transaction.open_table(MESSAGES)?;
        let oldest = messages.range((id, 0)..=(id, u64::MAX))?.next().unwrap()?.0.value();
        messages.insert(oldest, &[0xff; 100][..])?;
        // And one of which not even the row can be read.
        transaction.open_table(GROUPS)?.insert("A2", &[0xff; 7][..])?;
        Ok(())
    });
    spoiled.unwrap();
    log.close().await;

    // So little that all groups have too much now. The first walk over them is the only one.
    let small = Config {
        retention: Retention { messages: 0, bytes: 5_000, age: Duration::ZERO },
        sweep_interval: Duration::from_secs(3600),
        ..config()
    };
    let log = start_on(&disk.copy(), &Config { apply_interval: Duration::from_millis(1), ..small.clone() });
    for name in ["A", "B"] {
        log.append(0, vec![batch(name, 7, 41, 41)]).await.unwrap();
    }
    assert!(log.flush().await, "{:?}", log.trouble());
    let first = |log: &Embedded, name| log.core.tables.row(&group(name)).unwrap().unwrap().head.first;
    assert_eq!(first(&log, "A"), 1, "what has no size is kept");
    let listed = log.groups("", None, 99).await.unwrap();
    let listed: Vec<&str> = listed.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(listed, ["A", "B", "C"], "nor from being told");
    assert!(first(&log, "B") > 30);
    let begun = std::time::Instant::now();
    while first(&log, "C") <= 30 {
        assert!(begun.elapsed() < Duration::from_secs(30), "nobody looks at the groups behind the damaged one");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    log.close().await;

    // And at a start.
    let disk = disk.copy();
    let log = start_on(&disk, &small);
    log.append(0, vec![batch("A", 7, 41, 41), batch("B", 7, 41, 41)]).await.unwrap();
    log.crash();
    let log = start_on(&disk.copy(), &small);
    assert_eq!(log.core.tables.row(&group("A")).unwrap().unwrap().head.seq, 41);
    let begun = std::time::Instant::now();
    while first(&log, "B") <= 30 {
        assert!(begun.elapsed() < Duration::from_secs(30), "the first walk never came");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bound_on_messages_holds_for_a_damaged_group_and_takes_the_damage_away() {
    let disk = SimulatedDisk::default();
    let rules = |messages| Config { retention: Retention { messages, bytes: 5_000, age: Duration::ZERO }, ..config() };
    let log = start_on(&disk, &config());
    log.append(0, vec![batch("A", 7, 1, 40)]).await.unwrap();
    assert!(log.flush().await);
    let spoiled = log.core.tables.write(|transaction| {
        let mut messages = transaction.open_table(MESSAGES)?;
        let oldest = messages.iter()?.next().unwrap()?.0.value();
        // More bytes before it than the group ever had.
        let mut chunk = messages.get(oldest)?.unwrap().value().to_vec();
        chunk[4..12].fill(0xff);
        messages.insert(oldest, chunk.as_slice())?;
        Ok(())
    });
    spoiled.unwrap();
    log.close().await;
    let row = |log: &Embedded| log.core.tables.row(&group("A")).unwrap().unwrap();
    let disk = disk.copy();
    let log = start_on(&disk, &rules(0));
    log.append(0, vec![batch("A", 7, 41, 41)]).await.unwrap();
    assert!(log.flush().await);
    assert_eq!(row(&log).head.first, 1, "what has no size is kept");
    log.close().await;
    let log = start_on(&disk.copy(), &rules(20));
    log.append(0, vec![batch("A", 7, 42, 42)]).await.unwrap();
    assert!(log.flush().await);
    let head = row(&log).head;
    assert!(head.first >= 23, "{head:?}");
    assert_holds(&*log, "A", 7, head.first, 42).await;
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_waits_for_one_bad_sector_of_retention_and_not_for_all() {
    const NAMES: [&str; 3] = ["A", "B", "C"];
    let disk = SimulatedDisk::default();
    let bytes = batch("A", 7, 1, 200).records.iter().map(|record| record.size() as u64).sum();
    let retention = Retention { bytes, ..config().retention };
    // What was read once is read from the disk again; there is one walk, which finds nothing.
    let config = Config { retention, table_cache_bytes: 0, sweep_interval: Duration::from_secs(3600), ..config() };
    let log = start_on(&disk, &config);
    log.append(0, NAMES.map(|name| batch(name, 7, 1, 200)).to_vec()).await.unwrap();
    assert!(log.flush().await);
    // Retention reads them when there is more, and nobody else does.
    disk.set_faults(sectors(&disk, &NAMES.map(|name| format!("{name}/7/10/"))));
    log.append(0, NAMES.map(|name| batch(name, 7, 201, 230)).to_vec()).await.unwrap();
    assert!(log.flush().await);
    assert_eq!(disk.bad_reads(), 1);
    assert_eq!(log.trouble(), None);
    disk.set_faults(Faults::default());
    for name in NAMES {
        assert_holds(&*log, name, 7, 1, 230).await;
    }
    log.close().await;
}
