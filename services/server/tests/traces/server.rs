//! The real binary, and clients that speak to it.

use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

use crate::collector::NEVER;

/// A server that ends with the test.
pub(crate) struct Server {
    child: Child,
    stderr: ChildStderr,
    pub(crate) chat: SocketAddr,
    pub(crate) admin: SocketAddr,
    http: SocketAddr,
}

/// A command that starts a server with these options and variables, on free ports.
fn command(engine: &str, options: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tertulia-server"));
    command.args([
        "--chat",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
        "--log-format",
        "json",
        "--engine",
        engine,
    ]);
    for option in options.iter().chain(&["drain.linger=0s"]) {
        command.args(["--set", option]);
    }
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OTEL_")) {
        command.env_remove(name);
    }
    // What is traced arrives soon.
    command.env("OTEL_BSP_SCHEDULE_DELAY", "20").envs(variables.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// What a server says that does not start.
pub(crate) async fn fails_to_start(options: &[&str], variables: &[(&str, &str)]) -> String {
    let output = timeout(NEVER, command("memory", options, variables).output()).await.expect("it started").unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

impl Server {
    pub(crate) async fn start(options: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::start_on("memory", options, variables).await
    }

    pub(crate) async fn start_on(engine: &str, options: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut child = command(engine, options, variables).spawn().unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let mut line = String::new();
        timeout(NEVER, BufReader::new(stdout).read_line(&mut line)).await.expect("it does not listen").unwrap();
        let addresses: Value = serde_json::from_str(&line).unwrap();
        let address = |part: &str| addresses["listening"][part].as_str().unwrap().parse().unwrap();
        Self { child, stderr, chat: address("chat"), admin: address("admin"), http: address("http") }
    }

    /// One that traces to a collector, also what nobody asks for in a part of this size.
    pub(crate) async fn tracing(collector: SocketAddr, ratio: &str, variables: &[(&str, &str)]) -> Self {
        let endpoint = format!("telemetry.traces.endpoint=http://{collector}");
        let ratio = format!("telemetry.traces.ratio={ratio}");
        Self::start(&["telemetry.traces.enabled=true", &endpoint, &ratio], variables).await
    }

    /// One that traces to a collector on this machine that speaks TLS.
    pub(crate) async fn tracing_securely(collector: SocketAddr, variables: &[(&str, &str)]) -> Self {
        let endpoint = format!("telemetry.traces.endpoint=https://localhost:{}", collector.port());
        Self::start(&["telemetry.traces.enabled=true", &endpoint, "telemetry.traces.ratio=1"], variables).await
    }

    /// Tells it to stop, and answers how it ended and what it had logged.
    pub(crate) async fn stop(mut self, within: Duration) -> (ExitStatus, Vec<Value>) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let mut logged = String::new();
        let status = timeout(within, async {
            self.stderr.read_to_string(&mut logged).await.unwrap();
            self.child.wait().await.unwrap()
        });
        let status = status.await.expect("it does not stop in time");
        (status, logged.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    /// The value of a metric, named with its labels as it is written.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{name} is not in:\n{page}")).parse().unwrap()
    }

    /// Waits until a metric has at least this value.
    pub(crate) async fn until_metric(&self, name: &str, least: f64) {
        let reached = async {
            while self.metric(name).await < least {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(NEVER, reached).await.unwrap_or_else(|_| panic!("{name} does not reach {least}"));
    }

    pub(crate) async fn classic(&self) -> Client {
        let (read, write) = TcpStream::connect(self.chat).await.unwrap().into_split();
        Client { id: String::new(), read: BufReader::new(read), write }
    }

    pub(crate) async fn client(&self, user: &str) -> Client {
        let mut client = self.classic().await;
        client.send(&json!({"Hello": {"version": 1, "user": user}})).await;
        client.id = client.expect("Welcome").await["session"].as_str().unwrap().to_owned();
        client
    }

    /// An extended client in a group.
    pub(crate) async fn member(&self, user: &str, group: &str) -> Client {
        let mut client = self.client(user).await;
        client.send(&json!({"Join": {"group_name": group}})).await;
        client.expect("Joined").await;
        client
    }
}

/// A chat client.
pub(crate) struct Client {
    /// Its connection.
    pub(crate) id: String,
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
}

impl Client {
    pub(crate) async fn send(&mut self, line: &Value) {
        self.send_text(&format!("{line}\n")).await;
    }

    pub(crate) async fn send_text(&mut self, text: &str) {
        self.write.write_all(text.as_bytes()).await.unwrap();
    }

    /// The content of the next line of that kind; others are skipped.
    pub(crate) async fn expect(&mut self, kind: &str) -> Value {
        loop {
            let mut line = String::new();
            timeout(NEVER, self.read.read_line(&mut line)).await.expect("nothing came").unwrap();
            let line: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("the end instead of {kind}"));
            if let Some(content) = line.get(kind) {
                return content.clone();
            }
        }
    }

    /// Posts and waits for the answer, which is of that kind.
    pub(crate) async fn post(&mut self, group: &str, traceparent: Option<&str>, answer: &str) -> Value {
        self.send(&post(group, traceparent)).await;
        self.expect(answer).await
    }
}

/// The line of a post.
pub(crate) fn post(group: &str, traceparent: Option<&str>) -> Value {
    json!({"Post": {"group_name": group, "message": "woof", "traceparent": traceparent}})
}
