//! How an append ended that was not answered.
//!
//! The fence is moved first: what was sent under the old one can then no longer be stored, and the log tells what was. That may be a part:
//! an atomic batch is all or nothing but for the room that it takes. A server that has room for some of the messages stores those, and says
//! nothing. Such an append is finished under the new fence: nobody else can have written to its groups between, and what is stored may have been read.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tertulia_protocol::GroupName;

use super::Core;
use super::append::{Failure, Outgoing, Place, Places};
use super::fence::{Patience, TakeOverError, Unread, decode};
use super::known::Known;
use super::link::{Get, NoAnswer, Published, Stored};
use super::read::Wanted;
use super::trouble::Cause;
use super::writer::Writer;
use crate::log::Record;

/// Groups whose last messages are asked for at once. Each may be as large as messages are, and what is too much the server cuts off.
const GROUPS: usize = 32;
/// Groups that are looked for at a time where each is a question of its own.
const AT_ONCE: usize = 16;
/// How long after the rest of an append had no room it is tried again, at first and at most: each attempt puts one more message on the fence,
/// and takes of what those need who make room.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

impl Core {
    /// Finds out what is stored of what was sent under `fence`, and makes sure that the rest never will be unless it is sent anew. If a part
    /// is stored, stores the rest, as soon as that can be done; others may remove something from other groups until then. `None`: nothing is
    /// stored.
    pub(super) async fn resolve(
        &self,
        shard: u16,
        mut fence: u64,
        outgoing: &[Outgoing],
        messages: &[(String, Bytes)],
        writer: &mut Writer<'_>,
    ) -> Result<Option<Places>, Failure> {
        let stream = self.link.names.stream_of(shard);
        let takeover = self.new_takeover();
        let mut places = vec![Place::Missing; messages.len()];
        let mut is_known = false;
        let mut pause = AGAIN.0;
        loop {
            let room = self.room.notified();
            let found = match self.move_fence(shard, fence, &takeover).await {
                Ok(position) => {
                    fence = position;
                    self.look(shard, fence, messages, &mut places).await
                }
                Err(unread) => Err(unread),
            };
            match found {
                Ok(()) => {}
                Err(Unread::Taken) => return self.stored_before_others(shard, fence, outgoing).await.map(Some),
                // The log is closed, and nobody waits for what is told here.
                Err(Unread::NoAnswer(error)) => return Err(Failure::NotNow(error.0)),
            }
            let missing: Vec<usize> = (0..places.len()).filter(|index| places[*index] == Place::Missing).collect();
            if missing.len() == places.len() {
                return Ok(None);
            }
            if missing.is_empty() {
                return Ok(Some(Places::Apart(places)));
            }
            if !std::mem::replace(&mut is_known, true) {
                let (missing, of) = (missing.len(), places.len());
                tracing::warn!(
                    shard,
                    missing,
                    of,
                    "an append is stored in part: the rest is stored as soon as it can be"
                );
            }
            let rest: Vec<(String, Bytes)> = missing.iter().map(|index| messages[*index].clone()).collect();
            let mut has_room = true;
            let reason = match self.link.publish(shard, fence, &rest).await {
                Published::Stored(last) => {
                    self.trouble.has_stored(stream);
                    let first = (last + 1).saturating_sub(missing.len() as u64);
                    (first..).zip(missing).for_each(|(position, index)| places[index] = Place::At(position));
                    return Ok(Some(Places::Apart(places)));
                }
                Published::Fenced => return self.stored_before_others(shard, fence, outgoing).await.map(Some),
                Published::Busy => "the stream is busy".to_owned(),
                Published::Full(reason) | Published::Incomplete(reason) => {
                    self.trouble.had_no_room(stream, reason.clone());
                    has_room = false;
                    reason
                }
                Published::Refused(reason) | Published::Unknown(reason) => reason,
            };
            tracing::debug!(shard, reason, "the rest of an append is not stored yet");
            self.trouble.set(Cause::Append(shard), Some(format!("an append is stored in part: {reason}")));
            let groups = outgoing.iter().map(|outgoing| outgoing.group.clone());
            let until = self.closing.run_until_cancelled(until_room(room, pause));
            if writer.wait(groups, until).await.is_none() {
                return Err(Failure::NotNow(reason));
            }
            pause = if has_room { AGAIN.0 } else { (pause * 2).min(AGAIN.1) };
            // How a removal ended that was not answered was found out by moving the fence. If the shard was let go of meanwhile, ours tells
            // whether another writer has it.
            fence = self.shard(shard).fence().unwrap_or(fence);
        }
    }

    /// Puts another message of ours on the fence after the one at `fence`, however long that takes; no answer means that the log is closed.
    ///
    /// Nobody may remove something between the attempts: what says so would be sent under a fence of which it is not known whether it is the last
    /// one still. Nor would it make room where there is none: it takes as much as a message on the fence.
    pub(super) async fn move_fence(&self, shard: u16, fence: u64, takeover: &str) -> Result<u64, Unread> {
        let mut patience = Patience::new();
        self.shard(shard).state().is_claiming = true;
        loop {
            match self.claim(shard, Some(fence), takeover).await {
                Ok(position) => {
                    self.shard(shard).state().goes_on(fence, position);
                    return Ok(position);
                }
                Err(TakeOverError::Taken { .. }) => return Err(Unread::Taken),
                Err(TakeOverError::Unavailable { reason, .. }) if self.is_closed() => {
                    return Err(Unread::NoAnswer(NoAnswer(reason)));
                }
                Err(TakeOverError::Unavailable { .. }) => patience.wait().await,
            }
        }
    }

    /// Looks for those of the messages that are missing. Nobody else has written to their groups since: the last message of one is one of them, or none
    /// of them is there. No answer means that the log is closed.
    async fn look(
        &self,
        shard: u16,
        fence: u64,
        messages: &[(String, Bytes)],
        places: &mut [Place],
    ) -> Result<(), Unread> {
        let mut patience = Patience::new();
        let mut groups = groups_of(messages);
        groups.retain(|group| places[group.clone()].contains(&Place::Missing));
        let (mut rest, mut at_once) = (&groups[..], GROUPS);
        while !rest.is_empty() {
            let (asked, after) = rest.split_at(at_once.min(rest.len()));
            let subjects = asked.iter().map(|group| messages[group.start].0.clone()).collect();
            match self.last_of_each_under(shard, fence, subjects).await {
                Ok(found) => {
                    for group in asked {
                        let last = found.iter().find(|last| last.subject == messages[group.start].0);
                        mark(&messages[group.clone()], last, &mut places[group.clone()]);
                    }
                    rest = after;
                }
                Err(Unread::NoAnswer(_)) if !self.is_closed() => {
                    at_once = (at_once / 2).max(1);
                    patience.wait().await;
                }
                Err(unread) => return Err(unread),
            }
        }
        Ok(())
    }

    /// What of an append was stored before another writer took the shard, who may have extended the groups since, or removed from them. The
    /// shard is lost then. That something is not stored is said only by the log: a question that is not answered is asked again.
    async fn stored_before_others(&self, shard: u16, fence: u64, outgoing: &[Outgoing]) -> Result<Places, Failure> {
        let groups: Vec<&[Outgoing]> = outgoing.chunk_by(|one, other| one.subject == other.subject).collect();
        let mut found = Vec::with_capacity(groups.len());
        for part in groups.chunks(AT_ONCE) {
            found.extend(join_all(part.iter().map(|group| self.found_by_others(shard, fence, group))).await);
        }
        self.lose(shard);
        let found: Vec<Option<(u64, u64)>> =
            found.into_iter().collect::<Result<_, NoAnswer>>().map_err(|error| Failure::NotNow(error.0))?;
        let with_groups = || found.iter().zip(&groups).filter_map(|(found, group)| Some((*found, group.last()?)));
        let is_whole =
            |(found, last): (Option<(u64, u64)>, &Outgoing)| found.is_some_and(|(seq, _)| seq == last.message.seq);
        if with_groups().all(is_whole) {
            // Nothing is kept in mind of a shard that is lost; who said that something is removed wants to know where that is.
            let last = found.last().copied().flatten();
            return Ok(Places::Together(last.map_or(0, |(_, position)| position)));
        }
        let stored: Vec<(GroupName, u64)> =
            with_groups().filter_map(|(found, last)| Some((last.group.clone(), found?.0))).collect();
        Err(if stored.is_empty() { Failure::Lost } else { Failure::LostInPart(stored) })
    }

    /// Up to which `seq` the messages of one group are stored, and where the last message of the group is; `None`: none is. No answer means
    /// that the log is closed.
    async fn found_by_others(&self, shard: u16, fence: u64, sent: &[Outgoing]) -> Result<Option<(u64, u64)>, NoAnswer> {
        let mut patience = Patience::new();
        loop {
            match self.find_before_others(shard, fence, sent).await {
                Err(_) if !self.is_closed() => patience.wait().await,
                found => return found,
            }
        }
    }

    async fn find_before_others(
        &self,
        shard: u16,
        fence: u64,
        sent: &[Outgoing],
    ) -> Result<Option<(u64, u64)>, NoAnswer> {
        let [Outgoing { group, subject, message: oldest }, ..] = sent else { return Ok(None) };
        let stream = self.link.names.stream_of(shard);
        let fence_subject = self.link.names.fence(shard);
        let get = Get { multi_last: vec![fence_subject.clone(), subject.clone()], ..Get::default() };
        let found = self.link.get_many(stream, &get).await?.messages;
        if !found.iter().any(|message| message.subject == fence_subject && message.position > fence) {
            return Err(NoAnswer("the replicas are behind".to_owned()));
        }
        let Some(last) = found.into_iter().find(|message| message.subject == *subject) else { return Ok(None) };
        let message = decode(&last)?;
        if sent.iter().any(|sent| sent.message == message) {
            return Ok(Some((message.seq, last.position)));
        }
        if message.epoch != oldest.epoch || message.seq < oldest.first() {
            return Ok(None);
        }
        let known = Known::of(&message, last.position);
        let upto = sent.last().map_or(0, |newest| newest.message.seq).min(message.seq);
        // What has been removed since nobody can find any more.
        let Some(head) = known.head.filter(|head| head.first <= upto) else { return Ok(None) };
        let wanted = oldest.first().max(head.first)..=upto;
        if wanted.is_empty() {
            // It had no records: whoever asked to remove something may ask again.
            return Ok(None);
        }
        let found = self.fetch(shard, group, &known, &Wanted::of(message.epoch, wanted)).await?.records;
        let sent = sent.iter().flat_map(|sent| &sent.message.records);
        Ok(same_upto(sent, &found).map(|seq| (seq, last.position)))
    }
}

/// Waits until it is worth another attempt to store what had no room: `room` is told, or some time has passed.
async fn until_room(room: impl Future<Output = ()>, pause: Duration) {
    tokio::time::sleep(AGAIN.0).await;
    // Whichever it was.
    drop(tokio::time::timeout(pause.saturating_sub(AGAIN.0), room).await);
}

/// The messages of each group: they stand side by side.
fn groups_of(messages: &[(String, Bytes)]) -> Vec<Range<usize>> {
    let mut end = 0;
    let groups = messages.chunk_by(|one, other| one.0 == other.0);
    groups
        .map(|group| {
            let start = end;
            end += group.len();
            start..end
        })
        .collect()
}

/// Notes which messages of one group are stored, if `last` is the group's last in the log. They are stored in their order, so what comes
/// before that one is there as well.
fn mark(sent: &[(String, Bytes)], last: Option<&Stored>, places: &mut [Place]) {
    let Some(last) = last else { return };
    let Some(index) = sent.iter().rposition(|(_, message)| *message == last.payload) else { return };
    let (before, from) = places.split_at_mut(index);
    before.iter_mut().filter(|place| **place == Place::Missing).for_each(|place| *place = Place::Before);
    if let Some(place) = from.first_mut() {
        *place = Place::At(last.position);
    }
}

/// Up to which `seq` the log has the records that were sent, if any. Others may have gone on behind them, or have put theirs in the places of
/// those that are not stored; and of the oldest some may have been removed since.
fn same_upto<'a>(sent: impl Iterator<Item = &'a Record>, found: &[Record]) -> Option<u64> {
    let first = found.first()?.seq;
    // Or their texts are removed.
    let is_same = |sent: &Record, found: &Record| sent == found || (found.is_removed() && sent.redacted() == *found);
    let same = sent.skip_while(|sent| sent.seq < first).zip(found).take_while(|(sent, found)| is_same(sent, found));
    same.last().map(|(sent, _)| sent.seq)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::conformance::record;

    fn messages(texts: &[&'static str]) -> Vec<(String, Bytes)> {
        // The first letter is the group's.
        texts.iter().map(|text| (text[..1].to_owned(), Bytes::from_static(text.as_bytes()))).collect()
    }

    fn stored(text: &'static str, position: u64) -> Stored {
        Stored { subject: text[..1].to_owned(), position, payload: Bytes::from_static(text.as_bytes()) }
    }

    /// The places of an append after its groups were looked for.
    fn marked(sent: &[(String, Bytes)], last: &[Stored], mut places: Vec<Place>) -> Vec<Place> {
        for group in groups_of(sent) {
            let last = last.iter().find(|last| last.subject == sent[group.start].0);
            mark(&sent[group.clone()], last, &mut places[group.clone()]);
        }
        places
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_is_tried_again_when_there_may_be_room_and_not_more_often_than_each_second() {
        let waited = async |is_told: bool, seconds: u64| {
            let (room, begun) = (tokio::sync::Notify::new(), tokio::time::Instant::now());
            let told = room.notified();
            if is_told {
                room.notify_waiters();
            }
            until_room(told, Duration::from_secs(seconds)).await;
            begun.elapsed().as_millis().div_ceil(1_000)
        };
        assert_eq!((waited(false, 1).await, waited(true, 1).await), (1, 1));
        assert_eq!((waited(false, 30).await, waited(true, 30).await), (30, 1));
    }

    #[test]
    fn the_last_message_of_each_group_tells_which_are_there() {
        use Place::{At, Before, Missing};
        let sent = messages(&["a1", "b1", "b2", "b3", "c1"]);
        let of = |last: &[Stored]| marked(&sent, last, vec![Missing; 5]);
        assert_eq!(groups_of(&sent), [0..1, 1..4, 4..5]);
        assert_eq!(of(&[]), [Missing; 5]);
        let none = [stored("a0", 3), stored("b0", 4), stored("c0", 5)];
        assert_eq!(of(&none), [Missing; 5], "what was there before");
        let all = [stored("a1", 11), stored("b3", 14), stored("c1", 15)];
        assert_eq!(of(&all), [At(11), Before, Before, At(14), At(15)]);
        let some = [stored("a1", 11), stored("b2", 13), stored("c0", 5)];
        assert_eq!(of(&some), [At(11), Before, At(13), Missing, Missing]);
        // Not the first alone need be there.
        assert_eq!(of(&[stored("c1", 15)]), [Missing, Missing, Missing, Missing, At(15)]);
        // What is known of those that were there before stays.
        let before = vec![At(11), At(12), Missing, Missing, Missing];
        assert_eq!(marked(&sent, &[stored("b3", 22)], before), [At(11), At(12), Before, At(22), Missing]);
        assert!(groups_of(&[]).is_empty());
    }

    #[test]
    fn records_are_stored_up_to_where_others_go_on_differently() {
        let sent: Vec<Record> = (5..=9).map(record).collect();
        let others = |from: u64, upto: u64| {
            (from..=upto).map(|seq| Record { message: "theirs".into(), ..record(seq) }).collect::<Vec<_>>()
        };
        let upto = |found: &[Record]| same_upto(sent.iter(), found);
        assert_eq!(upto(&[]), None);
        assert_eq!(upto(&sent), Some(9));
        assert_eq!(upto(&sent[..3]), Some(7));
        assert_eq!(upto(&sent[2..4]), Some(8), "the oldest are removed");
        assert_eq!(upto(&[&sent[..2], &others(7, 9)].concat()), Some(6));
        assert_eq!(upto(&others(5, 9)), None);
        let removed = |records: &[Record]| records.iter().map(Record::redacted).collect::<Vec<_>>();
        assert_eq!(upto(&[&sent[..2], &removed(&sent[2..3]), &sent[3..]].concat()), Some(9), "a text is removed");
        assert_eq!(upto(&removed(&sent)), Some(9));
        assert_eq!(upto(&[record(10)]), None);
        assert_eq!(same_upto([].into_iter(), &sent), None);
    }
}
