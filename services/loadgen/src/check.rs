//! Whether a member sees what it should: every post of each poster once, in order, and the same order as the others.

/// What one message is to the member that sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The next one.
    Next,
    /// Some before it are missing, so far.
    After(u64),
    /// It was seen before, or comes too late.
    Again,
}

/// What one member has seen.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Of each poster, the number expected next; 0: any.
    next: Box<[u64]>,
    count: u64,
    order: u64,
    /// Of the group, the number expected next, where the protocol numbers messages; 0: any.
    next_seq: u64,
    whole: bool,
}

impl Seen {
    /// A member that joins before anything is posted.
    #[must_use]
    pub fn from_the_start(posters: usize) -> Self {
        Self { next: vec![1; posters].into(), count: 0, order: 0, next_seq: 0, whole: true }
    }

    /// Judges a message by its poster's count.
    pub fn post(&mut self, poster: u16, number: u64) -> Verdict {
        let Some(next) = self.next.get_mut(usize::from(poster)) else { return Verdict::Again };
        let expected = if *next == 0 { number } else { *next };
        if number < expected {
            return Verdict::Again;
        }
        *next = number.saturating_add(1);
        self.count += 1;
        self.order = (self.order ^ (u64::from(poster) << 48 ^ number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.order ^= self.order >> 29;
        if number == expected { Verdict::Next } else { Verdict::After(number - expected) }
    }

    /// Judges a message by the group's count.
    pub fn seq(&mut self, seq: u64) -> Verdict {
        let expected = if self.next_seq == 0 { seq } else { self.next_seq };
        if seq < expected {
            return Verdict::Again;
        }
        self.next_seq = seq + 1;
        if seq == expected { Verdict::Next } else { Verdict::After(seq - expected) }
    }

    /// The newest `seq` that was seen.
    #[must_use]
    pub fn last_seq(&self) -> Option<u64> {
        self.next_seq.checked_sub(1)
    }

    /// The member begins anew, at a place that is known by `seq` or not at all.
    pub fn restart(&mut self, after: Option<u64>) {
        self.next.fill(0);
        self.next_seq = after.map_or(0, |after| after + 1);
        self.whole = false;
    }

    /// It was away, but is to be told of all that it missed.
    pub fn resume_at(&mut self, next_seq: u64) {
        self.next_seq = next_seq;
    }

    /// Whether nothing was seen since the member began anew; never of one that saw the group from its beginning.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.next.iter().all(|next| *next == 0)
    }

    /// Whether all of a poster's `sent` posts were seen; also true of a poster of whom nothing had to be seen yet.
    #[must_use]
    pub fn missing(&self, poster: usize, sent: u64) -> u64 {
        match self.next.get(poster) {
            None | Some(0) => 0,
            Some(next) => (sent + 1).saturating_sub(*next),
        }
    }

    /// How many messages it saw and in which order, if it has seen the group from its beginning.
    #[must_use]
    pub fn story(&self) -> Option<(u64, u64)> {
        self.whole.then_some((self.count, self.order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_and_repeats_are_told_apart() {
        let mut seen = Seen::from_the_start(2);
        assert_eq!(seen.post(0, 1), Verdict::Next);
        assert_eq!(seen.post(0, 2), Verdict::Next);
        assert_eq!(seen.post(1, 1), Verdict::Next);
        assert_eq!(seen.post(0, 5), Verdict::After(2));
        assert_eq!(seen.post(0, 5), Verdict::Again);
        assert_eq!(seen.post(0, 3), Verdict::Again);
        assert_eq!(seen.post(9, 1), Verdict::Again);
        assert_eq!((seen.missing(0, 7), seen.missing(1, 1)), (2, 0));
    }

    #[test]
    fn a_poster_may_post_for_days() {
        let mut seen = Seen::from_the_start(1);
        let many = u64::from(u32::MAX);
        assert_eq!(seen.post(0, many), Verdict::After(many - 1));
        assert_eq!(seen.post(0, many + 1), Verdict::Next);
        assert_eq!(seen.missing(0, many + 3), 2);
    }

    #[test]
    fn the_first_message_must_not_be_missing_either() {
        assert_eq!(Seen::from_the_start(1).post(0, 2), Verdict::After(1));
    }

    #[test]
    fn two_members_with_another_order_have_another_story() {
        let (mut one, mut other) = (Seen::from_the_start(2), Seen::from_the_start(2));
        for (poster, number) in [(0, 1), (1, 1), (0, 2)] {
            one.post(poster, number);
        }
        for (poster, number) in [(1, 1), (0, 1), (0, 2)] {
            other.post(poster, number);
        }
        assert_ne!(one.story(), other.story());
        assert_eq!(one.story().unwrap().0, other.story().unwrap().0);
    }

    #[test]
    fn who_comes_back_starts_anywhere_and_goes_on_without_a_gap() {
        let mut seen = Seen::from_the_start(1);
        seen.post(0, 1);
        seen.restart(None);
        assert_eq!((seen.missing(0, 100), seen.is_blank()), (0, true));
        assert_eq!(seen.post(0, 50), Verdict::Next);
        assert_eq!(seen.post(0, 52), Verdict::After(1));
        assert_eq!((seen.missing(0, 100), seen.is_blank()), (48, false));
        assert_eq!(seen.story(), None);
    }

    #[test]
    fn seq_is_dense() {
        let mut seen = Seen::from_the_start(1);
        assert_eq!(seen.seq(7), Verdict::Next);
        assert_eq!(seen.seq(8), Verdict::Next);
        assert_eq!(seen.seq(8), Verdict::Again);
        assert_eq!(seen.seq(11), Verdict::After(2));
        assert_eq!(seen.last_seq(), Some(11));
        seen.restart(Some(3));
        assert_eq!(seen.seq(5), Verdict::After(1));
    }
}
