//! One group: decides about posts and members, and applies what the log has taken. Pure: no tasks, no I/O.
//!
//! Three marks on the line of `seq`: `head` is in the log; up to `tail` a place is given, by an append in flight or to
//! come. A failed append takes `tail` back to `head`.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use tertulia_protocol::{GroupName, PostId, UserName};
use tokio::sync::broadcast;

use super::dedup::Dedup;
use super::request::{Member, Progress};
use super::session::{ConnectionId, Session, Stored};
use super::{Batch, Delivery, GroupStatus, Record, Subscription};
use crate::log::clock::TakenIn;
use crate::log::{Head, Page};
use crate::telemetry::trace::FanOut;

/// Bytes of messages in one delivery at most, beside its last message: a member that stands still holds as many deliveries as the
/// group keeps.
const DELIVERY_BYTES: usize = 64 * 1024;

/// The place of a member in their order, by user, then connection: a name as a text, so that any text has a place among them.
type Place = (Arc<str>, ConnectionId);

#[derive(Debug)]
pub(super) struct Group {
    pub(super) status: Arc<GroupStatus>,
    epoch: u64,
    head: u64,
    tail: u64,
    /// When the newest message was taken in: times never decrease.
    newest_at: u64,
    /// Given a place, not in an append yet.
    staged: Vec<Record>,
    /// When the oldest of them was read from its socket.
    received: Option<Instant>,
    members: BTreeMap<Place, Member>,
    /// How many of them have their connection on another node.
    remote: usize,
    fanout: broadcast::Sender<Arc<Delivery>>,
    /// `None` until a post with an id needs it.
    pub(super) dedup: Option<Dedup>,
    /// Whether each of its posts was placed here, by this object: those before the first with an id had none.
    is_whole: bool,
    /// Whether it is not known where it is in the log, which may have more of it, or another life: until it is, nothing is posted.
    pub(super) is_unread: bool,
    /// When somebody last joined, left or posted.
    pub(super) last_used: tokio::time::Instant,
}

impl Group {
    /// A group as the log knows it (`head` 0: it does not).
    pub(super) fn new(name: GroupName, shard: u16, epoch: u64, head: u64, newest_at: u64, fanout: usize) -> Self {
        Self {
            status: Arc::new(GroupStatus::new(name, shard, epoch, head)),
            epoch,
            head,
            tail: head,
            newest_at,
            staged: Vec::new(),
            received: None,
            members: BTreeMap::new(),
            remote: 0,
            fanout: broadcast::Sender::new(fanout.max(1)),
            dedup: None,
            is_whole: head == 0,
            is_unread: false,
            last_used: tokio::time::Instant::now(),
        }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn head(&self) -> u64 {
        self.head
    }

    /// Up to here places are given.
    pub(super) fn tail(&self) -> u64 {
        self.tail
    }

    pub(super) fn newest_at(&self) -> u64 {
        self.newest_at
    }

    pub(super) fn is_stored(&self) -> bool {
        self.head > 0
    }

    /// Nobody has posted, and nothing is under way.
    pub(super) fn is_blank(&self) -> bool {
        self.tail == 0
    }

    /// Nobody is in it and nothing is under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.members.is_empty() && self.tail == self.head
    }

    /// Where a post with this id already is.
    pub(super) fn repeat_of(&mut self, sender: &UserName, id: &PostId, now: TakenIn) -> Option<Stored> {
        self.dedup.as_mut()?.get(sender, id, now)
    }

    /// Gives a post its place. Answers whether it is the first since the last [`Group::take_batch`], and the place.
    pub(super) fn stage(
        &mut self,
        sender: UserName,
        id: Option<PostId>,
        message: Arc<str>,
        now: TakenIn,
        received: Instant,
    ) -> (bool, Stored) {
        self.tail += 1;
        self.newest_at = self.newest_at.max(now.at);
        let stored = Stored { epoch: self.epoch, seq: self.tail, at: self.newest_at };
        if let (Some(dedup), Some(id)) = (&mut self.dedup, &id) {
            dedup.insert(sender.clone(), id.clone(), stored, now);
        }
        let first = self.staged.is_empty();
        self.received.get_or_insert(received);
        if first {
            // Most batches are of one post, and logs keep batches: a vector that grows by itself begins with room for four.
            self.staged.reserve_exact(1);
        }
        self.staged.push(Record { seq: stored.seq, at: stored.at, sender, id, message });
        (first, stored)
    }

    /// What to append next.
    pub(super) fn take_batch(&mut self) -> Option<(Arc<Batch>, Instant)> {
        let received = self.received.take()?;
        let records = std::mem::take(&mut self.staged);
        Some((Arc::new(Batch { group: self.status.name.clone(), epoch: self.epoch, records }), received))
    }

    /// The log has taken `batch`: now it may be seen. Answers whether it was the group's first.
    pub(super) fn commit(&mut self, batch: Arc<Batch>, received: Instant, trace: Option<Arc<FanOut>>) -> bool {
        let first = self.head == 0;
        self.head = batch.last();
        self.status.committed(self.head, batch.records.len() as u64);
        if let Some(dedup) = &self.dedup {
            self.status.set_ids(dedup.len());
        }
        self.deliver(batch, received, trace);
        first
    }

    /// Sends a batch to the members that are here. One that misses something before it finds that in the log.
    pub(super) fn deliver(&self, batch: Arc<Batch>, received: Instant, trace: Option<Arc<FanOut>>) {
        let members = self.fanout.receiver_count();
        if members > 0 {
            if let Some(trace) = &trace {
                trace.sent(members);
            }
            for part in batch.in_parts(DELIVERY_BYTES) {
                // The last receiver may go meanwhile; then nobody misses it.
                drop(self.fanout.send(Arc::new(Delivery::new(part, received, trace.clone()))));
            }
        }
    }

    /// The owner on another node has delivered up to here.
    pub(super) fn followed(&mut self, head: u64, newest_at: u64, posts: u64) {
        (self.head, self.tail) = (head, head);
        self.is_whole = false;
        self.newest_at = self.newest_at.max(newest_at);
        self.status.committed(head, posts);
    }

    /// An append failed: everything that was given a place and is not in the log is forgotten.
    pub(super) fn roll_back(&mut self) {
        self.staged = Vec::new();
        self.received = None;
        self.tail = self.head;
        let head = self.head;
        if self.dedup.as_mut().is_some_and(|dedup| dedup.roll_back(head)) {
            self.forget_ids();
        }
    }

    /// Messages that have their place and are in no append yet.
    pub(super) fn staged(&self) -> impl Iterator<Item = &Record> {
        self.staged.iter()
    }

    /// Somebody else extended the group: goes on from where the log is.
    pub(super) fn move_to(&mut self, epoch: u64, head: u64, newest_at: u64) {
        self.roll_back();
        (self.epoch, self.head, self.tail, self.newest_at) = (epoch, head, head, newest_at);
        self.forget_ids();
        self.status.moved_to(epoch, head);
    }

    /// This node has its shard from now on: goes on from where the log is. Members that are here are sent what they may have missed.
    pub(super) fn go_on_from(&mut self, head: Head, tail: Option<Page>) {
        self.move_to(head.epoch, head.seq, head.at);
        self.is_unread = false;
        if let Some(page) = tail.filter(|page| !page.records.is_empty()) {
            let batch = Batch { group: self.status.name.clone(), epoch: head.epoch, records: page.records };
            self.deliver(Arc::new(batch), Instant::now(), None);
        }
    }

    /// Others may post from now on: what they use is to be found in the log.
    pub(super) fn forget_ids(&mut self) {
        self.dedup = None;
        self.is_whole = false;
    }

    /// Whether posts with ids can be only those that [`Group::dedup`] knows, or, while there is none, that there are none.
    pub(super) fn knows_all_ids(&self) -> bool {
        self.is_whole
    }

    pub(super) fn member_count(&self) -> usize {
        self.members.len()
    }

    /// Whether members have their connection on other nodes.
    pub(super) fn is_remote(&self) -> bool {
        self.remote > 0
    }

    pub(super) fn is_member(&self, session: &Session) -> bool {
        self.members.contains_key(&place(session))
    }

    /// Adds a member, or does nothing if it is one. What is posted from now on is in the subscription.
    pub(super) fn join(&mut self, session: &Arc<Session>, now: u64) -> (bool, Subscription, Arc<Progress>) {
        let mut new = false;
        let member = self.members.entry(place(session)).or_insert_with(|| {
            new = true;
            Member { session: Arc::clone(session), joined_at: now, progress: Arc::new(Progress::new(self.head)) }
        });
        let progress = Arc::clone(&member.progress);
        self.remote += usize::from(new && session.home.is_some());
        self.members_changed();
        (new, self.fanout.subscribe(), progress)
    }

    /// Removes a member; answers whether it was one.
    pub(super) fn leave(&mut self, session: &Session) -> bool {
        let Some(member) = self.members.remove(&place(session)) else { return false };
        self.remote -= usize::from(member.session.home.is_some());
        self.members_changed();
        true
    }

    /// Removes all members for which `which` holds.
    pub(super) fn remove_where(&mut self, which: impl Fn(&Session) -> bool) -> Vec<Arc<Session>> {
        let gone = self.members.extract_if(.., |_, member| which(&member.session));
        let gone: Vec<Arc<Session>> = gone.map(|(_, member)| member.session).collect();
        if !gone.is_empty() {
            self.remote -= gone.iter().filter(|session| session.home.is_some()).count();
            self.members_changed();
        }
        gone
    }

    fn members_changed(&mut self) {
        self.status.set_members(self.members.len(), self.remote);
        self.last_used = tokio::time::Instant::now();
    }

    /// All members.
    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// Members from the first after `after`, ordered by user, then connection.
    pub(super) fn members_after(&self, after: Option<(UserName, ConnectionId)>) -> impl Iterator<Item = &Member> {
        self.after(after.map(|(user, id)| (user.shared(), id)))
    }

    fn after(&self, place: Option<Place>) -> impl Iterator<Item = &Member> {
        let from = place.map_or(Bound::Unbounded, Bound::Excluded);
        self.members.range((from, Bound::Unbounded)).map(|(_, member)| member)
    }

    /// Users from the first after `after`, each once; and whether there are more than `limit`.
    pub(super) fn users_after(&self, after: Option<&str>, limit: usize) -> (Vec<UserName>, bool) {
        let last_of = |user: Arc<str>| (user, ConnectionId(u64::MAX));
        let mut from = after.map(|after| last_of(Arc::from(after)));
        let mut users: Vec<UserName> = Vec::new();
        // From user to user: one may have thousands of connections.
        while let Some(Member { session, .. }) = self.after(from).next() {
            if users.len() == limit {
                return (users, true);
            }
            from = Some(last_of(session.user.shared()));
            users.push(session.user.clone());
        }
        (users, false)
    }
}

/// Costs a counter.
fn place(session: &Session) -> Place {
    (session.user.shared(), session.id)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::{Duration, Instant};

    use super::*;

    fn group_of(users: impl IntoIterator<Item = String>) -> Group {
        let mut group = Group::new(GroupName::new("G").unwrap(), 0, 1, 0, 0, 1);
        for (id, user) in (1..).map(ConnectionId).zip(users) {
            let (user, address) = (UserName::new(&user).unwrap(), IpAddr::V4(Ipv4Addr::LOCALHOST));
            let session = Session { id, user, address, inbox: Arc::default(), home: None, wants_places: false };
            group.join(&Arc::new(session), 0);
        }
        group
    }

    #[test]
    fn users_come_after_any_text() {
        let group = group_of(["ada", "bob", "bob", "cat"].map(str::to_owned));
        let after = |after: Option<&str>, limit| {
            let (users, more) = group.users_after(after, limit);
            (users.iter().map(|user| user.as_str().to_owned()).collect::<Vec<_>>().join(" "), more)
        };
        assert_eq!(after(None, 2), ("ada bob".to_owned(), true));
        assert_eq!(after(Some("ada"), 2), ("bob cat".to_owned(), false));
        // Texts that cannot be names.
        for (text, users) in [("", "ada bob cat"), ("ada ", "bob cat"), ("bo\u{7f}", "cat"), ("@z", "ada bob cat")] {
            assert_eq!(after(Some(text), 9), (users.to_owned(), false), "{text:?}");
        }
        assert_eq!(after(Some(&"c".repeat(100)), 9), (String::new(), false));
        assert_eq!(after(Some("\u{7f}"), 9), (String::new(), false));
    }

    #[test]
    fn no_text_makes_it_look_at_all_users() {
        let group = group_of((0..20_000).map(|number| format!("user-{number}")));
        let took = |after, limit| {
            let begun = Instant::now();
            drop(group.users_after(after, limit));
            begun.elapsed()
        };
        let all = took(None, usize::MAX);
        // The best of some, for the machine may have something else to do.
        let none = (0..10).map(|_| took(Some("\u{7f}"), 1)).min().unwrap_or(Duration::MAX);
        assert!(none * 20 < all, "{none:?}, {all:?}");
    }
}
