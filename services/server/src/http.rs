//! The HTTP port: metrics for Prometheus, liveness and readiness for whoever runs the server.
//!
//! One request per connection, and a limit of time and size on each: a peer that sends garbage, sends slowly or never
//! reads is closed, whatever it does, and nobody waits for it.

use std::convert::Infallible;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::linger::linger;
use crate::places::Places;
use crate::readiness::Readiness;
use crate::tls::{self, Acceptor, Refused, Stream};

pub mod config;
mod metrics;
mod pages;
pub mod probe;
mod rendering;
#[cfg(test)]
mod tests;

pub use config::Config;
pub use metrics::describe;

use pages::Pages;
use rendering::Rendering;

/// What the request line and the headers may take, in bytes.
const HEADER_BYTES: usize = 16 * 1024;
/// How many headers a request may have.
const HEADERS: usize = 64;
/// The shortest and the longest pause after a failed accept.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How long a connection may take for what it does.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// Until its request has arrived.
    header: Duration,
    /// Until it has taken the answer, counted from its beginning.
    exchange: Duration,
    /// Until it has taken the answer, counted from the server's shutdown.
    shutdown: Duration,
}

const PATIENCE: Patience =
    Patience { header: Duration::from_secs(5), exchange: Duration::from_secs(15), shutdown: Duration::from_secs(1) };

/// Serves until `shutdown`. Connections are tasks of `tracker` and end soon after it. `render` gives the text of the metrics. With `tls`,
/// those who ask must speak it.
pub async fn serve<R>(
    listener: TcpListener,
    config: Config,
    render: R,
    readiness: Readiness,
    tls: Option<Acceptor>,
    shutdown: CancellationToken,
    tracker: TaskTracker,
) where
    R: Fn() -> String + Send + Sync + 'static,
{
    let pages = Pages { rendering: Rendering::new(render), readiness };
    accept(listener, &config, pages, PATIENCE, tls, shutdown, tracker).await;
}

async fn accept<R>(
    listener: TcpListener,
    config: &Config,
    pages: Pages<R>,
    patience: Patience,
    tls: Option<Acceptor>,
    shutdown: CancellationToken,
    tracker: TaskTracker,
) where
    R: Fn() -> String + Send + Sync + 'static,
{
    // Nobody proves anything by a question that everybody may ask: the oldest connection gives way.
    let places = Places::new(config.connections);
    let mut backoff = BACKOFF.0;
    loop {
        // Both are cancel-safe.
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            accepted = tls::next(&listener, tls.as_ref()) => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                backoff = BACKOFF.0;
                let Some(place) = places.take() else {
                    metrics::refused();
                    debug!(%peer, "http connection refused: too many");
                    continue;
                };
                let opening = Box::pin(tls::open(tls.as_ref(), stream));
                let (pages, stop) = (pages.clone(), shutdown.clone());
                tracker.spawn(async move {
                    let _open = metrics::Open::new();
                    let served = place.given_up().run_until_cancelled(async {
                        if let Some(stream) = secure(opening, &stop).await {
                            converse(stream, pages, patience, stop).await;
                        }
                    });
                    if served.await.is_none() {
                        metrics::refused();
                        debug!(%peer, "http connection closed: others came");
                    }
                });
            }
            // Such as too many open files: others may close some.
            Err(error) => {
                warn!(%error, "cannot accept on the http port");
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = sleep(backoff) => {}
                }
                backoff = (backoff * 2).min(BACKOFF.1);
            }
        }
    }
}

/// The connection that is to be served: with TLS, once its handshake is done. `None` if that comes to nothing.
async fn secure(opening: impl Future<Output = Result<Stream, Refused>>, stop: &CancellationToken) -> Option<Stream> {
    const PLAINTEXT: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n\
        this port speaks TLS: use https\n";
    match stop.run_until_cancelled(opening).await? {
        Ok(stream) => Some(stream),
        Err(Refused { reason, cause, plaintext }) => {
            debug!(reason = reason.as_str(), cause, "no TLS connection to the http port");
            let mut stream = plaintext?;
            // Few bytes: a new socket has room for them.
            if stream.write_all(PLAINTEXT).await.is_ok() {
                linger(&mut stream).await;
            }
            None
        }
    }
}

/// One connection: one request, one answer.
async fn converse<R>(stream: Stream, pages: Pages<R>, patience: Patience, shutdown: CancellationToken)
where
    R: Fn() -> String + Send + Sync + 'static,
{
    let service = service_fn(move |request| {
        let answer = pages.clone().answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.header)
        .keep_alive(false)
        .max_headers(HEADERS)
        .max_header_size(HEADER_BYTES)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let exchange = async {
        tokio::select! {
            biased;
            result = connection.as_mut() => return Some(result),
            () = shutdown.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        timeout(patience.shutdown, connection.as_mut()).await.ok()
    };
    match timeout(patience.exchange, exchange).await {
        Ok(Some(Ok(()))) => {}
        Ok(Some(Err(error))) => debug!(%error, "http connection failed"),
        Ok(None) | Err(_) => debug!("http connection closed: too slow"),
    }
}
