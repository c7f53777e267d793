//! Which groups are damaged: said in the log, and not over and over.

use std::collections::HashMap;
use std::fmt::Display;
use std::time::{Duration, Instant};

/// How soon the same is said again of a group.
const AGAIN: Duration = Duration::from_secs(3600);
/// Of how many groups it is said in that time: the first ones are as good as all, and `log verify` names others.
const MOST: usize = 256;

/// What was said of which group, and when.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    told: HashMap<String, Instant>,
}

impl Complaints {
    /// A group's messages or its row cannot be read.
    pub(crate) fn of(&mut self, group: &str, error: &dyn Display) {
        if !self.is_new(group) {
            return;
        }
        tracing::error!(
            group,
            %error,
            "not all that is stored of a group can be read: of its retention only the bound on the number of messages holds; \
             `tertulia-server log verify` says where, a backup has it whole"
        );
    }

    /// What clients ask for of a group cannot be read.
    pub(crate) fn of_reads(&mut self, group: &str, error: &dyn Display) {
        if !self.is_new(group) {
            return;
        }
        tracing::error!(
            group,
            %error,
            "not all that clients ask for of a group can be read: members who are behind are told which messages they miss; \
             `tertulia-server log verify` says where, a backup has it whole"
        );
    }

    fn is_new(&mut self, group: &str) -> bool {
        self.told.retain(|_, at| at.elapsed() < AGAIN);
        if self.told.contains_key(group) || self.told.len() >= MOST {
            return false;
        }
        self.told.insert(group.to_owned(), Instant::now());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_of_each_group_and_not_of_too_many() {
        let mut complaints = Complaints::default();
        assert!(complaints.is_new("Dogs") && complaints.is_new("Cats"));
        assert!(!complaints.is_new("Dogs"));
        for group in 0..MOST {
            complaints.is_new(&group.to_string());
        }
        assert!(!complaints.is_new("Foxes"));
        assert_eq!(complaints.told.len(), MOST);
    }
}
