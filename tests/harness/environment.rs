//! What the environment says to tests, and what tests say past the test runner.

use std::io::Write;

use anyhow::{Context, Result};

/// Chooses the same again of what a test leaves to chance.
const SEED: &str = "TERTULIA_TEST_SEED";
/// Whether what a test needs and this machine lacks is a failure.
const REQUIRED: &str = "TERTULIA_TEST_REQUIRED";

/// The number in a variable; `None` if it is not set.
///
/// # Errors
/// If it is no number.
pub fn number(variable: &str) -> Result<Option<u64>> {
    let Some(value) = std::env::var_os(variable) else { return Ok(None) };
    let text = value.to_string_lossy();
    text.parse().map(Some).with_context(|| format!("{variable} = {text}: must be a number"))
}

/// The seed of a random test: the one that `TERTULIA_TEST_SEED` names, else one by chance. It is printed, so that a failed test tells it.
///
/// # Errors
/// If the variable holds no number.
pub fn seed() -> Result<u64> {
    let seed = number(SEED)?.unwrap_or_else(|| fastrand::u64(..));
    println!("{SEED}={seed}");
    Ok(seed)
}

/// Whether what is missing is a failure: `TERTULIA_TEST_REQUIRED` is 1.
#[must_use]
pub fn is_all_required() -> bool {
    std::env::var_os(REQUIRED).is_some_and(|value| value == "1")
}

/// Says something past the test runner, which shows nothing of a test that passes: whoever reads that it passed is to know what that
/// means.
pub fn announce(what: &str) {
    let said = writeln!(std::io::stderr(), "{what}");
    // Nobody reads it then.
    said.unwrap_or_default();
}
