//! Conversations of real people, held again at full speed, and judged: see [`harness::stage`].

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use harness::Server;
use harness::irc::{Conversation, real_conversations};
use harness::stage::{Outcome, hold};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::machine;

/// Conversations held at the same time: with some 250 connections each.
const AT_ONCE: usize = 8;

/// Holds conversations, several at the same time, on one server.
async fn hold_all(conversations: Vec<Conversation>) -> Result<Outcome> {
    let began = Instant::now();
    let server = Arc::new(Server::start().await?);
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut held = JoinSet::new();
    for conversation in conversations {
        let (server, places) = (Arc::clone(&server), Arc::clone(&places));
        held.spawn(async move {
            let _place = places.acquire_owned().await?;
            hold(server.connector(), &conversation).await.with_context(|| format!("conversation {}", conversation.name))
        });
    }
    let mut total = Outcome::default();
    while let Some(outcome) = held.join_next().await {
        let outcome = outcome??;
        total.lines += outcome.lines;
        total.clients += outcome.clients;
        total.facts.messages += outcome.facts.messages;
        total.facts.deliveries += outcome.facts.deliveries;
        total.facts.acknowledged += outcome.facts.acknowledged;
        total.facts.joins += outcome.facts.joins;
    }
    println!(
        "{total:?} in {:?}; the server's peak memory: {} bytes",
        began.elapsed(),
        server.process().peak_resident_bytes()?
    );
    Ok(total)
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_conversation() -> Result<()> {
    let _machine = machine().await;
    let total = hold_all(vec![Conversation::ours()]).await?;
    assert!(total.lines > 50 && total.facts.deliveries > 150, "{total:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn real_conversations_of_real_people() -> Result<()> {
    let _machine = machine().await;
    let Some(conversations) = real_conversations()? else { return Ok(()) };
    let lines: usize = conversations.iter().map(|conversation| conversation.happenings.len()).sum();
    let total = hold_all(conversations).await?;
    assert_eq!(total.lines, lines);
    assert!(total.facts.deliveries > 50 * total.facts.messages, "{total:?}");
    Ok(())
}
