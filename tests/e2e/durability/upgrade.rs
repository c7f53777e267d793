//! This build opens what an older one left on the disk, and nothing that the older one acknowledged is missing.

use anyhow::{Result, ensure};
use harness::builds;
use harness::deadline::PATIENCE;
use harness::{Build, ServerOptions};
use serde_json::json;

use crate::crash::{Rounds, talk_and_kill};
use crate::run;

/// Kills of the older build, and as many of this one.
const KILLS: u64 = 8;
/// Groups enough to be in many shards, however many of these a build has.
const GROUPS: u64 = 40;
const POSTS: u64 = 5;

/// A crash is the worst end of the older build: much is in its commit log only. Who talks goes on with this one, posts again what was not
/// answered, and resumes where it was.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_this_build_follows_a_killed_older_one() -> Result<()> {
    builds::announce();
    talk_and_kill(Rounds { count: 2 * KILLS, older: KILLS, moderated: false }).await
}

/// After a planned stop: messages, the ids of posts, and what retention removed.
#[tokio::test(flavor = "multi_thread")]
async fn this_build_opens_what_an_older_one_closed() -> Result<()> {
    builds::announce();
    let options = ServerOptions::new().on_disk().build(Build::Older);
    let mut server = options.start().await?;
    ensure!(server.program()? == Build::Older.server()?.canonicalize()?, "{:?} runs", server.program()?);
    let groups: Vec<String> = (0..GROUPS).map(|number| format!("kept-{number:02}")).collect();
    let mut ada = server.connector().extended("ada").await?;
    let mut epochs = Vec::new();
    for group in &groups {
        epochs.push(ada.join(group).await?.epoch);
        for number in 1..=POSTS {
            ensure!(ada.post(group, &format!("number {number}"), &number.to_string()).await?.seq == number);
        }
    }
    server.admin("PurgeHistory", json!({"group_name": groups[0], "through_seq": 2})).await?;
    server.admin("DeleteGroup", json!({"group_name": groups[1]})).await?;
    server.terminate()?;
    ensure!(server.wait(PATIENCE).await?.success());

    server.set_build(Build::This);
    server.restart().await?;
    ensure!(server.program()? == Build::This.server()?.canonicalize()?, "{:?} runs", server.program()?);
    let mut ada = server.connector().extended("ada").await?;
    for (number, (group, epoch)) in groups.iter().zip(epochs).enumerate().filter(|(number, _)| *number != 1) {
        let joined = ada.join_from(group, Some(POSTS - 1), None, Some(epoch)).await?;
        ensure!(joined.recovered && joined.epoch == epoch && joined.head == POSTS, "{group}: {joined:?}");
        // The answer to the same id is the first one.
        ensure!(ada.post(group, "number 4", "4").await?.seq == 4, "{group}: stored again");
        ensure!(ada.post(group, "after", "after").await?.seq == POSTS + 1, "{group}");
        let log = ada.read_log(group).await?;
        let texts: Vec<&str> = log.messages.iter().map(|message| &*message.text).collect();
        let all = ["number 1", "number 2", "number 3", "number 4", "number 5", "after"];
        ensure!(texts == all[if number == 0 { 2 } else { 0 }..], "{group}: {texts:?}");
    }
    let listed = server.admin("ListGroups", json!({"prefix": "kept-", "page_size": 100})).await?;
    let listed: Vec<&str> =
        listed["groups"].as_array().into_iter().flatten().filter_map(|group| group["name"].as_str()).collect();
    let wanted: Vec<&str> =
        groups.iter().enumerate().filter(|(number, _)| *number != 1).map(|(_, name)| name.as_str()).collect();
    ensure!(listed == wanted, "{listed:?}");
    server.terminate()?;
    ensure!(server.wait(PATIENCE).await?.success());
    let (code, _, complaint) = run(&["log", "verify"], &server.data_dir())?;
    ensure!(code == Some(0), "{complaint}");
    Ok(())
}
