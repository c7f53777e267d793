//! What moderators ask of an owner.

use std::sync::Arc;
use std::time::Instant;

use tertulia_protocol::{GroupName, PostId, UserName};
use tokio::sync::oneshot;

use super::{Answer, Asker, Group, Owner, taken_in, taken_in_ms, unanswered, unavailable};
use crate::shard::Listed;
use crate::shard::events::What;
use crate::shard::moderation::Target;
use crate::shard::request::{Admin, Announced, Ended, Member, Redaction};
use crate::shard::session::{ConnectionId, Event, Removal, Session, Stored};
use crate::shard::{Refusal, Term};

impl Owner {
    pub(super) async fn on_admin(&mut self, admin: Admin) {
        // Who asked may have given up: an answer that nobody takes is dropped.
        match admin {
            Admin::Members { group, after, limit, reply } => {
                let page = |group: &mut Group| group.members_after(after).take(limit).cloned().collect();
                drop(reply.send(self.load(&group).await.map(|group| group.map(page))));
            }
            Admin::Here { group, after, limit, reply } => drop(reply.send(self.members_here(&group, after, limit))),
            Admin::Kick { group, target, reason, hold, reply } => {
                drop(reply.send(self.kick(group, &target, reason, hold).await));
            }
            Admin::End { group, how, reason, hold, epoch, in_doubt, reply } => {
                let ended = self.end(group.clone(), how, reason, hold, epoch).await;
                drop(reply.send(or_unanswered(in_doubt, ended, Option::is_none, group)));
            }
            Admin::Purge { group, through, epoch, in_doubt, reply } => {
                let purged = self.purge(&group, through, epoch).await;
                drop(reply.send(or_unanswered(in_doubt, purged, Option::is_none, group)));
            }
            Admin::Redact { group, selection, epoch, telling, in_doubt, reply } => {
                let redaction = self.redact(&group, &selection, epoch, &telling).await;
                drop(reply.send(or_unanswered(in_doubt, redaction, Redaction::is_nothing, group)));
            }
            Admin::Announce { group, message, id, reply } => {
                drop(reply.send(self.announce(group, &message, id.as_ref()).await));
            }
            Admin::Look { group, reply } => drop(reply.send(self.look(&group).await)),
            Admin::Forget { group, reply } => drop(reply.send(self.forget(&group).await)),
        }
    }

    pub(super) fn members_here(
        &self,
        group: &GroupName,
        after: Option<(UserName, ConnectionId)>,
        limit: usize,
    ) -> Vec<Member> {
        let Some(group) = self.groups.get(group) else { return Vec::new() };
        let is_here = |member: &&Member| member.session.home.is_none();
        group.members_after(after).filter(is_here).take(limit).cloned().collect()
    }

    pub(super) async fn kick(
        &mut self,
        group: Option<GroupName>,
        target: &Target,
        reason: Option<Arc<str>>,
        hold: Term,
    ) -> Result<Option<Vec<ConnectionId>>, Refusal> {
        let names = match group {
            Some(name) => {
                if self.load(&name).await?.is_none() {
                    return Ok(None);
                }
                self.apply_hold(Some(&name), Some(target), reason.as_ref(), hold);
                vec![name]
            }
            None => {
                self.apply_hold(None, Some(target), reason.as_ref(), hold);
                self.groups.keys().cloned().collect()
            }
        };
        let mut kicked = Vec::new();
        for name in names {
            let gone = self.remove(&name, |session| target.matches(session), Removal::Kicked, reason.as_ref());
            let mut members = self.groups.get(&name).map_or(0, Group::member_count) + gone.len();
            for session in gone {
                members -= 1;
                self.shared.events.tell(|| What::Kicked {
                    group: name.clone(),
                    who: (&*session).into(),
                    members: members as u64,
                    reason: reason.clone(),
                    hold: hold.time,
                });
                kicked.push(session.id);
            }
        }
        Ok(Some(kicked))
    }

    /// Who asked has kept it; from now on it is in force here, whether this node has learnt it in another way or not, unless it has learnt what
    /// became of it since. On a node alone it was in force before this was asked, and may have been ended long ago.
    fn apply_hold(&self, group: Option<&GroupName>, target: Option<&Target>, reason: Option<&Arc<str>>, hold: Term) {
        if self.seat.is_some()
            && let Some(hold) = hold.hold(group, target, reason)
        {
            self.shared.holds.inherit(hold);
        }
    }

    pub(super) async fn end(
        &mut self,
        name: GroupName,
        how: Removal,
        reason: Option<Arc<str>>,
        hold: Term,
        epoch: Option<u64>,
    ) -> Result<Option<Ended>, Refusal> {
        if !self.settled().await {
            return Err(unavailable(&name));
        }
        let is_closed = self.shared.holds.closed_for(name.as_str()).is_some();
        if self.load_life(&name, epoch).await?.is_none() {
            // It may be closed all the same, from the time before a restart: then it can be opened.
            if how == Removal::Closed && is_closed {
                self.apply_hold(Some(&name), None, reason.as_ref(), hold);
                return Ok(Some(Ended { members: 0, messages: 0 }));
            }
            return Ok(None);
        }
        let mut messages = 0;
        if how == Removal::Deleted {
            let head = self.shared.log.head(self.shard, &name).await.map_err(|_| unavailable(&name))?;
            messages = head.map_or(0, |head| head.seq + 1 - head.first);
            let deleting = self.shared.log.delete(self.shard, &name);
            self.in_time(&name, deleting).await?.map_err(|error| {
                tracing::warn!(%error, "group could not be deleted");
                unavailable(&name)
            })?;
        }
        let members = self.remove(&name, |_| true, how, reason.as_ref()).len() as u64;
        if how == Removal::Deleted
            && let Some(group) = self.groups.remove(&name)
        {
            self.begin_later_than(group.epoch());
            self.shared.directory.remove(&name, group.is_stored());
        }
        match how {
            Removal::Deleted => self.shared.holds.open(name.clone(), hold.change),
            Removal::Closed | Removal::Kicked => self.apply_hold(Some(&name), None, reason.as_ref(), hold),
        }
        self.shared.events.tell(|| match how {
            Removal::Deleted => What::Deleted { group: name, reason, members, messages },
            Removal::Closed | Removal::Kicked => What::Closed { group: name, reason, members, hold: hold.time },
        });
        Ok(Some(Ended { members, messages }))
    }

    /// Ends memberships and tells those who had them.
    pub(super) fn remove(
        &mut self,
        name: &GroupName,
        which: impl Fn(&Session) -> bool,
        removal: Removal,
        detail: Option<&Arc<str>>,
    ) -> Vec<Arc<Session>> {
        let gone = self.groups.get_mut(name).map_or_else(Vec::new, |group| group.remove_where(which));
        let metrics = &self.shared.metrics;
        let reason = match removal {
            Removal::Kicked => &metrics.kicked,
            Removal::Closed => &metrics.closed,
            Removal::Deleted => &metrics.deleted,
        };
        reason.increment(gone.len() as u64);
        for session in &gone {
            if session.home.is_none() {
                session.inbox.push(Event::Removed { group: name.clone(), removal, detail: detail.cloned() });
            } else {
                self.tell_removed(name, session.id, removal, detail);
            }
        }
        gone
    }

    /// Whether nothing is under way any more and the shard is still ours.
    pub(super) async fn settled(&mut self) -> bool {
        self.settle_in_time().await && !self.is_fenced()
    }

    /// As [`Owner::load`], unless the group has another life than the one that is meant.
    pub(super) async fn load_life(
        &mut self,
        name: &GroupName,
        epoch: Option<u64>,
    ) -> Result<Option<&mut Group>, Refusal> {
        let is_meant = |group: &&mut Group| epoch.is_none_or(|epoch| epoch == group.epoch());
        Ok(self.load(name).await?.filter(is_meant))
    }

    pub(super) async fn purge(
        &mut self,
        name: &GroupName,
        through: u64,
        epoch: Option<u64>,
    ) -> Result<Option<u64>, Refusal> {
        if !self.settled().await {
            return Err(unavailable(name));
        }
        let Some(head) = self.load_life(name, epoch).await?.map(|group| group.head()) else { return Ok(None) };
        let purging = self.shared.log.purge(self.shard, name, through.min(head));
        self.in_time(name, purging).await?.map(Some).map_err(|error| {
            tracing::warn!(%error, "history could not be purged");
            unavailable(name)
        })
    }

    /// Waits for a removal no longer than anybody is kept waiting: it goes on in the log, and the shard must not stand still for it.
    pub(super) fn in_time<T, F: Future<Output = T>>(
        &self,
        name: &GroupName,
        removing: F,
    ) -> impl Future<Output = Result<T, Refusal>> + use<T, F> {
        let (patience, name) = (self.seat.as_deref().map(|seat| seat.patience), name.clone());
        async move {
            match patience {
                Some(patience) => tokio::time::timeout(patience, removing).await.map_err(|_| unanswered(name)),
                None => Ok(removing.await),
            }
        }
    }

    /// Removes a group from the log if nothing is left of it. Who joins later begins another life of it.
    async fn forget(&mut self, name: &GroupName) -> Result<bool, Refusal> {
        if !self.settled().await {
            return Err(unavailable(name));
        }
        let idle = self.shared.config.group_idle;
        if self.serving_mut().is_some_and(|serving| !serving.is_owned_for(idle)) {
            return Ok(false);
        }
        let is_used = |group: &Group| !group.is_quiet() || group.last_used.elapsed() < idle;
        if self.groups.get(name).is_some_and(is_used) || self.shared.holds.closed_for(name.as_str()).is_some() {
            return Ok(false);
        }
        let head = self.shared.log.head(self.shard, name).await.map_err(|_| unavailable(name))?;
        let Some(head) = head.filter(|head| head.first > head.seq) else { return Ok(false) };
        if u128::from(taken_in_ms().saturating_sub(head.at)) < idle.as_millis() {
            return Ok(false);
        }
        let deleting = self.shared.log.delete(self.shard, name);
        self.in_time(name, deleting).await?.map_err(|error| {
            tracing::debug!(%error, "a group of which nothing is left stays for now");
            unavailable(name)
        })?;
        if let Some(group) = self.groups.remove(name) {
            self.shared.directory.remove(name, group.is_stored());
        }
        self.begin_later_than(head.epoch);
        self.shared.metrics.forgotten.increment(1);
        Ok(true)
    }

    /// A group, be it in memory or only in the log.
    pub(super) async fn look(&mut self, name: &GroupName) -> Result<Option<Listed>, Refusal> {
        let stored = self.shared.log.head(self.shard, name).await.map_err(|_| unavailable(name))?;
        let status = self.groups.get(name).map(|group| Arc::clone(&group.status));
        let closed_for = self.shared.holds.closed_for(name.as_str());
        let exists = stored.is_some() || status.is_some();
        Ok(exists.then(|| Listed { name: name.clone(), status, stored, closed_for }))
    }

    pub(super) async fn announce(
        &mut self,
        group: Option<GroupName>,
        message: &Arc<str>,
        id: Option<&PostId>,
    ) -> Result<Option<Announced>, Refusal> {
        let names: Vec<GroupName> = match group {
            Some(name) if self.load(&name).await?.is_some() => vec![name],
            Some(_) => return Ok(None),
            None => {
                self.groups.iter().filter(|(_, group)| group.member_count() > 0).map(|(name, _)| name.clone()).collect()
            }
        };
        if id.is_some() {
            self.load_dedup_of(&names).await;
        }
        let mut announced = Vec::new();
        for name in names {
            self.keep_small().await;
            let outcome = match self.shared.holds.closed_for(name.as_str()) {
                Some(retry_after) if !self.is_fenced() && !self.is_overdue() => {
                    Err(Refusal::Closed { group: name.clone(), retry_after })
                }
                _ => self.say(&name, id, Arc::clone(message)).await,
            };
            announced.push(self.answer_admin(name, outcome));
        }
        Ok(Some(announced))
    }

    /// Posts a message of the server, or finds the one of that id.
    pub(super) async fn say(
        &mut self,
        name: &GroupName,
        id: Option<&PostId>,
        message: Arc<str>,
    ) -> Result<Stored, Refusal> {
        let system = UserName::system();
        // Another node has the shard, as an append showed that was waited for: there is no next one.
        if self.is_fenced() {
            return Err(unavailable(name));
        }
        // Nor is anything given a place behind one that has no end.
        if self.is_overdue() {
            return self.turned_down(name, &system, id);
        }
        self.ready_for_repeat(name, id).await?;
        self.place(name, &system, id, message, taken_in(), Instant::now())
    }

    /// A moderator is told what came of a message of the server, once that is known.
    pub(super) fn answer_admin(
        &mut self,
        group: GroupName,
        outcome: Result<Stored, Refusal>,
    ) -> oneshot::Receiver<Result<Stored, Refusal>> {
        let (to, told) = oneshot::channel();
        let to = Asker::Admin(to);
        self.staged.answers.push(Answer { to, group, id: None, outcome, trace: None, weight: None });
        told
    }
}

/// What is said of a request. If an owner before may have carried it out: that nothing came of it now does not tell that nothing did.
pub(super) fn or_unanswered<T>(
    in_doubt: bool,
    answer: Result<T, Refusal>,
    is_nothing: impl FnOnce(&T) -> bool,
    group: GroupName,
) -> Result<T, Refusal> {
    if in_doubt && answer.as_ref().map_or(true, is_nothing) { Err(unanswered(group)) } else { answer }
}
