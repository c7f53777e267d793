//! What happens on all nodes, for those who watch on this one.
//!
//! A node on which somebody watches says so on `<prefix>.watching`, again and again; every node that has heard it lately publishes
//! what happens there on `<prefix>.events.<name>`. Each frame says how many happenings of its node end with it, and an empty one answers
//! each call, so that what got lost on the way is noticed within a second and told in its number. A node that begins publishes
//! for a while in any case: those who watch cannot have told it yet.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::membership::View;
use crate::shard::Events;
use crate::shard::events::Happening;

/// How often those who watch say so.
const CALL: Duration = Duration::from_secs(1);
/// For how long a node that heard it publishes: several calls may get lost.
const LEASE: Duration = Duration::from_secs(5);
/// How long the beginning of a watch waits for the other nodes.
const BEGINNING: Duration = Duration::from_secs(2);
/// Happenings in one frame.
const FRAME_EVENTS: usize = 128;
/// Happenings of other nodes that are kept for a watcher.
const KEPT_FOR_A_WATCHER: usize = 2_048;
/// Nodes that are remembered, also when they are gone.
const NODES: usize = 4_096;
/// Before it is tried again to reach NATS.
const PAUSE: Duration = Duration::from_millis(250);
/// How long the last frames may take.
const LAST_FRAMES: Duration = Duration::from_millis(500);

/// What another node told.
#[derive(Debug, Clone)]
pub struct Told {
    /// Its name.
    pub node: Arc<str>,
    /// What.
    pub news: News,
}

/// What happened on another node.
#[derive(Debug, Clone)]
pub enum News {
    /// This.
    Happened(Happening),
    /// So much that did not arrive here.
    Missed(u64),
}

/// Happenings of one node, in their order and without a gap.
#[derive(Debug, Serialize, Deserialize)]
struct Frame {
    node: Arc<str>,
    /// Differs with each start of the node.
    instance: String,
    /// How many there were on the node since it began, these included.
    last: u64,
    /// As values, so that one that this build does not know spoils no other.
    #[serde(default)]
    events: Vec<serde_json::Value>,
}

/// Where those who watch here get what happens elsewhere; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Gazette(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Client,
    prefix: String,
    name: Arc<str>,
    instance: Arc<str>,
    view: watch::Receiver<Arc<View>>,
    readers: broadcast::Sender<Arc<Told>>,
    /// Somebody began to read.
    begun: Notify,
    /// Whether the other nodes are heard.
    hears: watch::Sender<bool>,
}

impl Gazette {
    pub(super) fn new(
        client: Client,
        prefix: &str,
        name: &str,
        instance: Arc<str>,
        view: watch::Receiver<Arc<View>>,
    ) -> Self {
        let readers = broadcast::Sender::new(KEPT_FOR_A_WATCHER);
        let (begun, hears) = (Notify::new(), watch::Sender::new(false));
        let (prefix, name) = (prefix.to_owned(), Arc::from(name));
        Self(Arc::new(Inner { client, prefix, name, instance, view, readers, begun, hears }))
    }

    /// What happens on other nodes from now on. Waits until they are heard, or that takes too long: then what is heard of them later
    /// comes when it does.
    pub(super) async fn read(&self) -> broadcast::Receiver<Arc<Told>> {
        let reader = self.0.readers.subscribe();
        self.0.begun.notify_one();
        let mut hears = self.0.hears.subscribe();
        if tokio::time::timeout(BEGINNING, hears.wait_for(|hears| *hears)).await.is_err() {
            tracing::warn!("not all nodes tell what happens there yet");
        }
        reader
    }

    /// Listens to the others while somebody here reads, until `stop`.
    pub(super) async fn listen(self, stop: CancellationToken) {
        let listening = async {
            loop {
                if self.0.readers.receiver_count() == 0 {
                    self.0.begun.notified().await;
                    continue;
                }
                if let Err(error) = self.listen_once().await {
                    tracing::warn!(%error, "what happens on other nodes cannot be heard");
                    tokio::time::sleep(PAUSE).await;
                }
                self.0.hears.send_replace(false);
            }
        };
        stop.run_until_cancelled(listening).await;
    }

    /// Listens until nobody reads any more.
    async fn listen_once(&self) -> Result<(), async_nats::Error> {
        let Inner { client, prefix, name, view, readers, hears, .. } = &*self.0;
        let mut frames = client.subscribe(format!("{prefix}.events.*")).await?;
        // The servers know of it before the others are called.
        client.flush().await?;
        let mut heard = Heard::default();
        let mut calls = tokio::time::interval(CALL);
        let begun = Instant::now();
        while readers.receiver_count() > 0 {
            tokio::select! {
                _ = calls.tick() => client.publish(format!("{prefix}.watching"), Bytes::new()).await?,
                frame = frames.next() => {
                    let Some(frame) = frame else { return Err("the subscription has ended".into()) };
                    match serde_json::from_slice::<Frame>(&frame.payload) {
                        Ok(frame) if frame.node == *name => {}
                        Ok(frame) => heard.take(frame, |told| {
                            // Nobody may read any more.
                            drop(readers.send(Arc::new(told)));
                        }),
                        Err(error) => tracing::warn!(%error, "a frame of events that is none"),
                    }
                }
            }
            if !*hears.borrow() {
                let others = view.borrow().nodes.iter().map(|node| node.name.clone()).collect::<Vec<_>>();
                let is_heard = |other: &String| **other == **name || heard.has(other);
                if others.iter().all(is_heard) || begun.elapsed() > BEGINNING {
                    heard.begin(others.iter().filter(|other| ***other != **name));
                    hears.send_replace(true);
                }
            }
        }
        Ok(())
    }

    /// Publishes what happens here while somebody elsewhere wants to know it, until `stop`; then what is left.
    pub(super) async fn publish(self, events: Events, stop: CancellationToken) {
        let mut until = Instant::now() + LEASE;
        // NATS may take nothing any more.
        let over = async {
            stop.cancelled().await;
            tokio::time::sleep(2 * LAST_FRAMES).await;
        };
        let publishing = async {
            while !stop.is_cancelled() {
                if let Err(error) = self.publish_once(&events, &mut until, &stop).await {
                    tracing::warn!(%error, "what happens here cannot be told to other nodes");
                    stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
                }
            }
        };
        tokio::select! {
            () = publishing => {}
            () = over => {}
        }
    }

    async fn publish_once(
        &self,
        events: &Events,
        until: &mut Instant,
        stop: &CancellationToken,
    ) -> Result<(), async_nats::Error> {
        let Inner { client, prefix, .. } = &*self.0;
        let mut calls = client.subscribe(format!("{prefix}.watching")).await?;
        loop {
            let (mut happenings, last) = events.watch_after();
            let mut pen = Pen { gazette: self, last, part: Vec::new() };
            while Instant::now() < *until {
                tokio::select! {
                    happening = happenings.recv() => match happening {
                        Ok(happening) => {
                            pen.note(&happening).await?;
                            pen.note_all(&mut happenings).await?;
                            pen.send().await?;
                        }
                        // The next number tells.
                        Err(RecvError::Lagged(_)) => {}
                        Err(RecvError::Closed) => return Ok(()),
                    },
                    call = calls.next() => {
                        call.ok_or("the subscription has ended")?;
                        *until = Instant::now() + LEASE;
                        pen.note_all(&mut happenings).await?;
                        pen.send().await?;
                    }
                    () = tokio::time::sleep_until(*until) => {}
                    () = stop.cancelled() => {
                        pen.note_all(&mut happenings).await?;
                        pen.send().await?;
                        drop(tokio::time::timeout(LAST_FRAMES, client.flush()).await);
                        return Ok(());
                    }
                }
            }
            drop(happenings);
            tokio::select! {
                call = calls.next() => {
                    call.ok_or("the subscription has ended")?;
                    *until = Instant::now() + LEASE;
                    // Who called waits for an answer.
                    let (_, last) = events.watch_after();
                    Pen { gazette: self, last, part: Vec::new() }.send().await?;
                }
                () = stop.cancelled() => return Ok(()),
            }
        }
    }
}

/// Makes frames of happenings.
struct Pen<'a> {
    gazette: &'a Gazette,
    /// The number of the last one that is noted or sent.
    last: u64,
    part: Vec<serde_json::Value>,
}

impl Pen<'_> {
    async fn note(&mut self, happening: &Happening) -> Result<(), async_nats::Error> {
        let is_next = happening.number == self.last + 1;
        if !self.part.is_empty() && (!is_next || self.part.len() >= FRAME_EVENTS) {
            self.send().await?;
        }
        self.last = happening.number;
        self.part.push(serde_json::to_value(happening)?);
        Ok(())
    }

    async fn note_all(
        &mut self,
        happenings: &mut broadcast::Receiver<Arc<Happening>>,
    ) -> Result<(), async_nats::Error> {
        loop {
            match happenings.try_recv() {
                Ok(happening) => self.note(&happening).await?,
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => return Ok(()),
            }
        }
    }

    /// Sends what is noted; a frame without anything says that there was no more.
    async fn send(&mut self) -> Result<(), async_nats::Error> {
        let Inner { client, prefix, name, instance, .. } = &*self.gazette.0;
        let events = std::mem::take(&mut self.part);
        let frame = Frame { node: Arc::clone(name), instance: (**instance).to_owned(), last: self.last, events };
        client.publish(format!("{prefix}.events.{name}"), serde_json::to_vec(&frame)?.into()).await?;
        Ok(())
    }
}

/// What was heard of each node.
#[derive(Debug, Default)]
struct Heard {
    /// Which life of it, and up to which number; `None`: nothing yet, and what happened so far is not asked for.
    nodes: HashMap<Arc<str>, Option<(String, u64)>>,
    /// Whether all that are there were heard, or had their time: those that come now come with all that happens on them.
    begun: bool,
}

impl Heard {
    fn has(&self, node: &str) -> bool {
        self.nodes.contains_key(node)
    }

    /// Of nodes that are slow to answer nothing is missed before their first word.
    fn begin<'a>(&mut self, nodes: impl Iterator<Item = &'a String>) {
        for node in nodes {
            self.nodes.entry(Arc::from(node.as_str())).or_default();
        }
        self.begun = true;
    }

    fn take(&mut self, frame: Frame, mut tell: impl FnMut(Told)) {
        let Frame { node, instance, last, events } = frame;
        let before = last.saturating_sub(events.len() as u64);
        if self.nodes.len() >= NODES && !self.has(&node) {
            *self = Self::default();
        }
        let known = match self.nodes.get(&node) {
            Some(Some((life, number))) if *life == instance => *number,
            // A new life: its numbers begin at 1.
            Some(Some(_)) => 0,
            None if self.begun => 0,
            Some(None) | None => before,
        };
        if before > known {
            tell(Told { node: Arc::clone(&node), news: News::Missed(before - known) });
        }
        for (number, event) in (before + 1..).zip(events).filter(|(number, _)| *number > known) {
            let news = match serde_json::from_value::<Happening>(event) {
                Ok(happening) => News::Happened(happening),
                Err(error) => {
                    tracing::debug!(%error, number, "an event that this build does not know");
                    News::Missed(1)
                }
            };
            tell(Told { node: Arc::clone(&node), news });
        }
        self.nodes.insert(node, Some((instance, last.max(known))));
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::shard::events::What;

    fn frame(node: &str, instance: &str, numbers: std::ops::RangeInclusive<u64>) -> Frame {
        let last = *numbers.end();
        let happening = |number| Happening { number, at: SystemTime::now(), what: What::Draining("x".into()) };
        let events = numbers.map(|number| serde_json::to_value(happening(number)).unwrap()).collect();
        Frame { node: node.into(), instance: instance.into(), last, events }
    }

    fn silent(node: &str, instance: &str, last: u64) -> Frame {
        Frame { node: node.into(), instance: instance.into(), last, events: Vec::new() }
    }

    /// The numbers that are told, and how many are missed, in their order.
    fn told(heard: &mut Heard, frame: Frame) -> Vec<Result<u64, u64>> {
        let mut told = Vec::new();
        heard.take(frame, |it| {
            told.push(match it.news {
                News::Happened(happening) => Ok(happening.number),
                News::Missed(count) => Err(count),
            });
        });
        told
    }

    #[test]
    fn what_was_before_the_watch_is_not_missed_and_what_gets_lost_later_is() {
        let mut heard = Heard::default();
        assert_eq!(told(&mut heard, silent("a", "1", 40)), []);
        assert_eq!(told(&mut heard, silent("b", "1", 70)), []);
        heard.begin(["a".to_owned(), "b".to_owned(), "slow".to_owned()].iter());
        assert_eq!(told(&mut heard, frame("a", "1", 41..=42)), [Ok(41), Ok(42)]);
        assert_eq!(told(&mut heard, frame("a", "1", 45..=45)), [Err(2), Ok(45)]);
        assert_eq!(told(&mut heard, silent("a", "1", 48)), [Err(3)], "an answer to a call tells of what is missing");
        assert_eq!(told(&mut heard, frame("a", "1", 48..=49)), [Ok(49)], "nothing comes twice");
        assert_eq!(told(&mut heard, frame("slow", "1", 9..=9)), [Ok(9)]);
    }

    #[test]
    fn nodes_that_come_are_heard_from_their_first_event() {
        let mut heard = Heard::default();
        heard.begin(["a".to_owned()].iter());
        assert_eq!(told(&mut heard, frame("new", "1", 1..=2)), [Ok(1), Ok(2)]);
        assert_eq!(told(&mut heard, frame("new", "2", 1..=1)), [Ok(1)], "it began anew");
        assert_eq!(told(&mut heard, frame("late", "1", 3..=3)), [Err(2), Ok(3)]);
    }

    #[test]
    fn an_event_of_a_newer_build_is_missed_and_spoils_no_other() {
        let mut heard = Heard::default();
        let mut frame = frame("a", "1", 1..=3);
        frame.events[1] = serde_json::json!({"number": 2, "at": 0, "what": {"unheard_of": {}}});
        assert_eq!(told(&mut heard, frame), [Ok(1), Err(1), Ok(3)]);
    }
}
