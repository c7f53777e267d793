//! What follows from a line of the server.

use std::time::{Duration, Instant};

use tertulia_protocol::codec;
use tertulia_protocol::extended::{FromClient, FromServer, Joined, Left, LeftReason, Posted, Welcome};

use super::{Phase, Refusal, State};
use crate::session::backoff;
use crate::session::event::{Event, Line};
use crate::session::membership::{Arrival, CaughtUp, Membership, News};
use crate::session::query::Place;

impl State {
    /// A line of the server came.
    ///
    /// # Errors
    /// If the server does not let the client in.
    pub(crate) fn line(&mut self, line: &[u8], now: Instant) -> Result<(), Refusal> {
        if line.is_empty() {
            return Ok(());
        }
        match codec::decode_server(line) {
            Ok(Some(frame)) => self.frame(frame, now)?,
            Ok(None) => {}
            Err(fault) if self.phase == Phase::Greeting => return Err(Refusal::NotTertulia(fault)),
            Err(fault) => {
                self.events.push(Event::Problem(format!("a line of the server was not understood: {fault}")));
            }
        }
        self.pump(now);
        Ok(())
    }

    fn frame(&mut self, frame: FromServer<'_>, now: Instant) -> Result<(), Refusal> {
        if self.phase == Phase::Greeting {
            match frame {
                FromServer::Welcome(welcome) => self.welcome(welcome),
                FromServer::Rejected(rejected) => return self.not_let_in(&rejected),
                FromServer::Error(text) => return Err(Refusal::TurnedAway(text.into_owned())),
                FromServer::GoingAway(away) => {
                    self.reconnect_after = Some(backoff::asked(away.reconnect_after_ms));
                    return Err(Refusal::TurnedAway(format!("the server is going away: {}", away.reason)));
                }
                _ => {}
            }
            return Ok(());
        }
        match frame {
            FromServer::Joined(joined) => self.joined(&joined),
            FromServer::Left(left) => self.left(&left),
            FromServer::Message(message) => {
                let id = message.id;
                let line = Line {
                    seq: message.seq,
                    at: message.at,
                    group: message.group_name.into_owned(),
                    sender: message.sender.into_owned(),
                    text: message.message.into_owned(),
                    removed: message.removed,
                    removes: message.removes.map(Into::into),
                };
                self.message(line, id.as_deref());
            }
            FromServer::Lagged(lagged) => {
                let group = lagged.group_name.into_owned();
                let news = self.groups.get_mut(&group).and_then(|m| m.lagged(lagged.first, lagged.last));
                if let Some((first, last)) = news {
                    (self.progress, self.moved) = (true, true);
                    self.events.push(Event::Missing { group: group.clone(), first, last });
                }
                self.caught_up(&group);
            }
            FromServer::Posted(posted) => self.posted(&posted),
            FromServer::History(page) => self.progress |= self.queries.history(page, &mut self.events),
            FromServer::Members(page) => self.progress |= self.queries.members(page, &mut self.events),
            FromServer::Groups(page) => self.progress |= self.queries.groups(page, &mut self.events),
            FromServer::Ping {} => codec::encode(&FromClient::Pong {}, &mut self.wire),
            FromServer::GoingAway(away) => {
                self.departs("the server is going away");
                self.reconnect_after = Some(backoff::asked(away.reconnect_after_ms));
                self.note(format!("the server is going away: {}", away.reason));
            }
            FromServer::Rejected(rejected) => self.rejected(&rejected, now)?,
            FromServer::Error(text) => self.events.push(Event::Problem(text.into_owned())),
            FromServer::Refreshed { expires_at } => self.refreshed(expires_at),
            FromServer::Removed(removed) => self.removed(&removed),
            FromServer::Welcome(_) | FromServer::Pong {} => {}
        }
        Ok(())
    }

    /// The server is about to close the connection.
    pub(super) fn departs(&mut self, reason: &str) {
        self.phase = Phase::Departing;
        reason.clone_into(&mut self.departure);
    }

    fn welcome(&mut self, welcome: Welcome<'_>) {
        self.phase = Phase::Online;
        self.limits = welcome.limits;
        self.heartbeat = Some(Duration::from_millis(welcome.heartbeat));
        let user = welcome.user.into_owned();
        let again = if self.was_online { " again" } else { "" };
        self.note(format!("connected{again} to {} as {user}", welcome.server));
        self.progress |= !self.was_online;
        self.was_online = true;
        self.identity.known = Some(user);
        self.ends_at(welcome.expires_at);
    }

    fn joined(&mut self, joined: &Joined<'_>) {
        let group = &*joined.group_name;
        let Some(membership) = self.groups.get_mut(group) else { return };
        if membership.is_of_before() {
            return;
        }
        // To be back where one was is none: a connection that breaks again and again is not waited for.
        self.progress |= !membership.is_resuming();
        let News { anew, late } = membership.joined(joined);
        self.moved = true;
        self.resume.remove(group);
        if anew {
            self.note(format!("{group} began anew: what was seen before is not part of it"));
        }
        if late {
            self.note(format!("{group} is joined as of now: what was posted since the first attempt is not shown"));
        }
        let (members, head) = (joined.members, joined.head);
        let people = if members == 1 { "you alone".to_owned() } else { format!("{members} members") };
        self.note(format!("joined {group}: {people}, {head} messages so far"));
        self.caught_up(group);
    }

    /// Looks whether all that was missed of a group has come. Then it is known which of the posts that were in doubt are
    /// in its log, unless some of it is gone.
    fn caught_up(&mut self, group: &str) {
        match self.groups.get_mut(group).and_then(Membership::caught_up) {
            None => {}
            Some(CaughtUp::Whole) => self.outbox.not_stored(group),
            Some(CaughtUp::Partly(messages)) => {
                for post in self.outbox.passed_by(group, messages) {
                    self.give_up(&post);
                }
            }
        }
    }

    fn posted(&mut self, posted: &Posted<'_>) {
        // One's own message may have told it before.
        let Some(post) = posted.id.as_deref().and_then(|id| self.outbox.stored(id)) else { return };
        self.stored(&post, Place { epoch: posted.epoch, seq: posted.seq });
        self.progress = true;
        match self.groups.get_mut(&*posted.group_name) {
            Some(membership) => membership.posted(posted.epoch, posted.seq),
            None => self.note(format!("posted to {}, where you are no member", posted.group_name)),
        }
    }

    fn left(&mut self, left: &Left<'_>) {
        let group = &*left.group_name;
        self.keep_place(group);
        let Some(membership) = self.groups.get_mut(group) else { return };
        let stays = if left.reason == LeftReason::Leave { membership.left() } else { membership.put_out() };
        if !stays {
            self.groups.remove(group);
        }
        let detail = left.detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
        let problem = match left.reason {
            LeftReason::Leave => return self.note(format!("left {group}")),
            LeftReason::Kicked => format!("you were kicked from {group}{detail}"),
            LeftReason::Banned => format!("you were banned from {group}{detail}"),
            LeftReason::Closed => format!("{group} was closed{detail}"),
            LeftReason::Deleted => format!("{group} was deleted{detail}"),
            LeftReason::Forbidden => format!("you may not be in {group} any more{detail}"),
            _ => format!("your membership of {group} ended{detail}"),
        };
        self.events.push(Event::Problem(problem));
    }

    fn message(&mut self, line: Line, id: Option<&str>) {
        let Some(membership) = self.groups.get_mut(&line.group) else { return };
        let epoch = membership.position().map(|position| position.epoch);
        let is_behind = membership.seen_of_known().is_some_and(|(seen, known)| seen < known);
        match membership.arrived(line.seq) {
            Arrival::Repeat => return,
            Arrival::Next => {}
            Arrival::Gap { first, last } => {
                self.events.push(Event::Missing { group: line.group.clone(), first, last });
            }
        }
        self.progress |= is_behind;
        self.moved = true;
        // A message is seen only once it is in the log: that is an answer, and the only one if the connection broke.
        if let Some(id) = id.filter(|_| self.identity.known.as_ref() == Some(&line.sender)) {
            let post = self.outbox.stored(id);
            self.progress |= post.is_some();
            if let (Some(post), Some(epoch)) = (post, epoch) {
                self.stored(&post, Place { epoch, seq: line.seq });
            }
        }
        let group = line.group.clone();
        self.events.push(Event::Message(line));
        self.caught_up(&group);
    }
}
