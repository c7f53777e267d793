//! While a password is checked.

use super::*;

const HELLO: &str = r#"{"Hello":{"version":1,"user":"ada","password":"password"}}"#;

/// A front that asks for the password of ada, and where it listens.
async fn serve(limits: Limits) -> (Front, Auth, SocketAddr) {
    let auth = Auth::of_ada();
    let front = Front::new(
        &front::Config::default(),
        limits,
        shards(),
        front::Options { auth: auth.clone(), ..front::Options::default() },
    );
    let listener = front::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(front.clone().serve(listener, CancellationToken::new()));
    (front, auth, address)
}

struct Client(BufReader<TcpStream>);

impl Client {
    async fn new(address: SocketAddr, written: &str) -> Self {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(written.as_bytes()).await.unwrap();
        Self(BufReader::new(socket))
    }

    /// The next line; null at the end.
    async fn next(&mut self) -> Value {
        let mut line = String::new();
        let read = tokio::time::timeout(NEVER, self.0.read_line(&mut line)).await.expect("nothing comes").unwrap();
        if read == 0 { Value::Null } else { serde_json::from_str(&line).unwrap() }
    }
}

async fn until_unchecked(auth: &Auth, expected: usize) {
    let waiting = async {
        while auth.unchecked() != expected {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(NEVER, waiting).await.expect("there are never so many");
}

#[tokio::test]
async fn what_comes_behind_a_password_waits_for_its_check_and_is_carried_out_in_its_order() {
    let (_front, auth, address) = serve(Limits::default()).await;
    let held = auth.hold_checks().await;
    let lines = [HELLO, r#"{"Join":{"group_name":"Dogs"}}"#, r#"{"Post":{"group_name":"Dogs","message":"a"}}"#];
    let mut whole = Client::new(address, &lines.map(|line| format!("{line}\n")).concat()).await;
    whole.0.get_mut().shutdown().await.unwrap();
    // As the last line, which has no end of its own.
    let mut last = Client::new(address, HELLO).await;
    last.0.get_mut().shutdown().await.unwrap();
    until_unchecked(&auth, 2).await;
    drop(held);
    assert_eq!(whole.next().await["Welcome"]["user"], "ada");
    assert!(whole.next().await["Joined"].is_object());
    let both = [whole.next().await, whole.next().await];
    assert!(["Posted", "Message"].iter().all(|kind| both.iter().any(|line| line[kind].is_object())), "{both:?}");
    assert_eq!(last.next().await["Welcome"]["user"], "ada");
    assert_eq!([whole.next().await, last.next().await], [Value::Null, Value::Null]);
}

#[tokio::test]
async fn who_waits_too_long_for_its_password_to_be_checked_gives_up_its_place() {
    let (_front, auth, address) = serve(Limits { hello_timeout: Duration::from_secs(1), ..Limits::default() }).await;
    let held = auth.hold_checks().await;
    let mut client = Client::new(address, &format!("{HELLO}\n{{\"Ping\":{{}}}}\n")).await;
    let rejected = client.next().await;
    assert_eq!(rejected["Rejected"]["code"], "unavailable", "{rejected}");
    assert_eq!(rejected["Rejected"]["request"], "Hello");
    assert_eq!(auth.unchecked(), 0, "before it closes its end");
    assert_eq!(client.next().await, Value::Null);
    drop(held);
}

#[tokio::test]
async fn who_is_sent_away_while_its_password_is_checked_hears_of_it() {
    let (front, auth, address) = serve(Limits::default()).await;
    let held = auth.hold_checks().await;
    let mut client = Client::new(address, &format!("{HELLO}\n")).await;
    until_unchecked(&auth, 1).await;
    front.go_away("stop", Duration::ZERO);
    drop(held);
    assert_eq!(client.next().await["Welcome"]["user"], "ada");
    assert_eq!(client.next().await["GoingAway"]["reason"], "stop");
}

#[tokio::test]
async fn a_server_that_stops_waits_for_no_more_checks() {
    let (front, auth, address) = serve(Limits::default()).await;
    let held = auth.hold_checks().await;
    let mut client = Client::new(address, &format!("{HELLO}\n")).await;
    until_unchecked(&auth, 1).await;
    let finishing = tokio::spawn(async move { front.finish(Duration::from_millis(10)).await });
    let rejected = client.next().await;
    assert_eq!(
        (&rejected["Rejected"]["code"], &rejected["Rejected"]["request"]),
        (&json!("draining"), &json!("Hello"))
    );
    assert_eq!(auth.unchecked(), 0);
    assert_eq!(client.next().await, Value::Null);
    drop((client, held));
    tokio::time::timeout(NEVER, finishing).await.expect("it waits").unwrap();
}

#[tokio::test]
async fn whom_a_moderator_disconnects_gives_up_its_place() {
    let (front, auth, address) = serve(Limits::default()).await;
    let held = auth.hold_checks().await;
    let mut client = Client::new(address, &format!("{HELLO}\n")).await;
    until_unchecked(&auth, 1).await;
    let connection = front.registry().list(None, 1, |_| true).pop().unwrap();
    connection.disconnect(Some("enough".into()));
    let rejected = client.next().await;
    assert_eq!((&rejected["Rejected"]["code"], &rejected["Rejected"]["request"]), (&json!("kicked"), &Value::Null));
    assert_eq!(auth.unchecked(), 0);
    assert_eq!(client.next().await, Value::Null);
    drop(held);
}
