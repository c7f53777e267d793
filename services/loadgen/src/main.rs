//! The load generator of tertulia.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
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
    let file = match load.json.as_deref().filter(|file| *file != Path::new("-")).map(Results::new).transpose() {
        Ok(file) => file,
        Err(error) => return end(Err(error)),
    };
    end(run(plan, &load, &watched).and_then(|report| {
        tell(&report, &load, file)?;
        match &report.failed {
            Some(failed) => bail!(failed.clone()),
            None => Ok(report.faults.none()),
        }
    }))
}

/// The file of the results: it is known before the run whether it can be written, and never has those of an earlier run.
struct Results {
    path: PathBuf,
    file: Option<File>,
}

impl Results {
    fn new(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("write {}", path.display()))?;
        Ok(Self { path: path.to_owned(), file: Some(file) })
    }

    fn write(mut self, json: &str) -> Result<()> {
        let Some(mut file) = self.file.take() else { return Ok(()) };
        writeln!(file, "{json}").with_context(|| format!("write {}", self.path.display()))
    }
}

impl Drop for Results {
    /// Where there are none, there is no file. What is not a file, such as a pipe, stays.
    fn drop(&mut self) {
        let is_ours = |file: File| file.metadata().is_ok_and(|data| data.is_file());
        if self.file.take().is_some_and(is_ours) {
            drop(std::fs::remove_file(&self.path));
        }
    }
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

fn tell(report: &Report, load: &Load, file: Option<Results>) -> Result<()> {
    let json = serde_json::to_string_pretty(report).context("write the results as JSON")?;
    let is_for_programs = load.json.is_some() && file.is_none();
    // First: they are not to be lost with a terminal that is gone.
    file.map_or(Ok(()), |file| file.write(&json))?;
    let mut out = io::stdout().lock();
    if is_for_programs { writeln!(out, "{json}") } else { write!(out, "{report}") }.context("write to standard output")
}

fn serve_bare(bare: &tertulia_loadgen::args::Bare) -> Result<()> {
    rlimit::increase_nofile_limit(u64::MAX).context("raise the limit of open files")?;
    let server = Bare::bind(bare.listen)?;
    println!("{}", serde_json::json!({ "chat": server.address()?.to_string() }));
    server.run()
}
