//! For how long a client may be unserved when nothing fails.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::talker::SlowAnswer;

/// How much longer than without a handover an answer may take, on a machine that has the time.
const LATENCY: Duration = Duration::from_secs(1);

/// As many of the slowest answers are shown.
const SHOWN: usize = 10;

/// How many want to run for each that can, since a minute: with ten others each step of a handover waits for its turn. At least 1, at
/// most 3.
fn crowd() -> Result<f64> {
    let load = std::fs::read_to_string("/proc/loadavg").context("read the load of the machine")?;
    let load: f64 = load.split(' ').next().context("no load")?.parse()?;
    let cores = std::thread::available_parallelism()?.get() as f64;
    Ok((load / cores).clamp(1.0, 3.0))
}

/// Whether no answer took long that came after `terminated`, when a node was asked to leave first. What the machine needs anyway, busy
/// as it may be, is not the handover's.
///
/// # Errors
/// If one took long, or the load of the machine cannot be read.
pub(crate) fn assert_short(mut slow: Vec<SlowAnswer>, terminated: Instant) -> Result<()> {
    slow.sort_by_key(|(_, took, _)| std::cmp::Reverse(*took));
    for (when, took, what) in slow.iter().take(SHOWN) {
        let (before, after) = (terminated.saturating_duration_since(*when), when.saturating_duration_since(terminated));
        println!("slow: {took:?} for {what}, {before:?} before or {after:?} after the first was asked to leave");
    }
    let slowest = |leaving: bool| {
        let its = slow.iter().filter(|(when, ..)| (*when >= terminated) == leaving);
        its.map(|(_, took, _)| *took).max().unwrap_or_default()
    };
    let (before, slowest, crowd) = (slowest(false), slowest(true), crowd()?);
    println!("the slowest answer took {slowest:?}, before it was {before:?}; {crowd:.1} times too many want to run");
    ensure!(slowest < LATENCY.mul_f64(crowd) + before, "an answer took {slowest:?}, before it was {before:?}");
    Ok(())
}
