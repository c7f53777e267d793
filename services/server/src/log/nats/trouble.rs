//! Why the log cannot be written now, by what was met.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// There is no connection to any server.
    Connection,
    /// A stream does not answer, or takes nothing.
    Stream(u16),
    /// A stream has had no room for what was appended. It answers, and others may post less, or later: so nothing is refused because of it.
    Room(u16),
    /// It is not known how an append of a shard ended. Other shards of its stream are not kept from trying.
    Append(u16),
}

/// How long a stream that had no room is taken to have none: nobody may ask.
const FULL: Duration = Duration::from_secs(60);
/// How long, if something was stored there since.
const STEADY: Duration = Duration::from_secs(10);

/// What is wrong now.
#[derive(Debug)]
pub(crate) struct Trouble {
    /// How many streams there are.
    streams: u16,
    /// Streams that had no room.
    full: Mutex<BTreeMap<u16, Full>>,
    /// Streams that left a claim on a fence unanswered, and until when nobody else need try to claim one there. Posts are kept from none: one
    /// claim is no sign for them, and while the disk is full it is asked again and again what each time is not answered.
    silent: Mutex<BTreeMap<u16, Instant>>,
    reasons: Mutex<BTreeMap<Cause, String>>,
    /// The log is being closed: what ends then is no trouble.
    closing: AtomicBool,
}

/// A stream that had no room.
#[derive(Debug)]
struct Full {
    /// When it last had none.
    last: Instant,
    /// Whether something was stored there since.
    has_stored: bool,
}

impl Trouble {
    /// Nothing is wrong with `streams` streams.
    pub(crate) fn new(streams: u16) -> Self {
        Self {
            streams,
            full: Mutex::default(),
            silent: Mutex::default(),
            reasons: Mutex::default(),
            closing: AtomicBool::new(false),
        }
    }

    fn reasons(&self) -> MutexGuard<'_, BTreeMap<Cause, String>> {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on there is no more news.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Sets or clears one.
    pub(crate) fn set(&self, cause: Cause, reason: Option<String>) {
        if self.closing.load(Ordering::Relaxed) {
            return;
        }
        let mut reasons = self.reasons();
        match reason {
            Some(reason) => {
                if !reasons.contains_key(&cause) {
                    tracing::warn!(?cause, reason, "the log cannot be written");
                }
                reasons.insert(cause, reason);
            }
            None => {
                if reasons.remove(&cause).is_some() {
                    tracing::info!(?cause, "the log can be written again");
                }
            }
        }
    }

    /// What stands in the way of writing to a stream.
    pub(crate) fn of_stream(&self, stream: u16) -> Option<String> {
        let reasons = self.reasons();
        reasons.get(&Cause::Connection).or_else(|| reasons.get(&Cause::Stream(stream))).cloned()
    }

    fn silent(&self) -> MutexGuard<'_, BTreeMap<u16, Instant>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream has not answered a claim: others need not find that out for themselves for so long.
    pub(crate) fn left_claim_unanswered(&self, stream: u16, pause: Duration) {
        self.silent().insert(stream, Instant::now() + pause);
    }

    /// A stream has answered a claim.
    pub(crate) fn has_answered_claim(&self, stream: u16) {
        self.silent().remove(&stream);
    }

    /// Whether a claim on a fence of a stream may be answered, as far as is known.
    pub(crate) fn may_answer_claim(&self, stream: u16) -> bool {
        let is_silent = self.silent().get(&stream).is_some_and(|until| Instant::now() < *until);
        !is_silent && self.of_stream(stream).is_none()
    }

    /// The first that there is.
    pub(crate) fn any(&self) -> Option<String> {
        self.reasons().values().next().cloned()
    }

    /// Why nothing at all can be written: there is no connection, or none of the streams answers.
    pub(crate) fn everywhere(&self) -> Option<String> {
        let reasons = self.reasons();
        let silent = || reasons.iter().filter(|(cause, _)| matches!(cause, Cause::Stream(_)));
        let none_answers = silent().count() >= usize::from(self.streams);
        reasons
            .get(&Cause::Connection)
            .or_else(|| silent().next().filter(|_| none_answers).map(|(_, why)| why))
            .cloned()
    }

    fn full(&self) -> MutexGuard<'_, BTreeMap<u16, Full>> {
        self.full.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream had no room for an append.
    pub(crate) fn had_no_room(&self, stream: u16, reason: String) {
        let mut full = self.full();
        full.insert(stream, Full { last: Instant::now(), has_stored: false });
        self.set(Cause::Room(stream), Some(reason));
    }

    /// A stream has stored an append. That one fitted does not tell that the next one will.
    pub(crate) fn has_stored(&self, stream: u16) {
        if let Some(full) = self.full().get_mut(&stream) {
            full.has_stored = true;
        }
    }

    /// Nobody has met with a full stream for a while.
    pub(crate) fn forget_full(&self, stream: u16) {
        let mut full = self.full();
        let wait = |full: &Full| if full.has_stored { STEADY } else { FULL };
        if full.get(&stream).is_some_and(|full| full.last.elapsed() >= wait(full)) {
            full.remove(&stream);
            self.set(Cause::Room(stream), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason() -> Option<String> {
        Some("no answer".to_owned())
    }

    #[test]
    fn some_streams_in_trouble_are_not_the_end_of_all() {
        let trouble = Trouble::new(3);
        for stream in 0..3 {
            assert_eq!(trouble.everywhere(), None, "{stream} streams are silent");
            trouble.set(Cause::Stream(stream), reason());
            trouble.set(Cause::Append(stream), reason());
            assert_eq!(trouble.any(), reason());
        }
        assert_eq!(trouble.everywhere(), reason());
        trouble.set(Cause::Stream(1), None);
        assert_eq!(trouble.everywhere(), None);
        trouble.set(Cause::Connection, reason());
        assert_eq!(trouble.everywhere(), reason());
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_without_an_answer_keeps_other_claims_for_a_while_and_no_posts() {
        let trouble = Trouble::new(2);
        let pause = Duration::from_secs(2);
        let state = || (trouble.may_answer_claim(0), trouble.may_answer_claim(1), trouble.of_stream(0), trouble.any());
        for is_answered in [false, true] {
            trouble.left_claim_unanswered(0, pause);
            tokio::time::advance(pause / 2).await;
            assert_eq!(state(), (false, true, None, None));
            match is_answered {
                true => trouble.has_answered_claim(0),
                false => tokio::time::advance(pause / 2).await,
            }
            assert_eq!(state(), (true, true, None, None));
        }
        trouble.set(Cause::Stream(0), reason());
        assert_eq!(state(), (false, true, reason(), reason()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_stream_is_known_until_it_stores_and_is_never_met_full_for_a_while_or_nobody_asks_for_long() {
        let trouble = Trouble::new(2);
        let full = || trouble.had_no_room(0, "full".to_owned());
        let is_told_after = async |time: Duration| {
            tokio::time::advance(time).await;
            (0..2).for_each(|stream| trouble.forget_full(stream));
            trouble.any().is_some()
        };
        full();
        assert_eq!((trouble.any().as_deref(), trouble.of_stream(0), trouble.everywhere()), (Some("full"), None, None));
        trouble.has_stored(1);
        assert!(is_told_after(STEADY).await, "it was another stream that has room");
        trouble.has_stored(0);
        assert!(!is_told_after(Duration::ZERO).await);

        // Some fit, and others do not: that is one time of trouble.
        for _ in 0..10 {
            full();
            trouble.has_stored(0);
            assert!(is_told_after(STEADY / 2).await);
        }
        assert!(!is_told_after(STEADY / 2).await);

        full();
        assert!(is_told_after(FULL / 2).await);
        full();
        assert!(is_told_after(FULL / 2).await, "it was full half the time ago");
        assert!(!is_told_after(FULL / 2).await);
    }
}
