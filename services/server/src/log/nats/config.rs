//! What may be configured about NATS.

use std::path::PathBuf;
use std::time::Duration;

use async_nats::ServerAddr;
use serde::{Deserialize, Serialize};

use super::credentials::{Contradiction, Credentials, both_or_none};

/// Section `nats` of the configuration: how NATS is reached, and what this deployment makes there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The servers, separated by commas. One is enough to find the others of its cluster.
    pub urls: String,
    /// The user, with `password_file`; empty: none.
    pub user: String,
    /// The file that holds the user's password.
    pub password_file: Option<PathBuf>,
    /// The file that holds a token.
    pub token_file: Option<PathBuf>,
    /// The file that holds the seed of an nkey.
    pub nkey_file: Option<PathBuf>,
    /// The credentials file (a JWT and its seed), as `nsc` writes it.
    pub creds_file: Option<PathBuf>,
    /// Whether to refuse a connection without TLS.
    pub tls_required: bool,
    /// The certificates (PEM) of those who may vouch for the servers; empty: the system's.
    pub tls_ca_file: Option<PathBuf>,
    /// Our certificate (PEM), for servers that ask for one.
    pub tls_cert_file: Option<PathBuf>,
    /// Its key (PEM).
    pub tls_key_file: Option<PathBuf>,
    /// What names of streams, buckets and subjects begin with, so that several deployments can share one NATS.
    pub prefix: String,
    /// How long an answer of NATS may take.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Streams over which the shards are spread. Fixed for the life of a deployment.
    pub streams: u16,
    /// Servers that keep a copy of each stream.
    pub replicas: u16,
    /// What a stream is kept on.
    pub storage: Storage,
    /// Tags that a server must have to keep a stream, separated by commas; empty: any server.
    pub placement_tags: String,
    /// Whether streams that are there and differ from this configuration are changed, where JetStream can change them.
    pub update_streams: bool,
}

/// What a stream is kept on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// Files: how durable an acknowledgement is, the servers' `sync_interval` says.
    File,
    /// Memory: everything is gone when the servers that hold a stream have gone.
    Memory,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            urls: "nats://127.0.0.1:4222".to_owned(),
            user: String::new(),
            password_file: None,
            token_file: None,
            nkey_file: None,
            creds_file: None,
            tls_required: false,
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            prefix: "tertulia".to_owned(),
            timeout: Duration::from_secs(2),
            streams: 16,
            replicas: 1,
            storage: Storage::File,
            placement_tags: String::new(),
            update_streams: false,
        }
    }
}

/// A URL of a server that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{url}' is not the URL of a NATS server ({cause}); write it as nats://host:4222 or tls://host:4222")]
pub struct NotUrl {
    /// What was given; of one with a user and a password, the rest.
    pub url: String,
    /// What is wrong with it.
    pub cause: String,
}

impl Config {
    /// The addresses of the servers.
    ///
    /// # Errors
    /// One of them is none, or there is none.
    pub fn addresses(&self) -> Result<Vec<ServerAddr>, NotUrl> {
        let address = |url: &str| {
            // The client would not present them, and what is in a URL is shown in many places.
            let (who, shown) = url.rsplit_once('@').map_or((None, url), |(who, shown)| (Some(who), shown));
            let unfit = |cause: String| NotUrl { url: shown.to_owned(), cause };
            match (who, url.parse::<ServerAddr>()) {
                (Some(_), _) => {
                    Err(unfit("it may not hold a user or a password: set nats.user and nats.password_file".to_owned()))
                }
                (None, Err(error)) => Err(unfit(error.to_string())),
                (None, Ok(address)) => Ok(address),
            }
        };
        let urls = self.urls.split(',').map(str::trim).filter(|url| !url.is_empty());
        let addresses: Vec<ServerAddr> = urls.map(address).collect::<Result<_, _>>()?;
        let nothing = || NotUrl { url: self.urls.clone(), cause: "there is none".to_owned() };
        if addresses.is_empty() { Err(nothing()) } else { Ok(addresses) }
    }

    /// Checks the rules between options that say who we are.
    ///
    /// # Errors
    /// More than one kind of credentials is set, or half of one, or half of a certificate.
    pub fn check(&self) -> Result<(), Contradiction> {
        Credentials::of(self)?;
        let (certificate, key) = (self.tls_cert_file.is_some(), self.tls_key_file.is_some());
        both_or_none(("nats.tls_cert_file", certificate), ("nats.tls_key_file", key))
    }
}
