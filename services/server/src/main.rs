//! The chat server of tertulia: the program.
//!
//! Exits with 0 after a clean stop, with 2 if the command line or the configuration is wrong, with 1 on any other failure
//! (docs/operations.md).

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tertulia_server::config::{self, Config, Errors, docs, print};
use tertulia_server::http::probe;
use tertulia_server::telemetry::config::LogFormat;
use tertulia_server::{causes, server, telemetry};

mod admin_client;
mod cli;
mod hashing;
mod issuing;
mod maintenance;

use cli::{CheckConfig, Cli, Command, Format, Health, PrintConfig};

/// A wrong command line or configuration.
const USAGE: u8 = 2;
/// Any other failure.
const FAILURE: u8 = 1;

/// How long the end of the process waits for threads that are blocked.
const LAST_THREADS: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = Cli::parse_or_exit();
    let command = cli.chosen();
    if let Command::PrintConfig(PrintConfig { docs: true, .. }) = command {
        return write(&docs::markdown());
    }
    let loaded = match cli.sources().and_then(|sources| config::load(&sources)) {
        Ok(loaded) => loaded,
        Err(errors) => return refuse(&errors),
    };
    match command {
        Command::Run => run(loaded.config),
        Command::CheckConfig(CheckConfig { files }) => check(&loaded.config, files),
        Command::PrintConfig(PrintConfig { format, .. }) => match format {
            Format::Toml => write(&print::toml(&loaded)),
            Format::Yaml => write(&print::yaml(&loaded)),
            Format::Json => print::json(&loaded.config).map_or_else(|error| fail(&error), |text| write(&text)),
        },
        Command::Health(health) => ask(&health, &loaded.config),
        Command::Admin(options) => match admin_client::run(&options, &loaded.config.admin) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) if error.is_of_usage() => {
                complain(&causes::on_one_line(&error));
                ExitCode::from(USAGE)
            }
            // As of everything else that is written to stdout.
            Err(error) if error.has_reader_left() => ExitCode::from(FAILURE),
            Err(error) => fail(&causes::on_one_line(&error)),
        },
        Command::Log(command) => match maintenance::run(&command, &loaded.config) {
            Ok(()) => ExitCode::SUCCESS,
            // As of everything else that is written to stdout.
            Err(error) if maintenance::has_reader_left(&error) => ExitCode::from(FAILURE),
            Err(error) => fail(&causes::on_one_line(error.as_ref())),
        },
        Command::Auth(command) => match issuing::run(&command, &loaded.config) {
            Ok(text) => write(&text),
            Err(error) => fail(&causes::on_one_line(error.as_ref())),
        },
    }
}

/// Looks at the files that the configuration names, if asked to: elsewhere than where the server is to run they may not be there.
fn check(config: &Config, files: bool) -> ExitCode {
    let faults = if files { server::faults(config) } else { Vec::new() };
    if faults.is_empty() {
        return write("the configuration is valid\n");
    }
    faults.iter().for_each(|fault| complain(fault));
    ExitCode::from(USAGE)
}

fn run(config: Config) -> ExitCode {
    let log_format = config.telemetry.log_format;
    let (telemetry, written) = match telemetry::init(&config.telemetry, server::BUCKETS) {
        Ok(set_up) => set_up,
        Err(error) => return fail(&error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format_args!("cannot start the runtime: {error}")),
    };
    let result = runtime.block_on(server::run(config, telemetry));
    // A look-up of a host name, such as of a NATS server, may still be blocked: nobody waits for it.
    runtime.shutdown_timeout(LAST_THREADS);
    let failed = result.err().map(|error| causes::on_one_line(error.as_ref()));
    // Whoever reads the log reads no other lines.
    let in_log = log_format == LogFormat::Json && tracing::enabled!(tracing::Level::ERROR);
    if let Some(error) = failed.as_ref().filter(|_| in_log) {
        tracing::error!(error, "the server ends");
    }
    // What was logged stands before what is said last.
    in_time(move || drop(written));
    match failed {
        None => ExitCode::SUCCESS,
        Some(_) if in_log => ExitCode::from(FAILURE),
        Some(error) => fail(&error),
    }
}

fn ask(health: &Health, config: &Config) -> ExitCode {
    let path = if health.live { "/livez" } else { "/readyz" };
    let target = match &health.url {
        Some(url) => probe::Target::from_url(url),
        None => probe::Target::new(config.http.address, path, config.http.tls.cert_file.is_some()),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let answered = target.and_then(|target| runtime.block_on(target.ask(health.timeout)));
    runtime.shutdown_background();
    match answered {
        Ok(answer) => write(&answer),
        Err(error) => fail(&error),
    }
}

/// Writes to stdout; whoever reads it may have left.
fn write(text: &str) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(FAILURE),
        Err(error) => fail(&format_args!("cannot write to stdout: {error}")),
    }
}

fn refuse(errors: &Errors) -> ExitCode {
    for error in &errors.0 {
        complain(error);
    }
    ExitCode::from(USAGE)
}

fn fail(error: &dyn fmt::Display) -> ExitCode {
    complain(error);
    ExitCode::from(FAILURE)
}

/// Says what is wrong on one line of stderr; without a stderr there is nobody to tell.
fn complain(error: &dyn fmt::Display) {
    let line = error.to_string().replace(['\n', '\r'], " ");
    in_time(move || drop(writeln!(io::stderr(), "tertulia-server: {line}")));
}

/// Does what is done last, but waits for it no longer than this: whoever reads stderr may have stopped, and a server that has ended and does not
/// go is not started again.
fn in_time(last: impl FnOnce() + Send + 'static) {
    const PATIENCE: Duration = Duration::from_secs(2);
    let (done, waiting) = mpsc::channel();
    let doing = move || {
        last();
        // Nobody may be waiting any more.
        done.send(()).ok();
    };
    // Without a thread for it there is nobody to tell.
    if thread::Builder::new().name("last".to_owned()).spawn(doing).is_ok() {
        waiting.recv_timeout(PATIENCE).ok();
    }
}
