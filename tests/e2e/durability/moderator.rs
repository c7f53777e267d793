//! Who removes messages while others talk and the server is killed.

use anyhow::{Result, bail};
use harness::Server;
use harness::checker::Removal;
use serde_json::{Value, json};

/// The newest messages stay: a classic participant waits to see what it said.
const SPARED: u64 = 30;
/// Messages that are removed at once, at most: some times more than what is removed in one step.
const MOST: u64 = 250;

/// A moderator, and what it was told of.
pub(crate) struct Moderator {
    groups: Vec<String>,
    pub(crate) removed: Vec<Removal>,
}

impl Moderator {
    pub(crate) fn new(groups: &[String]) -> Self {
        Self { groups: groups.to_vec(), removed: Vec::new() }
    }

    /// Makes so many calls, one after the other. It may be dropped in the middle of one.
    pub(crate) async fn moderate(&mut self, server: &Server, random: &mut fastrand::Rng, calls: u64) -> Result<()> {
        for _ in 0..calls {
            let listed = server.admin("ListGroups", json!({})).await?;
            let of = &self.groups[random.usize(..self.groups.len())];
            let group = listed["groups"].as_array().into_iter().flatten().find(|group| group["name"] == of.as_str());
            let Some(group) = group else { bail!("group {of} is not listed: {listed}") };
            let (epoch, head) = (number(&group["epoch"]), number(&group["head"]));
            if head <= SPARED {
                continue;
            }
            let first = random.u64(1..=head - SPARED);
            let last = (first + random.u64(0..MOST) * random.u64(0..2)).min(head - SPARED);
            let range = json!({"group_name": of, "first_seq": first, "last_seq": last, "epoch": epoch});
            match server.admin("RemoveMessages", range).await {
                Ok(_) => self.removed.push(Removal { group: of.as_str().into(), epoch, first, last, sender: None }),
                // Where there is nothing but what tells of removals.
                Err(error) if format!("{error:#}").contains("NotFound") => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}
