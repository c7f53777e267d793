//! What this node logs.

use std::time::{Duration, SystemTime};

use tertulia_proto::admin::v1::{SetLogLevelsRequest, SetLogLevelsResponse};
use tokio::time::Instant;

use super::arguments;
use super::gate::Peer;
use super::moderation::Account;
use super::service::Service;
use super::status::Error;
use crate::telemetry::levels::{Change, New};

/// How long other levels are in force, if it is not said.
const USUAL: Duration = Duration::from_secs(600);
/// And at most, in seconds: whoever forgets it fills a disk.
const MOST: u32 = 86_400;

impl Service {
    pub(super) fn set_levels(&self, peer: Peer, request: &SetLogLevelsRequest) -> Result<SetLogLevelsResponse, Error> {
        let SetLogLevelsRequest { levels, seconds, reason } = request;
        let reason = arguments::reason(reason)?;
        let time = match *seconds {
            0 => USUAL,
            seconds if seconds > MOST => return Err(Error::argument(format!("seconds must be {MOST} at most"))),
            seconds => Duration::from_secs(seconds.into()),
        };
        let mut account = Account::new("SetLogLevels", peer, None, None, reason.as_ref());
        let set = match levels.is_empty() {
            true => self.levels.reset().map(|_| None).map_err(Error::from),
            false => match New::read(levels) {
                Ok(new) => self.levels.set(new, time).map(Some).map_err(Error::from),
                Err(bad) => Err(Error::argument(bad.to_string())),
            },
        };
        let change = account.close(set, |change| match change {
            Some(Change { levels, .. }) => format!("levels {levels:?} for {} s", time.as_secs()),
            None => format!("levels {:?}, as configured", self.levels.configured()),
        })?;
        let configured_levels = self.levels.configured().to_owned();
        let levels = change.as_ref().map_or(&configured_levels, |change| &change.levels).clone();
        let until = change.map(|change| SystemTime::now() + change.until.saturating_duration_since(Instant::now()));
        Ok(SetLogLevelsResponse { levels, configured_levels, until: until.map(Into::into) })
    }
}
