//! TLS to a server of our own at an address for which no certificate is made. Health checks do not look at the certificate, for they tell
//! nothing; a kubelet does the same. Whoever tells something, such as a token, and knows the server's files, wants the very certificate in them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_cert::Certificate;
use x509_cert::der::Decode;

/// Accepts every certificate whose owner has its key, or only one, whoever vouches for it and whatever it is for.
#[derive(Debug)]
struct Unvouched {
    provider: Arc<CryptoProvider>,
    only: Option<CertificateDer<'static>>,
}

impl ServerCertVerifier for Unvouched {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.only.as_ref().is_some_and(|only| only != certificate) {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Speaks TLS with whoever answers.
///
/// # Errors
/// The peer does not speak TLS, or `host` is no name.
pub async fn connect(socket: TcpStream, host: &str) -> io::Result<TlsStream<TcpStream>> {
    let config = client(None).map_err(io::Error::other)?;
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    TlsConnector::from(Arc::new(config)).connect(name, socket).await
}

/// A client of the one server that shows this certificate.
///
/// # Errors
/// The provider of cryptography does not do what is needed.
pub fn client_of(certificate: CertificateDer<'static>) -> Result<ClientConfig, rustls::Error> {
    client(Some(certificate))
}

fn client(only: Option<CertificateDer<'static>>) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let verifier = Arc::new(Unvouched { provider, only });
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// Whose a certificate is, as RFC 4514 writes it.
#[must_use]
pub fn subject(der: &[u8]) -> String {
    match Certificate::from_der(der) {
        Ok(certificate) => certificate.tbs_certificate.subject.to_string(),
        // It was verified, so this is one that only this reader does not understand.
        Err(_) => "unknown".to_owned(),
    }
}

/// Until when a certificate is good, since 1970; `None` if it cannot be read.
pub(super) fn expires(der: &[u8]) -> Option<Duration> {
    let certificate = Certificate::from_der(der).ok()?;
    Some(certificate.tbs_certificate.validity.not_after.to_unix_duration())
}
