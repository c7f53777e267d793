//! Servers that die, stall, and answers that are lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tertulia_protocol::GroupName;
use tokio::time::Instant;

use super::proxy::Proxy;
use super::writer::{Writer, content, judge, shard_of};
use super::{Config, ELECTIONS, PATIENCE, Servers, config, open, open_and_take, told_of_room, well};
use crate::log::conformance::batch;
use crate::log::nats::message::Kind;
use crate::log::{AppendError, Head, Log};

fn impatient(urls: &str) -> Config {
    Config { timeout: Duration::from_millis(500), ..config(urls) }
}

/// Somebody who appends until told to stop, whatever comes.
struct Writing {
    stop: Arc<AtomicBool>,
    /// Appends that were acknowledged.
    acked: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<Writer>,
}

impl Writing {
    fn start(mut writer: Writer) -> Self {
        let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&acked));
        let task = tokio::spawn(async move {
            let (mut round, mut longest) = (0, Duration::ZERO);
            let mut last = Instant::now();
            while !stopped.load(Ordering::SeqCst) {
                round += 1;
                match writer.append(if round % 10 == 0 { 1_400 } else { 3 }).await {
                    Ok(()) => {
                        counted.fetch_add(1, Ordering::SeqCst);
                        longest = longest.max(last.elapsed());
                        last = Instant::now();
                    }
                    Err(AppendError::Unavailable { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
                    Err(error @ (AppendError::Fenced { .. } | AppendError::FencedInPart { .. })) => {
                        panic!("nobody else writes: {error}")
                    }
                }
            }
            println!("at most {longest:?} between two acknowledgements");
            writer
        });
        Self { stop, acked, task }
    }

    /// Waits until more is acknowledged, most of which was begun after this was called.
    async fn goes_on(&self, limit: Duration, after: &str) {
        const MORE: u64 = 12;
        let (begun, before) = (Instant::now(), self.acked.load(Ordering::SeqCst));
        while self.acked.load(Ordering::SeqCst) < before + MORE {
            assert!(!self.task.is_finished(), "it has ended {after}");
            assert!(begun.elapsed() < limit, "hardly anything is acknowledged {after}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn end(self, limit: Duration) -> Writer {
        self.stop.store(true, Ordering::SeqCst);
        tokio::time::timeout(limit, self.task).await.expect("the last append ends").unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_under_load_loses_nothing() {
    let mut servers = Servers::start(1, "").await;
    let config = impatient(&servers.urls());
    let mut writing = Vec::new();
    for (name, group) in [("ada", "Dogs"), ("grace", "Cats")] {
        writing.push(Writing::start(Writer::new(open_and_take_of(&config, group).await, name, group)));
    }
    for kill in 0..4 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        servers.kill(0);
        tokio::time::sleep(Duration::from_millis(300)).await;
        servers.revive(0);
        for writing in &writing {
            writing.goes_on(PATIENCE, &format!("after kill {kill}")).await;
        }
    }
    let mut writers = Vec::new();
    for writing in writing {
        writers.push(writing.end(PATIENCE).await);
    }
    let reader = open(&super::config(&servers.urls())).await;
    for (writer, group) in writers.iter().zip(["Dogs", "Cats"]) {
        println!("{group}: {} acked, {} refused", writer.acked.len(), writer.refused.len());
        assert!(writer.acked.len() > 100);
        judge(&content(&reader, group).await, &[writer]);
    }
}

async fn open_and_take_of(config: &Config, group: &str) -> super::Nats {
    let log = open(config).await;
    let group = crate::log::conformance::group(group);
    let begun = Instant::now();
    while let Err(error) = log.take_over(shard_of(&group)).await {
        assert!(begun.elapsed() < PATIENCE, "{error}");
    }
    log
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stalls_makes_the_log_unavailable_and_nothing_is_in_doubt_afterwards() {
    let servers = Servers::start(1, "").await;
    let log = open_and_take(&config(&servers.urls())).await;
    log.append(0, vec![batch("Dogs", 7, 1, 3)]).await.unwrap();
    servers.pause(0);
    let in_doubt = tokio::spawn(log.append(0, vec![batch("Dogs", 7, 4, 4)]));
    let begun = Instant::now();
    while log.trouble().is_none() {
        assert!(begun.elapsed() < PATIENCE, "a stalled server is not noticed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(6), "noticed after {:?}", begun.elapsed());
    let begun = Instant::now();
    let error = log.append(2, vec![batch("Cats", 7, 1, 1)]).await.unwrap_err();
    assert!(matches!(error, AppendError::Unavailable { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(1), "what is known is told at once");
    assert!(!in_doubt.is_finished(), "nobody can know yet whether it is stored");
    servers.resume(0);
    let ended = tokio::time::timeout(PATIENCE, in_doubt).await.unwrap().unwrap();
    well(&log).await;
    let head = log.head(0, &crate::log::conformance::group("Dogs")).await.unwrap().unwrap();
    assert_eq!(head.seq, if ended.is_ok() { 4 } else { 3 });
    log.append(0, vec![batch("Dogs", 7, head.seq + 1, head.seq + 2)]).await.unwrap();
    log.append(2, vec![batch("Cats", 7, 1, 1)]).await.unwrap();
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_lost_is_found_out_about() {
    let servers = Servers::start(1, "").await;
    let proxy = Proxy::start(servers.port(0)).await;
    let config = impatient(&proxy.url());
    let mut writer = Writer::new(open_and_take_of(&config, "Dogs").await, "ada", "Dogs");
    let begun = Instant::now();
    // What is refused before it is sent, because an answer was late as well, meets no cut.
    while proxy.cuts() < 12 {
        assert!(begun.elapsed() < ELECTIONS, "only {} appends were sent", proxy.cuts());
        let round = proxy.cuts();
        // Of one message, and of several.
        let count = if round % 2 == 0 { 2 } else { 1_400 };
        well(&writer.log).await;
        proxy.cut_after_next_append();
        let ended = tokio::time::timeout(PATIENCE, writer.append(count)).await.unwrap();
        println!("round {round}: {ended:?}");
    }
    assert!(!writer.acked.is_empty(), "the server had taken at least one");
    let reader = open(&super::config(&servers.urls())).await;
    judge(&content(&reader, "Dogs").await, &[&writer]);
}

/// Two writers of one shard; what goes between the first, which has it, and the server can be lost.
struct TwoWriters {
    _servers: Servers,
    proxy: Proxy,
    log: super::Nats,
    other: super::Nats,
    group: GroupName,
    shard: u16,
}

impl TwoWriters {
    async fn new() -> Self {
        let servers = Servers::start(1, "").await;
        let proxy = Proxy::start(servers.port(0)).await;
        let (log, other) = (open(&config(&proxy.url())).await, open(&config(&servers.urls())).await);
        let group = crate::log::conformance::group("Dogs");
        let shard = shard_of(&group);
        log.take_over(shard).await.unwrap();
        Self { _servers: servers, proxy, log, other, group, shard }
    }
}

/// Waits until the server has taken what makes the head of a group so.
async fn until(log: &super::Nats, shard: u16, group: &GroupName, is_taken: impl Fn(Head) -> bool) {
    let begun = Instant::now();
    while !log.head(shard, group).await.unwrap().is_some_and(&is_taken) {
        assert!(begun.elapsed() < PATIENCE, "the server did not take it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_stored_before_another_writer_came_is_found_also_if_the_question_is_lost_once() {
    let TwoWriters { _servers, proxy, log, other, group, shard } = TwoWriters::new().await;
    log.append(shard, vec![batch("Dogs", 7, 1, 2)]).await.unwrap();
    // Its answer is lost; and another writer has the shard, and has extended the group, before it is known how that ended.
    proxy.cut_after_next_append();
    let appending = tokio::spawn(log.append(shard, vec![batch("Dogs", 7, 3, 4)]));
    until(&other, shard, &group, |head| head.seq >= 4).await;
    proxy.lose_next("next_by_subj");
    other.take_over(shard).await.unwrap();
    other.append(shard, vec![batch("Dogs", 7, 5, 6)]).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, appending).await.unwrap().unwrap();
    assert!(ended.is_ok(), "it is stored: {ended:?}");
    assert_eq!((proxy.cuts(), proxy.lost()), (1, 1));
    assert!(!log.holds(shard));
    log.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_without_an_answer_ends_also_when_another_writer_came() {
    let TwoWriters { _servers, proxy, log, other, group, shard } = TwoWriters::new().await;
    log.append(shard, vec![batch("Dogs", 7, 1, 4)]).await.unwrap();
    proxy.cut_after_next_append();
    let removing = tokio::spawn(log.purge(shard, &group, 2));
    until(&other, shard, &group, |head| head.first >= 3).await;
    proxy.lose_next("Nats-Expected-Last-Subject-Sequence");
    other.take_over(shard).await.unwrap();
    other.append(shard, vec![batch("Dogs", 7, 5, 6)]).await.unwrap();
    let ended =
        tokio::time::timeout(PATIENCE, removing).await.expect("it never ends, and nobody can have the shard").unwrap();
    println!("{ended:?}");
    // Whoever has it next can take it here too.
    tokio::time::timeout(PATIENCE, log.take_over(shard)).await.unwrap().unwrap();
    log.append(shard, vec![batch("Dogs", 7, 7, 7)]).await.unwrap();
    assert_eq!(content(&log, "Dogs").await.iter().map(|record| record.seq).collect::<Vec<_>>(), [3, 4, 5, 6, 7]);
    log.close().await;
    other.close().await;
}

/// Waits until nothing is left on the subject of a group.
async fn until_nothing_is_left(log: &super::Nats, shard: u16, group: &GroupName) {
    let link = &log.core.link;
    let (stream, subject) = (link.names.stream_of(shard), link.names.group(shard, group));
    let begun = Instant::now();
    while link.last(stream, &subject).await.unwrap().is_some() {
        assert!(begun.elapsed() < PATIENCE, "what is deleted is still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_of_a_deleted_group_goes_though_the_question_is_lost() {
    let TwoWriters { _servers, proxy, log, other, group, shard } = TwoWriters::new().await;
    log.append(shard, vec![batch("Dogs", 7, 1, 4)]).await.unwrap();
    proxy.lose_next("STREAM.PURGE");
    let room = log.core.room.notified();
    assert!(log.delete(shard, &group).await.unwrap());
    until_nothing_is_left(&log, shard, &group).await;
    told_of_room(room).await;
    // Or the node is lost with it: whoever has the shard next finds the end of the group, and does what is left to do.
    log.append(shard, vec![batch("Dogs", 8, 1, 4)]).await.unwrap();
    let known = log.core.known(shard, &group).await.unwrap().unwrap();
    let head = known.head.unwrap();
    let mut remover = log.core.shard(shard).locks.remover().await;
    log.core.say(shard, &group, Kind::Deleted, &known, head, &mut remover).await.unwrap();
    drop(remover);
    assert_eq!(other.take_over(shard).await.unwrap().groups, 1);
    assert_eq!(other.head(shard, &group).await.unwrap(), None);
    assert!(other.core.names().is_empty(), "it is still counted");
    until_nothing_is_left(&other, shard, &group).await;
    assert_eq!(proxy.lost(), 1);
    log.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_of_three_that_is_killed_loses_nothing() {
    let mut servers = Servers::start(3, "").await;
    let config = Config { replicas: 3, ..impatient(&servers.urls()) };
    let writing = Writing::start(Writer::new(open_and_take_of(&config, "Dogs").await, "ada", "Dogs"));
    for index in 0..3 {
        writing.goes_on(ELECTIONS, &format!("before server {index} is killed")).await;
        servers.kill(index);
        // Two of three are enough, once they have a leader.
        writing.goes_on(ELECTIONS, &format!("after server {index} was killed")).await;
        servers.revive(index);
        tokio::time::sleep(Duration::from_millis(1_000)).await;
    }
    writing.goes_on(ELECTIONS, "after all servers are back").await;
    let writer = writing.end(ELECTIONS).await;
    println!("{} acked, {} refused", writer.acked.len(), writer.refused.len());
    let reader = open(&Config { timeout: Duration::from_secs(5), ..config }).await;
    judge(&content(&reader, "Dogs").await, &[&writer]);
}
