//! Members that do not read for a while, in both dialects: caught up whole, or told exactly what is gone.

use std::sync::Arc;

use anyhow::Result;
use harness::checker::{Rules, check_by};
use harness::metrics::Metrics;
use harness::{Client, Event, Recording, Server, ServerOptions};

const GROUP: &str = "Dogs";
/// Long enough that some hundreds of them fill every buffer between two processes.
const MESSAGE_BYTES: usize = 16_000;

/// Posts `count` long messages, each after the one before was acknowledged.
async fn post_long(ada: &mut Client, count: usize) -> Result<()> {
    let filling = "x".repeat(MESSAGE_BYTES);
    for number in 0..count {
        ada.post(GROUP, &format!("{number} {filling}"), &format!("a{number}")).await?;
    }
    Ok(())
}

/// Two members that do not read while `count` messages are posted, and read all of it afterwards.
async fn sleepers(server: &Server, count: usize, rules: Rules) -> Result<Vec<Recording>> {
    let connector = server.connector();
    let mut ada = connector.extended("ada").await?;
    ada.join(GROUP).await?;
    let sleepy = connector.clone().small_buffers();
    let mut extended = sleepy.extended("sleeper").await?;
    extended.join(GROUP).await?;
    let mut classic = sleepy.classic("classic sleeper").await?;
    classic.writer.join(GROUP).await?;
    classic.writer.post(GROUP, "I am in", None).await?;
    classic.reader.until_text(GROUP, "I am in").await?;
    post_long(&mut ada, count).await?;
    // A connection whose answers it does not take is not read from either, so it is ada who wakes them.
    ada.post(GROUP, "good morning", "a").await?;
    ada.reader.until_text(GROUP, "good morning").await?;
    for sleeper in [&mut extended, &mut classic] {
        sleeper.reader.until_text(GROUP, "good morning").await?;
    }
    let log = connector.extended("reader").await?.read_log(GROUP).await?;
    let recordings = vec![ada.settled(), extended.settled(), classic.settled()];
    let verdict = check_by(rules, &recordings, &[log]);
    verdict.assert_clean();
    Ok(recordings)
}

#[tokio::test]
async fn they_are_caught_up_whole_from_the_log() -> Result<()> {
    let server = ServerOptions::new().set("log.retention.bytes", "64MiB").start().await?;
    let recordings = sleepers(&server, 400, Rules::default()).await?;
    let told = |recording: &Recording| {
        recording.events.iter().any(|event| matches!(event, Event::Lagged(_) | Event::Error(_)))
    };
    assert!(!recordings.iter().any(told), "nothing was lost");
    let metrics = Metrics::scrape(server.http()).await?;
    let lagged = metrics.sum("tertulia_catchups_total", &[("reason", "lag")]).unwrap_or_default();
    assert!(lagged >= 2.0, "both lagged: {}", metrics.describe("tertulia_catchups_total"));
    assert_eq!(metrics.sum("tertulia_dropped_messages_total", &[]), Some(0.0));
    Ok(())
}

#[tokio::test]
async fn they_are_told_exactly_what_retention_removed() -> Result<()> {
    let server = ServerOptions::new().set("log.retention.messages", 100).start().await?;
    let rules = Rules { oldest_may_go: true, ..Rules::default() };
    let recordings = sleepers(&server, 400, rules).await?;
    let lagged = |event: &Event| match event {
        Event::Lagged(lagged) => Some(lagged.last - lagged.first + 1),
        _ => None,
    };
    let told: u64 = recordings[1].events.iter().filter_map(lagged).sum();
    assert!(told > 0, "the extended sleeper was told of a loss");
    let dropped = |event: &&Event| matches!(event, Event::Error(text) if text.starts_with("Dropped "));
    let errors: Vec<&Event> = recordings[2].events.iter().filter(dropped).collect();
    assert!(!errors.is_empty(), "the classic sleeper was told of a loss");
    for error in errors {
        let Event::Error(text) = error else { continue };
        let text: &Arc<str> = text;
        assert!(text.ends_with(" messages from Dogs."), "{text}");
    }
    Ok(())
}
