//! One who takes part in a conversation while the server is killed again and again.
//!
//! An extended participant posts with ids, some at a time without waiting for the answers. When the server is gone it comes back, resumes after the
//! last message it saw, and posts again what was not answered. A classic one hears no answers and knows no ids: it says its next line when the one
//! before has come back, and after a crash it does not know about the last and goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use harness::recording::{Dialect, Recording};
use harness::{Client, Connector, Event};
use tokio::sync::{Notify, mpsc, watch};

/// Posts that wait for an answer.
const WINDOW: usize = 8;

/// What is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// The server runs, for the so manieth time: come in and talk.
    Talk(u64),
    /// The server is dead: wait.
    Dead,
    /// The server runs and is killed no more: post again what is unanswered, and nothing new.
    Settle,
    /// Everything has been said: see the last message.
    Curtain,
}

/// Counts what participants see, so that a moment can be chosen by what has happened.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    seen: AtomicU64,
    changed: Notify,
}

impl Progress {
    fn step(&self) {
        self.seen.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Waits until participants have had `count` more answers and messages.
    pub(crate) async fn more(&self, count: u64) {
        let wanted = self.seen.load(Ordering::Relaxed) + count;
        while self.seen.load(Ordering::Relaxed) < wanted {
            self.changed.notified().await;
        }
    }
}

/// Where it happens.
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    pub(crate) connector: Connector,
    pub(crate) group: String,
    pub(crate) curtain: String,
    pub(crate) archive: mpsc::UnboundedSender<Recording>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) act: watch::Receiver<Act>,
    /// Told by each participant once nothing of it is under way any more.
    pub(crate) settled: mpsc::UnboundedSender<()>,
}

/// A participant and what it has to say.
pub(crate) struct Participant {
    pub(crate) scene: Scene,
    pub(crate) nick: String,
    pub(crate) dialect: Dialect,
    /// Said again from the beginning when all was said.
    pub(crate) lines: Vec<String>,
    said: u64,
    /// Extended: posted and not answered, by number.
    unanswered: BTreeMap<u64, String>,
    /// Extended: where it stood in the group.
    place: Option<(u64, u64)>,
    /// Whether it has told that it is settled.
    told: bool,
    /// How often it came in.
    visits: u64,
}

/// How a stay ended.
enum Stay {
    /// The connection is gone.
    CutOff,
    /// The last message was seen.
    Over,
}

impl Participant {
    pub(crate) fn new(scene: Scene, nick: &str, dialect: Dialect, lines: Vec<String>) -> Self {
        let (unanswered, place) = (BTreeMap::new(), None);
        Self { scene, nick: nick.to_owned(), dialect, lines, said: 0, unanswered, place, told: false, visits: 0 }
    }

    /// Takes part until the curtain. Answers how often it came in.
    pub(crate) async fn run(mut self) -> Result<u64> {
        let what = format!("{} in {}", self.nick, self.scene.group);
        let part = async {
            loop {
                self.scene.act.wait_for(|act| *act != Act::Dead).await?;
                // Whoever does not get in comes back with the next start of the server.
                let before = *self.scene.act.borrow();
                if let Some(Stay::Over) = self.visit().await? {
                    return Ok(self.visits);
                }
                if !matches!(before, Act::Talk(_)) {
                    bail!("cut off though nobody killed the server");
                }
                self.scene.act.wait_for(|act| *act != before).await?;
            }
        };
        part.await.context(what)
    }

    /// Comes in and stays as long as the connection does; `None` if it did not come in.
    async fn visit(&mut self) -> Result<Option<Stay>> {
        let connected = match self.dialect {
            Dialect::Classic => self.scene.connector.classic(&self.nick).await,
            Dialect::Extended => self.scene.connector.extended(&self.nick).await,
        };
        let Ok(mut client) = connected else { return Ok(None) };
        let stay = match self.enter(&mut client).await? {
            true => self.stay(&mut client).await?,
            false => Stay::CutOff,
        };
        self.place = client.resume_point(&self.scene.group).or(self.place);
        let recording = if matches!(stay, Stay::Over) { client.settled() } else { client.cut() };
        self.scene.archive.send(recording)?;
        Ok(Some(stay))
    }

    /// Joins, and posts again what is unanswered. `false` if the connection went.
    async fn enter(&mut self, client: &mut Client) -> Result<bool> {
        let (after, epoch) = self.place.unzip();
        if client.writer.join_from(&self.scene.group, after, None, epoch).await.is_err() {
            return Ok(false);
        }
        for (number, text) in &self.unanswered {
            if client.writer.post(&self.scene.group, text, Some(&number.to_string())).await.is_err() {
                return Ok(false);
            }
        }
        self.visits += 1;
        Ok(true)
    }

    async fn stay(&mut self, client: &mut Client) -> Result<Stay> {
        // A line that a classic participant waits to see.
        let mut awaited: Option<String> = None;
        // Whether a classic participant has said one line since it was told to settle: when that is back, it is a member.
        let mut said_last = self.dialect == Dialect::Extended;
        loop {
            let act = *self.scene.act.borrow_and_update();
            let has_room = match self.dialect {
                Dialect::Extended => self.unanswered.len() < WINDOW,
                Dialect::Classic => awaited.is_none(),
            };
            let is_quiet = self.unanswered.is_empty() && awaited.is_none();
            if act == Act::Settle && is_quiet && said_last && !self.told {
                self.told = true;
                self.scene.settled.send(())?;
            }
            let last_line = act == Act::Settle && !said_last;
            if has_room && (matches!(act, Act::Talk(_)) || last_line) {
                said_last |= last_line;
                self.said += 1;
                let line = &self.lines[(self.said as usize - 1) % self.lines.len()];
                let text = format!("{line} ({} {})", self.nick, self.said);
                if client.writer.post(&self.scene.group, &text, Some(&self.said.to_string())).await.is_err() {
                    self.remember(text);
                    return Ok(Stay::CutOff);
                }
                match self.dialect {
                    Dialect::Extended => self.remember(text),
                    Dialect::Classic => awaited = Some(text),
                }
                continue;
            }
            let event = tokio::select! {
                event = client.reader.next() => event?,
                changed = self.scene.act.changed() => {
                    changed?;
                    continue;
                }
            };
            let Some(event) = event else { return Ok(Stay::CutOff) };
            self.scene.progress.step();
            match &event {
                Event::Posted(posted) => {
                    let number =
                        posted.id.as_deref().and_then(|id| id.parse().ok()).context("an answer without an id")?;
                    self.unanswered.remove(&number);
                }
                Event::Joined(joined) if self.place.is_some() && !joined.recovered => {
                    bail!("something is missing after {:?}: {joined:?}", self.place);
                }
                Event::Text(text) if awaited.as_deref() == Some(&*text.text) => awaited = None,
                Event::Rejected(_) | Event::Error(_) | Event::GoingAway(_) | Event::Left(_) => {
                    bail!("unexpected: {event:?}")
                }
                _ => {}
            }
            let last = match &event {
                Event::Message(message) => *message.text == *self.scene.curtain,
                Event::Text(text) => *text.text == *self.scene.curtain,
                _ => false,
            };
            if last {
                if !self.unanswered.is_empty() {
                    bail!("never answered: {:?}", self.unanswered);
                }
                return Ok(Stay::Over);
            }
        }
    }

    fn remember(&mut self, text: String) {
        if self.dialect == Dialect::Extended {
            self.unanswered.insert(self.said, text);
        }
    }
}
