//! What is known of holds on this node, found by who and where.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use tertulia_protocol::GroupName;
use tokio::time::Instant;

use super::{CENTURY, Hold, KNOWN, RECENT_HOLDS, Target};
use crate::log::now_ms;
use crate::shard::session::Session;

pub(super) type Ends<T> = HashMap<T, End, RandomState>;

/// When a hold ends.
#[derive(Debug, Clone)]
pub(super) struct End {
    pub(super) at: Instant,
    /// As it was told: [`Hold::until`].
    pub(super) until: u64,
    pub(super) reason: Option<Arc<str>>,
    /// As it was told: [`Hold::change`].
    pub(super) change: u64,
}

impl End {
    /// The end of a hold, unless that is over.
    pub(super) fn of(hold: &Hold, now: Instant) -> Option<Self> {
        let left = Duration::from_millis(hold.until.saturating_sub(now_ms())).min(CENTURY);
        let reason = hold.reason.clone();
        (!left.is_zero()).then(|| Self { at: now + left, until: hold.until, reason, change: hold.change })
    }
}

/// All holds that are known, and what became of them of late.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) everywhere: Ends<Target>,
    pub(super) groups: HashMap<GroupName, OfGroup, RandomState>,
    /// The newest, and when they became known.
    pub(super) recent: VecDeque<(Instant, Hold)>,
}

#[derive(Debug, Default)]
pub(super) struct OfGroup {
    pub(super) closed: Option<End>,
    pub(super) held: Ends<Target>,
}

impl OfGroup {
    fn len(&self) -> usize {
        self.held.len() + usize::from(self.closed.is_some())
    }
}

/// For how much longer a session is held, of all that its user, its connection and its address are held for.
pub(super) fn longest(held: &Ends<Target>, session: &Session, now: Instant) -> Option<Duration> {
    if held.is_empty() {
        return None;
    }
    let names = [
        Target::User(session.user.clone()),
        Target::Connection(session.id),
        Target::from_address(session.address),
        // As builds held it that did not hold a network.
        Target::Address(session.address),
    ];
    names.iter().filter_map(|name| left(held.get(name), now)).max()
}

pub(super) fn left(end: Option<&End>, now: Instant) -> Option<Duration> {
    end?.at.checked_duration_since(now).filter(|left| !left.is_zero())
}

impl State {
    pub(super) fn len(&self) -> usize {
        self.everywhere.len() + self.groups.values().map(OfGroup::len).sum::<usize>()
    }

    /// Where the end of a hold is noted; only if there is one, unless it is to be made.
    pub(super) fn set(&mut self, hold: &Hold, end: Option<End>) {
        let Some(name) = &hold.group else {
            if let Some(target) = &hold.target {
                set(&mut self.everywhere, target, end);
            }
            return;
        };
        if end.is_none() && !self.groups.contains_key(name) {
            return;
        }
        let group = self.groups.entry(name.clone()).or_default();
        match &hold.target {
            Some(target) => set(&mut group.held, target, end),
            None => group.closed = end,
        }
        if group.len() == 0 {
            self.groups.remove(name);
        }
    }

    pub(super) fn has(&self, hold: &Hold) -> bool {
        self.end(hold).is_some()
    }

    /// When what is held as `hold` says ends.
    pub(super) fn end(&self, hold: &Hold) -> Option<&End> {
        match (&hold.group, &hold.target) {
            (None, Some(target)) => self.everywhere.get(target),
            (None, None) => None,
            (Some(name), target) => self.groups.get(name).and_then(|group| match target {
                Some(target) => group.held.get(target),
                None => group.closed.as_ref(),
            }),
        }
    }

    /// What became known last of this place, of late.
    pub(super) fn newest(&self, hold: &Hold) -> Option<&Hold> {
        let of_this = |(_, known): &&(Instant, Hold)| known.group == hold.group && known.target == hold.target;
        self.recent.iter().rfind(of_this).map(|(_, newest)| newest)
    }

    /// The latest change that is known here of this place, and whether that was the end of a hold.
    pub(super) fn known(&self, hold: &Hold) -> Option<(u64, bool)> {
        let in_force = self.end(hold).map(|end| (end.change, false));
        let ended = self.newest(hold).filter(|newest| newest.until == 0).map(|newest| (newest.change, true));
        in_force.max(ended)
    }

    /// Whether it is known here what has become of it since. Of one change the end is the later part: whoever deletes a group opens its name.
    pub(super) fn is_overtaken(&self, hold: &Hold) -> bool {
        hold.change > 0 && self.known(hold).is_some_and(|known| known > (hold.change, hold.until == 0))
    }

    /// All, in no order: in which group, whom, and when it ends.
    pub(super) fn all(&self) -> impl Iterator<Item = (Option<&GroupName>, Option<&Target>, &End)> {
        let everywhere = self.everywhere.iter().map(|(target, end)| (None, Some(target), end));
        let in_groups = self.groups.iter().flat_map(|(name, group)| {
            let closed = group.closed.iter().map(move |end| (Some(name), None, end));
            closed.chain(group.held.iter().map(move |(target, end)| (Some(name), Some(target), end)))
        });
        everywhere.chain(in_groups)
    }

    pub(super) fn prune(&mut self, now: Instant) {
        self.everywhere.retain(|_, end| end.at > now);
        self.groups.retain(|_, group| {
            group.held.retain(|_, end| end.at > now);
            group.closed.take_if(|end| end.at <= now);
            group.len() > 0
        });
        self.forget_recent(now);
    }

    pub(super) fn forget_recent(&mut self, now: Instant) {
        while self.recent.len() > RECENT_HOLDS
            || self.recent.front().is_some_and(|(since, _)| now.duration_since(*since) > KNOWN)
        {
            self.recent.pop_front();
        }
    }
}

fn set(held: &mut Ends<Target>, target: &Target, end: Option<End>) {
    match end {
        Some(end) => drop(held.insert(target.clone(), end)),
        None => drop(held.remove(target)),
    }
}
