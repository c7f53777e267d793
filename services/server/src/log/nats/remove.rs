//! Removing from a group, and groups.
//!
//! First a message says what is gone, under the fence; that is when it is gone for readers and for whoever owns the shard next.
//! Then JetStream is asked to remove what lies before; if that fails, the next removal does it. A group that is gone has none, so there it is
//! asked again, also by whoever finds such a group later.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tertulia_protocol::GroupName;

use super::Core;
use super::append::{Outgoing, unavailable};
use super::known::Known;
use super::link::{Link, NoAnswer};
use super::message::{Kind, Message};
use super::read::{Fetched, Wanted};
use super::writer::Writer;
use crate::log::{AppendError, Head};

/// How long after a removal that failed what is left of a group is removed again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Records beyond the floor that may wait for their removal.
const TRIM_EVERY: u64 = 512;

impl Core {
    /// Removes the records up to `through`; answers how many.
    pub(super) async fn purge(&self, shard: u16, group: &GroupName, through: u64) -> Result<u64, AppendError> {
        let mut writer = self.shard(shard).locks.remover().await;
        let removed = self.purge_life(shard, group, None, through, &mut writer).await?;
        drop(writer);
        let filter = self.link.names.substitutes_of(shard, group);
        if let Err(error) = self.remove_substitutes(self.link.names.stream_of(shard), &filter).await {
            tracing::debug!(shard, %error, "what stood for removed messages stays for now");
        }
        Ok(removed)
    }

    /// As [`Core::purge`], if the group still has the life of which that was worked out.
    pub(super) async fn purge_life(
        &self,
        shard: u16,
        group: &GroupName,
        epoch: Option<u64>,
        through: u64,
        writer: &mut Writer<'_>,
    ) -> Result<u64, AppendError> {
        check_finished(group, writer)?;
        self.check_open(shard)?;
        let known = self.known_to_writer(shard, group, 0).await?;
        let Some((known, head)) = known.and_then(|known| known.head.map(|head| (known, head))) else { return Ok(0) };
        let through = through.min(head.seq);
        if through < head.first || epoch.is_some_and(|epoch| epoch != head.epoch) {
            return Ok(0);
        }
        let floor = through + 1;
        let position = self.say(shard, group, Kind::Mark, &known, Head { first: floor, ..head }, writer).await?;
        let subject = self.link.names.group(shard, group);
        let before = match through == head.seq {
            true => position,
            false => {
                let fetched = self.fetch(shard, group, &known, &Wanted::of(head.epoch, floor..=floor)).await;
                // What was read may go on behind the message that holds the floor, and that one must stay.
                // If something stands for that one, all before the next may go.
                let holds = |Fetched { places, .. }: Fetched| {
                    let next = places.iter().find(|place| place.seq > floor).copied();
                    places.into_iter().rfind(|place| place.seq <= floor).or(next)
                };
                fetched.ok().and_then(holds).map_or(0, |place| place.position)
            }
        };
        self.remove_before(shard, group, &subject, before).await;
        Ok(through + 1 - head.first)
    }

    /// Removes a group; answers whether there was one.
    pub(super) async fn delete(&self, shard: u16, group: &GroupName) -> Result<bool, AppendError> {
        let this = self.shard(shard);
        let mut writer = this.locks.remover().await;
        check_finished(group, &writer)?;
        self.check_open(shard)?;
        let known = self.known_to_writer(shard, group, 0).await?;
        let Some((known, head)) = known.and_then(|known| known.head.map(|head| (known, head))) else {
            return Ok(false);
        };
        let position = self.say(shard, group, Kind::Deleted, &known, head, &mut writer).await?;
        self.removed.moderator.increment(head.seq + 1 - head.first);
        let was_listed = this.state().names.remove(group);
        if was_listed {
            self.remove_names(std::slice::from_ref(group));
        }
        match remove_all(&self.link, shard, group, position).await {
            Ok(()) => self.room.notify_waiters(),
            Err(error) => {
                tracing::warn!(shard, %error, "the messages of a deleted group still take space: they are removed later");
                self.clear_away(shard, group, position);
            }
        }
        Ok(true)
    }

    /// Has JetStream remove what is left of a group whose end the message at `position` tells, as often as that takes.
    pub(super) fn clear_away(&self, shard: u16, group: &GroupName, position: u64) {
        let is_new = self.clearing().insert((shard, position));
        if !is_new {
            return;
        }
        let (link, clearing, closing) = (self.link.clone(), Arc::clone(&self.clearing), self.closing.clone());
        let room = Arc::clone(&self.room);
        let group = group.clone();
        self.tasks.spawn(async move {
            let mut pause = AGAIN.0;
            while let Err(error) = remove_all(&link, shard, &group, position).await {
                tracing::debug!(shard, %error, "the messages of a deleted group still take space");
                if closing.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                    return;
                }
                pause = (pause * 2).min(AGAIN.1);
            }
            room.notify_waiters();
            clearing.lock().unwrap_or_else(PoisonError::into_inner).remove(&(shard, position));
        });
    }

    /// Stores a message without records.
    pub(super) async fn say(
        &self,
        shard: u16,
        group: &GroupName,
        kind: Kind,
        known: &Known,
        head: Head,
        writer: &mut Writer<'_>,
    ) -> Result<u64, AppendError> {
        let Head { epoch, seq, first, at } = head;
        let message = Message { kind, epoch, floor: first, bytes: known.bytes, seq, at, records: Vec::new() };
        let subject = self.link.names.group(shard, group);
        self.store_one(shard, Outgoing { group: group.clone(), subject, message }, writer).await
    }

    async fn remove_before(&self, shard: u16, group: &GroupName, subject: &str, position: u64) -> bool {
        if position <= 1 {
            return true;
        }
        match self.link.purge(self.link.names.stream_of(shard), subject, position).await {
            Ok(()) => {
                self.room.notify_waiters();
                if let Some(known) = self.shard(shard).state().groups.get_mut(group) {
                    known.points.forget_before(position);
                    known.trimmed = known.trimmed.max(position);
                }
                true
            }
            Err(error) => {
                tracing::warn!(shard, %error, "messages that are gone for readers still take space");
                false
            }
        }
    }

    /// Has JetStream remove marks that have a successor. They count among the messages of a subject, of which there is a bound: left where
    /// they are, marks of a week would take the places of messages that are still to be kept.
    pub(super) fn remove_marks(&self, shard: u16, marks: Vec<u64>) {
        if marks.is_empty() {
            return;
        }
        let link = self.link.clone();
        self.tasks.spawn(async move {
            let stream = link.names.stream_of(shard);
            for mark in marks {
                if let Err(error) = link.remove(stream, mark).await {
                    tracing::debug!(shard, %error, "an old mark stays until the messages around it go");
                }
            }
        });
    }

    /// Has JetStream remove what retention let go of, once that is worth a question.
    pub(super) fn trim(&self, shard: u16, group: &GroupName) {
        let mut state = self.shard(shard).state();
        let Some(known) = state.groups.get_mut(group) else { return };
        let Some(head) = known.head else { return };
        let Some(place) = known.points.before(head.first).filter(|place| place.position > known.trimmed) else {
            return;
        };
        let waiting = known.points.after(0).map_or(0, |oldest| place.seq - oldest.seq.min(place.seq));
        if waiting < TRIM_EVERY {
            return;
        }
        known.points.forget_before(place.position);
        known.trimmed = place.position;
        drop(state);
        let (link, subject, room) = (self.link.clone(), self.link.names.group(shard, group), Arc::clone(&self.room));
        self.tasks.spawn(async move {
            let stream = link.names.stream_of(shard);
            match link.purge(stream, &subject, place.position).await {
                Ok(()) => room.notify_waiters(),
                Err(error) => {
                    tracing::warn!(shard, %error, "messages that retention let go of still take space");
                }
            }
        });
    }
}

/// Removes all of a group up to the message that tells its end, and that one last: without it the others would be a group.
async fn remove_all(link: &Link, shard: u16, group: &GroupName, position: u64) -> Result<(), NoAnswer> {
    let stream = link.names.stream_of(shard);
    let subject = link.names.group(shard, group);
    if position > 1 {
        link.purge(stream, &link.names.substitutes_of(shard, group), position).await?;
        link.purge(stream, &subject, position).await?;
    }
    link.remove(stream, position).await
}

/// What is found out about an append that is stored in part rests on the last messages of its groups: they must be its own.
pub(super) fn check_finished(group: &GroupName, writer: &Writer<'_>) -> Result<(), AppendError> {
    match writer.is_unfinished(group) {
        true => Err(unavailable(format!(
            "an append to group '{group}' is stored in part, and the rest has no room yet: make room in JetStream's storage"
        ))),
        false => Ok(()),
    }
}

/// So that a removal goes on when who asked for it does not wait.
pub(super) async fn finish<T: Send + 'static, E: From<AppendError> + Send + 'static>(
    core: Arc<Core>,
    work: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, E> {
    let task = core.tasks.spawn(work);
    task.await.map_err(|error| unavailable(format!("the task that changed the log ended: {error}")))?
}
