//! Accepts connections, counts them, and starts their tasks.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tertulia_protocol::codec::encode;
use tertulia_protocol::{NameRules, classic};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::{Characters, ProxyProtocol};
use super::connection::Task;
use super::metrics::Metrics;
use super::proxy::{self, Fault};
use super::registry::{Admitted, CloseReason, NotAdmitted, Registry};
use super::timers::Patience;
use super::{Config, Limits};
use crate::auth::Auth;
use crate::complaint::Complaint;
use crate::linger::linger;
use crate::places::Places;
use crate::shard::Shards;
use crate::telemetry::trace::Tracer;
use crate::tls::{self, Acceptor, Refused, Stream};

/// Connections beyond `limits.connections` that are told so at the same time; others are closed in silence.
pub const REFUSED_AT_ONCE: usize = 256;

/// Connections that may be about to tell where they are from, or have told and wait for their turn; one more takes the place of the oldest that
/// has not told.
pub const INTRODUCTIONS: usize = 1_024;

/// How long others wait in the kernel's backlog while half of the places are of those who have told: as long as for a handshake's.
const UNDISTURBED: Duration = Duration::from_secs(1);

/// How long a connection may take to tell where it is from.
const INTRODUCTION: Duration = Duration::from_secs(5);

/// What the tasks of all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) limits: Limits,
    pub(super) rules: NameRules,
    pub(super) patience: Patience,
    pub(super) shards: Shards,
    pub(super) metrics: Metrics,
    pub(super) tracer: Tracer,
    pub(super) auth: Auth,
    /// Whether users may take back their messages.
    pub(super) remove_own: bool,
    /// What all posts weigh that wait for the log.
    pub(super) weight: Arc<AtomicUsize>,
    /// That members cannot be caught up: all of them meet the same error, again and again.
    pub(super) unread: Complaint,
    /// That questions cannot be answered, which a client may ask as often as its lines are taken.
    pub(super) unanswered: Complaint,
    /// That clients are not let in.
    pub(super) not_let_in: Complaint,
}

/// The chat listener and its connections.
#[derive(Debug, Clone)]
pub struct Front {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    tasks: TaskTracker,
    /// `None`: clients speak in the clear.
    tls: Option<Acceptor>,
    /// Connections that are being told that there are too many.
    refusing: Arc<AtomicUsize>,
    /// `None`: connections are from where they seem to be.
    introductions: Option<Arc<Introductions>>,
}

/// Connections that have yet to tell where they are from.
#[derive(Debug)]
struct Introductions {
    places: Arc<Places>,
    /// While so many have told and wait, no more are accepted.
    most_waiting: usize,
    waiting: AtomicUsize,
    /// One that waited has begun, or ended.
    begun: Notify,
    complaint: Complaint,
    /// Those that have told begin one after the other, as those do that are accepted: many may tell at the same moment.
    turn: Mutex<()>,
}

/// One of those that have told and wait, until it is dropped.
struct Waiting<'a>(&'a Introductions);

impl Introductions {
    fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            places: Places::new(most),
            most_waiting: (most / 2).max(1),
            waiting: AtomicUsize::new(0),
            begun: Notify::new(),
            complaint: Complaint::default(),
            turn: Mutex::default(),
        })
    }

    fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Waiting(self)
    }

    /// Returns when another connection may be accepted: those of a burst that have told would else take each other's places. For the one who
    /// accepts. Cancel-safe.
    async fn room(&self) {
        let until = tokio::time::Instant::now() + UNDISTURBED;
        while self.waiting.load(Ordering::Acquire) >= self.most_waiting {
            if tokio::time::timeout_at(until, self.begun.notified()).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
        self.0.begun.notify_one();
    }
}

/// Why a connection has not told where it is from.
#[derive(Debug, thiserror::Error)]
enum Untold {
    #[error(transparent)]
    Fault(Fault),
    #[error("others came meanwhile")]
    Displaced,
    #[error("it said nothing for {INTRODUCTION:?}")]
    Silent,
}

/// Takes an address, and does not listen yet: whoever connects is refused.
///
/// # Errors
/// If the address cannot be bound.
pub fn reserve(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A server that comes back must not wait for the last one's connections to time out.
    socket.set_reuseaddr(true)?;
    prepare(&socket)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Listens at an address that was reserved. From now on connections are taken, before anybody accepts them.
///
/// # Errors
/// If somebody else listens there.
pub fn listen(socket: TcpSocket) -> io::Result<TcpListener> {
    const BACKLOG: u32 = 4_096;
    socket.listen(BACKLOG)
}

/// Opens a listening socket.
///
/// # Errors
/// If the address cannot be bound.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    listen(reserve(address)?)
}

/// Options that every connection inherits from its listener (`tcp(7)`, `socket(7)`): set once here, they cost none of them a call.
fn prepare(socket: &TcpSocket) -> io::Result<()> {
    const KEEPALIVE: Duration = Duration::from_secs(60);
    socket.set_nodelay(true)?;
    // Finds dead classic clients, which have no heartbeat.
    socket2::SockRef::from(socket).set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(KEEPALIVE))
}

/// What a front may be given beside what it must have.
#[derive(Debug)]
pub struct Options {
    /// Chooses the posts that are traced.
    pub tracer: Tracer,
    /// Decides who clients are.
    pub auth: Auth,
    /// With it, clients must speak TLS.
    pub tls: Option<Acceptor>,
    /// The number of the first connection; those after it count on.
    pub first_connection: u64,
}

impl Default for Options {
    /// Nothing is traced, clients are taken at their word and speak in the clear, and connections are numbered from 1.
    fn default() -> Self {
        Self { tracer: Tracer::default(), auth: Auth::default(), tls: None, first_connection: 1 }
    }
}

impl Front {
    /// A front whose connections use `shards`.
    #[must_use]
    pub fn new(config: &Config, limits: Limits, shards: Shards, options: Options) -> Self {
        let Options { tracer, auth, tls, first_connection } = options;
        let rules = NameRules {
            max_bytes: limits.group_name_bytes,
            ascii_only: limits.group_name_characters == Characters::Ascii,
        };
        let patience = Patience {
            hello: limits.hello_timeout,
            line: limits.line_timeout,
            idle: limits.idle_timeout,
            heartbeat: config.heartbeat,
            stall: limits.write_stall,
        };
        let registry = Arc::new(Registry::new(&limits, first_connection));
        let metrics = Metrics::new();
        metrics.limits(&limits);
        let shared = Arc::new(Shared {
            limits,
            rules,
            patience,
            shards,
            metrics,
            tracer,
            auth,
            remove_own: config.remove_own,
            weight: Arc::default(),
            unread: Complaint::default(),
            unanswered: Complaint::default(),
            not_let_in: Complaint::default(),
        });
        let introductions = match config.proxy_protocol {
            ProxyProtocol::Off => None,
            ProxyProtocol::Required => Some(Introductions::new(INTRODUCTIONS)),
        };
        Self { shared, registry, tasks: TaskTracker::new(), tls, refusing: Arc::default(), introductions }
    }

    /// The connections.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Accepts connections until `stop`.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let complaint = Complaint::default();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.accept(&listener) => accepted,
            };
            match accepted {
                Ok((socket, peer)) => match &self.introductions {
                    None => self.start(socket, peer, &stop),
                    Some(introductions) => self.introduce(socket, peer, introductions, &stop),
                },
                Err(error) => {
                    self.shared.metrics.accept_errors.increment(1);
                    if !is_of_one_connection(&error) {
                        // Out of descriptors or memory: connections that end are what helps, so wait for some.
                        const PAUSE: Duration = Duration::from_millis(50);
                        if complaint.is_due() {
                            tracing::warn!(%error, "connection not accepted; there may be more");
                        }
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
    }

    /// Accepts a connection; where it begins at once, once there is room for its handshake. Cancel-safe.
    async fn accept(&self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        match &self.introductions {
            None => tls::next(listener, self.tls.as_ref()).await,
            // Those that tell where they are from first wait for room after that.
            Some(introductions) => {
                introductions.room().await;
                listener.accept().await
            }
        }
    }

    /// Has a connection tell where it is from, and starts it then. It does not count before, and nobody waits for it: the oldest of those
    /// that tell nothing give way. Who has told keeps its place.
    fn introduce(
        &self,
        mut socket: TcpStream,
        peer: SocketAddr,
        introductions: &Arc<Introductions>,
        stop: &CancellationToken,
    ) {
        let Some(place) = introductions.places.take() else { return self.shared.metrics.overload.increment(1) };
        let (front, introductions, stop) = (self.clone(), Arc::clone(introductions), stop.clone());
        self.tasks.spawn(async move {
            let given_up = place.given_up();
            let told = async {
                tokio::select! {
                    biased;
                    told = proxy::read(&mut socket) => told.map_err(Untold::Fault),
                    () = given_up.cancelled() => Err(Untold::Displaced),
                    () = tokio::time::sleep(INTRODUCTION) => Err(Untold::Silent),
                }
            };
            match stop.run_until_cancelled(told).await {
                None | Some(Err(Untold::Fault(Fault::Look))) => {}
                Some(Ok(from)) => {
                    place.prove();
                    let waiting = introductions.wait();
                    let turn = async {
                        let turn = introductions.turn.lock().await;
                        if let Some(tls) = &front.tls {
                            tls.room().await;
                        }
                        turn
                    };
                    let Some(turn) = stop.run_until_cancelled(turn).await else { return };
                    front.start(socket, from.unwrap_or(peer), &stop);
                    drop((turn, waiting));
                }
                Some(Err(why)) => {
                    front.shared.metrics.no_proxy_header.increment(1);
                    if introductions.complaint.is_due() {
                        tracing::warn!(
                            %peer,
                            %why,
                            "connection closed: chat.proxy_protocol is required, and it did not tell where it is from; there may be more"
                        );
                    }
                }
            }
        });
    }

    fn start(&self, socket: TcpStream, peer: SocketAddr, stop: &CancellationToken) {
        match self.registry.admit(peer) {
            Ok(admitted) => {
                self.shared.metrics.accepted.increment(1);
                let shared = Arc::clone(&self.shared);
                match &self.tls {
                    None => drop(self.tasks.spawn(converse(shared, Stream::Plain(socket), admitted))),
                    Some(tls) => {
                        // In a box, so that a connection is not larger all its life for its beginning.
                        let accepting = Box::pin(tls.accept(socket));
                        drop(self.tasks.spawn(secure(shared, accepting, admitted, stop.clone())));
                    }
                }
            }
            Err(why) => self.refuse(socket, why),
        }
    }

    /// Tells a connection that there is no room for it; only so many at once, the others are closed in silence.
    fn refuse(&self, mut socket: TcpStream, why: NotAdmitted) {
        if self.refusing.fetch_add(1, Ordering::AcqRel) >= REFUSED_AT_ONCE {
            self.refusing.fetch_sub(1, Ordering::AcqRel);
            self.shared.metrics.overload.increment(1);
            return;
        }
        self.shared.metrics.not_admitted(why);
        if self.tls.is_some() {
            // It would not understand a line in the clear, and a handshake is what a full server has no time for.
            self.refusing.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let refusing = Arc::clone(&self.refusing);
        self.tasks.spawn(async move {
            dismiss(&mut socket, why.to_string()).await;
            refusing.fetch_sub(1, Ordering::AcqRel);
        });
    }

    /// Tells extended clients to connect again elsewhere, spread over `within`.
    pub fn go_away(&self, reason: &str, within: Duration) {
        self.registry.go_away(&Arc::from(reason), within);
    }

    /// Tells extended clients one after the other, evenly over `within`, to connect elsewhere at once. Returns when all are told, or
    /// no connection is left. None may be accepted any more.
    pub async fn send_away(&self, reason: &str, within: Duration) {
        let reason = Arc::from(reason);
        tokio::select! {
            () = self.registry.send_away(&reason, within) => {}
            () = self.emptied() => {}
        }
    }

    /// Returns when no connection is left. None may be accepted any more.
    pub async fn emptied(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Lets every connection carry out what has come; when all is answered, or after `patience`, lets them write what waits and what
    /// is still to be delivered, and close. Returns when all have ended. No connection may be accepted any more.
    pub async fn finish(&self, patience: Duration) {
        // First the answers, then the ends: so that nobody is gone when the last post is delivered.
        if tokio::time::timeout(patience, self.registry.last_call()).await.is_err() {
            tracing::warn!("some posts are not answered yet; connections are closed all the same");
        }
        self.registry.finish();
        self.emptied().await;
    }

    /// Brings the gauges up to date, before they are read.
    pub fn observe(&self) {
        self.shared.metrics.open.set(self.registry.open() as f64);
        let fill = self.registry.fill();
        let metrics = &self.shared.metrics;
        metrics.outbound.set(fill.outbound as f64);
        metrics.outbound_max.set(fill.most_outbound as f64);
        metrics.in_flight_max.set(fill.most_in_flight as f64);
        metrics.in_flight_bytes.set(self.shared.weight.load(Ordering::Relaxed) as f64);
        metrics.groups_max.set(f64::from(fill.most_groups));
        metrics.per_address_max.set(fill.most_per_address as f64);
    }
}

/// Serves a connection to its end.
async fn converse(shared: Arc<Shared>, socket: Stream, admitted: Admitted) {
    let task = Task::new(shared, Arc::clone(&admitted.connection), socket);
    Box::new(task).run(admitted).await;
}

/// Serves a connection that must speak TLS; one that has not come to that when the server stops is dropped.
async fn secure(
    shared: Arc<Shared>,
    accepting: Pin<Box<impl Future<Output = Result<Stream, Refused>> + Send>>,
    admitted: Admitted,
    stop: CancellationToken,
) {
    let accepted = Box::pin(stop.run_until_cancelled_owned(accepting)).await;
    match accepted {
        Some(Ok(socket)) => converse(shared, socket, admitted).await,
        Some(Err(Refused { reason, cause, plaintext })) => {
            tracing::debug!(peer = %admitted.connection.peer, reason = reason.as_str(), cause, "no TLS connection");
            shared.metrics.closed(CloseReason::Tls);
            if let Some(mut socket) = plaintext {
                Box::pin(dismiss(
                    &mut socket,
                    "This port speaks TLS: connect with it; the connection is closed".to_owned(),
                ))
                .await;
            }
        }
        None => shared.metrics.closed(CloseReason::Drain),
    }
}

/// Tells a client that is not served why, in the words that every client knows, and closes.
async fn dismiss(socket: &mut TcpStream, why: String) {
    const PATIENCE: Duration = Duration::from_secs(1);
    let mut line = Vec::new();
    encode(&classic::FromServer::Error(why.into()), &mut line);
    if let Ok(Ok(())) = tokio::time::timeout(PATIENCE, socket.write_all(&line)).await {
        linger(socket).await;
    }
}

/// Errors that tell of one connection that has already ended, not of the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
pub(super) mod tests;
