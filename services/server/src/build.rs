//! What this program was built from.

/// The version of the program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit, or `unknown`.
pub const COMMIT: &str = env!("TERTULIA_BUILD_COMMIT");
/// The version of the compiler, or `unknown`.
pub const RUSTC: &str = env!("TERTULIA_BUILD_RUSTC");
/// All of it and what was compiled in, for `--version`.
pub const DESCRIPTION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("TERTULIA_BUILD_COMMIT"),
    "; engines: embedded, memory, nats; rustc ",
    env!("TERTULIA_BUILD_RUSTC"),
    ")"
);
