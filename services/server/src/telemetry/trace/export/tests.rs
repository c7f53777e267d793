use std::sync::Mutex;
use std::time::Instant;

use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use tokio::time;

use super::*;
use crate::telemetry::trace::Tracer;
use crate::telemetry::trace::tests::tracer;

/// What a collector does with a batch.
#[derive(Debug, Clone, Copy)]
enum Does {
    Take,
    Refuse,
    Nothing,
}

#[derive(Debug, Clone)]
struct Collector {
    does: Arc<Mutex<Does>>,
    batches: Arc<Mutex<Vec<usize>>>,
}

impl SpanExporter for Collector {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let does = *self.does.lock().unwrap();
        match does {
            Does::Take => self.batches.lock().unwrap().push(batch.len()),
            Does::Refuse => return Err(OTelSdkError::InternalFailure("no".to_owned())),
            Does::Nothing => std::future::pending().await,
        }
        Ok(())
    }
}

struct World {
    tracer: Tracer,
    collector: Collector,
    exporting: Exporting,
}

impl World {
    fn new(does: Does, queue: usize) -> Self {
        let (tracer, spans) = tracer(1_000, queue);
        let collector = Collector { does: Arc::new(Mutex::new(does)), batches: Arc::default() };
        let seconds = Duration::from_secs;
        let pace = Pace { queue, batch: 4, delay: seconds(5), timeout: seconds(30) };
        let sending = Sending { exporter: collector.clone(), spans, pace, metrics: Metrics::new(), fails: false };
        let stop = CancellationToken::new();
        let task = Some(tokio::spawn(sending.run(stop.clone())));
        Self { tracer, collector, exporting: Exporting { stop, task } }
    }

    /// Finishes two spans.
    fn trace(&self) {
        let caller = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        self.tracer.post(Some(caller), Instant::now(), 1).unwrap().refused_at_once("closed");
    }

    fn batches(&self) -> Vec<usize> {
        self.collector.batches.lock().unwrap().clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_goes_when_it_is_full_or_its_time_has_come() {
    let world = World::new(Does::Take, 100);
    world.trace();
    time::sleep(Duration::from_secs(4)).await;
    assert_eq!(world.batches(), [0; 0]);
    time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.batches(), [2]);
    for _ in 0..5 {
        world.trace();
    }
    time::sleep(Duration::from_millis(1)).await;
    assert_eq!(world.batches(), [2, 4, 4]);
    time::sleep(Duration::from_secs(6)).await;
    assert_eq!(world.batches(), [2, 4, 4, 2]);
}

#[tokio::test(start_paused = true)]
async fn what_waits_at_the_end_is_sent() {
    let world = World::new(Does::Take, 100);
    for _ in 0..3 {
        world.trace();
    }
    let batches = Arc::clone(&world.collector.batches);
    world.exporting.stop(Duration::from_secs(2)).await;
    assert_eq!(batches.lock().unwrap().iter().sum::<usize>(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_refuses_loses_only_what_it_refused() {
    let world = World::new(Does::Refuse, 100);
    world.trace();
    time::sleep(Duration::from_secs(6)).await;
    *world.collector.does.lock().unwrap() = Does::Take;
    world.trace();
    time::sleep(Duration::from_secs(6)).await;
    assert_eq!(world.batches(), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_does_not_answer_is_not_waited_for() {
    let world = World::new(Does::Nothing, 4);
    let began = time::Instant::now();
    for _ in 0..100 {
        world.trace();
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    time::sleep(Duration::from_secs(1)).await;
    world.exporting.stop(Duration::from_secs(2)).await;
    assert_eq!(began.elapsed(), Duration::from_secs(3));
}

#[tokio::test]
async fn off_is_off() {
    let none = |_: &str| None;
    let disabled = |name: &str| (name == "OTEL_SDK_DISABLED").then(|| "true".to_owned());
    let on = Traces { enabled: true, ..Traces::default() };
    for (config, environment) in [(Traces::default(), &none as Environment<'_>), (on.clone(), &disabled)] {
        let (tracer, exporting) = start(&config, environment).unwrap();
        assert!(tracer.0.is_none() && exporting.task.is_none());
        exporting.stop(Duration::ZERO).await;
    }
    let (tracer, exporting) = start(&on, &none).unwrap();
    assert!(tracer.0.is_some());
    exporting.stop(Duration::from_secs(2)).await;
}

#[test]
fn variables_win_over_what_the_server_knows_of_itself() {
    let ours = resource(&|_| None);
    let get = |resource: &Resource, key: &'static str| resource.get(&key.into()).map(|value| value.to_string());
    assert_eq!(get(&ours, "service.name"), Some("tertulia".to_owned()));
    assert_eq!(get(&ours, "service.version"), Some(build::VERSION.to_owned()));
    assert_ne!(get(&ours, "service.instance.id"), get(&resource(&|_| None), "service.instance.id"));
    let named = resource(&|name| (name == "OTEL_SERVICE_NAME").then(|| "chat".to_owned()));
    assert_eq!(get(&named, "service.name"), Some("chat".to_owned()));
}
