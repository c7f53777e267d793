//! A TCP proxy that lets an append through and cuts the connection before its answer, and that loses single questions.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub(crate) struct Proxy {
    port: u16,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    armed: AtomicBool,
    cuts: AtomicUsize,
    /// What is in a question that is to be lost.
    losing: Mutex<Option<&'static str>>,
    /// What is in all that are.
    losing_all: Mutex<Option<String>>,
    lost: AtomicUsize,
}

impl State {
    /// Whether this is to be lost.
    fn loses(&self, bytes: &[u8]) -> bool {
        let mut losing = self.losing.lock().unwrap();
        let is_next = losing.take_if(|what| contains(bytes, what.as_bytes())).is_some();
        let losing_all = self.losing_all.lock().unwrap();
        let is_lost = is_next || losing_all.as_ref().is_some_and(|what| contains(bytes, what.as_bytes()));
        self.lost.fetch_add(usize::from(is_lost), Ordering::SeqCst);
        is_lost
    }
}

/// What is in the headers of a takeover or an append of one message, of the end of a larger one, and of its parts: see `link`.
const SINGLE: &[u8] = b"Nats-Expected-Last-Subject-Sequence";
const COMMIT: &[u8] = b"Nats-Batch-Commit";
const MEMBER: &[u8] = b"Nats-Batch-Id";

impl Proxy {
    pub(crate) async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, to, Arc::clone(&shared)));
            }
        });
        Self { port, state, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(crate) fn cut_after_next_append(&self) {
        self.state.armed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn cuts(&self) -> usize {
        self.state.cuts.load(Ordering::SeqCst)
    }

    /// Loses the next question with this text, and whatever is sent along with it; the connection stays.
    pub(crate) fn lose_next(&self, what: &'static str) {
        *self.state.losing.lock().unwrap() = Some(what);
    }

    /// Loses all questions with this text, and whatever is sent along with them, or none any more; the connection stays.
    pub(crate) fn lose_all(&self, what: Option<String>) {
        *self.state.losing_all.lock().unwrap() = what;
    }

    /// How many were lost.
    pub(crate) fn lost(&self) -> usize {
        self.state.lost.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

async fn carry(client: TcpStream, to: u16, state: Arc<State>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let muted = Arc::new(AtomicBool::new(false));
    let mute = Arc::clone(&muted);
    let mut upward = tokio::spawn(async move {
        let mut bytes = vec![0; 256 * 1024];
        let mut tail = Vec::new();
        loop {
            let count = from_client.read(&mut bytes).await.unwrap_or(0);
            if count == 0 {
                return;
            }
            tail.extend_from_slice(&bytes[..count]);
            let is_single = contains(&tail, SINGLE) && !contains(&tail, MEMBER);
            let is_append = is_single || contains(&tail, COMMIT);
            let cut = is_append && state.armed.swap(false, Ordering::SeqCst);
            if cut {
                mute.store(true, Ordering::SeqCst);
                state.cuts.fetch_add(1, Ordering::SeqCst);
            }
            let is_lost = state.loses(&bytes[..count]);
            if !is_lost && to_server.write_all(&bytes[..count]).await.is_err() {
                return;
            }
            if cut {
                // The rest of the append may still come; the server takes what it gets.
                let rest =
                    tokio::time::timeout(std::time::Duration::from_millis(30), from_client.read(&mut bytes)).await;
                if let Ok(Ok(count)) = rest {
                    drop(to_server.write_all(&bytes[..count]).await);
                }
                tokio::time::sleep(std::time::Duration::from_millis(30)).await;
                return;
            }
            let keep = tail.len().saturating_sub(SINGLE.len());
            tail.drain(..keep);
        }
    });
    let mut downward = tokio::spawn(async move {
        let mut bytes = vec![0; 64 * 1024];
        loop {
            let count = from_server.read(&mut bytes).await.unwrap_or(0);
            if count == 0 {
                return;
            }
            if !muted.load(Ordering::SeqCst) && to_client.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
    });
    tokio::select! {
        _ = &mut upward => downward.abort(),
        _ = &mut downward => upward.abort(),
    }
}
