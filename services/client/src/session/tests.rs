//! Whole sessions, against a server that is played by hand.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::screen::Style;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);
const WELCOME: &str =
    r#"{"Welcome":{"version":1,"server":"test","session":"c-1","user":"ada","limits":{},"heartbeat":30000}}"#;
const UNAVAILABLE: &str =
    r#"{"Rejected":{"code":"unavailable","message":"later","request":"Hello","retry_after_ms":1}}"#;

/// A script that does nothing by itself.
fn options(listener: &TcpListener) -> Options {
    Options {
        address: listener.local_addr().unwrap().to_string(),
        security: None,
        user: Some("ada".into()),
        proof: None,
        join: Vec::new(),
        last: None,
        places: Places::new(),
        reconnect: true,
        linger: 2 * PATIENCE,
        follow: false,
        commands: true,
        interactive: false,
    }
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

async fn session(options: Options, input: mpsc::Receiver<Typed>) -> Ended {
    let screen = Screen::start(Style::Record, None).unwrap();
    let mut signals = Signals::none();
    Box::pin(run(options, input, &mut signals, &screen, None)).await
}

/// How the session ends, and what the server it talks to comes to.
async fn played<T>(session: impl Future<Output = Ended>, server: impl Future<Output = T>) -> (Ended, T) {
    timeout(PATIENCE, async { tokio::join!(session, server) }).await.unwrap()
}

/// An input that has ended.
fn nothing() -> mpsc::Receiver<Typed> {
    mpsc::channel(1).1
}

/// The next connection, whose `Hello` is answered so.
async fn answer(listener: &TcpListener, line: &str) -> TcpStream {
    let mut peer = BufReader::new(listener.accept().await.unwrap().0);
    let mut hello = String::new();
    peer.read_line(&mut hello).await.unwrap();
    assert!(hello.starts_with(r#"{"Hello":"#), "{hello}");
    say(peer.get_mut(), line).await;
    peer.into_inner()
}

async fn say(peer: &mut TcpStream, line: &str) {
    peer.write_all(format!("{line}\n").as_bytes()).await.unwrap();
}

#[tokio::test]
async fn who_is_to_come_later_at_first_comes_later() {
    let listener = listen().await;
    let serve = async {
        for _ in 0..2 {
            answer(&listener, UNAVAILABLE).await;
        }
        // Whatever happens before it is let in: it was told that it will be.
        drop(listener.accept().await.unwrap());
        answer(&listener, r#"{"Rejected":{"code":"draining","message":"gone","request":"Hello"}}"#).await;
        answer(&listener, WELCOME).await
    };
    let (ended, _peer) = played(session(options(&listener), nothing()), serve).await;
    assert!(matches!(ended, Ok(Outcome::Done)), "{ended:?}");
}

#[tokio::test]
async fn who_does_not_come_again_does_not_come_later() {
    let listener = listen().await;
    let options = Options { reconnect: false, ..options(&listener) };
    let (ended, _peer) = played(session(options, nothing()), answer(&listener, UNAVAILABLE)).await;
    assert!(matches!(ended, Err(Error::Refused(Refusal::Later(_)))), "{ended:?}");
}

#[tokio::test]
async fn the_end_of_the_input_does_not_end_the_first_attempt() {
    let listener = listen().await;
    let options = Options { linger: Duration::ZERO, ..options(&listener) };
    let (ended, _peer) = played(session(options, nothing()), answer(&listener, WELCOME)).await;
    assert!(matches!(ended, Ok(Outcome::Done)), "{ended:?}");
}
