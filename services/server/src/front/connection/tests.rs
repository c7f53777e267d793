use std::net::{IpAddr, SocketAddr};

use metrics_exporter_prometheus::PrometheusBuilder;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tertulia_protocol::{NameRules, UserName};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::auth::Auth;
use crate::complaint::Complaint;
use crate::front::listener::tests::Warnings;
use crate::front::metrics::Metrics;
use crate::front::registry::{Registry, State};
use crate::front::timers::Patience;
use crate::front::{self, Front, Limits};
use crate::log::{self, memory::Memory};
use crate::shard::request::Posts;
use crate::shard::{self, Bounds, ConnectionId, Event, JoinFrom, Range, ReadError, Shards, Untold};
use crate::telemetry::trace::Tracer;
use crate::tls::Acceptor;
use crate::tls::tests::Directory;

mod proving;
mod removing;

/// Long enough never to pass in a test that works.
const NEVER: Duration = Duration::from_secs(30);
/// Bytes that a socket of these tests keeps; the system makes somewhat more of it.
const LITTLE: u32 = 4 * 1024;

/// An idle connection costs its task most of all: 10,000 of them are 10,000 of these.
#[test]
fn a_task_is_small() {
    fn size<F>(_: fn(Box<Task>, Admitted) -> F) -> usize {
        size_of::<F>()
    }
    let (task, future) = (size_of::<Task>(), size(|task, admitted| task.run(admitted)));
    assert!(task <= 608 && future <= 128, "the task has {task} bytes, its future {future}");
}

fn shards() -> Shards {
    let memory = Arc::new(Memory::new(&log::Config::default(), 1));
    let bounds = Bounds { members_per_group: 10, groups: 10, ..Bounds::default() };
    Shards::start(shard::Config { count: 1, ..shard::Config::default() }, bounds, memory, "local".to_owned())
}

/// A client that takes little that it does not read.
async fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(LITTLE).unwrap();
    socket.connect(address).await.unwrap()
}

/// Both ends of a connection with TLS.
async fn with_tls() -> (TlsStream<TcpStream>, Stream) {
    let directory = Directory::new();
    let cert = directory.issue();
    let (acceptor, _) = Acceptor::new(&tls::Config::default(), &directory.source()).unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, accepted) = tokio::join!(connect(listener.local_addr().unwrap()), listener.accept());
    let (server, _) = accepted.unwrap();
    socket2::SockRef::from(&server).set_send_buffer_size(LITTLE as usize).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let connector = TlsConnector::from(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()));
    let name = ServerName::try_from("localhost").unwrap();
    let (client, server) = tokio::join!(connector.connect(name, client), acceptor.accept(server));
    (client.unwrap(), server.unwrap())
}

/// The task of a connection that has told who it is, and the guard of its place.
fn task(socket: Stream) -> (Task, Admitted) {
    task_within(Limits::default(), socket)
}

fn task_within(limits: Limits, socket: Stream) -> (Task, Admitted) {
    let admitted = Arc::new(Registry::new(&limits, 1)).admit(SocketAddr::from(([127, 0, 0, 1], 1))).unwrap();
    let me = Arc::clone(&admitted.connection);
    let (id, address, inbox) = (me.id, me.peer.ip(), Arc::clone(&me.inbox));
    let user = UserName::new("ada").unwrap();
    let session = Session { id, user, address, inbox, home: None, wants_places: true };
    me.set_session(Arc::new(session), Dialect::Extended);
    let rules = NameRules { max_bytes: limits.group_name_bytes, ascii_only: false };
    let patience = Patience { hello: NEVER, line: NEVER, idle: NEVER, heartbeat: NEVER, stall: NEVER };
    let (metrics, tracer, weight) = (Metrics::new(), Tracer::default(), Arc::default());
    let (shards, unread, unanswered) = (shards(), Complaint::default(), Complaint::default());
    let shared = Shared {
        limits,
        rules,
        patience,
        shards,
        metrics,
        tracer,
        weight,
        unread,
        unanswered,
        auth: Auth::default(),
        remove_own: true,
        not_let_in: Complaint::default(),
    };
    (Task::new(Arc::new(shared), me, socket), admitted)
}

/// It has said who it is.
fn introduce(task: &mut Task) {
    task.voice = task.me.session().map(|(session, _)| (Arc::clone(session), Dialect::Extended));
}

#[tokio::test]
async fn each_join_is_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, accepted) = tokio::join!(connect(listener.local_addr().unwrap()), listener.accept());
    let recorder = PrometheusBuilder::new().build_recorder();
    let (mut task, _admitted) = ::metrics::with_local_recorder(&recorder, || task(Stream::Plain(accepted.unwrap().0)));
    let session = task.me.session().map(|(session, _)| Arc::clone(session));
    for (count, dialect, request) in [
        (1, Dialect::Classic, json!({"Join": {"group_name": "Dogs"}})),
        (2, Dialect::Extended, json!({"Join": {"group_name": "Dogs"}})),
        (3, Dialect::Extended, json!({"Join": {"group_name": "Dogs", "after": 1, "last": 1}})),
    ] {
        task.voice = session.clone().map(|session| (session, dialect));
        task.on_line(request.to_string().as_bytes());
        let text = recorder.handle().render();
        assert!(text.contains(&format!("tertulia_requests_total{{kind=\"join\"}} {count}\n")), "{text}");
    }
    drop(client);
}

#[tokio::test]
async fn joins_that_no_owner_hears_of_are_counted_as_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, accepted) = tokio::join!(connect(listener.local_addr().unwrap()), listener.accept());
    let recorder = PrometheusBuilder::new().build_recorder();
    let limits = Limits { groups_per_connection: 1, ..Limits::default() };
    let stream = Stream::Plain(accepted.unwrap().0);
    let (mut task, _admitted) = ::metrics::with_local_recorder(&recorder, || task_within(limits, stream));
    introduce(&mut task);
    for (refused, join) in [
        (0, json!({"group_name": "Dogs"})),
        (1, json!({"group_name": "Cats"})),
        (2, json!({"group_name": ""})),
        (3, json!({"group_name": "Dogs", "after": 1, "last": 1})),
    ] {
        task.on_line(json!({"Join": join}).to_string().as_bytes());
        let text = recorder.handle().render();
        assert!(text.contains(&format!("tertulia_joins_total{{result=\"refused\"}} {refused}\n")), "{join}: {text}");
    }
    // What is no question of joining is none of them.
    task.on_line(br#"{"Leave": {"group_name": ""}}"#);
    assert!(recorder.handle().render().contains("tertulia_joins_total{result=\"refused\"} 3\n"));
    drop(client);
}

#[tokio::test]
async fn that_questions_cannot_be_answered_is_said_once_in_a_while() {
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, accepted) = tokio::join!(connect(listener.local_addr().unwrap()), listener.accept());
    let (mut task, _admitted) = task(Stream::Plain(accepted.unwrap().0));
    introduce(&mut task);
    let error = || ReadError { reason: "it is out of order".to_owned() };
    let group = GroupName::new("Dogs").unwrap();
    for _ in 0..100 {
        let (group, range) = (group.clone(), Range::Before(u64::MAX));
        task.on_reply(Reply::History { group, range, page: Err(error()), epoch: None });
        task.on_reply(Reply::Groups(Err(Untold::Unread(error()))));
    }
    let told = String::from_utf8(task.out.take_all()).unwrap();
    assert_eq!(told.matches("unavailable").count(), 200, "whoever asks is told: {told}");
    assert_eq!(warnings.0.load(Ordering::Relaxed), 1);
    drop(client);
}

/// A group that has so many messages.
async fn fill_group(shards: &Shards, group: &GroupName, messages: usize) {
    let (user, address, inbox) = (UserName::new("bob").unwrap(), IpAddr::from([127, 0, 0, 1]), Arc::default());
    let session = Arc::new(Session { id: ConnectionId(99), user, address, inbox, home: None, wants_places: true });
    let join = Request::Join { group: group.clone(), session: Arc::clone(&session), from: JoinFrom::Now };
    assert!(shards.send(shards.shard_of(group), join).await);
    std::future::poll_fn(|cx| session.inbox.poll_take(cx)).await;
    let post = |_| NewPost { group: group.clone(), message: "x".into(), id: None, trace: None, weight: None };
    let (posts, received) = ((0..messages).map(post).collect(), Instant::now());
    let posts = Posts { session: Arc::clone(&session), posts, received, in_doubt: false };
    assert!(shards.send(shards.shard_of(group), Request::Post(posts)).await);
    let mut stored = 0;
    while stored < messages {
        for event in std::future::poll_fn(|cx| session.inbox.poll_take(cx)).await {
            let Event::Posted(acks) = event else { panic!("{event:?}") };
            assert!(acks.iter().all(|ack| ack.outcome.is_ok()), "{acks:?}");
            stored += acks.len();
        }
    }
}

/// It is read from memory, and nothing that is waited for ends the turn.
#[tokio::test]
async fn who_takes_all_as_fast_as_it_is_read_leaves_others_their_turn() {
    const MESSAGES: usize = 4_000;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().await.unwrap();
    socket2::SockRef::from(&server).set_send_buffer_size(1024 * 1024).unwrap();
    let taking = std::thread::spawn(move || std::io::copy(&mut client, &mut std::io::sink()).unwrap());

    let limits = Limits { outbound_bytes: 4 * 1024, ..Limits::default() };
    let (mut task, _admitted) = task_within(limits, Stream::Plain(server));
    introduce(&mut task);
    fill_group(&task.shared.shards, &GroupName::new("Dogs").unwrap(), MESSAGES).await;
    task.on_line(json!({"Join": {"group_name": "Dogs", "last": MESSAGES}}).to_string().as_bytes());
    let (mut most, me) = (0, Arc::clone(&task.me));
    let sent = || me.bytes_out.load(Ordering::Relaxed);
    let serving = std::future::poll_fn(|cx| {
        let before = sent();
        assert!(task.poll(cx).is_pending());
        most = most.max(sent() - before);
        let is_served = me.deliveries.load(Ordering::Relaxed) == MESSAGES as u64 && task.out.is_empty();
        if is_served { Poll::Ready(()) } else { Poll::Pending }
    });
    tokio::time::timeout(NEVER, serving).await.unwrap();
    // In 16 pages, each of which fills it up, and one may have waited.
    let pages = 1 + u64::from(FILLS);
    assert!(most <= sent() * pages / 15, "{most} of {} in one turn", sent());
    drop(task);
    assert_eq!(taking.join().unwrap(), sent());
}

async fn write(task: &mut Task, bytes: usize) {
    task.out.write_with(|out| out.resize(out.len() + bytes, b'x'));
    std::future::poll_fn(|cx| Poll::Ready(task.poll_output(cx))).await.unwrap();
}

/// Writes until the socket has no room for all that is encrypted. Answers how many bytes that were.
async fn fill(task: &mut Task) -> usize {
    let (mut sent, mut stays) = (0, 0);
    // Until it stays so: what says that there is room again may come late.
    while stays < 10 {
        let bytes = if task.encrypted > 0 { 0 } else { 1_000 };
        write(task, bytes).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        stays = if task.encrypted > 0 { stays + 1 } else { 0 };
        sent += bytes;
    }
    sent
}

#[tokio::test]
async fn a_client_that_takes_a_part_of_what_is_encrypted_has_taken_something() {
    let (mut client, server) = with_tls().await;
    let (mut task, _admitted) = task(server);
    let filled = fill(&mut task).await;
    let rest = tls::BUFFER - 4_000;
    write(&mut task, rest).await;
    let wrote = task.clocks.wrote;
    assert!(task.out.is_empty(), "there is no room for {rest} bytes beside what is encrypted");

    let reading = tokio::spawn(async move { client.read_exact(&mut vec![0; filled + rest]).await.map(drop) });
    let taking = std::future::poll_fn(|cx| {
        task.poll_output(cx).unwrap();
        if task.clocks.wrote == wrote { Poll::Pending } else { Poll::Ready(()) }
    });
    tokio::time::timeout(NEVER, taking).await.unwrap();
    assert!(task.encrypted > 0, "it counts only when all of it is taken");
    let flushing = std::future::poll_fn(|cx| {
        task.poll_output(cx).unwrap();
        if task.is_writing() { Poll::Pending } else { Poll::Ready(()) }
    });
    tokio::time::timeout(NEVER, flushing).await.unwrap();
    reading.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_encrypted_and_not_taken_waits() {
    let (mut client, server) = with_tls().await;
    let (mut task, _admitted) = task(server);
    let mut sent = fill(&mut task).await;
    // What is new is taken for as long as there is room beside it.
    let (wrote, waits) = (task.clocks.wrote, task.me.outbound.load(Ordering::Relaxed));
    assert!(task.out.is_empty() && waits > 0, "{waits}");
    write(&mut task, 1_000).await;
    assert!(task.out.is_empty() && task.clocks.wrote == wrote, "the client has taken nothing");
    assert_eq!(task.me.outbound.load(Ordering::Relaxed), waits + 1_000);
    write(&mut task, 2 * tls::BUFFER).await;
    assert!(!task.out.is_empty() && task.clocks.wrote == wrote);
    sent += 1_000 + 2 * tls::BUFFER;

    // That a part of it is taken is seen when there is room for more.
    let waits = task.out.len();
    let reading = tokio::spawn(async move {
        let mut read = vec![0; sent];
        client.read_exact(&mut read).await.unwrap();
    });
    let taking = std::future::poll_fn(|cx| {
        task.poll_output(cx).unwrap();
        if task.out.len() == waits { Poll::Pending } else { Poll::Ready(()) }
    });
    tokio::time::timeout(NEVER, taking).await.unwrap();
    assert!(task.clocks.wrote > wrote);
    let flushing = std::future::poll_fn(|cx| {
        task.poll_output(cx).unwrap();
        if task.is_writing() { Poll::Pending } else { Poll::Ready(()) }
    });
    tokio::time::timeout(NEVER, flushing).await.unwrap();
    assert_eq!(task.me.outbound.load(Ordering::Relaxed), 0);
    assert_eq!(task.me.state(), State::Open);
    reading.await.unwrap();
}

#[tokio::test]
async fn a_line_has_all_its_time_once_it_is_read_again() {
    const TIME: Duration = Duration::from_secs(1);
    let limits = Limits { line_timeout: TIME, posts_in_flight_bytes: usize::MAX, ..Limits::default() };
    let front = Front::new(&front::Config::default(), limits, shards(), front::Options::default());
    let listener = front::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(front.serve(listener, CancellationToken::new()));
    let mut client = BufReader::new(connect(address).await);
    let next = async |client: &mut BufReader<TcpStream>| {
        let mut line = String::new();
        let read = tokio::time::timeout(NEVER, client.read_line(&mut line)).await.expect("nothing came").unwrap();
        assert!(read > 0, "the connection has ended");
        serde_json::from_str::<Value>(&line).unwrap()
    };

    let mut lines = vec![json!({"Hello": {"version": 1, "user": "ada"}}), json!({"Join": {"group_name": "Dogs"}})];
    let message = "x".repeat(16 * 1024);
    lines.extend((0..20).map(|_| json!({"Post": {"group_name": "Dogs", "message": message}})));
    for line in lines {
        client.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }
    let mut last = 0;
    while last < 20 {
        let line = next(&mut client).await;
        last = line["Posted"]["seq"].as_u64().unwrap_or(last);
    }
    // Far more answers than find room: the line that is begun after them waits with the requests for those.
    const QUESTIONS: usize = 40;
    let question = json!({"History": {"group_name": "Dogs"}});
    let begun = format!("{}{{\"Pi", format!("{question}\n").repeat(QUESTIONS));
    client.write_all(begun.as_bytes()).await.unwrap();
    tokio::time::sleep(TIME * 3 / 2).await;
    let mut answers = 0;
    while answers < QUESTIONS {
        let line = next(&mut client).await;
        assert!(line["Error"].is_null() && line["Rejected"].is_null(), "{line}");
        answers += usize::from(line["History"].is_object());
    }
    client.write_all(b"ng\":{}}\n").await.unwrap();
    assert!(next(&mut client).await["Pong"].is_object());
    serving.abort();
}
