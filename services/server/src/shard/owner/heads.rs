//! What the log has of groups: of many at a time, since each is a question of its own, and one after the other they would keep a shard for as many
//! times as long as the log is far. And where the log is silent, they would for as many times as long as it is waited for.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tertulia_protocol::GroupName;
use tokio::time::Instant;

use super::turn::TAIL;
use super::{Owner, unavailable};
use crate::log::{Head, Log, Page, Range, ReadError};
use crate::shard::Refusal;
use crate::shard::request::Request;

/// Groups about which the log is asked at a time.
const AT_ONCE: usize = 128;
/// After so long an answer is missed: the log is silent, or what it has of that group cannot be read.
const LATE: Duration = Duration::from_millis(250);
/// For so long what the log told holds for those who wait already.
const FRESH: Duration = Duration::from_millis(100);

/// What the log has of a group: its head, and its newest messages if they are newer than what was known.
pub(super) struct Found {
    pub(super) name: GroupName,
    pub(super) outcome: Result<(Option<Head>, Option<Page>), ReadError>,
    /// Whether that is an error that was waited for so long that others are not to wait for the next.
    is_late: bool,
}

impl Found {
    fn unasked(name: GroupName) -> Self {
        let outcome = Err(ReadError { reason: "it was not asked, so soon after there was no answer".to_owned() });
        Self { name, outcome, is_late: false }
    }
}

/// Asks about groups, each with the newest message that is known of it. Once an answer is late, the log is not asked about those that it was not
/// asked about by then.
pub(super) async fn find(log: Arc<dyn Log>, shard: u16, sought: Vec<(GroupName, u64)>) -> Vec<Found> {
    let is_any_late = Arc::new(AtomicBool::new(false));
    let finding = sought.into_iter().map(|(name, known)| {
        let (log, is_any_late) = (Arc::clone(&log), Arc::clone(&is_any_late));
        async move {
            if is_any_late.load(Ordering::Relaxed) {
                return Found::unasked(name);
            }
            let begun = Instant::now();
            let outcome = find_one(&*log, shard, &name, known).await;
            let is_late = outcome.is_err() && begun.elapsed() >= LATE;
            is_any_late.fetch_or(is_late, Ordering::Relaxed);
            Found { name, outcome, is_late }
        }
    });
    stream::iter(finding.collect::<Vec<_>>()).buffer_unordered(AT_ONCE).collect().await
}

async fn find_one(
    log: &dyn Log,
    shard: u16,
    name: &GroupName,
    known: u64,
) -> Result<(Option<Head>, Option<Page>), ReadError> {
    let head = log.head(shard, name).await?;
    let tail = match head {
        Some(head) if head.seq > known => log.read(shard, name, Range::Before(u64::MAX), TAIL).await?,
        Some(_) | None => None,
    };
    Ok((head, tail))
}

/// What the log told of groups that are not in memory, when one of them was needed and others waited for the same.
#[derive(Default)]
pub(super) struct Ahead {
    /// With the time when it was told; `None`: it was not.
    heads: HashMap<GroupName, (Instant, Option<Option<Head>>)>,
    /// Whether the log was asked since it was last asked about the rest of a request.
    pub(super) has_asked: bool,
    /// Until then it is not asked again, for it is silent.
    silent_until: Option<Instant>,
    /// The groups whose heads were waited for in vain last, and until when they are not asked for again.
    late: HashMap<GroupName, Instant>,
    /// The group whose ids were waited for in vain last, and until when they are not asked for again.
    slow: Option<(GroupName, Instant)>,
}

impl Ahead {
    fn is_silent(&self) -> bool {
        self.silent_until.is_some_and(|until| Instant::now() < until)
    }

    /// That it was not told holds for one who waited: whoever comes later may ask again.
    fn told(&mut self, name: &GroupName) -> Option<Option<Option<Head>>> {
        let (_, head) = *self.heads.get(name).filter(|(at, _)| at.elapsed() < FRESH)?;
        if head.is_none() {
            self.heads.remove(name);
        }
        Some(head)
    }

    /// It is in memory from now on, and what becomes of it was not told.
    pub(super) fn forget(&mut self, name: &GroupName) {
        self.heads.remove(name);
    }
}

impl Owner {
    /// What the log has of a group that is not in memory. It is asked about those together that requests which wait need as well.
    pub(super) async fn head_of(&mut self, name: &GroupName) -> Result<Option<Head>, Refusal> {
        let mut told = self.ahead.told(name);
        if told.is_none() && !self.ahead.is_silent() {
            let mut needed = HashSet::from([name.clone()]);
            for request in &self.waiting {
                match request {
                    Request::Join { group, .. } | Request::Members { group, .. } => drop(needed.insert(group.clone())),
                    Request::Post(posts) => needed.extend(posts.posts.iter().map(|post| post.group.clone())),
                    _ => {}
                }
            }
            self.ask_ahead(needed).await;
            self.ahead.has_asked = true;
            told = self.ahead.told(name);
        }
        told.flatten().ok_or_else(|| unavailable(name))
    }

    /// Asks about the groups that the rest of a request needs, once one was needed that is not in memory: others may be none either.
    pub(super) async fn look_ahead(&mut self, needed: impl Iterator<Item = &GroupName>) {
        self.ahead.has_asked = false;
        let needed = needed.cloned().collect();
        self.ask_ahead(needed).await;
    }

    async fn ask_ahead(&mut self, mut needed: HashSet<GroupName>) {
        self.ahead.heads.retain(|_, (at, _)| at.elapsed() < FRESH);
        needed.retain(|name| !self.groups.contains_key(name) && !self.ahead.heads.contains_key(name));
        if needed.is_empty() {
            return;
        }
        for Found { name, outcome, .. } in self.ask(needed).await {
            let head = outcome.ok().map(|(head, _)| head);
            self.ahead.heads.insert(name, (Instant::now(), head));
        }
    }

    /// Asks where groups are that are not in memory, unless the log is silent, or was asked about them in vain a moment ago.
    pub(super) async fn ask(&mut self, names: HashSet<GroupName>) -> Vec<Found> {
        if self.ahead.is_silent() {
            return names.into_iter().map(Found::unasked).collect();
        }
        let begun = Instant::now();
        self.ahead.late.retain(|_, until| begun < *until);
        let (late, asked): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| self.ahead.late.contains_key(name));
        let sought = asked.into_iter().map(|name| (name, u64::MAX)).collect();
        let mut found = find(Arc::clone(&self.shared.log), self.shard, sought).await;
        if found.iter().any(|found| found.is_late) {
            let (took, is_none_told) = (begun.elapsed(), found.iter().all(|found| found.outcome.is_err()));
            let late = found.iter().filter(|found| found.is_late).map(|found| found.name.clone());
            self.ahead.late.extend(late.map(|name| (name, Instant::now() + took)));
            // Where it told of others, that of one it does not is of that one alone. Of two it is not: an engine may know of the others what it
            // tells without asking.
            if is_none_told || self.ahead.late.len() > 1 {
                self.is_silent_for(took);
            }
            self.notice_cut_off();
        }
        found.extend(late.into_iter().map(Found::unasked));
        found
    }

    /// What needs the log is refused for as long as it was waited for in vain: all others of the shard waited meanwhile.
    fn is_silent_for(&mut self, time: Duration) {
        self.ahead.silent_until = Some(Instant::now() + time);
    }

    /// While the log was waited for it was not heard that this node reaches nobody.
    fn notice_cut_off(&mut self) {
        if self.seat.as_deref().is_some_and(|seat| seat.reaches_nobody()) {
            self.on_cut_off(true);
        }
    }

    /// As [`Owner::load_dedup`], unless the log is silent.
    ///
    /// That it fails late does not tell by itself that the log is: there may be much to read, or what is read lies on a bad place of a disk. So it
    /// is refused for that group alone at first. The log is silent if the next one fails in the same way.
    pub(super) async fn load_ids(&mut self, name: &GroupName) -> Result<(), Refusal> {
        let begun = Instant::now();
        let slow = self.ahead.slow.as_ref().filter(|(_, until)| begun < *until).map(|(slow, _)| slow == name);
        if self.ahead.is_silent() || slow == Some(true) {
            return Err(unavailable(name));
        }
        let loaded = self.load_dedup(name).await;
        let took = begun.elapsed();
        if loaded.is_err() && took >= LATE {
            match slow {
                Some(_) => self.is_silent_for(took),
                None => self.ahead.slow = Some((name.clone(), Instant::now() + took)),
            }
            self.notice_cut_off();
        }
        loaded
    }
}
