//! The connection to a server, and the messages on it, which only the descriptors know.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::http::uri::PathAndQuery;
use hyper::{Uri, http};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use tertulia_server::causes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder, Streaming};
use tonic::codegen::Service;
use tonic::{Request, Status};

use super::Error;
use super::calls::Call;
use super::target::Target;

/// Between two pings, and until one is answered: a stream whose server is gone ends.
const PING: Duration = Duration::from_secs(10);

/// What to do about a server that does not speak TLS to its end.
const NO_TLS: &str = "does the admin API listen there, and with TLS (admin.tls)?";

/// A connection to a server.
pub(super) struct Link<'a> {
    grpc: Grpc<Sender>,
    target: &'a Target,
}

impl<'a> Link<'a> {
    pub(super) async fn open(target: &'a Target) -> Result<Self, Error> {
        let address = || target.address();
        let socket = TcpStream::connect((target.host.as_str(), target.port)).await;
        let socket = socket.map_err(|cause| Error::Connect { address: address(), cause })?;
        let Some(security) = target.security.clone() else { return Self::over(socket, "http", target).await };
        let secured = TlsConnector::from(security.config).connect(security.name, socket).await;
        let secured = secured.map_err(|error| {
            let cause = tertulia_tls_client::explained(error);
            // Certificates were not looked at where TLS was not spoken.
            let is_of_tls = cause.get_ref().is_some_and(|cause| cause.is::<rustls::Error>());
            let advice = if is_of_tls { &target.advice } else { NO_TLS };
            Error::Handshake { address: address(), cause, advice: advice.to_owned() }
        })?;
        Self::over(secured, "https", target).await
    }

    async fn over<S>(stream: S, scheme: &str, target: &'a Target) -> Result<Self, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PING);
        let begun = builder.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = begun.map_err(|error| target.broken(causes::on_one_line(&error)))?;
        // What it fails of, the call is told.
        tokio::spawn(connection);
        let origin = Uri::try_from(format!("{scheme}://{}", target.address()));
        let origin = origin.map_err(|_| Error::Address { address: target.address() })?;
        // The server is the caller's own, and may have been given messages of any length.
        let grpc = Grpc::with_origin(Sender(sender), origin).max_decoding_message_size(usize::MAX);
        Ok(Self { grpc, target })
    }

    /// Calls, and waits for the answer.
    pub(super) async fn unary(&mut self, call: &Call, request: DynamicMessage) -> Result<DynamicMessage, Error> {
        let (request, path, codec) = self.parts(call, request)?;
        let answered = self.grpc.unary(request, path, codec).await;
        Ok(answered.map_err(|status| self.target.failure(&status))?.into_inner())
    }

    /// Calls, and waits for the answers to begin.
    pub(super) async fn stream(
        &mut self,
        call: &Call,
        request: DynamicMessage,
    ) -> Result<Streaming<DynamicMessage>, Error> {
        let (request, path, codec) = self.parts(call, request)?;
        let begun = self.grpc.server_streaming(request, path, codec).await;
        Ok(begun.map_err(|status| self.target.failure(&status))?.into_inner())
    }

    fn parts(
        &self,
        call: &Call,
        request: DynamicMessage,
    ) -> Result<(Request<DynamicMessage>, PathAndQuery, Dynamic), Error> {
        let path = call.path().parse::<PathAndQuery>();
        let path = path.map_err(|error| Error::Descriptors(error.into()))?;
        let mut request = Request::new(request);
        if let Some(authorization) = &self.target.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        Ok((request, path, Dynamic(call.output())))
    }
}

/// Sends requests on one connection; there is no other one after it.
struct Sender(SendRequest<Body>);

impl Service<http::Request<Body>> for Sender {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// Writes any message, and reads those that this describes.
#[derive(Clone)]
struct Dynamic(MessageDescriptor);

impl Codec for Dynamic {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, item: DynamicMessage, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(out).map_err(|error| Status::internal(format!("cannot write the request: {error}")))
    }
}

impl Decoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let read = DynamicMessage::decode(self.0.clone(), bytes);
        read.map(Some).map_err(|error| Status::internal(format!("cannot read the answer: {error}")))
    }
}

#[cfg(test)]
mod tests;
