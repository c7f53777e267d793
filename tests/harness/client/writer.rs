//! The half that sends.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use tertulia_protocol::{classic, codec, extended};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;

use super::lock;
use crate::deadline::within;
use crate::recording::{Dialect, Event, Recording, Sent};

/// The half of a client that sends.
#[derive(Debug)]
pub struct Writer {
    pub(super) stream: OwnedWriteHalf,
    pub(super) dialect: Dialect,
    pub(super) recording: Arc<Mutex<Recording>>,
    pub(super) patience: Duration,
}

impl Writer {
    /// Joins `group` from now on.
    ///
    /// # Errors
    /// If the connection does not take it.
    pub async fn join(&mut self, group: &str) -> Result<()> {
        self.join_from(group, None, None, None).await
    }

    /// Joins `group` after a `seq`, or with the newest `last`; the classic dialect knows neither.
    ///
    /// # Errors
    /// If the connection does not take it.
    pub async fn join_from(
        &mut self,
        group: &str,
        after: Option<u64>,
        last: Option<u64>,
        epoch: Option<u64>,
    ) -> Result<()> {
        self.record(Sent::Join { group: group.into(), after, last, epoch });
        match self.dialect {
            Dialect::Classic => self.send(&classic::FromClient::Join { group_name: group.into() }).await,
            Dialect::Extended => {
                let join = extended::Join { group_name: group.into(), after, last, epoch };
                self.send(&extended::FromClient::Join(join)).await
            }
        }
    }

    /// Leaves `group`; only in the extended dialect.
    ///
    /// # Errors
    /// If the connection does not take it.
    pub async fn leave(&mut self, group: &str) -> Result<()> {
        self.record(Sent::Leave { group: group.into() });
        self.send(&extended::FromClient::Leave { group_name: group.into() }).await
    }

    /// Posts a message, with an `id` in the extended dialect if one is given.
    ///
    /// # Errors
    /// If the connection does not take it.
    pub async fn post(&mut self, group: &str, text: &str, id: Option<&str>) -> Result<()> {
        let sent_id = id.filter(|_| self.dialect == Dialect::Extended);
        self.record(Sent::Post { group: group.into(), text: text.into(), id: sent_id.map(Into::into) });
        match self.dialect {
            Dialect::Classic => {
                self.send(&classic::FromClient::Post { group_name: group.into(), message: text.into() }).await
            }
            Dialect::Extended => {
                let id = sent_id.map(Into::into);
                let post = extended::Post { group_name: group.into(), message: text.into(), id, traceparent: None };
                self.send(&extended::FromClient::Post(post)).await
            }
        }
    }

    /// Sends any frame. It is not recorded.
    ///
    /// # Errors
    /// If the connection does not take it.
    pub async fn send(&mut self, frame: &impl serde::Serialize) -> Result<()> {
        let mut line = Vec::new();
        codec::encode(frame, &mut line);
        self.send_bytes(&line).await
    }

    /// Sends bytes as they are. They are not recorded.
    ///
    /// # Errors
    /// If the connection does not take them.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let patience = self.patience;
        within(patience, "the server to take a line", async { Ok(self.stream.write_all(bytes).await?) }).await
    }

    /// Says that nothing more will be sent; the other direction stays.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn shutdown(&mut self) -> Result<()> {
        Ok(self.stream.shutdown().await?)
    }

    fn record(&self, sent: Sent) {
        lock(&self.recording).events.push(Event::Sent(Arc::new(sent)));
    }
}
