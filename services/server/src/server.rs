//! Wires the parts together, and owns the order in which they start and stop.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::{self, Cluster};
use crate::config::Config;
use crate::config::checks::longest_line;
use crate::drain::{Accepting, drain};
use crate::front::{self, Front};
use crate::log::{Engine, Log, embedded, memory::Memory, nats::Nats, retention::Rules};
use crate::readiness::{Readiness, Reason};
use crate::reload::Reload;
use crate::shard::handle::Among;
use crate::shard::{Bounds, Shards};
use crate::telemetry::{Buckets, Telemetry};
use crate::{admin, auth, http, log, shard, tls};

mod descriptors;
mod listeners;
mod secrets;
mod signals;

pub use secrets::faults;

use listeners::{Listeners, listen};
use secrets::Secrets;
use signals::{Hangup, Signals};

/// Histograms of the parts that have bounds of their own.
pub const BUCKETS: &[Buckets] = &[];

/// The name of a node that has no others beside it.
const NODE: &str = "local";

/// How long the end of the server waits for the collector of traces, at most.
const LAST_SPANS: Duration = Duration::from_secs(2);
/// How long before the end of the grace time nobody is waited for any more whose end loses nothing.
const LAST_MOMENT: Duration = Duration::from_millis(200);

/// Serves until it is told to stop.
///
/// # Errors
/// The server cannot start, or did not stop cleanly.
pub async fn run(mut config: Config, telemetry: Telemetry) -> anyhow::Result<()> {
    config.shard = shard_config(&config);
    // First, so that a signal while starting is not lost.
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let hangup = Hangup::new().context("cannot listen for signals")?;
    describe();
    let readiness = Readiness::new();
    readiness.set(Reason::Starting, "starting");

    let secrets = {
        let config = config.clone();
        // A file system may not answer, nor whoever is to write to a FIFO.
        let reading = tokio::task::spawn_blocking(move || Secrets::read(&config));
        let Some(read) = signals.unless(reading).await else { return Ok(()) };
        read.context("certificates, keys and tokens were not read")??
    };
    let Secrets { tracing: (tracer, exporting), secure, tokens, auth } = secrets;
    let listeners = Listeners::reserve(&config)?;
    let node = node_name(&config, &listeners);
    let (serving, tasks) = (CancellationToken::new(), TaskTracker::new());
    telemetry.spawn_upkeep(&tasks, serving.clone());
    let levels = telemetry.levels();
    let reload = Reload::default();
    tasks.spawn(hangup.obey(reload.clone(), serving.clone()));
    // Before there is anything else: who looks whether the server is alive, and why it is not ready, is answered while the log is opened.
    let observed: Arc<OnceLock<(Front, Shards)>> = Arc::default();
    let render = {
        let (observed, secure, tracer) = (Arc::clone(&observed), secure.acceptors(), tracer.clone());
        move || {
            if let Some((front, shards)) = observed.get() {
                front.observe();
                shards.observe();
            }
            secure.iter().for_each(tls::Acceptor::observe);
            tracer.observe();
            telemetry.render()
        }
    };
    let (stop, tracker, secured) = (serving.clone(), tasks.clone(), secure.of(tls::Port::Http));
    tasks.spawn(http::serve(listeners.http, config.http.clone(), render, readiness.clone(), secured, stop, tracker));
    let Some(opened) = signals.unless(Box::pin(open_log(&config, &node))).await else { return Ok(()) };
    let (engine, nats) = opened?;
    let bounds = Bounds {
        members_per_group: config.limits.members_per_group,
        groups: config.limits.groups,
        new_groups_per_user: config.limits.new_groups_per_user,
        new_groups_per_address: config.limits.new_groups_per_address,
        holds: config.limits.holds,
        post_without_join: config.chat.post_without_join,
    };
    let cluster = match &nats {
        Some(nats) => {
            // Others remove an entry that was put and is not renewed.
            let joining = Box::pin(Cluster::join(&config.cluster, nats, &config.nats, &node));
            match signals.unless(joining).await {
                Some(joined) => Some(joined.context("cannot be one of the nodes")?),
                None => return give_up_start(config.drain.grace, &mut signals, None, &*engine).await,
            }
        }
        None => None,
    };
    let shards = match &cluster {
        Some(cluster) => Shards::start_among(
            config.shard.clone(),
            bounds,
            Arc::clone(&engine),
            node,
            Among { tracer: tracer.clone(), ..cluster.among() },
        ),
        None => Shards::start(config.shard.clone(), bounds, Arc::clone(&engine), node),
    };
    match signals.unless(shards.begin_holds()).await {
        Some(Ok(())) => {}
        Some(Err(error)) => {
            let error = anyhow::Error::new(error).context("cannot tell whom moderators hold");
            return Err(fail_start(error, config.drain.grace, &mut signals, cluster.as_ref(), &*engine).await);
        }
        None => return give_up_start(config.drain.grace, &mut signals, cluster.as_ref(), &*engine).await,
    }
    let first_connection = cluster.as_ref().map_or(1, Cluster::first_connection);
    let front = Front::new(
        &config.chat,
        descriptors::make_room(&config),
        shards.clone(),
        front::Options {
            tracer: tracer.clone(),
            auth: auth.clone(),
            tls: secure.of(tls::Port::Chat),
            first_connection,
        },
    );

    // Nobody else sets it.
    drop(observed.set((front.clone(), shards.clone())));
    let service = admin::Service::new(
        &config.admin,
        shards.clone(),
        Arc::clone(front.registry()),
        cluster.clone(),
        config.limits.message_bytes,
        levels,
        serving.clone(),
    );
    let relay = service.relay();
    let secured = secure.of(tls::Port::Admin);
    let admin = match admin::Server::new(&config.admin, tokens, service, readiness.clone(), tracer.clone(), secured) {
        Ok(admin) => admin,
        Err(error) => {
            let error = anyhow::Error::new(error).context("cannot serve the admin API");
            return Err(fail_start(error, config.drain.grace, &mut signals, cluster.as_ref(), &*engine).await);
        }
    };

    let every = config.tls.reload_interval;
    secure.follow(&reload, every, &serving, &tasks);
    auth.follow(&reload, every, &serving, &tasks);
    admin.follow_token(reload.looks(every), &serving, &tasks);
    let starting = async {
        if let Some(cluster) = &cluster {
            cluster.answer_calls(relay).await;
            cluster.start(&shards).await;
        }
    };
    let (mut accepting, mut ended) = (None, None);
    // Otherwise nobody is let in who would be sent away at once.
    if signals.unless(starting).await.is_some() {
        let addresses = listeners.addresses;
        let chat_listener = listen("chat", listeners.chat, addresses.chat);
        let admin_listener = listen("admin", listeners.admin, addresses.admin);
        let (chat_listener, admin_listener) = match (chat_listener, admin_listener) {
            (Ok(chat), Ok(admin)) => (chat, admin),
            (Err(error), _) | (_, Err(error)) => {
                return Err(fail_start(error, config.drain.grace, &mut signals, cluster.as_ref(), &*engine).await);
            }
        };
        accepting = Some(Accepting::start(&front, chat_listener));
        tasks.spawn(admin.serve(admin_listener, serving.clone(), tasks.clone()));
        // Once before anybody is told that the node is ready.
        look_at_log(&shards, cluster.as_ref(), &readiness);
        tasks.spawn(watch_log(shards.clone(), cluster.clone(), readiness.clone(), serving.clone()));
        readiness.clear(Reason::Starting);
        addresses.tell();
        if auth.asks_for().is_some() && config.chat.tls.cert_file.is_none() && !addresses.chat.ip().is_loopback() {
            tracing::warn!(
                "what clients prove who they are with crosses the network in the clear, unless something before the chat port speaks TLS (chat.tls)"
            );
        }
        tokio::select! {
            what = signals.next() => tracing::info!(signal = what, "stopping; a second signal stops at once"),
            () = shards.broken() => tracing::error!("the task of a shard has panicked: stopping, so that what starts next is whole"),
            error = cannot_go_on(cluster.as_ref()) => {
                tracing::error!(%error, "stopping");
                ended = Some(error);
            }
        }
    }
    let deadline = Instant::now() + config.drain.grace;
    let stop = async {
        let hand_over = async {
            match &cluster {
                // What it has nobody can take from it.
                Some(cluster) if ended.is_none() => cluster.hand_over(&shards).await,
                Some(_) | None => false,
            }
        };
        let part = async {
            if let Some(cluster) = cluster.as_ref().filter(|_| ended.is_none()) {
                cluster.part().await;
            }
        };
        drain(&config.drain, &readiness, accepting.as_ref(), &front, &shards, hand_over, part).await;
        end(cluster.as_ref(), &*engine).await;
        serving.cancel();
        tasks.close();
        let last_moment = deadline - LAST_MOMENT;
        if timeout_at(last_moment, tasks.wait()).await.is_err() {
            tracing::warn!("connections of the admin API or of HTTP that do not end are cut off");
        }
        exporting.stop(LAST_SPANS.min(last_moment.saturating_duration_since(Instant::now()))).await;
    };
    let stopped = tokio::select! {
        () = stop => Ok(()),
        () = sleep_until(deadline) => {
            let open = front.registry().open();
            Err(anyhow::anyhow!("grace time is over: what was left is cut off ({open} connections)"))
        }
        what = signals.next() => Err(anyhow::anyhow!("stopped at once by a second signal ({what})")),
    };
    if let Some(error) = ended {
        if let Err(unclean) = stopped {
            tracing::warn!(error = %unclean, "not all was ended in order");
        }
        return Err(anyhow::Error::new(error).context("cannot go on as one of the nodes"));
    }
    stopped?;
    tracing::info!("stopped");
    anyhow::ensure!(!shards.is_broken(), "the task of a shard has panicked; its log line tells where");
    Ok(())
}

fn describe() {
    front::metrics::describe();
    auth::metrics::describe();
    shard::metrics::describe();
    log::metrics::describe();
    log::embedded::metrics::describe();
    log::nats::metrics::describe();
    cluster::describe();
    admin::metrics::describe();
    http::describe();
    tls::metrics::describe();
}

/// Returns when this node cannot go on among the others, with why.
async fn cannot_go_on(cluster: Option<&Cluster>) -> cluster::Error {
    match cluster {
        Some(cluster) => cluster.ended().await,
        None => std::future::pending().await,
    }
}

/// Leaves the other nodes, and lets go of the log.
async fn end(cluster: Option<&Cluster>, engine: &dyn Log) {
    if let Some(cluster) = cluster {
        cluster.end().await;
    }
    engine.close().await;
}

/// Stops before there is anybody to serve.
async fn give_up_start(
    grace: Duration,
    signals: &mut Signals,
    cluster: Option<&Cluster>,
    engine: &dyn Log,
) -> anyhow::Result<()> {
    tokio::select! {
        ended = tokio::time::timeout(grace, end(cluster, engine)) => {
            anyhow::ensure!(ended.is_ok(), "grace time is over: what the start had begun is cut off");
            tracing::info!("stopped");
            Ok(())
        }
        what = signals.next() => anyhow::bail!("stopped at once by a second signal ({what})"),
    }
}

/// What stands in the way of the start; before it is told, the other nodes are, unless that takes long or a signal comes.
async fn fail_start(
    error: anyhow::Error,
    grace: Duration,
    signals: &mut Signals,
    cluster: Option<&Cluster>,
    engine: &dyn Log,
) -> anyhow::Error {
    // Whatever comes of that, the error is what ends the server.
    drop(give_up_start(grace, signals, cluster, engine).await);
    error
}

/// The log, and the engine behind it if it is one that several nodes can share.
async fn open_log(config: &Config, node: &str) -> anyhow::Result<(Arc<dyn Log>, Option<Nats>)> {
    Ok(match config.log.engine {
        Engine::Memory => (Arc::new(Memory::new(&config.log, config.shard.count)), None),
        Engine::Embedded => {
            let config = config.log.clone();
            // It may have to replay what was not applied yet.
            let opened = tokio::task::spawn_blocking(move || embedded::open(&config)).await;
            (opened.context("the log was not opened")?.context("cannot open the log")?, None)
        }
        Engine::Nats => {
            let opened = Nats::open(&config.nats, &Rules::new(&config.log), config.shard.count, node).await;
            let log = opened.context("cannot open the log")?;
            let (needed, most) = (longest_line(&config.limits), log.client().max_payload());
            anyhow::ensure!(
                needed <= most,
                "limits.message_bytes = {} is too much for this NATS: a message may take {needed} bytes on its way, with every \
                 character escaped, and max_payload of NATS is {most}; lower the one or raise the other",
                config.limits.message_bytes
            );
            (Arc::new(log.clone()), Some(log))
        }
    })
}

fn node_name(config: &Config, listeners: &Listeners) -> String {
    match (config.log.engine, config.cluster.node_id.as_str()) {
        (Engine::Nats, "") => cluster::node::default_name(listeners.addresses.chat.port()),
        (_, "") => NODE.to_owned(),
        (_, name) => name.to_owned(),
    }
}

/// What the engine makes of the configuration of shards: how many they are, and how much goes into an append. One of `nats` is an atomic
/// batch, which may have 1,000 messages, and each post may be in a group of its own.
fn shard_config(config: &Config) -> shard::Config {
    const APPEND_POSTS: usize = 512;
    let mut shard = config.shard.clone();
    let is_one_of_many = config.log.engine == Engine::Nats;
    shard.count = shard.shards(is_one_of_many);
    if is_one_of_many {
        shard.append_posts = shard.append_posts.min(APPEND_POSTS);
    }
    shard
}

/// Passes on to load balancers whether anything can be written to the log, and whether the node has its place among the others.
async fn watch_log(shards: Shards, cluster: Option<Cluster>, readiness: Readiness, stop: CancellationToken) {
    const EVERY: Duration = Duration::from_millis(250);
    let mut ticks = tokio::time::interval(EVERY);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        look_at_log(&shards, cluster.as_ref(), &readiness);
    }
}

fn look_at_log(shards: &Shards, cluster: Option<&Cluster>, readiness: &Readiness) {
    match shards.outage() {
        Some(outage) => readiness.set(Reason::Log, outage),
        None => readiness.clear(Reason::Log),
    }
    match cluster.and_then(Cluster::trouble) {
        Some(trouble) => readiness.set(Reason::Cluster, trouble),
        None => readiness.clear(Reason::Cluster),
    }
}
