//! What a connection is in its group, and what it makes of what it hears.

use crate::check::{Seen, Verdict};
use crate::driver::{After, Event, Head, Sink};
use crate::pace::Window;
use crate::payload::NO_SLOT;
use crate::plan::{Plan, Role};
use crate::shared::{Phase, Shared};
use crate::tally::Tally;

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Closed,
    Connecting,
    /// It has said who it is, and waits to be ready.
    Opening,
    Ready,
    /// It asked to leave.
    Leaving,
}

/// Something to be done on a connection, found while its bytes were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    Pong(usize),
    Ready(usize),
    Left(usize),
    History(usize),
}

/// From so long after it came back, a member must be told what is posted: far longer than a server takes to see to a join that it does
/// not answer.
const BACK: u64 = 2_000_000_000;

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) group: u32,
    pub(crate) place: u32,
    pub(crate) role: Role,
    /// Which poster of its group it is.
    pub(crate) poster: Option<u16>,
    pub(crate) state: State,
    pub(crate) joined: bool,
    /// Groups in which nobody posts, of which it is not told yet that it is in them.
    pub(crate) joining: usize,
    /// Since when it has been coming back.
    pub(crate) away_since: Option<u64>,
    seen: Seen,
    /// Its group, where it was told of it.
    pub(crate) head: Option<Head>,
    /// The newest message of its group before this run: what is older is not ours.
    floor: u64,
    /// The history that it reads.
    catching_up: Option<CatchUp>,
    /// When it asked to be let in again, where it is not told what it missed.
    pub(crate) back_since: Option<u64>,
}

/// History that was asked for.
#[derive(Debug, Clone, Copy)]
struct CatchUp {
    /// It begins after this message.
    after: u64,
    /// It is over with this message, which is known once the join is answered.
    last: Option<u64>,
    /// There was none yet at the join: the next message will do.
    is_empty: bool,
    /// When it was asked for.
    since: u64,
}

/// The connections of a thread.
pub(super) fn of_thread(plan: &Plan, thread: usize) -> Vec<Member> {
    let mut members = Vec::new();
    let member = |group, place, role, poster| Member {
        group,
        place,
        role,
        poster,
        state: State::Closed,
        joined: false,
        joining: 0,
        away_since: None,
        seen: Seen::from_the_start(if role == Role::Outside { 0 } else { plan.posters.into() }),
        head: None,
        floor: 0,
        catching_up: None,
        back_since: None,
    };
    for group in 0..plan.groups {
        if plan.outside && plan.home(group) == thread {
            members.extend((0..plan.posters).map(|poster| member(group, u32::MAX, Role::Outside, Some(poster))));
        }
        let here = (0..plan.members).filter(|place| plan.thread_of(group, *place) == thread);
        members.extend(here.map(|place| member(group, place, plan.role(place), plan.poster(place))));
    }
    members
}

impl Member {
    pub(super) fn is_connecting(&self) -> bool {
        self.state == State::Connecting
    }

    /// Whether it must have all messages in the end.
    pub(super) fn is_awaited(&self, slow_too: bool) -> bool {
        match self.role {
            Role::Member | Role::Churner => true,
            Role::Slow => slow_too,
            Role::Laggard | Role::Outside => false,
        }
    }

    /// How many messages it must still see; at least those. Who came back to what is new must see all from the first that comes, and one
    /// if the group was posted to long after.
    pub(super) fn missing(&self, shared: &Shared) -> u64 {
        let of = |poster: u16| self.seen.missing(poster.into(), shared.sent(self.group, poster));
        (0..shared.plan.posters).map(of).sum::<u64>() + u64::from(self.is_forgotten(shared))
    }

    /// Whether it came back and its group was posted to, and it has seen nothing.
    pub(super) fn is_forgotten(&self, shared: &Shared) -> bool {
        let since = self.back_since.filter(|_| self.seen.is_blank());
        since.is_some_and(|since| shared.last_post(self.group) >= since + BACK)
    }

    pub(super) fn story(&self) -> Option<(u64, u64)> {
        (self.role == Role::Member).then(|| self.seen.story())?
    }

    /// The place in the group's messages where it can go on.
    pub(super) fn last_seq(&self) -> Option<u64> {
        self.seen.last_seq()
    }

    /// It goes away, and comes back to what it missed, or, without history, to what is new.
    pub(super) fn goes_away(&mut self, now: u64, has_history: bool) {
        self.joined = false;
        self.away_since = Some(now);
        if !has_history {
            self.seen.restart(None);
            self.back_since = None;
        }
    }

    /// Whether it went away, and is not back, though its connection was not closed on it.
    pub(super) fn is_away(&self) -> bool {
        self.away_since.is_some() && self.state != State::Closed
    }

    /// It has asked for the messages after this one.
    pub(super) fn reads_from(&mut self, after: u64, now: u64) {
        self.catching_up = Some(CatchUp { after, last: None, is_empty: false, since: now });
    }

    /// So many messages back, as far as they are of this run: where it begins to read.
    pub(super) fn back(&self, depth: u64) -> Option<After> {
        let head = self.head?;
        let newest = self.last_seq().unwrap_or(head.seq);
        Some(After { seq: newest.saturating_sub(depth).max(self.floor), epoch: head.epoch })
    }

    /// Whether it asked for history, and has not got all of it.
    pub(super) fn lacks_history(&self) -> bool {
        self.catching_up.is_some_and(|catch_up| !catch_up.is_empty)
    }

    /// The server does not keep the history up to here. Answers whether it was reading that.
    fn on_lagged(&mut self, last: u64) -> bool {
        let Some(CatchUp { last: Some(end), is_empty, .. }) = &mut self.catching_up else { return false };
        *is_empty |= *end <= last;
        self.seen.restart(Some(last));
        true
    }

    fn on_joined(&mut self, head: Option<Head>) {
        let Some(new) = head else { return };
        match (&mut self.catching_up, self.head) {
            (Some(catch_up), _) => {
                self.seen.restart(Some(catch_up.after));
                // Where there is no history yet, the next message will do.
                catch_up.last = Some(new.seq.max(catch_up.after + 1));
                catch_up.is_empty = new.seq <= catch_up.after;
            }
            // The first message after the join must be the next one.
            (None, None) => {
                self.seen.resume_at(new.seq + 1);
                self.floor = new.seq;
            }
            // It comes back, and goes on after what it has seen.
            (None, Some(_)) => {}
        }
        self.head = Some(new);
    }

    /// If this message ends the history that was asked for: when that was.
    fn caught_up(&mut self, seq: u64) -> Option<u64> {
        let catch_up = self.catching_up.filter(|catch_up| catch_up.last.is_some_and(|last| seq >= last))?;
        self.catching_up = None;
        Some(catch_up.since)
    }
}

/// What listens to a connection's bytes.
pub(super) struct Ears<'a> {
    pub(super) member: &'a mut Member,
    pub(super) index: usize,
    pub(super) tally: &'a mut Tally,
    pub(super) shared: &'a Shared,
    pub(super) window: Option<&'a mut Window>,
    pub(super) others_done: &'a mut [Vec<u32>],
    pub(super) wants: &'a mut Vec<Want>,
    /// When the bytes came.
    pub(super) now: u64,
}

impl Sink for Ears<'_> {
    fn message(&mut self, text: &[u8], seq: Option<u64>) {
        let (member, shared, faults) = (&mut *self.member, self.shared, &mut self.tally.faults);
        let stamp = match shared.format.read(text) {
            Ok(stamp) if stamp.group == member.group && (shared.began..=self.now).contains(&stamp.at) => stamp,
            Ok(stamp) if stamp.group == member.group => {
                faults.foreign += 1;
                faults.say(|| "a message of another run in a group of this one; choose another --prefix".to_owned());
                return;
            }
            _ => {
                faults.foreign += 1;
                faults
                    .say(|| format!("not a message of ours: {}", String::from_utf8_lossy(&text[..text.len().min(80)])));
                return;
            }
        };
        if stamp.probe {
            if !member.joined {
                member.joined = true;
                self.wants.push(Want::Ready(self.index));
            }
            return;
        }
        let verdict = member.seen.post(stamp.poster, stamp.number);
        let numbered = seq.map_or(Verdict::Next, |seq| member.seen.seq(seq));
        match verdict {
            Verdict::Next if numbered != Verdict::Next => {
                faults.misnumbered += 1;
                faults.say(|| format!("seq {} of group {}: {numbered:?}", seq.unwrap_or(0), member.group));
            }
            Verdict::Next => {}
            Verdict::After(count) => {
                faults.missing += count;
                faults.say(|| {
                    format!(
                        "group {}, place {}: {count} messages before {stamp:?} are missing",
                        member.group, member.place
                    )
                });
            }
            Verdict::Again => {
                faults.repeated += 1;
                faults.say(|| {
                    format!("group {}, place {}: {stamp:?} came again or too late", member.group, member.place)
                });
                return;
            }
        }
        if member.role == Role::Member {
            self.tally.deliveries += 1;
            if shared.is_measured(stamp.at) {
                self.tally.latency.saturating_record(self.now.saturating_sub(stamp.at) / 1_000);
            }
        } else {
            self.tally.late_deliveries += 1;
        }
        if let Some(since) = seq.and_then(|seq| member.caught_up(seq)) {
            if shared.is_measured(since) {
                self.tally.catchups.saturating_record(self.now.saturating_sub(since) / 1_000);
            }
            self.wants.push(Want::History(self.index));
        }
        if stamp.slot != NO_SLOT && shared.plan.watches(member.place, stamp.poster) && shared.remaining.seen(stamp.slot)
        {
            match &mut self.window {
                Some(window) if window.owns(stamp.slot) => window.give_back(stamp.slot),
                _ => self.others_done[shared.plan.home(stamp.group)].push(stamp.slot),
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Ready => {
                if self.member.role == Role::Outside {
                    self.wants.push(Want::Ready(self.index));
                }
            }
            Event::Joined(head) => {
                if self.member.role != Role::Outside {
                    self.member.on_joined(head);
                    if !std::mem::replace(&mut self.member.joined, true) && self.member.joining == 0 {
                        self.wants.push(Want::Ready(self.index));
                    }
                }
            }
            Event::JoinedQuiet => {
                self.member.joining = self.member.joining.saturating_sub(1);
                if self.member.joining == 0 && self.member.joined {
                    self.wants.push(Want::Ready(self.index));
                }
            }
            Event::Left => self.wants.push(Want::Left(self.index)),
            Event::Acked => self.tally.acks += 1,
            Event::Ping => self.wants.push(Want::Pong(self.index)),
            // As deep as a reader wants to go may be deeper than what is kept.
            Event::Dropped { last: Some(last), .. } if self.member.on_lagged(last) => {}
            Event::Dropped { count, .. } => {
                self.tally.faults.told_lost += count;
                self.tally.faults.say(|| format!("the server says that it lost {count} messages"));
            }
            // A probe may come before the first join.
            Event::Refused(text) if self.shared.phase() == Phase::Probe && text.ends_with("does not exist") => {}
            Event::Refused(text) => {
                self.tally.faults.refused += 1;
                if self.shared.phase() <= Phase::Probe {
                    self.shared.fail(format!("the server refused: {text}"));
                }
                self.tally.faults.say(|| format!("the server refused: {text}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn churner() -> Member {
        let arguments = ["loadgen", "churn", "--groups", "1", "--members", "2"];
        let crate::args::Command::Churn(load) = <crate::args::Cli as clap::Parser>::parse_from(arguments).command
        else {
            panic!("not what was asked for");
        };
        let plan = Plan::new(crate::args::Scenario::Churn, &load).unwrap();
        of_thread(&plan, 0).into_iter().find(|member| member.role == Role::Churner).unwrap()
    }

    #[test]
    fn who_does_not_come_back_is_away_until_its_connection_is_closed() {
        let mut member = churner();
        (member.state, member.joined) = (State::Ready, true);
        assert!(!member.is_away());
        member.goes_away(7, false);
        for state in [State::Connecting, State::Opening, State::Leaving, State::Ready] {
            member.state = state;
            assert!(member.is_away(), "{state:?}");
        }
        member.state = State::Closed;
        assert!(!member.is_away(), "that is counted as closed");
    }
}
