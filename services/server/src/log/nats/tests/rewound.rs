//! Streams that are not what they were.

use super::{PATIENCE, Servers, config, open, open_and_take};
use crate::log::Log;
use crate::log::conformance::batch;
use crate::log::nats::Rewound;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_was_made_anew_is_noticed_by_whoever_takes_a_shard_of_it() {
    let servers = Servers::start(1, "").await;
    let config = config(&servers.urls());
    let log = open_and_take(&config).await;
    log.append(0, vec![batch("Dogs", 7, 1, 9)]).await.unwrap();
    let context = async_nats::jetstream::new(log.client());
    context.delete_stream("tertulia-log-0").await.unwrap();
    // Another node makes it, and has taken the shard there.
    let other = open(&config).await;
    other.take_over(0).await.unwrap();
    log.take_over(0).await.unwrap();
    let rewound = tokio::time::timeout(PATIENCE, log.rewound()).await.expect("nothing is noticed");
    assert!(matches!(&rewound, Rewound::Older { stream, .. } if stream == "tertulia-log-0"), "{rewound}");
    log.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_was_made_anew_is_noticed_also_by_who_does_nothing() {
    let servers = Servers::start(1, "").await;
    let config = config(&servers.urls());
    let log = open(&config).await;
    log.take_over(1).await.unwrap();
    let context = async_nats::jetstream::new(log.client());
    context.delete_stream("tertulia-log-1").await.unwrap();
    let other = open(&config).await;
    let rewound = tokio::time::timeout(PATIENCE, log.rewound()).await.expect("nothing is noticed");
    assert_eq!(rewound, Rewound::Older { stream: "tertulia-log-1".to_owned(), known: 1, found: 0 });
    log.close().await;
    other.close().await;
}
