//! What a client may do, by the token that it shows.

use std::sync::Arc;

use tertulia_protocol::{Code, GroupName, extended};

use super::connection::Task;
use super::replies::Refused;
use crate::auth;
use crate::shard::request::Request;
use crate::shard::{Listed, Shards, Untold};

impl Task {
    /// Whether the client may join and read a group; if not, `request` is refused.
    pub(super) fn may_read(&mut self, request: &'static str, group: &GroupName) -> bool {
        let may = self.rights.as_ref().is_none_or(|rights| rights.read.contain(group.as_str()));
        if !may {
            self.refuse(forbidden("join or read", group).about(request, group.as_str()));
        }
        may
    }

    pub(super) fn may_post(&self, group: &GroupName) -> Result<(), Refused> {
        match &self.rights {
            Some(rights) if !rights.post.contain(group.as_str()) => Err(forbidden("post to", group)),
            Some(_) | None => Ok(()),
        }
    }

    /// Another token counts from now on; the client leaves groups that it may not read any more.
    pub(super) fn on_refresh(&mut self, token: &str) {
        let Some((session, _)) = &self.voice else { return };
        let rights = match self.shared.auth.refresh(&session.user, token) {
            Ok(rights) => rights,
            Err(refused) => {
                self.complain_of(&refused);
                self.refuse(Refused::new(refused.code(), refused.to_string()).request("Refresh"));
                return;
            }
        };
        let expires_at = rights.as_ref().and_then(|rights| rights.expires_at);
        self.rights = rights;
        self.out.push(&extended::FromServer::Refreshed { expires_at });
        let Some(rights) = &self.rights else { return };
        let groups = self.memberships.iter().map(|membership| membership.group());
        let lost: Vec<_> = groups.filter(|group| !rights.read.contain(group.as_str())).cloned().collect();
        for group in lost {
            self.leave_unasked(&group);
            self.tell_left(&group, extended::LeftReason::Forbidden, None);
        }
    }

    /// Ends a membership, or one that is about to begin; nobody is told.
    pub(super) fn leave_unasked(&mut self, group: &GroupName) {
        self.drop_membership(group);
        let Some((session, _)) = &self.voice else { return };
        let request = Request::Leave { group: group.clone(), session: Arc::clone(session), answer: false };
        self.send(self.shared.shards.shard_of(group), request);
    }

    pub(super) fn complain_of(&self, refused: &auth::Refused) {
        if self.shared.not_let_in.is_due() {
            tracing::warn!(peer = %self.me.peer, error = %refused, "a client does not prove who it is; there may be more");
        }
    }
}

/// Why something is refused to whoever may not do it.
fn forbidden(what: &str, group: &GroupName) -> Refused {
    Refused::new(Code::Forbidden, format!("You may not {what} group '{group}'"))
}

/// As [`Shards::groups`], of those that somebody may read.
pub(super) async fn groups(
    shards: &Shards,
    readable: &auth::Groups,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<(Vec<Listed>, bool), Untold> {
    let mut found: Vec<Listed> = Vec::new();
    for part in readable.parts(prefix, after.unwrap_or_default()) {
        let mut more = false;
        match part {
            auth::Part::Name(name) => found.extend(shards.group(name).await?),
            auth::Part::Beginning(beginning) => {
                let (listed, is_longer) = shards.groups(beginning, after, limit + 1 - found.len()).await?;
                found.extend(listed);
                more = is_longer;
            }
        }
        if more || found.len() > limit {
            found.truncate(limit);
            return Ok((found, true));
        }
    }
    Ok((found, false))
}
