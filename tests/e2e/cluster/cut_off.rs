//! Nodes that reach nobody, or stand still, with clients connected: when these are told, when they are served again, and that nothing
//! stale is acknowledged or delivered.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::cluster::Cluster;
use harness::deadline::{PATIENCE, within};
use harness::proxy::Carriage;
use harness::recording::{Recording, Rejected};
use harness::{Client, Connector, Event, ServerOptions, check};
use serde_json::json;
use tertulia_protocol::code::Code;
use tertulia_protocol::extended::LeftReason;

use crate::machine;

/// How long a client of a node that is cut off may wait until it is told: the lease (2 s), what it takes to be sure of it, and room for a
/// busy machine.
const TOLD: Duration = Duration::from_secs(4);
/// How long after the cut another node must have served it.
const SERVED: Duration = Duration::from_secs(6);
/// How long after the end of the cut, or of the pause, the node itself must serve again.
const AGAIN: Duration = Duration::from_secs(6);
/// How long a node stands still: longer than its lease.
const STILL: Duration = Duration::from_secs(4);

/// Groups enough that each of three nodes owns some of them.
fn groups() -> Vec<String> {
    (0..9).map(|number| format!("cut-{number}")).collect()
}

/// What a post ended with.
async fn answer(client: &mut Client, id: &str) -> Result<Option<Rejected>> {
    let answer = client.reader.until("an answer to a post", |event| match event {
        Event::Posted(posted) if posted.id.as_deref() == Some(id) => Some(None),
        Event::Rejected(refusal) => Some(Some((**refusal).clone())),
        _ => None,
    });
    answer.await
}

/// Posts until it is stored. Whoever is refused waits for as long as it is told, but not longer than a moment.
async fn post_until_stored(client: &mut Client, group: &str, text: &str, id: &str) -> Result<()> {
    within(PATIENCE, &format!("'{text}' to be stored in '{group}'"), async {
        loop {
            client.writer.post(group, text, Some(id)).await?;
            match answer(client, id).await? {
                None => return Ok(()),
                Some(refusal) => {
                    ensure!(refusal.code == Code::Unavailable, "{refusal:?}");
                    let wait = Duration::from_millis(refusal.retry_after_ms.unwrap_or(1_000).min(100));
                    tokio::time::sleep(wait).await;
                }
            }
        }
    })
    .await
}

/// Resumes until it is let in.
async fn resume_until_joined(client: &mut Client, group: &str, seq: u64, epoch: u64) -> Result<()> {
    within(PATIENCE, &format!("another node to let it resume in '{group}'"), async {
        loop {
            client.writer.join_from(group, Some(seq), None, Some(epoch)).await?;
            let joined = client.reader.until("Joined", |event| match event {
                Event::Joined(joined) => Some(Some(joined.recovered)),
                Event::Rejected(_) => Some(None),
                _ => None,
            });
            match joined.await? {
                Some(recovered) => {
                    ensure!(recovered, "it was told of a loss");
                    return Ok(());
                }
                None => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    })
    .await
}

/// Somebody on the node that is cut off, in one group: what it saw, when it was told, and when another node served it.
struct Guest {
    recordings: Vec<Recording>,
    told: Duration,
    served: Duration,
}

/// Posts on the node that is cut off, is refused, goes to another one, and posts the same there.
async fn guest(mut client: Client, elsewhere: Connector, user: String, group: String, cut: Instant) -> Result<Guest> {
    client.writer.post(&group, "after the cut", Some("cut")).await?;
    let refusal = answer(&mut client, "cut").await?.context("it was stored by a node that reaches nobody")?;
    let told = cut.elapsed();
    ensure!(refusal.code == Code::Unavailable && refusal.retry_after_ms.is_some(), "{refusal:?}");
    ensure!(refusal.outcome_unknown == refusal.message.starts_with("It is not known"), "{refusal:?}");
    // From now on it is told at once.
    client.writer.post(&group, "too late", Some("late")).await?;
    let again = Instant::now();
    let refusal = answer(&mut client, "late").await?.context("it was stored by a node that reaches nobody")?;
    ensure!(again.elapsed() < Duration::from_secs(1), "told after {:?}: {refusal:?}", again.elapsed());
    ensure!(refusal.message.contains("cannot be stored now") && !refusal.outcome_unknown, "{refusal:?}");
    let mut other = elsewhere.extended(&user).await?;
    let (seq, epoch) = client.resume_point(&group).context("it was in the group")?;
    resume_until_joined(&mut other, &group, seq, epoch).await?;
    post_until_stored(&mut other, &group, "after the cut", "cut").await?;
    let served = cut.elapsed();
    other.reader.until_text(&group, "after the cut").await?;
    Ok(Guest { recordings: vec![client.cut(), other.cut()], told, served })
}

async fn cut_off(how: Carriage) -> Result<()> {
    let _machine = machine().await;
    let cluster = Cluster::start(3, 1, ServerOptions::new()).await?;
    let (here, there) = (cluster.connector(0), cluster.connector(0).at(cluster.chat(1)));
    let mut listener = here.extended("listener").await?;
    let mut guests = Vec::new();
    for (number, group) in groups().into_iter().enumerate() {
        listener.join(&group).await?;
        let user = format!("guest-{number}");
        let mut client = here.extended(&user).await?;
        client.join(&group).await?;
        client.post(&group, "before the cut", "before").await?;
        listener.reader.until_text(&group, "before the cut").await?;
        guests.push((client, user, group));
    }
    cluster.set_carriage(0, how);
    let cut = Instant::now();
    let guests: Vec<_> = guests
        .into_iter()
        .map(|(client, user, group)| tokio::spawn(guest(client, there.clone(), user, group, cut)))
        .collect();
    let mut recordings = Vec::new();
    let (mut told, mut served) = (Vec::new(), Vec::new());
    for guest in guests {
        let guest = guest.await??;
        recordings.extend(guest.recordings);
        told.push(guest.told);
        served.push(guest.served);
    }
    println!("{how:?}: told after {told:?}, served by another node {served:?} after the cut");
    ensure!(told.iter().all(|told| *told < TOLD), "told after {told:?}");
    ensure!(served.iter().all(|served| *served < SERVED), "served after {served:?}");

    cluster.set_carriage(0, Carriage::Open);
    let open = Instant::now();
    for group in groups() {
        // What the others said meanwhile comes, and then it is as before.
        listener.reader.until_text(&group, "after the cut").await?;
        post_until_stored(&mut listener, &group, "here again", "again").await?;
        listener.reader.until_text(&group, "here again").await?;
    }
    let again = open.elapsed();
    println!("{how:?}: the node itself serves {again:?} after the end of the cut");
    ensure!(again < AGAIN, "served again after {again:?}");
    let mut logs = Vec::new();
    for group in groups() {
        let log = listener.read_log_patiently(&group).await?;
        ensure!(log.messages.len() == 3, "{log:?}");
        logs.push(log);
    }
    recordings.push(listener.settled());
    check(&recordings, &logs).assert_clean();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_node_whose_connections_carry_nothing_are_told_and_served_by_another_one() -> Result<()> {
    cut_off(Carriage::Held).await
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_node_without_connections_are_told_and_served_by_another_one() -> Result<()> {
    cut_off(Carriage::Closed).await
}

/// A node stands still for longer than its lease, with posts in its sockets, and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stood_still_carries_on_with_what_is_so_now() -> Result<()> {
    let _machine = machine().await;
    let cluster = Cluster::start(3, 1, ServerOptions::new()).await?;
    let (here, there) = (cluster.connector(0), cluster.connector(0).at(cluster.chat(1)));
    let (mut still, mut moving) = (here.extended("still").await?, there.extended("moving").await?);
    for group in groups() {
        still.join(&group).await?;
        moving.join(&group).await?;
        still.post(&group, "before", &format!("before {group}")).await?;
        moving.reader.until_text(&group, "before").await?;
    }
    cluster.nodes[0].pause()?;
    let paused = Instant::now();
    for group in groups() {
        still.writer.post(&group, "in the socket", Some(&format!("socket {group}"))).await?;
    }
    for group in groups() {
        post_until_stored(&mut moving, &group, "meanwhile", &format!("meanwhile {group}")).await?;
    }
    let served = paused.elapsed();
    println!("the others serve all groups {served:?} after a node stood still");
    ensure!(served < SERVED, "served after {served:?}");
    tokio::time::sleep_until((paused + STILL).into()).await;
    cluster.nodes[0].resume()?;
    let resumed = Instant::now();
    let mut missing: Vec<String> = groups();
    while let Some(group) = missing.pop() {
        // It may be refused, and then is asked again.
        post_until_stored(&mut still, &group, "in the socket", &format!("socket {group}")).await?;
        moving.reader.until_text(&group, "in the socket").await?;
    }
    let again = resumed.elapsed();
    println!("the node itself serves {again:?} after it went on");
    ensure!(again < AGAIN, "served again after {again:?}");
    let mut logs = Vec::new();
    for group in groups() {
        post_until_stored(&mut moving, &group, "the end", &format!("end {group}")).await?;
        still.reader.until_text(&group, "the end").await?;
        moving.reader.until_text(&group, "the end").await?;
        let log = moving.read_log_patiently(&group).await?;
        ensure!(log.messages.len() == 4, "{log:?}");
        logs.push(log);
    }
    check(&[still.settled(), moving.settled()], &logs).assert_clean();
    Ok(())
}

/// What a node remembers of shards that it had is the past once they are others': here of one that came while the node stood still.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stood_still_reads_anew_what_has_gone_to_others() -> Result<()> {
    let _machine = machine().await;
    let mut cluster = Cluster::start(3, 1, ServerOptions::new()).await?;
    let mut still = cluster.connector(0).extended("still").await?;
    let mut moving = cluster.connector(1).extended("moving").await?;
    let groups: Vec<String> = (0..48).map(|number| format!("moved-{number}")).collect();
    for group in &groups {
        moving.join(group).await?;
        moving.post(group, "before", &format!("before {group}")).await?;
        ensure!(still.read_log(group).await?.messages.len() == 1);
    }
    cluster.nodes[0].pause()?;
    let paused = Instant::now();
    for group in &groups {
        post_until_stored(&mut moving, group, "meanwhile", &format!("meanwhile {group}")).await?;
    }
    cluster.add().await?;
    cluster.agreed_among(1..4, 3).await?;
    tokio::time::sleep_until((paused + STILL).into()).await;
    cluster.nodes[0].resume()?;
    cluster.agreed(4).await?;
    for group in &groups {
        let log = still.read_log_patiently(group).await?;
        ensure!(log.messages.len() == 2, "{log:?}");
    }
    Ok(())
}

/// Its node had the shards before, and has them again; who had them meanwhile knew nobody who is connected there.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_held_while_its_node_is_cut_off_is_no_member_once_the_node_is_back() -> Result<()> {
    let _machine = machine().await;
    let mut cluster = Cluster::start(2, 1, ServerOptions::new()).await?;
    let mut eve = cluster.connector(0).extended("eve").await?;
    for group in groups() {
        eve.join(&group).await?;
        eve.post(&group, "before", &format!("before {group}")).await?;
    }
    cluster.set_carriage(0, Carriage::Held);
    cluster.agreed_among([1], 1).await?;
    for group in groups() {
        let held = json!({"group_name": group, "user": "eve", "hold_seconds": 3600});
        cluster.nodes[1].admin("KickMember", held).await?;
    }
    cluster.set_carriage(0, Carriage::Open);
    cluster.agreed(2).await?;
    let mut missing = groups();
    while !missing.is_empty() {
        let left = eve.reader.until("the end of each membership", |event| match event {
            Event::Left(left) => Some((**left).clone()),
            _ => None,
        });
        let left = left.await?;
        ensure!(left.reason == LeftReason::Kicked, "{left:?}");
        missing.retain(|group| **group != *left.group);
    }
    for group in groups() {
        let post = json!({"Post": {"group_name": group, "message": "here again", "id": format!("again {group}")}});
        ensure!(eve.refusal(&post).await?.as_deref() == Some("kicked"), "in {group}");
    }
    Ok(())
}
