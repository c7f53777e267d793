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
    inbox: String,
    asked: u64,
}

/// What NATS delivers.
#[derive(Debug)]
struct Told {
    to: String,
    reply: Option<String>,
    content: Vec<u8>,
}

/// The copy of a stream.
#[derive(Debug)]
pub struct Copied {
    /// Its configuration, and what it holds.
    is_of: Value,
    pieces: Vec<Vec<u8>>,
}

impl Operator {
    /// Connects.
    ///
    /// # Errors
    /// If nobody is there.
    pub async fn connect(server: SocketAddr) -> Result<Self> {
        let mut stream = BufStream::new(TcpStream::connect(server).await.context("connect to NATS")?);
        // Several at once are not told each other's answers.
        let inbox = format!("_INBOX.operator.{:x}", fastrand::u64(..));
        let hello = format!("CONNECT {{\"verbose\":false,\"pedantic\":false}}\r\nSUB {inbox}.* 1\r\n");
        stream.write_all(hello.as_bytes()).await?;
        stream.flush().await?;
        Ok(Self { stream, inbox, asked: 0 })
    }

    /// Asks something, and waits for the answer.
    ///
    /// # Errors
    /// If there is none.
    pub async fn ask(&mut self, subject: &str, content: &[u8]) -> Result<Value> {
        Ok(serde_json::from_slice(&self.ask_bytes(subject, content).await?)?)
    }

    async fn ask_bytes(&mut self, subject: &str, content: &[u8]) -> Result<Vec<u8>> {
        let inbox = self.inbox();
        within(PATIENCE, subject, async {
            self.publish(subject, Some(&inbox), content).await?;
            loop {
                let Told { to, content, .. } = self.next().await?;
                if to == inbox {
                    return Ok(content);
                }
            }
        })
        .await
    }

    fn inbox(&mut self) -> String {
        self.asked += 1;
        format!("{}.{}", self.inbox, self.asked)
    }

    async fn publish(&mut self, subject: &str, reply: Option<&str>, content: &[u8]) -> Result<()> {
        let reply = reply.unwrap_or_default();
        self.stream.write_all(format!("PUB {subject} {reply} {}\r\n", content.len()).as_bytes()).await?;
        self.stream.write_all(content).await?;
        self.stream.write_all(b"\r\n").await?;
        Ok(self.stream.flush().await?)
    }

    async fn next(&mut self) -> Result<Told> {
        loop {
            let mut line = String::new();
            ensure!(self.stream.read_line(&mut line).await? > 0, "NATS closed the connection");
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            match words.as_slice() {
                ["PING"] => {
                    self.stream.write_all(b"PONG\r\n").await?;
                    self.stream.flush().await?;
                }
                ["MSG", to, _, reply @ .., size] => {
                    let size = size.parse::<usize>()?;
                    let mut content = vec![0; size + 2];
                    self.stream.read_exact(&mut content).await?;
                    content.truncate(size);
                    return Ok(Told {
                        to: (*to).to_owned(),
                        reply: reply.first().map(|reply| (*reply).to_owned()),
                        content,
                    });
                }
                ["-ERR", ..] => bail!("NATS says {line}"),
                _ => {}
            }
        }
    }

    /// What `nats stream backup` does.
    ///
    /// # Errors
    /// If that cannot be done.
    pub async fn back_up(&mut self, stream: &str) -> Result<Copied> {
        let inbox = self.inbox();
        let asked = json!({"deliver_subject": inbox, "chunk_size": 128 * 1024}).to_string();
        let said = self.ask(&format!("$JS.API.STREAM.SNAPSHOT.{stream}"), asked.as_bytes()).await?;
        ensure!(said.get("error").is_none(), "{said}");
        let mut copied =
            Copied { is_of: json!({"config": said["config"], "state": said["state"]}), pieces: Vec::new() };
        within(PATIENCE, "a copy", async {
            loop {
                let Told { to, reply, content } = self.next().await?;
                if to != inbox {
                    continue;
                }
                if content.is_empty() {
                    return Ok(copied);
                }
                copied.pieces.push(content);
                if let Some(reply) = reply {
                    self.publish(&reply, None, b"").await?;
                }
            }
        })
        .await
    }

    /// What `nats stream restore` does.
    ///
    /// # Errors
    /// If that cannot be done.
    pub async fn restore(&mut self, stream: &str, copied: &Copied) -> Result<()> {
        let said = self.ask(&format!("$JS.API.STREAM.RESTORE.{stream}"), copied.is_of.to_string().as_bytes()).await?;
        let to = said["deliver_subject"].as_str().with_context(|| said.to_string())?;
        for piece in &copied.pieces {
            let said = self.ask_bytes(to, piece).await?;
            ensure!(said.is_empty(), "{}", String::from_utf8_lossy(&said));
        }
        let made = self.ask(to, b"").await?;
        ensure!(made.get("error").is_none(), "{made}");
        Ok(())
    }

    /// Removes a stream.
    ///
    /// # Errors
    /// If there is none.
    pub async fn delete(&mut self, stream: &str) -> Result<()> {
        let deleted = self.ask(&format!("$JS.API.STREAM.DELETE.{stream}"), b"").await?;
        ensure!(deleted["success"] == true, "{deleted}");
        Ok(())
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
        self.delete(BALLAST).await
    }
}
