//! Who made how many groups of late, so that nobody alone takes all that there may be.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use foldhash::fast::RandomState;
use tertulia_protocol::{GroupName, UserName};
use tokio::time::Instant;

use super::session::Session;
use super::{Bounds, Refusal};
use crate::origin;

/// For how long it is counted.
const HOUR: Duration = Duration::from_secs(3_600);
/// Users, and addresses, that are counted at most. Beyond it others are let through: they have made next to nothing.
const COUNTED: usize = 100_000;

/// Counts for an hour, then begins anew.
#[derive(Debug)]
pub(super) struct Founders {
    since: Instant,
    users: HashMap<UserName, usize, RandomState>,
    addresses: HashMap<IpAddr, usize, RandomState>,
}

impl Default for Founders {
    fn default() -> Self {
        Self { since: Instant::now(), users: HashMap::default(), addresses: HashMap::default() }
    }
}

impl Founders {
    /// Counts one more group of a session.
    pub(super) fn found(&mut self, group: &GroupName, session: &Session, bounds: &Bounds) -> Result<(), Refusal> {
        let passed = self.since.elapsed();
        if passed >= HOUR {
            *self = Self::default();
        }
        let (of_user, of_address) = (bounds.new_groups_per_user, bounds.new_groups_per_address);
        let user = self.users.get(&session.user).copied().unwrap_or(0);
        let origin = origin::of(session.address);
        let address = self.addresses.get(&origin).copied().unwrap_or(0);
        let is_over = |made: usize, max: usize| max > 0 && made >= max;
        if is_over(user, of_user) || is_over(address, of_address) {
            let max = if is_over(user, of_user) { of_user } else { of_address };
            return Err(Refusal::TooManyNewGroups {
                group: group.clone(),
                max,
                retry_after: HOUR.saturating_sub(passed),
            });
        }
        if of_user > 0 && (user > 0 || self.users.len() < COUNTED) {
            *self.users.entry(session.user.clone()).or_default() += 1;
        }
        if of_address > 0 && (address > 0 || self.addresses.len() < COUNTED) {
            *self.addresses.entry(origin).or_default() += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::shard::ConnectionId;

    fn session(user: &str, address: u8) -> Session {
        Session {
            id: ConnectionId(1),
            user: UserName::new(user).unwrap(),
            address: IpAddr::from([10, 0, 0, address]),
            inbox: Arc::default(),
            home: None,
            wants_places: true,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_and_an_address_make_so_many_groups_in_an_hour() {
        let bounds = Bounds { new_groups_per_user: 2, new_groups_per_address: 3, ..Bounds::default() };
        let group = GroupName::new("G").unwrap();
        let mut founders = Founders::default();
        let mut found = |user, address| founders.found(&group, &session(user, address), &bounds).is_ok();
        assert_eq!([found("ada", 1), found("ada", 2), found("ada", 3)], [true, true, false], "wherever it comes from");
        assert_eq!([found("bob", 1), found("cyd", 1), found("eve", 1)], [true, true, false], "whoever it is");
        assert!(found("eve", 4));
        tokio::time::sleep(HOUR).await;
        assert!(found("ada", 1));
    }

    #[tokio::test]
    async fn a_bound_of_0_is_none() {
        let bounds = Bounds { new_groups_per_user: 0, new_groups_per_address: 0, ..Bounds::default() };
        let mut founders = Founders::default();
        let group = GroupName::new("G").unwrap();
        assert!((0..1_000).all(|_| founders.found(&group, &session("ada", 1), &bounds).is_ok()));
        assert!(founders.users.is_empty() && founders.addresses.is_empty());
    }
}
