//! For how long a client may be unserved when nothing fails.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::talker::SlowAnswer;

/// How much longer than without a handover an answer may take.
pub(crate) const LATENCY: Duration = Duration::from_secs(1);

/// As many of the slowest answers are shown.
const SHOWN: usize = 10;

/// Whether no answer took `bound` longer that came after `terminated`, when a node was asked to leave first. What the machine needs
/// anyway, busy as it may be, is not the handover's.
///
/// # Errors
/// If one took long.
pub(crate) fn assert_short(mut slow: Vec<SlowAnswer>, terminated: Instant, bound: Duration) -> Result<()> {
    slow.sort_by_key(|(_, took, _)| std::cmp::Reverse(*took));
    for (when, took, what) in slow.iter().take(SHOWN) {
        let (before, after) = (terminated.saturating_duration_since(*when), when.saturating_duration_since(terminated));
        println!("slow: {took:?} for {what}, {before:?} before or {after:?} after the first was asked to leave");
    }
    let slowest = |leaving: bool| {
        let its = slow.iter().filter(|(when, ..)| (*when >= terminated) == leaving);
        its.map(|(_, took, _)| *took).max().unwrap_or_default()
    };
    let (before, slowest) = (slowest(false), slowest(true));
    println!("the slowest answer took {slowest:?}, before it was {before:?}");
    ensure!(slowest < bound + before, "an answer took {slowest:?}, before it was {before:?}");
    Ok(())
}
