//! What other nodes ask of this one.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Relay;
use super::link::Link;
use super::membership::{Membership, View};
use super::metrics;
use crate::log::nats::{Left, Nats};
use crate::shard::peers::Order;
use crate::shard::wire::Listing;
use crate::shard::{Covered, Held, Hold, Listed, Part, Shards};

/// Questions that are being answered at a time; further ones wait.
const AT_ONCE: usize = 256;
/// How long this node waits to learn of a change that another one knows.
const CATCH_UP: Duration = Duration::from_secs(1);

/// A question. A kind that a node does not know it does not answer, so that the one that asks goes on without.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(super) enum Question {
    /// Give up a shard, which is another node's from the `version` of the map on.
    Release { shard: u16, version: u64 },
    /// The groups of this node's shards.
    Groups { prefix: String, after: Option<String>, limit: usize },
    /// Of a newer version.
    #[serde(other)]
    Unknown,
}

/// An answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(super) enum Answer {
    /// The shard is given up. With it goes what moderators held there of late, which the other node may not know yet, and what was
    /// known of its messages.
    Released {
        #[serde(default)]
        holds: Option<Vec<Hold>>,
        /// The same for builds that do not keep holds for all nodes. One of these tells only this, and all it has: nobody else knows.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        held: Vec<Held>,
        #[serde(default)]
        left: Option<Left>,
    },
    /// The shard was not this node's.
    NotHeld,
    /// The shard is this node's, by the map of that version.
    Mine {
        version: u64,
    },
    Groups {
        groups: Vec<Listing>,
        shards: u16,
        /// Of which shards these are all. Older builds do not tell.
        #[serde(default)]
        covers: Option<Covered>,
    },
    Failed {
        why: String,
    },
    /// Of a newer version.
    #[serde(other)]
    Unknown,
}

#[derive(Clone)]
pub(super) struct Desk {
    link: Arc<Link>,
    nats: Nats,
    shards: Shards,
    membership: Arc<Membership>,
    view: watch::Receiver<Arc<View>>,
    /// When another node asked for a shard last.
    asked: watch::Sender<Instant>,
}

impl Desk {
    pub(super) fn new(link: Arc<Link>, nats: Nats, shards: Shards, membership: Arc<Membership>) -> Self {
        let view = membership.view();
        Self { link, nats, shards, membership, view, asked: watch::Sender::new(Instant::now()) }
    }

    /// When another node asked for a shard last.
    pub(super) fn asked(&self) -> watch::Receiver<Instant> {
        self.asked.subscribe()
    }

    /// Opens the desk: from now on questions come in.
    pub(super) async fn listen(&self) -> BoxStream<'static, async_nats::Message> {
        match self.link.questions().await {
            Ok(questions) => questions.boxed(),
            Err(error) => {
                tracing::error!(%error, "other nodes cannot ask this one");
                futures_util::stream::pending().boxed()
            }
        }
    }

    pub(super) async fn serve(
        self,
        mut questions: BoxStream<'static, async_nats::Message>,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) {
        let room = Arc::new(Semaphore::new(AT_ONCE));
        while let Some(Some(message)) = stop.run_until_cancelled(questions.next()).await {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            let mut desk = self.clone();
            tasks.spawn(async move {
                if let (Some(reply), Ok(question)) = (message.reply, serde_json::from_slice(&message.payload)) {
                    let answer = desk.answer(question).await;
                    desk.link.send(reply.to_string(), fitting(answer, desk.link.frame_bytes()).into());
                }
                drop(place);
            });
        }
    }

    async fn answer(&mut self, question: Question) -> Answer {
        match question {
            Question::Release { shard, version } => self.release(shard, version).await,
            Question::Groups { prefix, after, limit } => {
                match self.shards.own_groups(&prefix, after.as_deref(), limit).await {
                    Ok(Part { groups, covers }) => {
                        let groups = groups.iter().map(Listed::tell).collect();
                        Answer::Groups { groups, shards: self.shards.map().shards(), covers: Some(covers) }
                    }
                    Err(error) => Answer::Failed { why: error.reason },
                }
            }
            Question::Unknown => Answer::Failed { why: "this node does not know the question".to_owned() },
        }
    }

    async fn release(&mut self, shard: u16, version: u64) -> Answer {
        self.asked.send_replace(Instant::now());
        let name = self.shards.node().to_owned();
        if self.view.borrow().version < version {
            self.membership.hasten();
        }
        let knows = async { self.view.wait_for(|view| view.version >= version).await.is_ok() };
        let is_behind = !tokio::time::timeout(CATCH_UP, knows).await.unwrap_or(false);
        let view = Arc::clone(&self.view.borrow());
        let is_mine = view.map(self.shards.map().shards()).owner(shard) == Some(name.as_str());
        if is_behind || is_mine {
            return Answer::Mine { version: view.version };
        }
        release(&self.shards, &self.nats, shard).await
    }
}

/// Gives up a shard: finishes what is under way, and lets others extend it.
pub(super) async fn release(shards: &Shards, nats: &Nats, shard: u16) -> Answer {
    if !shards.is_owned(shard) {
        return Answer::NotHeld;
    }
    let (done, released) = oneshot::channel();
    shards.order(shard, Order::Release { done }).await;
    let Ok(holds) = released.await else { return Answer::NotHeld };
    let left = nats.release(shard).await;
    metrics::handovers().increment(1);
    let held = holds.iter().filter(|hold| shards.holds().covers(hold)).filter_map(Held::of).collect();
    Answer::Released { holds: Some(holds), held, left }
}

/// The answer in a message, which may have so many bytes. A larger one would not get through, and the other node wait for it in vain: it
/// reads what it is not told of the shard, and the bucket has the holds.
fn fitting(mut answer: Answer, most: usize) -> Vec<u8> {
    loop {
        let message = serde_json::to_vec(&answer).unwrap_or_default();
        if message.len() <= most {
            return message;
        }
        match &mut answer {
            Answer::Released { left: left @ Some(_), .. } => *left = None,
            Answer::Released { held, .. } if !held.is_empty() => held.clear(),
            // The newest may not be everywhere yet.
            Answer::Released { holds: Some(holds), .. } if !holds.is_empty() => {
                drop(holds.drain(..holds.len().div_ceil(2)));
            }
            _ => return message,
        }
    }
}

/// Answers the calls of the admin API that other nodes relay.
pub(super) async fn answer_calls(
    link: Arc<Link>,
    mut calls: async_nats::Subscriber,
    relay: Relay,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(Some(message)) = stop.run_until_cancelled(calls.next()).await {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let end = message.payload.iter().position(|byte| *byte == b'\n');
        let (Some(reply), Some(end)) = (message.reply, end) else { continue };
        let name = String::from_utf8_lossy(&message.payload[..end]).into_owned();
        let answer = relay(name, message.payload.slice(end + 1..));
        let link = Arc::clone(&link);
        tasks.spawn(async move {
            let answer = answer.await.map_or_else(|| vec![0], |answer| [&[1], &answer[..]].concat());
            link.send(reply.to_string(), answer.into());
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tertulia_protocol::{GroupName, UserName};

    use super::*;
    use crate::shard::Target;

    /// As builds wrote and read it that do not keep holds for all nodes.
    const OLDER: &str = r#"{"answer":"released","held":[{"group":"Dogs","target":{"User":"eve"},"left":{"secs":60,"nanos":0}}],"left":null}"#;

    fn hold() -> Hold {
        let eve = Target::User(UserName::new("eve").unwrap());
        Hold::new(Some(GroupName::new("Dogs").unwrap()), Some(eve), Duration::from_secs(60))
    }

    #[test]
    fn what_is_left_out_of_an_answer_is_what_the_other_node_finds_by_itself() {
        let all: Vec<Hold> = (0..1_000).map(|number| Hold { until: hold().until + number, ..hold() }).collect();
        let left = serde_json::from_str(r#"{"fence":12,"names":["Dogs"],"groups":[]}"#).unwrap();
        let held = all.iter().filter_map(Held::of).collect();
        let whole = Answer::Released { holds: Some(all.clone()), held, left };
        let fit = |most| {
            let message = fitting(whole.clone(), most);
            assert!(message.len() <= most, "{} of {most}", message.len());
            let Answer::Released { holds: Some(holds), held, left } = serde_json::from_slice(&message).unwrap() else {
                panic!("{message:?}");
            };
            (holds, held.len(), left.is_some())
        };
        let size = serde_json::to_vec(&whole).unwrap().len();
        assert_eq!(fit(size), (all.clone(), 1_000, true));
        assert_eq!(fit(size - 1), (all.clone(), 1_000, false));
        assert_eq!(fit(size * 2 / 3), (all.clone(), 0, false));
        assert_eq!(fit(size / 3), (all[500..].to_vec(), 0, false), "the newest are told");
    }

    #[test]
    fn an_older_build_tells_its_holds_in_its_own_way() {
        let Answer::Released { holds: None, held, left: None } = serde_json::from_str(OLDER).unwrap() else {
            panic!("it is read otherwise");
        };
        let read: Vec<Hold> = held.into_iter().map(Hold::from).collect();
        assert_eq!((&read[0].group, &read[0].target, read.len()), (&hold().group, &hold().target, 1));
        assert!(read[0].until.abs_diff(hold().until) < 10_000, "{read:?}");
    }

    #[test]
    fn an_older_build_is_told_holds_in_its_own_way() {
        let held = Held::of(&hold()).into_iter().collect();
        let told = serde_json::to_value(Answer::Released { holds: Some(vec![hold()]), held, left: None }).unwrap();
        let older: serde_json::Value = serde_json::from_str(OLDER).unwrap();
        assert_eq!(told["held"][0]["target"], older["held"][0]["target"]);
        assert_eq!(told["held"][0]["group"], older["held"][0]["group"]);
        assert!(told["held"][0]["left"]["secs"].as_u64() > Some(50), "{told}");
        assert!(Held::of(&Hold::new(None, hold().target, Duration::ZERO)).is_none(), "a hold that has ended is none");
    }
}
