//! Whom moderators keep out, and for how long: known on every node, found by who and where, and kept where the engine keeps notes.
//!
//! A hold is kept before anything comes of it, so that none is lost that a moderator was told of. It is then known here at once, to the
//! owner of a shard with the request that it came with, and to all other nodes a moment later.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tertulia_protocol::GroupName;
use tokio::sync::watch;
use tokio::time::Instant;

use super::map::shard_of;
use super::moderation::Target;
use super::session::Session;
use super::{NoteError, Refusal};
use crate::log::notes::{Kept, Note, Notes};
use crate::log::now_ms;

mod follow;
mod held;
mod state;
mod term;

use state::{End, State, left, longest};

pub use held::Held;
pub use term::Term;

/// For how long a hold is handed over with shards: other nodes have long learnt of it by themselves then.
const RECENT: Duration = Duration::from_secs(60);
/// How many are handed over at most, the newest.
const RECENT_HOLDS: usize = 1_024;
/// For how long it is known that a hold was ended: what is told of it later than that, by whoever was asked to act upon it, makes it anew.
const KNOWN: Duration = Duration::from_secs(600);
/// Holds that end within this time are the same one, told by way of clocks that are a little apart.
const SAME: Duration = Duration::from_secs(2);
/// So far ahead that it is as good as for ever, yet no clock overflows.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

/// What a moderator holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// In which group; in all without one.
    pub group: Option<GroupName>,
    /// Whom; everybody without one: the group is closed.
    pub target: Option<Target>,
    /// Until when (milliseconds since 1970-01-01 UTC); a time that is over ends it.
    pub until: u64,
    /// Why, in a moderator's words. Older builds keep none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
    /// Which change of all that is kept made it so, of which the later counts; 0 where that is not known, as older builds do not tell it.
    #[serde(default)]
    pub change: u64,
}

impl Hold {
    /// From now on, for so long; no time at all ends one that is there.
    #[must_use]
    pub fn new(group: Option<GroupName>, target: Option<Target>, time: Duration) -> Self {
        let time = u64::try_from(time.min(CENTURY).as_millis()).unwrap_or(u64::MAX);
        let until = if time == 0 { 0 } else { now_ms().saturating_add(time) };
        Self { group, target, until, reason: None, change: 0 }
    }

    /// The same, with the reason of whoever makes it.
    #[must_use]
    pub fn because(self, reason: Option<&Arc<str>>) -> Self {
        Self { reason: reason.cloned(), ..self }
    }

    fn note(&self) -> Note {
        // Neither a name nor a number fails to be written.
        let key = serde_json::to_string(&(&self.group, &self.target)).unwrap_or_default();
        Note { key, text: self.reason.as_deref().unwrap_or_default().to_owned(), until: self.until }
    }

    fn of(Kept { note, change }: &Kept) -> Option<Self> {
        let (group, target) = serde_json::from_str(&note.key)
            .inspect_err(|error| tracing::warn!(key = note.key, %error, "a hold that this build does not understand"))
            .ok()?;
        let reason = (!note.text.is_empty()).then(|| note.text.as_str().into());
        Some(Self { group, target, until: note.until, reason, change: *change })
    }
}

/// Why a hold was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HoldError {
    /// As many as may be.
    #[error("{max} holds are in force, as many as may be (limits.holds): wait until some are over")]
    Full {
        /// The limit.
        max: usize,
    },
    /// It cannot be kept.
    #[error(transparent)]
    NotKept(#[from] NoteError),
}

/// All holds that are known on this node.
#[derive(Debug)]
pub struct Holds {
    /// How many there are, so that nobody pays who need not.
    count: AtomicUsize,
    state: RwLock<State>,
    notes: Option<Arc<dyn Notes>>,
    /// Changes that are kept nowhere.
    unkept: AtomicU64,
    max: usize,
    /// Whether a connection's id is never given again: then holds of connections are kept as well.
    keeps_connections: bool,
    /// How often it was asked to read anew what is kept, and which of these a reading has answered.
    asked: watch::Sender<u64>,
    answered: watch::Sender<u64>,
}

/// What a list of holds is ordered by: those in all groups first, and of a group its being closed.
pub type Place = (Option<GroupName>, Option<Target>);

impl Holds {
    /// None yet; at most `max` may be made, and they are kept in `notes`, if there is such a place. Those of connections only with
    /// `keeps_connections`: where a restart numbers connections anew they would hold somebody else.
    #[must_use]
    pub fn new(notes: Option<Arc<dyn Notes>>, max: usize, keeps_connections: bool) -> Self {
        let (count, state, unkept) = (AtomicUsize::new(0), RwLock::default(), AtomicU64::new(0));
        Self {
            count,
            state,
            notes,
            unkept,
            max,
            keeps_connections,
            asked: watch::Sender::new(0),
            answered: watch::Sender::new(0),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state: RwLockWriteGuard<'_, State> = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut state);
        self.count.store(state.len(), Ordering::Release);
        result
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Forgets those that are over.
    pub fn prune(&self) {
        if !self.is_empty() {
            self.change(|state| state.prune(Instant::now()));
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes a hold, or ends one, for good: when this returns it is kept, and in force on this node, unless that was changed again meanwhile;
    /// answers what is kept. It goes on to its end also when whoever
    /// wants it waits no longer: one that is kept and not in force would come with the next start.
    ///
    /// # Errors
    /// There are too many, or it cannot be kept; then nothing has changed, unless it was kept and that is not known.
    pub async fn keep(self: &Arc<Self>, hold: Hold) -> Result<Hold, HoldError> {
        let holds = Arc::clone(self);
        let kept = tokio::spawn(async move { holds.keep_and_apply(hold).await });
        kept.await.unwrap_or_else(|error| Err(NoteError { reason: error.to_string() }.into()))
    }

    async fn keep_and_apply(&self, mut hold: Hold) -> Result<Hold, HoldError> {
        if hold.until > 0 && self.len() >= self.max {
            let max = self.max;
            let is_full = self.change(|state| {
                state.prune(Instant::now());
                state.len() >= max && !state.has(&hold)
            });
            if is_full {
                return Err(HoldError::Full { max });
            }
        }
        let is_kept = self.keeps_connections || !matches!(hold.target, Some(Target::Connection(_)));
        let before = self.read().known(&hold).map_or(0, |(change, _)| change);
        hold.change = match self.notes.as_ref().filter(|_| is_kept) {
            Some(notes) => notes.keep(hold.note()).await?,
            None => self.unkept.fetch_add(1, Ordering::Relaxed) + 1,
        };
        if hold.change <= before {
            // The numbers have begun anew, as where somebody made the bucket anew: they tell nothing of this place any more.
            hold.change = 0;
        }
        self.apply(hold.clone());
        Ok(hold)
    }

    /// Notes a hold that is kept elsewhere, or need not be, unless it is known here what has become of it since: who keeps two at once, is asked
    /// to act upon one, or follows what others keep, learns of them in any order.
    pub fn apply(&self, hold: Hold) {
        let now = Instant::now();
        let end = End::of(&hold, now);
        if end.is_none() && hold.change == 0 && self.is_empty() {
            return;
        }
        self.change(|state| {
            if state.is_overtaken(&hold) {
                return;
            }
            state.set(&hold, end);
            state.recent.push_back((now, hold));
            state.forget_recent(now);
        });
    }

    /// Notes a hold that the node before told of with a shard, unless it is known here that it was ended: that one may not have heard of it.
    pub fn inherit(&self, hold: Hold) {
        // Which was first is not known of what older builds tell.
        let is_ended = || self.read().newest(&hold).is_some_and(|newest| newest.until <= now_ms());
        if hold.change > 0 || !is_ended() {
            self.apply(hold);
        }
    }

    /// Opens the name of a group that is no more, if what it is closed by is that change or one before it; no moderator has closed it anew.
    pub fn open(&self, group: GroupName, change: u64) {
        let open = Hold { change, ..Hold::new(Some(group), None, Duration::ZERO) };
        if change > 0 && self.find((open.group.clone(), None)).is_some() {
            self.apply(open);
        }
    }

    /// Whether a hold is in force here that ends as late as this one, or hardly sooner.
    #[must_use]
    pub fn covers(&self, hold: &Hold) -> bool {
        let now = Instant::now();
        let end = Duration::from_millis(hold.until.saturating_sub(now_ms())).min(CENTURY);
        let ours = left(self.read().end(hold), now).unwrap_or_default();
        ours + SAME >= end
    }

    /// Whether a session may join a group, post to it and read it.
    ///
    /// # Errors
    /// Why it may not, and for how much longer.
    pub fn check(&self, group: &GroupName, session: &Session) -> Result<(), Refusal> {
        if self.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        let state = self.read();
        let here = state.groups.get(group);
        if let Some(retry_after) = here.and_then(|here| left(here.closed.as_ref(), now)) {
            return Err(Refusal::Closed { group: group.clone(), retry_after });
        }
        let held = here.and_then(|here| longest(&here.held, session, now));
        match held.max(longest(&state.everywhere, session, now)) {
            Some(retry_after) => Err(Refusal::Kicked { group: group.clone(), retry_after }),
            None => Ok(()),
        }
    }

    /// For how much longer a group is closed to everybody.
    #[must_use]
    pub fn closed_for(&self, group: &str) -> Option<Duration> {
        if self.is_empty() {
            return None;
        }
        left(self.read().groups.get(group)?.closed.as_ref(), Instant::now())
    }

    /// The hold that is in force in this place.
    #[must_use]
    pub fn find(&self, (group, target): Place) -> Option<Hold> {
        let place = Hold { group, target, until: 0, reason: None, change: 0 };
        let state = self.read();
        let end = state.end(&place).filter(|end| left(Some(end), Instant::now()).is_some())?;
        Some(Hold { until: end.until, reason: end.reason.clone(), change: end.change, ..place })
    }

    /// The next `limit` holds in force after a place, in the order of their places, of those that pass.
    pub fn list(
        &self,
        after: Option<&Place>,
        limit: usize,
        passes: impl Fn(Option<&GroupName>, Option<&Target>) -> bool,
    ) -> Vec<Hold> {
        let now = Instant::now();
        let state = self.read();
        let after = after.map(|(group, target)| (group.as_ref(), target.as_ref()));
        // The largest of those that are chosen gives way: nobody waits for all of them to be sorted.
        let mut chosen = BTreeMap::new();
        for (group, target, end) in state.all() {
            let is_in_force = left(Some(end), now).is_some();
            if !is_in_force || after.is_some_and(|after| (group, target) <= after) || !passes(group, target) {
                continue;
            }
            let is_full = chosen.len() >= limit;
            if is_full && chosen.last_key_value().is_none_or(|(last, _)| *last < (group, target)) {
                continue;
            }
            chosen.insert((group, target), end);
            if is_full {
                chosen.pop_last();
            }
        }
        let told = |((group, target), end): ((Option<&GroupName>, Option<&Target>), &End)| Hold {
            group: group.cloned(),
            target: target.cloned(),
            until: end.until,
            reason: end.reason.clone(),
            change: end.change,
        };
        chosen.into_iter().map(told).collect()
    }

    /// What changed of late that concerns a shard, for the node that has it next, which may not know it yet.
    #[must_use]
    pub fn recent(&self, shard: u16, shards: u16) -> Vec<Hold> {
        let now = Instant::now();
        let is_new = |since: &Instant| now.duration_since(*since) <= RECENT;
        let concerns = |hold: &Hold| hold.group.as_ref().is_none_or(|group| shard_of(group, shards) == shard);
        let state = self.read();
        state
            .recent
            .iter()
            .filter(|(since, hold)| is_new(since) && concerns(hold))
            .map(|(_, hold)| hold.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests;
