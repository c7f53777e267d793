//! Who may extend a shard.
//!
//! The last message on the shard's fence subject says who. A takeover puts another one there, by compare-and-set; every append
//! carries the position of its writer's message and is refused by the server when that is not the last any more. What is read
//! to learn the state of a shard is read together with the fence, from one replica: only if that replica has our message does it
//! also have everything that was stored before it.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tertulia_protocol::GroupName;
use tokio::time::Instant;

use super::Core;
use super::known::{Known, State};
use super::link::{Found, Get, NoAnswer, Published, Stored};
use super::message::Message;
use super::trouble::Cause;
use super::writer::Writer;

/// Why a shard was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TakeOverError {
    /// Another writer took it while we tried.
    #[error("shard {shard} was taken by '{node}'")]
    Taken {
        /// Which shard.
        shard: u16,
        /// By whom.
        node: String,
    },
    /// NATS does not answer or refuses.
    #[error("shard {shard} cannot be taken now: {reason}")]
    Unavailable {
        /// Which shard.
        shard: u16,
        /// What was met.
        reason: String,
    },
}

/// A shard that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakeOver {
    /// The position of our message on the fence: greater than that of every owner before.
    pub fence: u64,
    /// How many groups the shard has.
    pub groups: usize,
}

/// Why something could not be read under a fence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unread {
    /// The shard is not ours any more.
    Taken,
    NoAnswer(NoAnswer),
}

/// What a fence message holds.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Claim {
    node: String,
    /// Differs with each log that is opened.
    instance: String,
    /// The position after which it was put. One such attempt succeeds at most, whoever makes it and however late it arrives.
    after: u64,
    /// Differs with each takeover. Nobody takes the message of an earlier one of its own for that of a later one: what the log held when
    /// that began may be more than what it held when this one did.
    #[serde(default)]
    takeover: String,
}

/// How one attempt to put our message on a fence ended.
enum Attempt {
    /// It is there.
    Ours(u64),
    /// Another publish is on its way.
    Busy,
    /// It is not known to be there, and why.
    Failed(String),
    /// The same, and the stream does not answer.
    Silent(String),
}

/// Waits between attempts, longer each time.
pub(crate) struct Patience(Duration);

impl Patience {
    pub(crate) fn new() -> Self {
        Self(Duration::from_millis(1))
    }

    /// For what passes within a round trip.
    pub(crate) async fn short() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(Duration::from_millis(250));
    }
}

impl Core {
    /// A name for a takeover that no other one has.
    pub(super) fn new_takeover(&self) -> String {
        self.link.client.new_inbox()
    }

    /// Puts our message on the fence. With `only_after`, only directly after that message; else after whichever is last. It may be tried
    /// again for the same `takeover`.
    pub(super) async fn claim(
        &self,
        shard: u16,
        only_after: Option<u64>,
        takeover: &str,
    ) -> Result<u64, TakeOverError> {
        self.claim_or_wait(shard, only_after, takeover, &mut || {}).await
    }

    /// As [`Core::claim`]; `wait` is told when an attempt has failed.
    pub(super) async fn claim_or_wait(
        &self,
        shard: u16,
        only_after: Option<u64>,
        takeover: &str,
        wait: &mut (dyn FnMut() + Send),
    ) -> Result<u64, TakeOverError> {
        let deadline = Instant::now() + 2 * self.link.timeout;
        let mut expected = only_after;
        let stream = self.link.names.stream_of(shard);
        let mut patience = Patience::new();
        loop {
            let attempt = self.claim_once(shard, &mut expected, only_after.is_none(), takeover).await;
            match &attempt {
                // Whoever needs the stream for another shard need not find that out for itself.
                Ok(Attempt::Silent(_)) => self.trouble.left_claim_unanswered(stream, self.link.timeout),
                _ => self.trouble.has_answered_claim(stream),
            }
            let reason = match attempt? {
                Attempt::Ours(position) => return Ok(position),
                // An owner that appends without a pause leaves the fence free for moments only: be quick.
                Attempt::Busy if Instant::now() < deadline => {
                    Patience::short().await;
                    continue;
                }
                Attempt::Busy => "the stream is busy".to_owned(),
                Attempt::Failed(reason) | Attempt::Silent(reason) => reason,
            };
            wait();
            if Instant::now() > deadline {
                return Err(TakeOverError::Unavailable { shard, reason });
            }
            patience.wait().await;
        }
    }

    async fn claim_once(
        &self,
        shard: u16,
        expected: &mut Option<u64>,
        whoever_has_it: bool,
        takeover: &str,
    ) -> Result<Attempt, TakeOverError> {
        let after = match *expected {
            Some(after) => after,
            None => match self.last_claim(shard).await {
                Ok(last) => last.map_or(0, |(position, _)| position),
                Err(failed) => return Ok(failed),
            },
        };
        *expected = Some(after);
        let (node, instance, takeover) = (self.node.clone(), self.instance.clone(), takeover.to_owned());
        let claim = Claim { node, instance, after, takeover };
        let payload = match serde_json::to_vec(&claim) {
            Ok(payload) => Bytes::from(payload),
            Err(error) => return Ok(Attempt::Failed(error.to_string())),
        };
        let stream = self.link.names.stream(self.link.names.stream_of(shard));
        let before = self.lineage.newest(&stream);
        match self.link.publish_fence(shard, after, payload).await {
            Published::Stored(position) => {
                self.lineage.has_stored(&stream, before, position);
                return Ok(Attempt::Ours(position));
            }
            Published::Busy | Published::Incomplete(_) => return Ok(Attempt::Busy),
            Published::Full(reason) => return Ok(Attempt::Failed(reason)),
            Published::Refused(reason) | Published::Unknown(reason) => return Ok(Attempt::Silent(reason)),
            Published::Fenced => {}
        }
        match self.last_claim(shard).await {
            Err(failed) => return Ok(failed),
            // An attempt before this one has come through after all.
            Ok(Some((position, last))) if last == claim => return Ok(Attempt::Ours(position)),
            Ok(Some((position, last))) if position > after => {
                if !whoever_has_it {
                    return Err(TakeOverError::Taken { shard, node: last.node });
                }
                *expected = Some(position);
            }
            // The replica that answered is behind.
            Ok(_) => {}
        }
        Ok(Attempt::Failed("others take it at the same time".to_owned()))
    }

    /// What is on the fence, or why an attempt ends without that.
    async fn last_claim(&self, shard: u16) -> Result<Option<(u64, Claim)>, Attempt> {
        let get = Get { last_by_subj: self.link.names.fence(shard), ..Get::default() };
        let found = self.link.get(self.link.names.stream_of(shard), &get).await;
        let Some(Stored { position, payload, .. }) = found.map_err(|error| Attempt::Silent(error.0))? else {
            return Ok(None);
        };
        let unfit = |error| Attempt::Failed(format!("the fence of shard {shard} is not one: {error}"));
        let claim = serde_json::from_slice(&payload).map_err(unfit)?;
        Ok(Some((position, claim)))
    }

    /// Waits for whoever changes the shard, but not for long: one who finds out how an append ended does so until it is known.
    pub(super) async fn writer(
        &self,
        shard: u16,
        wait: &mut (dyn FnMut() + Send),
    ) -> Result<Writer<'_>, TakeOverError> {
        let locks = &self.shard(shard).locks;
        if let Some(writer) = locks.writer_now() {
            return Ok(writer);
        }
        wait();
        let longest = 2 * self.link.timeout;
        let reason = |_| format!("what changes it here has not ended within {longest:?}");
        let writer = tokio::time::timeout(longest, locks.writer()).await.map_err(reason);
        writer.map_err(|reason| TakeOverError::Unavailable { shard, reason })
    }

    /// Makes the shard ours, whoever has it. `wait` is told as soon as that waits for more than what it does itself.
    pub(super) async fn take_over(
        &self,
        shard: u16,
        wait: &mut (dyn FnMut() + Send),
    ) -> Result<TakeOver, TakeOverError> {
        let unavailable = |error: NoAnswer| TakeOverError::Unavailable { shard, reason: error.0 };
        let _writer = self.writer(shard, wait).await?;
        self.forget(shard);
        let fence = self.claim_or_wait(shard, None, &self.new_takeover(), wait).await?;
        let names = self.names_of(shard, fence, wait).await.map_err(unavailable)?;
        let groups = names.len();
        self.add_names(shard, &names);
        self.hold(shard, State { fence: Some(fence), names: names.into_iter().collect(), ..State::default() });
        Ok(TakeOver { fence, groups })
    }

    /// The shard is ours from now on.
    pub(super) fn hold(&self, shard: u16, state: State) {
        *self.shard(shard).state() = state;
        self.metrics.shards_held.increment(1.0);
    }

    /// The names of a shard's groups, as of `fence` or later. For lists: a name may be of a group that is being deleted.
    async fn names_of(
        &self,
        shard: u16,
        fence: u64,
        wait: &mut (dyn FnMut() + Send),
    ) -> Result<Vec<GroupName>, NoAnswer> {
        let stream = self.link.names.stream_of(shard);
        let filter = self.link.names.groups_of_shard(shard);
        let deadline = Instant::now() + 2 * self.link.timeout;
        let mut patience = Patience::new();
        loop {
            match self.link.subjects(stream, &filter).await {
                Ok((last, subjects)) if last >= fence || Instant::now() > deadline => {
                    let names = subjects.iter().filter_map(|(subject, _)| self.link.names.parse_group(subject));
                    return Ok(names.map(|(_, name)| name).collect());
                }
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => wait(),
                // The leader is another one, and does not have it yet.
                Ok(_) => {}
            }
            patience.wait().await;
        }
    }

    /// Finds out which of our shards of a stream others took: an owner that appends nothing would not notice, and whoever asks in the
    /// later reign gets no answer from it.
    pub(super) async fn look_at_fences(&self, stream: u16) {
        let shards = (0..self.shards.len()).filter_map(|shard| u16::try_from(shard).ok());
        let is_ours = |shard: &u16| self.link.names.stream_of(*shard) == stream && self.shard(*shard).fence().is_some();
        let ours: Vec<(u16, String)> =
            shards.filter(is_ours).map(|shard| (shard, self.link.names.fence(shard))).collect();
        // JetStream takes so many subjects at once, and more.
        for ours in ours.chunks(512) {
            let get = Get { multi_last: ours.iter().map(|(_, subject)| subject.clone()).collect(), ..Get::default() };
            // If it is not answered it is asked again soon.
            let found = self.link.get_many(stream, &get).await.unwrap_or_default().messages;
            for (shard, subject) in ours {
                let last = found.iter().find(|message| message.subject == *subject);
                let is_taken = last.is_some_and(|last| self.shard(*shard).state().is_before(last.position));
                if is_taken {
                    self.lose(*shard);
                }
            }
        }
    }

    /// Somebody else has the shard.
    pub(super) fn lose(&self, shard: u16) {
        if self.forget(shard) {
            self.metrics.shards_lost.increment(1);
            tracing::debug!(shard, "another writer took the shard");
            // Nobody may listen.
            drop(self.lost.send(shard));
        }
    }

    pub(super) fn forget(&self, shard: u16) -> bool {
        let state = std::mem::take(&mut *self.shard(shard).state());
        self.remove_names(&state.names);
        let was_held = state.fence.is_some();
        if was_held {
            self.metrics.shards_held.decrement(1.0);
            // An append that waits for room need not: whoever has the shard next decides how it ended.
            self.room.notify_waiters();
        }
        was_held
    }

    /// The last message on a subject, from a replica that has all that was stored before our fence, and the end of every group that we
    /// deleted and keep nothing of.
    pub(super) async fn last_under(&self, shard: u16, fence: u64, subject: &str) -> Result<Option<Stored>, Unread> {
        Ok(self.last_of_each_under(shard, fence, vec![subject.to_owned()]).await?.pop())
    }

    /// The same of several subjects. If the server cuts the answer off, that of the fence is not in it, as the newest is told last: then it is
    /// as if the replica were behind.
    pub(super) async fn last_of_each_under(
        &self,
        shard: u16,
        fence: u64,
        subjects: Vec<String>,
    ) -> Result<Vec<Stored>, Unread> {
        let fence_subject = self.link.names.fence(shard);
        let mut get = Get { multi_last: subjects, ..Get::default() };
        get.multi_last.push(fence_subject.clone());
        let deadline = Instant::now() + 2 * self.link.timeout;
        let mut patience = Patience::new();
        self.metrics.heads.increment(1);
        loop {
            let deleted = self.shard(shard).state().deleted;
            let found = self.link.get_many(self.link.names.stream_of(shard), &get).await.map_err(Unread::NoAnswer)?;
            let Found { mut messages, upto, .. } = found;
            let seen = messages.iter().find(|message| message.subject == fence_subject).map_or(0, |seen| seen.position);
            match seen.cmp(&fence) {
                std::cmp::Ordering::Equal if upto >= deleted => {
                    messages.retain(|message| message.subject != fence_subject);
                    return Ok(messages);
                }
                std::cmp::Ordering::Greater => return Err(Unread::Taken),
                std::cmp::Ordering::Equal | std::cmp::Ordering::Less => {}
            }
            if Instant::now() > deadline {
                return Err(Unread::NoAnswer(NoAnswer("the replicas are behind".to_owned())));
            }
            self.metrics.again.increment(1);
            patience.wait().await;
        }
    }

    /// The name of a group that is gone, as whoever had the shard before may have left it among the others.
    fn forget_name(&self, shard: u16, group: &GroupName) {
        let mut state = self.shard(shard).state();
        // Unless it has begun anew meanwhile.
        let is_gone = !state.groups.contains_key(group) && state.names.remove(group);
        if is_gone {
            self.remove_names([group]);
        }
    }

    /// What is known of a group of a shard of ours, from the log if need be; `None` if it does not exist.
    pub(super) async fn known(&self, shard: u16, group: &GroupName) -> Result<Option<Known>, Unread> {
        loop {
            let (fence, deleted) = {
                let state = self.shard(shard).state();
                if let Some(known) = state.groups.get(group) {
                    return Ok(Some(known.clone()));
                }
                (state.fence.ok_or(Unread::Taken)?, state.deleted)
            };
            let found = self.last_under(shard, fence, &self.link.names.group(shard, group)).await;
            let is_claiming = {
                // Both at one moment: a claim of ours that succeeds moves the fence and is over.
                let state = self.shard(shard).state();
                if state.fence != Some(fence) {
                    // We took it again meanwhile, or lost it.
                    continue;
                }
                state.is_claiming
            };
            let found = match found {
                Ok(found) => found,
                Err(Unread::Taken) if is_claiming => {
                    return Err(Unread::NoAnswer(NoAnswer("how an append ended is being found out".to_owned())));
                }
                Err(Unread::Taken) => {
                    self.lose(shard);
                    return Err(Unread::Taken);
                }
                Err(error) => {
                    self.trouble.set(Cause::Stream(self.link.names.stream_of(shard)), Some(reason_of(&error)));
                    return Err(error);
                }
            };
            let Some(found) = found else { return Ok(None) };
            let known = Known::of(&decode(&found).map_err(Unread::NoAnswer)?, found.position);
            if known.head.is_none() {
                self.forget_name(shard, group);
                self.clear_away(shard, group, known.last);
                return Ok(None);
            }
            let mut state = self.shard(shard).state();
            // What is deleted meanwhile must not be kept in mind again.
            if state.fence == Some(fence) && state.deleted == deleted {
                // An append may have been quicker, and knows better.
                return Ok(Some(state.groups.entry(group.clone()).or_insert(known).clone()));
            }
        }
    }
}

fn reason_of(unread: &Unread) -> String {
    match unread {
        Unread::Taken => "the shard was taken".to_owned(),
        Unread::NoAnswer(error) => error.0.clone(),
    }
}

pub(super) fn decode(stored: &Stored) -> Result<Message, NoAnswer> {
    Message::decode(&stored.payload).map_err(|error| {
        NoAnswer(format!("message {} on '{}' cannot be understood: {error}", stored.position, stored.subject))
    })
}
