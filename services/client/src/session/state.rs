//! The session without its connection: lines of the server, commands and the clock go in; lines for the server and
//! events for the screen come out. Pure, so that every order of events can be tested without a socket.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tertulia_protocol::extended::{FromClient, FromServer, Hello, Joined, Left, LeftReason, Limits, Post, Welcome};
use tertulia_protocol::{VERSION, codec};

use super::backoff;
use super::event::{Event, Line};
use super::membership::{Arrival, From, Membership};
use super::outbox::{Outbox, Pending};
use super::query::{MOST_HISTORY, Queries, Query};
use crate::input::Command;

mod refusal;

pub(crate) use refusal::Refusal;

/// Posts in flight at once on a server without a limit of posts. One that has a limit may refuse a post and take the
/// next; there, only one is in flight, so that they keep their order.
const WINDOW: usize = 256;

/// How far the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// There is none.
    Offline,
    /// `Hello` was sent.
    Greeting,
    /// `Welcome` came.
    Online,
    /// The server is about to stop: what is in flight is waited for, nothing new is sent.
    Departing,
}

/// Who the person is.
#[derive(Debug, Default)]
struct Identity {
    /// As asked for; `None` for a guest.
    asked: Option<String>,
    /// As the server said. A guest asks for the same name again, since ids of posts belong to a user.
    known: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct State {
    identity: Identity,
    phase: Phase,
    was_online: bool,
    groups: BTreeMap<String, Membership>,
    outbox: Outbox,
    queries: Queries,
    limits: Limits,
    heartbeat: Option<Duration>,
    reconnect_after: Option<Duration>,
    failures: u64,
    wire: Vec<u8>,
    events: Vec<Event>,
}

impl State {
    /// A session that is not connected yet. `random` makes the ids of its posts differ from all others.
    pub(crate) fn new(user: Option<String>, random: u64) -> Self {
        Self {
            identity: Identity { asked: user, known: None },
            phase: Phase::Offline,
            was_online: false,
            groups: BTreeMap::new(),
            outbox: Outbox::new(random),
            queries: Queries::default(),
            limits: Limits::default(),
            heartbeat: None,
            reconnect_after: None,
            failures: 0,
            wire: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Bytes for the server, to be taken out by the caller.
    pub(crate) fn wire(&mut self) -> &mut Vec<u8> {
        &mut self.wire
    }

    /// Takes what is to be shown.
    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Shows something that comes from elsewhere.
    pub(crate) fn show(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Something that was asked for did not happen, and the person is told why.
    pub(crate) fn fail(&mut self, problem: String) {
        self.failures += 1;
        self.events.push(Event::Problem(problem));
    }

    /// How often something that was asked for did not happen.
    pub(crate) fn failures(&self) -> u64 {
        self.failures
    }

    /// The name the server knows the person by.
    pub(crate) fn user(&self) -> Option<&str> {
        self.identity.known.as_deref()
    }

    /// Whether a connection is past its greeting.
    pub(crate) fn is_online(&self) -> bool {
        self.phase == Phase::Online
    }

    /// Whether the server is about to stop.
    pub(crate) fn is_departing(&self) -> bool {
        self.phase == Phase::Departing
    }

    /// Whether there ever was a `Welcome`.
    pub(crate) fn was_online(&self) -> bool {
        self.was_online
    }

    /// The heartbeat that the server of this connection told, once.
    pub(crate) fn take_heartbeat(&mut self) -> Option<Duration> {
        self.heartbeat.take()
    }

    /// The wait that a server that goes away asked for, once.
    pub(crate) fn take_reconnect_after(&mut self) -> Option<Duration> {
        self.reconnect_after.take()
    }

    /// Whether the server goes away and nothing is waited for any more: the connection can be closed.
    pub(crate) fn has_departed(&self) -> bool {
        self.phase == Phase::Departing && self.outbox.nothing_in_flight()
    }

    /// Whether another command may come. While this is false the person waits, so that nothing grows without bound.
    pub(crate) fn has_room(&self) -> bool {
        !self.outbox.is_full() && !self.queries.is_full()
    }

    /// Whether all that was asked for was answered, and all that is known to be there was shown.
    pub(crate) fn is_settled(&self) -> bool {
        self.outbox.is_empty() && self.queries.is_empty() && self.groups.values().all(Membership::is_settled)
    }

    /// How many posts were not answered.
    pub(crate) fn unanswered(&self) -> usize {
        self.outbox.len()
    }

    /// When [`State::tick`] is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.phase != Phase::Online {
            return None;
        }
        self.groups.values().filter_map(Membership::deadline).chain(self.outbox.deadline()).min()
    }

    /// A connection was made.
    pub(crate) fn connected(&mut self) {
        self.phase = Phase::Greeting;
        self.wire.clear();
        let user = self.identity.asked.as_deref().or(self.identity.known.as_deref());
        let hello = Hello { version: VERSION, user: user.map(Into::into), ..Hello::default() };
        codec::encode(&FromClient::Hello(hello), &mut self.wire);
    }

    /// The connection ended, or could not be made.
    pub(crate) fn disconnected(&mut self) {
        self.phase = Phase::Offline;
        self.wire.clear();
        self.groups.retain(|_, membership| membership.disconnected());
        self.queries.disconnected();
        for post in self.outbox.disconnected() {
            self.give_up(&post);
        }
    }

    /// Time went by.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.pump(now);
    }

    /// The server was silent for long.
    pub(crate) fn ping(&mut self) {
        if matches!(self.phase, Phase::Online | Phase::Departing) {
            codec::encode(&FromClient::Ping {}, &mut self.wire);
        }
    }

    /// A command came. The caller asks [`State::has_room`] first.
    pub(crate) fn command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Join { group, last } => self.join(group, last),
            Command::Leave { group } => self.leave(group),
            Command::Post { group, text } => self.outbox.push(group, text),
            Command::Members { group } => self.queries.push(Query::Members { group }),
            Command::Groups { prefix } => self.queries.push(Query::Groups { prefix }),
            Command::History { group, count } => {
                self.queries.push(Query::History { group, count: count.clamp(1, MOST_HISTORY) });
            }
            Command::Help => self.events.push(Event::Help),
            Command::Quit => {}
        }
        self.pump(now);
    }

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
                let line = Line {
                    seq: message.seq,
                    at: message.at,
                    group: message.group_name.into_owned(),
                    sender: message.sender.into_owned(),
                    text: message.message.into_owned(),
                };
                self.message(line);
            }
            FromServer::Lagged(lagged) => {
                let news = self.groups.get_mut(&*lagged.group_name).and_then(|m| m.lagged(lagged.first, lagged.last));
                if let Some((first, last)) = news {
                    self.events.push(Event::Missing { group: lagged.group_name.into_owned(), first, last });
                }
            }
            FromServer::Posted(posted) => {
                let known = posted.id.and_then(|id| self.outbox.take(&id)).is_some();
                match self.groups.get_mut(&*posted.group_name) {
                    Some(membership) if known => membership.posted(posted.epoch, posted.seq),
                    None if known => self.note(format!("posted to {}, where you are no member", posted.group_name)),
                    _ => {}
                }
            }
            FromServer::History(page) => self.queries.history(page, &mut self.events),
            FromServer::Members(page) => self.queries.members(page, &mut self.events),
            FromServer::Groups(page) => self.queries.groups(page, &mut self.events),
            FromServer::Ping {} => codec::encode(&FromClient::Pong {}, &mut self.wire),
            FromServer::GoingAway(away) => {
                self.phase = Phase::Departing;
                self.reconnect_after = Some(backoff::asked(away.reconnect_after_ms));
                self.note(format!("the server is going away: {}", away.reason));
            }
            FromServer::Rejected(rejected) => self.rejected(&rejected, now),
            FromServer::Error(text) => self.events.push(Event::Problem(text.into_owned())),
            FromServer::Welcome(_) | FromServer::Pong {} => {}
        }
        Ok(())
    }

    fn welcome(&mut self, welcome: Welcome<'_>) {
        self.phase = Phase::Online;
        self.limits = welcome.limits;
        self.heartbeat = Some(Duration::from_millis(welcome.heartbeat));
        let user = welcome.user.into_owned();
        let again = if self.was_online { " again" } else { "" };
        self.note(format!("connected{again} to {} as {user}", welcome.server));
        self.was_online = true;
        self.identity.known = Some(user);
    }

    fn joined(&mut self, joined: &Joined<'_>) {
        let group = &*joined.group_name;
        let Some(membership) = self.groups.get_mut(group) else { return };
        if membership.is_of_before() {
            return;
        }
        if membership.joined(joined) {
            self.note(format!("{group} began anew: what was seen before is not part of it"));
        }
        let (members, head) = (joined.members, joined.head);
        let people = if members == 1 { "you alone".to_owned() } else { format!("{members} members") };
        self.note(format!("joined {group}: {people}, {head} messages so far"));
    }

    fn left(&mut self, left: &Left<'_>) {
        let group = &*left.group_name;
        let Some(membership) = self.groups.get_mut(group) else { return };
        if !membership.left() || left.reason != LeftReason::Leave {
            self.groups.remove(group);
        }
        let detail = left.detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
        let problem = match left.reason {
            LeftReason::Leave => return self.note(format!("left {group}")),
            LeftReason::Kicked => format!("you were kicked from {group}{detail}"),
            LeftReason::Banned => format!("you were banned from {group}{detail}"),
            LeftReason::Closed => format!("{group} was closed{detail}"),
            LeftReason::Deleted => format!("{group} was deleted{detail}"),
            _ => format!("your membership of {group} ended{detail}"),
        };
        self.events.push(Event::Problem(problem));
    }

    fn message(&mut self, line: Line) {
        let Some(membership) = self.groups.get_mut(&line.group) else { return };
        match membership.arrived(line.seq) {
            Arrival::Repeat => return,
            Arrival::Next => {}
            Arrival::Gap { first, last } => {
                self.events.push(Event::Missing { group: line.group.clone(), first, last });
            }
        }
        self.events.push(Event::Message(line));
    }

    fn join(&mut self, group: String, last: Option<u64>) {
        let from = last.map_or(From::Now, From::Last);
        match self.groups.get_mut(&group) {
            None => {
                self.groups.insert(group, Membership::new(from));
            }
            Some(membership) if membership.is_leaving() => membership.ask(from),
            Some(membership) if membership.is_asking() => self.note(format!("already joining {group}")),
            Some(_) if last.is_none() => self.note(format!("you are a member of {group}")),
            Some(membership) => membership.ask(from),
        }
    }

    fn leave(&mut self, group: String) {
        let Some(membership) = self.groups.get_mut(&group) else {
            return self.fail(format!("you are not a member of {group}"));
        };
        if self.phase == Phase::Online {
            membership.leave();
            codec::encode(&FromClient::Leave { group_name: group.into() }, &mut self.wire);
        } else {
            self.groups.remove(&group);
            self.note(format!("left {group}"));
        }
    }

    /// Writes what can be sent now: joins first, since posts may need them.
    fn pump(&mut self, now: Instant) {
        if self.phase != Phase::Online {
            return;
        }
        for (group, membership) in &mut self.groups {
            if let Some(join) = membership.next_join(group, now) {
                codec::encode(&FromClient::Join(join), &mut self.wire);
            }
        }
        let window = if self.limits.posts_per_second > 0 { 1 } else { WINDOW };
        while let Some(post) = self.outbox.next(now, window) {
            let before = self.wire.len();
            let id = Some((&post.id).into());
            let line = Post { group_name: (&post.group).into(), message: (&post.text).into(), id, traceparent: None };
            codec::encode(&FromClient::Post(line), &mut self.wire);
            // A line over the limit would cost the connection, again and again.
            let bytes = (self.wire.len() - before - 1) as u64;
            if self.limits.line_bytes > 0 && bytes > self.limits.line_bytes {
                self.wire.truncate(before);
                let (id, max) = (post.id.clone(), self.limits.line_bytes);
                self.outbox.take(&id);
                self.fail(format!("not posted: a line has at most {max} bytes on this server, this one has {bytes}"));
            }
        }
        if let Some(line) = self.queries.next_line() {
            codec::encode(&line, &mut self.wire);
        }
    }

    fn give_up(&mut self, post: &Pending) {
        let start: String = post.text.chars().take(40).collect();
        self.fail(format!("it is unknown whether this was posted to {}: {start}", post.group));
    }

    fn note(&mut self, text: String) {
        self.events.push(Event::Note(text));
    }
}

#[cfg(test)]
mod tests;
