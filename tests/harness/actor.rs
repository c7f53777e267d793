//! One participant of a conversation that is held again: a connection, and what it is told to do.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::recording::Dialect;
use crate::{Client, Connector, Event, Recording};

/// Commands that wait for one actor.
const COMMANDS: usize = 64;

/// What an actor is told to do.
pub enum Command {
    /// Post this line; its number is the id.
    Post(usize, String),
    /// Leave the group and close, when all posts are answered.
    Leave,
    /// Lose the connection, whatever is unanswered (extended), or close it at once (classic).
    Vanish,
    /// Say when all posts so far are in the log.
    Settle(oneshot::Sender<()>),
    /// See this text, then end the recording with nothing missing.
    Curtain(String),
}

/// What remains of an actor that has gone, for whoever takes its place.
#[derive(Default)]
pub struct Exit {
    /// Where it stood in the group.
    place: Option<(u64, u64)>,
    /// What may or may not have been posted.
    unanswered: BTreeMap<usize, String>,
}

/// Where actors put their recordings.
pub type Archive = mpsc::UnboundedSender<Recording>;

/// Where a conversation is held.
#[derive(Clone)]
pub struct Scene {
    /// Makes its connections.
    pub connector: Connector,
    /// The group.
    pub group: String,
    /// Takes the recordings.
    pub archive: Archive,
}

/// A participant.
pub struct Actor {
    /// What it speaks.
    pub dialect: Dialect,
    /// Its end.
    pub task: JoinHandle<Result<Exit>>,
    commands: mpsc::Sender<Command>,
}

impl Actor {
    /// Starts a participant. It resumes where its predecessor stood, and posts again what that one had no answer to.
    pub fn start(scene: &Scene, nick: &str, dialect: Dialect, before: Option<JoinHandle<Result<Exit>>>) -> Self {
        let (commands, orders) = mpsc::channel(COMMANDS);
        // Some clients of the time let blanks into a name.
        let (scene, nick) = (scene.clone(), nick.replace(char::is_whitespace, "_"));
        let task = tokio::spawn(async move {
            let before = match before {
                None => Exit::default(),
                Some(before) => before.await??,
            };
            let what = format!("{nick} in {}", scene.group);
            let part = async { Part::enter(scene, &nick, dialect, before).await?.play(orders).await };
            part.await.context(what)
        });
        Self { dialect, task, commands }
    }

    /// Tells the actor something. One that has failed says why when its task is awaited.
    pub async fn tell(&self, command: Command) {
        drop(self.commands.send(command).await);
    }
}

/// An actor in its group.
struct Part {
    client: Client,
    nick: String,
    group: String,
    archive: Archive,
    dialect: Dialect,
    unanswered: BTreeMap<usize, String>,
    /// How often a classic actor has made sure that its posts are in the log.
    settled: usize,
}

impl Part {
    async fn enter(scene: Scene, nick: &str, dialect: Dialect, before: Exit) -> Result<Self> {
        let Scene { connector, group, archive } = scene;
        let mut client = match dialect {
            Dialect::Classic => connector.classic(nick).await?,
            Dialect::Extended => connector.extended(nick).await?,
        };
        match (dialect, before.place) {
            (Dialect::Classic, _) => client.writer.join(&group).await?,
            (Dialect::Extended, None) => drop(client.join(&group).await?),
            (Dialect::Extended, Some((after, epoch))) => {
                let joined = client.join_from(&group, Some(after), None, Some(epoch)).await?;
                if !joined.recovered {
                    bail!("not recovered after {after}: {joined:?}");
                }
            }
        }
        let nick = nick.to_owned();
        let mut part = Self { client, nick, group, archive, dialect, unanswered: BTreeMap::new(), settled: 0 };
        for (line, text) in before.unanswered {
            part.post(line, text).await?;
        }
        Ok(part)
    }

    async fn play(mut self, mut orders: mpsc::Receiver<Command>) -> Result<Exit> {
        loop {
            let order = tokio::select! {
                event = self.client.reader.next() => {
                    let event = event?.context("the server closed the connection")?;
                    self.note(&event)?;
                    continue;
                }
                order = orders.recv() => order.context("nobody tells this actor what to do")?,
            };
            match order {
                Command::Post(line, text) => self.post(line, text).await?,
                Command::Leave => return self.leave().await,
                // Whoever closes with something unread resets the connection, and the server may not have read what came before. An
                // extended actor posts that again. A classic one, which hears no answer, could only lose it: it takes its leave.
                Command::Vanish if self.dialect == Dialect::Classic => return self.leave().await,
                Command::Vanish => return self.exit(),
                Command::Settle(done) => {
                    self.settle().await?;
                    done.send(()).ok();
                }
                Command::Curtain(text) => {
                    self.client.reader.until_text(&self.group, &text).await?;
                    self.archive.send(self.client.settled())?;
                    return Ok(Exit::default());
                }
            }
        }
    }

    fn note(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Posted(posted) => {
                let line = posted.id.as_deref().and_then(|id| id.parse().ok()).context("an answer without an id")?;
                self.unanswered.remove(&line);
            }
            Event::Rejected(_) | Event::Error(_) | Event::GoingAway(_) | Event::Left(_) => {
                bail!("unexpected: {event:?}")
            }
            _ => {}
        }
        Ok(())
    }

    async fn post(&mut self, line: usize, text: String) -> Result<()> {
        self.client.writer.post(&self.group, &text, Some(&line.to_string())).await?;
        if self.dialect == Dialect::Extended {
            self.unanswered.insert(line, text);
        }
        Ok(())
    }

    /// Waits until all posts are in the log.
    async fn settle(&mut self) -> Result<()> {
        match self.dialect {
            Dialect::Extended => {
                let unanswered = &mut self.unanswered;
                if unanswered.is_empty() {
                    return Ok(());
                }
                let all_answered = |event: &Event| {
                    if let Event::Posted(posted) = event {
                        unanswered.retain(|line, _| posted.id.as_deref() != Some(&*line.to_string()));
                    }
                    unanswered.is_empty().then_some(())
                };
                self.client.reader.until("the answers to all posts", all_answered).await
            }
            // Posts are not answered, but they come back to a member, in their order.
            Dialect::Classic => {
                self.settled += 1;
                let marker = format!("{} has said all, {} times", self.nick, self.settled);
                self.client.writer.post(&self.group, &marker, None).await?;
                self.client.reader.until_text(&self.group, &marker).await
            }
        }
    }

    async fn leave(mut self) -> Result<Exit> {
        match self.dialect {
            Dialect::Extended => {
                self.settle().await?;
                self.client.writer.leave(&self.group).await?;
                self.client.reader.until("Left", |event| matches!(event, Event::Left(_)).then_some(())).await?;
            }
            // It says that it will send no more, and the server finishes what it has sent.
            Dialect::Classic => {
                self.client.writer.shutdown().await?;
                self.client.reader.until_closed().await?;
            }
        }
        self.exit()
    }

    fn exit(self) -> Result<Exit> {
        let place = self.client.resume_point(&self.group).filter(|_| self.dialect == Dialect::Extended);
        self.archive.send(self.client.cut())?;
        Ok(Exit { place, unanswered: self.unanswered })
    }
}
