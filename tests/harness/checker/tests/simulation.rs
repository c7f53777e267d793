//! Random evenings of a right server are clean; one event changed at random is caught.

use std::sync::Arc;

use super::{EPOCH, GROUP, join, joined, leave, left, message, post, posted, recording, text};
use crate::checker::{GroupLog, check};
use crate::recording::{Dialect, End, Event, Message, Recording};

const EVENINGS: u64 = 300;
const STEPS: usize = 120;

/// A member of a right server, and how far it has seen the group.
struct Member {
    recording: Recording,
    place: Option<usize>,
    posts: usize,
}

/// A right server and its clients, which do what a random number says.
struct Simulation {
    random: fastrand::Rng,
    log: Vec<Arc<Message>>,
    members: Vec<Member>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let members = (0..6).map(|at| {
            let dialect = if at % 3 == 2 { Dialect::Classic } else { Dialect::Extended };
            Member { recording: recording(&format!("m{at}"), dialect, Vec::new()), place: None, posts: 0 }
        });
        Self { random: fastrand::Rng::with_seed(seed), log: Vec::new(), members: members.collect() }
    }

    fn run(mut self) -> (Vec<Recording>, GroupLog) {
        for _ in 0..STEPS {
            let at = self.random.usize(..self.members.len());
            match self.random.u8(..10) {
                0..4 => self.post(at),
                4..8 => self.deliver(at),
                8 => self.join(at),
                _ => self.leave(at),
            }
        }
        for at in 0..self.members.len() {
            let member = &mut self.members[at];
            if self.random.u8(..4) == 0 {
                member.recording.end = End::Cut;
            } else {
                while self.members[at].place.is_some_and(|place| place < self.log.len()) {
                    self.deliver(at);
                }
            }
        }
        let log = GroupLog { group: GROUP.into(), epoch: EPOCH, messages: self.log };
        (self.members.into_iter().map(|member| member.recording).collect(), log)
    }

    fn post(&mut self, at: usize) {
        let member = &mut self.members[at];
        let seq = self.log.len() as u64 + 1;
        // Few different texts, as in real conversations.
        let said = ["yes", "no", "hello", "what?"][self.random.usize(..4)];
        let extended = member.recording.dialect == Dialect::Extended;
        let id = format!("{at}-{}", member.posts);
        let id = (extended && self.random.bool()).then_some(id.as_str());
        member.posts += 1;
        member.recording.events.push(post(said, id));
        let sender = if extended { format!("m{at}") } else { format!("guest-{at}") };
        self.log.push(message(seq, &sender, said, id));
        if extended {
            member.recording.events.push(posted(id, seq));
        }
    }

    fn deliver(&mut self, at: usize) {
        let member = &mut self.members[at];
        let Some(place) = member.place else { return };
        let Some(next) = self.log.get(place) else { return };
        member.place = Some(place + 1);
        member.recording.events.push(match member.recording.dialect {
            Dialect::Classic => text(&next.text),
            Dialect::Extended => Event::Message(Arc::clone(next)),
        });
    }

    fn join(&mut self, at: usize) {
        let head = self.log.len();
        let member = &mut self.members[at];
        let events = &mut member.recording.events;
        if member.recording.dialect == Dialect::Classic {
            events.push(join(None, None));
            member.place = member.place.or(Some(head));
            return;
        }
        let back = self.random.usize(..=head);
        let (ask, place) = match self.random.u8(..3) {
            0 => (join(None, None), member.place.unwrap_or(head)),
            1 => (join(Some((head - back) as u64), None), head - back),
            _ => (join(None, Some(back as u64)), head - back),
        };
        events.extend([ask, joined(head as u64, true)]);
        member.place = Some(place);
    }

    fn leave(&mut self, at: usize) {
        let member = &mut self.members[at];
        if member.recording.dialect == Dialect::Extended && member.place.take().is_some() {
            member.recording.events.extend([leave(), left()]);
        }
    }
}

#[test]
fn a_right_server_is_never_blamed() {
    for seed in 0..EVENINGS {
        let (recordings, log) = Simulation::new(seed).run();
        let verdict = check(&recordings, &[log]);
        assert!(verdict.violations.is_empty(), "seed {seed}: {verdict}");
        assert!(verdict.facts.messages > 0, "seed {seed}");
    }
}

#[test]
fn one_change_in_what_an_extended_member_saw_is_caught() {
    let mut caught = 0;
    for seed in 0..EVENINGS {
        let (mut recordings, log) = Simulation::new(seed).run();
        let mut random = fastrand::Rng::with_seed(seed);
        let Some((at, event)) = pick(&recordings, &mut random) else { continue };
        let events = &mut recordings[at].events;
        let what = match random.u8(..3) {
            0 => {
                events.remove(event);
                "removed"
            }
            1 => {
                events.insert(event, events[event].clone());
                "repeated"
            }
            _ => {
                let Event::Message(seen) = &events[event] else { continue };
                let changed = Message { text: "never said".into(), ..Message::clone(seen) };
                events[event] = Event::Message(Arc::new(changed));
                "changed"
            }
        };
        let verdict = check(&recordings, &[log]);
        assert!(!verdict.violations.is_empty(), "seed {seed}: a message was {what} and nothing was caught");
        caught += 1;
    }
    assert!(caught > EVENINGS / 2);
}

/// A message that a settled extended member saw, while its membership stood to the end.
fn pick(recordings: &[Recording], random: &mut fastrand::Rng) -> Option<(usize, usize)> {
    let settled = recordings
        .iter()
        .enumerate()
        .filter(|(_, recording)| recording.dialect == Dialect::Extended && recording.end == End::Settled);
    let messages: Vec<_> = settled
        .flat_map(|(at, recording)| {
            let start = recording.events.iter().rposition(|event| matches!(event, Event::Joined(_) | Event::Left(_)));
            let start = start.filter(|start| matches!(recording.events[*start], Event::Joined(_)));
            let start = start.unwrap_or(recording.events.len());
            let after = recording.events.iter().enumerate().skip(start);
            after.filter(|(_, event)| matches!(event, Event::Message(_))).map(move |(event, _)| (at, event))
        })
        .collect();
    (!messages.is_empty()).then(|| messages[random.usize(..messages.len())])
}
