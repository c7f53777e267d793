//! What becomes of a request that was sent to the owner of a shard, for whoever made it.

use std::sync::Arc;

use tertulia_protocol::{GroupName, PostId};
use tokio::sync::oneshot;

use super::{LATE, Mirror, Pending};
use crate::shard::Listed;
use crate::shard::owner::admin::or_unanswered;
use crate::shard::owner::append::{Answer, Asker, send_answers};
use crate::shard::owner::{Owner, taken_in_ms, unanswered, unavailable};
use crate::shard::request::{Admin, JoinFrom, Member, Posts, Progress, Redaction, Request};
use crate::shard::session::{Event, Joined, Stored};
use crate::shard::wire::{MemberTold, Outcome, RedactionTold, Removed};
use crate::shard::{GroupStatus, Refusal, Session};

impl Owner {
    /// Answers the oldest `count` requests, whose owner had told `told` frames before it carried them out.
    pub(super) fn conclude_all(&mut self, count: usize, outcomes: Vec<Outcome>, told: u64) {
        let mut outcomes = outcomes.into_iter();
        let mut answers = Vec::new();
        for _ in 0..count {
            let Some(pending) = self.mirror_mut().and_then(|mirror| mirror.outbox.pop_front()) else { break };
            let outcome = outcomes.next().unwrap_or(Outcome::Unknown);
            match pending.request {
                Request::Post(posts) => self.posted(posts, pending.in_doubt, outcome, &mut answers),
                request => {
                    // What was posted before is answered before.
                    drop(send_answers(std::mem::take(&mut answers)));
                    self.conclude(Pending { request, ..pending }, outcome, told);
                }
            }
        }
        drop(send_answers(answers));
    }

    fn posted(&mut self, posts: Posts, in_doubt: bool, outcome: Outcome, answers: &mut Vec<Answer>) {
        let Posts { session, posts, .. } = posts;
        for post in posts {
            let is_forgotten = self.is_forgotten(&outcome, &post.group, &session);
            let outcome = match &outcome {
                Outcome::Stored { epoch, seq, at } => {
                    self.expect(&post.group, *seq, LATE);
                    Ok(Stored { epoch: *epoch, seq: *seq, at: *at })
                }
                _ if in_doubt => Err(unanswered(post.group.clone())),
                _ if is_forgotten => Err(unavailable(&post.group)),
                Outcome::Refused { refused } => Err(refused.clone().refusal(&post.group)),
                _ => Err(unavailable(&post.group)),
            };
            match (post.trace, &outcome) {
                (Some(trace), Ok(stored)) => trace.stored_elsewhere(self.shard, &post.group, stored.seq),
                (Some(trace), Err(refusal)) => trace.refused(self.shard, &post.group, refusal.reason()),
                (None, _) => {}
            }
            let (to, id) = (Asker::Session(Arc::clone(&session)), post.id.filter(PostId::is_of_client));
            answers.push(Answer { to, group: post.group, id, outcome, trace: None, weight: post.weight });
        }
    }

    /// Whether a member was refused as one that is none. An owner that took this node for dead has forgotten who is connected here, and is
    /// told again: then the same post is taken.
    fn is_forgotten(&mut self, outcome: &Outcome, name: &GroupName, session: &Session) -> bool {
        let is_member = || self.groups.get(name).is_some_and(|group| group.is_member(session));
        let is_forgotten = matches!(outcome, Outcome::Refused { refused } if refused.is_for_no_member()) && is_member();
        if is_forgotten && let Some(mirror) = self.mirror_mut() {
            mirror.call_roll();
        }
        is_forgotten
    }

    fn conclude(&mut self, pending: Pending, outcome: Outcome, told: u64) {
        if let Outcome::Refused { refused } = outcome {
            return self.refuse(pending, |group| refused.refusal(&group));
        }
        match (pending.request, outcome) {
            (Request::Join { group, session, from }, Outcome::Joined { epoch, head, first, members }) => {
                let joined = self.joined(&group, &session, from, (epoch, head));
                session.inbox.push(Event::Joined(Box::new(Joined { first, members, ..joined })));
                self.expect(&group, head, LATE);
                // A moderator may have ended it since, and that be heard first.
                let ended = self.mirror_mut().and_then(|mirror| {
                    let is_this = |(number, removed): &(u64, Removed)| {
                        *number > told && removed.id == session.id && removed.group == group
                    };
                    mirror.ended.iter().position(is_this).map(|place| mirror.ended.swap_remove(place).1)
                });
                self.on_removed(ended.into_iter().collect());
            }
            (Request::Leave { group, session, answer }, _) => {
                let was_member = self.left(&group, &session);
                if answer {
                    session.inbox.push(Event::Left { group, was_member });
                }
            }
            (Request::Members { reply, .. }, Outcome::Users { page }) => drop(reply.send(Ok(page))),
            (Request::Admin(admin), outcome) => self.conclude_admin(*admin, pending.in_doubt, outcome),
            (request, _) => self.refuse(Pending { request, ..pending }, |group| unavailable(&group)),
        }
    }

    fn conclude_admin(&self, admin: Admin, in_doubt: bool, outcome: Outcome) {
        // Who asked may have given up.
        match (admin, outcome) {
            (Admin::Members { reply, .. }, Outcome::Members { page }) => {
                drop(reply.send(Ok(page.map(|page| page.into_iter().map(member).collect()))));
            }
            (Admin::Look { reply, .. }, Outcome::Look { group }) => {
                drop(reply.send(Ok(group.map(|listing| Listed::told(listing, self.shard)))));
            }
            (Admin::Kick { reply, .. }, Outcome::Kicked { connections }) => drop(reply.send(Ok(connections))),
            (Admin::End { reply, group, .. }, Outcome::Ended { ended }) => {
                drop(reply.send(or_unanswered(in_doubt, Ok(ended), Option::is_none, group)));
            }
            (Admin::Purge { reply, group, .. }, Outcome::Purged { removed }) => {
                drop(reply.send(or_unanswered(in_doubt, Ok(removed), Option::is_none, group)));
            }
            (Admin::Redact { reply, group, .. }, Outcome::Redacted { told }) => {
                let redaction = match told {
                    RedactionTold::NoSuchGroup => Redaction::NoSuchGroup,
                    RedactionTold::NoSuchMessage => Redaction::NoSuchMessage,
                    RedactionTold::RemovedQuietly(removed) => Redaction::RemovedQuietly(removed),
                    RedactionTold::Removed { messages, told } => {
                        let (to, result) = oneshot::channel();
                        drop(to.send(told.map_err(|refused| refused.refusal(&group))));
                        Redaction::Removed { messages, told: result }
                    }
                };
                drop(reply.send(or_unanswered(in_doubt, Ok(redaction), Redaction::is_nothing, group)));
            }
            (Admin::Announce { reply, group, .. }, Outcome::Announced { groups }) => {
                let announced = groups.map(|outcomes| {
                    let tell = |outcome: Result<Stored, _>| {
                        let (told, result) = oneshot::channel();
                        let nobody = || group.clone().or_else(|| GroupName::new("*").ok());
                        let outcome = outcome.map_err(|refused: crate::shard::wire::Refused| match nobody() {
                            Some(group) => refused.refusal(&group),
                            None => Refusal::Draining,
                        });
                        drop(told.send(outcome));
                        result
                    };
                    outcomes.into_iter().map(tell).collect()
                });
                drop(reply.send(Ok(announced)));
            }
            (admin, _) if in_doubt => refuse_admin(admin, unanswered),
            (admin, _) => refuse_admin(admin, |group| unavailable(&group)),
        }
    }

    /// The owner before ended memberships that it was asked for and did not answer. Whether it carried that out before or after is not known:
    /// they are none, and may be asked for again.
    pub(in crate::shard::owner) fn refuse_ended(&mut self) {
        let ended = self.mirror_mut().map(Mirror::take_ended).unwrap_or_default();
        for pending in ended {
            self.refuse(pending, unanswered);
        }
    }

    /// Makes a connection a member here too.
    fn joined(
        &mut self,
        name: &GroupName,
        session: &Arc<Session>,
        from: JoinFrom,
        (epoch, head): (u64, u64),
    ) -> Joined {
        if self.groups.get(name).is_some_and(|group| group.epoch() != epoch) {
            self.end_life(name);
        }
        let passed = self.mirror_mut().and_then(|mirror| mirror.passed.remove(name));
        let (shard, fanout) = (self.shard, self.shared.config.fanout);
        let directory = &self.shared.directory;
        let group = self.groups.entry(name.clone()).or_insert_with(|| {
            let passed = passed.filter(|(of, _)| *of == epoch).map_or(0, |(_, seq)| seq);
            let group = super::super::Group::new(name.clone(), shard, epoch, head.max(passed), 0, fanout);
            directory.enter(Arc::clone(&group.status), true);
            group
        });
        let (_, subscription, progress) = group.join(session, taken_in_ms());
        let (status, subscribed_at): (Arc<GroupStatus>, u64) = (Arc::clone(&group.status), group.head());
        Joined { status, subscription, subscribed_at, epoch, head, first: 0, members: 0, progress, from }
    }

    fn left(&mut self, name: &GroupName, session: &Session) -> bool {
        let left = self.groups.get_mut(name).is_some_and(|group| group.leave(session));
        self.forget_if_empty(name);
        left
    }

    /// Tells who made a request that nothing came of it, or that nobody knows.
    pub(super) fn refuse(&mut self, pending: Pending, why: impl FnOnce(GroupName) -> Refusal) {
        let why = |group| if pending.in_doubt { unanswered(group) } else { why(group) };
        match pending.request {
            Request::Join { group, session, .. } => {
                let refusal = why(group.clone());
                // The owner may take it for a member; here it is none, which the owner learns with the next roll.
                if matches!(refusal, Refusal::Unanswered { .. })
                    && let Some(mirror) = self.mirror_mut()
                {
                    mirror.call_roll();
                }
                session.inbox.push(Event::JoinRefused { group, refusal });
            }
            Request::Leave { group, session, answer } => {
                // Here it is none any more; the owner learns it with the next roll.
                let was_member = self.left(&group, &session);
                if let Some(mirror) = self.mirror_mut() {
                    mirror.call_roll();
                }
                if answer {
                    session.inbox.push(Event::Left { group, was_member });
                }
            }
            Request::Post(Posts { session, posts, .. }) => {
                let Some(post) = posts.into_iter().next() else { return };
                let refusal = why(post.group.clone());
                if let Some(trace) = post.trace {
                    trace.refused(self.shard, &post.group, refusal.reason());
                }
                let (to, id) = (Asker::Session(session), post.id.filter(PostId::is_of_client));
                drop(send_answers(vec![Answer {
                    to,
                    group: post.group,
                    id,
                    outcome: Err(refusal),
                    trace: None,
                    weight: post.weight,
                }]));
            }
            Request::Admin(admin) => refuse_admin(*admin, why),
            Request::Members { group, reply, .. } => drop(reply.send(Err(why(group)))),
            Request::Asked(_) => {}
        }
    }
}

/// A member as its owner tells it. How far it is, only the node knows that it is connected to.
fn member(told: MemberTold) -> Member {
    let MemberTold { person, delivered, catching_up } = told;
    let session = Session {
        id: person.id,
        user: person.user,
        address: person.address,
        inbox: Arc::default(),
        home: Some(Arc::from("")),
        wants_places: true,
    };
    let progress = Arc::new(Progress::told(delivered, catching_up));
    Member { session: Arc::new(session), joined_at: person.joined_at, progress }
}

/// Tells a moderator that nothing came of a request, or that nobody knows.
pub(in crate::shard::owner) fn refuse_admin(admin: Admin, why: impl FnOnce(GroupName) -> Refusal) {
    let of = |group: Option<GroupName>| group.map_or(Refusal::NodeSilent, why);
    match admin {
        Admin::Members { group, reply, .. } => drop(reply.send(Err(of(Some(group))))),
        Admin::Look { group, reply } => drop(reply.send(Err(of(Some(group))))),
        // It is never sent.
        Admin::Here { reply, .. } => drop(reply.send(Vec::new())),
        Admin::Kick { group, reply, .. } => drop(reply.send(Err(of(group)))),
        Admin::End { group, reply, .. } => drop(reply.send(Err(of(Some(group))))),
        Admin::Purge { group, reply, .. } => drop(reply.send(Err(of(Some(group))))),
        Admin::Redact { group, reply, .. } => drop(reply.send(Err(of(Some(group))))),
        Admin::Forget { group, reply } => drop(reply.send(Err(of(Some(group))))),
        Admin::Announce { group, reply, .. } => drop(reply.send(Err(of(group)))),
    }
}
