use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::probe::{Error, Target};
use super::*;
use crate::readiness::Reason;

/// Long enough never to pass in a test that works.
const NEVER: Duration = Duration::from_secs(60);
const LENIENT: Patience = Patience { header: NEVER, exchange: NEVER, shutdown: NEVER };

struct Server {
    address: SocketAddr,
    readiness: Readiness,
    shutdown: CancellationToken,
    tracker: TaskTracker,
    accepting: JoinHandle<()>,
}

impl Server {
    async fn start(connections: usize, patience: Patience, metrics: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (readiness, shutdown, tracker) = (Readiness::new(), CancellationToken::new(), TaskTracker::new());
        let config = Config { address, connections, ..Config::default() };
        let rendering = Rendering::new(move || metrics.clone());
        let pages = Pages { rendering, readiness: readiness.clone() };
        let (stop, tasks) = (shutdown.clone(), tracker.clone());
        let accepting =
            tokio::spawn(async move { accept(listener, &config, pages, patience, None, stop, tasks).await });
        Self { address, readiness, shutdown, tracker, accepting }
    }

    async fn lenient() -> Self {
        Self::start(8, LENIENT, "tertulia_x 1\n".to_owned()).await
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes and reads what comes until the server closes.
    async fn send(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        read_to_end(&mut stream).await
    }

    async fn get(&self, path: &str) -> String {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await
    }

    /// Waits until so many connections are served.
    async fn until_serving(&self, connections: usize) {
        let serving = async {
            while self.tracker.len() < connections {
                tokio::task::yield_now().await;
            }
        };
        timeout(NEVER / 2, serving).await.expect("a connection is not taken in");
    }

    /// Waits until no connection is served; the tracker empties without a shutdown.
    async fn until_idle(&self) {
        self.tracker.close();
        timeout(NEVER / 2, self.tracker.wait()).await.expect("a connection stays");
    }

    /// Stops it and waits until no task is left.
    async fn stop(self) {
        self.shutdown.cancel();
        self.tracker.close();
        timeout(NEVER / 2, self.accepting).await.unwrap().unwrap();
        timeout(NEVER / 2, self.tracker.wait()).await.expect("tasks are left");
    }
}

/// What comes until the end of the connection, whichever way it ends.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let reading = async {
        let mut chunk = [0; 4_096];
        while let Ok(length @ 1..) = stream.read(&mut chunk).await {
            bytes.extend_from_slice(&chunk[..length]);
        }
    };
    timeout(NEVER / 2, reading).await.expect("the server does not close");
    String::from_utf8_lossy(&bytes).into_owned()
}

fn status(answer: &str) -> &str {
    answer.lines().next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).unwrap_or(answer)
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[tokio::test]
async fn pages() {
    let server = Server::lenient().await;
    let metrics = server.get("/metrics?x=1").await;
    assert_eq!(status(&metrics), "200 OK");
    assert_eq!(body(&metrics), "tertulia_x 1\n");
    assert!(metrics.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{metrics}");
    assert!(metrics.contains("connection: close\r\n"), "{metrics}");
    assert_eq!(body(&server.get("/livez").await), "ok\n");
    assert!(body(&server.get("/").await).contains("/readyz"));
    assert_eq!(status(&server.get("/metrics/").await), "404 Not Found");

    let head = server.send(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!((status(&head), body(&head)), ("200 OK", ""));
    assert!(head.contains("content-length: 13\r\n"), "{head}");
    let post = server.send(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc").await;
    assert_eq!(status(&post), "405 Method Not Allowed");
    assert!(post.contains("allow: GET, HEAD\r\n"), "{post}");
    let old = server.send(b"GET /livez HTTP/1.0\r\n\r\n").await;
    assert!(old.ends_with("\r\n\r\nok\n"), "{old}");
    server.stop().await;
}

#[tokio::test]
async fn readiness_is_told_with_its_reasons_and_liveness_does_not_depend_on_it() {
    let server = Server::lenient().await;
    assert_eq!(status(&server.get("/readyz").await), "200 OK");
    server.readiness.set(Reason::Draining, "told to stop");
    server.readiness.set(Reason::Log, "disk\nfull");
    let answer = server.get("/readyz").await;
    assert_eq!(status(&answer), "503 Service Unavailable");
    assert_eq!(body(&answer), "log: disk full\ndraining: told to stop\n");
    assert_eq!(status(&server.get("/livez").await), "200 OK");
    server.readiness.clear(Reason::Draining);
    server.readiness.clear(Reason::Log);
    assert_eq!(body(&server.get("/readyz").await), "ok\n");
    server.stop().await;
}

#[tokio::test]
async fn garbage_is_answered_or_closed() {
    let server = Server::lenient().await;
    let long_header = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(64 * 1024));
    let many_headers = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(HEADERS + 1));
    let long_target = format!("GET /{} HTTP/1.1\r\n\r\n", "y".repeat(HEADER_BYTES));
    let lines: [&[u8]; 8] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"{\"Join\":{\"group_name\":\"Dogs\"}}\n",
        b"\0\0\0\0\xff\xff\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        long_header.as_bytes(),
        many_headers.as_bytes(),
        long_target.as_bytes(),
    ];
    for line in lines {
        let answer = server.send(line).await;
        let refused = answer.is_empty() || status(&answer).starts_with('4');
        assert!(refused, "{:?}: {answer}", String::from_utf8_lossy(&line[..line.len().min(40)]));
    }
    assert_eq!(body(&server.get("/livez").await), "ok\n");
    server.stop().await;
}

#[tokio::test]
async fn a_request_that_comes_slowly_is_closed() {
    let patience = Patience { header: Duration::from_millis(50), ..LENIENT };
    let server = Server::start(8, patience, String::new()).await;
    for begun in ["", "GET /livez HT", "GET /livez HTTP/1.1\r\nHost: x\r\n"] {
        let answer = server.send(begun.as_bytes()).await;
        assert!(answer.is_empty() || status(&answer).starts_with("408"), "{answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_closed() {
    let patience = Patience { exchange: Duration::from_millis(200), ..LENIENT };
    let server = Server::start(1, patience, "x".repeat(64 << 20)).await;
    let mut stuck = server.connect().await;
    stuck.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    // The only place is free again once it was closed.
    server.until_serving(1).await;
    server.until_idle().await;
    drop(stuck);
    server.stop().await;
}

#[tokio::test]
async fn the_oldest_connection_gives_way_and_the_place_comes_back() {
    let server = Server::start(1, LENIENT, String::new()).await;
    let mut first = server.connect().await;
    first.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
    server.until_serving(1).await;
    assert_eq!(body(&server.get("/livez").await), "ok\n", "whoever says nothing keeps no probe out");
    assert_eq!(read_to_end(&mut first).await, "");
    server.until_idle().await;
    assert_eq!(body(&server.get("/livez").await), "ok\n");
    server.stop().await;
}

#[tokio::test]
async fn a_shutdown_closes_idle_and_half_begun_connections() {
    let patience = Patience { shutdown: Duration::from_millis(50), ..LENIENT };
    let server = Server::start(8, patience, String::new()).await;
    let mut idle = server.connect().await;
    let mut begun = server.connect().await;
    begun.write_all(b"GET /liv").await.unwrap();
    server.until_serving(2).await;
    let address = server.address;
    server.stop().await;
    assert_eq!(read_to_end(&mut idle).await, "");
    read_to_end(&mut begun).await;
    assert!(TcpStream::connect(address).await.is_err(), "the listener is still there");
}

#[tokio::test]
async fn a_probe_tells_ready_from_not_ready_and_from_away() {
    let server = Server::lenient().await;
    let target = Target::new(server.address, "/readyz", false).unwrap();
    assert_eq!(target.ask(NEVER).await.unwrap(), "ok\n");
    server.readiness.set(Reason::Draining, "told to stop");
    let error = target.ask(NEVER).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("http://{}/readyz answers 503 Service Unavailable: draining: told to stop", server.address)
    );
    server.stop().await;
    assert!(matches!(target.ask(NEVER).await, Err(Error::Connect { .. })));

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::new(silent.local_addr().unwrap(), "/", false).unwrap();
    assert!(matches!(target.ask(Duration::from_millis(20)).await, Err(Error::Slow { .. })));
}

#[test]
fn a_probe_knows_where_to_ask() {
    let everywhere = Target::new("0.0.0.0:8090".parse().unwrap(), "/livez", false).unwrap();
    assert_eq!(everywhere, Target::from_url("http://127.0.0.1:8090/livez").unwrap());
    let everywhere = Target::new("[::]:8090".parse().unwrap(), "/livez", false).unwrap();
    assert_eq!(everywhere, Target::from_url("http://[::1]:8090/livez").unwrap());
    assert!(matches!(Target::new("127.0.0.1:0".parse().unwrap(), "/", false), Err(Error::UnknownPort)));
    for bad in ["", "localhost:8090", "ftp://localhost/", "/livez", "http://"] {
        assert!(matches!(Target::from_url(bad), Err(Error::BadUrl { .. })), "{bad}");
    }
}
