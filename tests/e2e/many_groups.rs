//! A connection that is in hundreds of groups, which looks only at those that something came for.

use std::collections::BTreeSet;

use anyhow::Result;
use harness::{Client, Event, Server, check};

const GROUPS: usize = 300;

fn name(number: usize) -> String {
    // Some come before, some after those that are there already.
    format!("G{}", number * 7919 % 1000)
}

/// Reads until a message with this text has come from each of the groups.
async fn read_of_each(client: &mut Client, groups: &BTreeSet<String>, text: &str) -> Result<()> {
    let mut missing = groups.clone();
    while let Some(group) = missing.first() {
        let what = format!("'{text}' of {} groups, such as {group}", missing.len());
        let came = client.reader.until(&what, |event| match event {
            Event::Message(message) if &*message.text == text => Some(message.group.to_string()),
            _ => None,
        });
        let group = came.await?;
        assert!(missing.remove(&group), "'{text}' of {group} was not to come, or came twice");
    }
    Ok(())
}

async fn leave(client: &mut Client, group: &str) -> Result<()> {
    client.writer.leave(group).await?;
    let is_left = |event: &Event| matches!(event, Event::Left(left) if &*left.group == group).then_some(());
    client.reader.until("Left", is_left).await
}

#[tokio::test]
async fn what_is_posted_in_each_comes_and_nothing_of_those_it_left() -> Result<()> {
    let server = Server::start().await?;
    let connector = server.connector();
    let mut ada = connector.extended("ada").await?;
    let mut bob = connector.extended("bob").await?;
    let mut joined = BTreeSet::new();
    for number in 0..GROUPS {
        ada.join(&name(number)).await?;
        bob.join(&name(number)).await?;
        joined.insert(name(number));
    }
    for round in 0..4 {
        // Out and in again, at other places among the rest.
        for number in (round..GROUPS).step_by(3) {
            let group = name(number);
            if joined.remove(&group) {
                leave(&mut bob, &group).await?;
            } else {
                bob.join(&group).await?;
                joined.insert(group);
            }
        }
        let text = format!("round {round}");
        for number in 0..GROUPS {
            ada.post(&name(number), &text, &format!("{round}-{number}")).await?;
        }
        read_of_each(&mut bob, &joined, &text).await?;
        // One at a time, which finds the others at rest.
        for group in joined.iter().step_by(10) {
            ada.post(group, "once more", &format!("{round}-{group}")).await?;
            read_of_each(&mut bob, &BTreeSet::from([group.clone()]), "once more").await?;
        }
    }
    // Her own copy of what she posted last was on its way when that was acknowledged.
    ada.ping().await?;
    let mut reader = connector.extended("reader").await?;
    let mut logs = Vec::new();
    for number in 0..GROUPS {
        logs.push(reader.read_log(&name(number)).await?);
    }
    check(&[ada.settled(), bob.settled()], &logs).assert_clean();
    Ok(())
}
