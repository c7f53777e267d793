//! Traced posts on their way through an append. Most appends have none.

use std::sync::Arc;
use std::time::Instant;

use tertulia_protocol::GroupName;

use super::append::Answer;
use crate::shard::Batch;
use crate::telemetry::trace::{Appended, FanOut, Post, TraceId};

/// A traced post that has its place.
pub(super) struct Traced {
    group: GroupName,
    seq: u64,
    post: Box<Post>,
}

/// The traced posts of an append.
#[derive(Default)]
pub(super) struct TracedPosts {
    shard: u16,
    /// Messages of the whole append.
    messages: usize,
    posts: Vec<Traced>,
}

impl TracedPosts {
    /// Takes traces out of answers. `count` says how many there are, so that nobody looks for none.
    pub(super) fn take(shard: u16, answers: &mut [Answer], count: usize, batches: &[(Arc<Batch>, Instant)]) -> Self {
        if count == 0 {
            return Self::default();
        }
        let take = |answer: &mut Answer| {
            let (stored, post) = (answer.outcome.as_ref().ok()?, answer.trace.take()?);
            Some(Traced { group: answer.group.clone(), seq: stored.seq, post })
        };
        let messages = batches.iter().map(|(batch, _)| batch.records.len()).sum();
        Self { shard, messages, posts: answers.iter_mut().filter_map(take).collect() }
    }

    /// The id of one of the traces, for the log.
    pub(super) fn any_id(&self) -> Option<TraceId> {
        self.posts.first().map(|traced| traced.post.trace_id())
    }

    /// The log took a batch: what becomes of the delivery of those of its posts that are traced.
    pub(super) fn fan_out(&mut self, batch: &Batch, started: Instant, returned: Instant) -> Option<Arc<FanOut>> {
        if self.posts.is_empty() {
            return None;
        }
        let here =
            |traced: &mut Traced| traced.group == batch.group && (batch.first()..=batch.last()).contains(&traced.seq);
        let posts: Vec<(Box<Post>, u64)> =
            self.posts.extract_if(.., here).map(|traced| (traced.post, traced.seq)).collect();
        let appended = self.appended(&batch.group, batch.records.len(), started, returned);
        (!posts.is_empty()).then(|| Arc::new(FanOut::new(posts, &appended)))
    }

    /// What no batch had was stored before.
    pub(super) fn repeated(self) {
        for Traced { group, seq, post } in self.posts {
            post.repeated(self.shard, &group, seq);
        }
    }

    /// The log did not take them, but for those that were stored before: `head` tells up to which `seq` a group is stored.
    pub(super) fn failed(mut self, started: Instant, returned: Instant, head: impl Fn(&GroupName) -> u64) {
        for Traced { group, seq, post } in std::mem::take(&mut self.posts) {
            if seq <= head(&group) {
                post.repeated(self.shard, &group, seq);
            } else {
                post.failed(&self.appended(&group, 0, started, returned), UNAVAILABLE);
            }
        }
    }

    /// As [`TracedPosts::failed`], for those that were still to be appended: their places are no longer right.
    pub(super) fn given_up(self, head: impl Fn(&GroupName) -> u64) {
        for Traced { group, seq, post } in self.posts {
            if seq <= head(&group) {
                post.repeated(self.shard, &group, seq);
            } else {
                post.refused(self.shard, &group, UNAVAILABLE);
            }
        }
    }

    fn appended<'a>(&self, group: &'a GroupName, batch: usize, started: Instant, returned: Instant) -> Appended<'a> {
        Appended { shard: self.shard, group, batch, messages: self.messages, started, returned }
    }
}

/// The code that their posters see.
const UNAVAILABLE: &str = "unavailable";
