//! Measures the embedded log beside the bare disk: `cargo run --release -p tertulia-server --example log_bench -- --dir DIR`.
//!
//! Prints durable messages a second by messages per append, next to an append of the same bytes and an fdatasync on a
//! preallocated file, in turns; then how many concurrent posters share an fsync; then a sustained
//! run in which the applier must keep up; then reads and a start.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use redb::{Database, TableDefinition};
use tertulia_protocol::{GroupName, UserName};
use tertulia_server::log::{Batch, Config, Log, PageLimit, Range, Record, Retention, embedded};

#[derive(Debug, Parser)]
struct Arguments {
    /// An empty directory on the disk to measure.
    #[arg(long)]
    dir: PathBuf,
    /// Seconds of each measurement by batch size.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Seconds of the sustained runs; 0 for none.
    #[arg(long, default_value_t = 60)]
    sustained: u64,
    /// Messages a second of the paced sustained run.
    #[arg(long, default_value_t = 100_000)]
    pace: u64,
    /// Only open the log that is there, tell how long it took, and read.
    #[arg(long)]
    start_only: bool,
    /// Groups on disk for the measurement of the start; 0 for none.
    #[arg(long, default_value_t = 1_000_000)]
    groups: u64,
    /// Messages kept of each group; retention then removes while others are appended.
    #[arg(long, default_value_t = 10_000)]
    keep: u64,
    /// Only many posters, beside the bare disk and redb.
    #[arg(long)]
    posters_only: bool,
    /// Only make the groups, and leave them there.
    #[arg(long)]
    groups_only: bool,
}

/// Bytes of a message's text.
const TEXT: usize = 200;
/// Bytes that a message takes in the commit log.
const STORED: usize = TEXT + 21;

fn batch(group: &GroupName, first: u64, count: u64, text: &Arc<str>, sender: &UserName) -> Arc<Batch> {
    let record =
        |seq| Record { seq, at: 1_700_000_000_000, sender: sender.clone(), id: None, message: Arc::clone(text) };
    Arc::new(Batch { group: group.clone(), epoch: 1, records: (first..first + count).map(record).collect() })
}

/// Latencies, sorted when asked.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn at(&mut self, quantile: f64) -> Duration {
        self.0.sort_unstable();
        let index = ((self.0.len() as f64 * quantile) as usize).min(self.0.len().saturating_sub(1));
        self.0.get(index).copied().unwrap_or_default()
    }
}

/// Appends of `bytes` to a preallocated file, each with an fdatasync, for some time.
fn raw(path: &Path, bytes: usize, time: Duration, times: &mut Times) -> Result<u64> {
    const SIZE: usize = 64 * 1024 * 1024;
    let file: File = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
    if file.metadata()?.len() < SIZE as u64 {
        file.write_all_at(&vec![0; SIZE], 0)?;
        file.sync_all()?;
    }
    let content: Vec<u8> = (0..bytes).map(|n| n as u8).collect();
    let (mut offset, mut appends) = (0, 0);
    let begun = Instant::now();
    while begun.elapsed() < time {
        let each = Instant::now();
        if offset + bytes > SIZE {
            offset = 0;
        }
        file.write_all_at(&content, offset as u64)?;
        file.sync_data()?;
        offset += bytes;
        appends += 1;
        times.0.push(each.elapsed());
    }
    Ok(appends)
}

/// Transactions of `count` messages each of redb alone, every one durable when it is committed: messages a second.
fn redb_alone(path: &Path, count: u64, time: Duration) -> Result<f64> {
    const MESSAGES: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("messages");
    let database = Database::create(path)?;
    let (mut stored, text) = (0, vec![b'x'; STORED]);
    let begun = Instant::now();
    while begun.elapsed() < time {
        let transaction = database.begin_write()?;
        {
            let mut table = transaction.open_table(MESSAGES)?;
            // As with the log, each poster has a group of its own.
            for poster in 0..count {
                table.insert((poster, stored / count), text.as_slice())?;
            }
        }
        transaction.commit()?;
        stored += count;
    }
    let rate = stored as f64 / begun.elapsed().as_secs_f64();
    drop(database);
    fs::remove_file(path)?;
    Ok(rate)
}

/// Posters that wait for each message's acknowledgement, beside what the bare disk and redb do with as many messages at once.
async fn posters(arguments: &Arguments, config: &Config) -> Result<()> {
    let time = Duration::from_secs(arguments.seconds);
    let log = embedded::open(config)?;
    for writers in [1, 10, 100, 1000] {
        let crowd = crowd(&log, &format!("c{writers}"), writers, 1, 1, None, time).await?;
        let mut times = Times::default();
        raw(&arguments.dir.join("raw"), writers as usize * STORED, time, &mut times)?;
        let bare = times.0.len() as f64 * writers as f64 / times.0.iter().sum::<Duration>().as_secs_f64();
        let redb = redb_alone(&arguments.dir.join("alone.redb"), writers, time)?;
        print(&format!("{writers} concurrent, 1 message each"), crowd);
        println!("{:>44} | {bare:>9.0} msg/s | redb alone {redb:>9.0} msg/s", "bare disk, as many an fdatasync");
    }
    log.close().await;
    Ok(())
}

async fn by_batch_size(arguments: &Arguments, config: &Config, what: &str, with_raw: bool) -> Result<()> {
    const TURN: Duration = Duration::from_millis(100);
    let (text, sender): (Arc<str>, _) = ("x".repeat(TEXT).into(), UserName::new("ada")?);
    let path = arguments.dir.join("raw");
    println!("{what}");
    for count in [1, 16, 256, 4096] {
        let log = embedded::open(config)?;
        let (mut raw_times, mut log_times) = (Times::default(), Times::default());
        let groups: Vec<GroupName> =
            (0..100).map(|n| GroupName::new(&format!("{count}/{n}"))).collect::<Result<_, _>>()?;
        // In turns, so that whatever else uses the disk meets both. Only the appends themselves are counted.
        let mut rounds = 0;
        let mut next = vec![1; groups.len()];
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2 * arguments.seconds) {
            if with_raw {
                raw(&path, count as usize * STORED, TURN, &mut raw_times)?;
            }
            let turn = Instant::now();
            while turn.elapsed() < TURN {
                let index = rounds % groups.len();
                let batch = batch(&groups[index], next[index], count, &text, &sender);
                let each = Instant::now();
                log.append(0, vec![batch]).await?;
                log_times.0.push(each.elapsed());
                next[index] += count;
                rounds += 1;
            }
        }
        log.close().await;
        let rate = |times: &Times| times.0.len() as f64 * count as f64 / times.0.iter().sum::<Duration>().as_secs_f64();
        let (raw_rate, log_rate) = (rate(&raw_times), rate(&log_times));
        let compared = match with_raw {
            true => format!("raw {raw_rate:>9.0} msg/s, p50 {:>5} us", raw_times.at(0.5).as_micros()),
            false => String::new(),
        };
        println!(
            "{count:>5} a time | log {log_rate:>9.0} msg/s, p50 {:>5} us, p99 {:>6} us, worst {:>6} us | {compared} | {:.0}%",
            log_times.at(0.5).as_micros(),
            log_times.at(0.99).as_micros(),
            log_times.at(1.0).as_micros(),
            100.0 * log_rate / raw_rate,
        );
        drop(log);
        fs::remove_dir_all(&config.data_dir)?;
    }
    Ok(())
}

/// What a crowd of writers did.
struct Crowd {
    messages: u64,
    seconds: f64,
    times: Times,
    over: usize,
}

/// `writers` tasks, each with its own groups, append `count` messages at a time; together at most `pace` messages a second.
async fn crowd(
    log: &Arc<embedded::Embedded>,
    label: &str,
    writers: u64,
    groups_each: u64,
    count: u64,
    pace: Option<u64>,
    time: Duration,
) -> Result<Crowd> {
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for writer in 0..writers {
        let (log, stop, sent) = (Arc::clone(log), Arc::clone(&stop), Arc::clone(&sent));
        let label = label.to_owned();
        tasks.push(tokio::spawn(async move {
            let (text, sender): (Arc<str>, _) = ("x".repeat(TEXT).into(), UserName::new("ada")?);
            let names = (0..groups_each).map(|n| GroupName::new(&format!("{label}/{writer}/{n}")));
            let names: Vec<GroupName> = names.collect::<Result<_, _>>()?;
            let mut next = vec![1; names.len()];
            let mut times = Times::default();
            let mut index = 0;
            while !stop.load(Ordering::Relaxed) {
                let number = sent.fetch_add(count, Ordering::Relaxed);
                if let Some(pace) = pace {
                    let due = begun + Duration::from_secs_f64(number as f64 / pace as f64);
                    tokio::time::sleep_until(due.into()).await;
                }
                let batch = batch(&names[index], next[index], count, &text, &sender);
                let each = Instant::now();
                log.append(writer as u16, vec![batch]).await?;
                times.0.push(each.elapsed());
                next[index] += count;
                index = (index + 1) % names.len();
            }
            anyhow::Ok(times)
        }));
    }
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let mut all = Times::default();
    for task in tasks {
        all.0.append(&mut task.await??.0);
    }
    let over = all.0.iter().filter(|time| **time > Duration::from_millis(100)).count();
    Ok(Crowd { messages: all.0.len() as u64 * count, seconds: begun.elapsed().as_secs_f64(), times: all, over })
}

fn print(what: &str, mut crowd: Crowd) {
    println!(
        "{what:>44} | {:>9.0} msg/s | p50 {:>7} us | p99 {:>7} us | worst {:>8} us | {} appends over 100 ms",
        crowd.messages as f64 / crowd.seconds,
        crowd.times.at(0.5).as_micros(),
        crowd.times.at(0.99).as_micros(),
        crowd.times.at(1.0).as_micros(),
        crowd.over,
    );
}

async fn many(log: &Arc<embedded::Embedded>, groups: u64) -> Result<()> {
    let (text, sender): (Arc<str>, _) = ("hello".into(), UserName::new("ada")?);
    for first in (0..groups).step_by(1000) {
        let mut batches = Vec::new();
        for n in first..(first + 1000).min(groups) {
            batches.push(batch(&GroupName::new(&format!("many/{n:08}"))?, 1, 1, &text, &sender));
        }
        log.append(0, batches).await?;
    }
    Ok(())
}

fn resident() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("read the memory of this process")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS")).context("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).context("no number")?.parse::<u64>()? / 1024)
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    fs::create_dir_all(&arguments.dir)?;
    if arguments.start_only {
        let config = Config { data_dir: arguments.dir.join("data"), ..Config::default() };
        return start_and_read(&config).await;
    }
    if fs::read_dir(&arguments.dir)?.next().is_some() {
        bail!("{} is not empty", arguments.dir.display());
    }
    let retention = Retention { messages: arguments.keep, ..Retention::default() };
    let config = Config { data_dir: arguments.dir.join("data"), retention, ..Config::default() };
    if arguments.posters_only {
        return posters(&arguments, &config).await;
    }
    if arguments.groups_only {
        let log = embedded::open(&config)?;
        many(&log, arguments.groups).await?;
        log.close().await;
        return Ok(());
    }
    let alone = Config {
        apply_records: usize::MAX,
        apply_interval: Duration::from_secs(3600),
        unapplied_bytes: 8 << 30,
        ..config.clone()
    };
    by_batch_size(&arguments, &alone, "the commit log alone (the applier waits)", true).await?;
    by_batch_size(&arguments, &config, "as configured by default (the applier works)", false).await?;

    posters(&arguments, &config).await?;
    let log = embedded::open(&config)?;
    if arguments.sustained > 0 {
        let time = Duration::from_secs(arguments.sustained);
        let paced = crowd(&log, "paced", 64, 16, 16, Some(arguments.pace), time).await?;
        print(&format!("sustained at {}, 1,024 groups", arguments.pace), paced);
        let most = crowd(&log, "most", 64, 16, 16, None, time).await?;
        print("sustained at most, 1,024 groups", most);
    }
    many(&log, arguments.groups).await?;
    let begun = Instant::now();
    log.close().await;
    println!("close: {:?}", begun.elapsed());
    drop(log);

    // A process of its own, whose memory is that of the start alone.
    let mut again = std::process::Command::new(std::env::current_exe()?);
    if !again.arg("--dir").arg(&arguments.dir).arg("--start-only").status()?.success() {
        bail!("the start failed");
    }
    Ok(())
}

async fn start_and_read(config: &Config) -> Result<()> {
    let begun = Instant::now();
    let log = embedded::open(config)?;
    println!("start with {} groups: {:?}, {} MiB resident", log.stats().groups, begun.elapsed(), resident()?);
    let begun = Instant::now();
    let limit = PageLimit { records: 50, bytes: usize::MAX };
    let (mut read, mut pages) = (0, 0);
    'groups: for writer in 0..64 {
        for n in 0..16 {
            let group = GroupName::new(&format!("paced/{writer}/{n}"))?;
            let mut after = 0;
            while let Some(page) = log.read(0, &group, Range::After(after), limit).await? {
                let Some(last) = page.records.last() else { break };
                after = last.seq;
                read += page.records.len();
                pages += 1;
                if begun.elapsed() > Duration::from_secs(5) {
                    break 'groups;
                }
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "catch-up by pages of 50: {:.0} messages/s, {:.0} pages/s",
        read as f64 / seconds,
        f64::from(pages) / seconds
    );
    println!("bytes on disk: {}", log.stats().bytes);
    log.close().await;
    Ok(())
}
