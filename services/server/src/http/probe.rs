//! Asks a server's HTTP port how it is: for health checks where there is no shell and no curl.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::tls;

/// More of an answer is not read.
const ANSWER_BYTES: usize = 64 * 1024;

/// A page to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    tls: bool,
    host: String,
    port: u16,
    path: String,
}

/// Why an answer is not a good one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is not one of ours.
    #[error("'{url}' must be http://HOST:PORT/PATH or https://HOST:PORT/PATH")]
    BadUrl {
        /// What was given.
        url: String,
    },
    /// The configured port is chosen by the system.
    #[error("the HTTP port is 0, so it is not known where to ask: use --http or --url")]
    UnknownPort,
    /// Nobody answers there.
    #[error("cannot connect to {target}: {cause}")]
    Connect {
        /// Where.
        target: String,
        /// What the system said.
        cause: io::Error,
    },
    /// The answer was not understood.
    #[error("no answer from {target}: {cause}")]
    Exchange {
        /// Where.
        target: String,
        /// What went wrong.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer did not come in time.
    #[error("no answer from {target} within {}", humantime::format_duration(*limit))]
    Slow {
        /// Where.
        target: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The server answered that it is not well.
    #[error("{target} answers {status}: {}", answer.trim_end().replace('\n', "; "))]
    Unwell {
        /// Where.
        target: String,
        /// Its status.
        status: StatusCode,
        /// The text of the answer.
        answer: String,
    },
}

/// Where a server on this machine is reached that listens at `ip`: who listens everywhere also listens here.
#[must_use]
pub fn reached_at(ip: IpAddr) -> IpAddr {
    match ip {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

impl Target {
    /// A page of the server that listens at this address, with TLS or without.
    ///
    /// # Errors
    /// The port is 0.
    pub fn new(address: SocketAddr, path: &str, tls: bool) -> Result<Self, Error> {
        if address.port() == 0 {
            return Err(Error::UnknownPort);
        }
        let host = reached_at(address.ip()).to_string();
        Ok(Self { tls, host, port: address.port(), path: path.to_owned() })
    }

    /// The page of a URL.
    ///
    /// # Errors
    /// It is not `http://HOST:PORT/PATH` or `https://HOST:PORT/PATH`.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        let bad = || Error::BadUrl { url: url.to_owned() };
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad()),
        };
        let host = uri.host().ok_or_else(bad)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self { tls, host, port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }), path })
    }

    /// The text of the answer, if its status is 200.
    ///
    /// # Errors
    /// Any other answer, or none within `limit`.
    pub async fn ask(&self, limit: Duration) -> Result<String, Error> {
        match timeout(limit, self.exchange()).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Slow { target: self.url(), limit }),
        }
    }

    async fn exchange(&self) -> Result<String, Error> {
        let target = self.url();
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|cause| Error::Connect { target: target.clone(), cause })?;
        if self.tls {
            let secured = tls::connect(stream, &self.host).await;
            let stream = secured.map_err(|error| Error::Exchange { target, cause: error.into() })?;
            self.converse(stream).await
        } else {
            self.converse(stream).await
        }
    }

    async fn converse(&self, stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<String, Error> {
        let target = self.url();
        let failed = |cause| Error::Exchange { target: target.clone(), cause };
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(error.into()))?;
        let request = Request::get(&self.path)
            .header(HOST, self.authority())
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| failed(error.into()))?;
        let answer = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await?.to_bytes();
            Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        // The connection must be polled for the answer to come; it fails with the answer, which tells more.
        let (answer, _) = tokio::join!(answer, connection);
        match answer.map_err(failed)? {
            (StatusCode::OK, answer) => Ok(answer),
            (status, answer) => Err(Error::Unwell { target, status, answer }),
        }
    }

    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.path)
    }
}
