//! Numbers that nobody can tell beforehand.

use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

/// 64 random bits: each state hashes with a key of its own, of which the first of a thread is the system's.
#[must_use]
pub fn number() -> u64 {
    RandomState::new().hash_one(Instant::now())
}
