//! Several nodes that are one, over a real NATS.
//!
//! Each scenario needs most of the machine, so each has it for itself.

mod administration;
mod clocks;
mod cut_off;
mod emptied;
mod faults;
mod full;
mod latency;
mod leaving;
mod listener;
mod lists;
mod metrics;
mod removals;
mod restored;
mod rewound;
mod slow;
mod starting;
mod talker;
mod together;
mod tokens;
mod upgrade;
mod versions;
mod wire;

use tokio::sync::{Mutex, MutexGuard};

static MACHINE: Mutex<()> = Mutex::const_new(());

/// Waits until no other scenario runs.
async fn machine() -> MutexGuard<'static, ()> {
    MACHINE.lock().await
}
