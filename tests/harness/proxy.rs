//! A TCP proxy that can cut what is behind it off: by closing connections, or by holding every byte back.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What a proxy does with what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carriage {
    /// Passes it on.
    Open,
    /// Closes every connection.
    Closed,
    /// Keeps connections and passes nothing on until it is open again.
    Held,
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
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = watch::Sender::new(Carriage::Open);
        let watched = state.subscribe();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, to, watched.clone()));
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

async fn carry(client: TcpStream, to: SocketAddr, mut state: watch::Receiver<Carriage>) {
    if *state.borrow() == Carriage::Closed {
        return;
    }
    let Ok(server) = TcpStream::connect(to).await else { return };
    // Small writes are the rule here.
    drop((client.set_nodelay(true), server.set_nodelay(true)));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let up = pass(from_client, to_server, state.clone());
    let down = pass(from_server, to_client, state.clone());
    tokio::select! {
        () = up => {}
        () = down => {}
        _ = state.wait_for(|state| *state == Carriage::Closed) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<Carriage>) {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut bytes).await.unwrap_or(0);
        let open = state.wait_for(|state| *state == Carriage::Open).await.is_ok();
        if count == 0 || !open || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
