//! A load balancer before the server tells from where it has its connections.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use harness::ServerOptions;
use harness::deadline::{PATIENCE, within};
use harness::metrics::Metrics;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

const HELLO: &[u8] = b"{\"Hello\":{\"version\":1,\"user\":\"ada\"}}\n";

/// The first line that comes to a connection which begins so, and the connection; `None` if it is closed without a word.
async fn first_line(address: SocketAddr, begin: &[u8]) -> Result<(Option<Value>, BufReader<TcpStream>)> {
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    // It may be closed meanwhile.
    drop(stream.write_all(&[begin, HELLO].concat()).await);
    let mut line = String::new();
    let read = within(PATIENCE, "an answer or the end", async { Ok(stream.read_line(&mut line).await.unwrap_or(0)) });
    let line = if read.await? == 0 { None } else { Some(serde_json::from_str(&line)?) };
    Ok((line, stream))
}

fn version_2(from: [u8; 4], port: u16) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend(from);
    header.extend([10, 0, 0, 1]);
    header.extend(port.to_be_bytes());
    header.extend(8_088_u16.to_be_bytes());
    header
}

#[tokio::test]
async fn clients_are_from_where_the_load_balancer_has_them() -> Result<()> {
    let options = ServerOptions::new().set("chat.proxy_protocol", "required").set("limits.connections_per_address", 1);
    let server = options.start().await?;
    let is_welcome = |line: &Option<Value>| line.as_ref().is_some_and(|line| line.get("Welcome").is_some());

    let (line, first) = first_line(server.chat(), b"PROXY TCP4 203.0.113.7 10.0.0.1 40001 8088\r\n").await?;
    ensure!(is_welcome(&line), "{line:?}");
    let (line, second) = first_line(server.chat(), &version_2([203, 0, 113, 8], 40_002)).await?;
    ensure!(is_welcome(&line), "{line:?}");
    let listed = server.admin("ListConnections", json!({})).await?;
    for (place, address, port) in [(0, "203.0.113.7", 40_001), (1, "203.0.113.8", 40_002)] {
        let connection = &listed["connections"][place];
        ensure!(connection["address"] == address && connection["port"] == port, "{listed}");
    }

    // Each address has its own limit, though all come from one load balancer.
    let (line, _) = first_line(server.chat(), &version_2([203, 0, 113, 8], 40_003)).await?;
    let refusal = line.as_ref().and_then(|line| line["Error"].as_str());
    ensure!(refusal.is_some_and(|text| text.contains("address")), "{line:?}");

    // Who says nothing of where it is from is not served.
    let (line, _) = first_line(server.chat(), b"").await?;
    ensure!(line.is_none(), "{line:?}");
    // Who closes before a first byte looks whether the port is open.
    let mut look = TcpStream::connect(server.chat()).await?;
    look.shutdown().await?;
    let mut rest = Vec::new();
    within(PATIENCE, "its end", async { Ok(look.read_to_end(&mut rest).await?) }).await?;
    let refused = Metrics::scrape(server.http()).await?.sum("tertulia_proxy_headers_refused_total", &[]);
    ensure!(refused == Some(1.0), "{refused:?}");
    server.until_logged("it does not begin with a header of the PROXY protocol").await?;

    // A look whether anybody is there is a connection of the load balancer's own.
    let mut look = TcpStream::connect(server.chat()).await?;
    look.write_all(b"PROXY UNKNOWN\r\n").await?;
    look.shutdown().await?;
    let mut rest = Vec::new();
    within(PATIENCE, "its end", async { Ok(look.read_to_end(&mut rest).await?) }).await?;
    drop((first, second));
    Ok(())
}
