//! The admin API, called as its users call it: with `grpcurl`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStdout, Command};

use crate::deadline::{PATIENCE, within};

fn grpcurl(address: SocketAddr, method: &str, data: &Value) -> Result<Command> {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::env::split_paths(&path).chain([fetched]))?;
    let mut command = Command::new("grpcurl");
    command.env("PATH", path).args(["-plaintext", "-d"]).arg(data.to_string()).arg(address.to_string());
    command.arg(format!("tertulia.admin.v1.AdminService/{method}")).kill_on_drop(true);
    Ok(command)
}

/// Makes a call.
pub(crate) async fn call(address: SocketAddr, method: &str, data: Value) -> Result<Value> {
    let mut command = grpcurl(address, method, &data)?;
    let output = within(PATIENCE, method, async { Ok(command.output().await?) }).await?;
    ensure!(output.status.success(), "{method}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Who calls the admin API of a server, also once that is another process at the same address.
#[derive(Debug, Clone, Copy)]
pub struct Administrator(pub(crate) SocketAddr);

impl Administrator {
    /// Makes a call.
    ///
    /// # Errors
    /// If it fails; then the text has gRPC's code.
    pub async fn call(&self, method: &str, data: Value) -> Result<Value> {
        call(self.0, method, data).await
    }
}

/// A caller that watches events, until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    _child: Child,
    output: ChildStdout,
    read: Vec<u8>,
}

impl Watcher {
    /// Begins to watch; `data` is the request. When this returns the call may still be on its way.
    ///
    /// # Errors
    /// If there is no `grpcurl`.
    pub fn start(address: SocketAddr, data: Value) -> Result<Self> {
        let mut command = grpcurl(address, "WatchEvents", &data)?;
        let mut child = command.stdout(Stdio::piped()).spawn().context("start grpcurl")?;
        let output = child.stdout.take().context("grpcurl has no output")?;
        Ok(Self { _child: child, output, read: Vec::new() })
    }

    /// The next event.
    ///
    /// # Errors
    /// If none comes, or the call ends.
    pub async fn next(&mut self) -> Result<Value> {
        within(PATIENCE, "an event", async {
            loop {
                let mut values = serde_json::Deserializer::from_slice(&self.read).into_iter::<Value>();
                if let Some(Ok(mut value)) = values.next() {
                    let end = values.byte_offset();
                    self.read.drain(..end);
                    return Ok(value["event"].take());
                }
                if self.output.read_buf(&mut self.read).await? == 0 {
                    bail!("the watch ended; left is {:?}", String::from_utf8_lossy(&self.read));
                }
            }
        })
        .await
    }

    /// Events up to the first for which `is_last` holds, that one included.
    ///
    /// # Errors
    /// If it does not come.
    pub async fn until(&mut self, what: &str, mut is_last: impl FnMut(&Value) -> bool) -> Result<Vec<Value>> {
        let mut events = Vec::new();
        loop {
            let event = self.next().await.with_context(|| format!("until {what}; so far {events:#?}"))?;
            let done = is_last(&event);
            events.push(event);
            if done {
                return Ok(events);
            }
        }
    }
}
