use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::reload::Reload;

/// Long enough never to pass in a test that works.
const NEVER: Duration = Duration::from_secs(60);

pub(crate) struct Directory(TempDir);

impl Directory {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// A new certificate, in place of the one before; answers whom to trust.
    pub(crate) fn issue(&self) -> CertificateDer<'static> {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        self.write("cert.pem", &cert.pem());
        self.write("key.pem", &signing_key.serialize_pem());
        cert.der().clone()
    }

    /// What is there for a key is none.
    pub(super) fn lose_key(&self) {
        self.write("key.pem", "not yet");
    }

    /// Another authority for the certificates of clients.
    pub(super) fn authorise(&self) {
        let CertifiedKey { cert, .. } = generate_simple_self_signed(["authority".to_owned()]).unwrap();
        self.write("ca.pem", &cert.pem());
    }

    /// What is in the files.
    pub(super) fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let paths = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path());
        paths.map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
    }

    /// The files are again what they were.
    pub(super) fn restore(&self, files: &[(PathBuf, Vec<u8>)]) {
        files.iter().for_each(|(path, content)| fs::write(path, content).unwrap());
    }

    pub(super) fn source_with_authorities(&self) -> Source {
        let file = |name: &str| self.0.path().join(name);
        let files = Files { cert_file: Some(file("cert.pem")), key_file: Some(file("key.pem")) };
        Source::new(Port::Admin, &files, Some(&file("ca.pem"))).unwrap()
    }

    pub(crate) fn source(&self) -> Source {
        let file = |name: &str| Some(self.0.path().join(name));
        let files = Files { cert_file: file("cert.pem"), key_file: file("key.pem") };
        Source::new(Port::Chat, &files, None).unwrap()
    }
}

pub(super) fn config(handshakes: usize, handshake_timeout: Duration) -> Config {
    Config { handshake_timeout, handshakes, ..Config::default() }
}

async fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let (client, server) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (client.unwrap(), server.unwrap().0)
}

fn trusting(certificate: &CertificateDer<'static>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    TlsConnector::from(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// Whether a client that trusts `certificate` gets through.
async fn gets_through(acceptor: &Acceptor, certificate: &CertificateDer<'static>) -> Result<(), Reason> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, server) = pair(&listener).await;
    let connector = trusting(certificate);
    let name = ServerName::try_from("localhost").unwrap();
    let (connected, accepted) = tokio::join!(connector.connect(name, client), acceptor.accept(server));
    let mut stream = accepted.map_err(|refused| refused.reason)?;
    let mut client = connected.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.flush().await.unwrap();
    let mut read = [0; 5];
    client.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"hello");
    Ok(())
}

#[test]
fn files_that_cannot_be_used_are_named_with_their_option() {
    let directory = Directory::new();
    let told = || {
        let source = directory.source();
        let error = source.read().and_then(|contents| source.identity(contents).map(drop)).unwrap_err();
        error.to_string().replace(directory.0.path().to_str().unwrap(), "DIR")
    };
    assert!(told().starts_with("cannot read DIR/cert.pem (chat.tls.cert_file): "), "{}", told());
    directory.issue();
    directory.write("key.pem", "nothing");
    assert_eq!(told(), "DIR/key.pem (chat.tls.key_file) has no private key (PEM)");
    directory.write("key.pem", &KeyPair::generate().unwrap().serialize_pem());
    assert!(told().starts_with("cannot use DIR/cert.pem and DIR/key.pem (chat.tls): "), "{}", told());
    directory.write("cert.pem", "");
    assert_eq!(told(), "DIR/cert.pem (chat.tls.cert_file) has no certificate (PEM)");
}

#[tokio::test]
async fn who_stalls_or_speaks_otherwise_is_refused_with_a_reason() {
    let directory = Directory::new();
    let certificate = directory.issue();
    let (hasty, _) = Acceptor::new(&config(8, Duration::from_millis(50)), &directory.source()).unwrap();
    let (lenient, _) = Acceptor::new(&config(8, NEVER), &directory.source()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for (sent, reason) in [
        (&b""[..], Reason::Timeout),
        (b"\x16\x03\x01", Reason::Timeout),
        (b"{\"Join\"", Reason::Plaintext),
        (b"\x16\x03\x01\x00\x04abcd", Reason::Protocol),
    ] {
        let (mut client, server) = pair(&listener).await;
        client.write_all(sent).await.unwrap();
        if reason == Reason::Protocol {
            // Whoever has said what is wrong waits for the end of the other side.
            client.shutdown().await.unwrap();
        }
        let acceptor = if reason == Reason::Timeout { &hasty } else { &lenient };
        let refused = acceptor.accept(server).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.reason, reason);
        if let Some(mut plain) = refused.plaintext {
            let mut first = [0; 7];
            plain.read_exact(&mut first).await.unwrap();
            assert_eq!(&first, b"{\"Join\"");
        }
    }
    let (client, server) = pair(&listener).await;
    drop(client);
    assert_eq!(lenient.accept(server).await.unwrap_err().reason, Reason::Closed);

    assert_eq!(gets_through(&lenient, &certificate).await, Ok(()));
    let stranger = generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.der().clone();
    assert_eq!(gets_through(&lenient, &stranger).await, Err(Reason::ClientRefused));
}

#[tokio::test]
async fn handshakes_that_stall_keep_nobody_out() {
    let directory = Directory::new();
    let certificate = directory.issue();
    let (acceptor, _) = Acceptor::new(&config(2, NEVER), &directory.source()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut stalled = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..2 {
        let (client, server) = pair(&listener).await;
        clients.push(client);
        let acceptor = acceptor.clone();
        stalled.push(tokio::spawn(async move { acceptor.accept(server).await.map(drop) }));
        tokio::task::yield_now().await;
    }
    assert_eq!(gets_through(&acceptor, &certificate).await, Ok(()));
    let first = tokio::time::timeout(NEVER, stalled.remove(0)).await.unwrap().unwrap();
    assert_eq!(first.unwrap_err().reason, Reason::Displaced);
    assert!(!stalled[0].is_finished());
    stalled[0].abort();
}

/// A runtime may well begin with the task that was spawned last.
#[tokio::test]
async fn the_newest_handshake_is_the_one_that_was_accepted_last() {
    let directory = Directory::new();
    directory.issue();
    let (acceptor, _) = Acceptor::new(&config(2, NEVER), &directory.source()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut clients = Vec::new();
    let mut accepting = Vec::new();
    for _ in 0..3 {
        let (client, server) = pair(&listener).await;
        clients.push(client);
        accepting.push(Box::pin(acceptor.accept(server)));
    }
    for newer in accepting.iter_mut().skip(1).rev() {
        assert!(futures_util::poll!(newer).is_pending());
    }
    let oldest = tokio::time::timeout(NEVER, accepting.swap_remove(0)).await.unwrap();
    assert_eq!(oldest.unwrap_err().reason, Reason::Displaced);
}

#[tokio::test]
async fn what_is_new_is_shown_and_what_cannot_be_used_is_not() {
    let directory = Directory::new();
    let old = directory.issue();
    let (acceptor, used) = Acceptor::new(&config(8, NEVER), &directory.source()).unwrap();
    let stop = CancellationToken::new();
    let every = Duration::from_millis(10);
    let following =
        tokio::spawn(acceptor.clone().follow(directory.source(), used, Reload::default().looks(every), stop.clone()));
    assert_eq!(gets_through(&acceptor, &old).await, Ok(()));

    let new = directory.issue();
    let shows = async |certificate| {
        while gets_through(&acceptor, certificate).await.is_err() {
            tokio::time::sleep(every).await;
        }
    };
    tokio::time::timeout(NEVER, shows(&new)).await.expect("the new one is not shown");
    assert_eq!(gets_through(&acceptor, &old).await, Err(Reason::ClientRefused));

    directory.write("key.pem", "broken");
    assert_eq!(gets_through(&acceptor, &new).await, Ok(()));
    let newest = directory.issue();
    tokio::time::timeout(NEVER, shows(&newest)).await.expect("the newest one is not shown");
    stop.cancel();
    tokio::time::timeout(NEVER, following).await.unwrap().unwrap();
}

/// A certificate that is good for so many days from the one that is so many days from now.
pub(super) fn issue_for(directory: &Directory, from: i64, days: i64) {
    let key = KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let day = Duration::from_secs(24 * 3_600);
    let at = |days: i64| {
        let now = std::time::SystemTime::now();
        let far = day * u32::try_from(days.unsigned_abs()).unwrap();
        if days < 0 { now - far } else { now + far }
    };
    (parameters.not_before, parameters.not_after) = (at(from).into(), at(from + days).into());
    let certificate = parameters.self_signed(&key).unwrap();
    directory.write("cert.pem", &certificate.pem());
    directory.write("key.pem", &key.serialize_pem());
}
