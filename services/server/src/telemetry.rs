//! What the server tells of itself: its log, its metrics and its traces.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub mod config;
pub mod levels;
mod logs;
mod marks;
mod metrics;
mod panics;
mod prometheus;
pub mod trace;

pub use config::Config;
pub use logs::Written;
pub use prometheus::{Buckets, LATENCY_SECONDS, POWERS_OF_FOUR};

use levels::Levels;
use prometheus::Exporter;

/// Why the server cannot tell of itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The levels of the log are not understood.
    #[error("cannot read telemetry.log_level: {cause}")]
    Levels {
        /// What is wrong with them.
        cause: tracing_subscriber::filter::ParseError,
    },
    /// The log of this process was set up before.
    #[error("cannot set up the log: {cause}")]
    Log {
        /// What stands in the way.
        cause: tracing_subscriber::util::TryInitError,
    },
    /// The bounds of a histogram are not accepted.
    #[error("cannot set the buckets of {metric}: {cause}")]
    Buckets {
        /// Whose.
        metric: String,
        /// Why not.
        cause: metrics_exporter_prometheus::BuildError,
    },
    /// The metrics of this process were set up before.
    #[error("cannot set up the metrics: {cause}")]
    Recorder {
        /// What stands in the way.
        cause: String,
    },
}

/// The metrics of this process; cheap to clone.
#[derive(Debug, Clone)]
pub struct Telemetry {
    exporter: Exporter,
    lost: logs::Lost,
    levels: Levels,
}

/// Sets up the log and the metrics of this process, and what becomes of panics: once, before any part runs. What was logged is written out when the
/// second value is dropped, if stderr takes it.
///
/// # Errors
/// They were set up before, or `buckets` are not acceptable.
pub fn init(config: &Config, buckets: &[Buckets]) -> Result<(Telemetry, Written), Error> {
    let (lost, levels, written, waiter) = logs::init(config)?;
    let exporter = prometheus::install(buckets)?;
    panics::init(move || {
        waiter.waits(panics::PATIENCE);
    });
    Ok((Telemetry { exporter, lost, levels }, written))
}

impl Telemetry {
    /// All metrics in the text format of Prometheus, the process's own up to date.
    #[must_use]
    pub fn render(&self) -> String {
        self.lost.observe();
        self.exporter.render()
    }

    /// The levels of the log.
    #[must_use]
    pub fn levels(&self) -> Levels {
        self.levels.clone()
    }

    /// Keeps the memory that histograms use between two renderings within bounds, and ends changes of the log's levels, until `shutdown`.
    pub fn spawn_upkeep(&self, tracker: &TaskTracker, shutdown: CancellationToken) {
        tracker.spawn(self.levels.clone().keep(shutdown.clone()));
        let exporter = self.exporter.clone();
        tracker.spawn(async move { shutdown.run_until_cancelled(exporter.upkeep()).await });
    }
}
