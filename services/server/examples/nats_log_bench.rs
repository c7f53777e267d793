//! Measures the JetStream log: `cargo run --release -p tertulia-server --example nats_log_bench -- --urls URLS`.
//!
//! Prints durable messages a second by messages per append, all in one group and each in a group of its own; then many shards at once;
//! then reads of a page at any place, takeovers, and first heads. `tests/tools/nats-servers 3` starts servers to measure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use tertulia_protocol::{GroupName, UserName};
use tertulia_server::log::nats::{Config, Nats};
use tertulia_server::log::{Batch, Log, PageLimit, Range, Record, Retention};

#[derive(Debug, Parser)]
struct Arguments {
    /// The servers, separated by commas.
    #[arg(long)]
    urls: String,
    /// Servers that keep a copy.
    #[arg(long, default_value_t = 1)]
    replicas: u16,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
}

/// Bytes of a message's text.
const TEXT: usize = 200;
const SHARDS: u16 = 64;

#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn show(&mut self) -> String {
        self.0.sort_unstable();
        let at = |quantile: f64| {
            let index = ((self.0.len() as f64 * quantile) as usize).min(self.0.len().saturating_sub(1));
            self.0.get(index).copied().unwrap_or_default().as_secs_f64() * 1e3
        };
        format!("p50 {:.2} ms, p99 {:.2} ms, worst {:.1} ms", at(0.5), at(0.99), at(1.0))
    }
}

/// A group and its newest `seq`.
struct Group {
    name: GroupName,
    head: u64,
}

struct Maker {
    sender: UserName,
    text: Arc<str>,
}

impl Maker {
    fn batch(&self, group: &mut Group, count: u64) -> Arc<Batch> {
        let record = |seq| Record {
            seq,
            at: 1_700_000_000_000,
            sender: self.sender.clone(),
            id: None,
            message: Arc::clone(&self.text),
        };
        let records = (group.head + 1..=group.head + count).map(record).collect();
        group.head += count;
        Arc::new(Batch { group: group.name.clone(), epoch: 1, records })
    }
}

/// Appends one batch after the other; answers messages a second and the times.
async fn appends(
    log: &Nats,
    shard: u16,
    maker: &Maker,
    groups: &mut [Group],
    each: u64,
    limit: Duration,
) -> Result<(f64, Times)> {
    let (begun, mut times, mut messages) = (Instant::now(), Times::default(), 0);
    while begun.elapsed() < limit {
        let batches = groups.iter_mut().map(|group| maker.batch(group, each)).collect();
        let started = Instant::now();
        log.append(shard, batches).await?;
        times.0.push(started.elapsed());
        messages += each * groups.len() as u64;
    }
    Ok((messages as f64 / begun.elapsed().as_secs_f64(), times))
}

fn groups(label: &str, count: u64) -> Result<Vec<Group>> {
    let group = |index| Ok(Group { name: GroupName::new(&format!("{label} {index}"))?, head: 0 });
    (0..count).map(group).collect()
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let prefix = format!("bench-{}", std::process::id());
    let config = Config {
        urls: arguments.urls,
        replicas: arguments.replicas,
        prefix,
        timeout: Duration::from_secs(10),
        ..Config::default()
    };
    let everything = Retention { messages: 0, bytes: 0, age: Duration::ZERO };
    let log = Nats::open(&config, &everything.clone().into(), SHARDS, "bench").await.context("open the log")?;
    let limit = Duration::from_secs(arguments.seconds);
    let maker = Maker { sender: UserName::new("ada")?, text: "x".repeat(TEXT).into() };

    let begun = Instant::now();
    for shard in 0..SHARDS {
        log.take_over(shard).await?;
    }
    println!(
        "takeover of a shard, one after the other: {:.2} ms",
        begun.elapsed().as_secs_f64() * 1e3 / f64::from(SHARDS)
    );

    for size in [1, 16, 256, 1_000] {
        let mut one = groups(&format!("one of {size}"), 1)?;
        let (rate, mut times) = appends(&log, 0, &maker, &mut one, size, limit).await?;
        println!("{size:5} a batch, in one group:     {rate:9.0} messages/s, {}", times.show());
    }
    for size in [16, 256, 1_000] {
        let mut many = groups(&format!("many of {size}"), size)?;
        let (rate, mut times) = appends(&log, 1, &maker, &mut many, 1, limit).await?;
        println!("{size:5} a batch, a group for each: {rate:9.0} messages/s, {}", times.show());
    }
    for (shards, size) in [(16, 1), (64, 1), (16, 64)] {
        let writers = (0..shards).map(|shard| {
            let (log, maker) = (log.clone(), Maker { sender: maker.sender.clone(), text: Arc::clone(&maker.text) });
            tokio::spawn(async move {
                let mut one = groups(&format!("{shards} shards of {size}, {shard}"), 1)?;
                appends(&log, shard, &maker, &mut one, size, limit).await
            })
        });
        let (mut sum, mut times) = (0.0, Times::default());
        for writer in writers.collect::<Vec<_>>() {
            let (rate, mut more) = writer.await??;
            sum += rate;
            times.0.append(&mut more.0);
        }
        println!("{shards:3} shards at once, {size:3} a batch:   {sum:9.0} messages/s, {}", times.show());
    }

    reads(&log, &maker, limit).await?;
    log.close().await;

    let again = Nats::open(&config, &everything.clone().into(), SHARDS, "bench").await.context("open the log again")?;
    again.take_over(1).await?;
    let mut times = Times::default();
    for group in groups("many of 1000", 1_000)? {
        let started = Instant::now();
        again.head(1, &group.name).await?.context("the group is known")?;
        times.0.push(started.elapsed());
    }
    println!("first head of a group after a takeover: {}", times.show());
    let name = GroupName::new("history 0")?;
    again.take_over(3).await?;
    let mut times = Times::default();
    for round in 0..200 {
        let started = Instant::now();
        page(&again, &name, Range::After(round * 7_919 % 99_000)).await?;
        times.0.push(started.elapsed());
    }
    println!("page of 50 at any place, first reads after a takeover: {}", times.show());
    again.close().await;
    Ok(())
}

async fn page(log: &Nats, name: &GroupName, range: Range) -> Result<usize> {
    let page = log.read(3, name, range, PageLimit { records: 50, bytes: 1024 * 1024 }).await?;
    Ok(page.context("the group is known")?.records.len())
}

async fn reads(log: &Nats, maker: &Maker, limit: Duration) -> Result<()> {
    // Small appends of three messages, and others in between, as of a group that talks.
    let (mut history, mut others) = (groups("history", 1)?, groups("others", 1)?);
    while history.first().is_some_and(|group| group.head < 100_000) {
        let batches = history.iter_mut().chain(&mut others).flat_map(|group| [maker.batch(group, 20)]).collect();
        log.append(3, batches).await?;
    }
    let name = GroupName::new("history 0")?;
    let (begun, mut times, mut seed) = (Instant::now(), Times::default(), 7_u64);
    while begun.elapsed() < limit {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let started = Instant::now();
        page(log, &name, Range::After((seed >> 33) % 99_000)).await?;
        times.0.push(started.elapsed());
    }
    println!("page of 50 at any place of 100,000: {}", times.show());
    let mut times = Times::default();
    for _ in 0..500 {
        let started = Instant::now();
        page(log, &name, Range::Before(u64::MAX)).await?;
        times.0.push(started.elapsed());
    }
    println!("page of the newest 50: {}", times.show());
    let (begun, mut after) = (Instant::now(), 0);
    while after < 100_000 {
        let limit = PageLimit { records: 1_000, bytes: 1024 * 1024 };
        let page = log.read(3, &name, Range::After(after), limit).await?.context("the group is known")?;
        after = page.records.last().context("there is more")?.seq;
    }
    println!("reading all, page by page of 1,000: {:.0} messages/s", 100_000.0 / begun.elapsed().as_secs_f64());
    Ok(())
}
