//! Something that is said from time to time, however often it happens.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two times.
const EVERY: Duration = Duration::from_secs(10);

/// One kind of complaint, which whoever can reach a port may give cause for: it must not fill the log.
#[derive(Debug, Default)]
pub struct Complaint(Mutex<Option<Instant>>);

impl Complaint {
    /// Whether it is to be said now; if so, not again for a while.
    #[must_use]
    pub fn is_due(&self) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = said.is_none_or(|at| at.elapsed() >= EVERY);
        if is_due {
            *said = Some(Instant::now());
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_in_a_while() {
        let complaint = Complaint::default();
        assert!(complaint.is_due());
        assert!((0..100).all(|_| !complaint.is_due()));
        *complaint.0.lock().unwrap() = Instant::now().checked_sub(EVERY);
        assert!(complaint.is_due() && !complaint.is_due());
    }
}
