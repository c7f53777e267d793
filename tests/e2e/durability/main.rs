//! What is on the disk outlives the server, whatever ends it and whatever the disk does.

mod crash;
mod disk;
mod holds;
mod participant;
mod restart;
mod tools;
mod upgrade;

use std::path::Path;

use anyhow::{Context, Result};

/// The server's program, to be run with other arguments than those of a server.
fn program() -> Result<std::process::Command> {
    let mut command = std::process::Command::new(harness::Build::This.server()?);
    for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TERTULIA_")) {
        command.env_remove(variable);
    }
    Ok(command)
}

/// A run of the program to its end: its exit code, what it wrote, and what it complained of.
fn run(arguments: &[&str], data: &Path) -> Result<(Option<i32>, String, String)> {
    let output = program()?.args(arguments).arg("--data-dir").arg(data).output().context("run the server's program")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
}
