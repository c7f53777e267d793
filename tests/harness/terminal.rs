//! Drives the built `tertulia` as somebody at a keyboard would, through pipes.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout};

use crate::deadline::{PATIENCE, within};
use crate::process::{Process, binary};

/// A running `tertulia`.
#[derive(Debug)]
pub struct Terminal {
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
        let mut process = Process::spawn("tertulia", Process::piped(&binary).args(arguments))?;
        let child = process.child();
        let keyboard = child.stdin.take();
        let screen = child.stdout.take().context("tertulia has no standard output")?;
        Ok(Self { process, keyboard, screen: BufReader::new(screen).lines() })
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
        let line =
            within(PATIENCE, "a line of output of tertulia", async { Ok(self.screen.next_line().await?) }).await?;
        line.context("tertulia closed its output")
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
                bail!("expected {wanted:?}, tertulia printed {line:?}");
            }
        }
    }

    /// Expects exactly `wanted` as the next line.
    ///
    /// # Errors
    /// If another line comes, or none.
    pub async fn expect(&mut self, wanted: &str) -> Result<()> {
        let line = self.line().await.with_context(|| format!("expected {wanted:?}"))?;
        if line == wanted { Ok(()) } else { bail!("expected {wanted:?}, tertulia printed {line:?}") }
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
