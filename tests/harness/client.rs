//! Chat clients of both dialects that record all they say and see.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tertulia_protocol::code::Code;
use tertulia_protocol::codec::LineBuffer;
use tokio::net::{TcpSocket, TcpStream};

use crate::checker::GroupLog;
use crate::deadline::{PATIENCE, within};
use crate::decode::Shared;
use crate::raw::RawClient;
use crate::recording::{Dialect, End, Event, Joined, Posted, Recording, Welcome};

mod reader;
mod writer;

pub use reader::Reader;
pub use writer::Writer;

/// What a connection with small buffers holds of what is received, in bytes.
const RECEIVE_BUFFER: u32 = 4096;
/// The longest segment of such a connection, in bytes.
const SEGMENT: u32 = 536;

/// Makes connections to one server that share what they see alike.
#[derive(Debug, Clone)]
pub struct Connector {
    /// Of several servers that are one; each connection goes to the next.
    addresses: Arc<[SocketAddr]>,
    next: Arc<AtomicUsize>,
    shared: Arc<Shared>,
    patience: Duration,
    small_buffers: bool,
    may_be_torn: bool,
}

impl Connector {
    /// Connections to `address`.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self::among(&[address])
    }

    /// Connections to several servers that are one, in turn.
    #[must_use]
    pub fn among(addresses: &[SocketAddr]) -> Self {
        let (addresses, next) = (addresses.into(), Arc::default());
        Self { addresses, next, shared: Arc::default(), patience: PATIENCE, small_buffers: false, may_be_torn: false }
    }

    /// Connections to another server that is one with this.
    #[must_use]
    pub fn at(&self, address: SocketAddr) -> Self {
        Self { addresses: [address].into(), ..self.clone() }
    }

    /// Waits for `patience` instead of [`PATIENCE`].
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Makes the system hold little for a connection, in both directions, so that a client that does not read is felt soon.
    /// (Between processes of one machine, segments are long, and the sender's buffer is as many times as long.)
    #[must_use]
    pub fn small_buffers(mut self) -> Self {
        self.small_buffers = true;
        self
    }

    /// Lets a connection end within a line, as one does whose server is killed. Else that is a fault.
    #[must_use]
    pub fn may_be_torn(mut self) -> Self {
        self.may_be_torn = true;
        self
    }

    /// A connection of raw bytes.
    ///
    /// # Errors
    /// If it cannot be made.
    pub async fn raw(&self) -> Result<RawClient> {
        Ok(RawClient::new(self.stream().await?))
    }

    /// A classic client; `who` is its name in what the checker says.
    ///
    /// # Errors
    /// If the connection cannot be made.
    pub async fn classic(&self, who: &str) -> Result<Client> {
        Ok(self.client(self.stream().await?, Recording::new(who, Dialect::Classic)))
    }

    /// An extended client that has been welcomed as `user`.
    ///
    /// # Errors
    /// If the connection cannot be made or is not welcome.
    pub async fn extended(&self, user: &str) -> Result<Client> {
        let mut client = self.client(self.stream().await?, Recording::new(user, Dialect::Extended));
        client.send_json(&json!({"Hello": {"version": tertulia_protocol::VERSION, "user": user}})).await?;
        client.welcomed().await?;
        Ok(client)
    }

    async fn stream(&self) -> Result<TcpStream> {
        within(self.patience, "a connection to the server", async {
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            let address = self.addresses.get(turn % self.addresses.len().max(1)).context("no server to connect to")?;
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            if self.small_buffers {
                socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
                socket2::SockRef::from(&socket).set_tcp_mss(SEGMENT)?;
            }
            let stream = socket.connect(*address).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        })
        .await
    }

    fn client(&self, stream: TcpStream, recording: Recording) -> Client {
        let dialect = recording.dialect;
        let recording = Arc::new(Mutex::new(recording));
        let (read, write) = stream.into_split();
        let reader = Reader {
            stream: read,
            lines: LineBuffer::new(),
            dialect,
            shared: Arc::clone(&self.shared),
            patience: self.patience,
            may_be_torn: self.may_be_torn,
            recording: Arc::clone(&recording),
        };
        Client { reader, writer: Writer { stream: write, dialect, recording, patience: self.patience } }
    }
}

/// A client of either dialect.
#[derive(Debug)]
pub struct Client {
    /// The half that receives.
    pub reader: Reader,
    /// The half that sends.
    pub writer: Writer,
}

impl Client {
    /// The next event, in time.
    ///
    /// # Errors
    /// If there is none, or the connection ends.
    pub async fn next(&mut self) -> Result<Event> {
        self.reader.until("any line", |event| Some(event.clone())).await
    }

    /// Sends a frame given as JSON. It is not recorded.
    ///
    /// # Errors
    /// If the connection does not take it.
    pub async fn send_json(&mut self, frame: &serde_json::Value) -> Result<()> {
        self.writer.send(frame).await
    }

    /// Asks for a join, a page of history or of members, and answers the code with which that is refused, or nothing if it is granted.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn refusal(&mut self, request: &serde_json::Value) -> Result<Option<String>> {
        self.send_json(request).await?;
        let answered = |event: &Event| match event {
            Event::Rejected(refusal) => Some(Some(refusal.code.as_str().to_owned())),
            Event::Joined(_) | Event::History(_) | Event::Members(_) => Some(None),
            _ => None,
        };
        self.reader.until("an answer", answered).await
    }

    /// Joins `group` from now on and waits for `Joined`.
    ///
    /// # Errors
    /// If it does not come.
    pub async fn join(&mut self, group: &str) -> Result<Arc<Joined>> {
        self.join_from(group, None, None, None).await
    }

    /// Joins `group` as told and waits for `Joined`.
    ///
    /// # Errors
    /// If it does not come.
    pub async fn join_from(
        &mut self,
        group: &str,
        after: Option<u64>,
        last: Option<u64>,
        epoch: Option<u64>,
    ) -> Result<Arc<Joined>> {
        self.writer.join_from(group, after, last, epoch).await?;
        self.answer(&format!("Joined of group '{group}'"), |event| match event {
            Event::Joined(it) if &*it.group == group => Some(Arc::clone(it)),
            _ => None,
        })
        .await
    }

    /// Posts a message with an id and waits for `Posted`.
    ///
    /// # Errors
    /// If it does not come.
    pub async fn post(&mut self, group: &str, text: &str, id: &str) -> Result<Arc<Posted>> {
        self.writer.post(group, text, Some(id)).await?;
        self.answer(&format!("Posted of '{id}' in group '{group}'"), |event| match event {
            Event::Posted(it) if &*it.group == group && it.id.as_deref() == Some(id) => Some(Arc::clone(it)),
            _ => None,
        })
        .await
    }

    /// Sends `Ping` and waits for `Pong`: what the server does in order is done then.
    ///
    /// # Errors
    /// If it does not come.
    pub async fn ping(&mut self) -> Result<()> {
        self.send_json(&json!({"Ping": {}})).await?;
        self.answer("Pong", |event| matches!(event, Event::Pong).then_some(())).await
    }

    /// All that the log holds of `group`, page by page; the pages are recorded too.
    ///
    /// # Errors
    /// If a page does not come, also when it is refused for the moment.
    pub async fn read_log(&mut self, group: &str) -> Result<GroupLog> {
        self.read_pages(group, Duration::ZERO).await
    }

    /// As [`Client::read_log`] after a fault, when the log may still be out of reach for a while: what is refused for the moment is asked
    /// for again.
    ///
    /// # Errors
    /// If a page does not come.
    pub async fn read_log_patiently(&mut self, group: &str) -> Result<GroupLog> {
        self.read_pages(group, PATIENCE).await
    }

    async fn read_pages(&mut self, group: &str, patience: Duration) -> Result<GroupLog> {
        let mut log = GroupLog { group: group.into(), epoch: 0, messages: Vec::new() };
        let mut is_first = true;
        let began = Instant::now();
        loop {
            let after = log.messages.last().map_or(0, |message| message.seq);
            self.send_json(&json!({"History": {"group_name": group, "after": after}})).await?;
            let what = format!("History of group '{group}' after {after}");
            let answer = self.reader.until(&what, |event| match event {
                Event::History(it) if &*it.group == group => Some(Ok(Arc::clone(it))),
                Event::Rejected(it) => Some(Err(Arc::clone(it))),
                _ => None,
            });
            let page = match answer.await? {
                Ok(page) => page,
                // The log is to be read again after a moment.
                Err(it) if it.code == Code::Unavailable && began.elapsed() < patience => {
                    tokio::time::sleep(Duration::from_millis(it.retry_after_ms.unwrap_or_default())).await;
                    continue;
                }
                Err(it) => bail!("waited for {what}, got {it:?}"),
            };
            let epoch = log.epoch;
            ensure!(is_first || page.epoch == epoch, "{what} is of epoch {}, what came before of {epoch}", page.epoch);
            (log.epoch, is_first) = (page.epoch, false);
            log.messages.extend(page.messages.iter().cloned());
            if !page.more {
                return Ok(log);
            }
            if page.messages.is_empty() {
                bail!("History of group '{group}' after {after} is empty and says that there is more");
            }
        }
    }

    /// Ends the recording while everything is settled and the connection is up: what is missing then is lost.
    #[must_use]
    pub fn settled(self) -> Recording {
        self.finish(End::Settled)
    }

    /// Closes the connection; it may have missed the newest.
    #[must_use]
    pub fn cut(self) -> Recording {
        self.finish(End::Cut)
    }

    /// The newest `seq` seen of `group` and its epoch.
    #[must_use]
    pub fn resume_point(&self, group: &str) -> Option<(u64, u64)> {
        lock(&self.reader.recording).resume_point(group)
    }

    async fn welcomed(&mut self) -> Result<Arc<Welcome>> {
        let welcome = self.answer("Welcome", |event| match event {
            Event::Welcome(it) => Some(Arc::clone(it)),
            _ => None,
        });
        let welcome = welcome.await?;
        lock(&self.reader.recording).user = Some(Arc::clone(&welcome.user));
        Ok(welcome)
    }

    /// Waits for an answer; a refusal instead is an error at once.
    async fn answer<T>(&mut self, what: &str, mut pick: impl FnMut(&Event) -> Option<T>) -> Result<T> {
        let answer = self.reader.until(what, |event| match event {
            Event::Rejected(refusal) => Some(Err(format!("{refusal:?}"))),
            event => pick(event).map(Ok),
        });
        answer.await?.map_err(|refusal| anyhow::anyhow!("waited for {what}, got {refusal}"))
    }

    fn finish(self, end: End) -> Recording {
        let mut recording = lock(&self.reader.recording);
        recording.end = end;
        let empty = Recording::new(&recording.who, recording.dialect);
        std::mem::replace(&mut *recording, empty)
    }
}

fn lock(recording: &Mutex<Recording>) -> MutexGuard<'_, Recording> {
    recording.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers questions for history with these pages.
    async fn answer(listener: TcpListener, pages: [serde_json::Value; 2]) -> Result<()> {
        let mut peer = RawClient::new(listener.accept().await?.0);
        let limits = json!({"line_bytes": 1, "message_bytes": 1, "group_name_bytes": 1, "groups": 1,
            "posts_per_second": 0, "page": 1});
        let welcome = json!({"version": 1, "server": "x", "session": "c", "user": "ada", "limits": limits,
            "heartbeat": 30_000});
        peer.expect_json(&json!({"Hello": {}})).await?;
        peer.line(&json!({"Welcome": welcome}).to_string()).await?;
        for page in pages {
            peer.expect_json(&json!({"History": {}})).await?;
            peer.line(&json!({"History": page}).to_string()).await?;
        }
        peer.expect_closed().await
    }

    #[tokio::test]
    async fn a_log_is_of_one_life() {
        for (epoch, is_right) in [(7, true), (8, false)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let connector = Connector::new(listener.local_addr().unwrap());
            let page = |epoch: u64, seq: u64, more: bool| {
                let message = json!({"message": "x", "seq": seq, "sender": "ada", "at": 1});
                json!({"group_name": "Dogs", "epoch": epoch, "messages": [message], "more": more})
            };
            let server = tokio::spawn(answer(listener, [page(7, 1, true), page(epoch, 2, false)]));
            let mut client = connector.extended("ada").await.unwrap();
            let log = client.read_log("Dogs").await;
            assert_eq!(log.is_ok(), is_right, "{log:?}");
            drop(client);
            server.await.unwrap().unwrap();
        }
    }
}
