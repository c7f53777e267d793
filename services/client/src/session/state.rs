//! The session without its connection: lines of the server, commands and the clock go in; lines for the server and
//! events for the screen come out. Pure, so that every order of events can be tested without a socket.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tertulia_protocol::codec;
use tertulia_protocol::extended::{FromClient, Limits, Post};

use super::connection::LONGEST_LINE;
use super::event::Event;
use super::membership::{From, Membership};
use super::outbox::{Next, Outbox, Pending, Window};
use super::query::{MOST_HISTORY, Queries, Query};
use crate::bookmarks::Places;
use crate::input::Command;

mod frames;
mod identity;
mod open;
mod own;
mod refusal;

use identity::Identity;
pub(crate) use open::Unanswered;
use open::{not_posted, unknown};
use own::Own;
pub(crate) use refusal::Refusal;

/// Posts in flight at once in a group, on a server without a limit of posts. One that has a limit refuses a post now and
/// then and takes the next; there, only one of all is in flight, so that they keep their order.
const WINDOW: usize = 256;
/// No server is believed to send longer lines than that.
const LONGEST_LINE_BELIEVED: u64 = 1024 * 1024 * 1024;

/// How far the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// There is none.
    Offline,
    /// `Hello` was sent.
    Greeting,
    /// `Welcome` came.
    Online,
    /// The server is about to close the connection: what is in flight is waited for, nothing new is sent.
    Departing,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct State {
    identity: Identity,
    phase: Phase,
    was_online: bool,
    groups: BTreeMap<String, Membership>,
    outbox: Outbox,
    /// The post of each group that was typed last.
    own: BTreeMap<String, Own>,
    queries: Queries,
    limits: Limits,
    heartbeat: Option<Duration>,
    /// Why the server is about to close the connection.
    departure: String,
    reconnect_after: Option<Duration>,
    failures: u64,
    progress: bool,
    /// How far groups were seen that are not joined, or not any more.
    places: Places,
    /// How far those were seen in an earlier run that were not joined in this one yet.
    resume: Places,
    /// Whether one was seen further.
    moved: bool,
    wire: Vec<u8>,
    events: Vec<Event>,
}

impl State {
    /// A session that is not connected yet. `random` makes the ids of its posts differ from all others; `places` is how far
    /// an earlier one had seen.
    pub(crate) fn new(user: Option<String>, random: u64, places: Places) -> Self {
        Self {
            identity: Identity::new(user),
            phase: Phase::Offline,
            was_online: false,
            groups: BTreeMap::new(),
            outbox: Outbox::new(random),
            own: BTreeMap::new(),
            queries: Queries::default(),
            limits: Limits::default(),
            heartbeat: None,
            departure: String::new(),
            reconnect_after: None,
            failures: 0,
            progress: false,
            resume: places.clone(),
            places,
            moved: false,
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

    /// Why the server is about to close the connection, if it is.
    pub(crate) fn departure(&self) -> Option<&str> {
        (self.phase == Phase::Departing).then_some(&*self.departure)
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

    /// Whether the server is about to close the connection and nothing is waited for any more: it can be closed.
    pub(crate) fn has_departed(&self) -> bool {
        self.phase == Phase::Departing && self.outbox.nothing_in_flight()
    }

    /// Whether another command may come. While this is false the person waits, so that nothing grows without bound.
    pub(crate) fn has_room(&self) -> bool {
        !self.outbox.is_full() && !self.queries.is_full()
    }

    /// Whether something came of what was asked for, since the last time.
    pub(crate) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }

    /// Whether a group was seen further than when [`State::places`] was asked last.
    pub(crate) fn has_moved(&self) -> bool {
        self.moved
    }

    /// How far each group was seen.
    pub(crate) fn places(&mut self) -> &Places {
        self.moved = false;
        self.keep_places();
        &self.places
    }

    fn keep_places(&mut self) {
        let positions = self.groups.iter().filter_map(|(group, m)| Some((group.clone(), m.position()?)));
        self.places.extend(positions);
    }

    /// Keeps how far a group was seen that may be forgotten now.
    fn keep_place(&mut self, group: &str) {
        let position = self.groups.get(group).and_then(Membership::position);
        self.places.extend(position.map(|position| (group.to_owned(), position)));
    }

    /// How long the lines of this server may be: a message is in one, however its characters are escaped.
    pub(crate) fn longest_line(&self) -> usize {
        let Limits { message_bytes, line_bytes, .. } = self.limits;
        let message = if message_bytes > 0 { message_bytes } else { line_bytes };
        let escaped = message.saturating_mul(6).saturating_add(4 * 1024).min(LONGEST_LINE_BELIEVED);
        usize::try_from(escaped).unwrap_or(usize::MAX).max(LONGEST_LINE)
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
        codec::encode(&FromClient::Hello(self.identity.hello()), &mut self.wire);
    }

    /// The connection ended, or could not be made.
    pub(crate) fn disconnected(&mut self, now: Instant) {
        self.phase = Phase::Offline;
        self.wire.clear();
        self.keep_places();
        self.groups.retain(|_, membership| membership.disconnected());
        self.queries.disconnected();
        for post in self.outbox.disconnected(now) {
            self.give_up(&post);
        }
        self.leave_where_due();
    }

    /// Time went by.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.pump(now);
    }

    /// The machine was asleep, which its steady clock did not count.
    pub(crate) fn slept(&mut self, time: Duration) {
        self.outbox.slept(time);
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
            Command::Leave { group } => self.leave(&group),
            Command::Post { group, text } => self.post(group, text),
            Command::Members { group } => self.ask(Query::Members { group }),
            Command::Groups { prefix } => self.ask(Query::Groups { prefix }),
            Command::History { group, count } => {
                if count > MOST_HISTORY {
                    self.note(format!("only the newest {MOST_HISTORY} messages of {group}: no more are shown at once"));
                }
                self.ask(Query::History { group, count: count.min(MOST_HISTORY) });
            }
            Command::Remove { group, seq } => self.take_back(group, seq),
            Command::Help => self.events.push(Event::Help),
            Command::Quit => {}
        }
        self.pump(now);
    }

    fn join(&mut self, group: String, last: Option<u64>) {
        // Until the group is joined: a join that is refused, or left before its answer, has seen nothing of it.
        let from = match (last, self.resume.get(&group)) {
            (Some(last), _) => From::Last(last),
            (None, Some(position)) => From::After(*position),
            (None, None) => From::Now,
        };
        match self.groups.get_mut(&group) {
            None => {
                self.groups.insert(group, Membership::new(from));
            }
            Some(membership) if membership.is_leaving() => membership.ask(from),
            Some(membership) => match last {
                Some(last) => membership.ask_later(last),
                None if membership.is_asking() => self.note(format!("already joining {group}")),
                None => self.note(format!("you are a member of {group}")),
            },
        }
    }

    /// Posts that were typed before are answered first, since they may need the membership.
    fn leave(&mut self, group: &str) {
        let number = self.outbox.last_number();
        let is_member = self.groups.get_mut(group).is_some_and(|membership| membership.leave_after(number));
        if !is_member {
            self.fail(format!("you are not a member of {group}"));
        }
    }

    fn ask(&mut self, query: Query) {
        self.queries.push(query, self.outbox.last_number());
    }

    /// Writes what can be sent now: joins before posts, since those may need them.
    fn pump(&mut self, now: Instant) {
        self.leave_where_due();
        if self.phase != Phase::Online {
            return;
        }
        for (group, membership) in &mut self.groups {
            if let Some(join) = membership.next_join(group, now) {
                codec::encode(&FromClient::Join(join), &mut self.wire);
            }
        }
        self.send_posts(now);
        self.drop_unposted();
        let outbox = &self.outbox;
        if let Some(line) = self.queries.next_line(|group, number| outbox.has_before(group, number)) {
            codec::encode(&line, &mut self.wire);
        }
    }

    /// Leaves the groups that are to be left and of which no earlier post waits.
    fn leave_where_due(&mut self) {
        // What a server that goes away does not take any more is left with the connection.
        if self.phase == Phase::Departing {
            return;
        }
        let outbox = &self.outbox;
        let is_due = |group: &str, number| !outbox.has_before(group, number);
        let due = self.groups.iter().filter(|(group, m)| m.leaves_after().is_some_and(|number| is_due(group, number)));
        let due: Vec<String> = due.map(|(group, _)| group.clone()).collect();
        for group in due {
            self.keep_place(&group);
            let Some(membership) = self.groups.get_mut(&group) else { continue };
            if membership.leave() {
                codec::encode(&FromClient::Leave { group_name: group.into() }, &mut self.wire);
                continue;
            }
            if !membership.is_of_use() {
                self.groups.remove(&group);
            }
            self.note(format!("left {group}"));
        }
    }

    fn send_posts(&mut self, now: Instant) {
        let window = if self.limits.posts_per_second > 0 { Window::One } else { Window::OfEach(WINDOW) };
        let groups = &self.groups;
        // What may be in the log is looked for in the stream first; what was typed after a `leave` goes after it, and what
        // needs a join that was refused for now after that.
        let may_go = |post: &Pending| {
            groups.get(&post.group).is_none_or(|membership| {
                let is_of_before = membership.leaves_after().is_none_or(|number| post.number <= number);
                let is_sought = post.is_in_doubt() && membership.is_resuming();
                is_of_before && !is_sought && !membership.is_put_off()
            })
        };
        let mut failed = Vec::new();
        while let Some(next) = self.outbox.next(now, window, may_go) {
            let post = match next {
                Next::Send(post) => post,
                Next::Forgotten(post) => {
                    failed.push(unknown(&post));
                    continue;
                }
            };
            let before = self.wire.len();
            let id = Some((&post.id).into());
            let line = Post { group_name: (&post.group).into(), message: (&post.text).into(), id, traceparent: None };
            codec::encode(&FromClient::Post(line), &mut self.wire);
            // A line over the limit would cost the connection, again and again.
            let bytes = (self.wire.len() - before - 1) as u64;
            let max = self.limits.line_bytes;
            if max > 0 && bytes > max {
                self.wire.truncate(before);
                let why = format!("a line has at most {max} bytes on this server, this one has {bytes}");
                failed.push(not_posted(post, &why));
                let id = post.id.clone();
                self.outbox.take(&id);
            }
        }
        for problem in failed {
            self.fail(problem);
        }
    }

    fn give_up(&mut self, post: &Pending) {
        self.fail(unknown(post));
    }

    fn note(&mut self, text: String) {
        self.events.push(Event::Note(text));
    }
}

#[cfg(test)]
mod tests;
