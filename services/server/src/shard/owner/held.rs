//! Members whom moderators hold and whom nobody took out: when it was held this node had not the shard, or the owner of then did not
//! know of them.

use std::sync::Arc;
use std::time::Duration;

use tertulia_protocol::GroupName;

use super::Owner;
use crate::shard::events::What;
use crate::shard::session::{Removal, Session};

impl Owner {
    /// Ends the memberships of those who are held, in one group or in all. Only the owner does: the others it tells.
    pub(super) fn end_held(&mut self, group: Option<&GroupName>) {
        // What is over may only seem to be in force, until it is read; then it is looked here once more.
        if self.shared.holds.is_empty() || self.mirror().is_some() || !self.shared.holds.are_read() {
            return;
        }
        let names: Vec<GroupName> = match group {
            Some(name) => vec![name.clone()],
            None => self.groups.keys().cloned().collect(),
        };
        for name in names {
            match self.shared.holds.closed_for(name.as_str()) {
                Some(left) => self.end_closed(&name, left),
                None => self.end_held_in(&name),
            }
        }
    }

    fn end_closed(&mut self, name: &GroupName, hold: Duration) {
        let reason = self.shared.holds.find((Some(name.clone()), None)).and_then(|hold| hold.reason);
        let members = self.remove(name, |_| true, Removal::Closed, reason.as_ref()).len() as u64;
        if members > 0 {
            self.shared.events.tell(|| What::Closed { group: name.clone(), reason, members, hold });
        }
    }

    fn end_held_in(&mut self, name: &GroupName) {
        let holds = Arc::clone(&self.shared.holds);
        let held = |session: &Session| match holds.check(name, session) {
            Ok(()) => None,
            Err(refusal) => refusal.retry_after(),
        };
        let gone = self.remove(name, |session| held(session).is_some(), Removal::Kicked, None);
        let mut members = self.groups.get(name).map_or(0, super::Group::member_count) + gone.len();
        for session in gone {
            members -= 1;
            let (group, who, members, hold) = (name.clone(), (&*session).into(), members as u64, held(&session));
            let hold = hold.unwrap_or_default();
            self.shared.events.tell(|| What::Kicked { group, who, members, reason: None, hold });
        }
    }
}
