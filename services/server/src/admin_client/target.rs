//! Where the server is, whom to take for it, and what to show it.

use std::error::Error as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::Uri;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tertulia_server::admin::{Config, token};
use tertulia_server::http::probe;
use tertulia_server::{causes, tls};
use tertulia_tls_client::Security;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Status};

use super::Error;
use crate::cli::Admin;

/// A server that is called.
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    /// `None`: without TLS.
    pub(super) security: Option<Security>,
    /// Whether the server is shown a certificate.
    shows_certificate: bool,
    /// Presents a token.
    pub(super) authorization: Option<AsciiMetadataValue>,
    token_file: Option<PathBuf>,
    /// What to do if the server is not trusted.
    pub(super) advice: String,
}

impl Target {
    /// The server that `options` name, or else that of this configuration. It reads files.
    pub(super) fn new(options: &Admin, config: &Config) -> Result<Self, Error> {
        let wants_tls = options.ca.is_some() || options.tls_name.is_some() || options.cert.is_some();
        let place = match &options.address {
            Some(address) => Place::named(address, wants_tls)?,
            None => Place::configured(config, wants_tls)?,
        };
        // What is configured is of the server that is configured: no other is told its token.
        let own = options.address.is_none().then_some(config);
        let own_token = own.and_then(|config| config.token_file.as_deref());
        let token_file = options.token_file.as_deref().or(own_token);
        if let Some(address) = &options.address
            && token_file.is_some()
            && place.is_in_the_clear_unsaid()
        {
            return Err(Error::TokenInTheClear { address: address.clone() });
        }
        let names_trust = options.ca.is_some() || options.tls_name.is_some();
        let only = own.and_then(|config| config.tls.cert_file.as_deref()).filter(|_| !names_trust);
        let (security, advice) = match (place.tls, only) {
            (false, _) => (None, String::new()),
            (true, Some(file)) => (Some(secured_by(file, &place.host)?), advice_on(file)),
            (true, None) => {
                let security = Security::new(&place.authority(), options.ca.as_deref(), options.tls_name.as_deref())?;
                (Some(security), "--ca names whom to trust, --tls-name what the certificate is for".to_owned())
            }
        };
        let security = security.map(|security| identified(security, options)).transpose()?;
        let authorization = token_file.map(authorization).transpose()?;
        let token_file = token_file.map(Path::to_owned);
        let shows_certificate = options.cert.is_some();
        let Place { host, port, .. } = place;
        Ok(Self { host, port, security, shows_certificate, authorization, token_file, advice })
    }

    /// Where it is, for people and for the `:authority` of requests.
    pub(super) fn address(&self) -> String {
        authority(&self.host, self.port)
    }

    /// What a call failed of: the server refused, or did not say a word.
    pub(super) fn failure(&self, status: &Status) -> Error {
        // What the server says comes without a cause.
        if let Some(cause) = status.source() {
            return self.broken(causes::on_one_line(cause));
        }
        let advice = match (status.code(), &self.token_file) {
            (Code::Unauthenticated, None) => "; --token-file names the file that has it".to_owned(),
            (Code::Unauthenticated, Some(file)) => format!("; presented was one in {}", file.display()),
            _ => String::new(),
        };
        Error::Refused { code: status.code(), message: status.message().to_owned(), advice }
    }

    /// What answers ended with that had begun well.
    pub(super) fn interruption(&self, status: &Status) -> Error {
        match self.failure(status) {
            Error::Connection { address, cause, .. } => Error::Connection { address, cause, advice: "" },
            other => other,
        }
    }

    /// The connection came to nothing; why the server ended it is seldom told.
    pub(super) fn broken(&self, cause: String) -> Error {
        let advice = match self.security {
            None => "; if TLS is spoken there, say https:// in --address, or --ca",
            Some(_) if !self.shows_certificate => {
                "; if callers must show a certificate there, --cert and --key name one"
            }
            Some(_) => "",
        };
        Error::Connection { address: self.address(), cause, advice }
    }
}

fn authorization(file: &Path) -> Result<AsciiMetadataValue, Error> {
    let value = token::authorization(file)?.parse::<AsciiMetadataValue>();
    let mut value = value.map_err(|error| unusable(file, "the token", error))?;
    value.set_sensitive(true);
    Ok(value)
}

/// An address, and how to speak there.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    tls: bool,
    /// Whether it was said how to speak, rather than left open.
    is_said: bool,
    host: String,
    port: u16,
}

impl Place {
    fn named(address: &str, wants_tls: bool) -> Result<Self, Error> {
        let wrong = || Error::Address { address: address.to_owned() };
        // Of these nothing would be made.
        if address.contains(['@', '?', '#']) {
            return Err(wrong());
        }
        let uri: Uri = address.parse().map_err(|_| wrong())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if wants_tls => return Err(Error::InTheClear { address: address.to_owned() }),
            Some("http") => false,
            Some(_) => return Err(wrong()),
            None => wants_tls,
        };
        let (Some(host), Some(port), "" | "/") = (uri.host(), uri.port_u16(), uri.path()) else { return Err(wrong()) };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(wrong());
        }
        Ok(Self { tls, is_said: uri.scheme().is_some(), host, port })
    }

    fn configured(config: &Config, wants_tls: bool) -> Result<Self, Error> {
        let address = config.address;
        if address.port() == 0 {
            return Err(Error::UnknownPort);
        }
        let tls = wants_tls || config.tls.cert_file.is_some();
        Ok(Self { tls, is_said: true, host: probe::reached_at(address.ip()).to_string(), port: address.port() })
    }

    /// Whether others can read what is sent there, though nobody said that they may.
    fn is_in_the_clear_unsaid(&self) -> bool {
        let host = self.host.as_str();
        let is_here = host.parse::<IpAddr>().map_or(host.eq_ignore_ascii_case("localhost"), |ip| ip.is_loopback());
        !self.tls && !self.is_said && !is_here
    }

    fn authority(&self) -> String {
        authority(&self.host, self.port)
    }
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Trusts who has the certificate in the server's own file, which is seldom for the address at which it is reached from here.
fn secured_by(file: &Path, host: &str) -> Result<Security, Error> {
    let certificate =
        CertificateDer::from_pem_file(file).map_err(|error| unusable(file, "admin.tls.cert_file", error))?;
    let config = tls::client_of(certificate)?;
    // Nobody looks at it, but it has to be one.
    let name =
        ServerName::try_from(host.to_owned()).unwrap_or(ServerName::IpAddress(IpAddr::from([127, 0, 0, 1]).into()));
    Ok(Security { config: Arc::new(config), name })
}

fn advice_on(file: &Path) -> String {
    let file = file.display();
    format!(
        "the server must show the certificate in {file} (admin.tls.cert_file), as it does within tls.reload_interval, or one that --ca vouches for"
    )
}

/// Speaks HTTP/2, and shows a certificate if one is given.
fn identified(security: Security, options: &Admin) -> Result<Security, Error> {
    let mut config = Arc::unwrap_or_clone(security.config);
    config.alpn_protocols = vec![b"h2".to_vec()];
    if let (Some(cert), Some(key)) = (&options.cert, &options.key) {
        let chain = CertificateDer::pem_file_iter(cert).and_then(|chain| chain.collect::<Result<Vec<_>, _>>());
        let chain = chain.map_err(|error| unusable(cert, "--cert", error))?;
        if chain.is_empty() {
            return Err(unusable(cert, "--cert", "there is no certificate (PEM) in it"));
        }
        let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, "--key", error))?;
        let certified = CertifiedKey::from_der(chain, secret, &aws_lc_rs::default_provider());
        let certified = certified.map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                unusable(key, "--key", "it is not the key of the certificate in --cert")
            }
            rustls::Error::InvalidCertificate(_) => unusable(cert, "--cert", error),
            _ => unusable(key, "--key", error),
        })?;
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certified));
    }
    Ok(Security { config: Arc::new(config), name: security.name })
}

fn unusable(path: &Path, option: &'static str, cause: impl ToString) -> Error {
    Error::Unusable { path: path.to_owned(), option, cause: cause.to_string() }
}

#[cfg(test)]
mod tests;
