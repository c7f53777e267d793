//! TLS on every port of the real server, with the real clients and the real grpcurl, and certificates made for the test.

use std::path::Path;
use std::process::{Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use harness::certificates::{Authority, Certified, Secret};
use harness::deadline::{PATIENCE, poll_until, within};
use harness::metrics::{Metrics, get};
use harness::process::binary;
use harness::terminal::Terminal;
use harness::{Server, ServerOptions};
use tertulia_tls_client::Security;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const YEAR: i32 = 2_099;
const HANDSHAKES: &str = "tertulia_tls_handshakes_total";
const FAILING: &str = "tertulia_tls_reload_failing";
const LOOPBACK: &str = "127.0.0.1";

/// A server whose certificate is in a Secret, and whom its clients trust.
struct Secured {
    server: Server,
    secret: Secret,
    /// Beside the Secret: the file with the certificate of the authority.
    trust: Secret,
}

fn pair(certified: &Certified) -> [(&'static str, &str); 2] {
    [("tls.crt", certified.certificate.as_str()), ("tls.key", certified.key.as_str())]
}

async fn secured(ports: &[&str], options: ServerOptions) -> Result<Secured> {
    let authority = Authority::new("the authority")?;
    let certified = authority.certify("tertulia", &["localhost", LOOPBACK], YEAR)?;
    let secret = Secret::new(&pair(&certified))?;
    let trust = Secret::new(&[("ca.crt", authority.certificate())])?;
    let mut options = options.set("tls.reload_interval", "20ms");
    for port in ports {
        options = options
            .set(&format!("{port}.tls.cert_file"), secret.path("tls.crt").display())
            .set(&format!("{port}.tls.key_file"), secret.path("tls.key").display());
    }
    Ok(Secured { server: options.start().await?, secret, trust })
}

impl Secured {
    fn terminal(&self, ca: &Secret, arguments: &[&str]) -> Result<Terminal> {
        let (address, ca) = (self.server.chat().to_string(), ca.path("ca.crt").display().to_string());
        Terminal::start(&[&["--tls", "--ca", &ca][..], arguments, &[&address]].concat())
    }

    async fn until_metric(&self, name: &str, labels: &[(&str, &str)], least: f64) -> Result<()> {
        poll_until(PATIENCE, &format!("{name} {labels:?} to be {least}"), || async {
            let metrics = Metrics::scrape(self.server.http()).await?;
            let reached = metrics.sum(name, labels).is_some_and(|value| value >= least);
            Ok(if reached { None } else { Some(metrics.describe(name)) })
        })
        .await
    }
}

/// Speaks TLS with a port and trusts what is in the file.
async fn speak(address: std::net::SocketAddr, ca: &Path) -> Result<TlsStream<TcpStream>> {
    speak_with(address, Security::new(&address.to_string(), Some(ca), None)?).await
}

/// Speaks TLS with a port.
async fn speak_with(address: std::net::SocketAddr, security: Security) -> Result<TlsStream<TcpStream>> {
    let Security { config, name } = security;
    let stream = TcpStream::connect(address).await?;
    within(PATIENCE, "a TLS connection", async { Ok(TlsConnector::from(config).connect(name, stream).await?) }).await
}

async fn output(what: &str, mut command: Command) -> Result<(bool, String)> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let Output { status, stdout, stderr } = within(PATIENCE, what, async { Ok(command.output().await?) }).await?;
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    Ok((status.success(), text))
}

#[tokio::test]
async fn clients_of_both_dialects_talk_within_tls() -> Result<()> {
    let secured = secured(&["chat"], ServerOptions::new()).await?;
    let mut ada = secured.terminal(&secured.trust, &["--user", "ada", "--join", "Dogs", "--follow"])?;
    ada.types("post Dogs first").await?;
    ensure!(ada.line().await?.ends_with("\tfirst"));
    let mut bob = secured.terminal(&secured.trust, &["--classic"])?;
    bob.types("join Dogs").await?;
    bob.types("post Dogs from a classic client").await?;
    bob.expect_in_session("message posted to Dogs: from a classic client").await?;
    let line = ada.line().await?;
    ensure!(line.starts_with("message\tDogs\t2\t") && line.ends_with("\tfrom a classic client"), "{line:?}");
    ada.types("post Dogs from an extended one").await?;
    bob.expect_in_session("message posted to Dogs: from an extended one").await?;

    let stranger = Authority::new("a stranger")?;
    let stranger = Secret::new(&[("ca.crt", stranger.certificate())])?;
    let mut deceived = secured.terminal(&stranger, &["--user", "eve"])?;
    deceived.hang_up();
    let (code, said) = deceived.end(PATIENCE).await?;
    ensure!(code == Some(1) && said.contains("UnknownIssuer"), "{code:?}: {said}");
    secured.until_metric(HANDSHAKES, &[("port", "chat"), ("result", "client_refused")], 1.0).await?;

    // The certificate is for this address, but for no other name.
    let mut other = secured.terminal(&secured.trust, &["--tls-name", "elsewhere.example", "--user", "eve"])?;
    other.hang_up();
    let (code, said) = other.end(PATIENCE).await?;
    ensure!(code == Some(1) && said.contains("not valid for name"), "{code:?}: {said}");
    Ok(())
}

#[tokio::test]
async fn nothing_is_lost_or_out_of_order_within_tls() -> Result<()> {
    let secured = secured(&["chat"], ServerOptions::new()).await?;
    let ca = secured.trust.path("ca.crt");
    for (scenario, dialect) in
        [("groups", "classic"), ("groups", "extended"), ("slow", "classic"), ("churn", "extended")]
    {
        let mut load = Command::new(binary("tertulia-loadgen", "TERTULIA_LOADGEN_BIN")?);
        load.args([scenario, "--dialect", dialect, "--tls", "--ca"]).arg(&ca);
        load.args(["--target", &secured.server.chat().to_string(), "--groups", "4", "--members", "8", "--prefix"]);
        load.args([&format!("{scenario}-{dialect}"), "--size", "600", "--rate", "500"]);
        load.args(["--warmup", "100ms", "--duration", "1s", "--quiet"]);
        let (good, said) = output("the load generator", load).await?;
        ensure!(good, "{scenario}, {dialect}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_and_a_broken_one_is_not_while_people_talk() -> Result<()> {
    let mut secured = secured(&["chat"], ServerOptions::new()).await?;
    let mut ada =
        secured.terminal(&secured.trust, &["--user", "ada", "--join", "Dogs", "--follow", "--no-reconnect"])?;
    ada.types("post Dogs before").await?;
    ensure!(ada.line().await?.ends_with("\tbefore"));

    let renewing = Authority::new("another authority")?;
    let renewed = renewing.certify("tertulia", &["localhost", LOOPBACK], YEAR - 1)?;
    let new_trust = Secret::new(&[("ca.crt", renewing.certificate())])?;
    secured.secret.swap(&pair(&renewed))?;
    secured.until_metric("tertulia_tls_reloads_total", &[("port", "chat"), ("result", "ok")], 1.0).await?;
    let mut bob = secured.terminal(&new_trust, &["--user", "bob", "--join", "Dogs", "--follow"])?;
    bob.types("post Dogs after").await?;
    ensure!(bob.line().await?.ends_with("\tafter"));
    ensure!(ada.line().await?.ends_with("\tafter"));
    let metrics = Metrics::scrape(secured.server.http()).await?;
    let expiry = metrics.sum("tertulia_tls_certificate_expiry_timestamp_seconds", &[("port", "chat")]);
    // The last second before the last day of 2098 begins.
    ensure!(expiry.is_some_and(|expiry| (4_070_000_000.0..4_071_000_000.0).contains(&expiry)), "{expiry:?}");

    // The key of another certificate.
    let foreign = renewing.certify("tertulia", &["localhost", LOOPBACK], YEAR)?.key;
    secured.secret.swap(&[("tls.crt", &renewed.certificate), ("tls.key", &foreign)])?;
    secured.until_metric(FAILING, &[("port", "chat")], 1.0).await?;
    secured.server.until_logged("the new certificate cannot be used: the old one stays").await?;
    speak(secured.server.chat(), &new_trust.path("ca.crt")).await?;
    bob.types("post Dogs still here").await?;
    ensure!(ada.line().await?.ends_with("\tstill here"));

    secured.secret.swap(&pair(&renewed))?;
    poll_until(PATIENCE, "the fault to be over", || async {
        let failing = Metrics::scrape(secured.server.http()).await?.sum(FAILING, &[("port", "chat")]);
        Ok(if failing == Some(0.0) { None } else { Some(format!("{failing:?}")) })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_stall_or_fail_cost_others_nothing() -> Result<()> {
    let options = ServerOptions::new().set("tls.handshake_timeout", "5s").set("tls.handshakes", 4);
    let secured = secured(&["chat"], options).await?;
    let result = |result| [("port", "chat"), ("result", result)];
    let mut ada = secured.terminal(&secured.trust, &["--user", "ada", "--join", "Dogs", "--follow"])?;
    ada.types("post Dogs one").await?;
    ensure!(ada.line().await?.ends_with("\tone"));

    // More than may be under way: some begin a handshake and say no more, some say nothing at all.
    let mut stalled = Vec::new();
    for number in 0..12 {
        let mut stream = TcpStream::connect(secured.server.chat()).await?;
        if number % 2 == 0 {
            stream.write_all(b"\x16\x03\x01\x02\x00\x01").await?;
        }
        stalled.push(stream);
    }
    speak(secured.server.chat(), &secured.trust.path("ca.crt")).await?;
    ada.types("post Dogs two").await?;
    ensure!(ada.line().await?.ends_with("\ttwo"));
    for mut stream in stalled {
        within(PATIENCE, "the end of a stalled handshake", async { Ok(stream.read(&mut [0; 16]).await.unwrap_or(0)) })
            .await?;
    }
    secured.until_metric(HANDSHAKES, &result("displaced"), 8.0).await?;
    secured.until_metric(HANDSHAKES, &result("timeout"), 1.0).await?;

    // More than that at once who mean well, as after the end of another node, all get in. What each needs is made before, so that they
    // are not slow themselves once they have begun.
    let chat = secured.server.chat();
    let security = Security::new(&chat.to_string(), Some(&secured.trust.path("ca.crt")), None)?;
    let crowd: Vec<_> = (0..12).map(|_| tokio::spawn(speak_with(chat, security.clone()))).collect();
    for one in crowd {
        one.await??;
    }

    // Somebody who does not speak TLS is told so in words that every client knows.
    let address = secured.server.chat().to_string();
    let mut plain = Terminal::start(&["--classic", &address])?;
    plain.types("join Dogs").await?;
    plain
        .expect_in_session("error from server: This port speaks TLS: connect with it; the connection is closed")
        .await?;
    secured.until_metric(HANDSHAKES, &result("plaintext"), 1.0).await?;
    let mut garbage = TcpStream::connect(secured.server.chat()).await?;
    garbage.write_all(b"\x16\x03\x01\x00\x04abcd").await?;
    garbage.shutdown().await?;
    secured.until_metric(HANDSHAKES, &result("protocol"), 1.0).await?;
    poll_until(PATIENCE, "one connection to be left", || async {
        let open = Metrics::scrape(secured.server.http()).await?.sum("tertulia_connections_open", &[]);
        Ok(if open == Some(1.0) { None } else { Some(format!("{open:?}")) })
    })
    .await?;
    ada.types("post Dogs three").await?;
    ensure!(ada.line().await?.ends_with("\tthree"));
    Ok(())
}

#[tokio::test]
async fn the_admin_api_asks_for_certificates_and_tells_whose_they_are() -> Result<()> {
    let authority = Authority::new("for admins")?;
    let client = authority.certify("ops", &[], YEAR)?;
    let expired = authority.certify("eve", &[], 2_001)?;
    let mut cas = Secret::new(&[("ca.crt", authority.certificate())])?;
    let (ops, eve) = (Secret::new(&pair(&client))?, Secret::new(&pair(&expired))?);
    let options = ServerOptions::new().set("admin.client_ca_file", cas.path("ca.crt").display());
    let secured = secured(&["admin"], options).await?;
    let admin = secured.server.listening().admin.context("no admin port")?.to_string();
    let call = |identity: Option<&Secret>, method: &str, data: &str| {
        let mut grpcurl = Command::new("grpcurl");
        let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/bin");
        let places = std::env::var_os("PATH").unwrap_or_default();
        let places = std::env::split_paths(&places).chain([fetched]);
        if let Ok(path) = std::env::join_paths(places) {
            grpcurl = Command::new("env");
            grpcurl.env("PATH", path).arg("grpcurl");
        }
        grpcurl.arg("-cacert").arg(secured.trust.path("ca.crt")).args(["-max-time", "20", "-d", data]);
        if let Some(identity) = identity {
            grpcurl.arg("-cert").arg(identity.path("tls.crt")).arg("-key").arg(identity.path("tls.key"));
        }
        grpcurl.args([admin.as_str(), &format!("tertulia.admin.v1.AdminService/{method}")]);
        output("grpcurl", grpcurl)
    };
    let (good, said) = call(Some(&ops), "ListGroups", "{}").await?;
    ensure!(good, "{said}");
    let mut ada = secured.server.connector().extended("ada").await?;
    ada.join("Dogs").await?;
    let (good, said) = call(Some(&ops), "KickMember", r#"{"groupName":"Dogs","user":"ada"}"#).await?;
    ensure!(good, "{said}");
    secured.server.until_logged("(CN=ops)").await?;

    for (identity, reason, cause) in
        [(None, "no_client_certificate", "no certificates"), (Some(&eve), "bad_client_certificate", "expired")]
    {
        let (good, said) = call(identity, "ListGroups", "{}").await?;
        ensure!(!good, "without a right certificate it says {said}");
        secured.until_metric(HANDSHAKES, &[("port", "admin"), ("result", reason)], 1.0).await?;
        let log = secured.server.until_logged(&format!("reason=\"{reason}\"")).await?;
        let told = log.lines().find(|line| line.contains(reason)).unwrap_or_default();
        ensure!(told.contains("WARN") && told.contains("peer=") && told.contains(cause), "{told}");
    }

    // Who was let in by an authority that is one no more does not go on because it was quick.
    let mut watching = std::pin::pin!(call(Some(&ops), "WatchEvents", "{}"));
    tokio::select! {
        over = &mut watching => bail!("the watch is over: {over:?}"),
        watched = secured.until_metric("tertulia_admin_watchers", &[], 1.0) => watched?,
    }
    cas.swap(&[("ca.crt", Authority::new("other")?.certificate())])?;
    let (good, said) = watching.await?;
    ensure!(!good && !said.contains("DeadlineExceeded"), "{said}");
    let (good, said) = call(Some(&ops), "ListGroups", "{}").await?;
    ensure!(!good, "{said}");
    Ok(())
}

#[tokio::test]
async fn a_hangup_has_new_files_looked_at_at_once_and_ends_nobody() -> Result<()> {
    const EXPIRY: &str = "tertulia_tls_certificate_expiry_timestamp_seconds";
    let authority = Authority::new("the authority")?;
    let certify = |year| authority.certify("tertulia", &["localhost", LOOPBACK], year);
    let mut secret = Secret::new(&pair(&certify(YEAR - 1)?))?;
    let trust = Secret::new(&[("ca.crt", authority.certificate())])?;
    let server = ServerOptions::new()
        .set("tls.reload_interval", "1h")
        .set("chat.tls.cert_file", secret.path("tls.crt").display())
        .set("chat.tls.key_file", secret.path("tls.key").display())
        .start()
        .await?;
    let expiry = async || {
        let expiry = Metrics::scrape(server.http()).await?.sum(EXPIRY, &[("port", "chat")]);
        expiry.context("no metric tells when the certificate expires")
    };
    let mut before = speak(server.chat(), &trust.path("ca.crt")).await?;
    let old = expiry().await?;
    secret.swap(&pair(&certify(YEAR)?))?;
    server.hang_up()?;
    poll_until(PATIENCE, "the new certificate", async || {
        let now = expiry().await?;
        Ok((now <= old).then(|| format!("{now} is not after {old}")))
    })
    .await?;
    before.write_all(b"{\"Hello\":{\"version\":1,\"user\":\"ada\"}}\n").await?;
    let mut first = [0; 10];
    within(PATIENCE, "an answer to who was there", async { Ok(before.read_exact(&mut first).await?) }).await?;
    ensure!(&first == b"{\"Welcome\"", "{first:?}");
    Ok(())
}

#[tokio::test]
async fn metrics_and_health_are_asked_for_within_tls() -> Result<()> {
    let secured = secured(&["http"], ServerOptions::new()).await?;
    let http = secured.server.http();
    let mut stream = speak(http, &secured.trust.path("ca.crt")).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await?;
    let mut page = String::new();
    within(PATIENCE, "metrics", async { Ok(stream.read_to_string(&mut page).await?) }).await?;
    ensure!(page.contains("\ntertulia_connections_open 0\n"), "{page}");
    let plain = get(http, "/metrics").await?;
    ensure!(plain.status == 400 && plain.body.contains("this port speaks TLS"), "{plain:?}");

    let health = |arguments: &[&str]| {
        let mut command = Command::new(binary("tertulia-server", "TERTULIA_SERVER_BIN")?);
        command.arg("health").args(arguments);
        anyhow::Ok(output("health", command))
    };
    let (http, cert) = (http.to_string(), format!("http.tls.cert_file={}", secured.secret.path("tls.crt").display()));
    let key = format!("http.tls.key_file={}", secured.secret.path("tls.key").display());
    let (good, said) = health(&["--http", &http, "--set", &cert, "--set", &key])?.await?;
    ensure!(good, "{said}");
    let (good, said) = health(&["--url", &format!("https://{http}/livez")])?.await?;
    ensure!(good, "{said}");
    let (good, said) = health(&["--http", &http, "--timeout", "10s"])?.await?;
    ensure!(!good && said.contains("400"), "{said}");
    Ok(())
}
