//! Requests of a connection on their way to the owners of shards.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::connection::{Gathered, Task};
use super::registry::CloseReason;
use crate::shard::Weight;
use crate::shard::handle::NotSent;
use crate::shard::request::{Posts, Request};

impl Task {
    /// Sends the posts that were gathered.
    pub(super) fn send_gathered(&mut self) {
        if let (Some(Gathered { shard, bytes, mut posts }), Some((session, _))) = (self.gathered.take(), &self.voice) {
            let (session, received) = (Arc::clone(session), self.read_at);
            if let Some(last) = posts.last_mut() {
                last.weight = Some(Weight::new(&session.inbox, &self.shared.weight, bytes as usize));
            }
            self.send(shard, Request::Post(Posts { session, posts, received, in_doubt: false }));
        }
    }

    /// Sends a request after those that were sent before.
    pub(super) fn send(&mut self, shard: u16, request: Request) {
        self.unsent.push_back((shard, request));
        self.send_unsent();
    }

    pub(super) fn send_unsent(&mut self) {
        while self.sending.is_none() {
            let Some((shard, request)) = self.unsent.pop_front() else { return };
            match self.shared.shards.try_send(shard, request) {
                Ok(()) => {}
                Err(NotSent::Full(request)) => self.sending = Some(self.shared.shards.send(shard, request)),
                Err(NotSent::Stopped) => self.on_stopped(),
            }
        }
    }

    /// Ends all memberships, also those that are about to begin.
    pub(super) fn leave_all(&mut self) {
        let Some((session, _)) = &self.voice else { return };
        let (memberships, changing) = (std::mem::take(&mut self.memberships), std::mem::take(&mut self.changing));
        self.me.groups.store(0, Ordering::Relaxed);
        let joining = changing.into_iter().filter(|change| change.joins).map(|change| change.group);
        let groups = memberships.iter().map(|membership| membership.group().clone()).chain(joining);
        for group in groups {
            let shard = self.shared.shards.shard_of(&group);
            let request = Request::Leave { group, session: Arc::clone(session), answer: false };
            if let Err(NotSent::Full(request)) = self.shared.shards.try_send(shard, request)
                && let Ok(runtime) = tokio::runtime::Handle::try_current()
            {
                let send = self.shared.shards.send(shard, request);
                runtime.spawn(send);
            }
        }
    }

    /// The owners have stopped: the server is about to end and will not answer any more.
    pub(super) fn on_stopped(&mut self) {
        self.unsent.clear();
        self.held = None;
        (self.in_flight, self.posting) = (0, 0);
        self.close(CloseReason::Drain);
    }
}

impl Drop for Task {
    /// Whatever ends the task, no membership outlives it.
    fn drop(&mut self) {
        self.leave_all();
    }
}
