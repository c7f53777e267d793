//! Judges recordings against the promises: one order (P1), acknowledged means kept (P2), no silent loss (P3), no
//! duplicates (P4).
//!
//! [`check`] takes what every connection said and saw, and what the log holds at the end, and finds all that does not
//! fit together. It is pure, so that its own tests can show that it catches each kind of violation.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::recording::{Message, Recording};

mod classic;
mod members;
mod posts;
mod removals;
mod truth;
mod violation;
mod without_id;

pub use removals::{Removal, check_removals};
use truth::Truth;
pub use violation::Violation;

/// What the log holds of one group at the end, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupLog {
    /// The group.
    pub group: Arc<str>,
    /// Its present life.
    pub epoch: u64,
    /// What is kept.
    pub messages: Vec<Arc<Message>>,
}

/// What a test allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Whether groups may lose their life, and acknowledged posts with it: a server without a disk was restarted, or a
    /// group was deleted.
    pub epochs_may_end: bool,
    /// Whether every poster was recorded, so that a message which nobody posted is a violation.
    pub all_posters_recorded: bool,
    /// Whether the oldest messages of a group may be gone: the test has retention remove some, or purges them. Else a log that does not
    /// begin with the first message has lost its beginning.
    pub oldest_may_go: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { epochs_may_end: false, all_posters_recorded: true, oldest_may_go: false }
    }
}

/// How much was judged, so that a test can see that it judged something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    /// Messages in the logs.
    pub messages: u64,
    /// Messages seen by members.
    pub deliveries: u64,
    /// Posts that were acknowledged.
    pub acknowledged: u64,
    /// Posts that were refused.
    pub refused: u64,
    /// Joins: answered ones of the extended dialect, and those of the classic one.
    pub joins: u64,
    /// Losses that were told.
    pub told_losses: u64,
    /// Messages whose texts were removed, as often as somebody saw one or asked for it.
    pub removed: u64,
}

/// What the checker found.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// All that does not fit.
    pub violations: Vec<Violation>,
    /// How much was judged.
    pub facts: Facts,
}

impl Verdict {
    /// Panics if there is a violation, and shows the first of each kind and the number of the rest.
    ///
    /// # Panics
    /// If there is a violation.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(self.violations.is_empty(), "{self}");
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_OF_A_KIND: usize = 5;
        writeln!(f, "{:?}", self.facts)?;
        writeln!(f, "{} violations", self.violations.len())?;
        let kinds: BTreeSet<_> = self.violations.iter().map(Violation::promise).collect();
        for kind in kinds {
            let of_kind: Vec<_> = self.violations.iter().filter(|violation| violation.promise() == kind).collect();
            for violation in of_kind.iter().take(SHOWN_OF_A_KIND) {
                writeln!(f, "  {kind}: {violation}")?;
            }
            let rest = of_kind.len().saturating_sub(SHOWN_OF_A_KIND);
            if rest > 0 {
                writeln!(f, "  {kind}: {rest} more")?;
            }
        }
        Ok(())
    }
}

/// Judges under the default rules. `logs` has every group that the recordings speak of; a group that it lacks is only
/// judged by what its members saw.
#[must_use]
pub fn check(recordings: &[Recording], logs: &[GroupLog]) -> Verdict {
    check_by(Rules::default(), recordings, logs)
}

/// Judges under `rules`.
#[must_use]
pub fn check_by(rules: Rules, recordings: &[Recording], logs: &[GroupLog]) -> Verdict {
    let mut verdict = Verdict::default();
    let logs = removals::with_texts(recordings, logs, &mut verdict);
    let mut truth = Truth::of_logs(rules, &logs, &mut verdict);
    for recording in recordings {
        members::check(recording, &mut truth, &mut verdict);
    }
    let claimed = posts::check(rules, recordings, &truth, &mut verdict);
    classic::check(rules, recordings, &truth, &claimed, &mut verdict);
    verdict
}

#[cfg(test)]
mod tests;
