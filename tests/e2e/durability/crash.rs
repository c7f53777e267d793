//! Killed at any moment, the server loses nothing that it acknowledged or showed to anybody, and stores nothing twice.
//!
//! Real conversations (or our own, where those are not at hand) are held while the server is killed (SIGKILL) and started again on the
//! same directory and port. The moments are chosen at random: after some number of answers and messages, which is mostly in the middle of
//! appends; and now and then while the server starts. `TERTULIA_TEST_SEED` chooses the same again, `TERTULIA_TEST_ROUNDS` more or fewer.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::checker::check_removals;
use harness::deadline::PATIENCE;
use harness::environment::{number, seed};
use harness::irc::{Conversation, Happening, real_conversations};
use harness::moderator::Moderator;
use harness::recording::Dialect;
use harness::{Build, Client, Server, ServerOptions, check, within};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::participant::{Act, Participant, Progress, Scene};
use crate::run;

/// How often the server is killed while people talk.
const ROUNDS: u64 = 60;
/// The same where messages are removed meanwhile.
const MODERATED: u64 = 8;
/// Conversations that are held at the same time, each in a group.
const GROUPS: usize = 3;
/// The people of each, of whom the last is classic.
const PEOPLE: usize = 5;
/// The most answers and messages between a start and the kill.
const LONGEST_ROUND: u64 = 600;
/// A start may be killed within this time, in milliseconds; it takes about as long.
const STARTING: u64 = 120;
/// A call of the moderator takes about as long, in milliseconds.
const CALL: u64 = 120;
/// The last message of each group.
const CURTAIN: &str = "=curtain=";

/// How often the server is killed, and which build it is then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rounds {
    pub(crate) count: u64,
    /// Until so many kills an older build runs.
    pub(crate) older: u64,
    /// Whether a moderator removes messages meanwhile.
    pub(crate) moderated: bool,
}

impl Rounds {
    /// What runs after so many kills.
    fn build(self, kills: u64) -> Build {
        if kills < self.older { Build::Older } else { Build::This }
    }
}

/// What the most talkative of a conversation say.
fn speeches(conversation: &Conversation) -> Vec<(String, Vec<String>)> {
    let mut by_nick: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for happening in &conversation.happenings {
        if let Happening::Said { nick, text } = happening {
            by_nick.entry(nick).or_default().push(text.clone());
        }
    }
    let mut speeches: Vec<_> = by_nick.into_iter().collect();
    speeches.sort_by_key(|(_, lines)| std::cmp::Reverse(lines.len()));
    speeches.truncate(PEOPLE);
    speeches.into_iter().map(|(nick, lines)| (nick.replace(char::is_whitespace, "_"), lines)).collect()
}

/// Three conversations, each in a group of its own name.
fn conversations() -> Result<Vec<Conversation>> {
    let real = real_conversations()?.unwrap_or_default();
    let mut chosen: Vec<_> = real.into_iter().filter(|it| speeches(it).len() == PEOPLE).take(GROUPS).collect();
    for number in chosen.len()..GROUPS {
        let mut ours = Conversation::ours();
        ours.name = format!("{} {number}", ours.name);
        chosen.push(ours);
    }
    Ok(chosen)
}

/// Kills the server again and again, and starts it each time.
async fn kill_again_and_again(
    server: &mut Server,
    random: &mut fastrand::Rng,
    rounds: Rounds,
    moderator: &mut Moderator,
    acts: &watch::Sender<Act>,
    progress: &Progress,
) -> Result<()> {
    for round in 1..=rounds.count {
        let count = random.u64(0..=LONGEST_ROUND);
        let talk = async {
            progress.more(count).await;
            Ok(())
        };
        let what = format!("{count} answers and messages in round {round}");
        let talk = within(PATIENCE, &what, talk);
        if rounds.moderated {
            let (calls, moment) = (random.u64(1..4), Duration::from_millis(random.u64(0..CALL)));
            let admin = server.administrator()?;
            let mut removing = async |calls: u64| {
                for _ in 0..calls {
                    moderator.moderate(&admin, random).await?;
                }
                anyhow::Ok(())
            };
            tokio::try_join!(talk, removing(calls))?;
            // Mostly in the middle of another call.
            tokio::select! {
                removed = removing(u64::MAX) => removed?,
                () = tokio::time::sleep(moment) => {}
            }
        } else {
            talk.await?;
        }
        server.kill().await?;
        acts.send_replace(Act::Dead);
        server.set_build(rounds.build(round));
        if random.u64(0..4) == 0 {
            server.die_starting(Duration::from_millis(random.u64(0..STARTING))).await?;
        }
        server.restart_in_place().await.with_context(|| format!("start after kill {round}"))?;
        acts.send_replace(if round < rounds.count { Act::Talk(round) } else { Act::Settle });
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_however_often_the_server_is_killed() -> Result<()> {
    let count = number("TERTULIA_TEST_ROUNDS")?.unwrap_or(ROUNDS);
    talk_and_kill(Rounds { count, older: 0, moderated: false }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_removed_comes_back_and_nothing_else_is_lost_however_often_the_server_is_killed() -> Result<()> {
    let count = number("TERTULIA_TEST_ROUNDS")?.unwrap_or(MODERATED);
    talk_and_kill(Rounds { count, older: 0, moderated: true }).await
}

/// Kills the server while people talk, and judges what they saw and what is on the disk.
pub(crate) async fn talk_and_kill(rounds: Rounds) -> Result<()> {
    let seed = seed()?;
    let began = Instant::now();
    let mut random = fastrand::Rng::with_seed(seed);

    let options = ServerOptions::new().on_disk().host(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)));
    let options = options.set("log.retention.messages", 0).set("log.retention.bytes", 0);
    let mut server = options.build(rounds.build(0)).start().await?;
    let connector = server.connector().may_be_torn();
    let conversations = conversations()?;
    let groups: Vec<String> = conversations.iter().map(|conversation| conversation.name.clone()).collect();
    // What nobody posted to yet is not on the disk, and a crash ends its life.
    let mut opener = connector.extended("=opener=").await?;
    for group in &groups {
        opener.join(group).await?;
        opener.post(group, "=overture=", "1").await?;
    }
    let mut recordings = vec![opener.cut()];

    let (acts, act) = watch::channel(Act::Talk(0));
    let (archive, mut archived) = mpsc::unbounded_channel();
    let (settled, mut is_settled) = mpsc::unbounded_channel();
    let progress = Arc::new(Progress::default());
    let mut people = JoinSet::new();
    for conversation in &conversations {
        let speeches = speeches(conversation);
        let last = speeches.len() - 1;
        for (index, (nick, lines)) in speeches.into_iter().enumerate() {
            let scene = Scene {
                connector: connector.clone(),
                group: conversation.name.clone(),
                curtain: CURTAIN.to_owned(),
                archive: archive.clone(),
                progress: Arc::clone(&progress),
                act: act.clone(),
                settled: settled.clone(),
            };
            let dialect = if index == last { Dialect::Classic } else { Dialect::Extended };
            people.spawn(Participant::new(scene, &nick, dialect, lines).run());
        }
    }
    drop(archive);

    let count = people.len();
    let mut moderator = Moderator { groups: groups.clone(), ..Moderator::default() };
    let killing = kill_again_and_again(&mut server, &mut random, rounds, &mut moderator, &acts, &progress);
    let failing = async {
        // Before the curtain, a participant ends only if something is wrong.
        match people.join_next().await {
            Some(ended) => ended?.map(drop),
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        killed = killing => killed?,
        failed = failing => failed.context("somebody left early")?,
    }
    let everybody = async {
        for _ in 0..count {
            is_settled.recv().await.context("all have gone")?;
        }
        Ok(())
    };
    within(PATIENCE, "everybody to have nothing under way", everybody).await?;
    let mut closer = connector.extended("=closer=").await?;
    for group in &groups {
        closer.join(group).await?;
        closer.post(group, CURTAIN, "1").await?;
    }
    acts.send_replace(Act::Curtain);
    let mut visits = 0;
    while let Some(ended) =
        within(PATIENCE, "everybody to see the curtain", async { Ok(people.join_next().await) }).await?
    {
        visits += ended??;
    }
    let mut logs = Vec::new();
    for group in &groups {
        closer.reader.until_text(group, CURTAIN).await?;
        logs.push(closer.read_log(group).await?);
    }
    recordings.push(Client::settled(closer));
    while let Some(recording) = archived.recv().await {
        recordings.push(recording);
    }
    let verdict = check(&recordings, &logs);
    println!("{} kills and {visits} visits in {:?}: {:?}", rounds.count, began.elapsed(), verdict.facts);
    assert!(verdict.violations.is_empty(), "TERTULIA_TEST_SEED={seed}: {verdict}");
    let removals = check_removals(&moderator.removed, &logs);
    println!("{} removals of {} messages", moderator.removed.len(), removals.facts.removed);
    assert!(removals.violations.is_empty(), "TERTULIA_TEST_SEED={seed}: {removals}");
    assert!(!rounds.moderated || removals.facts.removed > rounds.count, "hardly anything was removed");
    let facts = verdict.facts;
    assert!(
        facts.acknowledged > 10 * rounds.count && facts.deliveries > facts.messages,
        "hardly anything happened: {facts:?}"
    );

    let messages: usize = logs.iter().map(|log| log.messages.len()).sum();
    server.terminate()?;
    assert!(server.wait(PATIENCE).await?.success());
    let (code, told, complaint) = run(&["log", "verify"], &server.data_dir())?;
    assert_eq!(code, Some(0), "{complaint}");
    assert!(told.contains(&format!("{messages} messages")), "{told}");
    Ok(())
}
