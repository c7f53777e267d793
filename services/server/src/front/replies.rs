//! From what became of a request to the lines that say so, in either dialect.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tertulia_protocol::{Code, Dialect, GroupName, UserName, classic, extended};

use super::connection::Task;
use super::dispatch::HISTORY_BYTES;
use super::encode;
use super::membership::{Membership, start};
use super::registry::CloseReason;
use super::removal;
use crate::auth::{self, Principal, Rights};
use crate::shard::Listed;
use crate::shard::session::{Ack, Joined};
use crate::shard::{Event, JoinFrom, Page, Range, ReadError, Record, Refusal, Removal, Session, Untold};

/// The answer to a question that the connection waited for.
pub(super) enum Reply {
    /// It took a check of the password.
    Hello {
        version: u32,
        decided: Result<Principal, auth::Refused>,
    },
    History {
        group: GroupName,
        range: Range,
        page: Result<Option<Page>, ReadError>,
        epoch: Option<u64>,
    },
    Members {
        group: GroupName,
        page: Result<Option<(Vec<UserName>, bool)>, Refusal>,
    },
    Groups(Result<(Vec<Listed>, bool), Untold>),
    /// Another token counts from now on.
    Refreshed(Box<Rights>),
    Removed(removal::Outcome),
    /// Nothing was looked up.
    Refused {
        request: &'static str,
        group: GroupName,
        refusal: Refusal,
    },
}

/// A refusal, before it is put into a dialect.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) code: Code,
    pub(super) text: String,
    pub(super) request: Option<&'static str>,
    pub(super) group: Option<String>,
    pub(super) id: Option<String>,
    pub(super) retry_after: Option<Duration>,
    /// Something may have come of it all the same.
    pub(super) in_doubt: bool,
}

impl Refused {
    pub(super) fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), request: None, group: None, id: None, retry_after: None, in_doubt: false }
    }

    /// Why a request about a group was refused. That messages cannot be stored now means nothing to who does not post.
    pub(super) fn of(request: &'static str, group: &GroupName, refusal: &Refusal) -> Self {
        let refused = Self::from(refusal).about(request, group.as_str());
        let what = match request {
            "Post" => return refused,
            "Join" => format!("Group '{group}' cannot be joined"),
            "Remove" => format!("Messages of group '{group}' cannot be removed"),
            _ => format!("Group '{group}' cannot be read"),
        };
        let Refusal::Unavailable { retry_after, .. } = refusal else { return refused };
        Self { text: format!("{what} now; try again in {} ms", retry_after.as_millis()), ..refused }
    }

    pub(super) fn request(self, request: &'static str) -> Self {
        Self { request: Some(request), ..self }
    }

    pub(super) fn about(self, request: &'static str, group: &str) -> Self {
        Self { request: Some(request), group: Some(group.to_owned()), ..self }
    }
}

impl From<&Refusal> for Refused {
    fn from(refusal: &Refusal) -> Self {
        let code = match refusal {
            Refusal::NoSuchGroup(_) => Code::NoSuchGroup,
            Refusal::NotAMember(_) => Code::NotAMember,
            Refusal::Kicked { .. } => Code::Kicked,
            Refusal::Closed { .. } => Code::Closed,
            Refusal::GroupFull { .. } => Code::GroupFull,
            Refusal::ServerFull { .. } => Code::ServerFull,
            Refusal::TooManyNewGroups { .. } => Code::RateLimited,
            Refusal::Unavailable { .. } | Refusal::Unanswered { .. } | Refusal::NodeSilent => Code::Unavailable,
            Refusal::Draining => Code::Draining,
        };
        let (retry_after, in_doubt) = (refusal.retry_after(), refusal.is_in_doubt());
        Self { retry_after, in_doubt, ..Self::new(code, refusal.to_string()) }
    }
}

impl Task {
    fn dialect(&self) -> Option<Dialect> {
        self.voice.as_ref().map(|(_, dialect)| *dialect)
    }

    /// Tells the client that a request was refused.
    pub(super) fn refuse(&mut self, refused: Refused) {
        self.shared.metrics.rejected(refused.code);
        if self.dialect() == Some(Dialect::Extended) || self.is_proving() {
            self.reject(refused);
        } else {
            self.out.push(&classic::FromServer::Error(refused.text.into()));
        }
    }

    fn reject(&mut self, refused: Refused) {
        let Refused { code, text, request, group, id, retry_after, in_doubt } = refused;
        self.out.push(&extended::FromServer::Rejected(extended::Rejected {
            code,
            message: text.into(),
            request: request.map(Into::into),
            group_name: group.map(Into::into),
            id: id.map(Into::into),
            retry_after_ms: retry_after.map(millis),
            outcome_unknown: in_doubt,
        }));
    }

    /// A client that said `Hello` understands `Rejected` before it has a voice.
    pub(super) fn refuse_hello(&mut self, refused: Refused) {
        self.shared.metrics.rejected(refused.code);
        self.reject(refused.request("Hello"));
        self.close(CloseReason::Hello);
    }

    /// Closes a connection that let a deadline pass.
    pub(super) fn time_out(&mut self, reason: CloseReason, text: String) {
        self.refuse(Refused::new(Code::Protocol, format!("{text}; the connection is closed")));
        self.close(reason);
    }

    pub(super) fn welcome(&mut self, session: &Session, version: u32) {
        let limits = &self.shared.limits;
        let number = |number: usize| number as u64;
        self.out.push(&extended::FromServer::Welcome(extended::Welcome {
            version,
            server: concat!("tertulia/", env!("CARGO_PKG_VERSION")).into(),
            session: session.id.to_string().into(),
            user: session.user.as_str().into(),
            limits: extended::Limits {
                line_bytes: number(limits.line_bytes),
                message_bytes: number(limits.message_bytes),
                group_name_bytes: number(limits.group_name_bytes),
                groups: number(limits.groups_per_connection),
                posts_per_second: limits.posts_per_second.into(),
                page: number(limits.page),
            },
            heartbeat: millis(self.shared.patience.heartbeat),
            expires_at: self.rights.as_ref().and_then(|rights| rights.expires_at),
        }));
        if let Some(going) = self.going_away.take() {
            let (reason, after) = *going;
            self.tell_going_away(&reason, after);
        }
    }

    pub(super) fn ping(&mut self) {
        self.out.push(&extended::FromServer::Ping {});
    }

    pub(super) fn tell_going_away(&mut self, reason: &str, after: Duration) {
        match self.dialect() {
            Some(Dialect::Extended) => {
                let going = extended::GoingAway { reason: reason.into(), reconnect_after_ms: millis(after) };
                self.out.push(&extended::FromServer::GoingAway(going));
            }
            Some(Dialect::Classic) => {}
            None => self.going_away = Some(Box::new((reason.into(), after))),
        }
    }

    pub(super) fn tell_disconnected(&mut self, reason: Option<&str>) {
        let text = with_detail("A moderator closed this connection", reason);
        self.refuse(Refused::new(Code::Kicked, text));
    }

    // ---- what owners say

    pub(super) fn on_event(&mut self, event: Event) {
        match event {
            Event::Posted(acks) => self.on_acks(acks),
            Event::Joined(joined) => self.on_joined(*joined),
            Event::JoinRefused { group, refusal } => {
                self.changed(&group, true);
                self.refuse(Refused::of("Join", &group, &refusal));
            }
            Event::Left { group, was_member } => self.on_left(&group, was_member),
            Event::Removed { group, removal, detail } => self.on_removed(&group, removal, detail.as_deref()),
        }
    }

    /// So many posts were stored or refused.
    pub(super) fn on_answered(&mut self, posts: usize) {
        self.in_flight = self.in_flight.saturating_sub(posts);
        self.posting = self.posting.saturating_sub(u32::try_from(posts).unwrap_or(u32::MAX));
        if let Some(since) = self.measured_post {
            // Answers come in the order of the posts, as far as those have one shard.
            match u16::try_from(posts).ok().and_then(|posts| self.measured_behind.checked_sub(posts)) {
                Some(behind) => self.measured_behind = behind,
                None => {
                    self.measured_post = None;
                    self.shared.metrics.post_seconds.record(since.elapsed().as_secs_f64());
                }
            }
        }
    }

    fn on_acks(&mut self, acks: Vec<Ack>) {
        self.on_answered(acks.len());
        for Ack { group, id, outcome } in acks {
            match outcome {
                Ok(stored) if self.dialect() == Some(Dialect::Extended) => {
                    self.out.push(&extended::FromServer::Posted(extended::Posted {
                        group_name: group.as_str().into(),
                        id: id.as_ref().map(|id| id.as_str().into()),
                        epoch: stored.epoch,
                        seq: stored.seq,
                        at: stored.at,
                    }));
                }
                Ok(_) => {}
                Err(refusal) => {
                    let id = id.map(|id| id.as_str().to_owned());
                    self.refuse(Refused { id, ..Refused::of("Post", &group, &refusal) });
                }
            }
        }
    }

    /// A request to join or to leave was answered.
    fn changed(&mut self, group: &GroupName, joins: bool) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(place) = self.changing.iter().position(|change| change.joins == joins && change.group == *group) {
            self.changing.remove(place);
        }
        if self.changing.is_empty() {
            self.changing = Vec::new();
        }
    }

    fn on_joined(&mut self, joined: Joined) {
        let group = joined.status.name.clone();
        self.changed(&group, true);
        let (next, recovered) = start(&joined);
        if self.dialect() == Some(Dialect::Extended) {
            self.out.push(&extended::FromServer::Joined(extended::Joined {
                group_name: group.as_str().into(),
                epoch: joined.epoch,
                head: joined.head,
                members: joined.members,
                recovered,
            }));
        }
        // Who joined again from now on goes on where it is.
        if joined.from != JoinFrom::Now || self.memberships.find(group.as_str()).is_none() {
            self.memberships.put(Membership::new(joined, next, &self.shared.metrics));
        }
        self.memberships_changed();
    }

    fn memberships_changed(&self) {
        self.me.groups.store(u32::try_from(self.memberships.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    pub(super) fn drop_membership(&mut self, group: &GroupName) {
        self.memberships.remove(group.as_str());
        self.memberships_changed();
    }

    fn on_left(&mut self, group: &GroupName, was_member: bool) {
        self.changed(group, false);
        self.drop_membership(group);
        if was_member {
            self.tell_left(group, extended::LeftReason::Leave, None);
        } else {
            let text = format!("You are not a member of group '{group}'");
            self.refuse(Refused::new(Code::NotAMember, text).about("Leave", group.as_str()));
        }
    }

    pub(super) fn tell_left(&mut self, group: &GroupName, reason: extended::LeftReason, detail: Option<&str>) {
        let left = extended::Left { group_name: group.as_str().into(), reason, detail: detail.map(Into::into) };
        self.out.push(&extended::FromServer::Left(left));
    }

    fn on_removed(&mut self, group: &GroupName, removal: Removal, detail: Option<&str>) {
        self.drop_membership(group);
        if self.memberships.is_empty() && !self.is_dismissed() {
            // It may have listened for long; that it is in no group begins now.
            self.clocks.heard = tokio::time::Instant::now();
        }
        let (reason, text) = match removal {
            Removal::Kicked => (extended::LeftReason::Kicked, format!("You were kicked from group '{group}'")),
            Removal::Closed => (extended::LeftReason::Closed, format!("Group '{group}' was closed")),
            Removal::Deleted => (extended::LeftReason::Deleted, format!("Group '{group}' was deleted")),
        };
        match self.dialect() {
            Some(Dialect::Extended) => self.tell_left(group, reason, detail),
            _ => self.out.push(&classic::FromServer::Error(with_detail(&text, detail).into())),
        }
    }

    // ---- answers to questions

    pub(super) fn on_reply(&mut self, reply: Reply) {
        match reply {
            Reply::Hello { version, decided } => {
                // It waited for the server, and was not silent.
                self.clocks.heard = tokio::time::Instant::now();
                self.answer_hello(version, decided);
            }
            Reply::History { group, range, page, epoch } => self.on_history_page(&group, range, page, epoch),
            Reply::Members { group, page: Ok(Some((users, more))) } => {
                let members = users.iter().map(|user| user.as_str().into()).collect();
                let group_name = group.as_str().into();
                self.out.push(&extended::FromServer::Members(extended::Members { group_name, members, more }));
            }
            Reply::Members { group, page: Ok(None) } => self.refuse_unknown_group("Members", &group),
            Reply::Members { group, page: Err(refusal) } => {
                self.refuse(Refused::of("Members", &group, &refusal));
            }
            Reply::Refused { request, group, refusal } => {
                self.refuse(Refused::of(request, &group, &refusal));
            }
            Reply::Refreshed(rights) => self.on_refreshed(rights),
            Reply::Removed(outcome) => self.on_removed_own(outcome),
            Reply::Groups(Ok((listed, more))) => {
                let summary = |group: &Listed| extended::GroupSummary {
                    group_name: group.name.as_str().to_owned().into(),
                    members: group.status.as_ref().map_or(0, |status| status.members()),
                    head: group.head(),
                };
                let groups = listed.iter().map(summary).collect();
                self.out.push(&extended::FromServer::Groups(extended::Groups { groups, more }));
            }
            Reply::Groups(Err(error)) => self.refuse_untold("Groups", None, untold(&error), &error),
        }
    }

    fn on_history_page(
        &mut self,
        group: &GroupName,
        range: Range,
        page: Result<Option<Page>, ReadError>,
        epoch: Option<u64>,
    ) {
        let (epoch, records, more) = match (&page, epoch) {
            (Err(error), _) => return self.refuse_unreadable("History", Some(group), error),
            (Ok(None), None) => return self.refuse_unknown_group("History", group),
            (Ok(None), Some(epoch)) => (epoch, &[][..], false),
            (Ok(Some(page)), _) => {
                let records = fitting(&page.records, range);
                let more = match range {
                    Range::After(_) => records.last().is_some_and(|last| last.seq < page.head.seq),
                    Range::Before(_) => records.first().is_some_and(|first| first.seq > page.head.first),
                };
                (page.head.epoch, records, more)
            }
        };
        let messages = records.iter().map(encode::past).collect();
        let group_name = group.as_str().into();
        self.out.push(&extended::FromServer::History(extended::History { group_name, epoch, messages, more }));
    }

    fn refuse_unknown_group(&mut self, request: &'static str, group: &GroupName) {
        let refusal = Refusal::NoSuchGroup(group.clone());
        self.refuse(Refused::from(&refusal).about(request, group.as_str()));
    }

    fn refuse_unreadable(&mut self, request: &'static str, group: Option<&GroupName>, error: &dyn std::fmt::Display) {
        self.refuse_untold(request, group, UNREADABLE, error);
    }

    pub(super) fn refuse_untold_of(&mut self, request: &'static str, group: &GroupName, error: &Untold) {
        self.refuse_untold(request, Some(group), untold(error), error);
    }

    fn refuse_untold(
        &mut self,
        request: &'static str,
        group: Option<&GroupName>,
        text: &str,
        error: &dyn std::fmt::Display,
    ) {
        if self.shared.unanswered.is_due() {
            tracing::warn!(request, ?group, %error, "request failed");
        }
        let refused = Refused::new(Code::Unavailable, text);
        let group = group.map(|group| group.as_str().to_owned());
        let retry_after = Some(Duration::from_secs(1));
        self.refuse(Refused { group, retry_after, ..refused.request(request) });
    }
}

/// What is said when messages cannot be read.
const UNREADABLE: &str = "the log cannot be read now; try again in 1000 ms";

/// What is said when groups cannot be told; which nodes there are is nothing for clients.
fn untold(error: &Untold) -> &'static str {
    match error {
        Untold::Unread(_) => UNREADABLE,
        Untold::Silent { .. } | Untold::Refused(_) => {
            "a node that has some of the groups did not answer; try again in 1000 ms"
        }
        Untold::Unowned { .. } => "some of the groups are on their way from one node to another; try again in 1000 ms",
    }
}

/// As many of a page's records, from the end at which the range begins, as are [`HISTORY_BYTES`] long when they are written, or one.
fn fitting(records: &[Record], range: Range) -> &[Record] {
    let mut bytes = 0;
    let mut fits = |record: &&Record| {
        bytes += encode::past_bytes(record);
        bytes <= HISTORY_BYTES
    };
    match range {
        Range::After(_) => {
            let count = records.iter().take_while(&mut fits).count().max(1);
            &records[..count.min(records.len())]
        }
        Range::Before(_) => {
            let count = records.iter().rev().take_while(&mut fits).count().max(1);
            &records[records.len().saturating_sub(count)..]
        }
    }
}

/// A classic text about what a moderator did: `What.`, or `What: why` if there is a reason.
fn with_detail(what: &str, detail: Option<&str>) -> String {
    match detail {
        Some(detail) => format!("{what}: {detail}"),
        None => format!("{what}."),
    }
}

/// Rounded up: who waits for so long has waited long enough.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_speaks_of_what_was_asked_for() {
        let group = GroupName::new("Dogs").unwrap();
        let refusal = Refusal::Unavailable { group: group.clone(), retry_after: Duration::from_secs(1) };
        let text = |request| Refused::of(request, &group, &refusal).text;
        assert_eq!(text("Post"), "Messages of group 'Dogs' cannot be stored now; try again in 1000 ms");
        assert_eq!(text("Join"), "Group 'Dogs' cannot be joined now; try again in 1000 ms");
        assert_eq!(text("Members"), "Group 'Dogs' cannot be read now; try again in 1000 ms");
        assert_eq!(text("Remove"), "Messages of group 'Dogs' cannot be removed now; try again in 1000 ms");
        let refused = Refused::of("Join", &group, &Refusal::NoSuchGroup(group.clone()));
        assert_eq!(refused.text, "Group 'Dogs' does not exist");
    }
}
