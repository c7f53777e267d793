//! Runs the real `tertulia-server` on free ports.

use std::ffi::OsString;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::admin::Administrator;
use crate::builds::Build;
use crate::client::Connector;
use crate::deadline::{PATIENCE, poll_until, within};
use crate::process::Process;

/// Longest part of the server's log that a failed test shows.
const SHOWN_LOG_BYTES: usize = 16 * 1024;

/// Which engine the servers of this run have, unless their test says which: `embedded` or `memory`.
const ENGINE: &str = "TERTULIA_TEST_ENGINE";
/// How long a server may take to say where it listens that keeps messages in NATS: it waits for that in several steps, each for up to half a
/// minute.
const STARTING_ON_NATS: Duration = Duration::from_secs(120);
/// What disks are spared: with the default a server would begin with writing three times 64 MiB of zeros.
const SEGMENT_BYTES: &str = "1MiB";

/// How a server is started.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    host: Option<IpAddr>,
    data_dir: Option<PathBuf>,
    build: Build,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
}

impl ServerOptions {
    /// Defaults, except for the ports, the data directory, and the size of files on disk. The engine is `embedded`, or what
    /// `TERTULIA_TEST_ENGINE` says.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Listens on another loopback address than 127.0.0.1. Nobody connects from there, so its ports are free for
    /// [`Server::restart_in_place`].
    #[must_use]
    pub fn host(mut self, host: IpAddr) -> Self {
        self.host = Some(host);
        self
    }

    /// Keeps messages in this directory, which outlives the server.
    #[must_use]
    pub fn data_dir(mut self, data_dir: PathBuf) -> Self {
        self.data_dir = Some(data_dir);
        self
    }

    /// Starts another build than this one.
    #[must_use]
    pub fn build(mut self, build: Build) -> Self {
        self.build = build;
        self
    }

    /// Keeps messages in memory, whatever the engine of this run is.
    #[must_use]
    pub fn in_memory(self) -> Self {
        self.set("log.engine", "memory")
    }

    /// Keeps messages on disk, whatever the engine of this run is.
    #[must_use]
    pub fn on_disk(self) -> Self {
        self.set("log.engine", "embedded")
    }

    /// Adds a command line argument.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets an option by its name in the configuration, such as `limits.page`.
    #[must_use]
    pub fn set(self, option: &str, value: impl ToString) -> Self {
        let variable = format!("TERTULIA__{}", option.to_uppercase().replace('.', "__"));
        self.environment(&variable, value)
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn environment(mut self, variable: &str, value: impl ToString) -> Self {
        self.environment.push((variable.to_owned(), value.to_string()));
        self
    }

    /// Starts the server and waits until it listens.
    ///
    /// # Errors
    /// If the binary is not built, or the server ends or says nothing.
    pub async fn start(self) -> Result<Server> {
        let home = tempfile::Builder::new().prefix("tertulia-test-").tempdir().context("make a directory")?;
        let (process, listening) = launch(&self, home.path(), None).await?;
        Ok(Server { options: self, home, process, listening })
    }
}

impl ServerOptions {
    /// Starts the server, which is to refuse that: answers how it ended, and what it said.
    ///
    /// # Errors
    /// If it starts, or does not end.
    pub async fn refused(self) -> Result<(ExitStatus, String)> {
        let home = tempfile::Builder::new().prefix("tertulia-test-").tempdir().context("make a directory")?;
        let mut process = spawn(&self, home.path(), None)?;
        let status = process.wait(PATIENCE).await.context("the server does not refuse to start")?;
        let log = std::fs::read(log_path(home.path())).context("read the server's log")?;
        Ok((status, String::from_utf8_lossy(&log).into_owned()))
    }

    /// Starts the server, and asks it to stop (SIGTERM) once `moment` has come, wherever its start is then: answers how it ended.
    ///
    /// # Errors
    /// If the moment does not come, or the server does not end within `limit`.
    pub async fn terminated_starting<T>(
        self,
        moment: impl Future<Output = Result<T>>,
        limit: Duration,
    ) -> Result<ExitStatus> {
        let home = tempfile::Builder::new().prefix("tertulia-test-").tempdir().context("make a directory")?;
        let mut process = spawn(&self, home.path(), None)?;
        let _what_came = within(PATIENCE, "the moment to stop the server", moment).await?;
        process.signal(Signal::TERM)?;
        process.wait(limit).await.inspect_err(|_| print_log(home.path()))
    }
}

/// Where a server listens, as it says itself on its first line of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening {
    /// For chat clients.
    pub chat: SocketAddr,
    /// For the admin API; `None` if the server has none.
    pub admin: Option<SocketAddr>,
    /// For metrics and probes.
    pub http: SocketAddr,
}

/// A running server with a directory of its own. It is killed and its directory removed when this is dropped.
#[derive(Debug)]
pub struct Server {
    options: ServerOptions,
    home: TempDir,
    process: Process,
    listening: Listening,
}

impl Server {
    /// A server with the default configuration.
    ///
    /// # Errors
    /// As [`ServerOptions::start`].
    pub async fn start() -> Result<Self> {
        ServerOptions::new().start().await
    }

    /// Where it listens now; a restart changes it.
    #[must_use]
    pub fn listening(&self) -> Listening {
        self.listening
    }

    /// Where chat clients connect.
    #[must_use]
    pub fn chat(&self) -> SocketAddr {
        self.listening.chat
    }

    /// Where metrics and probes are.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.listening.http
    }

    /// Calls its admin API, with `grpcurl`.
    ///
    /// # Errors
    /// If it has none, or the call fails; then the text has gRPC's code.
    pub async fn admin(&self, method: &str, data: Value) -> Result<Value> {
        self.administrator()?.call(method, data).await
    }

    /// Calls its admin API.
    ///
    /// # Errors
    /// If it has none.
    pub fn administrator(&self) -> Result<Administrator> {
        self.listening.admin.map(Administrator).context("no admin API")
    }

    /// Makes clients for it.
    #[must_use]
    pub fn connector(&self) -> Connector {
        Connector::new(self.listening.chat)
    }

    /// Its data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        data_dir(&self.options, self.home.path())
    }

    /// The process, for signals and memory.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Asks it to stop (SIGTERM).
    ///
    /// # Errors
    /// If it has ended.
    pub fn terminate(&self) -> Result<()> {
        self.process.signal(Signal::TERM)
    }

    /// Has it look at its files (SIGHUP).
    ///
    /// # Errors
    /// If it cannot be signalled.
    pub fn hang_up(&self) -> Result<()> {
        self.process.signal(Signal::HUP)
    }

    /// Stops its clock (SIGSTOP): it does nothing until [`Server::resume`].
    ///
    /// # Errors
    /// If it has ended.
    pub fn pause(&self) -> Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// If it has ended.
    pub fn resume(&self) -> Result<()> {
        self.process.signal(Signal::CONT)
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// If it has ended before.
    pub async fn kill(&mut self) -> Result<()> {
        self.process.signal(Signal::KILL)?;
        self.process.wait(PATIENCE).await?;
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it does not end within `limit`.
    pub async fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.process.wait(limit).await
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// If the system cannot tell.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.process.ended()?.is_some())
    }

    /// Takes another build from the next start on.
    pub fn set_build(&mut self, build: Build) {
        self.options.build = build;
    }

    /// The program that runs, as the system knows it.
    ///
    /// # Errors
    /// If it has ended.
    pub fn program(&self) -> Result<PathBuf> {
        self.process.program()
    }

    /// Starts it again on the same data directory, after it ended. It listens on other ports.
    ///
    /// # Errors
    /// If it still runs, or does not start.
    pub async fn restart(&mut self) -> Result<()> {
        if self.process.ended()?.is_none() {
            bail!("the server still runs");
        }
        (self.process, self.listening) = launch(&self.options, self.home.path(), None).await?;
        Ok(())
    }

    /// As [`Server::restart`], with chat at the address where it was.
    ///
    /// # Errors
    /// As [`Server::restart`].
    pub async fn restart_in_place(&mut self) -> Result<()> {
        if self.process.ended()?.is_none() {
            bail!("the server still runs");
        }
        (self.process, self.listening) = launch(&self.options, self.home.path(), Some(self.listening.chat)).await?;
        Ok(())
    }

    /// Starts it as [`Server::restart_in_place`] does, and kills it (SIGKILL) after `moment`, wherever its start is then.
    ///
    /// # Errors
    /// If it still runs, or cannot be started or killed.
    pub async fn die_starting(&mut self, moment: Duration) -> Result<()> {
        if self.process.ended()?.is_none() {
            bail!("the server still runs");
        }
        self.process = spawn(&self.options, self.home.path(), Some(self.listening.chat))?;
        tokio::time::sleep(moment).await;
        self.kill().await
    }

    /// All it has logged, once a text is in it: what a running server logs is written by a thread of its own, a little later.
    ///
    /// # Errors
    /// If the log cannot be read, or the text does not come.
    pub async fn until_logged(&self, text: &str) -> Result<String> {
        poll_until(PATIENCE, &format!("the log to say '{text}'"), || async {
            let log = self.log()?;
            Ok((!log.contains(text)).then_some(log))
        })
        .await?;
        self.log()
    }

    /// All it has logged by now.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn log(&self) -> Result<String> {
        let bytes = std::fs::read(log_path(self.home.path())).context("read the server's log")?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Drop for Server {
    /// Prints the end of the log, which the test runner shows if the test failed.
    fn drop(&mut self) {
        print_log(self.home.path());
    }
}

fn log_path(home: &Path) -> PathBuf {
    home.join("server.log")
}

fn print_log(home: &Path) {
    let Ok(log) = std::fs::read(log_path(home)) else { return };
    let end = &log[log.len().saturating_sub(SHOWN_LOG_BYTES)..];
    println!("--- the server's log, last {} of {} bytes\n{}---", end.len(), log.len(), String::from_utf8_lossy(end));
}

fn data_dir(options: &ServerOptions, home: &Path) -> PathBuf {
    options.data_dir.clone().unwrap_or_else(|| home.join("data"))
}

fn spawn(options: &ServerOptions, home: &Path, chat: Option<SocketAddr>) -> Result<Process> {
    let binary = options.build.server()?;
    let log = File::options().create(true).append(true).open(log_path(home)).context("open the server's log")?;
    let mut command = Process::piped(&binary);
    command.stdin(Stdio::null()).stderr(log).current_dir(home);
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("TERTULIA_") {
            command.env_remove(variable);
        }
    }
    let host = options.host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let any_port = SocketAddr::new(host, 0);
    command.args(["--chat", &chat.unwrap_or(any_port).to_string()]);
    // Unless the test says where.
    for port in ["--admin", "--http"].into_iter().filter(|port| !options.arguments.iter().any(|given| given == port)) {
        command.args([port, &any_port.to_string()]);
    }
    command.arg("--data-dir").arg(data_dir(options, home)).args(&options.arguments);
    let engine = std::env::var(ENGINE).unwrap_or_else(|_| "embedded".to_owned());
    command.env("TERTULIA__LOG__ENGINE", engine).env("TERTULIA__LOG__SEGMENT_BYTES", SEGMENT_BYTES);
    command.envs(options.environment.iter().map(|(variable, value)| (variable, value)));
    Process::spawn("tertulia-server", &mut command)
}

async fn launch(options: &ServerOptions, home: &Path, chat: Option<SocketAddr>) -> Result<(Process, Listening)> {
    let mut process = spawn(options, home, chat)?;
    let stdout = process.child().stdout.take().context("the server has no standard output")?;
    let mut lines = BufReader::new(stdout).lines();
    let on_nats = options.arguments.windows(2).any(|pair| pair[0] == "--engine" && pair[1] == "nats");
    let patience = if on_nats { STARTING_ON_NATS } else { PATIENCE };
    // One that ends is not waited for: its output ends with it.
    let first = within(patience, "the server to say where it listens", async { Ok(lines.next_line().await?) }).await;
    let listening = first.and_then(|line| line.context("the server ended before it said where it listens"));
    let listening = listening.and_then(|line| parse_listening(&line)).inspect_err(|_| print_log(home))?;
    // Nothing more is expected there, but a server that says more must not fail for it.
    tokio::spawn(async move { tokio::io::copy(&mut lines.into_inner(), &mut tokio::io::sink()).await });
    Ok((process, listening))
}

/// Reads `{"listening":{"chat":"127.0.0.1:1234","admin":"…","http":"…"}}`.
fn parse_listening(line: &str) -> Result<Listening> {
    let value: serde_json::Value =
        serde_json::from_str(line).with_context(|| format!("the server's first line is not JSON: {line:?}"))?;
    let address = |name: &str| -> Result<SocketAddr> {
        let text = value["listening"][name].as_str().with_context(|| format!("no address of {name} in {line:?}"))?;
        text.parse().with_context(|| format!("the address of {name} in {line:?}"))
    };
    let admin = value["listening"].get("admin").map(|_| address("admin")).transpose()?;
    Ok(Listening { chat: address("chat")?, admin, http: address("http")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_tells_where_it_listens() {
        let line = r#"{"listening":{"chat":"127.0.0.1:1","admin":"127.0.0.1:2","http":"[::1]:3","more":1}}"#;
        let listening = parse_listening(line).unwrap();
        assert_eq!(listening.chat, "127.0.0.1:1".parse().unwrap());
        assert_eq!(listening.http, "[::1]:3".parse().unwrap());
        assert!(parse_listening("listening").is_err());
        assert!(parse_listening(r#"{"listening":{"chat":"127.0.0.1:1"}}"#).unwrap_err().to_string().contains("http"));
    }

    #[test]
    fn an_option_is_set_by_its_name() {
        let options = ServerOptions::new().set("log.retention.messages", 5);
        assert_eq!(options.environment, [("TERTULIA__LOG__RETENTION__MESSAGES".to_owned(), "5".to_owned())]);
    }
}
