//! `tertulia-server log …`: what operators do with the data directory of a server that does not run.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, bail};
use tertulia_server::config::Config;
use tertulia_server::log::Engine;
use tertulia_server::log::embedded::{self, DirectoryStats, Forgotten, OfflineError, Verified};
use tertulia_server::telemetry;

use crate::cli::{Export, ExportFormat, Log, Report, ReportFormat};

/// Does what was asked, and writes what came of it to stdout.
///
/// # Errors
/// What was found, where, and what to do about it.
pub(crate) fn run(command: &Log, config: &Config) -> anyhow::Result<()> {
    if config.log.engine != Engine::Embedded {
        bail!("log.engine is not embedded: only that engine has a data directory to look at");
    }
    // What is repaired is told in the log, on stderr. Its upkeep needs a runtime, and there is nothing to keep up.
    let _telemetry = telemetry::init(&config.telemetry, &[])?;
    let directory = &config.log.data_dir;
    match command {
        Log::Verify(report) => {
            let verified = embedded::verify(directory)?;
            tell(report, &verified, &about_verified(directory, &verified))
        }
        Log::Stats(report) => {
            let stats = embedded::stats(directory)?;
            tell(report, &stats, &about_stats(&stats))
        }
        Log::Export(options) => export(options, directory),
        Log::Backup(backup) => {
            let copied = embedded::back_up(directory, &backup.to)?;
            let text = format!("copied {} groups to {}\n", copied.groups, backup.to.display());
            io::stdout().write_all(text.as_bytes()).context("cannot tell what was done")
        }
        Log::Forget => {
            let text = about_forgotten(directory, &embedded::forget_commit_log(directory)?);
            io::stdout().write_all(text.as_bytes()).context("cannot tell what was done")
        }
    }
}

fn about_forgotten(directory: &Path, forgotten: &Forgotten) -> String {
    let Forgotten { file, offset, groups, messages } = forgotten;
    let from = match file {
        Some(file) => format!("what stood in the commit log from byte {offset} of {file} on"),
        None => "all that stood in the commit log".to_owned(),
    };
    format!("{} goes on without {from}: it has {groups} groups with {messages} messages\n", directory.display())
}

fn tell(report: &Report, found: &impl serde::Serialize, text: &str) -> anyhow::Result<()> {
    let text = match report.format {
        ReportFormat::Text => text.to_owned(),
        ReportFormat::Json => serde_json::to_string(found).context("cannot write what was found")? + "\n",
    };
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot write what was found")
}

fn about_verified(directory: &Path, verified: &Verified) -> String {
    let Verified { groups, messages, replayed, tables_whole } = verified;
    let mut text = format!("{} is whole: {groups} groups with {messages} messages\n", directory.display());
    if *replayed > 0 {
        text.push_str(&format!("{replayed} of them were in the commit log alone and are in the tables now\n"));
    }
    if !tables_whole {
        text.push_str("the tables had not been closed and were repaired\n");
    }
    text
}

fn about_stats(stats: &DirectoryStats) -> String {
    let DirectoryStats { groups, messages, table_bytes, commit_log_bytes } = stats;
    let rows = [
        ("groups", *groups),
        ("messages", *messages),
        ("bytes of the tables", *table_bytes),
        ("bytes of the commit log", *commit_log_bytes),
    ];
    rows.iter().map(|(what, number)| format!("{number:>16} {what}\n")).collect()
}

fn export(options: &Export, directory: &Path) -> anyhow::Result<()> {
    let ExportFormat::Jsonl = options.format;
    match &options.output {
        None => drop(embedded::export(directory, &options.group, &mut BufWriter::new(io::stdout().lock()))?),
        Some(path) => {
            let cannot = || format!("cannot write the export to {}", path.display());
            let file = File::create_new(path).with_context(cannot)?;
            let mut out = BufWriter::new(file);
            let exported = embedded::export(directory, &options.group, &mut out);
            let synced = out.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| file.sync_all());
            let is_all_there_is = matches!(&exported, Ok(_) | Err(OfflineError::Incomplete { .. }));
            if !is_all_there_is || synced.is_err() {
                // It is ours, and what is in it is not all that can be had: the next attempt should not fail for it.
                drop(fs::remove_file(path));
            }
            if is_all_there_is {
                synced.with_context(cannot)?;
            }
            let count = exported?;
            writeln!(io::stdout(), "wrote {count} messages to {}", path.display())
                .context("cannot tell what was done")?;
        }
    }
    Ok(())
}

/// Whether the output was not written because nobody reads it any more.
pub(crate) fn has_reader_left(error: &anyhow::Error) -> bool {
    let is_broken_pipe = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(is_broken_pipe))
}

#[cfg(test)]
mod tests {
    use tertulia_server::causes::on_one_line;
    use tertulia_server::log::embedded::OpenError;

    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let opened = Err::<(), _>(OpenError::NotWritable { path: "data".into(), source: denied() });
        assert_eq!(
            on_one_line(opened.context("cannot open the log").unwrap_err().as_ref()),
            "cannot open the log: cannot write in the data directory, at data: permission denied; make it writable for this user, or set \
             log.data_dir"
        );
        let written = Err::<(), _>(denied()).context("cannot write the export to dogs.jsonl");
        assert_eq!(
            on_one_line(written.unwrap_err().as_ref()),
            "cannot write the export to dogs.jsonl: permission denied"
        );
    }

    #[test]
    fn a_reader_that_has_left_is_told_from_other_errors() {
        let exported = |kind: io::ErrorKind| anyhow::Error::from(OfflineError::Output(kind.into()));
        assert!(has_reader_left(&exported(io::ErrorKind::BrokenPipe)));
        assert!(!has_reader_left(&exported(io::ErrorKind::StorageFull)));
    }
}
