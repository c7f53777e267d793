//! A client of bytes, for transcripts and for what no well-meaning client sends.

use anyhow::{Context, Result, bail};
use tertulia_protocol::codec::LineBuffer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::deadline::{PATIENCE, within};

/// Longest line it reads.
const LONGEST_LINE: usize = 64 * 1024 * 1024;

/// A connection of raw bytes.
#[derive(Debug)]
pub struct RawClient {
    stream: TcpStream,
    lines: LineBuffer,
    /// Every line received, for error messages.
    seen: Vec<String>,
}

impl RawClient {
    /// Talks over `stream`.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, lines: LineBuffer::new(), seen: Vec::new() }
    }

    /// The stream, for what this does not offer.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Makes the connection end with a reset instead of a farewell.
    ///
    /// # Errors
    /// If the system does not do it.
    pub fn reset_on_drop(&mut self) -> Result<()> {
        Ok(self.stream.set_zero_linger()?)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// If the server does not take them.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        let bytes = bytes.as_ref();
        within(PATIENCE, "the server to take bytes", async { Ok(self.stream.write_all(bytes).await?) }).await
    }

    /// Sends a line; the line end is added.
    ///
    /// # Errors
    /// If the server does not take it.
    pub async fn line(&mut self, line: &str) -> Result<()> {
        self.send(format!("{line}\n")).await
    }

    /// The next line without its `\n`; `None` if the server closed the connection. A `\r` would be kept.
    ///
    /// # Errors
    /// If neither comes.
    pub async fn next_line(&mut self) -> Result<Option<String>> {
        let next = async {
            loop {
                if let Some(line) = self.lines.next_line(LONGEST_LINE)? {
                    return Ok(Some(String::from_utf8(line.to_vec()).context("the server sent what is not UTF-8")?));
                }
                let read = self.stream.read_buf(self.lines.spare(4096)).await.unwrap_or(0);
                if read == 0 {
                    if self.lines.has_partial() {
                        bail!("the server closed the connection in the middle of a line");
                    }
                    return Ok(None);
                }
            }
        };
        let line = within(PATIENCE, "a line", next).await.with_context(|| format!("so far came {:#?}", self.seen))?;
        self.seen.extend(line.clone());
        Ok(line)
    }

    /// Expects exactly this line next.
    ///
    /// # Errors
    /// If another comes, or none.
    pub async fn expect(&mut self, wanted: &str) -> Result<()> {
        let line = self.next_line().await.with_context(|| format!("expected {wanted}"))?;
        match line {
            Some(line) if line == wanted => Ok(()),
            Some(line) => bail!("expected\n  {wanted}\nthe server sent\n  {line}"),
            None => bail!("expected {wanted}, the server closed the connection; so far came {:#?}", self.seen),
        }
    }

    /// The next line, which must be JSON.
    ///
    /// # Errors
    /// If another comes, or none.
    pub async fn json(&mut self) -> Result<serde_json::Value> {
        let line = self.next_line().await?.context("expected JSON, the server closed the connection")?;
        serde_json::from_str(&line).with_context(|| format!("expected JSON, the server sent {line:?}"))
    }

    /// Expects one line for each of `wanted`, as [`RawClient::expect_json`] does, in whatever order they come.
    ///
    /// # Errors
    /// If another comes, or one does not.
    pub async fn expect_all(&mut self, wanted: &[serde_json::Value]) -> Result<()> {
        let mut left = wanted.to_vec();
        while !left.is_empty() {
            let got = self.json().await.with_context(|| format!("expected {left:?}"))?;
            let Some(place) = left.iter().position(|wanted| contains(&got, wanted)) else {
                bail!("expected one of\n  {left:?}\nthe server sent\n  {got}\nso far came {:#?}", self.seen);
            };
            left.remove(place);
        }
        Ok(())
    }

    /// Expects a line that holds all that `wanted` holds (and maybe more fields); answers it whole.
    ///
    /// # Errors
    /// If another comes, or none.
    pub async fn expect_json(&mut self, wanted: &serde_json::Value) -> Result<serde_json::Value> {
        let got = self.json().await.with_context(|| format!("expected {wanted}"))?;
        if !contains(&got, wanted) {
            bail!("expected\n  {wanted}\nthe server sent\n  {got}\nso far came {:#?}", self.seen);
        }
        Ok(got)
    }

    /// Expects the server to close the connection without a further line.
    ///
    /// # Errors
    /// If it does not, or sends a line before.
    pub async fn expect_closed(&mut self) -> Result<()> {
        match self.next_line().await.context("expected the server to close the connection")? {
            None => Ok(()),
            Some(line) => bail!("expected the server to close the connection, it sent {line}"),
        }
    }
}

/// Whether `whole` has every field and element of `part`, in objects with more fields than `part` asks for.
fn contains(whole: &serde_json::Value, part: &serde_json::Value) -> bool {
    use serde_json::Value::{Array, Object};
    match (whole, part) {
        (Object(whole), Object(part)) => {
            part.iter().all(|(key, value)| whole.get(key).is_some_and(|whole| contains(whole, value)))
        }
        (Array(whole), Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(whole, part)| contains(whole, part))
        }
        (whole, part) => whole == part,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_part_is_found_in_the_whole() {
        assert!(contains(&json!({"a": {"b": 1, "c": 2}}), &json!({"a": {"b": 1}})));
        assert!(!contains(&json!({"a": {"b": 1}}), &json!({"a": {"b": 2}})));
        assert!(!contains(&json!({"a": [1, 2]}), &json!({"a": [1]})), "lists are compared whole");
        assert!(!contains(&json!({}), &json!({"a": null})), "a field that is left out is not null");
    }
}
