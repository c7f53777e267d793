//! The place of a shard's task among the nodes: whether this one owns the shard, and what comes from the others.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::heads::Found;
use super::mirror::{Mirror, Page, Replied};
use super::serving::Serving;
use crate::log::Batch;
use crate::shard::handle::Among;
use crate::shard::peers::{Asked, Order, Peers};
use crate::shard::request::Request;

/// What the task of a shard knows of the other nodes.
pub(in crate::shard) struct Seat {
    pub(super) peers: Arc<dyn Peers>,
    pub(super) node: Arc<str>,
    /// Differs with each start of the node.
    pub(super) instance: Arc<str>,
    /// How long a request to another node may go unanswered.
    pub(super) patience: Duration,
    /// Bytes that a message to another node may have.
    pub(super) frame_bytes: usize,
    orders: mpsc::Receiver<Order>,
    /// Frames that were sent to owners. It goes on where this node owned the shard in between: an owner knows a frame by its number.
    pub(super) frames: u64,
    pub(super) role: Role,
    /// Another node has the shard: to be acted upon once what is being done is done.
    pub(super) fenced: bool,
    /// The shard is to be given up once the append in flight has ended, however that takes.
    pub(super) is_lost: bool,
    /// From when it may be looked again whether another node has the shard because a member has seen more than this one.
    pub(super) look_again: Option<Instant>,
    /// Whether this node reaches nobody, as far as it was acted upon.
    pub(super) is_cut_off: bool,
    cut_off: watch::Receiver<bool>,
}

pub(super) enum Role {
    Owner(Serving),
    Mirror(Mirror),
}

/// What a shard's task was told.
pub(super) enum Heard {
    /// So many requests of this node.
    Requests(usize),
    Peers(News),
}

/// What came from other nodes, or is about them.
pub(super) enum News {
    Order(Order),
    /// This node reaches nobody any more, or somebody again.
    CutOff(bool),
    /// What another node asks; `None`: it cannot ask any more.
    Asked(Option<Asked>),
    /// It is time to tell the mirrors that they have missed nothing.
    Beat,
    /// The log was asked again where some groups are.
    Found(Vec<Found>),
    /// The owner answered, or did not.
    Replied(Replied),
    /// What the owner told; `None`: nothing more will be heard.
    Told(Option<Bytes>),
    /// It is time to look for what did not come.
    Late,
    /// What did not come, from the log.
    LatePage(Page),
}

impl Seat {
    pub(in crate::shard) fn new(among: &Among, node: Arc<str>, orders: mpsc::Receiver<Order>) -> Self {
        let Among { peers, instance, patience, frame_bytes, cut_off, .. } = among.clone();
        let role = Role::Mirror(Mirror::default());
        let (frames, fenced, is_lost, is_cut_off) = (0, false, false, false);
        Self {
            peers,
            node,
            instance,
            patience,
            frame_bytes,
            orders,
            frames,
            role,
            fenced,
            is_lost,
            look_again: None,
            is_cut_off,
            cut_off,
        }
    }

    /// Whether this node reaches nobody: that was acted upon, and still holds.
    pub(super) fn is_cut_off(&self) -> bool {
        self.is_cut_off && *self.cut_off.borrow()
    }

    /// The same, be it acted upon or not.
    pub(super) fn reaches_nobody(&self) -> bool {
        *self.cut_off.borrow()
    }

    /// Notes messages that the log has taken for the members on other nodes.
    pub(super) fn tell(&mut self, batch: &Batch) {
        if let Role::Owner(serving) = &mut self.role {
            serving.tell(batch);
        }
    }

    /// Waits for news. Dropping the future loses nothing.
    async fn next(&mut self, room: bool) -> News {
        let Self { orders, role, cut_off, .. } = self;
        let cut_off = async { News::CutOff(next_of(cut_off).await) };
        let order = async {
            match orders.recv().await {
                Some(order) => News::Order(order),
                None => std::future::pending().await,
            }
        };
        match role {
            Role::Owner(Serving { asked, beat_at, unread, .. }) => tokio::select! {
                order = order => order,
                cut_off = cut_off => cut_off,
                asked = asked.next(), if room => News::Asked(asked),
                () = at(*beat_at) => News::Beat,
                found = unread.next() => News::Found(found),
            },
            Role::Mirror(mirror) => tokio::select! {
                order = order => order,
                cut_off = cut_off => cut_off,
                news = mirror.next() => news,
            },
        }
    }
}

/// Waits for news of other nodes. Dropping the future loses nothing.
pub(super) async fn next(seat: &mut Option<Box<Seat>>) -> News {
    match seat {
        Some(seat) => seat.next(true).await,
        None => std::future::pending().await,
    }
}

/// Waits until this node reaches nobody any more, or somebody again. Dropping the future loses nothing.
pub(super) async fn cut_off(seat: &mut Option<Box<Seat>>) -> bool {
    match seat {
        Some(seat) => next_of(&mut seat.cut_off).await,
        None => std::future::pending().await,
    }
}

async fn next_of(cut_off: &mut watch::Receiver<bool>) -> bool {
    match cut_off.changed().await {
        Ok(()) => *cut_off.borrow_and_update(),
        Err(_) => std::future::pending().await,
    }
}

/// Waits until then; for ever without a time.
pub(super) async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// Waits for requests, of which some are put into `received`, and for news of other nodes. With no `room` no requests are taken.
pub(super) async fn hear(
    seat: &mut Option<Box<Seat>>,
    requests: &mut mpsc::Receiver<Request>,
    received: &mut Vec<Request>,
    room: bool,
) -> Heard {
    const AT_ONCE: usize = 64;
    match seat {
        None if room => Heard::Requests(requests.recv_many(received, AT_ONCE).await),
        None => std::future::pending().await,
        Some(seat) => tokio::select! {
            count = requests.recv_many(received, AT_ONCE), if room => Heard::Requests(count),
            news = seat.next(room) => Heard::Peers(news),
        },
    }
}
