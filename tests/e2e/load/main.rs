//! What many clients, or bad ones, do to a real server.
//!
//! These scenarios measure, or need most of the machine, so each has it for itself.

mod flood;
mod garbage;
mod latency;
mod replay;
mod slow;
mod storm;

use tokio::sync::{Mutex, MutexGuard};

static MACHINE: Mutex<()> = Mutex::const_new(());

/// Waits until no other scenario runs, and allows this process as many connections as the system does.
async fn machine() -> MutexGuard<'static, ()> {
    harness::process::raise_descriptor_limit();
    MACHINE.lock().await
}
