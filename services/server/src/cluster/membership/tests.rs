//! Nodes and their list in a real NATS, without the shards.

use std::collections::HashSet;

use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::log::config::Nats as NatsConfig;
use crate::log::nats::tests::proxy::Proxy;
use crate::log::nats::tests::server::Servers;

/// How soon a node is in the list again whose entry is gone: it looks 2.5 times a second. Far above that, also on a busy machine, and far
/// below the time for which entries are kept.
const SOON: Duration = Duration::from_secs(20);

/// How long it may take at most until a node renews its entry or looks at the list, whatever was lost before.
const LONG: Duration = Duration::from_secs(30);

/// A node that keeps its entry until it is dropped.
struct Member {
    membership: Arc<Membership>,
    _keeping: AbortOnDropHandle<()>,
}

impl Member {
    async fn enter(url: &str, prefix: &str, name: &str) -> Self {
        let settings = NatsConfig { urls: url.to_owned(), prefix: prefix.to_owned(), ..NatsConfig::default() };
        Self::enter_with(settings, Config::default(), name).await
    }

    async fn enter_with(settings: NatsConfig, config: Config, name: &str) -> Self {
        let url = settings.urls.as_str();
        let client = async_nats::connect(url).await.unwrap();
        let bucket = Bucket::open(client, &settings, &config).await.unwrap();
        let membership = Arc::new(Membership::new(config, bucket, name, name));
        membership.enter().await.unwrap();
        let keeping = tokio::spawn(Arc::clone(&membership).keep(CancellationToken::new()));
        Self { membership, _keeping: AbortOnDropHandle::new(keeping) }
    }

    /// Waits until it sees what is wanted.
    async fn sees(&self, what: &str, wanted: impl FnMut(&Arc<View>) -> bool) -> View {
        let mut view = self.membership.view();
        let seen = tokio::time::timeout(SOON, view.wait_for(wanted)).await;
        match seen {
            Ok(seen) => View::clone(&seen.unwrap()),
            Err(_) => panic!("{what}: {:?}, {:?}", self.membership.view().borrow(), self.membership.me().trouble),
        }
    }
}

/// Waits until it is so; the membership keeps on meanwhile.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LONG, "not within {LONG:?}: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_whose_list_is_emptied_are_in_it_again_soon() {
    let servers = Servers::start(1, "").await;
    for (prefix, names) in [("one", &["a"][..]), ("two", &["a", "b"])] {
        let mut members = Vec::new();
        for name in names {
            members.push(Member::enter(&servers.url(0), prefix, name).await);
        }
        let all: HashSet<&str> = names.iter().copied().collect();
        let has_all = |view: &Arc<View>| {
            view.is_in && view.nodes.iter().map(|node| node.name.as_str()).collect::<HashSet<_>>() == all
        };
        for member in &members {
            member.sees("all are there", has_all).await;
        }
        let context = async_nats::jetstream::new(async_nats::connect(servers.url(0)).await.unwrap());
        context.get_stream(format!("KV_{prefix}-nodes")).await.unwrap().purge().await.unwrap();
        let mut versions = HashSet::new();
        for member in &members {
            let seen = member.sees("all are there again", |view| view.lives == 1 && has_all(view)).await;
            assert_eq!(member.membership.trouble(), None);
            versions.insert(seen.version);
        }
        // That of the one that came last may be seen a look later.
        let newest = versions.into_iter().max().unwrap();
        for member in &members {
            member.sees("they agree", |view| view.version == newest).await;
        }
    }
}

/// The answer to the first attempt was lost, and with it that the entry is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_finds_its_own_entry_is_in() {
    let servers = Servers::start(1, "").await;
    let settings = NatsConfig { urls: servers.url(0), ..NatsConfig::default() };
    let client = async_nats::connect(servers.url(0)).await.unwrap();
    // Nobody is taken for dead.
    let config = Config { lease: Duration::from_secs(3_600), ..Config::default() };
    let bucket = Bucket::open(client, &settings, &config).await.unwrap();
    let membership = Arc::new(Membership::new(config, bucket, "a", "now"));
    let ours = Node { number: 77, ..membership.me().node.clone() };
    let before = Node { instance: "before".to_owned(), number: 5, ..ours.clone() };
    let Changed::Stored(first) = membership.bucket.put("a", 0, &before).await else { panic!("not stored") };
    let entering = tokio::spawn({
        let membership = Arc::clone(&membership);
        async move { membership.enter().await }
    });
    // It has looked, and waits.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!entering.is_finished());
    let Changed::Stored(second) = membership.bucket.put("a", first, &ours).await else { panic!("not stored") };
    tokio::time::timeout(SOON, entering).await.expect("it is in").unwrap().unwrap();
    assert_eq!((membership.me().revision, membership.number()), (second, 77));
    assert!(membership.view().borrow().is_in);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_enters_anew_changes_the_list_also_if_its_first_attempt_is_lost() {
    let servers = Servers::start(1, "").await;
    let proxy = Proxy::start(servers.port(0)).await;
    // So short that what is lost is not sent again, but given up.
    let timeout = Duration::from_millis(300);
    let of = |urls: String| NatsConfig { urls, timeout, ..NatsConfig::default() };
    let member = Member::enter_with(of(proxy.url()), Config::default(), "member").await;
    let other = Member::enter_with(of(servers.url(0)), Config::default(), "other").await;
    member.sees("both are there", |view| view.nodes.len() == 2).await;
    // A renewal says since when all is as it is.
    while member.membership.me().node.changed == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    proxy.lose_next("\"changed\":0");
    let removed = loop {
        let revision = member.membership.me().revision;
        if let Changed::Stored(removed) = other.membership.bucket.remove("member", revision).await {
            break removed;
        }
    };
    let is_back = |view: &Arc<View>| view.has("member") && view.version > removed;
    other.sees("it is back, which is a change of the list", is_back).await;
    assert_eq!(proxy.lost(), 1);
    assert_eq!(member.sees("it is in", |view| view.is_in && view.lives > 0).await.lives, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_or_a_look_that_is_lost_costs_no_lease() {
    let servers = Servers::start(1, "").await;
    let proxy = Proxy::start(servers.port(0)).await;
    // The usual proportions, but so slow that a busy machine does not let a lease pass as well.
    let config = Config { lease: Duration::from_secs(5), renew: Duration::from_secs(1), ..Config::default() };
    for seconds in [5, 12] {
        let prefix = format!("timeout-{seconds}");
        let of = |urls: String| NatsConfig {
            urls,
            prefix: prefix.clone(),
            timeout: Duration::from_secs(seconds),
            ..NatsConfig::default()
        };
        let member = Member::enter_with(of(proxy.url()), config.clone(), "member").await;
        let other = Member::enter_with(of(servers.url(0)), config.clone(), "other").await;
        for place in [&member, &other] {
            place.sees("both are there", |view| view.nodes.len() == 2).await;
        }
        let mut view = other.membership.view();
        let expired = async { drop(view.wait_for(|view| view.nodes.len() < 2).await) };
        let losing = async {
            for what in ["PUB $KV.", "multi_last"] {
                let lost = proxy.lost() + 1;
                proxy.lose_next(what);
                until(&format!("{what} is asked"), || proxy.lost() >= lost).await;
                let before = member.membership.me().revision;
                // A renewal may be on its way already, and the one after it is not.
                for _ in 0..2 {
                    let before = member.membership.me().revision;
                    until("the entry is renewed", || member.membership.me().revision != before).await;
                }
                assert!(member.membership.me().revision > before);
            }
        };
        tokio::select! {
            () = expired => panic!("it was taken for dead, with a timeout of {seconds} s"),
            () = losing => {}
        }
        assert_eq!(member.membership.view().borrow().lives, 0);
    }
}

impl Membership {
    /// Puts another process's entry in place of ours, as it is found.
    async fn usurp(&self, other: &Bucket, began: u64) -> u64 {
        let node = Node { instance: "another".to_owned(), since: began, ..self.me().node.clone() };
        loop {
            let ours = self.me().revision;
            if let Changed::Stored(revision) = other.put(&node.name, ours, &node).await {
                return revision;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_name_a_living_one_has_taken_is_told_so() {
    let servers = Servers::start(1, "").await;
    let member = Member::enter(&servers.url(0), "alive", "a").await;
    let observer = Member::enter(&servers.url(0), "alive", "b").await;
    let other = &observer.membership.bucket;
    let mut revision = member.membership.usurp(other, 77).await;
    let node = Node { instance: "another".to_owned(), since: 77, ..member.membership.me().node.clone() };
    let renewing = async {
        loop {
            match other.put("a", revision, &node).await {
                Changed::Stored(newer) => revision = newer,
                failed => panic!("{failed:?}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let lost =
        async { tokio::time::timeout(SOON, member.membership.lost_name.wait()).await.expect("it goes on").clone() };
    let lost = tokio::select! {
        lost = lost => lost,
        () = renewing => unreachable!(),
    };
    assert!(matches!(&lost, Error::NameLost { name, since: 77 } if name == "a"), "{lost}");
    assert!(!member.membership.view().borrow().is_in);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_name_a_dead_one_had_enters_anew() {
    let servers = Servers::start(1, "").await;
    let member = Member::enter(&servers.url(0), "dead", "a").await;
    let other = Member::enter(&servers.url(0), "dead", "b").await;
    // It ends as soon as it has entered; the others remove it after its lease.
    member.membership.usurp(&other.membership.bucket, 77).await;
    member.sees("it is not in", |view| !view.is_in).await;
    member.sees("it is in again", |view| view.is_in && view.nodes.len() == 2).await;
    assert_eq!(member.membership.lost_name.get().map(ToString::to_string), None);
    until("it can keep its place", || member.membership.trouble().is_none()).await;
}

#[test]
fn nodes_that_stop_wait_for_each_other_and_not_for_one_that_stays() {
    let node = |name: &str, leaving, finished| Node {
        name: name.to_owned(),
        instance: name.to_owned(),
        number: 1,
        since: 1,
        version: "1".to_owned(),
        wire: Wire::ours(),
        leaving,
        finished,
        groups: 0,
        changed: 0,
    };
    let view = |nodes: &[Node]| View { nodes: nodes.to_vec(), ..View::default() };
    let me = node("me", true, false);
    assert!(!view(std::slice::from_ref(&me)).is_awaited("me"), "it waits for nobody but itself");
    assert!(view(&[me.clone(), node("other", true, false)]).is_awaited("me"));
    assert!(!view(&[me.clone(), node("other", true, true)]).is_awaited("me"));
    assert!(!view(&[me, node("other", true, false), node("stays", false, false)]).is_awaited("me"));
}

/// Whoever waits for it would otherwise wait for the lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_is_removed_whatever_became_of_the_last_renewal() {
    for replicas in [1_u16, 3] {
        assert_is_removed(replicas).await;
    }
}

async fn assert_is_removed(replicas: u16) {
    let servers = Servers::start(replicas.into(), "").await;
    // Nobody is taken for dead.
    let config = Config { lease: Duration::from_secs(3_600), ..Config::default() };
    let settings = NatsConfig { urls: servers.url(0), replicas, ..NatsConfig::default() };
    let watching = Member::enter_with(settings.clone(), config.clone(), "a").await;
    let is_there = |view: &Arc<View>| view.nodes.iter().any(|node| node.name == "b");
    for hurries in [0, 1, 2, 5] {
        let client = async_nats::connect(servers.url(0)).await.unwrap();
        let bucket = Bucket::open(client, &settings, &config).await.unwrap();
        let membership = Arc::new(Membership::new(config.clone(), bucket, "b", &format!("b{hurries}")));
        membership.enter().await.unwrap();
        let stop = CancellationToken::new();
        let keeping = tokio::spawn(Arc::clone(&membership).keep(stop.clone()));
        watching.sees("it came", is_there).await;
        for _ in 0..hurries {
            membership.finish();
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
        stop.cancel();
        keeping.await.unwrap();
        membership.remove().await;
        watching.sees("it is gone", |view| !is_there(view)).await;
    }
    // One that is stored and that nobody has heard of.
    let client = async_nats::connect(servers.url(0)).await.unwrap();
    let bucket = Bucket::open(client, &settings, &config).await.unwrap();
    let membership = Membership::new(config, bucket, "b", "b");
    membership.enter().await.unwrap();
    let Me { node, revision, .. } = membership.me().clone();
    assert!(matches!(membership.bucket.put("b", revision, &node).await, Changed::Stored(_)));
    watching.sees("it came", is_there).await;
    membership.remove().await;
    watching.sees("it is gone", |view| !is_there(view)).await;
}
