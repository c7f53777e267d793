//! What becomes of questions while NATS is away, and when it is back.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::connection::State;
use bytes::Bytes;
use tokio::time::Instant;

use super::{PATIENCE, SHARDS, Servers, config, open_and_take, well};
use crate::log::conformance::{batch, group};
use crate::log::nats::Config;
use crate::log::{Log, PageLimit, Range};

/// Waits until the client knows that it has no connection, or one.
async fn state(client: &async_nats::Client, is: State) {
    let begun = Instant::now();
    while client.connection_state() != is {
        assert!(begun.elapsed() < PATIENCE, "the connection is not {is}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Publishes until the client takes no more.
async fn fill(client: &async_nats::Client, payload: &Bytes) {
    const STALLED: Duration = Duration::from_millis(500);
    while let Ok(published) = tokio::time::timeout(STALLED, client.publish("filling", payload.clone())).await {
        published.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_not_followed_by_all_the_questions_of_its_time() {
    let mut servers = Servers::start(1, "").await;
    let log = open_and_take(&config(&servers.urls())).await;
    let client = log.client();
    servers.kill(0);
    state(&client, State::Disconnected).await;
    let said = || client.statistics().out_messages.load(Ordering::Relaxed);
    let before = said();
    // What is asked meanwhile would be said at the end.
    tokio::time::sleep(Duration::from_secs(4)).await;
    servers.revive(0);
    state(&client, State::Connected).await;
    well(&log).await;
    let after = said() - before;
    assert!(after <= 12, "{after} messages of an outage of four seconds");
    log.append(0, vec![batch("Dogs", 7, 1, 1)]).await.unwrap();
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_is_answered_in_time_also_when_the_client_takes_no_more() {
    let mut servers = Servers::start(1, "").await;
    let timeout = Duration::from_millis(500);
    let log = open_and_take(&Config { timeout, ..config(&servers.urls()) }).await;
    log.append(0, vec![batch("Dogs", 7, 1, 3)]).await.unwrap();
    log.let_go(1);
    let client = log.client();
    servers.kill(0);
    state(&client, State::Disconnected).await;
    fill(&client, &Bytes::new()).await;

    // Each tries again for two such times, and its last question may take one more.
    let longest = 6 * timeout;
    let (ours, others) = (group("Cats"), group("Dogs"));
    let limit = PageLimit { records: 10, bytes: 1_000 };
    let asked = async {
        tokio::join!(
            async { assert!(log.head(0, &ours).await.is_err()) },
            async { assert!(log.read(0, &group("Dogs"), Range::After(0), limit).await.is_err()) },
            async { assert!(log.read(1, &others, Range::After(0), limit).await.is_err()) },
            async { assert!(log.take_over(SHARDS - 1).await.is_err()) },
            async { assert!(log.purge(0, &group("Dogs"), 1).await.is_err()) },
        )
    };
    tokio::time::timeout(longest, asked).await.expect("they are kept waiting");
    servers.revive(0);
    well(&log).await;
    log.append(0, vec![batch("Dogs", 7, 4, 4)]).await.unwrap();
    log.close().await;
}

/// What is written waits for the server, and the client looks at nothing that it is told, not even that it is to take another connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stalls_under_load_is_left() {
    let servers = Servers::start(1, "").await;
    let config = config(&servers.urls());
    let log = open_and_take(&config).await;
    let client = log.client();
    servers.pause(0);
    let paused = Instant::now();
    let payload = Bytes::from(vec![b'x'; 128 * 1024]);
    let filling = async {
        loop {
            drop(client.publish("filling", payload.clone()).await);
        }
    };
    tokio::select! {
        () = filling => {}
        () = state(&client, State::Disconnected) => {}
    }
    let left = paused.elapsed();
    println!("left after {left:?}");
    assert!(left < config.timeout + Duration::from_secs(2), "left after {left:?}");
    servers.resume(0);
    well(&log).await;
    log.append(0, vec![batch("Dogs", 7, 1, 1)]).await.unwrap();
    log.close().await;
}
