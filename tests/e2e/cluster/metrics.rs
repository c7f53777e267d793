//! The second table of `docs/metrics.md` is written by hand: it says what a node on NATS has beside the metrics of the generated one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::ServerOptions;
use harness::cluster::{AGREEING, Cluster};
use harness::deadline::poll_until;
use harness::metrics::{Metrics, get};

use crate::machine;

const END: &str = "<!-- end of the generated table -->";

/// What is said of a metric.
#[derive(Debug, Default)]
struct Said<'a> {
    kind: &'a str,
    meaning: &'a str,
    /// Its labels, with the values that a scrape has.
    labels: BTreeMap<&'a str, BTreeSet<&'a str>>,
}

/// Each metric of a scrape.
fn told(scrape: &str) -> BTreeMap<&str, Said<'_>> {
    let mut told: BTreeMap<&str, Said<'_>> = BTreeMap::new();
    for line in scrape.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            told.entry(name).or_default().meaning = help;
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            told.entry(name).or_default().kind = kind;
        } else if let Some((name, (labels, _))) =
            line.split_once('{').and_then(|(name, rest)| Some((name, rest.rsplit_once('}')?)))
        {
            // Those of a histogram are in the lines of its buckets.
            let said = told.entry(name.strip_suffix("_bucket").unwrap_or(name)).or_default();
            for (label, value) in labels.split(',').filter_map(|label| label.split_once('=')) {
                said.labels.entry(label).or_default().insert(value.trim_matches('"'));
            }
            said.labels.remove("le");
        }
    }
    told.retain(|_, said| !said.kind.is_empty());
    told
}

/// Each row of the table.
fn rows(table: &str) -> BTreeMap<&str, Said<'_>> {
    let row = |line| -> Option<(&str, Said<'_>)> {
        let cells: Vec<&str> = str::split(line, " | ").collect();
        let [name, kind, labels, meaning] = cells[..] else { return None };
        let labels = labels.split(", ").map(|label| (label.trim_matches('`'), BTreeSet::new()));
        let labels = labels.filter(|(label, _)| !label.is_empty()).collect();
        let meaning = meaning.strip_suffix(" |")?;
        Some((name.strip_prefix("| `")?.strip_suffix('`')?, Said { kind, meaning, labels }))
    };
    table.lines().filter_map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_page_says_of_nodes_on_nats_is_what_they_tell() -> Result<()> {
    let _machine = machine().await;
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let page = std::fs::read_to_string(page).context("read docs/metrics.md")?;
    let (generated, by_hand) = page.split_once(END).context("no end of the generated table")?;
    let (generated, by_hand) = (rows(generated), rows(by_hand));
    // The first gives shards to the second: before that it counts none.
    let cluster = Cluster::start(2, 1, ServerOptions::new()).await?;
    let scrape = get(cluster.nodes[0].http(), "/metrics").await?.body;
    let mut told = told(&scrape);
    told.retain(|name, _| !generated.contains_key(name));
    let (said, written) = (told.keys().collect::<BTreeSet<_>>(), by_hand.keys().collect());
    ensure!(said == written, "a node tells {said:?}, the page {written:?}");
    for (name, said) in &told {
        let written = &by_hand[name];
        ensure!(written.kind == said.kind, "{name} is a {}", said.kind);
        // The page may say more.
        ensure!(written.meaning.starts_with(said.meaning), "{name}: {}", said.meaning);
        ensure!(written.labels.keys().eq(said.labels.keys()), "{name} has the labels {:?}", said.labels);
        // Rules and dashboards choose by these values.
        let words: BTreeSet<&str> = written.meaning.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
        for (label, values) in &said.labels {
            ensure!(values.is_subset(&words), "{name}: the page does not name all values of {label}: {values:?}");
        }
    }
    the_bytes_are_those_of_all(&cluster).await
}

/// Each node tells how much all of them hold together.
async fn the_bytes_are_those_of_all(cluster: &Cluster) -> Result<()> {
    poll_until(AGREEING, "both nodes to tell the bytes of all streams", || async {
        let mut told = Vec::new();
        for node in &cluster.nodes {
            let scrape = Metrics::scrape(node.http()).await?;
            ensure!(scrape.sum("tertulia_nats_connected", &[]) == Some(1.0), "a node is connected to NATS");
            told.push(scrape.sum("tertulia_log_bytes", &[]));
        }
        Ok((told[0] != told[1] || told[0] <= Some(0.0)).then(|| format!("{told:?}")))
    })
    .await
}
