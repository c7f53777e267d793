//! A TCP proxy that can cut what is behind it off: by closing connections, or by holding every byte back. It can also be slow, and
//! change what is sent.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

mod rewriter;

pub use rewriter::Rewrite;
use rewriter::Rewriter;

/// What a proxy does with what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carriage {
    /// Passes it on.
    Open,
    /// Closes every connection.
    Closed,
    /// Keeps connections and passes nothing on until it is open again.
    Held,
    /// Passes everything on, each way so much later.
    Slow(Duration),
}

/// A proxy.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<Carriage>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Starts one in front of `to`.
    ///
    /// # Errors
    /// If it cannot listen.
    pub async fn start(to: SocketAddr) -> Result<Self> {
        Self::start_rewriting(to, None).await
    }

    /// As [`Proxy::start`], for clients of NATS whose messages are changed on their way to the server.
    ///
    /// # Errors
    /// As [`Proxy::start`].
    pub async fn start_rewriting(to: SocketAddr, rewrite: Option<Rewrite>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = watch::Sender::new(Carriage::Open);
        let watched = state.subscribe();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, to, watched.clone(), rewrite.clone()));
            }
        });
        Ok(Self { address, state, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what it does, also with connections that are there.
    pub fn set(&self, carriage: Carriage) {
        self.state.send_replace(carriage);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.send_replace(Carriage::Closed);
        self.task.abort();
    }
}

async fn carry(client: TcpStream, to: SocketAddr, mut state: watch::Receiver<Carriage>, rewrite: Option<Rewrite>) {
    if *state.borrow() == Carriage::Closed {
        return;
    }
    let Ok(server) = TcpStream::connect(to).await else { return };
    // Small writes are the rule here.
    drop((client.set_nodelay(true), server.set_nodelay(true)));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let up = pass(from_client, to_server, state.clone(), rewrite.map(Rewriter::new));
    let down = pass(from_server, to_client, state.clone(), None);
    tokio::select! {
        () = up => {}
        () = down => {}
        _ = state.wait_for(|state| *state == Carriage::Closed) => {}
    }
}

/// Chunks that may be on their way.
const ON_THEIR_WAY: usize = 1_024;

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<Carriage>,
    mut rewriter: Option<Rewriter>,
) {
    let (chunks, mut on_their_way) = mpsc::channel::<(Option<Instant>, Vec<u8>)>(ON_THEIR_WAY);
    let now = state.clone();
    let reading = async move {
        let mut bytes = vec![0; 64 * 1024];
        loop {
            let count = from.read(&mut bytes).await.unwrap_or(0);
            let due = match *now.borrow() {
                Carriage::Slow(delay) => Some(Instant::now() + delay),
                Carriage::Open | Carriage::Closed | Carriage::Held => None,
            };
            let chunk = match &mut rewriter {
                Some(rewriter) => rewriter.feed(&bytes[..count]),
                None => bytes[..count].to_vec(),
            };
            if count == 0 || chunks.send((due, chunk)).await.is_err() {
                return;
            }
        }
    };
    let writing = async {
        while let Some((due, bytes)) = on_their_way.recv().await {
            if let Some(due) = due {
                tokio::time::sleep_until(due).await;
            }
            let open = state.wait_for(|state| matches!(state, Carriage::Open | Carriage::Slow(_))).await.is_ok();
            if !open || to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    // What was read before the end is still passed on.
    let reading = async {
        reading.await;
        std::future::pending().await
    };
    tokio::select! {
        () = writing => {}
        () = reading => {}
    }
}
