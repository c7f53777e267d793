//! The second table of `docs/metrics.md` is written by hand: it says what a node on NATS has beside the metrics of the generated one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::ServerOptions;
use harness::cluster::Cluster;
use harness::metrics::get;

use crate::machine;

const END: &str = "<!-- end of the generated table -->";

/// Name, type and meaning of each metric of a scrape.
fn told(scrape: &str) -> BTreeMap<&str, (&str, &str)> {
    let mut told: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for line in scrape.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            told.entry(name).or_default().1 = help;
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            told.entry(name).or_default().0 = kind;
        }
    }
    told
}

/// Name, type and meaning of each row.
fn rows(table: &str) -> BTreeMap<&str, (&str, &str)> {
    let row = |line| -> Option<(&str, (&str, &str))> {
        let cells: Vec<&str> = str::split(line, " | ").collect();
        let [name, kind, .., meaning] = cells[..] else { return None };
        Some((name.strip_prefix("| `")?.strip_suffix('`')?, (kind, meaning.strip_suffix(" |")?)))
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
    for (name, (kind, help)) in &told {
        let (written_kind, meaning) = by_hand[name];
        ensure!(written_kind == *kind, "{name} is a {kind}");
        // The page may say more.
        ensure!(meaning.starts_with(help), "{name}: {help}");
    }
    Ok(())
}
