//! One run from its first connection to its results.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use tertulia_tls_client::Security;

use crate::args::{Load, Scenario};
use crate::plan::{Pace, Plan};
use crate::process::{Usage, Watched, own_cpu};
use crate::progress::Watch;
use crate::report::{Connecting, Cost, Own, Quantiles, Report, Resumed};
use crate::shared::{Phase, Shared};
use crate::tally::{Faults, Tally};
use crate::token;
use crate::worker::{Outcome, Worker, has_one_order};

/// Descriptors for what is not a connection of the load.
const OTHER_DESCRIPTORS: u64 = 64;
/// And for each thread: its events, its timer, its waker.
const THREADS_DESCRIPTORS: u64 = 3;

/// Where everything stood at one moment.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    posts: u64,
    untaken: u64,
    deliveries: u64,
    late_deliveries: u64,
    server: Option<Usage>,
    store: Option<Usage>,
    own_cpu: f64,
}

impl Mark {
    /// Of those who are watched, all must tell: without one, results would lack what was asked for.
    fn now(shared: &Shared, watch: &mut Watch<'_>) -> Result<Self> {
        let (server, store) = (watch.usage()?, watch.store()?);
        Ok(Self { server, store, ..Self::last(shared, watch) })
    }

    /// With what those who are watched told last.
    fn last(shared: &Shared, watch: &Watch<'_>) -> Self {
        let lanes = || shared.lanes.iter();
        Self {
            at: Instant::now(),
            posts: lanes().map(|lane| lane.posts.load(Ordering::Relaxed)).sum(),
            untaken: lanes().map(|lane| lane.untaken.load(Ordering::Relaxed)).sum(),
            deliveries: lanes().map(|lane| lane.deliveries.load(Ordering::Relaxed)).sum(),
            late_deliveries: lanes().map(|lane| lane.late_deliveries.load(Ordering::Relaxed)).sum(),
            server: watch.last_usage(),
            store: watch.last_store(),
            own_cpu: own_cpu(),
        }
    }
}

/// Puts the load on the server.
///
/// # Errors
/// If the run cannot be begun. That messages were lost and the like is in the report, and also why the run ended early, if it did.
pub fn run(plan: Plan, load: &Load, watched: &Watched) -> Result<Report> {
    let limit = rlimit::increase_nofile_limit(u64::MAX).context("raise the limit of open files")?;
    let wanted = plan.connections as u64 + OTHER_DESCRIPTORS + u64::from(plan.threads) * THREADS_DESCRIPTORS;
    ensure!(wanted <= limit, "{} connections need {wanted} open files, and the limit is {limit}", plan.connections);
    // While there is one thread: the kernel doubles the table of descriptors whenever it is full otherwise, and has the thread wait for all
    // processors, 10 to 30 ms each time, in which it opens no connections and hears of no messages.
    rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), i32::try_from(wanted)? - 1)
        .context("make room for open files")?;
    for process in watched.server.iter().chain(&watched.store) {
        process.usage()?;
    }
    let target = load.targets.first().context("a load needs a server")?;
    let security = || Security::new(&target.name, load.ca.as_deref(), load.tls_name.as_deref());
    let security = load.tls.then(security).transpose()?;
    let token = load.token_file.as_deref().map(token::read).transpose()?;
    let shared = Arc::new(Shared::new(plan, load, security, token));
    let mut threads = Vec::new();
    let mut watch = Watch::new(&shared, watched, load.quiet);
    watch.heed_interrupts()?;
    let before = Mark::now(&shared, &mut watch)?;
    for thread in 0..shared.lanes.len() {
        let worker = Worker::new(Arc::clone(&shared), thread)?;
        let name = format!("load-{thread}");
        threads.push(std::thread::Builder::new().name(name).spawn(|| worker.run()).context("start a thread")?);
    }
    let course = Course { shared: &shared, watch: &mut watch }.run(before);
    if let Err(error) = &course {
        shared.fail(format!("{error:#}"));
    }
    shared.enter(Phase::Stop);
    let outcomes: Vec<Outcome> = threads.into_iter().filter_map(|thread| thread.join().ok()).collect();
    watch.end_line();
    // Before anything was posted there is nothing to tell but this.
    let mut report = course.map_err(|error| shared.failure().map_or(error, |failure| anyhow!(failure)))?;
    ensure!(outcomes.len() == shared.lanes.len(), "a thread of the load generator has failed");
    report.failed = shared.failure();
    report.add(sum(outcomes, has_one_order(shared.plan.protocol)));
    report.samples = std::mem::take(&mut watch.samples);
    for (cost, peak) in [(&mut report.server, watch.peak_rss), (&mut report.store, watch.peak_store_rss)] {
        if let Some(cost) = cost {
            cost.rss_peak = peak;
        }
    }
    Ok(report)
}

/// Adds up what the threads have seen, and compares the orders in which members saw their group.
fn sum(outcomes: Vec<Outcome>, one_order: bool) -> Tally {
    let mut all = Tally::default();
    let mut orders: HashMap<u32, (u64, u64)> = HashMap::new();
    for outcome in outcomes {
        all.add(outcome.tally);
        for (group, count, order) in outcome.stories {
            // Who misses some is counted as such already.
            let (first_count, first_order) = *orders.entry(group).or_insert((count, order));
            if one_order && first_count == count && first_order != order {
                all.faults.other_order += 1;
                all.faults.say(|| format!("a member saw group {group} in another order than the first member"));
            }
        }
    }
    all
}

/// What is known of a load, as far as it came.
#[derive(Debug, Default)]
struct Stages {
    from: Option<Mark>,
    to: Option<Mark>,
    resumed: Option<Resumed>,
}

/// The phases of a run, as the main thread leads through them.
struct Course<'a, 'b> {
    shared: &'a Shared,
    watch: &'a mut Watch<'b>,
}

impl Course<'_, '_> {
    fn run(mut self, before: Mark) -> Result<Report> {
        self.open()?;
        let joined = Mark::now(self.shared, self.watch)?;
        self.shared.enter(Phase::Load);
        let mut stages = Stages::default();
        if let Err(error) = self.load(&mut stages) {
            // What was seen until then is told.
            self.shared.fail(format!("{error:#}"));
        }
        let here = Mark::last(self.shared, self.watch);
        let (from, to) = (stages.from.unwrap_or(joined), stages.to.unwrap_or(here));
        Ok(self.report(&before, &joined, &from, &to, stages.resumed))
    }

    fn load(&mut self, stages: &mut Stages) -> Result<()> {
        let plan = &self.shared.plan;
        self.pass("warm-up", plan.warmup)?;
        ensure!(!self.watch.is_interrupted(), "interrupted before anything was measured");
        stages.from = Some(Mark::now(self.shared, self.watch)?);
        self.shared.measure_from.store(self.shared.now(), Ordering::Release);
        self.pass("measure", plan.duration)?;
        self.shared.measure_to.store(self.shared.now(), Ordering::Release);
        stages.to = Some(Mark::now(self.shared, self.watch)?);
        self.shared.enter(Phase::Drain);
        self.settle(Phase::Drain, "drain")?;
        if plan.scenario == Scenario::Slow {
            stages.resumed = Some(self.resume()?);
        }
        Ok(())
    }

    /// Opens all connections, and waits until each has joined.
    fn open(&mut self) -> Result<()> {
        let count = self.shared.plan.connections;
        if !self.shared.plan.protocol.tells_joins() {
            self.progress("open", |shared| shared.opened.load(Ordering::Acquire), count)?;
            self.shared.enter(Phase::Probe);
        }
        self.progress("join", |shared| shared.ready.load(Ordering::Acquire), count)
    }

    /// Waits until a number has grown to `count`; not for ever if it does not grow.
    fn progress(&mut self, what: &str, number: impl Fn(&Shared) -> usize, count: usize) -> Result<()> {
        let patience = self.shared.plan.patience;
        loop {
            let seen = number(self.shared);
            if seen >= count {
                return Ok(());
            }
            if !self.watch.wait(what, patience, |shared| number(shared) > seen) {
                self.check()?;
                ensure!(!self.watch.is_interrupted(), "interrupted while connections were opened");
                bail!("{seen} of {count} connections got as far as `{what}` and no other within {patience:?}");
            }
        }
    }

    fn pass(&mut self, what: &str, time: Duration) -> Result<()> {
        self.watch.wait(what, time, |_| false);
        self.check()
    }

    /// Waits for what was posted. If it does not come in time, the check of each member tells what is missing.
    fn settle(&mut self, phase: Phase, what: &str) -> Result<()> {
        self.watch.wait(what, self.shared.plan.patience, |shared| shared.all_settled(phase));
        self.check()
    }

    fn resume(&mut self) -> Result<Resumed> {
        let held = Mark::now(self.shared, self.watch)?;
        self.shared.enter(Phase::Resume);
        self.settle(Phase::Resume, "resume")?;
        let caught_up = Mark::now(self.shared, self.watch)?;
        Ok(Resumed {
            seconds: (caught_up.at - held.at).as_secs_f64(),
            deliveries: caught_up.late_deliveries - held.late_deliveries,
            server_rss_before: held.server.map(|usage| usage.rss),
            server_rss_after: caught_up.server.map(|usage| usage.rss),
        })
    }

    fn check(&self) -> Result<()> {
        self.shared.failure().map_or(Ok(()), |failure| Err(anyhow!(failure)))
    }

    fn report(&self, before: &Mark, joined: &Mark, from: &Mark, to: &Mark, resumed: Option<Resumed>) -> Report {
        let plan = self.shared.plan.clone();
        let seconds = (to.at - from.at).as_secs_f64();
        let (posts, deliveries) = (to.posts - from.posts, to.deliveries - from.deliveries);
        let all_deliveries = deliveries + to.late_deliveries - from.late_deliveries;
        let opening = (joined.at - before.at).as_secs_f64();
        let cost = |of: fn(&Mark) -> Option<Usage>| {
            let usage = [of(before)?, of(joined)?, of(from)?, of(to)?];
            Some(Cost::new(&plan, usage, seconds, posts, all_deliveries))
        };
        let (server, store) = (cost(|mark| mark.server), cost(|mark| mark.store));
        Report {
            target: self.shared.targets.iter().map(|target| target.name.as_str()).collect::<Vec<_>>().join(","),
            connecting: Connecting {
                seconds: opening,
                per_second: plan.protocol.tells_joins().then(|| plan.connections as f64 / opening),
                own_cpu_micros: (joined.own_cpu - before.own_cpu) * 1e6 / plan.connections as f64,
            },
            seconds,
            posts,
            untaken: if matches!(plan.pace, Pace::Open(_)) { to.untaken } else { 0 },
            deliveries,
            late_deliveries: all_deliveries - deliveries,
            posts_per_second: posts as f64 / seconds,
            deliveries_per_second: all_deliveries as f64 / seconds,
            own: Own::new(to.own_cpu - from.own_cpu, seconds, all_deliveries),
            server,
            store,
            resumed,
            plan,
            latency: Quantiles::default(),
            lateness: Quantiles::default(),
            rejoins: None,
            catchups: None,
            failed: None,
            faults: Faults::default(),
            samples: Vec::new(),
        }
    }
}
