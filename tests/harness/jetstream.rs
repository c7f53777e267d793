//! What an operator does with JetStream by hand.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

use crate::deadline::{PATIENCE, within};

/// A stream that only takes space.
const BALLAST: &str = "ballast";

/// A connection to a NATS server.
#[derive(Debug)]
pub struct Operator {
    stream: BufStream<TcpStream>,
    asked: u64,
}

impl Operator {
    /// Connects.
    ///
    /// # Errors
    /// If nobody is there.
    pub async fn connect(server: SocketAddr) -> Result<Self> {
        let mut stream = BufStream::new(TcpStream::connect(server).await.context("connect to NATS")?);
        stream.write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB _INBOX.operator.* 1\r\n").await?;
        stream.flush().await?;
        Ok(Self { stream, asked: 0 })
    }

    /// Asks something, and waits for the answer.
    ///
    /// # Errors
    /// If there is none.
    pub async fn ask(&mut self, subject: &str, content: &[u8]) -> Result<Value> {
        within(PATIENCE, subject, async {
            self.asked += 1;
            let inbox = format!("_INBOX.operator.{}", self.asked);
            self.stream.write_all(format!("PUB {subject} {inbox} {}\r\n", content.len()).as_bytes()).await?;
            self.stream.write_all(content).await?;
            self.stream.write_all(b"\r\n").await?;
            self.stream.flush().await?;
            loop {
                let mut line = String::new();
                ensure!(self.stream.read_line(&mut line).await? > 0, "NATS closed the connection");
                let words: Vec<&str> = line.split_ascii_whitespace().collect();
                match words.as_slice() {
                    ["PING"] => {
                        self.stream.write_all(b"PONG\r\n").await?;
                        self.stream.flush().await?;
                    }
                    ["MSG", to, .., size] => {
                        let mut answer = vec![0; size.parse::<usize>()? + 2];
                        self.stream.read_exact(&mut answer).await?;
                        if *to == inbox {
                            return Ok(serde_json::from_slice(&answer)?);
                        }
                    }
                    ["-ERR", ..] => bail!("NATS says {line}"),
                    _ => {}
                }
            }
        })
        .await
    }

    /// Takes all the space that there is, but for what is less than the smallest of its messages.
    ///
    /// # Errors
    /// If that cannot be done.
    pub async fn take_all_space(&mut self) -> Result<()> {
        let config = json!({"name": BALLAST, "subjects": [BALLAST], "storage": "file", "num_replicas": 1});
        let made = self.ask(&format!("$JS.API.STREAM.CREATE.{BALLAST}"), config.to_string().as_bytes()).await?;
        ensure!(made.get("error").is_none(), "{made}");
        for size in [512 * 1024, 32 * 1024, 1024, 64] {
            let content = vec![b'x'; size];
            while self.ask(BALLAST, &content).await?.get("error").is_none() {}
        }
        Ok(())
    }

    /// Gives it back.
    ///
    /// # Errors
    /// If that cannot be done.
    pub async fn give_space_back(&mut self) -> Result<()> {
        let removed = self.ask(&format!("$JS.API.STREAM.DELETE.{BALLAST}"), b"").await?;
        ensure!(removed["success"] == true, "{removed}");
        Ok(())
    }
}
