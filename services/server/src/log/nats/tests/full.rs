//! Storage of JetStream without room.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_nats::jetstream::{self, stream};

use super::proxy::Proxy;
use super::*;
use crate::log::config::{RetentionOverride, RetentionOverrides};
use crate::log::conformance::{ALL, batch, group, record, without_texts};
use crate::log::nats::ack::Ack;
use crate::log::nats::link::Published;
use crate::log::nats::{Storage, room};
use crate::log::retention::Rules;
use crate::log::{AppendError, Batch, Range, Record};

const ACCOUNT: &str = "accounts { A { jetstream { max_mem: 1MB, max_file: 16MB }, users: [{ user: a, password: a }] } }\n\
                       no_auth_user: a";
const SHARD: u16 = 0;
const HOUR: Duration = Duration::from_secs(3_600);
/// What a message takes that has as many records of the suite as one may have.
const MESSAGE: usize = 22_500;

#[test]
fn what_a_limit_refuses_is_told_from_what_is_certainly_not_stored() {
    let answered = |code: u64| {
        let ack = serde_json::json!({"error": {"code": 503, "err_code": code, "description": "as told"}, "seq": 0});
        Published::from(serde_json::from_value::<Ack>(ack).unwrap())
    };
    let text = |code: u64| format!("as told (error {code})");
    for code in [10002, 10023, 10028, 10047] {
        assert_eq!(answered(code), Published::Full(text(code)));
    }
    assert_eq!(answered(10071), Published::Fenced);
    assert_eq!(answered(10164), Published::Busy);
    assert_eq!(answered(10176), Published::Incomplete(text(10176)));
    assert_eq!(answered(10077), Published::Unknown(text(10077)));
    assert_eq!(answered(10054), Published::Refused(text(10054)));
}

/// Takes all the space of the account.
async fn fill(context: &jetstream::Context) {
    let name = "ballast".to_owned();
    let ballast = stream::Config { subjects: vec![name.clone()], name, ..Default::default() };
    context.create_stream(ballast).await.unwrap();
    for size in [512 * 1024, 32 * 1024, 1024, 64] {
        while context.publish("ballast", vec![b'x'; size].into()).await.unwrap().await.is_ok() {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_for_which_there_is_no_room_is_in_doubt_until_there_is() {
    let servers = Servers::start(1, ACCOUNT).await;
    let log = open_and_take(&config(&servers.urls())).await;
    log.append(0, vec![batch("Dogs", 7, 1, 2)]).await.unwrap();
    let context = jetstream::new(async_nats::connect(servers.url(0)).await.unwrap());
    let before = room::ask(&context, Storage::File, 1).await.unwrap();
    fill(&context).await;
    let full = room::ask(&context, Storage::File, 1).await.unwrap();
    assert!(before.bytes < full.limit / 2 && full.bytes > full.limit / 10 * 9, "{before:?}, {full:?}");
    assert_eq!(full.limit, 16 * 1024 * 1024);

    // In one message, and kept by this server alone.
    let refused = tokio::time::timeout(PATIENCE, log.append(0, vec![batch("Dogs", 7, 3, 3)])).await;
    let error = refused.expect("it is refused at once").unwrap_err();
    assert!(matches!(error, AppendError::Unavailable { .. }), "{error}");
    // It is known, and keeps nobody from trying, nor clients from coming.
    assert!(log.trouble().is_some_and(|trouble| trouble.contains("resource")) && log.outage().is_none());
    let in_doubt = tokio::spawn(log.append(0, vec![batch("Dogs", 7, 3, 3), batch("Cats", 7, 1, 1)]));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!in_doubt.is_finished(), "nobody knows what is stored: {:?}", in_doubt.await.unwrap());
    context.delete_stream("ballast").await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, in_doubt).await.expect("it is found out about").unwrap();
    assert!(matches!(ended, Err(AppendError::Unavailable { .. })), "{ended:?}");
    let taken = async {
        while log.append(0, vec![batch("Dogs", 7, 3, 3), batch("Cats", 7, 1, 1)]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, taken).await.expect("there is room again");
    well(&log).await;
    log.close().await;
}

/// Others of the shard are not kept waiting, as by what may be stored later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_for_whose_removal_there_is_no_room_stay_and_go_once_there_is() {
    let servers = Servers::start(1, ACCOUNT).await;
    let log = open_and_take(&config(&servers.urls())).await;
    for (first, last) in [(1, 2), (3, 3), (4, 60)] {
        log.append(SHARD, vec![batch("Dogs", 7, first, last)]).await.unwrap();
    }
    let context = jetstream::new(async_nats::connect(servers.url(0)).await.unwrap());
    fill(&context).await;
    let fence = log.core.shard(SHARD).fence();
    let dogs = group("Dogs");
    for seqs in [&[3][..], &[1, 3, 50]] {
        let refused = tokio::time::timeout(PATIENCE, log.redact(SHARD, &dogs, 7, seqs)).await;
        let error = refused.expect("it is refused at once").unwrap_err();
        assert!(matches!(error, AppendError::Unavailable { .. }), "{error}");
    }
    assert_eq!(log.core.shard(SHARD).fence(), fence);
    let page = log.read(SHARD, &dogs, Range::After(0), ALL).await.unwrap().unwrap();
    assert_eq!(page.records, (1..=60).map(record).collect::<Vec<_>>());
    context.delete_stream("ballast").await.unwrap();
    let begun = tokio::time::Instant::now();
    while let Err(error) = log.redact(SHARD, &dogs, 7, &[1, 3, 50]).await {
        assert!(begun.elapsed() < PATIENCE, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let page = log.read(SHARD, &dogs, Range::After(0), ALL).await.unwrap().unwrap();
    let wanted = without_texts((1..=60).map(record), |seq| [1, 3, 50].contains(seq));
    assert_eq!(page.records, wanted);
    log.close().await;
}

/// A server whose account has room for a part of an append, and a log there that may extend all shards.
struct Nearly {
    _servers: Servers,
    context: jetstream::Context,
    log: Nats,
    /// Another node's.
    other: Nats,
}

impl Nearly {
    /// There is room for so many bytes, and a little more.
    async fn full(room: usize) -> Self {
        Self::full_with(room, EVERYTHING.into(), &[]).await
    }

    /// The same, and so much is kept as `rules` say. Before it is full, `before` is posted.
    async fn full_with(room: usize, rules: Rules, before: &[(u16, Arc<Batch>)]) -> Self {
        let servers = Servers::start(1, ACCOUNT).await;
        let config = config(&servers.urls());
        let (log, other) = (Nats::open(&config, &rules, SHARDS, "a").await.unwrap(), open(&config).await);
        take(&log).await;
        log.append(SHARD, vec![batch("Dogs", 7, 1, 2)]).await.unwrap();
        for (shard, batch) in before {
            log.append(*shard, vec![Arc::clone(batch)]).await.unwrap();
        }
        let context = jetstream::new(async_nats::connect(servers.url(0)).await.unwrap());
        let name = "spare".to_owned();
        let spare = stream::Config { subjects: vec![name.clone()], name, ..Default::default() };
        context.create_stream(spare).await.unwrap();
        context.publish("spare", vec![b'x'; room].into()).await.unwrap().await.unwrap();
        fill(&context).await;
        context.delete_stream("spare").await.unwrap();
        Self { _servers: servers, context, log, other }
    }

    async fn make_room(&self) {
        self.context.delete_stream("ballast").await.unwrap();
    }

    /// Begins an append of which the messages of `Cats` and the first two of three of `Dogs` find room; returns when they are stored.
    async fn append(&self) -> tokio::task::JoinHandle<Result<(), AppendError>> {
        let mut batches = vec![batch("Cats", 7, 1, 1), batch("Dogs", 7, 3, 3_002), batch("Eels", 7, 1, 1)];
        // More than are looked for with one question.
        batches.extend((0..40).map(|number| batch(&format!("group-{number}"), 7, 1, 1)));
        let appending = tokio::spawn(self.log.append(SHARD, batches));
        let begun = tokio::time::Instant::now();
        while self.stored("Dogs").await < 2_050 {
            assert!(begun.elapsed() < PATIENCE, "{} of Dogs are stored", self.stored("Dogs").await);
            assert!(!appending.is_finished(), "nobody knows what is stored: {:?}", appending.await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!((self.stored("Cats").await, self.stored("Dogs").await, self.stored("Eels").await), (1, 2_050, 0));
        appending
    }

    /// Waits until the log knows that the stream answers.
    async fn answers(&self) {
        let begun = tokio::time::Instant::now();
        while let Err(error) = self.log.core.check_open(SHARD) {
            assert!(begun.elapsed() < PATIENCE, "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Up to which `seq` a group is stored, as the server has it.
    async fn stored(&self, name: &str) -> u64 {
        let known = self.other.core.known_to_leader(SHARD, &group(name)).await.unwrap();
        known.and_then(|known| known.head).map_or(0, |head| head.seq)
    }
}

/// All that a log reads of a group.
async fn read(log: &Nats, name: &str) -> Vec<Record> {
    let mut all: Vec<Record> = Vec::new();
    loop {
        let after = all.last().map_or(0, |record| record.seq);
        let page = log.read(SHARD, &group(name), Range::After(after), ALL).await.unwrap();
        let records = page.map(|page| page.records).unwrap_or_default();
        if records.is_empty() {
            return all;
        }
        all.extend(records);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_that_is_stored_in_part_is_finished() {
    let nearly = Nearly::full(2 * MESSAGE + MESSAGE / 2).await;
    let appending = nearly.append().await;
    nearly.make_room().await;
    let ended = tokio::time::timeout(PATIENCE, appending).await.expect("it is finished once there is room").unwrap();
    assert!(ended.is_ok(), "a part is stored: {ended:?}");
    nearly.answers().await;
    nearly.log.append(SHARD, vec![batch("Dogs", 7, 3_003, 3_003), batch("Eels", 7, 2, 2)]).await.unwrap();
    for log in [&nearly.log, &nearly.other] {
        for (name, last) in [("Cats", 1), ("Dogs", 3_003), ("Eels", 2), ("group-0", 1), ("group-39", 1)] {
            assert!(read(log, name).await == (1..=last).map(record).collect::<Vec<_>>(), "{name}");
        }
    }
    nearly.log.close().await;
    nearly.other.close().await;
}

/// Rules under which what has a name that begins like this is kept for an hour.
const AGING: &str = "aging-";

fn aging() -> Rules {
    let hour = RetentionOverride { age: Some(HOUR), ..RetentionOverride::default() };
    let retention_overrides = RetentionOverrides([(AGING.to_owned(), hour)].into());
    Rules::new(&crate::log::Config { retention: EVERYTHING, retention_overrides, ..crate::log::Config::default() })
}

/// Milliseconds since 1970.
fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// A batch of a group that is kept for an hour from now.
fn aging_batch(name: &str) -> Arc<Batch> {
    let at = now();
    let records = (1..=1_000).map(|seq| Record { at, ..record(seq) }).collect();
    Arc::new(Batch { group: group(&format!("{AGING}{name}")), epoch: 7, records })
}

/// When that hour is over.
fn later() -> u64 {
    now() + 2 * u64::try_from(HOUR.as_millis()).unwrap()
}

/// Whether nothing is kept of such a group.
async fn is_empty(log: &Nats, shard: u16, name: &str) -> bool {
    let head = log.head(shard, &group(&format!("{AGING}{name}"))).await.unwrap().unwrap();
    assert_eq!(head.seq, 1_000);
    head.first > head.seq
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_for_the_rest_of_an_append_is_made_by_retention_also_in_its_own_shard() {
    let before = [(SHARD, aging_batch("one")), (SHARD + 1, aging_batch("other"))];
    let nearly = Nearly::full_with(2 * MESSAGE + MESSAGE / 2, aging(), &before).await;
    let appending = nearly.append().await;
    let Nearly { log, .. } = &nearly;
    // Of its own groups nothing may go: it is looked for their last messages.
    for (name, error) in [
        ("Dogs", log.purge(SHARD, &group("Dogs"), 1).await.map(drop)),
        ("Cats", log.delete(SHARD, &group("Cats")).await.map(drop)),
        ("group-0", log.delete(SHARD, &group("group-0")).await.map(drop)),
    ] {
        let error = error.unwrap_err();
        let is_told = matches!(&error, AppendError::Unavailable { reason } if reason.contains("stored in part"));
        assert!(is_told, "{name}: {error}");
    }
    assert!(!appending.is_finished(), "{:?}", appending.await);
    // Once it is known that the stream answers.
    let removing = async {
        while !is_empty(log, SHARD, "one").await || !is_empty(log, SHARD + 1, "other").await {
            log.core.remove_all_old(later()).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, removing).await.expect("retention does not wait for room");
    let ended = tokio::time::timeout(PATIENCE, appending).await.expect("it is finished once there is room").unwrap();
    assert!(ended.is_ok(), "a part is stored: {ended:?}");
    nearly.answers().await;
    log.append(SHARD, vec![batch("Dogs", 7, 3_003, 3_003), batch("Eels", 7, 2, 2)]).await.unwrap();
    assert_eq!(log.purge(SHARD, &group("Dogs"), 1).await, Ok(1));
    for log in [log, &nearly.other] {
        for (name, first, last) in [("Cats", 1, 1), ("Dogs", 2, 3_003), ("Eels", 1, 2), ("group-39", 1, 1)] {
            assert!(read(log, name).await == (first..=last).map(record).collect::<Vec<_>>(), "{name}");
        }
    }
    nearly.log.close().await;
    nearly.other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_does_not_wait_for_a_shard_whose_change_does_not_end() {
    let servers = Servers::start(1, "").await;
    let config = Config { timeout: Duration::from_millis(500), ..config(&servers.urls()) };
    let log = Nats::open(&config, &aging(), SHARDS, "a").await.unwrap();
    take(&log).await;
    for shard in [SHARD, SHARD + 1] {
        for name in ["one", "other"] {
            log.append(shard, vec![aging_batch(&format!("{name}-{shard}"))]).await.unwrap();
        }
    }
    let changing = log.core.shard(SHARD).locks.writer().await;
    tokio::time::timeout(PATIENCE, log.core.remove_all_old(later())).await.expect("it goes on with other shards");
    for (shard, is_gone) in [(SHARD, false), (SHARD + 1, true)] {
        for name in ["one", "other"] {
            assert_eq!(is_empty(&log, shard, &format!("{name}-{shard}")).await, is_gone, "{name} of {shard}");
        }
    }
    drop(changing);
    log.core.remove_all_old(later()).await;
    assert!(is_empty(&log, SHARD, "one-0").await && is_empty(&log, SHARD, "other-0").await);
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_for_a_removal_of_its_own_that_nats_does_not_answer() {
    let servers = Servers::start(1, "").await;
    let proxy = Proxy::start(servers.port(0)).await;
    let config = Config { timeout: Duration::from_millis(500), ..config(&proxy.url()) };
    let log = Nats::open(&config, &aging(), SHARDS, "a").await.unwrap();
    take(&log).await;
    for shard in [SHARD, SHARD + 1] {
        log.append(shard, vec![aging_batch("one")]).await.unwrap();
    }
    // All that is stored there names it.
    proxy.lose_all(Some(log.core.link.names.fence(SHARD)));
    let removing = async {
        while !is_empty(&log, SHARD + 1, "one").await {
            log.core.remove_all_old(later()).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, removing).await.expect("it goes on with other shards");
    assert!(proxy.lost() > 0 && !is_empty(&log, SHARD, "one").await);
    assert!(log.core.shard(SHARD).locks.writer_now().is_none(), "how it ended is still being found out");
    proxy.lose_all(None);
    let removing = async {
        while !is_empty(&log, SHARD, "one").await {
            log.core.remove_all_old(later()).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, removing).await.expect("it is removed once NATS answers");
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_for_each_group_of_a_stream_that_does_not_answer() {
    const GROUPS: usize = 6;
    let servers = Servers::start(1, "").await;
    let proxy = Proxy::start(servers.port(0)).await;
    let config = Config { timeout: Duration::from_millis(500), ..config(&proxy.url()) };
    let log = Nats::open(&config, &aging(), SHARDS, "a").await.unwrap();
    take(&log).await;
    for group in 0..GROUPS {
        log.append(SHARD, vec![aging_batch(&format!("group-{group}"))]).await.unwrap();
        log.append(SHARD + 2, vec![aging_batch(&format!("other-{group}"))]).await.unwrap();
    }
    log.append(SHARD + 1, vec![aging_batch("one")]).await.unwrap();
    log.close().await;
    // None of them is in memory now.
    let log = Nats::open(&config, &aging(), SHARDS, "a").await.unwrap();
    take(&log).await;
    proxy.lose_all(Some(log.core.link.names.stream(log.core.link.names.stream_of(SHARD))));
    tokio::time::timeout(PATIENCE, log.core.remove_all_old(later())).await.expect("it goes on with the other stream");
    assert!((1..GROUPS).contains(&proxy.lost()), "it is asked about one group: {}", proxy.lost());
    assert!(is_empty(&log, SHARD + 1, "one").await);
    proxy.lose_all(None);
    // A busy machine may leave one more question unanswered for that long.
    let removing = async {
        while !(is_empty(&log, SHARD, "group-0").await && is_empty(&log, SHARD + 2, "other-5").await) {
            log.core.remove_all_old(later()).await;
        }
    };
    tokio::time::timeout(PATIENCE, removing).await.expect("they are removed once NATS answers");
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_in_part_when_another_writer_comes_is_told_by_its_groups() {
    let nearly = Nearly::full(2 * MESSAGE + MESSAGE / 2).await;
    let appending = nearly.append().await;
    let Nearly { log, other, .. } = &nearly;
    other.take_over(SHARD).await.unwrap();
    nearly.make_room().await;
    // In the places of what is not stored it puts something else.
    let theirs = |seq| Record { message: "theirs".into(), ..record(seq) };
    let batch_of = |name: &str, records| Arc::new(Batch { group: group(name), epoch: 7, records });
    let (dogs, eels) = ((2_051..=2_060).map(theirs).collect(), (1..=2).map(theirs).collect());
    other.append(SHARD, vec![batch_of("Dogs", dogs), batch_of("Eels", eels)]).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, appending).await.expect("it ends").unwrap();
    let stored = vec![(group("Cats"), 1), (group("Dogs"), 2_050)];
    assert_eq!(ended, Err(AppendError::FencedInPart { stored }));
    assert!(!log.holds(SHARD));
    nearly.answers().await;
    let error = log.append(SHARD, vec![batch("Cats", 7, 2, 2)]).await.unwrap_err();
    assert!(matches!(error, AppendError::Fenced { .. }), "{error}");
    for (name, ours, last) in [("Cats", 1, 1), ("Dogs", 2_050, 2_060), ("Eels", 0, 2)] {
        let expected: Vec<Record> = (1..=ours).map(record).chain((ours + 1..=last).map(theirs)).collect();
        assert!(read(other, name).await == expected, "{name}");
    }
    log.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_with_a_message_that_finds_no_room_by_itself_is_refused_and_the_storage_is_known_to_be_full() {
    let nearly = Nearly::full(MESSAGE / 2).await;
    let batches = vec![batch("Cats", 7, 1, 1), batch("Dogs", 7, 3, 1_026), batch("Eels", 7, 1, 1)];
    let refused = tokio::time::timeout(PATIENCE, nearly.log.append(SHARD, batches)).await;
    let error = refused.expect("it is known that nothing is stored").unwrap_err();
    assert!(matches!(&error, AppendError::Unavailable { reason } if reason.contains("10176")), "{error}");
    assert!(nearly.log.trouble().is_some() && nearly.log.outage().is_none());
    assert_eq!((nearly.stored("Cats").await, nearly.stored("Dogs").await, nearly.stored("Eels").await), (0, 2, 0));
    nearly.log.append(SHARD, vec![batch("Cats", 7, 1, 1), batch("Eels", 7, 1, 1)]).await.unwrap();
    nearly.log.close().await;
    nearly.other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_the_shard_after_one_who_stored_a_part_and_stopped_sees_what_each_group_has() {
    let nearly = Nearly::full(2 * MESSAGE + MESSAGE / 2).await;
    let appending = nearly.append().await;
    tokio::time::timeout(PATIENCE, nearly.log.close()).await.expect("it is not waited for");
    let ended = appending.await.unwrap();
    assert!(matches!(ended, Err(AppendError::Unavailable { .. })), "{ended:?}");
    nearly.make_room().await;
    let Nearly { other, .. } = &nearly;
    other.take_over(SHARD).await.unwrap();
    let batches = vec![batch("Cats", 7, 2, 2), batch("Dogs", 7, 2_051, 2_060), batch("Eels", 7, 1, 1)];
    other.append(SHARD, batches).await.unwrap();
    for (name, last) in [("Cats", 2), ("Dogs", 2_060), ("Eels", 1)] {
        assert!(read(other, name).await == (1..=last).map(record).collect::<Vec<_>>(), "{name}");
    }
    other.close().await;
}
