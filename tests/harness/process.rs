//! Child processes: where the built binaries are, signals, memory, and no child that outlives its test.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::deadline::within;

/// Where the binary `name` is: what the environment variable `variable` says, or beside the running test.
///
/// # Errors
/// If there is none; the text says how to build it.
pub fn binary(name: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("{variable} names {}, which is not a file", path.display());
        }
        return Ok(path);
    }
    let test = std::env::current_exe().context("find the running test")?;
    // A test is at `target/<profile>/deps/<name>`, the binaries are at `target/<profile>/`.
    let profile = test.ancestors().nth(2).context("the running test has no target directory")?;
    let path = profile.join(name);
    if !path.is_file() {
        bail!(
            "{} is not there: build it with `cargo build --workspace`, or say with {variable} where it is",
            path.display()
        );
    }
    Ok(path)
}

/// A running child. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pid: Pid,
}

impl Process {
    /// Starts `command`, with pipes for what it leaves unset.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(name: &str, command: &mut Command) -> Result<Self> {
        let child = command.kill_on_drop(true).spawn().with_context(|| format!("start {name}"))?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let pid = pid.with_context(|| format!("{name} has no process id"))?;
        Ok(Self { name: name.to_owned(), child, pid })
    }

    /// A command whose standard streams are pipes.
    #[must_use]
    pub fn piped(binary: &std::path::Path) -> Command {
        let mut command = Command::new(binary);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The child, to take its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal, such as `Signal::TERM`.
    ///
    /// # Errors
    /// If the child has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.child.id().is_none() {
            bail!("{} has ended already", self.name);
        }
        kill_process(self.pid, signal).with_context(|| format!("send {signal:?} to {}", self.name))
    }

    /// Waits until the child ends.
    ///
    /// # Errors
    /// If it does not within `limit`.
    pub async fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        let ended = within(limit, &what, async { Ok(self.child.wait().await?) }).await;
        ended.map_err(|error| error.context(self.what_it_does()))
    }

    /// What a process that should have ended is doing: whether it has, and this process was not told, or where its threads are.
    fn what_it_does(&mut self) -> String {
        let ended = self.child.try_wait();
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid)).into_iter().flatten().flatten();
        let task = |path: PathBuf| {
            let read = |file| std::fs::read_to_string(path.join(file)).unwrap_or_default();
            let state =
                read("status").lines().find_map(|line| line.strip_prefix("State:")).unwrap_or("").trim().to_owned();
            format!("{} {state} in {} ({})", read("comm").trim(), read("wchan"), read("syscall").trim())
        };
        let tasks: Vec<String> = tasks.map(|entry| task(entry.path())).collect();
        format!("{} has not ended: {ended:?}, its threads: {tasks:?}", self.name)
    }

    /// The status if the child has ended.
    ///
    /// # Errors
    /// If the system cannot tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// The program that it runs.
    ///
    /// # Errors
    /// If the child has ended, or where there is no `/proc`.
    pub fn program(&self) -> Result<PathBuf> {
        let path = format!("/proc/{}/exe", self.pid);
        std::fs::read_link(&path).with_context(|| format!("read {path}"))
    }

    /// Resident memory in bytes (`VmRSS`).
    ///
    /// # Errors
    /// If the child has ended, or where there is no `/proc`.
    pub fn resident_bytes(&self) -> Result<u64> {
        self.status("VmRSS:").map(|kilobytes| kilobytes * 1024)
    }

    /// The most resident memory that there was, in bytes (`VmHWM`).
    ///
    /// # Errors
    /// If the child has ended, or where there is no `/proc`.
    pub fn peak_resident_bytes(&self) -> Result<u64> {
        self.status("VmHWM:").map(|kilobytes| kilobytes * 1024)
    }

    /// Descriptors that its table has room for (`FDSize`): the kernel makes a larger one as it is needed, and pauses the thread meanwhile.
    ///
    /// # Errors
    /// If the child has ended, or where there is no `/proc`.
    pub fn descriptor_table(&self) -> Result<u64> {
        self.status("FDSize:")
    }

    /// A number of `/proc/PID/status`; sizes are in kilobytes.
    fn status(&self, field: &str) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid);
        let status = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let value =
            line.and_then(|line| line.split_whitespace().next()).with_context(|| format!("no {field} {path}"))?;
        Ok(value.parse()?)
    }
}

/// Lets this process, and the children it starts from now on, open as many files as the system allows.
pub fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        println!("the limit of open files stays at {:?}: {error}", limit.current);
    }
}
