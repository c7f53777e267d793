//! What a client may do, by the token that it shows.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;
use tertulia_protocol::{Code, GroupName, extended};

use super::connection::Task;
use super::replies::{Refused, Reply};
use crate::auth::{self, Rights};
use crate::shard::request::Request;
use crate::shard::{Listed, Shards, Untold};

/// For how many lines a `Refresh` counts: signatures are dear.
const REFRESH: usize = 20;
/// How many groups are looked up at once for one list.
const AT_ONCE: usize = 16;

impl From<auth::Refused> for Refused {
    fn from(refused: auth::Refused) -> Self {
        Self { retry_after: refused.retry_after(), ..Self::new(refused.code(), refused.to_string()) }
    }
}

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

    /// Another token counts, when all is answered that was asked with the one of before; that it counts for longer is so at once.
    pub(super) fn on_refresh(&mut self, token: &str) {
        self.send_gathered();
        self.pace(REFRESH);
        let Some((session, _)) = &self.voice else { return };
        match self.shared.auth.refresh(&session.user, self.rights.as_deref(), token) {
            Ok(rights) => {
                if let Some(old) = &mut self.rights {
                    old.until = rights.until;
                }
                self.question = Some(Box::pin(std::future::ready(Reply::Refreshed(rights))));
            }
            Err(refused) => {
                self.complain_of(&refused);
                let was_tried = refused != auth::Refused::NoToken;
                self.refuse(Refused::from(refused).request("Refresh"));
                if was_tried {
                    self.on_malformed();
                }
            }
        }
    }

    /// The client leaves the groups that it may not read any more. No join is under way.
    pub(super) fn on_refreshed(&mut self, rights: Box<Rights>) {
        self.out.push(&extended::FromServer::Refreshed { expires_at: rights.expires_at });
        let Some(session) = self.voice.as_ref().map(|(session, _)| Arc::clone(session)) else { return };
        let groups = self.memberships.iter().map(|membership| membership.group());
        let lost: Vec<_> = groups.filter(|group| !rights.read.contain(group.as_str())).cloned().collect();
        self.rights = Some(rights);
        for group in lost {
            self.drop_membership(&group);
            self.tell_left(&group, extended::LeftReason::Forbidden, None);
            let shard = self.shared.shards.shard_of(&group);
            self.send(shard, Request::Leave { group, session: Arc::clone(&session), answer: false });
        }
    }

    pub(super) fn complain_of(&self, refused: &auth::Refused) {
        if refused.code() == Code::Unauthenticated && self.shared.not_let_in.is_due() {
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
    // One more than goes into a page tells that there are more.
    let parts = readable.parts(prefix, after.unwrap_or_default());
    let asked: Vec<_> = parts.into_iter().map(|part| listed(shards, part, after, limit + 1)).collect();
    let (mut answers, mut found) = (stream::iter(asked).buffered(AT_ONCE), Vec::new());
    while let Some(answer) = answers.next().await {
        found.extend(answer?);
        if found.len() > limit {
            found.truncate(limit);
            return Ok((found, true));
        }
    }
    Ok((found, false))
}

async fn listed(
    shards: &Shards,
    part: auth::Part<'_>,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Listed>, Untold> {
    match part {
        auth::Part::Name(name) => Ok(shards.group(name).await?.into_iter().collect()),
        auth::Part::Beginning(beginning) => Ok(shards.groups(beginning, after, limit).await?.0),
    }
}
