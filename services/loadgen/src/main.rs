//! The load generator of tertulia.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use tertulia_loadgen::args::{Cli, Command, Load, Scenario};
use tertulia_loadgen::bare::Bare;
use tertulia_loadgen::plan::Plan;
use tertulia_loadgen::process::Watched;
use tertulia_loadgen::report::Report;
use tertulia_loadgen::run::run;

/// Wrong arguments.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let (scenario, load) = match Cli::parse().command {
        Command::Fanout(load) => (Scenario::Fanout, load),
        Command::Groups(load) => (Scenario::Groups, load),
        Command::Pairs(load) => (Scenario::Pairs, load),
        Command::Idle(load) => (Scenario::Idle, load),
        Command::Slow(load) => (Scenario::Slow, load),
        Command::Ingest(load) => (Scenario::Ingest, load),
        Command::Churn(load) => (Scenario::Churn, load),
        Command::Catchup(load) => (Scenario::Catchup, load),
        Command::Soak(load) => (Scenario::Soak, load),
        Command::Bare(bare) => return end(serve_bare(&bare).map(|()| true)),
    };
    let watched = Watched::from_arguments(&load.pids, load.metrics.as_deref(), &load.store_pids);
    let (plan, watched) = match Plan::new(scenario, &load).and_then(|plan| Ok((plan, watched?))) {
        Ok(both) => both,
        Err(error) => {
            eprintln!("tertulia-loadgen: {error:#}");
            return ExitCode::from(USAGE);
        }
    };
    end(run(plan, &load, &watched).and_then(|report| {
        tell(&report, &load)?;
        Ok(report.faults.none())
    }))
}

/// The exit code, and why if it is not 0.
fn end(result: Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("tertulia-loadgen: the run failed: see the faults in its results");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("tertulia-loadgen: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn tell(report: &Report, load: &Load) -> Result<()> {
    let json = serde_json::to_string_pretty(report).context("write the results as JSON")?;
    let mut out = io::stdout().lock();
    match &load.json {
        Some(file) if file == Path::new("-") => writeln!(out, "{json}")?,
        Some(file) => {
            std::fs::write(file, json + "\n").with_context(|| format!("write {}", file.display()))?;
            write!(out, "{report}")?;
        }
        None => write!(out, "{report}")?,
    }
    Ok(())
}

fn serve_bare(bare: &tertulia_loadgen::args::Bare) -> Result<()> {
    rlimit::increase_nofile_limit(u64::MAX).context("raise the limit of open files")?;
    let server = Bare::bind(bare.listen)?;
    println!("{}", serde_json::json!({ "chat": server.address()?.to_string() }));
    server.run()
}
