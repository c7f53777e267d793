//! A hold in what an owner is asked to act upon.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tertulia_protocol::GroupName;

use super::{Hold, Target};

/// For how long somebody is to be held, and which hold that became: whoever asks an owner to act upon it has kept it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Term {
    /// For how long, as the moderator said; no time at all: nobody is held.
    #[serde(rename = "hold")]
    pub time: Duration,
    /// As it is kept: [`Hold::until`].
    #[serde(default)]
    until: u64,
    /// As it is kept: [`Hold::change`]; 0 where nothing is. Nor do older builds tell it.
    #[serde(default)]
    pub change: u64,
}

impl Term {
    /// Of a hold that is kept.
    #[must_use]
    pub fn of(kept: &Hold, time: Duration) -> Self {
        Self { time, until: kept.until, change: kept.change }
    }

    /// What the owner is to have in force, if anything.
    #[must_use]
    pub fn hold(&self, group: Option<&GroupName>, target: Option<&Target>, reason: Option<&Arc<str>>) -> Option<Hold> {
        let hold = Hold::new(group.cloned(), target.cloned(), self.time).because(reason);
        match self.change {
            0 => (!self.time.is_zero()).then_some(hold),
            change => Some(Hold { until: self.until, change, ..hold }),
        }
    }
}

impl From<Duration> for Term {
    /// Of a hold that is kept nowhere.
    fn from(time: Duration) -> Self {
        Self { time, until: 0, change: 0 }
    }
}
