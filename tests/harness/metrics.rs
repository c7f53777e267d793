//! Reads what operators see: plain HTTP and the text format of Prometheus.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::deadline::{PATIENCE, within};

/// A response to a GET.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// Gets `path`, such as `/readyz`.
///
/// # Errors
/// If there is no answer, or it is not HTTP.
pub async fn get(address: SocketAddr, path: &str) -> Result<Response> {
    let what = format!("GET {path} from {address}");
    within(PATIENCE, &what, async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        parse_response(&answer)
    })
    .await
}

fn parse_response(answer: &[u8]) -> Result<Response> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("not an HTTP answer: {text:?}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    let chunked = head.lines().any(|line| line.eq_ignore_ascii_case("transfer-encoding: chunked"));
    let body = if chunked { join_chunks(body)? } else { body.to_owned() };
    Ok(Response { status, body })
}

fn join_chunks(mut rest: &str) -> Result<String> {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n").context("a chunk without a size")?;
        let size = usize::from_str_radix(size.trim(), 16).with_context(|| format!("the size of a chunk: {size:?}"))?;
        if size == 0 {
            return Ok(body);
        }
        body.push_str(after.get(..size).context("a chunk is cut short")?);
        rest = after.get(size + 2..).context("a chunk without an end")?;
    }
}

/// One scrape of `/metrics`.
#[derive(Debug)]
pub struct Metrics {
    samples: Vec<Sample>,
}

/// One line of a scrape.
#[derive(Debug, PartialEq)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    /// Scrapes a server.
    ///
    /// # Errors
    /// If it does not answer with metrics.
    pub async fn scrape(http: SocketAddr) -> Result<Self> {
        let response = get(http, "/metrics").await?;
        if response.status != 200 {
            bail!("GET /metrics answers {}: {}", response.status, response.body);
        }
        Self::parse(&response.body)
    }

    /// Reads the text format.
    ///
    /// # Errors
    /// If a line is neither a comment nor a sample.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines.map(|line| parse_sample(line).with_context(|| format!("not a sample: {line:?}")));
        Ok(Self { samples: samples.collect::<Result<_>>()? })
    }

    /// The sum of the samples of `name` that have all of `labels`; `None` if there is none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |sample: &Sample, label: &(&str, &str)| {
            sample.labels.iter().any(|(key, value)| (key.as_str(), value.as_str()) == *label)
        };
        let matching = self.samples.iter().filter(|sample| sample.name == name);
        let values = matching.filter(|sample| labels.iter().all(|label| has(sample, label))).map(|sample| sample.value);
        values.fold(None, |sum: Option<f64>, value| Some(sum.unwrap_or(0.0) + value))
    }

    /// Every sample of `name`, with its labels, for messages.
    #[must_use]
    pub fn describe(&self, name: &str) -> String {
        let matching = self.samples.iter().filter(|sample| sample.name == name);
        let texts: Vec<_> = matching.map(|sample| format!("{:?} {}", sample.labels, sample.value)).collect();
        format!("{name}: {}", texts.join(", "))
    }
}

fn parse_sample(line: &str) -> Option<Sample> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (key, after) = rest.split_once("=\"")?;
            let (value, after) = unquote(after)?;
            labels.push((key.to_owned(), value));
            rest = after;
        }
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// Reads up to the closing quote; answers the text without escapes, and what follows the quote.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_name_and_labels() {
        let text = "# HELP x_total what\n# TYPE x_total counter\nx_total{reason=\"a \\\"b\\\", c\",n=\"1\"} 3\n\
                    x_total{reason=\"d\"} 4 1700000000\n\ny 0.5\nz{le=\"+Inf\"} +Inf\n";
        let metrics = Metrics::parse(text).unwrap();
        assert_eq!(metrics.sum("x_total", &[]), Some(7.0));
        assert_eq!(metrics.sum("x_total", &[("reason", "d")]), Some(4.0));
        assert_eq!(metrics.sum("x_total", &[("reason", "a \"b\", c"), ("n", "1")]), Some(3.0));
        assert_eq!(metrics.sum("x_total", &[("reason", "e")]), None);
        assert_eq!(metrics.sum("y", &[]), Some(0.5));
        assert!(Metrics::parse("what is this").is_err());
    }

    #[test]
    fn bodies_come_whole_or_in_chunks() {
        let plain = parse_response(b"HTTP/1.1 503 Service Unavailable\r\nA: b\r\n\r\nno").unwrap();
        assert_eq!((plain.status, plain.body.as_str()), (503, "no"));
        let chunked = parse_response(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n",
        );
        assert_eq!(chunked.unwrap().body, "abc0123456789");
    }
}
