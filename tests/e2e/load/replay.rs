//! Conversations of real people, held again at full speed, and judged.
//!
//! Each file is a group and each nick a client; every fifth is classic. Who speaks without having been seen coming joins
//! first: it was there before the log begins. A renamed client connects anew under its new name and resumes where it stood. Who
//! is seen coming while it is there (logs do not show lost connections) has lost its connection: it resumes, and posts again
//! what was not answered. What the channel itself says is posted by a client of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::checker::Facts;
use harness::irc::{Conversation, Happening, real_conversations};
use harness::recording::Dialect;
use harness::{Client, Server, check};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use crate::actor::{Actor, Command, Exit, Scene};
use crate::machine;

/// Conversations held at the same time: with some 250 connections each.
const AT_ONCE: usize = 8;
/// How long an actor waits for something while thousands talk.
const PATIENCE: Duration = Duration::from_secs(240);
/// One of so many clients is classic.
const CLASSIC: usize = 5;
/// Who posts what the channel itself says.
const CHANNEL: &str = "=channel=";
/// The last thing that is said.
const CURTAIN: &str = "=curtain=";

/// A conversation under way.
struct Stage {
    scene: Scene,
    present: HashMap<String, Actor>,
    gone: Vec<JoinHandle<Result<Exit>>>,
    joins: usize,
}

/// What was judged of one conversation.
#[derive(Debug, Default)]
struct Outcome {
    lines: usize,
    clients: usize,
    facts: Facts,
}

impl Stage {
    /// Somebody comes, maybe in the place of somebody who has been told to go.
    fn enter(&mut self, nick: &str, before: Option<Actor>) {
        self.joins += 1;
        let dialect = match &before {
            Some(before) => before.dialect,
            None if self.joins.is_multiple_of(CLASSIC) => Dialect::Classic,
            None => Dialect::Extended,
        };
        let actor = Actor::start(&self.scene, nick, dialect, before.map(|before| before.task));
        self.present.insert(nick.to_owned(), actor);
    }

    fn speaker(&mut self, nick: &str) -> &Actor {
        if !self.present.contains_key(nick) {
            self.enter(nick, None);
        }
        &self.present[nick]
    }

    async fn happen(&mut self, line: usize, happening: &Happening) {
        match happening {
            Happening::Said { nick, text } => self.speaker(nick).tell(Command::Post(line, text.clone())).await,
            Happening::Did { nick, text } => {
                let text = format!("* {nick} {text}");
                self.speaker(nick).tell(Command::Post(line, text)).await;
            }
            Happening::Noticed { text } => self.speaker(CHANNEL).tell(Command::Post(line, text.clone())).await,
            Happening::Joined { nick } => match self.present.remove(nick) {
                None => self.enter(nick, None),
                Some(before) => {
                    before.tell(Command::Vanish).await;
                    self.enter(nick, Some(before));
                }
            },
            Happening::Left { nick } => {
                self.speaker(nick);
                self.dismiss(nick).await;
            }
            Happening::Renamed { from, to } => {
                self.speaker(from);
                // Whoever has the new name goes first.
                self.dismiss(to).await;
                if let Some(before) = self.present.remove(from) {
                    before.tell(Command::Leave).await;
                    self.enter(to, Some(before));
                }
            }
        }
    }

    async fn dismiss(&mut self, nick: &str) {
        if let Some(actor) = self.present.remove(nick) {
            actor.tell(Command::Leave).await;
            self.gone.push(actor.task);
        }
    }

    /// Waits until all that was said is in the log, says one last thing, and waits until everybody has heard it.
    async fn curtain(mut self, observer: &mut Client) -> Result<()> {
        for task in self.gone.drain(..) {
            task.await??;
        }
        let mut settled = Vec::new();
        for actor in self.present.values() {
            let (done, is_done) = oneshot::channel();
            actor.tell(Command::Settle(done)).await;
            settled.push(is_done);
        }
        for is_done in settled {
            // One that has failed says so below.
            drop(is_done.await);
        }
        observer.post(&self.scene.group, CURTAIN, CURTAIN).await?;
        for actor in self.present.values() {
            actor.tell(Command::Curtain(CURTAIN.to_owned())).await;
        }
        for actor in self.present.into_values() {
            actor.task.await??;
        }
        Ok(())
    }
}

/// Holds one conversation, and judges all that everybody saw.
async fn hold(server: &Server, conversation: &Conversation) -> Result<Outcome> {
    let (archive, mut recordings) = mpsc::unbounded_channel();
    let connector = server.connector().patience(PATIENCE);
    let mut observer = connector.extended("=observer=").await?;
    let group = conversation.name.clone();
    observer.join(&group).await?;
    let scene = Scene { connector, group, archive };
    let mut stage = Stage { scene, present: HashMap::new(), gone: Vec::new(), joins: 0 };
    for (line, happening) in conversation.happenings.iter().enumerate() {
        stage.happen(line, happening).await;
    }
    stage.curtain(&mut observer).await?;
    observer.reader.until_text(&conversation.name, CURTAIN).await?;
    let log = observer.read_log(&conversation.name).await?;

    let mut all = vec![observer.settled()];
    while let Some(recording) = recordings.recv().await {
        all.push(recording);
    }
    let verdict = check(&all, std::slice::from_ref(&log));
    assert!(verdict.violations.is_empty(), "{}: {verdict}", conversation.name);
    let said = conversation.happenings.iter().filter(|happening| {
        matches!(happening, Happening::Said { .. } | Happening::Did { .. } | Happening::Noticed { .. })
    });
    let kept =
        log.messages.iter().filter(|message| !message.text.contains("has said all, ") && &*message.text != CURTAIN);
    assert_eq!(kept.count(), said.count(), "{}: everything that was said is in the log, once", conversation.name);
    Ok(Outcome { lines: conversation.happenings.len(), clients: all.len(), facts: verdict.facts })
}

/// Holds conversations, several at the same time, on one server.
async fn hold_all(conversations: Vec<Conversation>) -> Result<Outcome> {
    let began = Instant::now();
    let server = Arc::new(Server::start().await?);
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut held = JoinSet::new();
    for conversation in conversations {
        let (server, places) = (Arc::clone(&server), Arc::clone(&places));
        held.spawn(async move {
            let _place = places.acquire_owned().await?;
            hold(&server, &conversation).await.with_context(|| format!("conversation {}", conversation.name))
        });
    }
    let mut total = Outcome::default();
    while let Some(outcome) = held.join_next().await {
        let outcome = outcome??;
        total.lines += outcome.lines;
        total.clients += outcome.clients;
        total.facts.messages += outcome.facts.messages;
        total.facts.deliveries += outcome.facts.deliveries;
        total.facts.acknowledged += outcome.facts.acknowledged;
        total.facts.joins += outcome.facts.joins;
    }
    println!(
        "{total:?} in {:?}; the server's peak memory: {} bytes",
        began.elapsed(),
        server.process().peak_resident_bytes()?
    );
    Ok(total)
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_conversation() -> Result<()> {
    let _machine = machine().await;
    let total = hold_all(vec![Conversation::ours()]).await?;
    assert!(total.lines > 50 && total.facts.deliveries > 150, "{total:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn real_conversations_of_real_people() -> Result<()> {
    let _machine = machine().await;
    let Some(conversations) = real_conversations()? else { return Ok(()) };
    let lines: usize = conversations.iter().map(|conversation| conversation.happenings.len()).sum();
    let total = hold_all(conversations).await?;
    assert_eq!(total.lines, lines);
    assert!(total.facts.deliveries > 50 * total.facts.messages, "{total:?}");
    Ok(())
}
