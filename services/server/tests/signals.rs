//! Signals that come while something does not answer.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "clippy takes only functions marked as tests for tests")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process};

/// Long enough never to pass in a test that works, and less than a stop may take (`drain.grace`).
const NEVER: Duration = Duration::from_secs(15);

/// What `wait` answers; it goes on in a thread of its own if that takes too long.
fn within<T: Send + 'static>(wait: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, waiting) = mpsc::channel();
    thread::spawn(move || drop(done.send(wait())));
    waiting.recv_timeout(NEVER).ok()
}

struct Server {
    pid: Pid,
    stderr: BufReader<ChildStderr>,
    ended: mpsc::Receiver<ExitStatus>,
}

impl Server {
    fn start(engine: &str, stdout: Stdio, options: &[String]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tertulia-server"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TERTULIA__") {
                command.env_remove(name);
            }
        }
        command.args(["--engine", engine]);
        for port in ["--chat", "--admin", "--http"] {
            command.args([port, "127.0.0.1:0"]);
        }
        for option in options {
            command.args(["--set", option]);
        }
        let mut child = command.stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (end, ended) = mpsc::channel();
        thread::spawn(move || end.send(child.wait().unwrap()).ok());
        Self { pid, stderr, ended }
    }

    /// Its exit code after a SIGTERM; `None` if it had to be killed.
    fn stop(self) -> Option<i32> {
        kill_process(self.pid, Signal::TERM).unwrap();
        let ended = self.ended.recv_timeout(NEVER);
        if ended.is_err() {
            kill_process(self.pid, Signal::KILL).unwrap();
        }
        ended.ok()?.code()
    }
}

#[test]
fn a_start_that_waits_for_a_file_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let [certificate, fifo] = ["cert.pem", "fifo"].map(|name| directory.path().join(name));
    fs::write(&certificate, "a certificate").unwrap();
    // Whoever reads it waits for somebody who writes.
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let (cert, path) = (certificate.display(), fifo.display());
    for (engine, options) in [
        ("memory", vec![format!("chat.tls.cert_file={cert}"), format!("chat.tls.key_file={path}")]),
        ("memory", vec![format!("admin.token_file={path}")]),
        ("nats", vec![format!("nats.tls_ca_file={path}")]),
    ] {
        let server = Server::start(engine, Stdio::null(), &options);
        let path = fifo.clone();
        // It can be opened to write once somebody reads.
        let writer = within(move || File::options().write(true).open(path)).expect("nobody reads it").unwrap();
        assert_eq!(server.stop(), Some(0), "{options:?}");
        drop(writer);
    }
}

#[test]
fn a_server_whose_addresses_nobody_reads_obeys() {
    const PIPE: usize = 64 * 1024;
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&[b'x'; PIPE]).unwrap();
    let mut server = Server::start("memory", writer.into(), &[]);
    let mut line = String::new();
    while !line.contains("listening") {
        line.clear();
        assert!(server.stderr.read_line(&mut line).unwrap() > 0, "it has ended");
    }
    assert_eq!(server.stop(), Some(0));
    drop(reader);
}
