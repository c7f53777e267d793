//! A connection that outlives what it talks to, as one may that is cut off when the time of a stop is over.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "clippy takes only functions marked as tests for tests")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tertulia_server::drain::Accepting;
use tertulia_server::front::{self, Front, Limits};
use tertulia_server::log::{self, memory::Memory};
use tertulia_server::shard::{self, Bounds, Shards};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Long enough never to pass in a test that works.
const NEVER: Duration = Duration::from_secs(30);
const SHARDS: u16 = 4;

/// The next line; `None` at the end.
async fn next(client: &mut BufReader<TcpStream>) -> Option<Value> {
    let mut line = String::new();
    match timeout(NEVER, client.read_line(&mut line)).await.expect("nothing came") {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(serde_json::from_str(&line).unwrap()),
    }
}

async fn ask(client: &mut BufReader<TcpStream>, line: Value) -> Option<Value> {
    client.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    next(client).await
}

#[tokio::test]
async fn who_asks_owners_that_have_stopped_is_told_that_the_server_is_draining() {
    let log = Arc::new(Memory::new(&log::Config::default(), SHARDS));
    let bounds = Bounds { members_per_group: 10, groups: 10, ..Bounds::default() };
    let config = shard::Config { count: SHARDS, ..shard::Config::default() };
    let shards = Shards::start(config, bounds, log, "local".to_owned());
    let front = Front::new(&front::Config::default(), Limits::default(), shards.clone(), front::Options::default());
    let listener = front::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = listener.local_addr().unwrap();
    let _accepting = Accepting::start(&front, listener);
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = BufReader::new(TcpStream::connect(address).await.unwrap());
        assert!(
            ask(&mut client, json!({"Hello": {"version": 1, "user": "ada"}})).await.unwrap()["Welcome"].is_object()
        );
        let joined = ask(&mut client, json!({"Join": {"group_name": "Dogs"}})).await.unwrap();
        assert!(joined["Joined"].is_object(), "{joined}");
        clients.push(client);
    }
    shards.stop().await;
    let refused = ask(&mut clients[0], json!({"Members": {"group_name": "Dogs"}})).await.unwrap();
    let refusal = &refused["Rejected"];
    assert_eq!((&refusal["code"], &refusal["request"]), (&json!("draining"), &json!("Members")), "{refused}");
    assert_eq!(refusal["group_name"], "Dogs", "{refused}");
    // A post or a join is not even taken: the connection ends, and neither was done.
    assert_eq!(ask(&mut clients[1], json!({"Post": {"group_name": "Dogs", "message": "x", "id": "1"}})).await, None);
}
