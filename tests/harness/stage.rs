//! A conversation of real people, held again at full speed, and judged.
//!
//! Each file is a group and each nick a client; every fifth is classic. Who speaks without having been seen coming joins
//! first: it was there before the log begins. A renamed client connects anew under its new name and resumes where it stood. Who
//! is seen coming while it is there (logs do not show lost connections) has lost its connection: it resumes, and posts again
//! what was not answered. What the channel itself says is posted by a client of its own.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::actor::{Actor, Command, Exit, Scene};
use crate::checker::Facts;
use crate::irc::{Conversation, Happening};
use crate::recording::Dialect;
use crate::{Client, Connector, check};

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
pub struct Outcome {
    /// Lines of the conversation.
    pub lines: usize,
    /// Clients that took part.
    pub clients: usize,
    /// How much was judged.
    pub facts: Facts,
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
///
/// # Errors
/// If somebody does not see in time what is to come, or something does not keep to the promises.
pub async fn hold(connector: Connector, conversation: &Conversation) -> Result<Outcome> {
    let (archive, mut recordings) = mpsc::unbounded_channel();
    let connector = connector.patience(PATIENCE);
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
    ensure!(verdict.violations.is_empty(), "{}: {verdict}", conversation.name);
    let said = conversation.happenings.iter().filter(|happening| {
        matches!(happening, Happening::Said { .. } | Happening::Did { .. } | Happening::Noticed { .. })
    });
    let kept =
        log.messages.iter().filter(|message| !message.text.contains("has said all, ") && &*message.text != CURTAIN);
    let (kept, said) = (kept.count(), said.count());
    ensure!(kept == said, "{}: {said} lines were said, {kept} are in the log", conversation.name);
    Ok(Outcome { lines: conversation.happenings.len(), clients: all.len(), facts: verdict.facts })
}
