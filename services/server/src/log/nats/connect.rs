//! The connection to NATS: with what it is opened, and what is told when it cannot be.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions};

use super::Config;
use super::config::NotUrl;
use super::credentials::{Contradiction, Credentials};
use super::forming::{self, Unanswered};
use super::metrics::Connection;
use super::trouble::{Cause, Trouble};
use crate::causes::on_one_line;

/// How often the connection is tried again: where all is started at once, names and servers take a moment.
const TRYING: usize = 5;
/// Before each of these.
const PAUSE: Duration = Duration::from_secs(1);
/// So many pings one after the other, without a word of the server, end a connection: the client's own number.
const PINGS: u32 = 3;
/// How often at most, and at least, a server that says nothing is pinged.
const PING: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A URL that is none.
    #[error("nats.urls: {0}")]
    Url(#[from] NotUrl),
    /// A file that cannot be used.
    #[error("{key}: cannot read {}: {cause}", path.display())]
    File {
        /// The option.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// Options that contradict each other.
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
    /// Nobody answers, or not as hoped.
    #[error("cannot connect to NATS at {urls}: {cause}. {advice}")]
    Connect {
        /// Where.
        urls: String,
        /// Why.
        cause: String,
        /// What to do.
        advice: &'static str,
    },
    /// JetStream is off, or the account may not use it.
    #[error(
        "NATS at {urls} has no JetStream for this account ({cause}): start nats-server with a `jetstream` block, or enable it for the account"
    )]
    NoJetStream {
        /// Where.
        urls: String,
        /// Why.
        cause: String,
    },
    /// JetStream is there and does not answer.
    #[error("JetStream at {urls} does not answer: has its cluster a leader, and more than half of its servers?")]
    Silent {
        /// Where.
        urls: String,
    },
    /// A server too old.
    #[error("NATS at {urls} is version {version}: atomic batches need 2.12 or newer")]
    TooOld {
        /// Where.
        urls: String,
        /// What it says of itself.
        version: String,
    },
}

/// Opens the connection. It comes back by itself whenever it breaks.
pub(super) async fn connect(config: &Config, name: &str, trouble: &Arc<Trouble>) -> Result<Client, ConnectError> {
    let urls = config.urls.clone();
    let addresses = config.addresses()?;
    config.check()?;
    let told = Arc::new(Connection::new());
    let mut tries = 0;
    let client = loop {
        let error = match options(config, name, trouble, &told).await?.connect(addresses.clone()).await {
            Ok(client) => break client,
            Err(error) => error,
        };
        let cause = on_one_line(&error);
        if tries == TRYING || !may_pass(error.kind()) {
            let advice = advice(error.kind(), &cause, config.tls_required);
            return Err(ConnectError::Connect { urls, cause, advice });
        }
        tries += 1;
        tracing::warn!(urls, cause, "NATS cannot be reached: trying again");
        tokio::time::sleep(PAUSE).await;
    };
    check(&client, urls).await?;
    Ok(client)
}

/// Whether it may be another way in a moment.
fn may_pass(kind: async_nats::ConnectErrorKind) -> bool {
    use async_nats::ConnectErrorKind as Kind;
    matches!(kind, Kind::Dns | Kind::Io | Kind::TimedOut)
}

async fn options(
    config: &Config,
    name: &str,
    trouble: &Arc<Trouble>,
    told: &Arc<Connection>,
) -> Result<ConnectOptions, ConnectError> {
    let (events, told) = (Arc::clone(trouble), Arc::clone(told));
    let options = Credentials::of(config)?
        .options()
        .await?
        .name(name)
        .require_tls(config.tls_required)
        .connection_timeout(config.timeout)
        .request_timeout(Some(config.timeout))
        .ping_interval(ping_interval(config.timeout))
        .reconnect_delay_callback(|attempts| Duration::from_millis(50 << attempts.min(5)))
        .event_callback(move |event| {
            on_event(&events, &told, &event);
            std::future::ready(())
        });
    tls(config, options).await
}

/// A server that says nothing for longer than an answer may take is left for another one. Nothing else ends the connection to one that stalls
/// under load: once what was written waits for it, the client does not even hear that it is to reconnect.
fn ping_interval(timeout: Duration) -> Duration {
    (timeout * 3 / 2 / PINGS).clamp(PING.0, PING.1)
}

async fn check(client: &Client, urls: String) -> Result<(), ConnectError> {
    if !client.is_server_compatible(2, 12, 0) {
        return Err(ConnectError::TooOld { urls, version: client.server_info().version });
    }
    match forming::account(client).await {
        Ok(()) => Ok(()),
        Err(Unanswered::ForNow) => Err(ConnectError::Silent { urls }),
        Err(Unanswered::ForGood(error)) => Err(ConnectError::NoJetStream { urls, cause: on_one_line(&error) }),
    }
}

fn on_event(trouble: &Trouble, told: &Connection, event: &async_nats::Event) {
    use async_nats::Event;
    match event {
        Event::Connected => {
            told.made();
            trouble.set(Cause::Connection, None);
        }
        Event::Disconnected | Event::Closed => {
            told.ended();
            trouble.set(Cause::Connection, Some("there is no connection to NATS".to_owned()));
        }
        Event::Draining => tracing::debug!("leaving NATS"),
        event => tracing::warn!(%event, "NATS says"),
    }
}

fn advice(kind: async_nats::ConnectErrorKind, cause: &str, with_tls: bool) -> &'static str {
    use async_nats::ConnectErrorKind as Kind;
    match kind {
        Kind::Authentication | Kind::AuthorizationViolation => {
            "Check nats.user and nats.password_file, nats.token_file, nats.nkey_file or nats.creds_file"
        }
        // What rustls refuses comes as an error of the socket.
        _ if matches!(kind, Kind::Tls) || cause.contains("certificate") || cause.contains("tls") => {
            "Check nats.tls_ca_file, nats.tls_cert_file, nats.tls_key_file and nats.tls_required"
        }
        _ if with_tls => {
            "Check nats.urls, that the server runs and can be reached from here, and that it has TLS, since nats.tls_required is set"
        }
        _ => "Check nats.urls, and that the server runs and can be reached from here",
    }
}

async fn tls(config: &Config, mut options: ConnectOptions) -> Result<ConnectOptions, ConnectError> {
    let files = [
        ("nats.tls_ca_file", &config.tls_ca_file),
        ("nats.tls_cert_file", &config.tls_cert_file),
        ("nats.tls_key_file", &config.tls_key_file),
    ];
    for (key, path) in files {
        let Some(path) = path else { continue };
        let file = path.clone();
        // It may be on a file system that does not answer.
        let opening = tokio::task::spawn_blocking(move || std::fs::File::open(file).map_err(|error| error.to_string()));
        let opened = match opening.await {
            Ok(opened) => opened.map(drop),
            Err(error) => Err(error.to_string()),
        };
        opened.map_err(|cause| ConnectError::File { key, path: path.clone(), cause })?;
    }
    if let Some(path) = &config.tls_ca_file {
        options = options.add_root_certificates(path.clone());
    }
    if let (Some(certificate), Some(key)) = (&config.tls_cert_file, &config.tls_key_file) {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use async_nats::Event;
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn a_connection_that_ends_and_comes_back_is_measured() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let (trouble, told) = metrics::with_local_recorder(&recorder, || (Trouble::new(1), Connection::new()));
        let is_told = |connected: u32, reconnects: u32| {
            let text = recorder.handle().render();
            [format!("tertulia_nats_connected {connected}"), format!("tertulia_nats_reconnects_total {reconnects}")]
                .iter()
                .all(|line| text.lines().any(|other| other == line))
        };
        assert!(is_told(0, 0));
        on_event(&trouble, &told, &Event::Connected);
        assert!(is_told(1, 0));
        on_event(&trouble, &told, &Event::Disconnected);
        assert!(is_told(0, 0) && trouble.any().is_some());
        on_event(&trouble, &told, &Event::Connected);
        assert!(is_told(1, 1) && trouble.any().is_none());
    }
}
