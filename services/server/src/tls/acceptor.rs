//! Handshakes: each within a time, so many at once, and each failure counted by its reason.

use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::Either;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::counted::Counted;
use super::keys::{Error, Identity, Source};
use super::metrics::Metrics;
use super::slots::Slots;
use super::{Config, Stream};
use crate::linger::linger;

/// What a TLS connection begins with; no line of a chat, no request of HTTP does.
const HANDSHAKE: u8 = 0x16;
/// What may wait in a connection, encrypted, until its socket takes it.
pub const BUFFER: usize = 32 * 1024;

/// Why a handshake came to nothing; the label `result`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It took too long.
    Timeout,
    /// Newer ones took its place.
    Displaced,
    /// The peer does not speak TLS.
    Plaintext,
    /// The peer went away.
    Closed,
    /// The peer said that it does not accept what it was shown.
    ClientRefused,
    /// The peer must show a certificate, and has not.
    NoClientCertificate,
    /// The peer's certificate does not count.
    BadClientCertificate,
    /// Anything else that goes against the rules, or nothing that both sides can speak.
    Protocol,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::Timeout,
        Self::Displaced,
        Self::Plaintext,
        Self::Closed,
        Self::ClientRefused,
        Self::NoClientCertificate,
        Self::BadClientCertificate,
        Self::Protocol,
    ];

    /// The text of the label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Displaced => "displaced",
            Self::Plaintext => "plaintext",
            Self::Closed => "closed",
            Self::ClientRefused => "client_refused",
            Self::NoClientCertificate => "no_client_certificate",
            Self::BadClientCertificate => "bad_client_certificate",
            Self::Protocol => "protocol",
        }
    }

    fn of(error: &io::Error) -> Self {
        use rustls::Error as Tls;
        match error.get_ref().and_then(|cause| cause.downcast_ref::<Tls>()) {
            Some(Tls::NoCertificatesPresented) => Self::NoClientCertificate,
            Some(Tls::InvalidCertificate(_)) => Self::BadClientCertificate,
            Some(Tls::AlertReceived(_)) => Self::ClientRefused,
            Some(_) => Self::Protocol,
            None => Self::Closed,
        }
    }
}

/// There is no connection.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// What TLS says of it, if anything.
    pub cause: Option<String>,
    /// The connection of a peer that does not speak TLS, from which nothing was read: it can be told so in its own words.
    pub plaintext: Option<TcpStream>,
}

impl Refused {
    fn of(reason: Reason) -> Self {
        Self { reason, cause: None, plaintext: None }
    }
}

/// Accepts a TCP connection of a port that may have TLS; with it, once there is room for a handshake: what comes in a burst waits where the
/// kernel keeps it. Cancel-safe.
///
/// # Errors
/// As [`TcpListener::accept`].
pub async fn next(listener: &TcpListener, tls: Option<&Acceptor>) -> io::Result<(TcpStream, SocketAddr)> {
    if let Some(tls) = tls {
        tls.room().await;
    }
    listener.accept().await
}

/// The connection of a port that may have TLS; with it, as [`Acceptor::accept`] does.
///
/// # Errors
/// The handshake came to nothing.
pub fn open(tls: Option<&Acceptor>, socket: TcpStream) -> impl Future<Output = Result<Stream, Refused>> + Send + use<> {
    match tls {
        None => Either::Left(ready(Ok(Stream::Plain(socket)))),
        Some(tls) => Either::Right(tls.accept(socket)),
    }
}

/// Makes TLS connections of one port's TCP connections; cheap to clone.
#[derive(Debug, Clone)]
pub struct Acceptor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    current: RwLock<Arc<Identity>>,
    /// Differs when those who may vouch for clients do.
    authorities: watch::Sender<u128>,
    slots: Arc<Slots>,
    patience: Duration,
    metrics: Metrics,
}

impl Acceptor {
    /// Reads the files of `source`, and looks at them again as long as what [`Acceptor::follow`] returns runs.
    ///
    /// # Errors
    /// The files cannot be used.
    pub fn new(config: &Config, source: &Source) -> Result<(Self, u128), Error> {
        let contents = source.read()?;
        let fingerprint = contents.fingerprint();
        let identity = Arc::new(source.identity(contents)?);
        let metrics = Metrics::new(source.port, config.handshakes);
        metrics.failing.set(0.0);
        let inner = Inner {
            current: RwLock::new(Arc::clone(&identity)),
            authorities: watch::Sender::new(identity.authorities),
            slots: Arc::new(Slots::new(config.handshakes)),
            patience: config.handshake_timeout,
            metrics,
        };
        let acceptor = Self(Arc::new(inner));
        acceptor.tell(source, &identity);
        Ok((acceptor, fingerprint))
    }

    /// Carries out the handshake of one connection. It counts from this call on, not from when it is first polled: call this in the
    /// order in which connections come, before a task is spawned, since the newest handshakes displace the oldest.
    ///
    /// # Errors
    /// It came to nothing, and is counted.
    pub fn accept(&self, socket: TcpStream) -> impl Future<Output = Result<Stream, Refused>> + Send + use<> {
        let slot = self.0.slots.take();
        let acceptor = self.clone();
        async move {
            let Inner { patience, metrics, .. } = &*acceptor.0;
            let result = tokio::select! {
                biased;
                () = slot.displaced() => Err(Refused::of(Reason::Displaced)),
                result = timeout(*patience, acceptor.shake_hands(socket)) => {
                    result.unwrap_or(Err(Refused::of(Reason::Timeout)))
                }
            };
            metrics.ended(&result.as_ref().map(drop).map_err(|refused| refused.reason));
            result
        }
    }

    /// Returns when another handshake may begin. For one caller at a time, the one that begins them. Cancel-safe.
    pub async fn room(&self) {
        self.0.slots.room().await;
    }

    async fn shake_hands(&self, socket: TcpStream) -> Result<Stream, Refused> {
        let mut first = [0];
        match socket.peek(&mut first).await {
            Ok(1) if first[0] == HANDSHAKE => {}
            Ok(1) => return Err(Refused { plaintext: Some(socket), ..Refused::of(Reason::Plaintext) }),
            Ok(_) | Err(_) => return Err(Refused::of(Reason::Closed)),
        }
        let config = Arc::clone(&self.current().config);
        let accepting = TlsAcceptor::from(config)
            .accept_with(Counted::new(socket), |session| session.set_buffer_limit(Some(BUFFER)));
        match accepting.into_fallible().await {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
            Err((error, mut socket)) => {
                let reason = Reason::of(&error);
                if reason != Reason::Closed {
                    // So that the alert arrives, which says what was wrong.
                    linger(&mut socket).await;
                }
                Err(Refused { cause: Some(error.to_string()), ..Refused::of(reason) })
            }
        }
    }

    /// What is shown now.
    pub(super) fn current(&self) -> Arc<Identity> {
        Arc::clone(&self.0.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells when others may vouch for clients: those who were let in before may have been vouched for by somebody who may not any more.
    #[must_use]
    pub fn authorities(&self) -> watch::Receiver<u128> {
        self.0.authorities.subscribe()
    }

    /// Connections that come from now on are shown another certificate.
    pub(super) fn replace(&self, source: &Source, identity: Identity) {
        let identity = Arc::new(identity);
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&identity);
        self.tell(source, &identity);
        self.metrics().reloaded.increment(1);
        let changes = |before: &mut u128| std::mem::replace(before, identity.authorities) != identity.authorities;
        self.0.authorities.send_if_modified(changes);
    }

    fn tell(&self, source: &Source, identity: &Identity) {
        let Identity { subject, expires, expiring, .. } = identity;
        self.metrics().expiry.set(expires.as_secs() as f64);
        let expires = std::time::UNIX_EPOCH + *expires;
        let port = source.port.as_str();
        let until = humantime::format_rfc3339_seconds(expires);
        if expires <= std::time::SystemTime::now() {
            tracing::error!(port, subject, expiring, expired = %until, "a certificate has expired");
        } else {
            tracing::info!(port, subject, expires = %until, "certificate loaded");
        }
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Brings the gauges up to date, before they are read.
    pub fn observe(&self) {
        self.metrics().under_way.set(self.0.slots.taken() as f64);
    }
}

/// The certificate that the peer has shown; none where none is asked for.
pub(super) fn shown(stream: &TlsStream<Counted>) -> Option<&[u8]> {
    stream.get_ref().1.peer_certificates()?.first().map(AsRef::as_ref)
}
