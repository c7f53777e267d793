//! What a port shows and asks for, made of the files that hold it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rustls::crypto::aws_lc_rs::{self, Ticketer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::time::Validity;
use xxhash_rust::xxh3::Xxh3;

use super::Files;

/// A file that is longer is none of ours.
const FILE_BYTES: u64 = 4 * 1024 * 1024;

/// A port of the server; the label `port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// Chat clients.
    Chat,
    /// The admin API.
    Admin,
    /// Metrics and health.
    Http,
}

impl Port {
    /// Its section of the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Admin => "admin",
            Self::Http => "http",
        }
    }

    /// What is spoken within TLS, for clients that ask.
    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::Chat => Vec::new(),
            Self::Admin => vec![b"h2".to_vec()],
            Self::Http => vec![b"http/1.1".to_vec()],
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One cannot be read.
    #[error("cannot read {} ({option}): {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The option that names it.
        option: String,
        /// Why not.
        cause: io::Error,
    },
    /// One does not hold what it should.
    #[error("{} ({option}) {fault}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The option that names it.
        option: String,
        /// What is wrong with it.
        fault: String,
    },
    /// They do not go together, or cannot be used for TLS.
    #[error("cannot use {} and {} ({port}.tls): {cause}", cert.display(), key.display())]
    Unusable {
        /// Whose.
        port: Port,
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// What stands in the way.
        cause: String,
    },
}

/// The files of one port.
#[derive(Debug, Clone)]
pub struct Source {
    pub(super) port: Port,
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

/// What files held.
#[derive(Clone)]
pub(super) struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// What a port shows, and when it is not good any more.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) config: Arc<ServerConfig>,
    /// Whose the certificate is.
    pub(super) subject: String,
    /// From when to when the certificate is good, since 1970.
    pub(super) validity: (Duration, Duration),
    /// When the first certificate of the chain that does so expires, since 1970.
    pub(super) expires: Duration,
    /// Whose that one is.
    pub(super) expiring: String,
    /// Differs when those who may vouch for clients do.
    pub(super) authorities: u128,
    /// What it was made of.
    contents: Contents,
}

impl fmt::Debug for Contents {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contents").finish_non_exhaustive()
    }
}

impl Identity {
    /// Whether clients accept the certificate at this time.
    pub(super) fn is_valid_at(&self, now: Duration) -> bool {
        (self.validity.0..=self.validity.1).contains(&now)
    }
}

impl Source {
    /// The files of `port`; `None` if it has none, and speaks no TLS. `client_ca` has the certificates of those who may vouch for
    /// clients, which must then show one.
    #[must_use]
    pub fn new(port: Port, files: &Files, client_ca: Option<&Path>) -> Option<Self> {
        let (cert, key) = files.cert_file.clone().zip(files.key_file.clone())?;
        Some(Self { port, cert, key, client_ca: client_ca.map(Path::to_owned) })
    }

    /// Whose they are.
    #[must_use]
    pub fn port(&self) -> Port {
        self.port
    }

    fn option(&self, name: &str) -> String {
        let Self { port, .. } = self;
        if name == "client_ca_file" { format!("{port}.{name}") } else { format!("{port}.tls.{name}") }
    }

    /// Reads the files. It blocks.
    pub(super) fn read(&self) -> Result<Contents, Error> {
        Ok(Contents {
            cert: self.read_file(&self.cert, "cert_file")?,
            key: self.read_file(&self.key, "key_file")?,
            client_ca: self.read_client_ca()?,
        })
    }

    fn read_client_ca(&self) -> Result<Option<Vec<u8>>, Error> {
        self.client_ca.as_deref().map(|path| self.read_file(path, "client_ca_file")).transpose()
    }

    fn read_file(&self, path: &Path, name: &str) -> Result<Vec<u8>, Error> {
        let unreadable = |cause| Error::Unreadable { path: path.to_owned(), option: self.option(name), cause };
        let length = std::fs::metadata(path).map_err(unreadable)?.len();
        if length > FILE_BYTES {
            let fault = format!("has {length} bytes: no file of certificates or keys is longer than {FILE_BYTES}");
            return Err(Error::Content { path: path.to_owned(), option: self.option(name), fault });
        }
        std::fs::read(path).map_err(unreadable)
    }

    /// Makes of them what the port shows.
    pub(super) fn identity(&self, contents: Contents) -> Result<Identity, Error> {
        let chain = certificates(&contents.cert).map_err(|fault| self.fault(&self.cert, "cert_file", fault))?;
        let Described { subject, validity, expires, expiring } =
            describe(&chain).map_err(|fault| self.fault(&self.cert, "cert_file", fault))?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key).map_err(|error| {
            let fault = match error {
                pem::Error::NoItemsFound => "has no private key (PEM)".to_owned(),
                error => format!("is not a private key (PEM): {error}"),
            };
            self.fault(&self.key, "key_file", fault)
        })?;
        let config = self.config(&contents, chain, key)?;
        let mut authorities = Xxh3::new();
        authorities.update(contents.client_ca.as_deref().unwrap_or_default());
        let authorities = authorities.digest128();
        Ok(Identity { config: Arc::new(config), subject, validity, expires, expiring, authorities, contents })
    }

    /// The certificate that is shown, with those who may vouch for clients now; `None` if these are the same. It blocks.
    pub(super) fn with_authorities(&self, shown: &Identity) -> Result<Option<Identity>, Error> {
        let client_ca = self.read_client_ca()?;
        if client_ca == shown.contents.client_ca {
            return Ok(None);
        }
        self.identity(Contents { client_ca, ..shown.contents.clone() }).map(Some)
    }

    /// What is wrong with a certificate that is not good now.
    pub(super) fn not_valid(&self, identity: &Identity) -> Error {
        let (from, until) = identity.validity;
        let [from, until] = [from, until].map(|at| humantime::format_rfc3339_seconds(UNIX_EPOCH + at));
        self.fault(&self.cert, "cert_file", format!("is good from {from} to {until} and not now"))
    }

    fn config(
        &self,
        contents: &Contents,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<ServerConfig, Error> {
        let unusable =
            |cause: String| Error::Unusable { port: self.port, cert: self.cert.clone(), key: self.key.clone(), cause };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = match (&self.client_ca, &contents.client_ca) {
            (Some(path), Some(pem)) => {
                let fault = |fault| self.fault(path, "client_ca_file", fault);
                let mut roots = RootCertStore::empty();
                for certificate in certificates(pem).map_err(fault)? {
                    roots.add(certificate).map_err(|error| fault(format!("has an unusable certificate: {error}")))?;
                }
                let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
                builder.build().map_err(|error| fault(format!("cannot vouch for clients: {error}")))?
            }
            _ => WebPkiClientVerifier::no_client_auth(),
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(error.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|error| unusable(error.to_string()))?;
        config.alpn_protocols = self.port.protocols();
        if self.client_ca.is_some() {
            // Who comes back must show its certificate again: it may have been taken off the list.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        } else {
            config.ticketer = Ticketer::new().map_err(|error| unusable(error.to_string()))?;
            config.send_tls13_tickets = 1;
        }
        Ok(config)
    }

    fn fault(&self, path: &Path, name: &str, fault: String) -> Error {
        Error::Content { path: path.to_owned(), option: self.option(name), fault }
    }
}

impl Contents {
    /// Differs when the contents do.
    pub(super) fn fingerprint(&self) -> u128 {
        let mut hash = Xxh3::new();
        for part in [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten() {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.digest128()
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err("has no certificate (PEM)".to_owned()),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("is not a list of certificates (PEM): {error}")),
    }
}

/// What a chain says of itself.
struct Described {
    subject: String,
    validity: (Duration, Duration),
    expires: Duration,
    expiring: String,
}

fn describe(chain: &[CertificateDer<'_>]) -> Result<Described, String> {
    let mut described: Option<Described> = None;
    for der in chain {
        let certificate =
            Certificate::from_der(der).map_err(|error| format!("has an unusable certificate: {error}"))?;
        let Validity { not_before, not_after } = certificate.tbs_certificate.validity;
        let (from, expires) = (not_before.to_unix_duration(), not_after.to_unix_duration());
        let subject = certificate.tbs_certificate.subject.to_string();
        match &mut described {
            None => {
                let (validity, expiring) = ((from, expires), subject.clone());
                described = Some(Described { subject, validity, expires, expiring });
            }
            Some(described) if expires < described.expires => {
                (described.expires, described.expiring) = (expires, subject);
            }
            Some(_) => {}
        }
    }
    described.ok_or_else(|| "has no certificate (PEM)".to_owned())
}
