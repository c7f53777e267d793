//! For how long a client may be unserved when nothing fails.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::task::JoinSet;

use crate::talker::SlowAnswer;

/// How much longer than without a handover an answer may take.
pub(crate) const LATENCY: Duration = Duration::from_secs(1);

/// As many of the slowest answers are shown.
const SHOWN: usize = 10;

/// Between two looks at the machine.
const LOOK: Duration = Duration::from_millis(50);

/// What has nothing to do with the nodes, as long as this lives: how long the machine itself lets one wait for a turn and for the disk, on
/// both of which an answer depends. It goes on for as long as nodes leave and come, which is far longer than it is talked before.
pub(crate) struct Control {
    slowest: Arc<AtomicU64>,
    looking: JoinSet<Result<()>>,
}

impl Control {
    pub(crate) fn start() -> Result<Self> {
        // On the disk on which NATS keeps what it acknowledges.
        let file = Arc::new(tempfile::tempfile()?);
        let slowest = Arc::new(AtomicU64::new(0));
        let (mut looking, noted) = (JoinSet::new(), Arc::clone(&slowest));
        looking.spawn(async move {
            loop {
                let began = Instant::now();
                tokio::time::sleep(LOOK).await;
                let file = Arc::clone(&file);
                tokio::task::spawn_blocking(move || write(&file)).await??;
                let late = began.elapsed().saturating_sub(LOOK);
                noted.fetch_max(u64::try_from(late.as_millis())?, Ordering::Relaxed);
            }
        });
        Ok(Self { slowest, looking })
    }

    /// The longest that it took.
    fn slowest(mut self) -> Result<Duration> {
        if let Some(ended) = self.looking.try_join_next() {
            ended??;
        }
        Ok(Duration::from_millis(self.slowest.load(Ordering::Relaxed)))
    }
}

fn write(file: &File) -> Result<()> {
    file.write_all_at(&[1; 4096], 0)?;
    Ok(file.sync_data()?)
}

/// Whether no answer took `bound` longer that came after `terminated`, when a node was asked to leave first. What the machine needs
/// anyway, busy as it may be, is not the handover's: what answers took before, and what the machine itself took meanwhile.
///
/// # Errors
/// If one took long.
pub(crate) fn assert_short(
    mut slow: Vec<SlowAnswer>,
    terminated: Instant,
    bound: Duration,
    control: Control,
) -> Result<()> {
    let machine = control.slowest()?;
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
    let told = format!("{slowest:?}, before it was {before:?}, and the machine itself took up to {machine:?}");
    println!("the slowest answer took {told}");
    ensure!(slowest < bound + before.max(machine), "an answer took {told}");
    Ok(())
}
