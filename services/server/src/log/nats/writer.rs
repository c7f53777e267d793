//! Who may change a shard at a time.
//!
//! What is sent under a shard's fence is sent by one at a time. Who takes the shard, extends it or lets go of it has it until that has ended.
//! But an append that is stored in part may wait for long until there is room for the rest, and what makes room is to remove something:
//! between its attempts those who do have the shard, for all groups but those of the append.

use std::collections::HashSet;
use std::sync::Arc;

use tertulia_protocol::GroupName;
use tokio::sync::{Mutex, MutexGuard};

/// The locks of a shard, taken in the order in which they stand here.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    /// Held by who takes the shard, extends it, or lets go of it, to the end.
    pub(crate) alone: Arc<Mutex<()>>,
    /// Held by whoever changes the shard, but for the time in which that waits. The groups of the append that waits are in it.
    turn: Mutex<HashSet<GroupName>>,
}

/// Leave to change a shard.
pub(crate) struct Writer<'a> {
    locks: &'a Locks,
    _alone: Option<MutexGuard<'a, ()>>,
    /// `None` while others have it.
    turn: Option<MutexGuard<'a, HashSet<GroupName>>>,
}

impl Locks {
    /// Waits until nobody else changes the shard.
    pub(crate) async fn writer(&self) -> Writer<'_> {
        let alone = self.alone.lock().await;
        self.begin(alone, self.turn.lock().await)
    }

    /// The same at once, if nobody does.
    pub(crate) fn writer_now(&self) -> Option<Writer<'_>> {
        let alone = self.alone.try_lock().ok()?;
        Some(self.begin(alone, self.turn.try_lock().ok()?))
    }

    /// No append waits, so nothing is unfinished, even if one was dropped while it did.
    fn begin<'a>(&'a self, alone: MutexGuard<'a, ()>, mut turn: MutexGuard<'a, HashSet<GroupName>>) -> Writer<'a> {
        turn.clear();
        Writer { locks: self, _alone: Some(alone), turn: Some(turn) }
    }

    /// Waits until something may be removed from groups that are not [unfinished](Writer::is_unfinished). Who has this sends one message at a
    /// time, so that it never has to [wait](Writer::wait) itself.
    pub(crate) async fn remover(&self) -> Writer<'_> {
        Writer { locks: self, _alone: None, turn: Some(self.turn.lock().await) }
    }
}

impl Writer<'_> {
    /// Whether an append to the group waits until the rest of it can be stored: until then nothing else may be sent for it.
    pub(crate) fn is_unfinished(&self, group: &GroupName) -> bool {
        self.turn.as_ref().is_none_or(|unfinished| unfinished.contains(group))
    }

    /// Whether an append to any group waits.
    pub(crate) fn is_between(&self) -> bool {
        self.turn.as_ref().is_none_or(|unfinished| !unfinished.is_empty())
    }

    /// Waits as long as `until` takes, and meanwhile lets others remove something, but not from the groups that are unfinished.
    pub(crate) async fn wait<T>(
        &mut self,
        unfinished: impl Iterator<Item = GroupName>,
        until: impl Future<Output = T>,
    ) -> T {
        if let Some(mut turn) = self.turn.take() {
            turn.extend(unfinished);
        }
        let answer = until.await;
        let mut turn = self.locks.turn.lock().await;
        turn.clear();
        self.turn = Some(turn);
        answer
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn while_one_waits_others_may_remove_from_other_groups_and_nobody_may_extend() {
        let [dogs, cats] = ["Dogs", "Cats"].map(|name| GroupName::new(name).unwrap());
        let locks = Locks::default();
        let mut writer = locks.writer().await;
        assert!(!writer.is_unfinished(&dogs) && !writer.is_between());
        assert!(locks.remover().now_or_never().is_none(), "somebody sends something");
        let between = async {
            assert!(locks.writer_now().is_none() && locks.writer().now_or_never().is_none(), "it has not ended");
            let remover = locks.remover().now_or_never().expect("nobody sends anything");
            assert!(remover.is_unfinished(&dogs) && !remover.is_unfinished(&cats) && remover.is_between());
        };
        writer.wait([dogs.clone()].into_iter(), between).await;
        assert!(!writer.is_unfinished(&dogs) && !writer.is_between());
        assert!(locks.remover().now_or_never().is_none(), "it goes on");
        assert!(writer.wait([cats.clone()].into_iter(), std::future::pending::<()>()).now_or_never().is_none());
        drop(writer);
        drop(locks.writer().await);
        assert!(!locks.remover().await.is_unfinished(&cats), "of one that was dropped nothing stays");
        assert!(locks.writer_now().is_some());
    }
}
