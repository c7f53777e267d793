//! By whose fault posts are not stored.

use metrics_exporter_prometheus::PrometheusBuilder;

use super::*;

#[tokio::test]
async fn what_the_log_cannot_tell_is_no_fault_of_who_posts() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let world = metrics::with_local_recorder(&recorder, || World::new(Config::default(), BOUNDS));
    let count = |result: &str| {
        let begin = format!("tertulia_posts_total{{result=\"{result}\"}} ");
        let text = recorder.handle().render();
        text.lines().find_map(|line| line.strip_prefix(&begin)).map(str::to_owned)
    };
    let ada = session(1, "ada");
    // The group is not in memory.
    world.mood(UNREADABLE);
    assert!(matches!(world.post(&ada, &["a"]).await[..], [Err(Refusal::Unavailable { .. })]));
    assert_eq!((count("failed"), count("refused")), (Some("1".into()), Some("0".into())));
    world.mood(WELL);
    assert!(matches!(world.post(&ada, &["a"]).await[..], [Err(Refusal::NoSuchGroup(_))]));
    assert_eq!((count("failed"), count("refused")), (Some("1".into()), Some("1".into())));
}
