//! The owner of a shard: the only code that touches the shard's groups, hence without locks.
//!
//! Posts are given their places as they come and gather while an append is in flight: the next append takes them all. Only when an
//! append has returned are its posts acknowledged and delivered. While too much has gathered the owner takes no more
//! requests, its queue fills, and those who send wait.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use tertulia_protocol::{GroupName, PostId, UserName};
use tokio::sync::mpsc;

use super::Refusal;
use super::ending::Ending;
use super::events::{Leaving, What};
use super::group::Group;
use super::handle::Shared;
use super::request::{JoinFrom, Posts, Request};
use super::session::{Event, Joined, RETRY_SOON, Session, Stored};
use crate::log::clock::{TakenIn, taken_in, taken_in_ms};
use crate::log::epoch_of_now;

mod admin;
mod append;
mod cut_off;
mod heads;
mod held;
mod ids;
mod mirror;
mod redaction;
mod seat;
mod serving;
mod traced;
mod turn;

use append::{Answer, Asker, InFlight, Staged, returned};
use heads::Ahead;
pub(super) use seat::Seat;
use seat::{Heard, at, hear};

/// How long the shard's task waits for the log to tell whether another node has the shard. After that it asks no more for so many times as long
/// as the answer took, and for so long at least and at most.
const LOOK: Duration = Duration::from_secs(1);
const LOOK_SHARE: u32 = 20;
const LOOKS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(500));

pub(super) struct Owner {
    shard: u16,
    shared: Arc<Shared>,
    groups: HashMap<GroupName, Group, RandomState>,
    staged: Staged,
    in_flight: Option<InFlight>,
    /// Whether the last append failed.
    is_failing: bool,
    /// The newest epoch that was given: two lives of a group never share one.
    newest_epoch: u64,
    /// Requests that were taken from the queue and wait for room.
    waiting: VecDeque<Request>,
    ahead: Ahead,
    /// The place among other nodes, if there may be any. Without one every shard is ours for good.
    seat: Option<Box<Seat>>,
}

impl Owner {
    pub(super) fn new(shard: u16, shared: Arc<Shared>, seat: Option<Box<Seat>>) -> Self {
        Self {
            shard,
            shared,
            groups: HashMap::default(),
            staged: Staged::default(),
            in_flight: None,
            is_failing: false,
            newest_epoch: 0,
            waiting: VecDeque::new(),
            ahead: Ahead::default(),
            seat,
        }
    }

    /// Serves requests until the end begins, then those already sent, and finishes what they began. Other nodes are served until it is over.
    pub(super) async fn run(mut self, mut requests: mpsc::Receiver<Request>, ending: Ending) {
        let unfinished = ending.unfinished.token();
        let mut received = Vec::new();
        let housekeeping = tokio::time::sleep(self.shared.config.group_idle);
        let mut housekeeping = std::pin::pin!(housekeeping);
        let mut stopped = std::pin::pin!(ending.begun.cancelled());
        let mut stopping = false;
        loop {
            while self.has_room() {
                let Some(request) = self.waiting.pop_front() else { break };
                self.on_request(request).await;
            }
            self.start_append();
            if self.seat.is_some() && self.take_turn().await {
                continue;
            }
            let overdue_at = self.overdue_at();
            tokio::select! {
                biased;
                result = returned(&mut self.in_flight) => self.on_appended(result).await,
                () = at(overdue_at) => self.on_overdue(),
                heard = hear(&mut self.seat, &mut requests, &mut received, self.waiting.is_empty()) => match heard {
                    Heard::Requests(0) => break,
                    Heard::Requests(_) => self.waiting.extend(received.drain(..)),
                    Heard::Peers(news) => self.on_news(news).await,
                },
                () = &mut stopped, if !stopping => {
                    stopping = true;
                    requests.close();
                }
                // What is in the way of requests that were sent already has no answer. In a block, so that it costs nothing until then.
                () = async { ending.impatient.cancelled().await }, if stopping && self.seat.is_some() && !self.has_room() => {
                    match self.mirror().is_some() {
                        true => self.give_up_outbox(),
                        false => self.on_overdue(),
                    }
                },
                () = &mut housekeeping, if !self.is_empty() => {
                    self.on_housekeeping();
                    housekeeping.as_mut().reset(tokio::time::Instant::now() + self.shared.config.group_idle / 2);
                }
            }
        }
        if self.seat.is_none() {
            return self.settle().await;
        }
        self.last_words(&ending, unfinished).await;
    }

    fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    fn has_room(&self) -> bool {
        let config = &self.shared.config;
        if self.is_fenced() {
            return false;
        }
        if self.turns_down() {
            return true;
        }
        if let Some(mirror) = self.mirror() {
            return mirror.has_room(config);
        }
        !self.is_full()
    }

    /// Whether as much waits for the next append as may go into one.
    fn is_full(&self) -> bool {
        let config = &self.shared.config;
        self.staged.posts >= config.append_posts || self.staged.bytes >= config.append_bytes
    }

    async fn on_request(&mut self, request: Request) {
        let request = match self.turns_down() {
            true => match self.turn_down(request) {
                Some(request) => request,
                None => return,
            },
            false => request,
        };
        if self.mirror().is_some() {
            return self.forward(request);
        }
        match request {
            Request::Asked(asked) => self.on_asked(asked).await,
            Request::Post(posts) => self.on_posts(posts).await,
            Request::Join { group, session, from } => self.on_join(group, session, from).await,
            Request::Leave { group, session, answer } => {
                let was_member = self.leave(&group, &session, answer);
                if answer {
                    session.inbox.push(Event::Left { group, was_member });
                }
            }
            Request::Members { group, after, limit, reply } => {
                let page = |group: &mut Group| group.users_after(after.as_deref(), limit);
                drop(reply.send(self.load(&group).await.map(|group| group.map(page))));
            }
            Request::Admin(admin) => {
                // It may change the log also of groups that are not in memory.
                self.ahead = Ahead::default();
                self.on_admin(*admin).await;
            }
        }
    }

    async fn on_join(&mut self, group: GroupName, session: Arc<Session>, from: JoinFrom) {
        match self.join(&group, &session, from).await {
            Ok(joined) => session.inbox.push(Event::Joined(Box::new(joined))),
            Err(refusal) => {
                self.shared.metrics.join_refused.increment(1);
                session.inbox.push(Event::JoinRefused { group, refusal });
            }
        }
    }

    async fn join(&mut self, name: &GroupName, session: &Arc<Session>, from: JoinFrom) -> Result<Joined, Refusal> {
        self.shared.holds.check(name, session)?;
        if self.load(name).await?.is_none() {
            self.create(name, session)?;
        }
        if self.may_have_seen(name, from) || self.is_overtaken_in(name, from).await {
            return Err(unavailable(name));
        }
        // Only who asks for the past needs to know where it begins now.
        let first = match from {
            JoinFrom::Now => 0,
            JoinFrom::Last(_) | JoinFrom::After { .. } => {
                let head = self.shared.log.head(self.shard, name).await.map_err(|_| unavailable(name))?;
                head.map_or(1, |head| head.first)
            }
        };
        let max = self.shared.bounds.members_per_group;
        let Some(group) = self.groups.get_mut(name) else { return Err(unavailable(name)) };
        if group.member_count() >= max && !group.is_member(session) {
            return Err(Refusal::GroupFull { group: name.clone(), max });
        }
        // The log may have an append already that is not the group's yet, and have let go of what was before it.
        let first = first.min(group.head() + 1);
        let (new, subscription, progress) = group.join(session, taken_in_ms());
        if new {
            self.shared.metrics.joined.increment(1);
            self.shared.events.tell(|| What::Joined {
                group: name.clone(),
                who: (&**session).into(),
                members: group.member_count() as u64,
            });
        } else {
            self.shared.metrics.joined_again.increment(1);
        }
        Ok(Joined {
            status: Arc::clone(&group.status),
            subscription,
            epoch: group.epoch(),
            head: group.head(),
            subscribed_at: group.head(),
            first,
            members: group.member_count() as u64,
            progress,
            from,
        })
    }

    /// Whether a new member says that it has seen what an append that has not returned would store. The log may have that already, and who
    /// reads the log may have it from there: until it is known what became of it, nobody is told that it is not there. Nor is it waited for, since
    /// all others of the shard would wait as well.
    fn may_have_seen(&self, name: &GroupName, from: JoinFrom) -> bool {
        let JoinFrom::After { seq, epoch } = from else { return false };
        self.groups.get(name).is_some_and(|group| {
            (group.head() + 1..=group.tail()).contains(&seq) && epoch.is_none_or(|epoch| epoch == group.epoch())
        })
    }

    /// Whether a new member has seen what another node stored, which has the shard since: a node that appends nothing learns that late, and
    /// would tell the member that there is no such message.
    async fn is_overtaken_in(&mut self, name: &GroupName, from: JoinFrom) -> bool {
        let JoinFrom::After { seq, epoch } = from else { return false };
        let Some(group) = self.groups.get(name).filter(|_| self.seat.is_some()) else { return false };
        let ours = (group.epoch(), group.tail());
        if seq <= group.tail() || epoch.is_some_and(|epoch| epoch != group.epoch()) {
            return false;
        }
        // All others of the shard wait meanwhile, and anybody may say to have seen anything: so it is asked now and then, and not for long.
        let now = tokio::time::Instant::now();
        if self.seat.as_ref().is_some_and(|seat| seat.look_again.is_some_and(|again| now < again)) {
            return true;
        }
        let asking = self.shared.log.head_now(self.shard, name);
        let head = tokio::time::timeout(LOOK, asking).await;
        if let Some(seat) = &mut self.seat {
            let took = now.elapsed();
            seat.look_again = Some(now + took + (took * LOOK_SHARE).clamp(LOOKS.0, LOOKS.1));
        }
        let Ok(Ok(head)) = head else { return true };
        let is_overtaken = head.is_some_and(|head| (head.epoch, head.seq) > ours);
        if let Some(seat) = self.seat.as_mut().filter(|_| is_overtaken) {
            seat.is_lost = true;
        }
        is_overtaken
    }

    /// Ends a membership; answers whether there was one. `asked`: its client wants it, else the connection is gone.
    fn leave(&mut self, group: &GroupName, session: &Session, asked: bool) -> bool {
        let Some(left) = self.groups.get_mut(group).filter(|group| group.is_member(session)) else { return false };
        left.leave(session);
        let (reason, how) = match asked {
            true => (&self.shared.metrics.left, Leaving::Asked),
            false => (&self.shared.metrics.disconnected, Leaving::Disconnected),
        };
        reason.increment(1);
        let members = left.member_count() as u64;
        self.shared.events.tell(|| What::Left { group: group.clone(), who: session.into(), members, how });
        true
    }

    async fn on_posts(&mut self, posts: Posts) {
        let Posts { session, posts, received, in_doubt } = posts;
        let now = taken_in();
        let mut posts = posts.into_iter();
        while let Some(post) = posts.next() {
            let may_post = match self.is_repeat(&post.group, &session, post.id.as_ref(), now) {
                true => Ok(()),
                false => self.ready_for_post(&post.group, &session, post.id.as_ref()).await,
            };
            if self.ahead.has_asked {
                self.look_ahead(posts.as_slice().iter().map(|post| &post.group)).await;
            }
            let outcome = match may_post {
                Ok(()) => self.place(&post.group, &session.user, post.id.as_ref(), post.message, now, received),
                Err(refusal) => Err(refusal),
            };
            let outcome = outcome.map_err(|refusal| if in_doubt { unanswered(post.group.clone()) } else { refusal });
            let mut trace = post.trace;
            if let Err(refusal) = &outcome {
                self.shared.metrics.post_refused(refusal);
                if let Some(trace) = trace.take() {
                    trace.refused(self.shard, &post.group, refusal.reason());
                }
            }
            self.staged.traced += usize::from(trace.is_some());
            let to = Asker::Session(Arc::clone(&session));
            let id = post.id.filter(PostId::is_of_client);
            self.staged.answers.push(Answer { to, group: post.group, id, outcome, trace, weight: post.weight });
            if self.is_full() && posts.len() > 0 {
                // The others go into the next append, before what came after them.
                let rest = Posts { session, posts: posts.collect(), received, in_doubt };
                return self.waiting.push_front(Request::Post(rest));
            }
        }
    }

    /// Whether a post is known to be stored already: then it is answered as such, whatever a moderator has done since.
    fn is_repeat(&mut self, name: &GroupName, session: &Session, id: Option<&PostId>, now: TakenIn) -> bool {
        let Some(id) = id else { return false };
        self.groups.get_mut(name).is_some_and(|group| group.repeat_of(&session.user, id, now).is_some())
    }

    /// Brings a group into memory with all that a post needs, and asks whether the session may post, or has posted just this.
    async fn ready_for_post(
        &mut self,
        name: &GroupName,
        session: &Session,
        id: Option<&PostId>,
    ) -> Result<(), Refusal> {
        // Ids that are not in memory are brought there first.
        if id.is_some() && self.groups.get(name).is_none_or(|group| group.dedup.is_none()) {
            if self.load(name).await?.is_none() {
                self.shared.holds.check(name, session)?;
                return Err(Refusal::NoSuchGroup(name.clone()));
            }
            self.load_ids(name).await?;
            if self.is_repeat(name, session, id, taken_in()) {
                return Ok(());
            }
        }
        self.shared.holds.check(name, session)?;
        let post_without_join = self.shared.bounds.post_without_join;
        let may_post = |group: &Group| post_without_join || group.is_member(session);
        // As a rule it is in memory, and looked up no more than once.
        let may_post = match self.groups.get(name) {
            Some(group) if !group.is_unread => may_post(group),
            _ => match self.load(name).await? {
                Some(group) => may_post(group),
                None => return Err(Refusal::NoSuchGroup(name.clone())),
            },
        };
        if may_post { Ok(()) } else { Err(Refusal::NotAMember(name.clone())) }
    }

    /// Gives a post its place, or finds the one it already has.
    fn place(
        &mut self,
        name: &GroupName,
        sender: &UserName,
        id: Option<&PostId>,
        message: Arc<str>,
        now: TakenIn,
        received: Instant,
    ) -> Result<Stored, Refusal> {
        let Some(group) = self.groups.get_mut(name) else { return Err(Refusal::NoSuchGroup(name.clone())) };
        if group.is_unread {
            return Err(unavailable(name));
        }
        if let Some(stored) = id.and_then(|id| group.repeat_of(sender, id, now)) {
            self.shared.metrics.repeated.increment(1);
            return Ok(stored);
        }
        self.staged.posts += 1;
        self.staged.bytes += message.len();
        let (first, stored) = group.stage(sender.clone(), id.cloned(), message, now, received);
        if first {
            self.staged.groups.push(name.clone());
        }
        Ok(stored)
    }

    /// The group, brought into memory if the log knows it; `None` if it does not exist.
    async fn load(&mut self, name: &GroupName) -> Result<Option<&mut Group>, Refusal> {
        let in_memory = self.groups.get(name);
        if in_memory.is_some_and(|group| group.is_unread) {
            return Err(unavailable(name));
        }
        if in_memory.is_none() {
            let Some(head) = self.head_of(name).await? else { return Ok(None) };
            let fanout = self.shared.config.fanout;
            self.enter(Group::new(name.clone(), self.shard, head.epoch, head.seq, head.at, fanout));
        }
        Ok(self.groups.get_mut(name))
    }

    fn create(&mut self, name: &GroupName, session: &Session) -> Result<(), Refusal> {
        let epoch = self.next_epoch();
        let shared = Arc::clone(&self.shared);
        // No other shard makes one in between.
        let mut founders = shared.founders.lock().unwrap_or_else(PoisonError::into_inner);
        let max = shared.bounds.groups;
        if shared.groups() >= max as u64 {
            return Err(Refusal::ServerFull { group: name.clone(), max });
        }
        founders.found(name, session, &shared.bounds)?;
        self.enter(Group::new(name.clone(), self.shard, epoch, 0, 0, self.shared.config.fanout));
        self.shared.events.tell(|| What::Created { group: name.clone(), shard: self.shard, epoch });
        Ok(())
    }

    fn enter(&mut self, group: Group) {
        self.ahead.forget(&group.status.name);
        self.shared.directory.enter(Arc::clone(&group.status), group.is_stored());
        self.groups.insert(group.status.name.clone(), group);
    }

    /// A life of a group is over. Clocks may have gone back, or differ from that of the node where it began: the next one has a later epoch all
    /// the same.
    fn begin_later_than(&mut self, epoch: u64) {
        self.newest_epoch = self.newest_epoch.max(epoch);
    }

    /// Grows within an owner.
    fn next_epoch(&mut self) -> u64 {
        self.newest_epoch = epoch_of_now().max(self.newest_epoch + 1);
        self.newest_epoch
    }

    /// Lets go of groups that nobody uses.
    fn on_housekeeping(&mut self) {
        let Some(since) = tokio::time::Instant::now().checked_sub(self.shared.config.group_idle) else { return };
        let directory = &self.shared.directory;
        if self.mirror().is_some() {
            return;
        }
        let holds = &self.shared.holds;
        self.groups.retain(|name, group| {
            // Of a group without messages nothing is left but what is in memory; a moderator must find it to open it again.
            let is_closed = || !group.is_stored() && holds.closed_for(name.as_str()).is_some();
            let keep = !group.is_quiet() || group.last_used > since || is_closed();
            if !keep {
                directory.remove(name, group.is_stored());
            }
            keep
        });
        self.groups.shrink_to(self.groups.len() * 2);
    }
}

/// Nobody knows what became of a request.
fn unanswered(group: GroupName) -> Refusal {
    Refusal::Unanswered { group, retry_after: RETRY_SOON }
}

fn unavailable(group: &GroupName) -> Refusal {
    Refusal::Unavailable { group: group.clone(), retry_after: RETRY_SOON }
}

#[cfg(test)]
mod tests;
