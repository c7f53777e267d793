//! `docs/metrics.md` says what `/metrics` of the real binary says, no more and no less.
//!
//! `UPDATE_DOCS=1 cargo test -p tertulia-server --test metrics` writes the table anew.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking, its helpers too.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How long the server may take to start, and to answer.
const PATIENCE: Duration = Duration::from_secs(30);
const BEGIN: &str = "<!-- begin of the generated table -->\n";
const END: &str = "<!-- end of the generated table -->\n";

/// A server that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A page of metrics, as one sees it who has asked before: only then has the port counted a question.
fn scrape() -> String {
    let data = tempfile::tempdir().unwrap();
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = |name: &str, text: String| {
        let path = data.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let cert = format!("chat.tls.cert_file={}", file("tls.crt", certified.cert.pem()));
    let key = format!("chat.tls.key_file={}", file("tls.key", certified.signing_key.serialize_pem()));
    let backups = format!("admin.backup_dir={}", data.path().join("backups").display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_tertulia-server"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TERTULIA__")) {
        command.env_remove(name);
    }
    let child = command
        .args(["--chat", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir"])
        .arg(data.path().join("data"))
        .args(["--set", &cert, "--set", &key, "--set", &backups])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut server = Server(child);
    let mut stdout = BufReader::new(server.0.stdout.take().unwrap());
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        tell.send(stdout.read_line(&mut line).map(|_| line))
    });
    let line = told.recv_timeout(PATIENCE).expect("it does not say where it listens").unwrap();
    let addresses: serde_json::Value = serde_json::from_str(&line).unwrap();
    let http = addresses["listening"]["http"].as_str().unwrap().parse().unwrap();
    page_of(http);
    page_of(http)
}

fn page_of(http: SocketAddr) -> String {
    let mut stream = TcpStream::connect_timeout(&http, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[derive(Debug, Default)]
struct Metric {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

fn metrics(text: &str) -> BTreeMap<String, Metric> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            metrics.entry(name.to_owned()).or_default().help = help.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            metrics.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if let Some((name, rest)) = line.split_once('{') {
            let name = name.strip_suffix("_bucket").unwrap_or(name);
            let labels = rest.split_once('}').unwrap().0;
            let names =
                labels.split(',').filter_map(|label| Some(label.split_once('=')?.0)).filter(|label| *label != "le");
            metrics.entry(name.to_owned()).or_default().labels.extend(names.map(str::to_owned));
        }
    }
    metrics
}

fn table(metrics: &BTreeMap<String, Metric>) -> String {
    let mut table = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for (name, Metric { kind, help, labels }) in metrics {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        table.push_str(&format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", ")));
    }
    table
}

#[test]
fn the_page_says_what_the_server_says() {
    let metrics = metrics(&scrape());
    for (name, metric) in &metrics {
        assert!(!metric.help.is_empty(), "{name} has no HELP text");
        assert!(!metric.kind.is_empty(), "{name} has no TYPE");
        assert!(name.starts_with("tertulia_") || name.starts_with("process_"), "{name} has a foreign name");
        assert_eq!(metric.kind == "counter", name.ends_with("_total"), "only counters end in _total: {name}");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let wanted = format!("{before}{BEGIN}{}{END}{after}", table(&metrics));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, wanted).unwrap();
        return;
    }
    assert_eq!(page, wanted, "run: UPDATE_DOCS=1 cargo test -p tertulia-server --test metrics");
}

#[test]
fn every_metric_that_another_page_names_exists() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let page = std::fs::read_to_string(docs.join("metrics.md")).unwrap();
    let known = page.split_once(BEGIN).unwrap().1;
    let named = |text: &str| -> BTreeSet<String> {
        let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
        let base = |name: &str| name.strip_suffix("_bucket").unwrap_or(name).to_owned();
        text.split(word).filter(|name| name.starts_with("tertulia_") && name.len() > 9).map(base).collect()
    };
    for other in ["configuration.md", "metrics.md"] {
        for name in named(&std::fs::read_to_string(docs.join(other)).unwrap()) {
            let is_crate = ["tertulia_server"].contains(&name.as_str());
            assert!(
                is_crate || known.contains(&format!("`{name}`")),
                "docs/{other} names {name}, which does not exist"
            );
        }
    }
}
