//! How a node learns what is held on others: it follows what is kept, and reads all of it anew when something may have been missed.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tertulia_protocol::GroupName;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{End, Hold, Holds, State};
use crate::log::notes::Kept;
use crate::shard::NoteError;

/// How often those that are over are forgotten.
pub(super) const PRUNE: Duration = Duration::from_secs(60);
/// Before it is tried again to learn of others' holds, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long after a hold of another node it is looked whether somebody who is held is a member here. Whoever made it has them taken out
/// at once, and is told whom; this is for those whom that did not reach.
const OVERLOOKED: Duration = Duration::from_secs(2);

impl Holds {
    /// Takes over what is kept. To be done before anybody is let in.
    ///
    /// # Errors
    /// It cannot be read.
    pub(in crate::shard) async fn load(&self) -> Result<Option<BoxStream<'static, Kept>>, NoteError> {
        let Some(notes) = &self.notes else { return Ok(None) };
        let begun = Instant::now();
        let (all, following) = notes.follow().await?;
        self.replace(&all, begun);
        Ok(Some(following))
    }

    /// What is kept is all there is, but for what became known since it was begun to read it. What became known before is not looked at:
    /// its end may have been told while we did not listen.
    pub(super) fn replace(&self, notes: &[Kept], begun: Instant) {
        let now = Instant::now();
        self.change(|state| {
            state.forget_recent(now);
            let recent = std::mem::take(&mut state.recent);
            *state = State::default();
            let mut read: HashMap<_, u64> = HashMap::new();
            for hold in notes.iter().filter_map(Hold::of) {
                state.set(&hold, End::of(&hold, now));
                read.insert((hold.group, hold.target), hold.change);
            }
            for (_, hold) in recent.iter().filter(|(since, _)| *since >= begun) {
                let place = (hold.group.clone(), hold.target.clone());
                // What was read may be newer, and is not told once more.
                if hold.change == 0 || read.get(&place).is_none_or(|read| *read <= hold.change) {
                    state.set(hold, End::of(hold, now));
                }
            }
            state.recent = recent;
        });
    }

    /// Whether nothing may have been missed that has not been read since.
    pub(in crate::shard) fn are_read(&self) -> bool {
        *self.asked.borrow() <= *self.answered.borrow()
    }

    /// Has what is kept read anew, for something may have been missed; returns when it is, however long that takes.
    pub async fn refresh(&self) {
        let (mut answered, mut this) = (self.answered.subscribe(), 0);
        self.asked.send_modify(|asked| {
            *asked += 1;
            this = *asked;
        });
        // That there is nobody to tell it cannot be: it is told by these holds.
        drop(answered.wait_for(|answered| *answered >= this).await);
    }

    /// Learns of the holds that are made on other nodes and forgets what is over, until `stop`. `following` is what
    /// [`Holds::load`] began. `look` is told, a while after it became known, in which group somebody may be held who is a member all the
    /// same, or that it may be in any; it answers whether that will be looked at.
    pub(in crate::shard) async fn follow(
        self: Arc<Self>,
        mut following: Option<BoxStream<'static, Kept>>,
        look: impl Fn(Option<&GroupName>) -> bool,
        stop: CancellationToken,
    ) {
        let mut prune = tokio::time::interval(PRUNE);
        let (mut asked, mut begun, mut read) = (self.asked.subscribe(), Instant::now(), 0);
        let (mut again, mut is_unknown) = (AGAIN.0, false);
        let mut overlooked: VecDeque<(Instant, Option<GroupName>)> = VecDeque::new();
        loop {
            let is_asked = *asked.borrow() > read;
            let next = async {
                match &mut following {
                    _ if is_asked => None,
                    Some(following) => following.next().await,
                    None if self.notes.is_none() => std::future::pending().await,
                    None => None,
                }
            };
            let is_due = async {
                match overlooked.front() {
                    Some((when, _)) => sleep_until(*when).await,
                    None => std::future::pending().await,
                }
            };
            let note = tokio::select! {
                () = stop.cancelled() => return,
                _ = prune.tick() => {
                    self.change(|state| state.prune(Instant::now()));
                    continue;
                }
                () = is_due => {
                    if let Some((_, group)) = overlooked.pop_front()
                        && !look(group.as_ref())
                    {
                        look_later(&mut overlooked, group);
                    }
                    continue;
                }
                () = more_than(&mut asked, read), if !is_asked => continue,
                note = next => note,
            };
            if let Some(kept) = note {
                again = AGAIN.0;
                if let Some(hold) = Hold::of(&kept) {
                    if hold.until > 0 {
                        look_later(&mut overlooked, hold.group.clone());
                    }
                    self.apply(hold);
                }
                continue;
            }
            if begun.elapsed() > 2 * AGAIN.1 {
                // It was well for a while.
                again = AGAIN.0;
            }
            (read, begun) = (*asked.borrow(), Instant::now());
            let loaded = tokio::select! {
                () = stop.cancelled() => return,
                loaded = self.load() => loaded,
                // The connection is another one again, and what was asked over the one before may not be answered for long.
                () = more_than(&mut asked, read) => continue,
            };
            following = match loaded {
                Ok(following) => {
                    self.answered.send_replace(read);
                    if std::mem::take(&mut is_unknown) {
                        tracing::info!("holds that are made on other nodes are known here again");
                    }
                    look_later(&mut overlooked, None);
                    following
                }
                Err(error) => {
                    // Once: while they cannot be read that is tried again every few seconds.
                    match std::mem::replace(&mut is_unknown, true) {
                        false => {
                            tracing::warn!(%error, "holds that are made on other nodes are not known here for now");
                        }
                        true => tracing::debug!(%error, "holds that are made on other nodes are still not known here"),
                    }
                    None
                }
            };
            if is_asked && following.is_some() {
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(again) => {}
                () = more_than(&mut asked, read) => {}
            }
            again = (again * 2).min(AGAIN.1);
        }
    }
}

/// Has it looked a while later whether somebody is held in a group. To look at all groups takes long: however many are held in all of them, one
/// after the other, it is done once for those that came in between, and not put off for ever.
fn look_later(overlooked: &mut VecDeque<(Instant, Option<GroupName>)>, group: Option<GroupName>) {
    let mut when = Instant::now() + OVERLOOKED;
    if group.is_none() {
        let first = overlooked.iter().find_map(|(first, there)| there.is_none().then_some(*first));
        overlooked.retain(|(when, there)| there.is_some() || Some(*when) == first);
        when = first.map_or(when, |first| when.max(first + OVERLOOKED));
    }
    let place = overlooked.partition_point(|(before, _)| *before <= when);
    overlooked.insert(place, (when, group));
}

/// Waits until there are more.
async fn more_than(count: &mut watch::Receiver<u64>, known: u64) {
    if count.wait_for(|count| *count > known).await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_is_held_everywhere_again_and_again_is_looked_for_all_the_same() {
        let (mut overlooked, mut looks) = (VecDeque::new(), 0);
        for _ in 0..60 {
            look_later(&mut overlooked, None);
            assert!(overlooked.len() <= 2, "{overlooked:?}");
            tokio::time::advance(Duration::from_secs(1)).await;
            while overlooked.front().is_some_and(|(when, _)| *when <= Instant::now()) {
                overlooked.pop_front();
                looks += 1;
            }
        }
        assert!((15..=30).contains(&looks), "{looks} in a minute");
    }
}
