use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::client::conn::http2 as client;
use hyper_util::rt::TokioExecutor;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tonic::{Code, Status};

use super::*;
use crate::front::{self, Front, Limits};
use crate::log::{self, memory::Memory};
use crate::shard::{self, Bounds, Shards};
use crate::telemetry::levels::Levels;
use crate::telemetry::trace::Tracer;

/// Long enough never to pass in a test that works.
const NEVER: Duration = Duration::from_secs(60);
const LENIENT: Patience = Patience { preface: NEVER, request: NEVER, ping: NEVER, shutdown: NEVER };
const SHORT: Duration = Duration::from_millis(50);

struct Serving {
    address: SocketAddr,
    stop: CancellationToken,
    tracker: TaskTracker,
    shards: Shards,
}

impl Serving {
    async fn start(patience: Patience) -> Self {
        let config = shard::Config { count: 1, ..shard::Config::default() };
        let bounds = Bounds { members_per_group: 10, groups: 10, ..Bounds::default() };
        let shards = Shards::start(config, bounds, Arc::new(Memory::new(&log::Config::default(), 1)), "local".into());
        let front = Front::new(&front::Config::default(), Limits::default(), shards.clone(), front::Options::default());
        let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
        let registry = Arc::clone(front.registry());
        let service = Service::new(
            &Config::default(),
            shards.clone(),
            registry,
            None,
            100,
            Levels::elsewhere("info"),
            stop.clone(),
        );
        let server =
            Server::with_patience(&Config::default(), None, service, Readiness::new(), Tracer::default(), patience)
                .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tracker.spawn(server.serve(listener, stop.clone(), tracker.clone()));
        Self { address, stop, tracker, shards }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Stops it and waits until no task is left.
    async fn stop(self) {
        self.stop.cancel();
        self.tracker.close();
        timeout(NEVER / 2, self.tracker.wait()).await.expect("tasks are left");
        self.shards.stop().await;
    }
}

/// Waits until the server closes.
async fn closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end, too.
    drop(timeout(NEVER / 2, stream.read_to_end(&mut rest)).await.expect("the connection stays open"));
}

#[tokio::test]
async fn who_sends_no_preface_in_time_is_closed_however_slowly_it_sends() {
    let serving = Serving::start(Patience { preface: SHORT, ..LENIENT }).await;
    let mut silent = serving.connect().await;
    closed(&mut silent).await;
    let (mut read, mut write) = serving.connect().await.into_split();
    let dribble = tokio::spawn(async move {
        for byte in PREFACE {
            if write.write_all(&[*byte]).await.is_err() {
                return;
            }
            sleep(SHORT / 4).await;
        }
        std::future::pending().await
    });
    let mut rest = Vec::new();
    drop(timeout(NEVER / 2, read.read_to_end(&mut rest)).await.expect("the connection stays open"));
    dribble.abort();
    serving.stop().await;
}

#[tokio::test]
async fn who_does_not_answer_pings_is_closed() {
    let serving = Serving::start(Patience { ping: SHORT, ..LENIENT }).await;
    let mut dead = serving.connect().await;
    dead.write_all(PREFACE).await.unwrap();
    // An empty SETTINGS frame, and then nothing.
    dead.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
    closed(&mut dead).await;
    // The beginning of a frame of headers whose end does not come.
    let mut half = serving.connect().await;
    half.write_all(PREFACE).await.unwrap();
    half.write_all(b"\0\0\0\x04\0\0\0\0\0\0\x10\0\x01\x04\0\0\0\x01\x83").await.unwrap();
    closed(&mut half).await;
    serving.stop().await;
}

#[tokio::test]
async fn a_request_that_does_not_come_to_its_end_is_answered() {
    let serving = Serving::start(Patience { request: SHORT, ..LENIENT }).await;
    let io = TokioIo::new(serving.connect().await);
    let (mut sender, connection) = client::handshake(TokioExecutor::new(), io).await.unwrap();
    let connection = tokio::spawn(connection);
    let endless = StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>());
    let request = hyper::Request::post(format!("http://{}/tertulia.admin.v1.AdminService/ListGroups", serving.address))
        .header("content-type", "application/grpc")
        .body(endless)
        .unwrap();
    let response = timeout(NEVER / 2, sender.send_request(request)).await.unwrap().unwrap();
    let status = Status::from_header_map(response.headers()).unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    drop((response, sender));
    connection.await.unwrap().unwrap();
    serving.stop().await;
}

#[tokio::test]
async fn what_does_not_end_is_cut_off_at_the_end() {
    let serving = Serving::start(Patience { shutdown: SHORT, ..LENIENT }).await;
    let mut open = serving.connect().await;
    open.write_all(PREFACE).await.unwrap();
    let mut byte = [0];
    // It has been taken on: the server's SETTINGS come.
    open.read_exact(&mut byte).await.unwrap();
    let _silent = serving.connect().await;
    serving.stop().await;
}

/// The lines of a log.
#[derive(Clone, Default)]
struct Logged(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn why_a_certificate_does_not_count_is_told_once_in_a_while() {
    let logged = Logged::default();
    let writer = logged.clone();
    let log = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(log.with_ansi(false).finish());
    let (peer, stop, uncertified) =
        (SocketAddr::from(([192, 0, 2, 1], 5)), CancellationToken::new(), Uncertified::default());
    let refuse = async |reason, cause: &str| {
        let refused = Refused { reason, cause: Some(cause.to_owned()), plaintext: None };
        assert!(secure(std::future::ready(Err(refused)), peer, &stop, &uncertified).await.is_none());
    };
    for _ in 0..3 {
        refuse(Reason::NoClientCertificate, "it has none").await;
        refuse(Reason::BadClientCertificate, "it has expired").await;
        refuse(Reason::Protocol, "it is garbage").await;
    }
    let text = String::from_utf8(logged.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    for (line, cause) in lines.iter().zip(["it has none", "it has expired"]) {
        assert!(line.contains("WARN") && line.contains("192.0.2.1:5") && line.contains(cause), "{line}");
    }
}
