//! A shard that another node owns: requests go there, in their order, and what that node delivers is passed on to the members here.
//!
//! One frame of requests is under way at a time; those that come meanwhile gather for the next. A frame that is not answered is
//! sent again, to whoever owns the shard then. An owner carries out a frame once, by its number; and a new owner knows by its `id`
//! whether a post is stored, which is why every post has one here.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use tertulia_protocol::{GroupName, PostId, UserName};
use tokio::time::Instant;

use super::Owner;
use super::seat::{News, at};
use crate::log::ReadError;
use crate::random;
use crate::shard::peers::Silence;
use crate::shard::request::{Admin, Posts, Request};
use crate::shard::session::{ConnectionId, Removal};
use crate::shard::wire::{self, Person, Removed, Reply, Roll};
use crate::shard::{Config, Session};

mod conclude;
mod flight;
mod hearing;
mod packing;

pub(super) use conclude::refuse_admin;

/// Bytes of messages in one frame, beside its last.
const FRAME_BYTES: usize = 96 * 1024;
/// Requests in one frame.
const FRAME_ITEMS: usize = 512;
/// Members in one part of a roll.
const ROLL_MEMBERS: usize = 2_000;
/// How long a message that must come may take before it is looked for in the log.
const LATE: Duration = Duration::from_millis(500);
/// How soon it is looked for again, and how late at most: longer each time that it was not there.
const LATE_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// The first wait before a frame is sent again, and the longest.
const AGAIN: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(100));
/// Posts that are remembered to have gone unanswered.
const DOUBTS: usize = 1_000;
/// How long a frame may go unanswered before that is worth a warning: longer than it takes to notice that a node is dead.
const SILENT: Duration = Duration::from_secs(5);

/// What this node knows of a shard that another one owns.
#[derive(Default)]
pub(super) struct Mirror {
    /// Requests that are not answered, oldest first; those of the frame under way are the first.
    pub(super) outbox: VecDeque<Pending>,
    flight: Option<Flight>,
    /// What is known of the owner's reign; 0: nothing.
    reign: u64,
    /// Parts of the roll that are to be sent before anything else.
    roll: Option<VecDeque<Roll>>,
    /// Whether the roll is to be made.
    roll_is_due: bool,
    told: Option<BoxStream<'static, Bytes>>,
    /// The number of the last frame that was told, if that is known.
    heard: Option<u64>,
    /// Until the owner has answered: the number of the last frame before the first that was heard. What was told between the answer and
    /// that one was missed.
    heard_after: Option<u64>,
    /// The number of the last one before something was missed, until the owner is asked for it.
    missed: Option<u64>,
    /// The newest messages of groups that nobody here is in, as far as they passed since the frame under way was sent.
    passed: HashMap<GroupName, (u64, u64)>,
    /// The ends of memberships that the frame under way asks for, as far as they were heard since it was sent, each with the number of what
    /// was told: the answer to the join may come after them.
    ended: Vec<(u64, Removed)>,
    /// Posts that went unanswered and may be stored, by who posted them and their ids, until a frame is answered.
    doubts: HashSet<(UserName, PostId)>,
    /// Groups with a message that is in the log and did not come yet.
    late: HashMap<GroupName, Late>,
    late_at: Option<Instant>,
    reading: Option<BoxFuture<'static, Page>>,
    /// How often this node had the shard and could not read where all of its groups are.
    pub(super) read_in_vain: u32,
}

/// A request that the owner has not answered.
pub(super) struct Pending {
    pub(super) request: Request,
    since: Instant,
    /// Whether an owner may have carried it out that did not answer: then no later refusal tells that nothing came of it.
    in_doubt: bool,
}

/// A message that is in the log and did not come yet.
#[derive(Clone, Copy)]
struct Late {
    seq: u64,
    /// When it is looked for.
    at: Instant,
    /// After which wait it is looked for once more.
    again: Duration,
}

/// What was read for a group with a late message, and which message that is.
pub(super) type Page = (GroupName, u64, Result<Option<crate::log::Page>, ReadError>);

/// A frame under way.
struct Flight {
    number: u64,
    frame: Bytes,
    /// How many of the oldest requests are in it.
    count: usize,
    /// Of the part of the roll in it: the reign, and the number of what was heard last.
    roll: Option<(u64, u64)>,
    /// Whether it may have reached an owner that did not answer.
    in_doubt: bool,
    /// The wait before it is sent again.
    again: Duration,
    since: Instant,
    /// Whether it was said that it takes long.
    is_told: bool,
    asking: BoxFuture<'static, Result<Bytes, Silence>>,
}

pub(super) type Replied = Result<Bytes, Silence>;

impl Pending {
    /// If it is a post: who posts it and under which id of its client.
    fn ids(&self) -> impl Iterator<Item = (UserName, PostId)> {
        let posts = if let Request::Post(posts) = &self.request { Some(posts) } else { None };
        posts.into_iter().flat_map(|posts| {
            let ids = posts.posts.iter().filter_map(|post| post.id.clone());
            ids.filter(PostId::is_of_client).map(|id| (posts.session.user.clone(), id))
        })
    }
}

impl Mirror {
    /// Of a shard that was this node's in a reign that has ended.
    pub(super) fn after(reign: u64) -> Self {
        Self { reign, ..Self::default() }
    }

    /// Whether another reign has begun since that one.
    pub(super) fn knows_later(&self, reign: u64) -> bool {
        self.reign > reign
    }

    pub(super) fn has_room(&self, config: &Config) -> bool {
        self.outbox.len() < config.append_posts
    }

    /// The owner is to be told who is a member here.
    pub(super) fn call_roll(&mut self) {
        self.roll_is_due = true;
    }

    /// What the owner told and is there already.
    pub(super) fn next_told(&mut self) -> Option<Bytes> {
        // However much it is: else it would not be ready before the task has let others go on.
        tokio::task::unconstrained(self.told.as_mut()?.next()).now_or_never().flatten()
    }

    /// Waits for news. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> News {
        let Self { flight, told, reading, late_at, .. } = self;
        let replied = async {
            match flight {
                Some(flight) => (&mut flight.asking).await,
                None => std::future::pending().await,
            }
        };
        let told = async {
            match told {
                Some(told) => told.next().await,
                None => std::future::pending().await,
            }
        };
        let read = async {
            match reading {
                Some(reading) => reading.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            replied = replied => News::Replied(replied),
            frame = told => News::Told(frame),
            page = read => News::LatePage(page),
            () = at(*late_at) => News::Late,
        }
    }

    fn is_late(&mut self, group: &GroupName, seq: u64, by: Duration) {
        let at = Instant::now() + by;
        let late = self.late.entry(group.clone()).or_insert(Late { seq, at, again: LATE_AGAIN.0 });
        (late.seq, late.at) = (late.seq.max(seq), late.at.min(at));
        self.late_at = Some(self.late_at.map_or(at, |before| before.min(at)));
    }
}

impl Owner {
    fn tell_here(&self, request: Request) {
        if let Request::Admin(admin) = request
            && let Admin::Here { group, after, limit, reply } = *admin
        {
            // Who asked may have given up.
            drop(reply.send(self.members_here(&group, after, limit)));
        }
    }

    /// Takes a request for the owner.
    pub(super) fn forward(&mut self, request: Request) {
        let since = Instant::now();
        // Nobody knows better who is connected here.
        if let Request::Admin(admin) = &request
            && let Admin::Here { .. } = **admin
        {
            return self.tell_here(request);
        }
        let Some(mirror) = self.mirror_mut() else { return };
        match request {
            Request::Asked(asked) => (asked.answer)(wire::encode(&Reply::NotOwner)),
            // Whoever has the shard now sees to it.
            Request::Admin(admin) if matches!(*admin, Admin::Forget { .. }) => {}
            Request::Post(Posts { session, posts, received, in_doubt }) => {
                for mut post in posts {
                    post.id.get_or_insert_with(own_id);
                    let posts = Posts { session: Arc::clone(&session), posts: vec![post], received, in_doubt };
                    mirror.outbox.push_back(Pending { request: Request::Post(posts), since, in_doubt });
                }
            }
            mut request => {
                if let Request::Admin(admin) = &mut request
                    && let Admin::Announce { id, .. } = &mut **admin
                {
                    id.get_or_insert_with(own_id);
                }
                let in_doubt = request.is_in_doubt();
                mirror.outbox.push_back(Pending { request, since, in_doubt });
            }
        }
    }
}

impl Mirror {
    /// The frame under way is not waited for any more. Its requests go elsewhere, where nobody knows that an owner may have seen them.
    fn let_go_of_flight(&mut self) {
        if let Some(flight) = self.flight.take().filter(|flight| flight.in_doubt) {
            self.outbox.iter_mut().take(flight.count).for_each(|pending| pending.in_doubt = true);
        }
    }

    /// What is not answered, for this node to carry out by itself.
    pub(super) fn into_requests(mut self) -> impl DoubleEndedIterator<Item = Request> {
        self.let_go_of_flight();
        self.outbox.into_iter().map(|Pending { mut request, in_doubt, .. }| {
            if in_doubt {
                request.doubt();
            }
            request
        })
    }

    /// Keeps the ends of those memberships that the frame under way asks for.
    fn keep_ends(&mut self, number: u64, removed: &[Removed]) {
        let Some(flight) = self.flight.as_ref().filter(|_| !removed.is_empty()) else { return };
        let joins = self.outbox.iter().take(flight.count).filter_map(|pending| match &pending.request {
            Request::Join { group, session, .. } => Some((group, session.id)),
            _ => None,
        });
        let joins: HashSet<(&GroupName, ConnectionId)> = joins.collect();
        let asked_for = |removed: &&Removed| joins.contains(&(&removed.group, removed.id));
        self.ended.extend(removed.iter().filter(asked_for).map(|removed| (number, removed.clone())));
    }

    /// The joins whose memberships were ended since the frame under way was sent, which is not waited for any more.
    pub(super) fn take_ended(&mut self) -> Vec<Pending> {
        if self.ended.is_empty() {
            return Vec::new();
        }
        self.let_go_of_flight();
        let ended = std::mem::take(&mut self.ended);
        let is_ended = |pending: &Pending| match &pending.request {
            Request::Join { group, session, .. } => {
                ended.iter().any(|(_, removed)| removed.id == session.id && removed.group == *group)
            }
            _ => false,
        };
        let (ended, rest): (Vec<Pending>, Vec<Pending>) = self.outbox.drain(..).partition(is_ended);
        self.outbox = rest.into();
        ended
    }

    /// Of these nobody knows what became of them.
    fn doubt(&mut self, given_up: &[Pending]) {
        for pending in given_up {
            let room = DOUBTS.saturating_sub(self.doubts.len());
            self.doubts.extend(pending.ids().take(room));
        }
    }

    /// The owner had told `told` frames when it carried out what it answers. Those after it that were told before the first that was heard
    /// are missing, and no number tells it.
    fn has_told(&mut self, told: u64) {
        if self.heard_after.take().is_some_and(|after| after > told) {
            self.missed = Some(self.missed.map_or(told, |missed| missed.min(told)));
            self.call_roll();
        }
        self.heard.get_or_insert(told);
    }

    /// Another reign.
    fn follow(&mut self, reign: u64) {
        (self.reign, self.heard, self.missed, self.roll) = (reign, None, None, None);
        self.heard_after = None;
        self.ended.clear();
    }
}

fn person(session: &Session, joined_at: u64) -> Person {
    Person { id: session.id, user: session.user.clone(), address: session.address, joined_at }
}

/// An id that no other post has, on any node.
fn own_id() -> PostId {
    PostId::of_server(random::number(), random::number())
}

/// The connection that a removal names.
pub(super) fn removed(group: &GroupName, id: ConnectionId, how: Removal, detail: Option<&Arc<str>>) -> Removed {
    Removed { group: group.clone(), id, how, detail: detail.cloned() }
}
