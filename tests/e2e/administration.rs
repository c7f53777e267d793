//! The lines of README.md about administration, as they stand there, against the real server with the real grpcurl.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::Server;
use harness::deadline::{PATIENCE, within};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

const MARK: &str = "<!-- tests/e2e/administration.rs runs these lines -->";
const DEFAULT_ADDRESS: &str = "127.0.0.1:8089";
const CALLS: [&str; 17] = [
    "WatchEvents",
    "ListGroups",
    "GetGroup",
    "ListMembers",
    "ListMessages",
    "ListConnections",
    "GetShardMap",
    "SetLogLevels",
    "Announce",
    "KickMember",
    "Disconnect",
    "ListHolds",
    "RemoveHold",
    "PurgeHistory",
    "RemoveMessages",
    "CloseGroup",
    "DeleteGroup",
];

/// The commands in the marked blocks.
fn commands() -> Result<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(path).context("read README.md")?;
    let mut commands = Vec::new();
    for part in readme.split(MARK).skip(1) {
        let (_, block) = part.split_once("```sh\n").context("no block after a mark")?;
        let (block, _) = block.split_once("\n```").context("a block does not end")?;
        commands.extend(block.lines().filter(|line| !line.starts_with('#')).map(str::to_owned));
    }
    Ok(commands)
}

/// The command as a reader of README.md would type it, but for the address.
fn shell(command: &str, address: &str) -> Command {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain([fetched]);
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command.replace(DEFAULT_ADDRESS, address)).kill_on_drop(true);
    if let Ok(path) = std::env::join_paths(places) {
        shell.env("PATH", path);
    }
    shell
}

/// A command that README.md does not have.
fn call(data: &str, method: &str) -> String {
    format!("grpcurl -plaintext -d '{data}' {DEFAULT_ADDRESS} tertulia.admin.v1.AdminService/{method}")
}

async fn run(command: &str, address: &str) -> Result<String> {
    let output = within(PATIENCE, command, async { Ok(shell(command, address).output().await?) }).await?;
    let Output { status, stdout, stderr } = output;
    let (stdout, stderr) = (String::from_utf8(stdout)?, String::from_utf8_lossy(&stderr).into_owned());
    ensure!(status.code() != Some(127), "grpcurl is not there: tests/tools/fetch grpcurl brings it");
    ensure!(status.success(), "{command}: {status}\n{stdout}{stderr}");
    Ok(stdout)
}

/// Whether what a command wrote is what a small chat of ada and bob leads to; `past` are the commands before it.
fn check(command: &str, written: &str, past: &[String]) -> Result<()> {
    let name = command.rsplit(['/', ' ']).next().unwrap_or_default();
    if command.contains(" list") {
        return expect(written.contains("tertulia.admin.v1.AdminService"), command, written);
    }
    if command.contains(" describe ") {
        return expect(written.contains("is a service") || written.contains("is a message"), command, written);
    }
    let json: Value = serde_json::from_str(written).with_context(|| format!("{command}: {written}"))?;
    let again = past.iter().filter(|earlier| earlier.ends_with(name)).count();
    let names = |list: &str, key: &str| -> Vec<String> {
        let entries = json[list].as_array().cloned().unwrap_or_default();
        entries.iter().filter_map(|entry| entry[key].as_str()).map(str::to_owned).collect()
    };
    let right = match (name, again) {
        ("Check", _) => json["status"] == "SERVING",
        ("ListGroups", 0) => names("groups", "name") == ["Cats", "Dogs"],
        ("ListGroups", _) => names("groups", "name") == ["Dogs"],
        ("GetGroup", _) => json["group"]["members"] == 2 && json["group"]["head"] == "2",
        ("ListMembers", _) => names("members", "user") == ["ada", "bob"],
        ("ListMessages", _) => {
            let texts = [0, 1].map(|at| json["messages"][at]["text"].as_str().unwrap_or_default());
            texts == ["They do.", "Samoyeds rock!"]
        }
        ("ListConnections", _) => names("connections", "user") == ["ada"],
        ("GetShardMap", _) => json["placement"]["groupName"] == "Dogs" && json["nodes"][0]["answering"] == true,
        ("SetLogLevels", _) => json["levels"] == "info,tertulia_server::front=debug" && json["until"].is_string(),
        ("Announce", 0) => json["groups"] == 2,
        ("Announce", _) => json["seq"] == "4",
        // First out of Dogs, then out of Cats.
        ("KickMember", _) => json["kicked"] == 1,
        ("Disconnect", _) => json["disconnected"] == 1,
        ("PurgeHistory", _) => json["removedMessages"] == "1",
        ("RemoveMessages", _) => json["removedMessages"] == 1 && json["seq"] == "5",
        ("ListHolds", _) => {
            json["holds"][0]["reason"] == "spam" && json["holds"].as_array().is_some_and(|all| all.len() == 1)
        }
        ("RemoveHold", _) => json["removed"]["user"] == "bob",
        ("CloseGroup", 0) => json["removedMembers"] == 1,
        ("CloseGroup", _) => json == serde_json::json!({}),
        ("DeleteGroup", _) => json["removedMessages"] == "4",
        _ => false,
    };
    expect(right, command, written)
}

fn expect(right: bool, command: &str, written: &str) -> Result<()> {
    ensure!(right, "not what was expected of {command}:\n{written}");
    Ok(())
}

#[tokio::test]
async fn the_lines_of_the_readme_do_what_they_say() -> Result<()> {
    let commands = commands()?;
    for call in CALLS {
        ensure!(commands.iter().any(|command| command.ends_with(call)), "README.md does not show {call}");
    }
    let mut server = Server::start().await?;
    let address = server.listening().admin.context("the server has no admin API")?.to_string();
    let (watch, others): (Vec<String>, Vec<String>) =
        commands.into_iter().partition(|command| command.ends_with("WatchEvents"));
    let mut watching = shell(&watch[0], &address).stdout(Stdio::piped()).spawn().context("start a watcher")?;
    let mut events = BufReader::new(watching.stdout.take().context("no output")?);

    // The first events tell that the watcher has begun to watch.
    let connector = server.connector();
    let mut ada = connector.extended("ada").await?;
    let mut bob = connector.extended("bob").await?;
    let mut seen = String::new();
    let began = Instant::now();
    for attempt in 0.. {
        ensure!(began.elapsed() < PATIENCE, "the watcher does not begin to watch");
        ada.join(&format!("Door-{attempt}")).await?;
        let first = tokio::time::timeout(Duration::from_millis(100), events.read_line(&mut seen)).await;
        ada.writer.leave(&format!("Door-{attempt}")).await?;
        if first.is_ok() {
            break;
        }
    }
    let doors = run(&call(r#"{"prefix": "Door"}"#, "ListGroups"), &address).await?;
    for door in serde_json::from_str::<Value>(&doors)?["groups"].as_array().into_iter().flatten() {
        let which = serde_json::json!({"group_name": door["name"]}).to_string();
        run(&call(&which, "DeleteGroup"), &address).await?;
    }
    for group in ["Dogs", "Cats"] {
        for client in [&mut ada, &mut bob] {
            client.join(group).await?;
        }
    }
    ada.post("Dogs", "Samoyeds rock!", "1").await?;
    bob.post("Dogs", "They do.", "2").await?;

    let mut past = Vec::new();
    for command in others {
        check(&command, &run(&command, &address).await?, &past)?;
        past.push(command);
    }

    server.terminate()?;
    let rest = async {
        events.read_to_string(&mut seen).await?;
        Ok(watching.wait().await?)
    };
    let status = within(PATIENCE, "the end of the stream", rest).await?;
    ensure!(status.success(), "the watcher ended with {status}");
    for event in ["\"join\"", "\"kick\"", "\"groupClosed\"", "\"groupDeleted\"", "\"drain\"", "\"off topic\""] {
        ensure!(seen.contains(event), "{event} was not among the events:\n{seen}");
    }
    ensure!(!seen.contains("Cats"), "Cats does not begin with D:\n{seen}");
    ensure!(server.wait(PATIENCE).await?.success(), "the server did not stop cleanly");
    let log = server.log()?;
    for (call, times) in [
        ("Announce", 2),
        ("KickMember", 2),
        ("Disconnect", 1),
        ("RemoveHold", 1),
        ("PurgeHistory", 1),
        ("RemoveMessages", 1),
        ("CloseGroup", 2),
    ] {
        let lines = log.lines().filter(|line| line.contains("moderated") && line.contains(call)).count();
        ensure!(lines == times, "{lines} lines in the log about {call}:\n{log}");
    }
    ensure!(!log.contains("ListGroups"), "a list is no business of the log:\n{log}");
    Ok(())
}
