//! What a run has shown, for people and for programs.

use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::args::Done;
use crate::plan::{Pace, Plan};
use crate::process::Usage;
pub use crate::progress::Sample;
use crate::tally::{Faults, Tally};

/// The results of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The server's address, or those of all servers.
    pub target: String,
    /// What was done.
    pub plan: Plan,
    /// How connections came about.
    pub connecting: Connecting,
    /// How long it was measured.
    pub seconds: f64,
    /// Posts in that time: those that sockets have taken.
    pub posts: u64,
    /// Posts that were due when the measurement ended, and that the server had not taken: they waited here, though the schedule counts them
    /// (open loop).
    pub untaken: u64,
    /// Messages that members got in that time who read all the time.
    pub deliveries: u64,
    /// Messages that the others got: those who read history, come and go, or were slow.
    pub late_deliveries: u64,
    /// Posts a second.
    pub posts_per_second: f64,
    /// Deliveries a second, to all members.
    pub deliveries_per_second: f64,
    /// From when a post was due (open loop) or sent (closed loop) to when a member had it. Only members who read all the time.
    pub latency: Quantiles,
    /// How late sockets took posts after they were due (open loop): what we ourselves add to the latency, or a server that does not take what
    /// it is offered.
    pub lateness: Quantiles,
    /// How long it took to come back, for those who come and go.
    pub rejoins: Option<Quantiles>,
    /// How long it took to read history up to what was new when it was asked for.
    pub catchups: Option<Quantiles>,
    /// How slow members were caught up.
    pub resumed: Option<Resumed>,
    /// What it cost the server, if it could be measured.
    pub server: Option<Cost>,
    /// What it cost what the servers store in, if that could be measured.
    pub store: Option<Cost>,
    /// What it cost us.
    pub own: Own,
    /// Why the run ended before its time, if it did: the results are then of what was seen until then.
    pub failed: Option<String>,
    /// What should not have happened.
    pub faults: Faults,
    /// Once a second, from the first connection on.
    pub samples: Vec<Sample>,
}

/// How connections came about.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Connecting {
    /// Until all had joined.
    pub seconds: f64,
    /// Connections a second, each with its join; none where joins are not answered: then they are opened at a pace of our own.
    pub per_second: Option<f64>,
    /// Microseconds of our own CPU for each.
    pub own_cpu_micros: f64,
}

/// A distribution of times, in microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[allow(missing_docs, reason = "their names say it")]
pub struct Quantiles {
    pub count: u64,
    pub mean: f64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
    pub p99_99: u64,
    pub max: u64,
}

/// What the server used.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Cost {
    /// Seconds of CPU while it was measured.
    pub cpu_seconds: f64,
    /// Cores on average while it was measured.
    pub cores: f64,
    /// Microseconds of CPU per delivery.
    pub cpu_micros_per_delivery: Option<f64>,
    /// Microseconds of CPU per post.
    pub cpu_micros_per_post: Option<f64>,
    /// Microseconds of CPU per connection that came about and joined; none where joins are not answered: then our probes are in it.
    pub cpu_micros_per_connect: Option<f64>,
    /// Resident bytes before the first connection.
    pub rss_before: u64,
    /// Resident bytes when all had joined.
    pub rss_joined: u64,
    /// Resident bytes at the end of the measurement.
    pub rss_after: u64,
    /// The most resident bytes that were seen.
    pub rss_peak: u64,
    /// What a joined connection added.
    pub rss_per_connection: f64,
}

/// What the load generator used while it was measured.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Own {
    /// Seconds of CPU.
    pub cpu_seconds: f64,
    /// Cores on average.
    pub cores: f64,
    /// Microseconds of CPU per delivery.
    pub cpu_micros_per_delivery: Option<f64>,
}

/// How slow members were caught up.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Resumed {
    /// Until they had everything.
    pub seconds: f64,
    /// Messages that they got in that time.
    pub deliveries: u64,
    /// Resident bytes of the server before, if they could be measured.
    pub server_rss_before: Option<u64>,
    /// Resident bytes of the server after, if they could be measured.
    pub server_rss_after: Option<u64>,
}

impl Quantiles {
    fn of(histogram: &Histogram<u32>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            count: histogram.len(),
            mean: histogram.mean(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: histogram.max(),
        }
    }

    fn some(histogram: &Histogram<u32>) -> Option<Self> {
        (!histogram.is_empty()).then(|| Self::of(histogram))
    }
}

fn per(seconds: f64, count: u64) -> Option<f64> {
    (count > 0).then(|| seconds * 1e6 / count as f64)
}

impl Cost {
    /// From what it had used before the first connection, when all had joined, and when the measurement began and ended.
    #[must_use]
    pub fn new(plan: &Plan, usage: [Usage; 4], seconds: f64, posts: u64, deliveries: u64) -> Self {
        let [before, joined, from, to] = usage;
        let cpu = to.cpu - from.cpu;
        let connections = plan.connections as f64;
        Self {
            cpu_seconds: cpu,
            cores: cpu / seconds,
            cpu_micros_per_delivery: per(cpu, deliveries),
            cpu_micros_per_post: per(cpu, posts),
            cpu_micros_per_connect: plan.protocol.tells_joins().then(|| (joined.cpu - before.cpu) * 1e6 / connections),
            rss_before: before.rss,
            rss_joined: joined.rss,
            rss_after: to.rss,
            rss_peak: to.rss,
            rss_per_connection: (joined.rss as f64 - before.rss as f64) / connections,
        }
    }
}

impl Own {
    pub(crate) fn new(cpu: f64, seconds: f64, deliveries: u64) -> Self {
        Self { cpu_seconds: cpu, cores: cpu / seconds, cpu_micros_per_delivery: per(cpu, deliveries) }
    }
}

impl Report {
    /// Adds what the threads have seen.
    pub(crate) fn add(&mut self, tally: Tally) {
        self.latency = Quantiles::of(&tally.latency);
        self.lateness = Quantiles::of(&tally.lateness);
        self.rejoins = Quantiles::some(&tally.rejoins);
        self.catchups = Quantiles::some(&tally.catchups);
        self.faults = tally.faults;
    }
}

/// A number with a thousand's letter.
pub(crate) fn count(number: f64) -> String {
    scaled(number, 1e3, &["", " k", " M", " G"])
}

/// Bytes with a unit.
pub(crate) fn bytes(number: f64) -> String {
    scaled(number, 1024.0, &[" B", " KiB", " MiB", " GiB"])
}

/// Microseconds with a unit.
pub(crate) fn micros(number: f64) -> String {
    scaled(number, 1e3, &[" us", " ms", " s"])
}

fn scaled(number: f64, step: f64, units: &[&str]) -> String {
    let mut value = number;
    let mut units = units.iter().peekable();
    while let Some(unit) = units.next() {
        if value.abs() < step || units.peek().is_none() {
            let digits = match value.abs() {
                value if value < 10.0 => 2,
                value if value < 100.0 => 1,
                _ => 0,
            };
            return format!("{value:.digits$}{unit}");
        }
        value /= step;
    }
    String::new()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, value: String| writeln!(f, "{name:<22} {value}");
        let plan = &self.plan;
        let pace = match plan.pace {
            Pace::None => "nobody posts".to_owned(),
            Pace::Closed(window) => {
                let until = if plan.done == Done::All { "all members" } else { "the poster" };
                format!("{window} posts under way, each until {until} had it")
            }
            Pace::Open(rate) => format!("{rate} posts/s, whatever becomes of them"),
        };
        row("scenario", format!("{:?} over {:?} at {}", plan.scenario, plan.protocol, self.target))?;
        row(
            "groups",
            format!(
                "{} of {} members ({} special), {} posters each",
                plan.groups, plan.members, plan.special, plan.posters
            ),
        )?;
        row("load", format!("{pace}; messages of {} bytes; measured for {:.1} s", plan.size, self.seconds))?;
        let Connecting { seconds, per_second, own_cpu_micros } = self.connecting;
        let rate = per_second.map_or("at a pace of our own".to_owned(), |rate| format!("{}/s", count(rate)));
        row(
            "connect and join",
            format!("{} in {seconds:.2} s: {rate}; own CPU {own_cpu_micros:.1} us each", plan.connections),
        )?;
        if self.posts > 0 {
            row("posts", format!("{} ({}/s)", self.posts, count(self.posts_per_second)))?;
        }
        if self.untaken > 0 {
            row("NOT TAKEN", format!("{} posts that were due, at the end of the measurement", self.untaken))?;
        }
        if self.posts > 0 {
            let all = self.deliveries + self.late_deliveries;
            row("deliveries", format!("{all} ({}/s)", count(self.deliveries_per_second)))?;
            row("latency", self.latency.to_string())?;
        }
        if matches!(plan.pace, Pace::Open(_)) {
            row("sent late by", self.lateness.to_string())?;
        }
        for (name, quantiles) in [("coming back", &self.rejoins), ("history read in", &self.catchups)] {
            if let Some(quantiles) = quantiles {
                row(name, format!("{quantiles} ({} times)", quantiles.count))?;
            }
        }
        if let Some(resumed) = &self.resumed {
            let Resumed { seconds, deliveries, server_rss_before, server_rss_after } = *resumed;
            let server = server_rss_before.zip(server_rss_after).map_or_else(String::new, |(before, after)| {
                format!("; server RSS {} -> {}", bytes(before as f64), bytes(after as f64))
            });
            row("slow ones caught up", format!("{deliveries} messages in {seconds:.2} s{server}"))?;
        }
        for (whose, cost) in [("server", &self.server), ("store", &self.store)] {
            let Some(cost) = cost else { continue };
            let each = |micros: Option<f64>| micros.map_or("-".to_owned(), |micros| format!("{micros:.3} us"));
            let (delivery, post) = (each(cost.cpu_micros_per_delivery), each(cost.cpu_micros_per_post));
            row(&format!("{whose} CPU"), format!("{delivery} per delivery, {post} per post; {:.2} cores", cost.cores))?;
            if let Some(each) = cost.cpu_micros_per_connect {
                row("", format!("{each:.1} us per connect and join"))?;
            }
            let [before, joined, after, peak] =
                [cost.rss_before, cost.rss_joined, cost.rss_after, cost.rss_peak].map(|rss| bytes(rss as f64));
            row(&format!("{whose} RSS"), format!("{before} before, {joined} joined, {after} after, {peak} at most"))?;
            row("", format!("{} per joined connection", bytes(cost.rss_per_connection)))?;
        }
        let own = &self.own;
        let each = own.cpu_micros_per_delivery.map_or("-".to_owned(), |micros| format!("{micros:.3} us"));
        row("own CPU", format!("{each} per delivery; {:.2} cores", own.cores))?;
        if let Some(failed) = &self.failed {
            row("FAILED", format!("{failed}; the figures are of what was seen until then"))?;
        }
        let faults = &self.faults;
        if faults.none() {
            return row("faults", "none: every message came once, in order, unchanged".to_owned());
        }
        row("FAULTS", faults.first.clone().unwrap_or_default())?;
        for (name, number) in [
            ("missing in between", faults.missing),
            ("missing in the end", faults.missing_at_end),
            ("again or too late", faults.repeated),
            ("misnumbered", faults.misnumbered),
            ("changed or foreign", faults.foreign),
            ("in another order", faults.other_order),
            ("told lost", faults.told_lost),
            ("posts not taken", faults.untaken),
            ("bytes not sent", faults.unsent),
            ("history not read", faults.unread),
            ("not come back", faults.away),
            ("unacknowledged", faults.unacknowledged),
            ("refused", faults.refused),
            ("closed by the server", faults.closed),
        ] {
            if number > 0 {
                row("", format!("{name}: {number}"))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p90, p99, p99_9, max] =
            [self.p50, self.p90, self.p99, self.p99_9, self.max].map(|value| micros(value as f64));
        write!(f, "p50 {p50}  p90 {p90}  p99 {p99}  p99.9 {p99_9}  max {max}")
    }
}
