//! Random faults under load: nodes that are killed, paused for longer than their lease, and cut off; NATS servers that are killed.
//! What was acknowledged is there, once and in one order, and everybody is served again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::checker::{Removal, check_removals};
use harness::cluster::Cluster;
use harness::environment::{number, seed};
use harness::moderator::Moderator;
use harness::proxy::Carriage;
use harness::recording::Recording;
use harness::{Client, Connector, Server, ServerOptions, check};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::listener::listen;
use crate::machine;
use crate::talker::{CURTAIN, Places, Story, Talker, all_answered};

const NODES: usize = 3;
/// How long a node stays paused or cut off: longer than its lease.
const OUT: Duration = Duration::from_millis(3_000);
/// How long after a fault everybody must be served: the time to recover, and room for a busy machine.
const RECOVERY: Duration = Duration::from_secs(45);
/// The same where the NATS servers elect leaders: each try costs them 4 to 9 seconds, and of two that are left both must vote for the
/// same one. On a slow disk, to which votes are written, that takes several tries.
const ELECTIONS: Duration = Duration::from_secs(100);

/// What is done to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Pause,
    Close,
    Hold,
    KillNats,
}

const FAULTS: [Fault; 5] = [Fault::Kill, Fault::Pause, Fault::Close, Fault::Hold, Fault::KillNats];

/// The faults that the environment names, for who looks into one of them; else all.
fn faults() -> Result<Vec<Fault>> {
    let Ok(names) = std::env::var("TERTULIA_SOAK_FAULTS") else { return Ok(FAULTS.to_vec()) };
    let named = |name: &str| FAULTS.into_iter().find(|fault| format!("{fault:?}") == name);
    names.split(',').map(|name| named(name).with_context(|| format!("'{name}' is none of {FAULTS:?}"))).collect()
}

struct World {
    cluster: Cluster,
    places: Places,
    groups: Vec<String>,
    /// Makes all clients; nodes are killed under them.
    connector: Connector,
    /// What was seen of those who asked whether everybody is served.
    probes: Mutex<Vec<Recording>>,
    /// What was removed.
    removed: Vec<Removal>,
}

impl World {
    async fn start() -> Result<Self> {
        // However long it goes on, everything is kept, so that a lost beginning is not taken for what retention removed.
        let options = ServerOptions::new().set("log.retention.messages", 0).set("log.retention.bytes", 0);
        let cluster = Cluster::start(NODES, 3, options).await?;
        let places = (0..NODES).map(|place| Some(cluster.chat(place))).collect();
        let groups = (0..8).map(|number| format!("fault-{number}")).collect();
        let connector = cluster.connector(0).may_be_torn();
        Ok(Self {
            cluster,
            places: Arc::new(Mutex::new(places)),
            groups,
            connector,
            probes: Mutex::default(),
            removed: Vec::new(),
        })
    }

    fn set_place(&self, place: usize, up: bool) {
        let address = up.then(|| self.cluster.chat(place));
        self.places.lock().unwrap_or_else(PoisonError::into_inner)[place] = address;
    }

    /// Does something, and undoes it.
    async fn suffer(&mut self, fault: Fault, place: usize) -> Result<()> {
        match fault {
            Fault::Kill => {
                self.set_place(place, false);
                self.cluster.nodes[place].kill().await?;
                // The others serve its shards before it is back.
                self.served(1 + place, RECOVERY).await.context("after a node was killed")?;
                self.cluster.nodes[place].restart().await?;
                self.set_place(place, true);
            }
            Fault::Pause => {
                self.cluster.nodes[place].pause()?;
                tokio::time::sleep(OUT).await;
                self.cluster.nodes[place].resume()?;
            }
            Fault::Close | Fault::Hold => {
                let how = if fault == Fault::Close { Carriage::Closed } else { Carriage::Held };
                self.cluster.set_carriage(place, how);
                tokio::time::sleep(OUT).await;
                self.cluster.set_carriage(place, Carriage::Open);
            }
            Fault::KillNats => {
                self.cluster.nats.kill(place).await?;
                self.served(place, ELECTIONS).await.context("after a NATS server was killed")?;
                self.cluster.nats.revive(place)?;
                self.cluster.nats.healthy(place).await?;
            }
        }
        Ok(())
    }

    /// Has messages removed by way of any node, until it is stopped; which of them answer is another matter.
    fn moderate(&self, mut random: fastrand::Rng) -> Result<(JoinHandle<Moderator>, watch::Sender<bool>)> {
        let nodes = self.cluster.nodes.iter().map(Server::administrator).collect::<Result<Vec<_>>>()?;
        let (stop, stopped) = watch::channel(false);
        let mut moderator = Moderator { groups: self.groups.clone(), removed: Vec::new() };
        let moderating = tokio::spawn(async move {
            // A call that has begun is made to its end, so that it is known what came of it.
            while !*stopped.borrow() {
                let node = random.usize(..nodes.len());
                if moderator.moderate(&nodes[node], &mut random).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            moderator
        });
        Ok((moderating, stop))
    }

    /// Waits until a post to each group is acknowledged and delivered, by way of some node.
    async fn served(&self, place: usize, recovery: Duration) -> Result<Duration> {
        let began = Instant::now();
        for group in &self.groups {
            loop {
                ensure!(began.elapsed() < recovery, "group '{group}' is not served");
                match self.probe(place, group).await {
                    Ok(()) => break,
                    Err(error) => println!("{group}: {error:#}"),
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(began.elapsed())
    }

    async fn probe(&self, place: usize, group: &str) -> Result<()> {
        let address = {
            let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            let up: Vec<_> = places.iter().flatten().collect();
            *up[place % up.len()]
        };
        let connector = self.connector.at(address).patience(Duration::from_secs(15));
        let mut client = connector.extended("probe").await?;
        let probed = async {
            client.join(group).await?;
            let text = format!("probe {}", fastrand::u64(..));
            client.post(group, &text, &fastrand::u64(..).to_string()).await?;
            client.reader.until_text(group, &text).await
        };
        let probed = probed.await;
        // What was not answered in time may be stored all the same.
        self.probes.lock().unwrap_or_else(PoisonError::into_inner).push(client.cut());
        probed
    }
}

/// `TERTULIA_TEST_SEED` chooses the same faults again, and what everybody says; not how that meets.
async fn run(rounds: usize) -> Result<()> {
    let _machine = machine().await;
    let faults = faults()?;
    let mut random = fastrand::Rng::with_seed(seed()?);
    let mut world = World::start().await?;
    let connector = world.connector.clone();
    let (hush, quiet) = watch::channel(false);
    let (calm, mut calmed) = mpsc::unbounded_channel();
    let talkers: Vec<JoinHandle<Result<Story>>> = (0..9)
        .map(|number| Talker::start((number, random.fork()), &world.places, &connector, &world.groups, &quiet, &calm))
        .collect();
    let mut listeners: Vec<JoinHandle<Result<Recording>>> = Vec::new();
    for round in 0..rounds {
        for place in 0..NODES {
            let group = world.groups[(round + place) % world.groups.len()].clone();
            let who = format!("classic-{round}-{place}");
            listeners.push(listen(who, connector.at(world.cluster.chat(place)), group, quiet.clone(), &calm));
        }
        // Every kind comes often; which node it meets is chance.
        let (fault, place) = (faults[round % faults.len()], random.usize(..NODES));
        let (moderating, stop) = world.moderate(random.fork())?;
        let began = Instant::now();
        world.suffer(fault, place).await.with_context(|| format!("round {round}: {fault:?} of {place}"))?;
        let undone = began.elapsed();
        let served = world.served(random.usize(..NODES), RECOVERY).await;
        let served = served.with_context(|| format!("round {round}, after {fault:?} of {place}"))?;
        stop.send_replace(true);
        world.removed.extend(moderating.await?.removed);
        println!("round {round}: {fault:?} of {place} for {undone:?}, served {served:?} after its end");
    }
    world.cluster.agreed(NODES).await?;
    hush.send_replace(true);
    drop(calm);
    all_answered(&mut calmed, talkers.len() + listeners.len(), RECOVERY).await?;
    let (recordings, log_reader) = finish(&world, talkers, listeners).await?;
    judge(&world, recordings, log_reader).await
}

/// Says the last thing in every group, and waits until everybody has seen it.
async fn finish(
    world: &World,
    talkers: Vec<JoinHandle<Result<Story>>>,
    listeners: Vec<JoinHandle<Result<Recording>>>,
) -> Result<(Vec<Recording>, Client)> {
    let mut observer =
        world.connector.at(world.cluster.chat(0)).patience(Duration::from_secs(60)).extended("observer").await?;
    for group in &world.groups {
        observer.join(group).await?;
        observer.post(group, CURTAIN, CURTAIN).await?;
    }
    let mut recordings = Vec::new();
    let mut refused = 0;
    for talker in talkers {
        let story =
            tokio::time::timeout(Duration::from_secs(90), talker).await.context("a talker does not end")???;
        refused += story.refused.len();
        recordings.extend(story.recordings);
    }
    for listener in listeners {
        let recording =
            tokio::time::timeout(Duration::from_secs(90), listener).await.context("a listener does not end")?;
        recordings.push(recording??);
    }
    println!("{} connections, {refused} refusals", recordings.len());
    Ok((recordings, observer))
}

async fn judge(world: &World, mut recordings: Vec<Recording>, mut observer: Client) -> Result<()> {
    let mut logs = Vec::new();
    for group in &world.groups {
        logs.push(observer.read_log_patiently(group).await?);
    }
    recordings.push(observer.settled());
    recordings.append(&mut world.probes.lock().unwrap_or_else(PoisonError::into_inner));
    let verdict = check(&recordings, &logs);
    println!("{:?}", verdict.facts);
    verdict.assert_clean();
    let removals = check_removals(&world.removed, &logs);
    println!("{} removals of {} messages", world.removed.len(), removals.facts.removed);
    removals.assert_clean();
    ensure!(removals.facts.removed > 20, "hardly anything was removed");
    ensure!(verdict.facts.acknowledged > 200 && verdict.facts.deliveries > 2_000, "{verdict}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_rounds_of_random_faults() -> Result<()> {
    run(20).await
}

/// `make soak`: as many rounds as `TERTULIA_SOAK_ROUNDS` says.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: run by `make soak`"]
async fn many_rounds_of_random_faults() -> Result<()> {
    let rounds = number("TERTULIA_SOAK_ROUNDS")?.unwrap_or(200);
    run(usize::try_from(rounds)?).await
}
