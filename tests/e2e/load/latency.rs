//! How long a message takes from one client to another.

use std::time::{Duration, Instant};

use anyhow::Result;
use harness::{Client, Connector, Event};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Two members of a group of their own.
pub(crate) struct Probe {
    talker: Client,
    listener: Client,
    sent: usize,
}

const GROUP: &str = "latency";

impl Probe {
    pub(crate) async fn new(connector: &Connector) -> Result<Self> {
        let mut talker = connector.extended("talker").await?;
        talker.join(GROUP).await?;
        let mut listener = connector.extended("listener").await?;
        listener.join(GROUP).await?;
        Ok(Self { talker, listener, sent: 0 })
    }

    /// Sends one message and answers how long it took.
    pub(crate) async fn once(&mut self) -> Result<Duration> {
        self.sent += 1;
        let text = format!("tick {}", self.sent);
        let began = Instant::now();
        self.talker.writer.post(GROUP, &text, None).await?;
        let is_it = |event: &Event| matches!(event, Event::Message(it) if *it.text == *text).then_some(());
        self.listener.reader.until(&text, is_it).await?;
        let took = began.elapsed();
        // So that the talker does not fall behind either.
        self.talker.reader.until(&text, is_it).await?;
        Ok(took)
    }

    /// The 99th percentile of `count` messages.
    pub(crate) async fn p99(&mut self, count: usize) -> Result<Duration> {
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            all.push(self.once().await?);
        }
        Ok(p99(all))
    }
}

/// A round trip that has nothing to do with the server: how much the machine itself delays things meanwhile.
pub(crate) struct Control(TcpStream);

impl Control {
    pub(crate) async fn new() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await?;
            let (mut read, mut write) = socket.split();
            tokio::io::copy(&mut read, &mut write).await
        });
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Ok(Self(socket))
    }

    /// Sends one byte there and back, and answers how long it took.
    pub(crate) async fn once(&mut self) -> Result<Duration> {
        let began = Instant::now();
        self.0.write_all(b".").await?;
        self.0.read_exact(&mut [0]).await?;
        Ok(began.elapsed())
    }
}

/// The 99th percentile.
pub(crate) fn p99(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all.get(all.len() * 99 / 100).or(all.last()).copied().unwrap_or_default()
}
