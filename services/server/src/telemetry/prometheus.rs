//! Metrics for Prometheus: what records them, and how they are written.

use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use metrics_process::Collector;

use super::{Error, logs, metrics};

/// How often the samples of histograms are folded into their buckets.
const UPKEEP: Duration = Duration::from_secs(5);

/// The bounds of a histogram's buckets.
#[derive(Debug, Clone, Copy)]
pub struct Buckets {
    /// The metric.
    pub metric: &'static str,
    /// Upper bounds, growing.
    pub bounds: &'static [f64],
}

/// Buckets of every metric that ends in `_seconds` and has none of its own: 50 µs to 30 s.
pub const LATENCY_SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0,
];

/// Buckets of every other histogram that has none of its own, for counts and bytes: 1 to 4^13, about 67 million.
pub const POWERS_OF_FOUR: &[f64] = &[
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

/// Writes what was recorded.
#[derive(Debug, Clone)]
pub(super) struct Exporter {
    handle: PrometheusHandle,
    process: Collector,
}

/// Records everything that is measured in this process from now on.
pub(super) fn install(buckets: &[Buckets]) -> Result<Exporter, Error> {
    let recorder = recorder(buckets)?;
    let exporter = Exporter { handle: recorder.handle(), process: Collector::default() };
    ::metrics::set_global_recorder(recorder).map_err(|error| Error::Recorder { cause: error.to_string() })?;
    metrics::describe();
    logs::Lost::describe();
    exporter.process.describe();
    Ok(exporter)
}

fn recorder(buckets: &[Buckets]) -> Result<PrometheusRecorder, Error> {
    let set = |builder: PrometheusBuilder, matcher: Matcher, metric: &str, bounds: &[f64]| {
        builder
            .set_buckets_for_metric(matcher, bounds)
            .map_err(|cause| Error::Buckets { metric: metric.to_owned(), cause })
    };
    // Without bounds a histogram would be written as a summary, which cannot be added up over nodes.
    let builder = PrometheusBuilder::new()
        .set_buckets(POWERS_OF_FOUR)
        .map_err(|cause| Error::Buckets { metric: "every metric".to_owned(), cause })?;
    let mut builder = set(builder, Matcher::Suffix("_seconds".to_owned()), "_seconds", LATENCY_SECONDS)?;
    for Buckets { metric, bounds } in buckets {
        builder = set(builder, Matcher::Full((*metric).to_owned()), metric, bounds)?;
    }
    Ok(builder.build_recorder())
}

impl Exporter {
    pub(super) fn render(&self) -> String {
        self.process.collect();
        metrics::observe_runtime();
        self.handle.render()
    }

    pub(super) async fn upkeep(self) {
        let mut ticks = tokio::time::interval(UPKEEP);
        loop {
            ticks.tick().await;
            self.handle.run_upkeep();
        }
    }
}

#[cfg(test)]
mod tests {
    use ::metrics::{histogram, with_local_recorder};

    use super::*;

    #[test]
    fn histograms_have_buckets_of_their_own_or_by_their_unit() {
        let own = [Buckets { metric: "c_seconds", bounds: &[7.0] }];
        let recorder = recorder(&own).unwrap();
        let exporter = Exporter { handle: recorder.handle(), process: Collector::default() };
        let text = with_local_recorder(&recorder, || {
            metrics::describe();
            exporter.process.describe();
            histogram!("a_seconds").record(0.000_2);
            histogram!("b_posts").record(300.0);
            histogram!("c_seconds").record(1.0);
            exporter.render()
        });
        for line in [
            "# TYPE a_seconds histogram",
            "a_seconds_bucket{le=\"0.0001\"} 0",
            "a_seconds_bucket{le=\"0.00025\"} 1",
            "b_posts_bucket{le=\"256\"} 0",
            "b_posts_bucket{le=\"1024\"} 1",
            "c_seconds_bucket{le=\"7\"} 1",
            "c_seconds_bucket{le=\"+Inf\"} 1",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in:\n{text}");
        }
        assert!(!text.contains("summary"));
    }

    #[test]
    fn a_histogram_without_bounds_is_refused() {
        assert!(matches!(recorder(&[Buckets { metric: "x", bounds: &[] }]), Err(Error::Buckets { .. })));
    }

    #[tokio::test]
    async fn the_process_tells_of_itself() {
        let recorder = recorder(&[]).unwrap();
        let exporter = Exporter { handle: recorder.handle(), process: Collector::default() };
        let text = with_local_recorder(&recorder, || {
            metrics::describe();
            exporter.process.describe();
            exporter.render()
        });
        assert!(text.contains("tertulia_build_info{version=\"") && text.contains("\"} 1\n"), "{text}");
        assert!(text.contains("\ntertulia_runtime_workers 1\n"), "{text}");
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_max_fds",
            "process_start_time_seconds",
        ] {
            assert!(text.contains(&format!("\n{name} ")), "{name} is not in:\n{text}");
        }
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
        }
    }
}
