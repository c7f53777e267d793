//! What becomes of requests while this node reaches nobody: they are refused at once, so that whoever made them can go elsewhere. And
//! while an append is not answered for longer than anybody is kept waiting, as when the disk under JetStream is full.
//!
//! What was on its way then may have come through. Its outcome is not waited for by those who asked: they are told that it is not
//! known, and learn it by asking again with the same id, here or of the node that has the shard by then.

use std::sync::Arc;

use tertulia_protocol::{GroupName, PostId, UserName};

use super::append::{Answer, Asker, send_answers};
use super::mirror::refuse_admin;
use super::seat::{Role, Seat};
use super::{Owner, taken_in, unanswered, unavailable};
use crate::shard::Refusal;
use crate::shard::request::{Admin, NewPost, Posts, Request};
use crate::shard::session::{Event, Stored};

impl Owner {
    /// Whether this node reaches nobody. That it does again holds as soon as it is known, although it is acted upon in its turn: a
    /// request that came after that is not refused.
    pub(super) fn is_cut_off(&self) -> bool {
        self.seat.as_deref().is_some_and(Seat::is_cut_off)
    }

    /// Whether an append is not answered for so long that nobody waits for it any more.
    pub(super) fn is_overdue(&self) -> bool {
        self.in_flight.as_ref().is_some_and(|in_flight| in_flight.is_overdue)
    }

    /// Whether what comes is refused at once.
    pub(super) fn turns_down(&self) -> bool {
        self.is_cut_off() || self.is_overdue()
    }

    /// This node reaches nobody any more, or somebody again.
    pub(super) fn on_cut_off(&mut self, is_cut_off: bool) {
        let Some(seat) = &mut self.seat else { return };
        let is_new = std::mem::replace(&mut seat.is_cut_off, is_cut_off) != is_cut_off;
        match (is_cut_off, &seat.role) {
            (true, Role::Mirror(_)) if is_new => self.give_up_outbox(),
            // Also if it is no news: it may have been noticed in the midst of a request, whose other posts were given their places after that.
            (true, Role::Owner(_)) => self.give_up_answers(),
            (false, _) if is_new => self.hasten(),
            _ => {}
        }
    }

    /// Tells those who wait for an append that its end is not known. The append goes on.
    pub(super) fn give_up_answers(&mut self) {
        let waiting = self.in_flight.as_mut().map(|in_flight| std::mem::take(&mut in_flight.answers));
        let kept = self.give_up(waiting.unwrap_or_default());
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.answers = kept;
        }
        let waiting = std::mem::take(&mut self.staged.answers);
        self.staged.answers = self.give_up(waiting);
    }

    /// Answers those who are connected here; gives back the others. Another node asks again, whoever has the shard then.
    fn give_up(&mut self, answers: Vec<Answer>) -> Vec<Answer> {
        let (kept, mut given_up): (Vec<Answer>, Vec<Answer>) =
            answers.into_iter().partition(|answer| matches!(answer.to, Asker::Node(..)));
        for answer in &mut given_up {
            let head = self.head(&answer.group);
            if answer.outcome.as_ref().is_ok_and(|stored| stored.seq > head) {
                let refusal = unanswered(answer.group.clone());
                if let Some(trace) = answer.trace.take() {
                    trace.refused(self.shard, &answer.group, refusal.reason());
                }
                answer.outcome = Err(refusal);
                self.shared.metrics.unanswered.increment(1);
            }
        }
        drop(send_answers(given_up));
        kept
    }

    /// What is said of a post that is not taken now: it may be a repeat of one that is stored, or of one of which that is not known.
    pub(super) fn turned_down(
        &mut self,
        name: &GroupName,
        user: &UserName,
        id: Option<&PostId>,
    ) -> Result<Stored, Refusal> {
        let group = self.groups.get_mut(name);
        match group.and_then(|group| Some((group.repeat_of(user, id?, taken_in())?, group.head()))) {
            Some((stored, head)) if stored.seq <= head => Ok(stored),
            Some(_) => Err(unanswered(name.clone())),
            None => Err(unavailable(name)),
        }
    }

    /// Refuses what would only wait; gives the request back if it is to be carried out all the same.
    pub(super) fn turn_down(&mut self, request: Request) -> Option<Request> {
        if self.mirror().is_some() {
            self.forward(request);
            self.give_up_outbox();
            return None;
        }
        match request {
            Request::Post(Posts { session, posts, in_doubt, .. }) => {
                let answer = |post: NewPost| {
                    let outcome = self.turned_down(&post.group, &session.user, post.id.as_ref());
                    let in_doubt = |refusal| if in_doubt { unanswered(post.group.clone()) } else { refusal };
                    let outcome = outcome.map_err(in_doubt);
                    match &outcome {
                        Ok(_) => self.shared.metrics.repeated.increment(1),
                        Err(refusal) => self.shared.metrics.post_refused(refusal),
                    }
                    if let (Some(trace), Err(refusal)) = (post.trace, &outcome) {
                        trace.refused(self.shard, &post.group, refusal.reason());
                    }
                    let (to, id) = (Asker::Session(Arc::clone(&session)), post.id.filter(PostId::is_of_client));
                    Answer { to, group: post.group, id, outcome, trace: None, weight: post.weight }
                };
                let answers = posts.into_iter().map(answer).collect();
                drop(send_answers(answers));
                None
            }
            Request::Join { group, session, .. } => {
                self.shared.metrics.join_refused.increment(1);
                session.inbox.push(Event::JoinRefused { refusal: unavailable(&group), group });
                None
            }
            // What it takes to answer them is in the log, as a rule, and the shard would wait for it.
            Request::Members { group, reply, .. } if self.is_cut_off() => {
                // Who asked may have given up.
                drop(reply.send(Err(unavailable(&group))));
                None
            }
            Request::Admin(admin) if self.is_cut_off() && !matches!(*admin, Admin::Here { .. }) => {
                refuse_admin(*admin, |group| unavailable(&group));
                None
            }
            request => Some(request),
        }
    }
}
