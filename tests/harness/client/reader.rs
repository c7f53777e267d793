//! The half that receives.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tertulia_protocol::codec::LineBuffer;
use tokio::io::AsyncReadExt;
use tokio::net::tcp::OwnedReadHalf;

use super::lock;
use crate::deadline::within;
use crate::decode::Shared;
use crate::recording::{Dialect, Event, Recording};

/// A page of history can hold many long messages; a longer line than this is a fault of the server.
const LONGEST_LINE: usize = 64 * 1024 * 1024;
/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

/// The half of a client that receives.
#[derive(Debug)]
pub struct Reader {
    pub(super) stream: OwnedReadHalf,
    pub(super) lines: LineBuffer,
    pub(super) dialect: Dialect,
    pub(super) shared: Arc<Shared>,
    pub(super) patience: Duration,
    pub(super) may_be_torn: bool,
    pub(super) recording: Arc<Mutex<Recording>>,
}

impl Reader {
    /// The next event; `None` when the server has closed the connection. Waits without a deadline, and may be dropped
    /// while it waits.
    ///
    /// # Errors
    /// If the server sends what is not of the documented shape, or closes the connection within a line.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(line) = self.lines.next_line(LONGEST_LINE)? {
                let event = match self.dialect {
                    Dialect::Classic => self.shared.classic(line)?,
                    Dialect::Extended => self.shared.extended(line)?,
                };
                lock(&self.recording).events.push(event.clone());
                return Ok(Some(event));
            }
            match self.stream.read_buf(self.lines.spare(READ_BYTES)).await {
                Ok(0) if self.lines.has_partial() && !self.may_be_torn => {
                    bail!("the server closed the connection within a line, after {} bytes of it", self.lines.len());
                }
                // A connection that is reset has ended like one that is closed, wherever that was.
                Ok(0) | Err(_) => return Ok(None),
                Ok(_) => {}
            }
        }
    }

    /// The next event that `pick` makes something of; others are recorded and passed over.
    ///
    /// # Errors
    /// If it does not come in time or the connection ends before; `what` names it.
    pub async fn until<T>(&mut self, what: &str, mut pick: impl FnMut(&Event) -> Option<T>) -> Result<T> {
        let waited = within(self.patience, what, async {
            loop {
                let Some(event) = self.next().await? else { bail!("the server closed the connection") };
                if let Some(picked) = pick(&event) {
                    return Ok(picked);
                }
            }
        });
        let waited = waited.await;
        waited.with_context(|| describe_end(&lock(&self.recording)))
    }

    /// Reads until a message of `group` with the text `text` has been seen, if it has not been seen before.
    ///
    /// # Errors
    /// As [`Reader::until`].
    pub async fn until_text(&mut self, group: &str, text: &str) -> Result<()> {
        let is_it = |event: &Event| match event {
            Event::Message(it) => &*it.group == group && &*it.text == text,
            Event::Text(it) => &*it.group == group && &*it.text == text,
            _ => false,
        };
        if lock(&self.recording).events.iter().rev().any(is_it) {
            return Ok(());
        }
        let what = format!("the message {text:?} in group '{group}'");
        self.until(&what, |event| is_it(event).then_some(())).await
    }

    /// Reads until the server closes the connection.
    ///
    /// # Errors
    /// If it does not in time.
    pub async fn until_closed(&mut self) -> Result<()> {
        within(self.patience, "the server to close the connection", async {
            while self.next().await?.is_some() {}
            Ok(())
        })
        .await
    }
}

/// Whose connection it is and what it saw last, for error messages.
fn describe_end(recording: &Recording) -> String {
    const SHOWN: usize = 5;
    const LONGEST: usize = 300;
    let from = recording.events.len().saturating_sub(SHOWN);
    let shown = recording.events[from..].iter().map(|event| {
        let text = format!("{event:?}");
        text.chars().take(LONGEST).collect::<String>()
    });
    format!("{} saw last: {:#?}", recording.who, shown.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use crate::Connector;

    #[tokio::test]
    async fn a_connection_ends_between_two_lines() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let strict = Connector::new(listener.local_addr().unwrap());
        let lenient = strict.clone().may_be_torn();
        for (connector, after, is_right) in
            [(&strict, "\n", true), (&strict, "\n{\"Mess", false), (&lenient, "\n{\"Mess", true), (&strict, "", false)]
        {
            let mut client = connector.classic("ada").await.unwrap();
            let (mut peer, _) = listener.accept().await.unwrap();
            peer.write_all(format!("{{\"Error\":\"x\"}}{after}").as_bytes()).await.unwrap();
            drop(peer);
            assert_eq!(client.reader.until_closed().await.is_ok(), is_right, "{after:?}");
        }
    }
}
