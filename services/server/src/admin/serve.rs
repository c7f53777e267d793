//! The port of the admin API: HTTP/2, in the clear or within TLS, for gRPC.
//!
//! A connection must begin with the preface of HTTP/2 within a time, and answer pings as long as it lives: what sends anything
//! else, sends slowly or has died is closed, and nobody waits for it. All its tasks are of one tracker.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tertulia_proto::admin::v1::admin_service_server::AdminServiceServer;
use tokio::io::{AsyncReadExt, AsyncWrite, join, split};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic_health::server::health_reporter;

use super::gate::{Caller, Gate, Uncertified};
use super::tokens::Tokens;
use super::{Config, Service, health, reflection};
use crate::complaint::Complaint;
use crate::places::{Place, Places};
use crate::readiness::Readiness;
use crate::reload::Looks;
use crate::telemetry::trace::Tracer;
use crate::tls::{self, Acceptor, Reason, Refused, Stream};

/// What every connection of HTTP/2 begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What a request may take beside the text of an announcement, in bytes.
const REQUEST_BYTES: usize = 16 * 1024;
/// What the headers of a request may take, in bytes.
const HEADER_BYTES: u32 = 16 * 1024;
/// Requests at the same time on one connection.
const REQUESTS: u32 = 32;
/// What waits to be sent of one answer, and what may come unasked of one request, in bytes.
const STREAM_BYTES: u32 = 64 * 1024;
/// What may come unasked on one connection, in bytes.
const CONNECTION_BYTES: u32 = 256 * 1024;
/// The shortest and the longest pause after a failed accept.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How long a connection may take for what it does.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// Until its preface has arrived.
    preface: Duration,
    /// Until a request is answered, or its stream begins.
    request: Duration,
    /// Between two pings, and until one is answered.
    ping: Duration,
    /// Until what is under way has ended, counted from the server's shutdown.
    shutdown: Duration,
}

const PATIENCE: Patience = Patience {
    preface: Duration::from_secs(5),
    request: Duration::from_secs(10),
    ping: Duration::from_secs(10),
    shutdown: Duration::from_secs(2),
};

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The descriptors of the API are not in order.
    #[error("cannot describe the admin API")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// What serves the API, before it listens.
#[derive(Debug)]
pub struct Server {
    gate: Arc<Gate>,
    places: Arc<Places>,
    patience: Patience,
    readiness: Readiness,
    health: tonic_health::server::HealthReporter,
    /// `None`: callers speak in the clear.
    tls: Option<Acceptor>,
}

impl Server {
    /// A server of `service`, whose calls `tracer` may choose to be traced. Callers must present a token, if there are `tokens`, and speak
    /// TLS, if there is `tls`.
    ///
    /// # Errors
    /// If the API cannot be described.
    pub fn new(
        config: &Config,
        tokens: Option<Tokens>,
        service: Service,
        readiness: Readiness,
        tracer: Tracer,
        tls: Option<Acceptor>,
    ) -> Result<Self, Error> {
        Ok(Self { tls, ..Self::with_patience(config, tokens, service, readiness, tracer, PATIENCE)? })
    }

    fn with_patience(
        config: &Config,
        tokens: Option<Tokens>,
        service: Service,
        readiness: Readiness,
        tracer: Tracer,
        patience: Patience,
    ) -> Result<Self, Error> {
        let tokens = tokens.map(Arc::new);
        let metrics = Arc::clone(&service.metrics);
        let max_request = service.max_message + REQUEST_BYTES;
        let (health, health_service) = health_reporter();
        let mut routes = Routes::builder();
        routes.add_service(AdminServiceServer::new(service).max_decoding_message_size(max_request));
        // Whoever asks for health needs no token: it should not be able to make the server hold more than that.
        routes.add_service(health_service.max_decoding_message_size(REQUEST_BYTES));
        reflection::add_to(&mut routes)?;
        let gate = Gate {
            routes: routes.routes().prepare(),
            tokens,
            patience: patience.request,
            metrics,
            tracer,
            complaint: Complaint::default(),
            denied: Complaint::default(),
            uncertified: Uncertified::default(),
        };
        let places = Places::new(config.connections);
        Ok(Self { gate: Arc::new(gate), places, patience, readiness, health, tls: None })
    }

    /// Looks at the file of the token whenever it is time, until `stop`: a new one takes the place of the one before.
    pub fn follow_token(&self, looks: Looks, stop: &CancellationToken, tasks: &TaskTracker) {
        if let Some(tokens) = &self.gate.tokens {
            tasks.spawn(Arc::clone(tokens).follow(looks, self.gate.metrics.token_reload_failing.clone(), stop.clone()));
        }
    }

    /// Serves until `stop`. Connections are tasks of `tracker` and end soon after it.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken, tracker: TaskTracker) {
        let Self { gate, places, patience, readiness, health, tls } = self;
        tracker.spawn(health::follow(health, readiness.subscribe(), stop.clone()));
        let mut backoff = BACKOFF.0;
        loop {
            // Both are cancel-safe.
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                accepted = tls::next(&listener, tls.as_ref()) => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    backoff = BACKOFF.0;
                    let Some(place) = places.take() else {
                        gate.metrics.refused.increment(1);
                        tracing::debug!(%peer, "admin connection refused: too many");
                        continue;
                    };
                    let open = gate.metrics.connection();
                    // Before the handshake: an authority that goes while it lasts is not missed.
                    let authorities = tls.as_ref().map(Acceptor::authorities);
                    let opening = Box::pin(tls::open(tls.as_ref(), stream));
                    let (gate, stop, tasks) = (Arc::clone(&gate), stop.clone(), tracker.clone());
                    let gate_metrics = Arc::clone(&gate.metrics);
                    tracker.spawn(async move {
                        let place = Arc::new(place);
                        let given_up = place.given_up().clone();
                        let served = given_up.run_until_cancelled(async {
                            if let Some(stream) = secure(opening, peer, &stop, &gate.uncertified).await {
                                let trust = Trust::new(&gate, authorities, &stream);
                                converse(stream, peer, gate, patience, (stop, tasks), (place, trust)).await;
                            }
                        });
                        if served.await.is_none() {
                            gate_metrics.refused.increment(1);
                            tracing::debug!(%peer, "admin connection closed: no call was let in from it, and others came");
                        }
                        drop(open);
                    });
                }
                // Such as too many open files: others may close some.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on the admin port");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = sleep(backoff) => {}
                    }
                    backoff = (backoff * 2).min(BACKOFF.1);
                }
            }
        }
    }
}

/// What lets the calls of a connection in, and may end before the connection does.
struct Trust {
    /// Another token.
    token: Option<watch::Receiver<()>>,
    /// Others who may vouch for callers.
    authorities: Option<watch::Receiver<u128>>,
    /// Until when the certificate is good that the caller has shown, from now.
    certificate: Option<Duration>,
}

impl Trust {
    fn new(gate: &Gate, authorities: Option<watch::Receiver<u128>>, stream: &Stream) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let certificate = stream.expires().map(|until| until.saturating_sub(now));
        Self { token: gate.tokens.as_ref().map(|tokens| tokens.changes()), authorities, certificate }
    }

    async fn ends(&mut self) {
        let expired = async {
            match self.certificate {
                Some(left) => sleep(left).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed(self.token.as_mut()) => {}
            () = changed(self.authorities.as_mut()) => {}
            () = expired => {}
        }
    }
}

async fn changed<T>(told: Option<&mut watch::Receiver<T>>) {
    match told {
        // That nobody is left to tell is a change too.
        Some(told) => drop(told.changed().await),
        None => std::future::pending().await,
    }
}

/// The connection that is to be served: with TLS, once its handshake is done. `None` if that comes to nothing.
async fn secure(
    opening: impl Future<Output = Result<Stream, Refused>>,
    peer: SocketAddr,
    stop: &CancellationToken,
    uncertified: &Uncertified,
) -> Option<Stream> {
    let refused = match stop.run_until_cancelled(opening).await? {
        Ok(stream) => return Some(stream),
        Err(refused) => refused,
    };
    let (reason, cause) = (refused.reason.as_str(), refused.cause);
    // The caller often hears no more than that there is no connection.
    let is_told = match refused.reason {
        Reason::NoClientCertificate => uncertified.without.is_due(),
        Reason::BadClientCertificate => uncertified.with_bad.is_due(),
        _ => false,
    };
    if is_told {
        tracing::warn!(%peer, reason, cause, "admin caller without the right certificate; there may be more of them");
    } else {
        tracing::debug!(%peer, reason, cause, "no TLS connection to the admin port");
    }
    None
}

/// One connection, from its first byte to its end.
async fn converse(
    mut stream: Stream,
    peer: SocketAddr,
    gate: Arc<Gate>,
    patience: Patience,
    (stop, tracker): (CancellationToken, TaskTracker),
    (place, mut trust): (Arc<Place>, Trust),
) {
    let began = stop.run_until_cancelled(timeout(patience.preface, begins_with_preface(&mut stream))).await;
    if !matches!(began, Some(Ok(true))) {
        tracing::debug!(%peer, "admin connection closed: it does not speak HTTP/2");
        return;
    }
    let caller = Caller { address: peer, subject: stream.subject().map(Arc::from) };
    let answer = service_fn(move |request| {
        let (gate, caller, place) = (Arc::clone(&gate), caller.clone(), Arc::clone(&place));
        async move { Ok::<_, Infallible>(gate.answer(request, caller, &place).await) }
    });
    let connection = http2::Builder::new(OnTracker(tracker))
        .timer(TokioTimer::new())
        .keep_alive_interval(patience.ping)
        .keep_alive_timeout(patience.ping)
        .max_concurrent_streams(REQUESTS)
        .max_header_list_size(HEADER_BYTES)
        .max_send_buf_size(STREAM_BYTES as usize)
        .initial_stream_window_size(STREAM_BYTES)
        .initial_connection_window_size(CONNECTION_BYTES)
        .serve_connection(TokioIo::new(with_preface(stream)), answer);
    let mut connection = std::pin::pin!(connection);
    let over = async {
        tokio::select! {
            () = stop.cancelled() => {}
            () = trust.ends() => {}
        }
    };
    let result = tokio::select! {
        biased;
        result = connection.as_mut() => Some(result),
        // Also where trust ends: what goes on for long, such as a watch, was begun with it.
        () = over => {
            connection.as_mut().graceful_shutdown();
            timeout(patience.shutdown, connection.as_mut()).await.ok()
        }
    };
    match result {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%peer, %error, "admin connection failed"),
        None => tracing::debug!(%peer, "admin connection cut off"),
    }
}

/// Reads the preface; ends at the first byte that is none of it.
async fn begins_with_preface(stream: &mut Stream) -> bool {
    let mut read = [0; PREFACE.len()];
    let mut length = 0;
    while length < PREFACE.len() {
        match stream.read(&mut read[length..]).await {
            Ok(0) | Err(_) => return false,
            Ok(count) => length += count,
        }
        if read[..length] != PREFACE[..length] {
            return false;
        }
    }
    true
}

/// A stream whose preface was read, as it was before.
fn with_preface(stream: Stream) -> impl tokio::io::AsyncRead + AsyncWrite + Unpin + Send {
    let (read, write) = split(stream);
    join((&PREFACE[..]).chain(read), write)
}

/// Has requests run as tasks of a tracker, so that their end can be waited for.
#[derive(Debug, Clone)]
struct OnTracker(TaskTracker);

impl<F> hyper::rt::Executor<F> for OnTracker
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

#[cfg(test)]
mod tests;
