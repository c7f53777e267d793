//! The metrics of the process itself: what it was built from, and how its runtime does.

use metrics::{describe_gauge, gauge};
use tokio::runtime::Handle;

use crate::build;

const BUILD_INFO: &str = "tertulia_build_info";
const WORKERS: &str = "tertulia_runtime_workers";
const ALIVE_TASKS: &str = "tertulia_runtime_alive_tasks";
const QUEUED_TASKS: &str = "tertulia_runtime_queued_tasks";

/// Says what each metric means, and what the program was built from.
pub(super) fn describe() {
    describe_gauge!(BUILD_INFO, "Always 1; its labels tell what the program was built from");
    describe_gauge!(WORKERS, "Threads that run the tasks of the server");
    describe_gauge!(ALIVE_TASKS, "Tasks of the server that have not ended");
    describe_gauge!(QUEUED_TASKS, "Tasks that wait in the queue that all threads of the runtime share");
    let labels = [("version", build::VERSION), ("commit", build::COMMIT), ("rustc", build::RUSTC)];
    gauge!(BUILD_INFO, &labels).set(1.0);
}

/// How the runtime does that this is called in; nothing outside of one.
pub(super) fn observe_runtime() {
    let Ok(handle) = Handle::try_current() else { return };
    let runtime = handle.metrics();
    let counts = [
        (WORKERS, runtime.num_workers()),
        (ALIVE_TASKS, runtime.num_alive_tasks()),
        (QUEUED_TASKS, runtime.global_queue_depth()),
    ];
    for (name, count) in counts {
        gauge!(name).set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
    }
}
