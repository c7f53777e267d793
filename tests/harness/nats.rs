//! Real `nats-server` processes: one, or a cluster.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::process::Command;

use crate::deadline::poll_until;
use crate::metrics;
use crate::process::Process;

/// How long a cluster may take to form.
const FORMING: Duration = Duration::from_secs(60);

/// Longest part of a server's log that a failed test shows.
const SHOWN_LOG_BYTES: usize = 8 * 1024;

/// What servers may store in files, unless a test says otherwise.
const STORAGE: &str = "4GB";

/// One server, or a cluster of them, which keep what they acknowledge.
#[derive(Debug)]
pub struct Nats {
    servers: Vec<NatsServer>,
    /// Removed with everything in it.
    _home: TempDir,
}

#[derive(Debug)]
struct NatsServer {
    process: Option<Process>,
    config: PathBuf,
    log: PathBuf,
    port: u16,
    monitor: u16,
}

impl Nats {
    /// Starts `count` servers, and waits until JetStream answers on all of them.
    ///
    /// # Errors
    /// If there is no `nats-server`, or it does not start.
    pub async fn start(count: usize) -> Result<Self> {
        Self::start_with(count, STORAGE).await
    }

    /// As [`Nats::start`], with so much to store on, such as `64MB`.
    ///
    /// # Errors
    /// As [`Nats::start`].
    pub async fn start_with(count: usize, storage: &str) -> Result<Self> {
        Self::start_on(count, storage, None).await
    }

    /// Starts one server, which stores in a directory that is there.
    ///
    /// # Errors
    /// As [`Nats::start`].
    pub async fn start_in(directory: &Path) -> Result<Self> {
        Self::start_on(1, STORAGE, Some(directory)).await
    }

    async fn start_on(count: usize, storage: &str, directory: Option<&Path>) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("tertulia-nats-").tempdir().context("make a directory")?;
        let ports = free_ports(3 * count)?;
        let routes: Vec<String> =
            ports[2 * count..].iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
        let mut servers = Vec::new();
        for index in 0..count {
            let (port, monitor, route) = (ports[index], ports[count + index], ports[2 * count + index]);
            let store = directory.unwrap_or(home.path()).join(format!("store-{index}"));
            let mut text = format!(
                "listen: \"127.0.0.1:{port}\"\nhttp: \"127.0.0.1:{monitor}\"\nserver_name: n{index}\n\
                 jetstream {{ store_dir: \"{}\", sync_interval: always, max_memory_store: 64MB, max_file_store: {} }}\n",
                store.display(),
                storage
            );
            let log = home.path().join(format!("n{index}.log"));
            text += &format!("log_file: \"{}\"\n", log.display());
            if count > 1 {
                // Clients go only where they are told to, so that a proxy in between can cut them off.
                text += &format!(
                    "cluster {{ name: test, listen: \"127.0.0.1:{route}\", routes: [{}], no_advertise: true }}\n",
                    routes.join(", ")
                );
            }
            let config = home.path().join(format!("n{index}.conf"));
            std::fs::write(&config, text).context("write the configuration of nats-server")?;
            servers.push(NatsServer { process: None, config, log, port, monitor });
        }
        let mut all = Self { servers, _home: home };
        for index in 0..count {
            all.revive(index)?;
        }
        for index in 0..count {
            all.healthy(index).await?;
        }
        Ok(all)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.servers.len()
    }

    /// Where a server listens.
    #[must_use]
    pub fn address(&self, index: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.servers[index].port))
    }

    /// Starts a server that is dead.
    ///
    /// # Errors
    /// If it does not start.
    pub fn revive(&mut self, index: usize) -> Result<()> {
        let server = &mut self.servers[index];
        let mut command = Command::new(binary()?);
        command.arg("-c").arg(&server.config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        server.process = Some(Process::spawn("nats-server", &mut command)?);
        Ok(())
    }

    /// Waits until a server says that it is healthy.
    ///
    /// # Errors
    /// If that takes too long.
    pub async fn healthy(&self, index: usize) -> Result<()> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.servers[index].monitor));
        poll_until(FORMING, "nats-server to be healthy", || async move {
            Ok(match metrics::get(address, "/healthz").await {
                Ok(answer) if answer.status == 200 => None,
                Ok(answer) => Some(answer.body),
                Err(error) => Some(error.to_string()),
            })
        })
        .await
    }

    /// Kills a server without notice.
    ///
    /// # Errors
    /// If it has ended before.
    pub async fn kill(&mut self, index: usize) -> Result<()> {
        if let Some(mut process) = self.servers[index].process.take() {
            process.signal(Signal::KILL)?;
            process.wait(FORMING).await?;
        }
        Ok(())
    }
}

impl Drop for NatsServer {
    /// Prints the end of the log, which the test runner shows if the test failed.
    fn drop(&mut self) {
        let Ok(log) = std::fs::read(&self.log) else { return };
        let end = &log[log.len().saturating_sub(SHOWN_LOG_BYTES)..];
        println!("--- the end of {}\n{}---", self.log.display(), String::from_utf8_lossy(end));
    }
}

fn binary() -> Result<PathBuf> {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/bin/nats-server");
    let on_path =
        std::env::var_os("PATH").into_iter().flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let mut places = on_path.map(|place| place.join("nats-server")).chain([fetched]);
    places.find(|place| place.is_file()).context("there is no nats-server: run `tests/tools/fetch nats-server`")
}

/// Ports that nobody else is given while a server that is dead does not hold its own: they lie below those that the system gives out.
///
/// # Errors
/// If there are none.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    const RANGE: std::ops::Range<u16> = 15_000..32_000;
    let mut listeners = Vec::new();
    for _ in 0..100 * count {
        if listeners.len() < count {
            listeners.extend(TcpListener::bind(("127.0.0.1", fastrand::u16(RANGE))));
        }
    }
    ensure!(listeners.len() == count, "there are no free ports");
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}
