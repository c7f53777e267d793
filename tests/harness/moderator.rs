//! Who removes messages while others talk and servers die.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::admin::Administrator;
use crate::checker::Removal;

/// The newest messages stay: who said something may wait to see it.
const SPARED: u64 = 30;
/// Messages that are removed at once, at most: sometimes more than what is removed in one step.
const MOST: u64 = 250;

/// A moderator, and what it was told of.
#[derive(Debug, Default)]
pub struct Moderator {
    /// The groups in which it removes something.
    pub groups: Vec<String>,
    /// What was acknowledged.
    pub removed: Vec<Removal>,
}

impl Moderator {
    /// Removes messages of one of the groups, if there are enough. It may be dropped in the middle of that.
    ///
    /// # Errors
    /// If a call fails; where there is nothing to be removed is none.
    pub async fn moderate(&mut self, admin: &Administrator, random: &mut fastrand::Rng) -> Result<()> {
        let of = self.groups.get(random.usize(..self.groups.len().max(1))).context("there are no groups")?;
        let listed = admin.call("ListGroups", json!({})).await?;
        let group = listed["groups"].as_array().into_iter().flatten().find(|group| group["name"] == of.as_str());
        let group = group.with_context(|| format!("group {of} is not listed: {listed}"))?;
        let (epoch, head) = (number(&group["epoch"]), number(&group["head"]));
        if head <= SPARED {
            return Ok(());
        }
        let first = random.u64(1..=head - SPARED);
        let last = (first + random.u64(0..MOST) * random.u64(0..2)).min(head - SPARED);
        let range = json!({"group_name": of, "first_seq": first, "last_seq": last, "epoch": epoch});
        match admin.call("RemoveMessages", range).await {
            Ok(_) => self.removed.push(Removal { group: of.as_str().into(), epoch, first, last, sender: None }),
            // There is nothing but what tells of removals.
            Err(error) if format!("{error:#}").contains("NotFound") => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}
