//! What the person types, when it is taken, and the end that it brings about.

use std::time::{Duration, Instant};

use super::{Ended, Error, Outcome, Session};
use crate::input::{Command, Typed};

/// How often a script that has no connection looks whether its input has ended.
const LOOK: Duration = Duration::from_secs(1);

impl Session<'_> {
    /// Whether the session is over: the input has ended, and there is nothing left to wait for or no time left to.
    pub(super) fn is_over(&self, flushed: bool) -> Option<Ended> {
        let Some(give_up) = self.give_up else {
            return (flushed && self.follows_nothing()).then_some(Err(Error::NoGroup));
        };
        let failures = self.state.failures();
        let settled = match self.options.interactive {
            // Who asks to leave waits for nothing but the fate of what was posted.
            true => !self.state.has_unanswered(),
            false => self.state.is_settled() && self.state.was_online(),
        };
        if settled && flushed {
            let failed = failures > 0 && !self.options.interactive;
            return Some(if failed { Err(Error::Failures(failures)) } else { Ok(Outcome::Done) });
        }
        (Instant::now() >= give_up).then(|| {
            Err(match self.state.unanswered() {
                Some(posts) => Error::Unanswered(posts),
                None => Error::Late(self.state.open()),
            })
        })
    }

    /// Whether it stays to follow groups, and is in none and never will be: to whoever looks after it, it would seem well.
    pub(super) fn follows_nothing(&self) -> bool {
        let is_commanded = self.options.commands && !self.input_ended;
        let is_done = self.state.was_online() && self.state.is_settled();
        self.options.follow && !is_commanded && is_done && self.state.is_in_no_group()
    }

    /// Puts off giving up if something came of what was asked for, or if it may be there and is not read because the screen
    /// is behind.
    pub(super) fn wait_on(&mut self) {
        if self.state.take_progress() || self.screen.is_behind() {
            self.put_off_giving_up();
        }
    }

    pub(super) fn put_off_giving_up(&mut self) {
        self.give_up = self.give_up.map(|_| Instant::now() + self.options.linger);
    }

    /// Scripts are read only while there is a connection: what they want to say meanwhile waits in front of the session,
    /// where whoever runs them can see that it waits. The little that is left once it has ended is taken all the same: else
    /// nothing would end a script to which the server does not come back. At the first attempt that has an end of its own.
    pub(super) fn takes_input(&self) -> bool {
        let is_last = self.comes_back() && self.input.is_closed();
        let ready = self.options.interactive || self.state.is_online() || is_last;
        !self.input_ended && ready && self.state.has_room() && !self.screen.is_behind()
    }

    /// When to look whether there is no more of an input that is not taken for now.
    pub(super) fn look_at_input(&self) -> Option<Instant> {
        let waits = !self.options.interactive && !self.state.is_online() && !self.input_ended;
        (waits && self.comes_back()).then(|| Instant::now() + LOOK)
    }

    pub(super) fn on_typed(&mut self, typed: Option<Typed>) {
        let now = self.now();
        let quits = match typed {
            Some(Typed::Command(Command::Quit)) => true,
            Some(Typed::Command(command)) => return self.state.command(command, now),
            Some(Typed::Mistake(text)) => return self.state.fail(text),
            None => false,
        };
        self.input_ended = true;
        // Who follows stays when the input ends, but not when told to quit.
        if quits || !self.options.follow {
            self.give_up = Some(now + self.options.linger);
        }
    }
}
