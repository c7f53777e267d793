//! Drives the built `tertulia`, or another program for people, as somebody at a keyboard would, through pipes.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout};

use crate::deadline::{PATIENCE, within};
use crate::process::{Process, binary};

/// A running program.
#[derive(Debug)]
pub struct Terminal {
    name: &'static str,
    process: Process,
    keyboard: Option<ChildStdin>,
    screen: Lines<BufReader<ChildStdout>>,
}

impl Terminal {
    /// Starts `tertulia` with `arguments`.
    ///
    /// # Errors
    /// If the binary is not built or does not start.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        let binary = binary("tertulia", "TERTULIA_BIN")?;
        Self::run("tertulia", &binary, arguments)
    }

    /// Starts another program with `arguments`; `name` is what it is called when something is wrong.
    ///
    /// # Errors
    /// If it does not start.
    pub fn run(name: &'static str, program: &Path, arguments: &[&str]) -> Result<Self> {
        let mut process = Process::spawn(name, Process::piped(program).args(arguments))?;
        let child = process.child();
        let keyboard = child.stdin.take();
        let screen = child.stdout.take().with_context(|| format!("{name} has no standard output"))?;
        Ok(Self { name, process, keyboard, screen: BufReader::new(screen).lines() })
    }

    /// Types a line.
    ///
    /// # Errors
    /// If nobody reads it.
    pub async fn types(&mut self, line: &str) -> Result<()> {
        let keyboard = self.keyboard.as_mut().context("the keyboard is closed")?;
        keyboard.write_all(format!("{line}\n").as_bytes()).await.with_context(|| format!("type {line:?}"))
    }

    /// Ends the input, as Control-D does.
    pub fn hang_up(&mut self) {
        self.keyboard = None;
    }

    /// Sends a signal, such as `Signal::INT`, as Control-C does.
    ///
    /// # Errors
    /// If it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// The next line of output.
    ///
    /// # Errors
    /// If none comes.
    pub async fn line(&mut self) -> Result<String> {
        let what = format!("a line of output of {}", self.name);
        let line = within(PATIENCE, &what, async { Ok(self.screen.next_line().await?) }).await?;
        line.with_context(|| format!("{} closed its output", self.name))
    }

    /// Skips what is printed before the conversation begins (such as the list of commands), then expects `wanted`.
    ///
    /// # Errors
    /// If another line of the conversation comes first, or none.
    pub async fn expect_in_session(&mut self, wanted: &str) -> Result<()> {
        loop {
            let line = self.line().await.with_context(|| format!("expected {wanted:?}"))?;
            if line == wanted {
                return Ok(());
            }
            if line.starts_with("message posted to ") || line.starts_with("error from server: ") {
                bail!("expected {wanted:?}, {} printed {line:?}", self.name);
            }
        }
    }

    /// Expects exactly `wanted` as the next line.
    ///
    /// # Errors
    /// If another line comes, or none.
    pub async fn expect(&mut self, wanted: &str) -> Result<()> {
        let line = self.line().await.with_context(|| format!("expected {wanted:?}"))?;
        if line == wanted { Ok(()) } else { bail!("expected {wanted:?}, {} printed {line:?}", self.name) }
    }

    /// Waits for the end, and answers the exit code and what was printed to standard error.
    ///
    /// # Errors
    /// If it does not end.
    pub async fn end(mut self, limit: Duration) -> Result<(Option<i32>, String)> {
        let status = self.process.wait(limit).await?;
        let mut complaints = String::new();
        if let Some(mut stderr) = self.process.child().stderr.take() {
            stderr.read_to_string(&mut complaints).await?;
        }
        Ok((status.code(), complaints))
    }
}
