//! The extended session: connects, talks, and connects again until all is said.
//!
//! [`state::State`] decides; this file moves bytes and watches the clock. The session ends
//!
//! * when the input has ended (end of file, or `quit`) and everything asked for was answered and shown, at the latest
//!   when nothing came of it for the linger time;
//! * when there is no group left to follow, and no command can come that joins one;
//! * when the server does not let the client in, or a moderator puts it out, or it cannot be reached at the first attempt (a
//!   token that has expired meanwhile ends nothing: its file may be replaced; nor does a server that cannot check a password
//!   just now);
//! * when a connection is lost and reconnecting is off;
//! * on a signal, and when the output is closed.

use std::time::{Duration, Instant, SystemTime};

use tertulia_tls_client::Security;
use tokio::sync::mpsc;
use tokio::time::sleep_until;

use crate::bookmarks::{Bookmarks, Places};
use crate::input::{Command, Typed};
use crate::screen::Screen;
use crate::signals::Signals;
use backoff::Backoff;
use clock::Clock;
use connection::{Connection, Transfer};
use dial::Host;
use event::Event;
use liveness::{Due, Liveness};
use proof::{Proof, Watch};
use state::{Refusal, State};

pub(crate) mod backoff;
mod clock;
pub(crate) mod connection;
pub(crate) mod dial;
mod end;
pub(crate) use end::{Error, Outcome};
pub(crate) mod event;
mod input;
mod liveness;
mod membership;
pub(crate) use membership::Position;
mod outbox;
pub(crate) mod proof;
mod query;
mod state;

/// How long `Welcome` may take, whatever else comes meanwhile.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a server that goes away may take to answer what is in flight.
const DEPARTURE: Duration = Duration::from_secs(10);
/// A connection that held so long after its `Welcome` lets the backoff begin anew.
const HELD: Duration = Duration::from_secs(10);

/// What the session is to do.
#[derive(Debug)]
pub(crate) struct Options {
    /// `HOST:PORT`.
    pub(crate) address: String,
    /// With whom to speak TLS; `None` to speak in the clear.
    pub(crate) security: Option<Security>,
    /// Who to be; `None` for a guest.
    pub(crate) user: Option<String>,
    /// What proves that.
    pub(crate) proof: Option<Proof>,
    /// Groups to join at once.
    pub(crate) join: Vec<String>,
    /// How many of their newest messages to see first, of those that are not in `places`.
    pub(crate) last: Option<u64>,
    /// How far groups were seen in an earlier run.
    pub(crate) places: Places,
    /// Whether to connect again.
    pub(crate) reconnect: bool,
    /// How long to wait after the input ended while nothing comes of what was asked for.
    pub(crate) linger: Duration,
    /// Whether to stay when the input has ended, as long as there is a group to follow.
    pub(crate) follow: bool,
    /// Whether the input has commands, and not texts alone.
    pub(crate) commands: bool,
    /// Whether a person types: then a refusal does not change how the session ends, and commands are taken while there
    /// is no connection.
    pub(crate) interactive: bool,
}

/// The session is over.
type Ended = Result<Outcome, Error>;

/// Runs a session to its end.
pub(crate) async fn run(
    options: Options,
    input: mpsc::Receiver<Typed>,
    signals: &mut Signals,
    screen: &Screen,
    bookmarks: Option<&mut Bookmarks>,
) -> Result<Outcome, Error> {
    let mut state = State::new(options.user.clone(), backoff::random(), options.places.clone());
    for group in &options.join {
        let last = options.last.filter(|_| !options.places.contains_key(group));
        state.command(Command::Join { group: group.clone(), last }, Instant::now());
    }
    let clock = Clock::new(Instant::now(), SystemTime::now());
    let mut session = Session {
        options,
        state,
        input,
        signals,
        screen,
        bookmarks,
        clock,
        give_up: None,
        input_ended: false,
        welcomed: None,
        waits_for_proof: false,
        is_put_off: false,
    };
    let ended = session.run().await;
    session.tell_unanswered(&ended);
    session.show();
    if let Some(bookmarks) = &mut session.bookmarks {
        bookmarks.note(session.state.places(), screen.queued());
    }
    ended
}

struct Session<'a> {
    options: Options,
    state: State,
    input: mpsc::Receiver<Typed>,
    signals: &'a mut Signals,
    screen: &'a Screen,
    bookmarks: Option<&'a mut Bookmarks>,
    clock: Clock,
    /// When to stop waiting for answers, if nothing comes of what was asked for until then.
    give_up: Option<Instant>,
    input_ended: bool,
    /// When `Welcome` came on this connection, or the last one.
    welcomed: Option<Instant>,
    /// Whether the last attempt failed because what the file has proves nothing.
    waits_for_proof: bool,
    /// Whether the server said that the client is to come later.
    is_put_off: bool,
}

impl Session<'_> {
    async fn run(&mut self) -> Ended {
        let mut backoff = Backoff::default();
        let (address, security) = (self.options.address.clone(), self.options.security.clone());
        let mut host = Host::new(address.clone());
        loop {
            if let Err(ended) = self.prove(&mut backoff).await {
                return ended;
            }
            let has_waited_for_proof = std::mem::take(&mut self.waits_for_proof);
            let reason = match self.meanwhile(Connection::open(&mut host, security.as_ref())).await {
                Err(ended) => return ended,
                Ok(Err(source)) if !self.comes_back() => {
                    if host.has_another() {
                        self.try_another(&source.to_string());
                        continue;
                    }
                    return Err(Error::Connect { address, source });
                }
                Ok(Err(source)) => source.to_string(),
                Ok(Ok(mut connection)) => {
                    self.state.connected();
                    self.welcomed = None;
                    let conversation = self.converse(&mut connection).await;
                    host.note(connection.address(), self.welcomed.is_some());
                    // A server that accepts and lets nobody in is none that came back.
                    if self.welcomed.is_some_and(|since| since.elapsed() >= HELD) {
                        backoff.reset();
                    }
                    connection.close().await;
                    match conversation {
                        Ok(reason) => reason,
                        Err(Err(error)) if !self.state.was_online() && error.is_of_address() && host.has_another() => {
                            self.try_another(&error.to_string());
                            continue;
                        }
                        Err(Err(Error::Refused(refusal @ Refusal::Later(_)))) if self.options.reconnect => {
                            self.is_put_off = true;
                            refusal.to_string()
                        }
                        Err(ended) => return ended,
                    }
                }
            };
            let now = self.now();
            self.state.disconnected(now);
            if !self.options.reconnect {
                return Err(Error::Lost { address, reason });
            }
            let is_first = !backoff.has_failed();
            let wait = backoff.next(backoff::random());
            // A server that asks for little, again and again, is not asked as often.
            let wait =
                self.state.take_reconnect_after().map_or(wait, |asked| if is_first { asked } else { asked.max(wait) });
            let seconds = wait.as_secs_f64();
            // That it waits for another token is told once.
            if !(has_waited_for_proof && self.waits_for_proof) {
                let what = if self.state.was_online() { "connection lost" } else { "not connected" };
                self.state.show(Event::Problem(format!("{what}: {reason}; trying again in {seconds:.1} s")));
            }
            if let Err(ended) = self.meanwhile(tokio::time::sleep(wait)).await {
                return ended;
            }
        }
    }

    /// Reads what proves who the person is. At first it must be there; later it may be about to be replaced, and is waited for.
    async fn prove(&mut self, backoff: &mut Backoff) -> Result<(), Ended> {
        let Some(proof) = self.options.proof.clone() else { return Ok(()) };
        let mut is_told = false;
        loop {
            let error = match self.meanwhile(proof.clone().read()).await? {
                Ok(shown) => {
                    self.state.show_proof(shown);
                    return Ok(());
                }
                Err(error) if !self.state.was_online() => return Err(Err(error.into())),
                Err(error) => error,
            };
            if !std::mem::replace(&mut is_told, true) {
                self.state.show(Event::Problem(format!("{error}; it is read again until it can be used")));
            }
            self.meanwhile(tokio::time::sleep(backoff.next(backoff::random()))).await?;
        }
    }

    /// Nobody was ever let in, and the host has an address that was not tried: that needs no wait.
    fn try_another(&mut self, reason: &str) {
        let now = self.now();
        self.state.disconnected(now);
        // If this one has asked to be left alone for a while, that is nothing to the other.
        self.state.take_reconnect_after();
        let address = &self.options.address;
        self.state.show(Event::Problem(format!("{reason}; trying another address of {address}")));
    }

    /// Waits for `work` without a connection, and looks after everything else meanwhile.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Ended> {
        let mut work = std::pin::pin!(work);
        loop {
            self.show();
            self.bookmark();
            self.wait_on();
            if let Some(ended) = self.is_over(true) {
                return Err(ended);
            }
            let looks = [self.give_up, self.look_again(), self.look_at_input()];
            let wake = looks.into_iter().flatten().min().unwrap_or_else(far_away);
            tokio::select! {
                done = &mut work => return Ok(done),
                signal = self.signals.next() => return Err(Ok(Outcome::Signal(signal))),
                over = self.screen.over() => return Err(Err(over.into())),
                () = self.screen.room(), if self.screen.is_behind() => {}
                typed = self.input.recv(), if self.takes_input() => self.on_typed(typed),
                () = sleep_until(wake.into()) => {}
            }
        }
    }

    /// Talks until the connection ends (and says why), or the session.
    async fn converse(&mut self, connection: &mut Connection) -> Result<String, Ended> {
        let mut liveness = Liveness::new(HANDSHAKE, Instant::now());
        let mut depart_by: Option<Instant> = None;
        let mut watch = Watch::new(self.options.proof.clone());
        loop {
            connection.queue(self.state.wire());
            self.show();
            self.bookmark();
            self.wait_on();
            if let Some(ended) = self.is_over(connection.is_flushed()) {
                return Err(ended);
            }
            if self.state.has_departed() && connection.is_flushed() {
                return Ok(self.departed());
            }
            let looks = [self.look_again(), self.look_at_input()];
            let deadlines = [Some(liveness.deadline()), self.state.deadline(), self.give_up, depart_by];
            let wake = deadlines.into_iter().chain(looks).flatten().min().unwrap_or_else(far_away);
            tokio::select! {
                transfer = connection.transfer(self.screen) => match transfer {
                    // Much is left to be sent, and the server takes it.
                    Ok(Transfer::Wrote) if connection.unsent() > 0 => self.put_off_giving_up(),
                    Ok(Transfer::Wrote) => {}
                    Ok(Transfer::Read) => {
                        liveness.heard(Instant::now());
                        if let Err(refusal) = self.take_lines(connection)? {
                            return Ok(refusal);
                        }
                    }
                    Ok(Transfer::Ended) if !self.comes_back() => {
                        let reason = "the server closed it without a welcome (a server that speaks only the classic \
                                      dialect wants --classic)";
                        return Err(Err(self.lost(reason)));
                    }
                    Ok(Transfer::Ended) => return Ok(self.departed()),
                    Err(error) => return self.failed(&error.to_string()),
                },
                signal = self.signals.next() => return Err(Ok(Outcome::Signal(signal))),
                over = self.screen.over() => return Err(Err(over.into())),
                // Then the input is heard again.
                () = self.screen.room(), if self.screen.is_behind() => {}
                typed = self.input.recv(), if self.takes_input() && !connection.is_congested() => self.on_typed(typed),
                shown = watch.look() => self.state.refresh(shown),
                () = sleep_until(wake.into()) => {
                    let now = self.now();
                    self.state.tick(now);
                    match liveness.check(now) {
                        Due::Nothing => {}
                        Due::Ping => self.state.ping(),
                        // What the server says is not read while the screen is behind: that is no silence of its.
                        Due::Dead if self.screen.is_behind() => {
                            self.state.ping();
                            liveness.begin_anew(now);
                        }
                        Due::Dead if self.welcomed.is_none() => return self.failed("no welcome in time"),
                        Due::Dead => return Ok("the server is silent".to_owned()),
                    }
                    if depart_by.is_some_and(|by| now >= by) {
                        return Ok(self.departed());
                    }
                }
            }
            if let Some(heartbeat) = self.state.take_heartbeat() {
                let now = Instant::now();
                liveness.welcomed(heartbeat, now);
                self.welcomed = Some(now);
                connection.set_longest_line(self.state.longest_line());
            }
            if let Some(at) = self.state.take_ends_at() {
                watch.ends(at, Instant::now(), SystemTime::now());
            }
            if self.state.departure().is_some() && depart_by.is_none() {
                depart_by = Some(Instant::now() + DEPARTURE);
            }
        }
    }

    /// Takes all lines that came. `Ok(Err(reason))` if this connection is of no more use.
    fn take_lines(&mut self, connection: &mut Connection) -> Result<Result<(), String>, Ended> {
        let now = self.now();
        loop {
            let line = match connection.next_line() {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(Ok(())),
                Err(error) => return self.failed(&error.to_string()).map(Err),
            };
            match self.state.line(line, now) {
                Ok(()) => {}
                Err(refusal @ (Refusal::TurnedAway(_) | Refusal::Later(_) | Refusal::NotTertulia(_)))
                    if self.comes_back() =>
                {
                    return Ok(Err(refusal.to_string()));
                }
                Err(refusal @ (Refusal::GuestName(_) | Refusal::Unproven(_))) => {
                    self.waits_for_proof = matches!(refusal, Refusal::Unproven(_));
                    return Ok(Err(refusal.to_string()));
                }
                Err(refusal) => return Err(Err(refusal.into())),
            }
        }
    }

    /// Notes what was seen, and keeps what of that is printed by now. Where that cannot be kept the session goes on, and
    /// the person is told once.
    fn bookmark(&mut self) {
        let now = Instant::now();
        let Some(bookmarks) = self.bookmarks.as_deref_mut().filter(|bookmarks| bookmarks.is_due(now)) else {
            return;
        };
        if self.state.has_moved() {
            bookmarks.note(self.state.places(), self.screen.queued());
        }
        let was_failing = bookmarks.is_failing();
        if let Err(error) = bookmarks.keep(self.screen.printed_bytes(), now)
            && !was_failing
        {
            self.state.show(Event::Problem(error.to_string()));
            self.show();
        }
    }

    fn look_again(&self) -> Option<Instant> {
        self.bookmarks.as_ref().and_then(|bookmarks| bookmarks.deadline(self.state.has_moved()))
    }

    fn show(&mut self) {
        let events = self.state.take_events();
        if !events.is_empty() {
            self.screen.show(&events, self.state.user());
        }
    }

    /// Tells of the posts that are left, unless the end itself does.
    fn tell_unanswered(&mut self, ended: &Ended) {
        if matches!(ended, Ok(Outcome::Done) | Err(Error::Unanswered(_))) {
            return;
        }
        if let Some(posts) = self.state.unanswered() {
            self.state.show(Event::Problem(posts.to_string()));
        }
    }

    /// What the time is. A sleep of the machine is told to whoever counts on how long a server remembers.
    fn now(&mut self) -> Instant {
        let now = Instant::now();
        if let Some(slept) = self.clock.slept(now, SystemTime::now()) {
            self.state.slept(slept);
        }
        now
    }

    /// Why the server closed the connection, or is left because it is about to.
    fn departed(&self) -> String {
        self.state.departure().unwrap_or("the server closed it").to_owned()
    }

    /// Whether the server let the client in before, or said that it will: then nothing but an answer of it is final.
    fn comes_back(&self) -> bool {
        self.state.was_online() || self.is_put_off
    }

    /// The connection is of no use: why, or the end if none ever was.
    fn failed(&self, reason: &str) -> Result<String, Ended> {
        if self.comes_back() { Ok(reason.to_owned()) } else { Err(Err(self.lost(reason))) }
    }

    fn lost(&self, reason: &str) -> Error {
        Error::Lost { address: self.options.address.clone(), reason: reason.to_owned() }
    }
}

/// Later than anything that is waited for.
fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

#[cfg(test)]
mod tests;
