//! Stopping: nothing that was acknowledged is lost, everybody is told, and it ends in time.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use harness::deadline::{PATIENCE, poll_until};
use harness::metrics::{Metrics, get};
use harness::recording::End;
use harness::{Client, Event, ServerOptions};
use rustix::process::Signal;

const GROUP: &str = "Dogs";
const GRACE: Duration = Duration::from_secs(20);

/// Reads to the end of the connection; answers whether the client was told to go away.
async fn read_out(client: &mut Client) -> Result<bool> {
    let mut told = false;
    let all = async {
        while let Some(event) = client.reader.next().await? {
            if let Event::GoingAway(notice) = &event {
                let (reason, after) = &**notice;
                assert!(!reason.is_empty() && *after <= 60_000, "{notice:?}");
                told = true;
            }
        }
        Ok(told)
    };
    harness::within(PATIENCE, "the end of the connection", all).await
}

#[tokio::test]
async fn what_was_acknowledged_is_delivered_and_the_exit_is_clean() -> Result<()> {
    const POSTERS: usize = 8;
    let options = ServerOptions::new().on_disk().set("log.retention.messages", 0).set("log.retention.bytes", 0);
    let mut server = options.start().await?;
    let connector = server.connector();
    let mut listener = connector.extended("listener").await?;
    listener.join(GROUP).await?;
    let mut classic = connector.classic("classic").await?;
    classic.writer.join(GROUP).await?;
    classic.writer.post(GROUP, "I am in", None).await?;
    classic.reader.until_text(GROUP, "I am in").await?;

    let mut posters = Vec::new();
    for number in 0..POSTERS {
        let mut poster = connector.extended(&format!("poster{number}")).await?;
        posters.push(tokio::spawn(async move {
            let (mut reader, mut writer) = (poster.reader, poster.writer);
            let posting = async {
                // Until the server does not take them any more.
                for post in 0_u64.. {
                    let id = format!("{number}-{post}");
                    if writer.post(GROUP, &id, Some(&id)).await.is_err() {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
            };
            let reading = async {
                while reader.next().await?.is_some() {}
                anyhow::Ok(())
            };
            tokio::select! {
                () = posting => {}
                read = reading => read?,
            }
            poster = Client { reader, writer };
            // What was written before the end is still there to be read.
            while poster.reader.next().await?.is_some() {}
            anyhow::Ok(poster.cut())
        }));
    }
    // Stopped in the middle of it.
    listener.reader.until_text(GROUP, "0-50").await?;
    server.terminate()?;
    assert!(read_out(&mut listener).await?, "the listener was told to go away");
    harness::within(PATIENCE, "the end of the classic connection", classic.reader.until_closed()).await?;
    let status = server.wait(GRACE).await?;
    assert_eq!(status.code(), Some(0));

    let listener = listener.cut();
    let mut recordings = vec![classic.cut()];
    let mut acknowledged = 0;
    let heard = listener.events.iter().filter_map(|event| match event {
        Event::Message(message) => Some((message.sender.clone(), message.id.clone(), message.seq)),
        _ => None,
    });
    let heard = heard.collect::<HashSet<_>>();
    for poster in posters {
        let recording = poster.await??;
        let user = recording.user.clone().unwrap_or_else(|| "?".into());
        for event in &recording.events {
            if let Event::Posted(posted) = event {
                acknowledged += 1;
                let key = (user.clone(), posted.id.clone(), posted.seq);
                assert!(heard.contains(&key), "{posted:?} was acknowledged, and the listener never got it");
            }
        }
        recordings.push(recording);
    }
    assert!(acknowledged > 50, "{acknowledged}");
    recordings.push(listener);
    assert!(recordings.iter().all(|recording| recording.end == End::Cut));
    // All of it is there when the server is back.
    server.restart().await?;
    let mut reader = connector.at(server.chat()).extended("reader").await?;
    let log = reader.read_log(GROUP).await?;
    recordings.push(reader.settled());
    harness::check(&recordings, &[log]).assert_clean();
    Ok(())
}

#[tokio::test]
async fn probes_tell_the_difference_between_alive_and_ready() -> Result<()> {
    let options = ServerOptions::new().set("drain.linger", "5s").set("drain.delay", "1s");
    let mut server = options.start().await?;
    assert_eq!(get(server.http(), "/livez").await?.status, 200);
    assert_eq!(get(server.http(), "/readyz").await?.status, 200);
    let mut client = server.connector().extended("ada").await?;
    client.join(GROUP).await?;
    server.terminate()?;
    poll_until(Duration::from_secs(5), "not ready", async || {
        let ready = get(server.http(), "/readyz").await?;
        Ok((ready.status != 503).then(|| format!("{ready:?}")))
    })
    .await?;
    assert_eq!(get(server.http(), "/livez").await?.status, 200);
    // It serves on while load balancers turn away.
    client.post(GROUP, "still served", "1").await?;
    assert!(read_out(&mut client).await?, "told to go away");
    let status = server.wait(GRACE).await?;
    assert_eq!(status.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn a_client_that_goes_when_told_does_not_make_it_wait() -> Result<()> {
    let options = ServerOptions::new().set("drain.linger", "15s");
    let mut server = options.start().await?;
    let mut client = server.connector().extended("ada").await?;
    client.join(GROUP).await?;
    let began = Instant::now();
    server.terminate()?;
    client.reader.until("GoingAway", |event| matches!(event, Event::GoingAway(_)).then_some(())).await?;
    drop(client);
    let status = server.wait(GRACE).await?;
    assert_eq!(status.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_client_that_takes_nothing_does_not_hold_it_beyond_the_grace() -> Result<()> {
    let grace = Duration::from_secs(3);
    let options = ServerOptions::new().set("drain.linger", "500ms").set("drain.grace", "3s");
    let mut server = options.start().await?;
    let connector = server.connector();
    let mut stuck = connector.clone().small_buffers().extended("stuck").await?;
    stuck.join(GROUP).await?;
    let mut ada = connector.extended("ada").await?;
    let filling = "x".repeat(16_000);
    for number in 0..300 {
        ada.post(GROUP, &filling, &number.to_string()).await?;
    }
    poll_until(PATIENCE, "the client to be stuck", async || {
        let metrics = Metrics::scrape(server.http()).await?;
        let (lagging, waiting) =
            (metrics.sum("tertulia_members_lagging", &[]), metrics.sum("tertulia_outbound_bytes", &[]));
        let is_stuck = lagging == Some(1.0) && waiting.is_some_and(|waiting| waiting > 0.0);
        Ok((!is_stuck).then(|| format!("{lagging:?} lag, {waiting:?} bytes wait")))
    })
    .await?;
    let began = Instant::now();
    server.terminate()?;
    let status = server.wait(grace + Duration::from_secs(5)).await?;
    assert!(began.elapsed() < grace + Duration::from_secs(2), "{:?}", began.elapsed());
    // It is cut off while there is time enough for everything else to end as it should.
    let log = server.log()?;
    assert!(log.contains("connections that do not take what waits for them are cut off"), "{log}");
    assert_eq!(status.code(), Some(0), "{status}");
    drop(stuck);
    Ok(())
}

#[tokio::test]
async fn an_interrupt_is_as_good_as_a_termination() -> Result<()> {
    let mut server = ServerOptions::new().on_disk().set("drain.linger", "10s").start().await?;
    let mut client = server.connector().extended("ada").await?;
    client.join(GROUP).await?;
    server.process().signal(Signal::INT)?;
    client.reader.until("GoingAway", |event| matches!(event, Event::GoingAway(_)).then_some(())).await?;
    client.post(GROUP, "last words", "1").await?;
    drop(client);
    assert_eq!(server.wait(GRACE).await?.code(), Some(0));
    server.restart().await?;
    let log = server.connector().extended("reader").await?.read_log(GROUP).await?;
    assert_eq!(log.messages.len(), 1, "{log:?}");
    Ok(())
}

#[tokio::test]
async fn a_second_signal_stops_at_once() -> Result<()> {
    let options = ServerOptions::new().set("drain.linger", "15s").set("drain.delay", "15s").set("drain.grace", "60s");
    let mut server = options.start().await?;
    let mut client = server.connector().extended("ada").await?;
    client.join(GROUP).await?;
    server.terminate()?;
    poll_until(Duration::from_secs(5), "the first signal to be seen", async || {
        let ready = get(server.http(), "/readyz").await?;
        Ok((ready.status != 503).then(|| format!("{ready:?}")))
    })
    .await?;
    let began = Instant::now();
    server.terminate()?;
    let status = server.wait(GRACE).await?;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    if status.success() {
        bail!("what was cut off is told by the exit code, which was {status}");
    }
    Ok(())
}

#[tokio::test]
async fn a_stopping_server_takes_no_new_connections() -> Result<()> {
    let mut server = ServerOptions::new().set("drain.linger", "10s").start().await?;
    let mut client = server.connector().extended("ada").await?;
    client.join(GROUP).await?;
    server.terminate()?;
    client.reader.until("GoingAway", |event| matches!(event, Event::GoingAway(_)).then_some(())).await?;
    // The system may still take one in before the listener is closed, but nobody serves it.
    poll_until(PATIENCE, "connections to be refused", async || {
        let Ok(mut late) = server.connector().raw().await else { return Ok(None) };
        // It may be closed before it is spoken to.
        late.line(r#"{"Hello":{"version":1,"user":"late"}}"#).await.ok();
        let answer = late.next_line().await?;
        ensure!(answer.is_none(), "one that came late is answered: {answer:?}");
        Ok(Some("one was taken in, and closed".to_owned()))
    })
    .await?;
    // Not because it has ended: who was there is served.
    client.post(GROUP, "last words", "1").await?;
    drop(client);
    assert_eq!(server.wait(GRACE).await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn who_introduces_itself_late_is_told_as_well() -> Result<()> {
    let mut server = ServerOptions::new().set("drain.linger", "10s").start().await?;
    let mut early = server.connector().extended("early").await?;
    let mut late = server.connector().raw().await?;
    // So that the server has surely taken it in: connections are taken in one after the other.
    drop(server.connector().extended("witness").await?);
    server.terminate()?;
    early.reader.until("GoingAway", |event| matches!(event, Event::GoingAway(_)).then_some(())).await?;
    late.line(r#"{"Hello":{"version":1,"user":"late"}}"#).await?;
    late.expect_json(&serde_json::json!({"Welcome": {"user": "late"}})).await?;
    late.expect_json(&serde_json::json!({"GoingAway": {}})).await?;
    drop((early, late));
    assert!(server.wait(GRACE).await?.success());
    Ok(())
}

#[tokio::test]
async fn a_server_that_still_waits_for_nats_stops_when_it_is_told_to() -> Result<()> {
    // It takes connections and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("nats://{}", silent.local_addr()?);
    let options = ServerOptions::new().argument("--engine").argument("nats");
    let options = options.set("nats.urls", url).set("nats.timeout", "30s");
    let http = free_address().await?;
    let options = options.argument("--http").argument(http.to_string());
    let looked = async {
        let connected = silent.accept().await?;
        // Who looks meanwhile is told that it is alive, and why it is not ready.
        ensure!(get(http, "/livez").await?.status == 200);
        let ready = get(http, "/readyz").await?;
        ensure!(ready.status == 503 && ready.body.contains("starting"), "{ready:?}");
        ensure!(get(http, "/metrics").await?.body.contains("tertulia_"));
        Ok(connected)
    };
    let status = options.terminated_starting(looked, Duration::from_secs(10)).await?;
    assert_eq!(status.code(), Some(0), "{status}");
    Ok(())
}

/// An address at which nobody listens now.
async fn free_address() -> Result<SocketAddr> {
    Ok(tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?)
}
