//! Whether NATS answers this node at all. While it does not, whoever is connected here is told so instead of being kept waiting.
//!
//! This says nothing about who owns what: that the list of nodes decides, and the log's fences.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Looks at the silence that in a row find it too long. A single look is no evidence: a process that stood still goes on with the answers
/// that came meanwhile, once it reads them.
const LOOKS: u32 = 3;

/// Of so many answers it is known how long they took.
const REMEMBERED: usize = 6;

/// When NATS answered last, and how far away it is.
#[derive(Debug)]
pub(super) struct Answers(Mutex<Heard>);

#[derive(Debug)]
struct Heard {
    last: Instant,
    took: VecDeque<Duration>,
}

impl Answers {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Heard { last: Instant::now(), took: VecDeque::with_capacity(REMEMBERED) }))
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is one, to what was asked then.
    pub(super) fn heard_since(&self, asked: Instant) {
        let mut heard = self.heard();
        heard.last = Instant::now();
        heard.took.truncate(REMEMBERED - 1);
        heard.took.push_front(asked.elapsed());
    }

    /// For how long there has been none.
    pub(super) fn silence(&self) -> Duration {
        self.heard().last.elapsed()
    }

    /// How long the quickest of the last answers took: as long as it takes to there and back, and what NATS does at least.
    pub(super) fn round_trip(&self) -> Duration {
        self.heard().took.iter().min().copied().unwrap_or_default()
    }
}

/// Judges how long a silence is.
#[derive(Debug)]
pub(super) struct Silence {
    longest: Duration,
    looks: u32,
}

impl Silence {
    /// A silence of more than `longest` is one.
    pub(super) fn new(longest: Duration) -> Self {
        Self { longest, looks: 0 }
    }

    /// Looks at it; answers whether nothing can be expected any more.
    pub(super) fn look(&mut self, silence: Duration) -> bool {
        self.looks = if silence > self.longest { (self.looks + 1).min(LOOKS) } else { 0 };
        self.looks == LOOKS
    }
}

/// Says on `cut_off` whether NATS is silent, looking `every` so often.
pub(super) async fn mind(answers: &Answers, lease: Duration, every: Duration, cut_off: &watch::Sender<bool>) {
    let mut silence = Silence::new(lease);
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let is_silent = silence.look(answers.silence());
        cut_off.send_if_modified(|said| std::mem::replace(said, is_silent) != is_silent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_look_is_no_evidence() {
        let mut silence = Silence::new(Duration::from_secs(2));
        let long = Duration::from_secs(3);
        assert!(!silence.look(long) && !silence.look(long));
        assert!(!silence.look(Duration::from_millis(10)), "the answers were there to be read");
        assert!(!silence.look(long) && !silence.look(long) && silence.look(long) && silence.look(long));
        assert!(!silence.look(Duration::from_secs(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_round_trip_is_that_of_the_quickest_of_the_last_answers() {
        let answers = Answers::new();
        assert_eq!(answers.round_trip(), Duration::ZERO);
        for millis in [2, 400, 900, 400, 401, 950] {
            let asked = Instant::now();
            tokio::time::advance(Duration::from_millis(millis)).await;
            answers.heard_since(asked);
        }
        assert_eq!(answers.round_trip(), Duration::from_millis(2));
        let asked = Instant::now();
        tokio::time::advance(Duration::from_millis(500)).await;
        answers.heard_since(asked);
        assert_eq!(answers.round_trip(), Duration::from_millis(400), "what was near is far now");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_said_and_so_is_its_end() {
        let (answers, (said, mut heard)) = (Answers::new(), watch::channel(false));
        let lease = Duration::from_secs(2);
        let begun = Instant::now();
        let minding = mind(&answers, lease, Duration::from_millis(200), &said);
        let watching = async {
            heard.wait_for(|cut_off| *cut_off).await.unwrap();
            let after = begun.elapsed();
            assert!((Duration::from_millis(2_200)..=Duration::from_millis(2_800)).contains(&after), "{after:?}");
            answers.heard_since(Instant::now());
            heard.wait_for(|cut_off| !*cut_off).await.unwrap();
        };
        tokio::select! {
            () = minding => {}
            () = watching => {}
        }
    }
}
