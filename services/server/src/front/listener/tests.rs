use std::sync::atomic::AtomicUsize;

use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout};
use tracing::span;

use super::*;
use crate::log::{self, memory::Memory};
use crate::shard::{self, Bounds};
use crate::tls::tests::Directory;

/// Long enough never to pass in a test that works.
const NEVER: Duration = Duration::from_secs(30);
const HEADER: &[u8] = b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 8088\r\n";

fn front(tls: Option<Acceptor>) -> Front {
    let memory = Arc::new(Memory::new(&log::Config::default(), 1));
    let config = shard::Config { count: 1, ..shard::Config::default() };
    let shards = Shards::start(config, Bounds::default(), memory, "local".to_owned());
    Front::new(&Config::default(), Limits::default(), shards, Options { tls, ..Options::default() })
}

/// One whose connections tell where they are from, so many at once.
fn introducing(most: usize, tls: Option<Acceptor>) -> (Front, Arc<Introductions>) {
    let introductions = Introductions::new(most);
    (Front { introductions: Some(Arc::clone(&introductions)), ..front(tls) }, introductions)
}

fn at_home() -> TcpListener {
    bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap()
}

async fn until_closed(client: &mut TcpStream) {
    let mut rest = Vec::new();
    // Closed with something unread it is reset.
    drop(timeout(NEVER, client.read_to_end(&mut rest)).await.expect("it is not closed"));
}

#[tokio::test]
async fn connections_inherit_what_is_set_on_their_listener() {
    let listener = at_home();
    let client = TcpStream::connect(listener.local_addr().unwrap());
    let (client, accepted) = tokio::join!(client, listener.accept());
    let (socket, _) = accepted.unwrap();
    let socket = socket2::SockRef::from(&socket);
    assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
    drop(client);
}

#[tokio::test]
async fn who_has_told_and_waits_for_its_turn_keeps_its_place() {
    let (front, introductions) = introducing(2, None);
    let listener = at_home();
    // Nobody may begin.
    let turn = introductions.turn.lock().await;
    let stop = CancellationToken::new();
    let come = async || {
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        let (socket, peer) = accepted.unwrap();
        front.introduce(socket, peer, &introductions, &stop);
        client.unwrap()
    };
    let mut told = come().await;
    told.write_all(HEADER).await.unwrap();
    while introductions.waiting.load(Ordering::Acquire) == 0 {
        tokio::task::yield_now().await;
    }
    let mut silent = come().await;
    let _last = come().await;
    until_closed(&mut silent).await;
    drop(turn);
    told.write_all(b"{\"Hello\":{\"version\":1}}\n").await.unwrap();
    let mut welcome = [0; 12];
    timeout(NEVER, told.read_exact(&mut welcome)).await.expect("it never begins").unwrap();
    assert!(welcome.starts_with(b"{\"Welcome\""), "{welcome:?}");
    // A stop does not wait for those whose turn it is not.
    let turn = introductions.turn.lock().await;
    come().await.write_all(HEADER).await.unwrap();
    stop.cancel();
    drop(told);
    timeout(NEVER, front.emptied()).await.expect("it waits for their turn");
    drop(turn);
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_those_who_have_told_waits_in_the_backlog_but_not_for_long() {
    let introductions = Introductions::new(4);
    let took = async |work: &mut (dyn Future<Output = ()> + Unpin)| {
        let begun = Instant::now();
        work.await;
        begun.elapsed()
    };
    let one = introductions.wait();
    assert_eq!(took(&mut Box::pin(introductions.room())).await, Duration::ZERO);
    let other = introductions.wait();
    assert_eq!(took(&mut Box::pin(introductions.room())).await, UNDISTURBED);
    let mut room = Box::pin(introductions.room());
    assert!(futures_util::poll!(&mut room).is_pending());
    drop(one);
    assert_eq!(took(&mut room).await, Duration::ZERO);
    drop(other);
}

#[tokio::test]
async fn who_has_yet_to_tell_is_accepted_while_there_is_no_room_for_a_handshake() {
    let directory = Directory::new();
    directory.issue();
    let config = tls::Config { handshakes: 1, ..tls::Config::default() };
    let (acceptor, _) = Acceptor::new(&config, &directory.source()).unwrap();
    let (front, _) = introducing(2, Some(acceptor.clone()));
    let listener = at_home();
    let address = listener.local_addr().unwrap();
    let _clients = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
    let (socket, _) = listener.accept().await.unwrap();
    let handshake = acceptor.accept(socket);
    let begun = Instant::now();
    timeout(NEVER, front.accept(&listener)).await.unwrap().unwrap();
    // After a second the oldest handshake would have given way.
    assert!(begun.elapsed() < Duration::from_millis(800), "{:?}", begun.elapsed());
    drop(handshake);
}

/// Counts what is said aloud.
#[derive(Clone, Default)]
pub(in crate::front) struct Warnings(pub(in crate::front) Arc<AtomicUsize>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn a_port_that_cannot_accept_says_so_once_in_a_while() {
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    // One that does not listen fails at each attempt.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(socket.into()).unwrap();
    let serving = front(None).serve(listener, CancellationToken::new());
    assert!(timeout(Duration::from_secs(1), serving).await.is_err());
    assert_eq!(warnings.0.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn who_only_looks_whether_the_port_is_open_is_no_complaint() {
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    let (front, _) = introducing(2, None);
    let listener = at_home();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(front.clone().serve(listener, stop.clone()));
    for (begin, said) in [(&b""[..], 0), (b"PROX", 1)] {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(begin).await.unwrap();
        client.shutdown().await.unwrap();
        until_closed(&mut client).await;
        // What is said is said before it is closed.
        assert_eq!(warnings.0.load(Ordering::Relaxed), said, "{begin:?}");
    }
    stop.cancel();
    serving.await.unwrap();
}
