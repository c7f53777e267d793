//! The trace of a delivery: who holds it last ends it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use opentelemetry::KeyValue;
use opentelemetry::trace::Event;

use super::post::{Appended, Post, connection_name};
use super::span::{Details, Trace};

/// A post that the log took.
#[derive(Debug)]
pub(crate) struct Told {
    pub(super) trace: Trace,
    pub(super) seq: KeyValue,
}

/// What becomes of traced posts that are delivered together. It is shared by the delivery and by the connections whose sockets have
/// not taken it yet; when the last of them has let go of it, it becomes the span `fan-out` of each of its posts.
#[derive(Debug)]
pub struct FanOut {
    posts: Vec<Told>,
    began: Instant,
    members: AtomicUsize,
    writes: Mutex<Writes>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Writes {
    count: u64,
    first: Option<(Instant, u64)>,
    last: Option<(Instant, u64)>,
}

impl FanOut {
    /// The log took these posts, each with its `seq`.
    #[must_use]
    pub fn new(posts: impl IntoIterator<Item = (Box<Post>, u64)>, appended: &Appended<'_>) -> Self {
        let posts = posts.into_iter().map(|(post, seq)| post.stored(seq, appended)).collect();
        Self { posts, began: appended.returned, members: AtomicUsize::new(0), writes: Mutex::default() }
    }

    /// It is sent to so many live members.
    pub fn sent(&self, members: usize) {
        self.members.store(members, Ordering::Relaxed);
    }

    /// The socket of a connection has taken all of it.
    pub fn written(&self, connection: u64) {
        let write = Some((Instant::now(), connection));
        let mut writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        writes.count += 1;
        writes.first = writes.first.or(write);
        writes.last = write;
    }
}

impl Drop for FanOut {
    fn drop(&mut self) {
        let Writes { count, first, last } = *self.writes.get_mut().unwrap_or_else(PoisonError::into_inner);
        let end = last.map_or_else(Instant::now, |(at, _)| at);
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        for Told { trace, seq } in self.posts.drain(..) {
            let event = |name: &'static str, write: Option<(Instant, u64)>| {
                let (at, connection) = write?;
                let connection = KeyValue::new("tertulia.connection", connection_name(connection));
                Some(Event::new(name, trace.time(at), vec![connection], 0))
            };
            let attributes = vec![
                seq,
                KeyValue::new("tertulia.members", number(self.members.load(Ordering::Relaxed) as u64)),
                KeyValue::new("tertulia.writes", number(count)),
            ];
            let events = event("first write", first).into_iter().chain(event("last write", last)).collect();
            trace.part("fan-out", self.began, end, Details { attributes, events, ..Details::default() });
        }
    }
}
