//! TLS as the clients of tertulia speak it: whom they trust, and by which name they know the server.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file with the certificates to trust cannot be used.
    #[error("cannot read certificates from {}: {cause}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: String,
    },
    /// The file with the certificates to trust has none.
    #[error("there is no certificate (PEM) in {}", path.display())]
    NoAuthority {
        /// The file.
        path: PathBuf,
    },
    /// This machine trusts nobody.
    #[error("no certificate authorities were found on this machine ({cause}): name them with --ca FILE")]
    NoSystemAuthorities {
        /// What stands in the way.
        cause: String,
    },
    /// Not a name that a certificate could have.
    #[error(
        "'{name}' is neither the name of a host nor an IP address: say with --tls-name what the server's certificate is for"
    )]
    Name {
        /// What was given.
        name: String,
    },
    /// The provider of cryptography does not do what is needed.
    #[error("cannot set up TLS: {0}")]
    Setup(#[from] rustls::Error),
}

/// With whom a client speaks TLS.
#[derive(Debug, Clone)]
pub struct Security {
    /// Whom it trusts.
    pub config: Arc<ClientConfig>,
    /// What the server's certificate must be for.
    pub name: ServerName<'static>,
}

impl Security {
    /// A client of the server at `address` (`HOST:PORT`) that trusts the certificates in `authorities` (PEM), or those that this machine
    /// trusts. The server's certificate must be for `name`, or else for the host of the address.
    ///
    /// # Errors
    /// There is nobody to trust, or the name is none.
    pub fn new(address: &str, authorities: Option<&Path>, name: Option<&str>) -> Result<Self, Error> {
        Ok(Self { config: config(authorities)?, name: server_name(address, name)? })
    }
}

/// An error of a connection, with what a person would want to know of it.
#[must_use]
pub fn explained(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidMessage(_)) => {
            io::Error::new(error.kind(), "the server does not speak TLS there, or not as is understood here")
        }
        _ => error,
    }
}

/// A client that trusts the certificates in `authorities` (PEM), or those that this machine trusts.
fn config(authorities: Option<&Path>) -> Result<Arc<ClientConfig>, Error> {
    let roots = match authorities {
        Some(path) => from_file(path)?,
        None => from_system()?,
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// The name that the server's certificate must be for: `given`, or else the host of `HOST:PORT`.
fn server_name(address: &str, given: Option<&str>) -> Result<ServerName<'static>, Error> {
    let host = || {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    };
    let name = given.unwrap_or_else(host);
    ServerName::try_from(name.to_owned()).map_err(|_| Error::Name { name: name.to_owned() })
}

fn from_file(path: &Path) -> Result<RootCertStore, Error> {
    let failed = |cause: String| Error::Authorities { path: path.to_owned(), cause };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))? {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        roots.add(certificate).map_err(|error| failed(error.to_string()))?;
    }
    if roots.is_empty() { Err(Error::NoAuthority { path: path.to_owned() }) } else { Ok(roots) }
}

fn from_system() -> Result<RootCertStore, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let cause = found.errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
        return Err(Error::NoSystemAuthorities { cause });
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_that_of_the_host_unless_another_is_given() {
        let name = |address, given| server_name(address, given).map(|name| name.to_str().into_owned());
        assert_eq!(name("chat.example:8088", None).unwrap(), "chat.example");
        assert_eq!(name("[::1]:8088", None).unwrap(), "::1");
        assert_eq!(name("10.0.0.1:8088", Some("chat.example")).unwrap(), "chat.example");
        assert!(name("a b:1", None).unwrap_err().to_string().contains("'a b'"));
    }

    #[test]
    fn a_file_without_certificates_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let told = || config(Some(&path)).unwrap_err().to_string();
        assert!(told().contains("ca.pem"), "{}", told());
        std::fs::write(&path, "nothing").unwrap();
        assert!(told().starts_with("there is no certificate"), "{}", told());
        let ca = rcgen::generate_simple_self_signed(["ca.example".to_owned()]).unwrap();
        std::fs::write(&path, ca.cert.pem()).unwrap();
        assert!(config(Some(&path)).is_ok());
    }
}
