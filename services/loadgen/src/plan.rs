//! What a scenario comes to: how many connections of which kind, and how posts are paced.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde::Serialize;

use crate::args::{Dialect, Done, Load, Mode, Scenario, Target};
use crate::driver::Protocol;

/// The lowest rate, a second.
const SLOWEST: f64 = 0.001;

/// What a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Reads, and may post.
    Member,
    /// Posts, and is in no group.
    Outside,
    /// Does not read until it is told to.
    Slow,
    /// Reads history over and over.
    Laggard,
    /// Leaves and comes back.
    Churner,
}

/// How posts are paced.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pace {
    /// Nobody posts.
    None,
    /// So many posts under way.
    Closed(u32),
    /// So many posts a second.
    Open(f64),
}

/// What is going to happen.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "the fields are those of the command line")]
pub struct Plan {
    pub scenario: Scenario,
    pub protocol: Protocol,
    pub groups: u32,
    pub members: u32,
    /// Groups in which each member is besides, and nobody posts.
    pub quiet_groups: u32,
    pub posters: u16,
    /// Posters have connections of their own.
    pub outside: bool,
    /// Members of each group, the last ones, that have the scenario's special role.
    pub special: u32,
    pub pace: Pace,
    pub done: Done,
    pub size: usize,
    pub depth: u64,
    /// Leaves and losses of connections a second.
    pub churn: f64,
    #[serde(serialize_with = "seconds")]
    pub warmup: Duration,
    #[serde(serialize_with = "seconds")]
    pub duration: Duration,
    #[serde(skip)]
    pub patience: Duration,
    pub threads: u16,
    pub connections: usize,
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

/// Of a scenario: groups, members, window, rate (in place of a window), share of special members, seconds.
struct Usual(u32, u32, u32, Option<f64>, f64, u64);

fn usual(scenario: Scenario) -> Usual {
    match scenario {
        Scenario::Fanout => Usual(1, 1_000, 256, None, 0.0, 10),
        Scenario::Groups => Usual(1_000, 10, 256, None, 0.0, 10),
        Scenario::Pairs => Usual(9_500, 2, 256, None, 0.0, 10),
        Scenario::Idle => Usual(1_000, 10, 1, None, 0.0, 5),
        Scenario::Slow => Usual(1, 100, 256, None, 0.1, 10),
        Scenario::Ingest => Usual(1, 1, 512, None, 0.0, 10),
        Scenario::Churn => Usual(100, 20, 64, Some(1_000.0), 0.5, 10),
        Scenario::Catchup => Usual(10, 20, 64, Some(2_000.0), 0.25, 10),
        Scenario::Soak => Usual(100, 10, 64, Some(1_000.0), 0.1, 600),
    }
}

/// A setting that is passed over in silence would be taken for one that was measured.
fn refuse_what_has_no_effect(scenario: Scenario, load: &Load) -> Result<()> {
    use Scenario::{Catchup, Churn, Idle, Slow, Soak};
    let of_others = [
        ("--share", load.share.is_some(), &[Slow, Churn, Catchup, Soak][..]),
        ("--depth", load.depth.is_some(), &[Catchup]),
        ("--churn-rate", load.churn_rate.is_some(), &[Churn, Soak]),
        ("--receive-buffer", load.receive_buffer.is_some(), &[Slow]),
    ];
    for (option, given, scenarios) in of_others {
        let names = || scenarios.iter().map(|scenario| format!("`{scenario:?}`").to_lowercase()).collect::<Vec<_>>();
        ensure!(
            !given || scenarios.contains(&scenario),
            "{option} has no effect in this scenario, only in {}",
            names().join(", ")
        );
    }
    for (option, given) in [("--rate", load.rate.is_some()), ("--window", load.window.is_some())] {
        ensure!(!given || scenario != Idle, "{option} has no effect in `idle`: nobody posts");
    }
    ensure!(
        load.rate.is_none() || load.window.is_none(),
        "--rate is of an open loop and --window of a closed one: give one of them"
    );
    if load.protocol != Target::Tertulia {
        ensure!(load.dialect == Dialect::Classic, "--dialect is tertulia's, and --protocol names another server");
        ensure!(load.token_file.is_none(), "--token-file is for tertulia alone, and --protocol names another server");
        ensure!(!load.tls, "--tls is for tertulia alone, and --protocol names another server");
    }
    ensure!(
        load.token_file.is_none() || load.dialect == Dialect::Extended,
        "--token-file needs --dialect extended: the classic one has no place for a token"
    );
    ensure!(
        load.sources == 0 || load.targets.iter().all(|target| target.address.is_ipv4()),
        "--sources are addresses of IPv4, and a --target is not"
    );
    Ok(())
}

impl Plan {
    /// What the command line asks for.
    ///
    /// # Errors
    /// If its parts do not go together.
    pub fn new(scenario: Scenario, load: &Load) -> Result<Self> {
        let Usual(groups, members, window, rate, share, seconds) = usual(scenario);
        let (groups, members) = (load.groups.unwrap_or(groups), load.members.unwrap_or(members));
        let protocol = load.wire();
        let share = load.share.unwrap_or(share);
        ensure!((0.0..=1.0).contains(&share), "--share must be between 0 and 1");
        let has_special = matches!(scenario, Scenario::Slow | Scenario::Churn | Scenario::Catchup | Scenario::Soak);
        let special = match has_special && share > 0.0 {
            true => ((f64::from(members) * share).round() as u32).max(1),
            false => 0,
        };
        let outside = scenario == Scenario::Ingest || load.outside_posters && scenario != Scenario::Idle;
        let inside = if outside { 1 } else { u32::from(load.posters) };
        ensure!(
            special + inside <= members,
            "{members} members are too few for {inside} who post or watch and {special} who are slow, lag or come and go"
        );
        if scenario == Scenario::Catchup && !protocol.has_history() {
            bail!("`catchup` needs --dialect extended: only there can a member ask for history");
        }
        let rated = load.rate.or(if load.window.is_none() { rate } else { None });
        let pace = match (load.mode, rated) {
            _ if scenario == Scenario::Idle => Pace::None,
            (Some(Mode::Open), None) => bail!("an open loop needs --rate"),
            (Some(Mode::Closed), Some(_)) if load.rate.is_some() => bail!("a closed loop has no --rate"),
            (Some(Mode::Closed), _) | (None, None) => Pace::Closed(load.window.unwrap_or(window)),
            (_, Some(rate)) => Pace::Open(rate),
        };
        match pace {
            Pace::Open(rate) => ensure!((SLOWEST..=10e6).contains(&rate), "--rate must be {SLOWEST} to 10000000"),
            Pace::Closed(window) => {
                let posting = groups.min(load.threads.into());
                ensure!(window >= posting, "a window of {window} is too small for {posting} --threads that post");
            }
            Pace::None => {}
        }
        let churn = match scenario {
            Scenario::Churn => load.churn_rate.unwrap_or(200.0),
            Scenario::Soak => load.churn_rate.unwrap_or(5.0),
            _ => 0.0,
        };
        ensure!(churn == 0.0 || (SLOWEST..=100e3).contains(&churn), "--churn-rate must be 0, or {SLOWEST} to 100000");
        let duration = load.duration.unwrap_or(Duration::from_secs(seconds));
        ensure!(!duration.is_zero(), "--duration must be above 0: nothing would be measured");
        refuse_what_has_no_effect(scenario, load)?;
        let extra = if outside && pace != Pace::None { u32::from(load.posters) } else { 0 };
        Ok(Self {
            scenario,
            protocol,
            groups,
            members,
            quiet_groups: load.quiet_groups,
            posters: load.posters,
            outside,
            special,
            pace,
            done: load.done,
            size: load.size,
            depth: load.depth.unwrap_or(1_000),
            churn,
            warmup: if scenario == Scenario::Idle { Duration::ZERO } else { load.warmup },
            duration,
            patience: load.patience,
            threads: load.threads,
            connections: groups as usize * (members + extra) as usize,
        })
    }

    /// What the member at `place` of a group does.
    #[must_use]
    pub fn role(&self, place: u32) -> Role {
        match self.scenario {
            _ if place < self.members - self.special => Role::Member,
            Scenario::Slow => Role::Slow,
            Scenario::Catchup => Role::Laggard,
            _ => Role::Churner,
        }
    }

    /// Whether a thread has a member with the scenario's special role.
    #[must_use]
    pub fn has_special(&self, thread: usize) -> bool {
        let places = || self.members - self.special..self.members;
        (0..self.groups).any(|group| places().any(|place| self.thread_of(group, place) == thread))
    }

    /// Which poster of its group the member at `place` is.
    #[must_use]
    pub fn poster(&self, place: u32) -> Option<u16> {
        u16::try_from(place).ok().filter(|place| !self.outside && *place < self.posters)
    }

    /// How many members must see a post before it is done.
    #[must_use]
    pub fn watchers(&self) -> u32 {
        match self.done {
            Done::All => self.members - self.special,
            Done::Own => 1,
        }
    }

    /// Whether a post is seen to be done by the member at `place`.
    #[must_use]
    pub fn watches(&self, place: u32, poster: u16) -> bool {
        match self.done {
            Done::All => place < self.members - self.special,
            Done::Own if self.outside => place == 0,
            Done::Own => place == u32::from(poster),
        }
    }

    /// The thread whose work it is to post to a group.
    #[must_use]
    pub fn home(&self, group: u32) -> usize {
        (group % u32::from(self.threads)) as usize
    }

    /// The thread that has a member of a group: groups stay together if there are enough of them.
    #[must_use]
    pub fn thread_of(&self, group: u32, place: u32) -> usize {
        let spread = if self.groups >= u32::from(self.threads) || self.poster(place).is_some() { 0 } else { place };
        ((group + spread) % u32::from(self.threads)) as usize
    }

    /// Where there are several servers: whose turn it is to have the member at `place` of a group. The members of a group go from one
    /// to the next, and posters who are no members come after them.
    #[must_use]
    pub fn turn(&self, group: u32, place: u32) -> usize {
        group as usize + place.min(self.members) as usize
    }

    /// The slots of the window that a thread has: first and number.
    #[must_use]
    pub fn slots(&self, thread: usize) -> (u32, u32) {
        let Pace::Closed(window) = self.pace else { return (0, 0) };
        let posting = self.groups.min(u32::from(self.threads));
        let thread = thread as u32;
        if thread >= posting {
            return (window, 0);
        }
        let edge = |thread: u32| (u64::from(window) * u64::from(thread) / u64::from(posting)) as u32;
        (edge(thread), edge(thread + 1) - edge(thread))
    }
}

#[cfg(test)]
mod tests;
