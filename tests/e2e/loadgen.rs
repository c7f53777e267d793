//! The load generator, with which `make bench` measures: each of its scenarios against the real server, and each of the other protocols
//! against a real server of that.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use harness::deadline::{PATIENCE, poll_until, within};
use harness::environment;
use harness::nats::{Nats, free_ports};
use harness::process::{Process, binary};
use harness::{Server, ServerOptions};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::process::Command;

/// A short run, which has to be without a fault; answers what it measured.
pub(crate) async fn load(target: SocketAddr, arguments: &str) -> Result<Value> {
    let mut command = Command::new(binary("tertulia-loadgen", "TERTULIA_LOADGEN_BIN")?);
    command.args(arguments.split(' ')).args(["--target", &target.to_string(), "--json", "-", "--quiet"]);
    command.args(["--warmup", "100ms", "--duration", "300ms"]).stdin(Stdio::null()).kill_on_drop(true);
    let output = within(PATIENCE, arguments, async { Ok(command.output().await?) }).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments}: {}: {said}", output.status);
    serde_json::from_slice(&output.stdout).with_context(|| format!("{arguments}: {said}"))
}

#[tokio::test]
async fn each_scenario_runs_against_the_server() -> Result<()> {
    // Members that do not read for a while want everything afterwards.
    let server: Server = ServerOptions::new().set("log.retention.messages", 0).start().await?;
    for scenario in ["fanout", "groups", "pairs", "slow", "ingest", "churn", "catchup", "soak"] {
        let arguments = format!("{scenario} --prefix {scenario} --dialect extended --groups 4 --members 4 --rate 100");
        let measured = load(server.chat(), &arguments).await?;
        // A slow disk may hold all of it beyond the time that is measured.
        ensure!(measured["latency"]["count"].as_u64() > Some(0), "{scenario}: {measured}");
        if scenario == "catchup" {
            ensure!(measured["catchups"]["count"].as_u64() > Some(0), "{measured}");
        }
    }
    load(server.chat(), "idle --prefix idle --dialect extended --groups 4 --members 4").await?;
    Ok(())
}

/// What others speak, by a server of theirs.
async fn other(target: SocketAddr, protocol: &str) -> Result<()> {
    for scenario in ["fanout --groups 1", "pairs --groups 4", "ingest --groups 1"] {
        let members = if scenario.starts_with("fanout") { 8 } else { 2 };
        let arguments = format!("{scenario} --members {members} --protocol {protocol} --window 4");
        let measured = load(target, &arguments).await?;
        ensure!(measured["deliveries"].as_u64() > Some(0), "{arguments}: {measured}");
    }
    Ok(())
}

/// Starts a server that is to listen at an address; `None`, which is said, if there is none of that name.
async fn start(program: &str, address: SocketAddr, arguments: &[&str]) -> Result<Option<Process>> {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain([fetched]).map(|place| place.join(program));
    let Some(found) = places.into_iter().find(|place| place.is_file()) else {
        let missing = format!("there is no {program}: run `tests/tools/fetch {program}`");
        ensure!(!environment::is_all_required(), "{missing}");
        environment::announce(&format!("skipped: {missing}"));
        return Ok(None);
    };
    let mut command = Command::new(found);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let process = Process::spawn(program, &mut command)?;
    poll_until(PATIENCE, &format!("{program} to listen"), || async move {
        Ok(TcpStream::connect(address).await.err().map(|error| error.to_string()))
    })
    .await?;
    Ok(Some(process))
}

fn free_address() -> Result<SocketAddr> {
    let ports = free_ports(1)?;
    Ok((Ipv4Addr::LOCALHOST, *ports.first().context("no port")?).into())
}

#[tokio::test]
async fn it_speaks_with_redis() -> Result<()> {
    let address = free_address()?;
    let port = address.port().to_string();
    let arguments = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    let Some(_server) = start("redis-server", address, &arguments).await? else { return Ok(()) };
    other(address, "redis").await
}

#[tokio::test]
async fn it_speaks_with_nats() -> Result<()> {
    let nats = Nats::start(1).await?;
    other(nats.address(0), "nats").await
}

#[tokio::test]
async fn it_speaks_with_a_server_of_mqtt() -> Result<()> {
    let address = free_address()?;
    let folder = tempfile::tempdir().context("make a directory")?;
    let file = folder.path().join("mosquitto.conf");
    let text = format!("listener {} 127.0.0.1\nallow_anonymous true\npersistence false\n", address.port());
    std::fs::write(&file, text).context("write the configuration of mosquitto")?;
    let arguments = ["-c", file.to_str().context("a path that is no text")?];
    let Some(_server) = start("mosquitto", address, &arguments).await? else { return Ok(()) };
    other(address, "mqtt").await
}
