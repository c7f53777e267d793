//! What moderators ask of an owner.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tertulia_protocol::{GroupName, UserName};
use tokio::sync::oneshot;

use super::{Answer, Asker, Owner, now_ms, unavailable};
use crate::shard::Refusal;
use crate::shard::events::What;
use crate::shard::moderation::Target;
use crate::shard::request::{Admin, Description};
use crate::shard::session::{ConnectionId, Event, Removal, Session, Stored};

type Announced = Vec<oneshot::Receiver<Result<Stored, Refusal>>>;

impl Owner {
    pub(super) async fn on_admin(&mut self, admin: Admin) {
        // Who asked may have given up: an answer that nobody takes is dropped.
        match admin {
            Admin::Members { group, after, limit, reply } => {
                let group = self.load(&group).await.ok().flatten();
                drop(reply.send(group.map(|group| group.members_after(after).take(limit).cloned().collect())));
            }
            Admin::Kick { group, target, reason, hold, reply } => {
                drop(reply.send(self.kick(group, &target, reason, hold).await));
            }
            Admin::End { group, how, reason, hold, reply } => {
                drop(reply.send(self.end(group, how, reason, hold).await))
            }
            Admin::Purge { group, through, reply } => drop(reply.send(self.purge(&group, through).await)),
            Admin::Announce { group, message, reply } => drop(reply.send(self.announce(group, &message).await)),
            Admin::Describe { group: name, reply } => {
                let closed_for = self.holds.get(&name).and_then(|holds| holds.closed_for());
                let group = self.load(&name).await.ok().flatten();
                let describe = |group: &mut _| {
                    let group: &super::Group = group;
                    Description { epoch: group.epoch(), head: group.head(), closed_for }
                };
                drop(reply.send(group.map(describe)));
            }
        }
    }

    async fn kick(
        &mut self,
        group: Option<GroupName>,
        target: &Target,
        reason: Option<Arc<str>>,
        hold: Duration,
    ) -> Option<Vec<ConnectionId>> {
        let names = match group {
            Some(name) => {
                self.load(&name).await.ok().flatten()?;
                self.holds.entry(name.clone()).or_default().hold(target.clone(), hold);
                vec![name]
            }
            None => {
                self.everywhere.hold(target.clone(), hold);
                self.groups.keys().cloned().collect()
            }
        };
        let mut kicked = Vec::new();
        for name in names {
            for session in self.remove(&name, |session| target.matches(session), Removal::Kicked, reason.as_ref()) {
                self.shared.events.tell(|| What::Kicked(name.clone(), (&*session).into(), reason.clone()));
                kicked.push(session.id);
            }
        }
        Some(kicked)
    }

    async fn end(
        &mut self,
        name: GroupName,
        how: Removal,
        reason: Option<Arc<str>>,
        hold: Duration,
    ) -> Result<Option<u64>, Refusal> {
        self.settle().await;
        if self.load(&name).await?.is_none() {
            return Ok(None);
        }
        if how == Removal::Deleted {
            let deleted = self.shared.log.delete(self.shard, &name).await;
            deleted.map_err(|error| {
                tracing::warn!(%error, "group could not be deleted");
                unavailable(&name)
            })?;
        }
        let removed = self.remove(&name, |_| true, how, reason.as_ref()).len() as u64;
        if how == Removal::Deleted
            && let Some(group) = self.groups.remove(&name)
        {
            self.shared.directory.remove(&name, group.is_stored());
        }
        self.holds.entry(name.clone()).or_default().close(hold);
        self.shared.events.tell(|| match how {
            Removal::Deleted => What::Deleted(name, reason),
            Removal::Closed | Removal::Kicked => What::Closed(name, reason),
        });
        Ok(Some(removed))
    }

    /// Ends memberships and tells those who had them.
    fn remove(
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
            session.inbox.push(Event::Removed { group: name.clone(), removal, detail: detail.cloned() });
        }
        gone
    }

    async fn purge(&mut self, name: &GroupName, through: u64) -> Result<Option<u64>, Refusal> {
        self.settle().await;
        let Some(head) = self.load(name).await?.map(|group| group.head()) else { return Ok(None) };
        match self.shared.log.purge(self.shard, name, through.min(head)).await {
            Ok(removed) => Ok(Some(removed)),
            Err(error) => {
                tracing::warn!(%error, "history could not be purged");
                Err(unavailable(name))
            }
        }
    }

    async fn announce(&mut self, group: Option<GroupName>, message: &Arc<str>) -> Announced {
        let names: Vec<GroupName> = match group {
            Some(name) => self.load(&name).await.ok().flatten().map(|_| name).into_iter().collect(),
            None => {
                self.groups.iter().filter(|(_, group)| group.member_count() > 0).map(|(name, _)| name.clone()).collect()
            }
        };
        let mut announced = Vec::new();
        for name in names {
            let outcome = self.place(&name, &UserName::system(), None, Arc::clone(message), now_ms(), Instant::now());
            let (to, answer) = oneshot::channel();
            self.staged.answers.push(Answer { to: Asker::Admin(to), group: name, id: None, outcome });
            announced.push(answer);
        }
        announced
    }
}
