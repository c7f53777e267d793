//! Real `nats-server` processes: one, or a cluster. They are killed by their process id when they are dropped.
//! It needs nothing of the modules around it, as the tests of traces have it too.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, MutexGuard};

/// What is awaited comes far sooner, also on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// What replicas that were killed must agree on first takes longer: their elections are tried anew after 4 to 9 s, as often as they fail.
pub(crate) const ELECTIONS: Duration = Duration::from_secs(120);

/// Held by who has a cluster: two at a time leave neither enough of a small machine to hold its elections.
static CLUSTER: Mutex<()> = Mutex::const_new(());
/// Servers that are a cluster, which elects leaders.
const MANY: usize = 3;

/// One server, or a cluster of them.
pub(crate) struct Servers {
    servers: Vec<Server>,
    /// After the servers have ended.
    _turn: Option<MutexGuard<'static, ()>>,
    /// Removed with everything in it.
    _directory: tempfile::TempDir,
}

struct Server {
    child: Option<Child>,
    config: PathBuf,
    port: u16,
}

fn binary() -> PathBuf {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin/nats-server");
    let on_path =
        std::env::var_os("PATH").into_iter().flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let mut places = on_path.map(|place| place.join("nats-server")).chain([fetched]);
    places.find(|place| place.is_file()).expect("there is no nats-server: run `tests/tools/fetch nats-server`")
}

/// Ports that nobody else is given while a server that is dead does not hold its own: they lie below those that the system gives out.
fn free_ports(count: usize) -> Vec<u16> {
    const RANGE: std::ops::Range<u16> = 15_000..32_000;
    let mut listeners = Vec::new();
    for _ in 0..100 * count {
        if listeners.len() < count {
            listeners.extend(TcpListener::bind(("127.0.0.1", fastrand::u16(RANGE))));
        }
    }
    assert_eq!(listeners.len(), count, "there are no free ports");
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

impl Servers {
    /// Starts `count` servers that keep what they acknowledge; `more` is added to their configuration.
    pub(crate) async fn start(count: usize, more: &str) -> Self {
        let mut all = Self::configured(count, more).await;
        for index in 0..count {
            all.revive(index);
        }
        all.ready().await;
        all
    }

    /// Starts the first of a cluster of `count` servers, which waits for the others; [`Servers::revive`] starts them.
    pub(crate) async fn start_first_of(count: usize) -> Self {
        let mut all = Self::configured(count, "").await;
        all.revive(0);
        all.listening().await;
        all
    }

    async fn configured(count: usize, more: &str) -> Self {
        let turn = if count >= MANY { Some(CLUSTER.lock().await) } else { None };
        let directory = tempfile::tempdir().unwrap();
        let ports = free_ports(2 * count);
        let (ports, routes) = ports.split_at(count);
        let all: Vec<String> = routes.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
        let mut servers = Vec::new();
        for index in 0..count {
            let (port, route) = (ports[index], routes[index]);
            let store = directory.path().join(format!("store-{index}"));
            let mut text = format!(
                "listen: \"127.0.0.1:{port}\"\nserver_name: n{index}\nserver_tags: [\"zone:{index}\", \"disk:fast\"]\n\
                 jetstream {{ store_dir: \"{}\", sync_interval: always, max_memory_store: 64MB, max_file_store: 4GB }}\n{more}\n",
                store.display()
            );
            if count > 1 {
                let routes = all.join(", ");
                text += &format!("cluster {{ name: test, listen: \"127.0.0.1:{route}\", routes: [{routes}] }}\n");
            }
            let config = directory.path().join(format!("n{index}.conf"));
            std::fs::write(&config, text).unwrap();
            servers.push(Server { child: None, config, port });
        }
        Self { servers, _turn: turn, _directory: directory }
    }

    /// The URLs of all.
    pub(crate) fn urls(&self) -> String {
        let urls: Vec<String> = (0..self.servers.len()).map(|index| self.url(index)).collect();
        urls.join(",")
    }

    pub(crate) fn url(&self, index: usize) -> String {
        format!("nats://127.0.0.1:{}", self.servers[index].port)
    }

    pub(crate) fn port(&self, index: usize) -> u16 {
        self.servers[index].port
    }

    /// Changes the configuration with which a server starts next.
    pub(crate) fn reconfigure(&self, index: usize, from: &str, to: &str) {
        let config = &self.servers[index].config;
        let text = std::fs::read_to_string(config).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(config, text.replace(from, to)).unwrap();
    }

    /// Starts a server that is dead.
    pub(crate) fn revive(&mut self, index: usize) {
        let server = &mut self.servers[index];
        let mut command = Command::new(binary());
        command.arg("-c").arg(&server.config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        server.child = Some(command.spawn().unwrap());
    }

    /// Kills a server without notice.
    pub(crate) fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.servers[index].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Stalls a server; it has stopped when this returns.
    pub(crate) fn pause(&self, index: usize) {
        self.signal(index, Signal::STOP);
        let id = self.servers[index].child.as_ref().map_or(0, Child::id);
        let begun = Instant::now();
        while std::fs::read_to_string(format!("/proc/{id}/status")).is_ok_and(|status| !status.contains("State:\tT")) {
            assert!(begun.elapsed() < PATIENCE, "the server does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn resume(&self, index: usize) {
        self.signal(index, Signal::CONT);
    }

    fn signal(&self, index: usize, signal: Signal) {
        let child = self.servers[index].child.as_ref().expect("the server is alive");
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits until every server that runs can be connected to.
    async fn listening(&self) {
        let begun = Instant::now();
        for server in self.servers.iter().filter(|server| server.child.is_some()) {
            loop {
                // Not by listening there as well, which would keep the server from it.
                if TcpStream::connect(("127.0.0.1", server.port)).await.is_ok() {
                    break;
                }
                assert!(begun.elapsed() < PATIENCE, "nats-server does not listen");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Waits until JetStream answers, on every server.
    async fn ready(&self) {
        let begun = Instant::now();
        self.listening().await;
        if self.servers.len() == 1 {
            return;
        }
        // A cluster has elected a leader when a stream with all replicas can be made.
        let client = loop {
            match async_nats::connect(self.url(0)).await {
                Ok(client) => break client,
                Err(error) => assert!(begun.elapsed() < ELECTIONS, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let context = async_nats::jetstream::new(client);
        let probe = async_nats::jetstream::stream::Config {
            name: "ready".to_owned(),
            subjects: vec!["ready".to_owned()],
            num_replicas: self.servers.len(),
            ..Default::default()
        };
        while let Err(error) = context.create_stream(probe.clone()).await {
            assert!(begun.elapsed() < ELECTIONS, "the cluster does not form: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // One that stays, because its leader has just changed, is in nobody's way.
        drop(context.delete_stream("ready").await);
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for server in &mut self.servers {
            if let Some(mut child) = server.child.take() {
                drop(child.kill());
                drop(child.wait());
            }
        }
    }
}
