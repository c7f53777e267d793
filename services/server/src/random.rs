//! Numbers that nobody can tell beforehand.

use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

/// 64 random bits: each state hashes with a key of its own, of which the first of a thread is the system's.
#[must_use]
pub fn number() -> u64 {
    RandomState::new().hash_one(Instant::now())
}

/// What random tests begin with: the number in `TERTULIA_TEST_SEED`, to have the same again, or one by chance.
#[cfg(test)]
pub(crate) fn seed_of_tests() -> u64 {
    match std::env::var("TERTULIA_TEST_SEED") {
        Ok(seed) => seed.parse().unwrap_or_else(|_| panic!("TERTULIA_TEST_SEED = {seed}: must be a number")),
        Err(_) => number(),
    }
}
