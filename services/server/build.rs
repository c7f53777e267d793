//! Tells the program which commit and compiler it was built from.
//!
//! `TERTULIA_COMMIT` in the environment wins, for builds away from the repository; without either it is `unknown`.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=TERTULIA_COMMIT");
    // Moves with every commit and checkout. Cargo would run this at every build if it did not exist.
    if let Some(log) = output("git", &["rev-parse", "--git-path", "logs/HEAD"])
        && Path::new(&log).exists()
    {
        println!("cargo::rerun-if-changed={log}");
    }
    let given = std::env::var("TERTULIA_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = given.or_else(|| output("git", &["rev-parse", "--short=12", "HEAD"]));
    println!("cargo::rustc-env=TERTULIA_BUILD_COMMIT={}", commit.as_deref().unwrap_or("unknown"));

    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = output(&rustc, &["--version"]);
    let number = version.as_deref().and_then(|text| text.split(' ').nth(1)).unwrap_or("unknown");
    println!("cargo::rustc-env=TERTULIA_BUILD_RUSTC={number}");
}

/// The first line that a program writes, if it succeeds.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().next()?.trim();
    (output.status.success() && !line.is_empty()).then(|| line.to_owned())
}
