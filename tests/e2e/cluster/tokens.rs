//! Tokens on several nodes: each node keeps its own clients to what they may, wherever a group lives.

use anyhow::{Result, ensure};
use harness::RawClient;
use harness::cluster::Cluster;
use harness::issuer::Issuer;
use serde_json::{Value, json};

use crate::machine;

const GROUPS: usize = 12;

async fn welcome(cluster: &Cluster, place: usize, token: &str) -> Result<RawClient> {
    let mut client = cluster.connector(place).raw().await?;
    ask(&mut client, json!({"Hello": {"version": 1, "token": token}}), json!({"Welcome": {}})).await?;
    Ok(client)
}

async fn ask(client: &mut RawClient, line: Value, answer: Value) -> Result<Value> {
    client.line(&line.to_string()).await?;
    client.expect_json(&answer).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_allows_the_same_at_every_node() -> Result<()> {
    let _machine = machine().await;
    let issuer = Issuer::new()?;
    let cluster = Cluster::start(2, 1, issuer.server()).await?;
    let names: Vec<String> = (0..GROUPS).map(|number| format!("told-{number:02}")).collect();
    let mut root = welcome(&cluster, 0, &issuer.token("root", 600, json!({}))?).await?;
    for group in names.iter().map(String::as_str).chain(["secret"]) {
        ask(&mut root, json!({"Join": {"group_name": group}}), json!({"Joined": {}})).await?;
    }
    // One half by their names, the other by what those begin with; the groups are on both nodes.
    let rights =
        json!({"tertulia": {"read": &names[..10], "read_prefixes": ["told-1"], "post": ["secret", "told-03"]}});
    let token = issuer.token("ada", 600, rights)?;
    for place in [0, 1] {
        let mut ada = welcome(&cluster, place, &token).await?;
        let page = ask(&mut ada, json!({"Groups": {}}), json!({"Groups": {"more": false}})).await?;
        let listed = page["Groups"]["groups"].as_array().cloned().unwrap_or_default();
        let listed: Vec<_> = listed.iter().filter_map(|group| group["group_name"].as_str()).collect();
        ensure!(listed == names, "at node {place}: {page}");
        let forbidden = json!({"Rejected": {"code": "forbidden", "group_name": "secret"}});
        for request in ["Join", "History", "Members"] {
            ask(&mut ada, json!({request: {"group_name": "secret"}}), forbidden.clone()).await?;
        }
        ask(&mut ada, json!({"Post": {"group_name": "secret", "message": "psst"}}), json!({"Posted": {}})).await?;
        root.expect_json(&json!({"Message": {"group_name": "secret", "message": "psst", "sender": "ada"}})).await?;
        let refused = json!({"Rejected": {"code": "forbidden", "group_name": "told-04"}});
        ask(&mut ada, json!({"Post": {"group_name": "told-04", "message": "no"}}), refused).await?;
        for group in &names {
            ask(&mut ada, json!({"Join": {"group_name": group}}), json!({"Joined": {"group_name": group}})).await?;
        }
        // Of all that it is in, it may read one group from now on.
        let less = issuer.token("ada", 600, json!({"tertulia": {"read": ["told-07"]}}))?;
        ask(&mut ada, json!({"Refresh": {"token": less}}), json!({"Refreshed": {}})).await?;
        for _ in 1..GROUPS {
            ada.expect_json(&json!({"Left": {"reason": "forbidden"}})).await?;
        }
        for group in ["told-03", "told-07"] {
            root.line(&json!({"Post": {"group_name": group, "message": group}}).to_string()).await?;
            root.expect_all(&[json!({"Posted": {}}), json!({"Message": {"group_name": group}})]).await?;
        }
        ada.expect_json(&json!({"Message": {"group_name": "told-07"}})).await?;
    }
    Ok(())
}
