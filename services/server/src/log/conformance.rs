//! What every engine must do: the contract of [`Log`] as tests.
//!
//! An engine says how it is opened ([`Engine`]) and calls [`conformance!`], which makes one test of each property.

use std::future::Future;
use std::sync::Arc;

use tertulia_protocol::{GroupName, PostId, UserName};

use super::{AppendError, Batch, Head, Log, Page, PageLimit, Range, Record};

/// An engine under test, and where it keeps what it keeps.
pub(crate) trait Engine: Send {
    /// Whether what was appended is there after the log was closed and opened again.
    const DURABLE: bool;
    /// Without anything in it.
    fn new() -> Self;
    /// Opens the log; what was opened before has been closed.
    fn open(&self) -> impl Future<Output = Arc<dyn Log>> + Send;
}

/// `conformance!(Engine)` makes one test of each property; `conformance!(in one: Engine)` runs them one after the other, for engines that
/// are costly to set up.
macro_rules! conformance {
    ($engine:ty) => {
        $crate::log::conformance::conformance! { @list each $engine }
    };
    (in one: $engine:ty) => {
        $crate::log::conformance::conformance! { @list one $engine }
    };
    (@list $how:ident $engine:ty) => {
        $crate::log::conformance::conformance! { @$how $engine:
            appends_are_read_back
            a_batch_must_follow_the_head
            an_append_happens_as_a_whole_or_not_at_all
            one_of_two_writers_is_fenced
            pages_go_forward_and_backward
            a_page_stops_at_its_limits
            groups_are_listed_by_name_and_prefix
            a_purge_removes_the_oldest_and_keeps_the_head
            a_purge_keeps_what_is_behind_it_wherever_it_cuts
            a_redacted_message_keeps_its_place_and_not_its_text
            a_redaction_is_of_one_life_and_of_what_is_kept
            a_deleted_group_is_gone_and_may_come_back
            unknown_groups_are_unknown
            appends_of_many_shards_do_not_disturb_each_other
            a_closed_log_takes_nothing
            what_was_appended_is_there_after_a_restart
            what_was_redacted_is_gone_after_a_restart
        }
    };
    (@each $engine:ty: $($test:ident)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            $crate::log::conformance::$test(&<$engine as $crate::log::conformance::Engine>::new()).await;
        })*
    };
    (@one $engine:ty: $($test:ident)*) => {
        $(
            println!("{}", stringify!($test));
            $crate::log::conformance::$test(&<$engine as $crate::log::conformance::Engine>::new()).await;
        )*
    };
}
pub(crate) use conformance;

/// A page without limits.
pub(crate) const ALL: PageLimit = PageLimit { records: usize::MAX, bytes: usize::MAX };

/// A group's name.
pub(crate) fn group(name: &str) -> GroupName {
    GroupName::new(name).unwrap()
}

/// A record whose content follows from its `seq`.
pub(crate) fn record(seq: u64) -> Record {
    Record {
        seq,
        at: 1_700_000_000_000 + seq,
        sender: UserName::new(if seq.is_multiple_of(2) { "ada" } else { "grace" }).unwrap(),
        id: seq.is_multiple_of(3).then(|| PostId::new(&format!("id-{seq}")).unwrap()),
        message: format!("message {seq}").into(),
    }
}

/// Records `first` to `last` of a group.
pub(crate) fn batch(name: &str, epoch: u64, first: u64, last: u64) -> Arc<Batch> {
    Arc::new(Batch { group: group(name), epoch, records: (first..=last).map(record).collect() })
}

async fn append(log: &dyn Log, batches: &[Arc<Batch>]) {
    log.append(0, batches.to_vec()).await.unwrap();
}

async fn head(log: &dyn Log, name: &str) -> Option<(u64, u64, u64)> {
    log.head(0, &group(name)).await.unwrap().map(|head| (head.epoch, head.first, head.seq))
}

async fn page(log: &dyn Log, name: &str, range: Range, limit: PageLimit) -> Page {
    log.read(0, &group(name), range, limit).await.unwrap().unwrap()
}

async fn seqs(log: &dyn Log, name: &str, range: Range, records: usize) -> Vec<u64> {
    let page = page(log, name, range, PageLimit { records, ..ALL }).await;
    page.records.iter().map(|record| record.seq).collect()
}

pub(crate) async fn appends_are_read_back(engine: &impl Engine) {
    let log = engine.open().await;
    append(&*log, &[batch("Dogs", 7, 1, 3)]).await;
    append(&*log, &[batch("Dogs", 7, 4, 4), batch("Cats", 8, 1, 2)]).await;
    let found = page(&*log, "Dogs", Range::After(0), ALL).await;
    assert_eq!(found.records, (1..=4).map(record).collect::<Vec<_>>());
    assert_eq!(found.head, Head { epoch: 7, seq: 4, first: 1, at: record(4).at });
    assert_eq!(head(&*log, "Cats").await, Some((8, 1, 2)));
    assert_eq!(log.stats().groups, 2);
    assert_eq!(log.trouble(), None);
    log.close().await;
}

pub(crate) async fn a_batch_must_follow_the_head(engine: &impl Engine) {
    let log = engine.open().await;
    append(&*log, &[batch("Dogs", 7, 1, 3)]).await;
    let fenced = |expected, found| AppendError::Fenced { group: group("Dogs"), expected, found };
    let cases = [
        (batch("Dogs", 7, 3, 3), fenced(2, 3)),
        (batch("Dogs", 7, 1, 5), fenced(0, 3)),
        (batch("Dogs", 7, 5, 5), fenced(4, 3)),
        (batch("Dogs", 8, 4, 4), fenced(3, 3)),
    ];
    for (batch, error) in cases {
        assert_eq!(log.append(0, vec![batch]).await, Err(error));
    }
    let new = log.append(0, vec![batch("Cats", 7, 2, 2)]).await;
    assert_eq!(new, Err(AppendError::Fenced { group: group("Cats"), expected: 1, found: 0 }));
    assert_eq!(head(&*log, "Cats").await, None);
    append(&*log, &[batch("Dogs", 7, 4, 4)]).await;
    assert_eq!(seqs(&*log, "Dogs", Range::After(0), 9).await, [1, 2, 3, 4]);
    log.close().await;
}

pub(crate) async fn an_append_happens_as_a_whole_or_not_at_all(engine: &impl Engine) {
    let log = engine.open().await;
    append(&*log, &[batch("Cats", 1, 1, 1)]).await;
    let both = vec![batch("Dogs", 7, 1, 3), batch("Cats", 1, 1, 1)];
    let error = log.append(0, both).await.unwrap_err();
    assert_eq!(error, AppendError::Fenced { group: group("Cats"), expected: 0, found: 1 });
    assert_eq!(head(&*log, "Dogs").await, None, "the other batch left nothing behind");
    assert_eq!(log.read(0, &group("Dogs"), Range::After(0), ALL).await.unwrap(), None);
    append(&*log, &[batch("Dogs", 7, 1, 1), batch("Cats", 1, 2, 2)]).await;
    assert_eq!(head(&*log, "Dogs").await, Some((7, 1, 1)));
    log.close().await;
}

pub(crate) async fn one_of_two_writers_is_fenced(engine: &impl Engine) {
    let log = engine.open().await;
    for seq in 1..=50 {
        let (one, other) = (batch("Dogs", 7, seq, seq), batch("Dogs", 7, seq, seq));
        let (one, other) = tokio::join!(log.append(0, vec![one]), log.append(0, vec![other]));
        assert_eq!([&one, &other].iter().filter(|result| result.is_ok()).count(), 1, "{one:?} {other:?}");
    }
    assert_eq!(seqs(&*log, "Dogs", Range::After(0), 99).await, (1..=50).collect::<Vec<_>>());
    log.close().await;
}

pub(crate) async fn pages_go_forward_and_backward(engine: &impl Engine) {
    let log = engine.open().await;
    append(&*log, &[batch("Dogs", 7, 1, 4)]).await;
    append(&*log, &[batch("Dogs", 7, 5, 10)]).await;
    let cases: [(Range, usize, &[u64]); 10] = [
        (Range::After(0), 3, &[1, 2, 3]),
        (Range::After(3), 3, &[4, 5, 6]),
        (Range::After(8), 3, &[9, 10]),
        (Range::After(10), 3, &[]),
        (Range::After(u64::MAX), 3, &[]),
        (Range::Before(u64::MAX), 3, &[8, 9, 10]),
        (Range::Before(8), 3, &[5, 6, 7]),
        (Range::Before(3), 3, &[1, 2]),
        (Range::Before(1), 3, &[]),
        (Range::Before(0), 3, &[]),
    ];
    for (range, records, expected) in cases {
        assert_eq!(seqs(&*log, "Dogs", range, records).await, expected, "{range:?}");
    }
    log.close().await;
}

pub(crate) async fn a_page_stops_at_its_limits(engine: &impl Engine) {
    let log = engine.open().await;
    append(&*log, &[batch("Dogs", 7, 1, 10)]).await;
    let one = record(1).size();
    for range in [Range::After(0), Range::Before(u64::MAX)] {
        let found = page(&*log, "Dogs", range, PageLimit { records: 0, bytes: 0 }).await;
        assert_eq!(found.records.len(), 1, "at least one");
        let found = page(&*log, "Dogs", range, PageLimit { records: 99, bytes: 3 * one }).await;
        assert!((1..=4).contains(&found.records.len()), "{range:?}: {}", found.records.len());
    }
    log.close().await;
}

pub(crate) async fn groups_are_listed_by_name_and_prefix(engine: &impl Engine) {
    let log = engine.open().await;
    for name in ["b/2", "a", "b/1", "c", "b/3", "b"] {
        append(&*log, &[batch(name, 7, 1, 2)]).await;
    }
    assert!(log.delete(0, &group("b/2")).await.unwrap());
    let cases: [(&str, Option<&str>, usize, &[&str]); 7] = [
        ("", None, 99, &["a", "b", "b/1", "b/3", "c"]),
        ("", None, 2, &["a", "b"]),
        ("", Some("b"), 2, &["b/1", "b/3"]),
        ("b/", None, 99, &["b/1", "b/3"]),
        ("b/", Some("b/1"), 99, &["b/3"]),
        ("b/", Some("a"), 1, &["b/1"]),
        ("d", None, 99, &[]),
    ];
    for (prefix, after, limit, expected) in cases {
        let found = log.groups(prefix, after, limit).await.unwrap();
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, expected, "{prefix:?} after {after:?}");
        assert!(found.iter().all(|(_, head)| (head.epoch, head.first, head.seq) == (7, 1, 2)));
    }
    log.close().await;
}

pub(crate) async fn a_purge_removes_the_oldest_and_keeps_the_head(engine: &impl Engine) {
    let log = engine.open().await;
    append(&*log, &[batch("Dogs", 7, 1, 10)]).await;
    assert_eq!(log.purge(0, &group("Dogs"), 4).await, Ok(4));
    assert_eq!(log.purge(0, &group("Dogs"), 4).await, Ok(0));
    assert_eq!(seqs(&*log, "Dogs", Range::After(0), 3).await, [5, 6, 7]);
    assert_eq!(seqs(&*log, "Dogs", Range::Before(7), 99).await, [5, 6]);
    assert_eq!(log.purge(0, &group("Dogs"), u64::MAX).await, Ok(6));
    assert_eq!(head(&*log, "Dogs").await, Some((7, 11, 10)));
    assert_eq!(seqs(&*log, "Dogs", Range::After(0), 3).await, [] as [u64; 0]);
    append(&*log, &[batch("Dogs", 7, 11, 12)]).await;
    assert_eq!(head(&*log, "Dogs").await, Some((7, 11, 12)));
    assert_eq!(seqs(&*log, "Dogs", Range::Before(u64::MAX), 99).await, [11, 12]);
    log.close().await;
}

pub(crate) async fn a_purge_keeps_what_is_behind_it_wherever_it_cuts(engine: &impl Engine) {
    const LAST: u64 = 14;
    let log = engine.open().await;
    for through in 1..LAST {
        // Some came alone, some together.
        let name = format!("cut-{through}");
        for (first, last) in [(1, 1), (2, 4), (5, 7), (8, 8), (9, 9), (10, LAST)] {
            append(&*log, &[batch(&name, 7, first, last)]).await;
        }
        assert_eq!(log.purge(0, &group(&name), through).await, Ok(through));
        let kept: Vec<u64> = (through + 1..=LAST).collect();
        assert_eq!(seqs(&*log, &name, Range::After(0), 99).await, kept, "through {through}");
        if through + 2 < LAST {
            assert_eq!(log.purge(0, &group(&name), through + 2).await, Ok(2));
            assert_eq!(seqs(&*log, &name, Range::After(0), 99).await, kept[2..], "through {through}, then two more");
        }
    }
    log.close().await;
}

/// Records, some of them redacted.
pub(crate) fn without_texts(
    records: impl IntoIterator<Item = Record>,
    is_redacted: impl Fn(&u64) -> bool,
) -> Vec<Record> {
    let one = |record: Record| if is_redacted(&record.seq) { record.redacted() } else { record };
    records.into_iter().map(one).collect()
}

/// Records 1 to `last`, some of them redacted.
fn records_without(last: u64, redacted: &[u64]) -> Vec<Record> {
    without_texts((1..=last).map(record), |seq| redacted.contains(seq))
}

pub(crate) async fn a_redacted_message_keeps_its_place_and_not_its_text(engine: &impl Engine) {
    const LAST: u64 = 14;
    let log = engine.open().await;
    for seq in 1..=LAST {
        // Some came alone, some together.
        let name = format!("cut-{seq}");
        for (first, last) in [(1, 1), (2, 4), (5, 7), (8, 8), (9, 9), (10, LAST)] {
            append(&*log, &[batch(&name, 7, first, last)]).await;
        }
        let before = page(&*log, &name, Range::After(0), ALL).await.head;
        assert_eq!(log.redact(0, &group(&name), 7, &[seq]).await, Ok(1));
        let found = page(&*log, &name, Range::After(0), ALL).await;
        assert_eq!((found.records, found.head), (records_without(LAST, &[seq]), before), "{seq}");
        // From any side, and in any company.
        for (after, upto) in [(seq - 1, seq), (seq.saturating_sub(3), seq + 1), (seq, LAST)] {
            let wanted: Vec<Record> = records_without(LAST, &[seq]).into_iter().filter(|r| r.seq > after).collect();
            assert_eq!(page(&*log, &name, Range::After(after), ALL).await.records, wanted, "{seq} after {after}");
            let limit = PageLimit { records: 2, ..ALL };
            let wanted: Vec<Record> = wanted.into_iter().take(2).collect();
            assert_eq!(page(&*log, &name, Range::After(after), limit).await.records, wanted, "{seq} after {after}");
            let wanted: Vec<Record> = records_without(LAST, &[seq]).into_iter().filter(|r| r.seq < upto).collect();
            assert_eq!(page(&*log, &name, Range::Before(upto), ALL).await.records, wanted, "{seq} before {upto}");
        }
        assert_eq!(log.redact(0, &group(&name), 7, &[seq]).await, Ok(1));
        assert_eq!(page(&*log, &name, Range::After(0), ALL).await.records, records_without(LAST, &[seq]));
        // Its neighbours, and what comes later.
        let others = [seq - 1, seq + 1].into_iter().filter(|other| (1..=LAST).contains(other));
        let mut redacted = vec![seq];
        for other in others {
            assert_eq!(log.redact(0, &group(&name), 7, &[other]).await, Ok(1));
            redacted.push(other);
        }
        append(&*log, &[batch(&name, 7, LAST + 1, LAST + 2)]).await;
        let found = page(&*log, &name, Range::After(0), ALL).await.records;
        assert_eq!(found, records_without(LAST + 2, &redacted), "{seq}");
    }
    // Many at once, of which some were redacted before and some never were.
    let name = group("cut-3");
    let wanted = [1, 2, 3, 5, 7, 8, 9, 12, LAST, LAST + 2, LAST + 3];
    assert_eq!(log.redact(0, &name, 7, &wanted).await, Ok(wanted.len() as u64 - 1));
    let redacted: Vec<u64> = [4].into_iter().chain(wanted).collect();
    assert_eq!(page(&*log, "cut-3", Range::After(0), ALL).await.records, records_without(LAST + 2, &redacted));
    assert_eq!(log.redact(0, &name, 7, &[]).await, Ok(0));
    log.close().await;
}

pub(crate) async fn a_redaction_is_of_one_life_and_of_what_is_kept(engine: &impl Engine) {
    let log = engine.open().await;
    append(&*log, &[batch("Dogs", 7, 1, 10)]).await;
    assert_eq!(log.redact(0, &group("Dogs"), 8, &[3]).await, Ok(0));
    assert_eq!(log.redact(0, &group("Cats"), 7, &[3]).await, Ok(0));
    for seq in [0, 11, u64::MAX] {
        assert_eq!(log.redact(0, &group("Dogs"), 7, &[seq]).await, Ok(0), "{seq}");
    }
    assert_eq!(page(&*log, "Dogs", Range::After(0), ALL).await.records, records_without(10, &[]));
    // What was redacted is purged as everything else is.
    assert_eq!(log.redact(0, &group("Dogs"), 7, &[2]).await, Ok(1));
    assert_eq!(log.redact(0, &group("Dogs"), 7, &[6]).await, Ok(1));
    assert_eq!(log.purge(0, &group("Dogs"), 4).await, Ok(4));
    assert_eq!(log.redact(0, &group("Dogs"), 7, &[2]).await, Ok(0));
    assert_eq!(page(&*log, "Dogs", Range::After(0), ALL).await.records, records_without(10, &[6])[4..]);
    assert_eq!(log.purge(0, &group("Dogs"), 10).await, Ok(6));
    assert_eq!(log.redact(0, &group("Dogs"), 7, &[10]).await, Ok(0));
    assert!(log.delete(0, &group("Dogs")).await.unwrap());
    assert_eq!(log.redact(0, &group("Dogs"), 7, &[10]).await, Ok(0));
    append(&*log, &[batch("Dogs", 9, 1, 10)]).await;
    assert_eq!(page(&*log, "Dogs", Range::After(0), ALL).await.records, records_without(10, &[]));
    log.close().await;
}

pub(crate) async fn a_deleted_group_is_gone_and_may_come_back(engine: &impl Engine) {
    let log = engine.open().await;
    append(&*log, &[batch("Dogs", 7, 1, 10)]).await;
    assert_eq!(log.delete(0, &group("Dogs")).await, Ok(true));
    assert_eq!(log.delete(0, &group("Dogs")).await, Ok(false));
    assert_eq!(head(&*log, "Dogs").await, None);
    assert_eq!(log.stats().groups, 0);
    let error = log.append(0, vec![batch("Dogs", 7, 11, 11)]).await.unwrap_err();
    assert_eq!(error, AppendError::Fenced { group: group("Dogs"), expected: 10, found: 0 });
    append(&*log, &[batch("Dogs", 8, 1, 2)]).await;
    assert_eq!(head(&*log, "Dogs").await, Some((8, 1, 2)));
    assert_eq!(seqs(&*log, "Dogs", Range::After(0), 99).await, [1, 2]);
    log.close().await;
}

pub(crate) async fn unknown_groups_are_unknown(engine: &impl Engine) {
    let log = engine.open().await;
    assert_eq!(head(&*log, "Dogs").await, None);
    assert_eq!(log.read(0, &group("Dogs"), Range::After(0), ALL).await.unwrap(), None);
    assert_eq!(log.purge(0, &group("Dogs"), 4).await, Ok(0));
    assert_eq!(log.delete(0, &group("Dogs")).await, Ok(false));
    assert_eq!(log.groups("", None, 9).await.unwrap(), []);
    log.close().await;
}

pub(crate) async fn appends_of_many_shards_do_not_disturb_each_other(engine: &impl Engine) {
    let log = engine.open().await;
    let writers = (0..16).map(|shard: u16| {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            let name = format!("group {shard}");
            for n in 0..20 {
                let batch = batch(&name, u64::from(shard), 3 * n + 1, 3 * n + 3);
                log.append(shard, vec![batch]).await.unwrap();
                let limit = PageLimit { records: 2, ..ALL };
                let page = log.read(shard, &group(&name), Range::Before(u64::MAX), limit).await.unwrap().unwrap();
                assert_eq!(page.records, [record(3 * n + 2), record(3 * n + 3)], "what was appended is seen at once");
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert_eq!(log.stats().groups, 16);
    log.close().await;
}

pub(crate) async fn a_closed_log_takes_nothing(engine: &impl Engine) {
    let log = engine.open().await;
    log.close().await;
    let error = log.append(0, vec![batch("Dogs", 7, 1, 1)]).await.unwrap_err();
    assert!(matches!(error, AppendError::Unavailable { .. }), "{error}");
    log.close().await;
}

pub(crate) async fn what_was_appended_is_there_after_a_restart<E: Engine>(engine: &E) {
    if !E::DURABLE {
        return;
    }
    for round in 0..3 {
        let log = engine.open().await;
        append(&*log, &[batch("Dogs", 7, 5 * round + 1, 5 * round + 5)]).await;
        log.close().await;
    }
    let log = engine.open().await;
    let found = page(&*log, "Dogs", Range::After(0), ALL).await;
    assert_eq!(found.records, (1..=15).map(record).collect::<Vec<_>>());
    assert_eq!(log.purge(0, &group("Dogs"), 3).await, Ok(3));
    append(&*log, &[batch("Cats", 1, 1, 1)]).await;
    log.close().await;
    let log = engine.open().await;
    assert_eq!(head(&*log, "Dogs").await, Some((7, 4, 15)));
    assert_eq!(log.stats().groups, 2);
    assert!(log.delete(0, &group("Cats")).await.unwrap());
    log.close().await;
    let log = engine.open().await;
    assert_eq!(head(&*log, "Cats").await, None);
    log.close().await;
}

pub(crate) async fn what_was_redacted_is_gone_after_a_restart<E: Engine>(engine: &E) {
    if !E::DURABLE {
        return;
    }
    let log = engine.open().await;
    append(&*log, &[batch("Dogs", 7, 1, 5)]).await;
    log.close().await;
    let log = engine.open().await;
    append(&*log, &[batch("Dogs", 7, 6, 8)]).await;
    for seq in [2, 7, 8] {
        assert_eq!(log.redact(0, &group("Dogs"), 7, &[seq]).await, Ok(1));
    }
    log.close().await;
    for last in [9, 10] {
        let log = engine.open().await;
        assert_eq!(page(&*log, "Dogs", Range::After(0), ALL).await.records, records_without(last - 1, &[2, 7, 8]));
        append(&*log, &[batch("Dogs", 7, last, last)]).await;
        log.close().await;
    }
}
