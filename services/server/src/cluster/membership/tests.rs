//! Nodes and their list in a real NATS, without the shards.

use std::collections::HashSet;

use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::log::config::Nats as NatsConfig;
use crate::log::nats::tests::server::Servers;

/// How soon a node is in the list again whose entry is gone: it looks 2.5 times a second. Far above that, also on a busy machine, and far
/// below the time for which entries are kept.
const SOON: Duration = Duration::from_secs(20);

/// A node that keeps its entry until it is dropped.
struct Member {
    membership: Arc<Membership>,
    _keeping: AbortOnDropHandle<()>,
}

impl Member {
    async fn enter(url: &str, prefix: &str, name: &str) -> Self {
        let settings = NatsConfig { urls: url.to_owned(), prefix: prefix.to_owned(), ..NatsConfig::default() };
        let client = async_nats::connect(url).await.unwrap();
        let bucket = Bucket::open(client, &settings).await.unwrap();
        let membership = Arc::new(Membership::new(Config::default(), bucket, name, name));
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
