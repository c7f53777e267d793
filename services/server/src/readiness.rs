//! Whether this node should be sent clients, and why not.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;
use tracing::info;

/// Why a node is not ready. Any number of them can hold at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Not all parts run yet.
    Starting,
    /// The log cannot be written.
    Log,
    /// The node cannot keep its place among the others.
    Cluster,
    /// The node is about to stop.
    Draining,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Starting, Self::Log, Self::Cluster, Self::Draining];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Log => "log",
            Self::Cluster => "cluster",
            Self::Draining => "draining",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The reasons that hold now, each with a text for operators. The node is ready while there are none.
pub type Reasons = BTreeMap<Reason, String>;

/// Shared by all who know a reason and all who ask; cheap to clone. Ready at first.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<watch::Sender<Reasons>>);

impl Readiness {
    /// Ready, until a reason is set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The node is not ready for this reason, until it is cleared; `detail` is for operators.
    pub fn set(&self, reason: Reason, detail: impl Into<String>) {
        let detail = detail.into();
        self.change(|reasons| reasons.insert(reason, detail.clone()).as_ref() != Some(&detail));
    }

    /// The reason does not hold any more.
    pub fn clear(&self, reason: Reason) {
        self.change(|reasons| reasons.remove(&reason).is_some());
    }

    /// Whether no reason holds.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// The reasons that hold now.
    #[must_use]
    pub fn reasons(&self) -> Reasons {
        self.0.borrow().clone()
    }

    /// Follows the reasons, for those who pass readiness on.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Reasons> {
        self.0.subscribe()
    }

    fn change(&self, apply: impl FnOnce(&mut Reasons) -> bool) {
        self.0.send_if_modified(|reasons| {
            let was_ready = reasons.is_empty();
            let changed = apply(reasons);
            match (was_ready, reasons.first_key_value()) {
                (true, Some((reason, detail))) => info!(%reason, detail, "not ready"),
                (false, None) => info!("ready"),
                _ => {}
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_again_once_every_reason_is_cleared() {
        let readiness = Readiness::new();
        let other = readiness.clone();
        assert!(readiness.is_ready());
        readiness.set(Reason::Starting, "opening the log");
        other.set(Reason::Log, "disk full");
        readiness.clear(Reason::Starting);
        assert!(!readiness.is_ready());
        assert_eq!(readiness.reasons(), Reasons::from([(Reason::Log, "disk full".to_owned())]));
        readiness.clear(Reason::Log);
        assert!(other.is_ready());
    }

    #[test]
    fn every_reason_is_among_all() {
        let readiness = Readiness::new();
        for reason in [Reason::Starting, Reason::Log, Reason::Cluster, Reason::Draining] {
            readiness.set(reason, reason.as_str());
        }
        assert!(readiness.reasons().keys().eq(&Reason::ALL));
    }

    #[test]
    fn followers_hear_of_changes_only() {
        let readiness = Readiness::new();
        let mut follower = readiness.subscribe();
        readiness.clear(Reason::Log);
        assert!(!follower.has_changed().unwrap());
        readiness.set(Reason::Log, "a");
        assert!(follower.has_changed().unwrap());
        assert_eq!(follower.borrow_and_update().len(), 1);
        readiness.set(Reason::Log, "a");
        assert!(!follower.has_changed().unwrap());
        readiness.set(Reason::Log, "b");
        assert!(follower.has_changed().unwrap());
    }
}
