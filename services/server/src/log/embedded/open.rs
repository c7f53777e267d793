//! Opening: locks the directory, checks what is there, brings the tables up to the commit log, and starts the threads.

use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::applier::Applier;
use super::apply::{Upkeep, apply};
use super::backlog::{Backlog, Block, Triggers};
use super::commit::Writer;
use super::complaints::Complaints;
use super::disk::{Directory, Disk, is_full};
use super::files::{Demand, Files, Limits};
use super::frame::{FIRST_BLOCK, Position, Step, random_step};
use super::holes::Holes;
use super::metrics::Metrics;
use super::notes::NoteFile;
pub use super::open_error::OpenError;
use super::queue::Queue;
use super::renewal::renew_epochs;
use super::retention::Rules;
use super::scan;
use super::spared::Spared;
use super::sweep::Sweep;
use super::table::{self, TableError, Tables, meta};
use super::tail::Tail;
use super::trouble::{Cause, Trouble};
use super::usage::Usage;
use super::{Core, Embedded, OWNERS, Threads};
use crate::log::ReadError;
use crate::log::clock::Clock;
use crate::log::config::Config;

/// Opens the log in `config.data_dir`, and makes it if there is none. Blocks while it reads what a crash left in the commit log.
///
/// # Errors
/// What was found, where, and what to do about it.
pub fn open(config: &Config) -> Result<Arc<Embedded>, OpenError> {
    let disk = Directory::lock(&config.data_dir)?;
    start(Arc::new(disk), config)
}

/// The tables, brought up to the end of the commit log.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) tables: Tables,
    pub(crate) log: u64,
    /// Whether there was a commit log before; not where it was made anew, restored, or given up.
    pub(crate) in_use: bool,
    /// The end of the last valid block.
    pub(crate) end: Position,
    /// The numbers of all files of the commit log.
    pub(crate) files: Vec<u64>,
    /// Messages that came from the commit log.
    pub(crate) replayed: usize,
}

fn tables_error(disk: &dyn Disk) -> impl Fn(TableError) -> OpenError {
    let path = disk.path(table::FILE);
    move |error| {
        let (path, reason) = (path.clone(), error.to_string());
        if error.is_full() { OpenError::Full { path, reason } } else { OpenError::Tables { path, reason } }
    }
}

/// Opens the tables and checks that they fit the directory.
pub(crate) fn open_tables(disk: &Arc<dyn Disk>, cache: usize) -> Result<Tables, OpenError> {
    let failed = tables_error(&**disk);
    let listed = disk.list();
    let names = listed.map_err(|source| OpenError::Io { action: "list the files of", path: disk.path(""), source })?;
    let is_new = !names.iter().any(|name| name == table::FILE);
    if is_new && names.iter().any(|name| name.starts_with("commit-")) {
        return Err(OpenError::MissingFile { path: disk.path(table::FILE) });
    }
    // Which log a file belongs to.
    let log = crate::random::number();
    let tables = Tables::open(Arc::clone(disk), cache, log).map_err(&failed)?;
    let found = tables.number(meta::VERSION).map_err(&failed)?;
    if found != table::VERSION {
        let (found, supported) = (found as u32, table::VERSION as u32);
        return Err(OpenError::Version { path: disk.path(table::FILE), found, supported });
    }
    Ok(tables)
}

/// Opens the tables and moves into them what the commit log has beyond them.
pub(crate) fn recover(disk: &Arc<dyn Disk>, config: &Config, rules: &Rules) -> Result<Recovered, OpenError> {
    let begun = Instant::now();
    let failed = tables_error(&**disk);
    let tables = open_tables(disk, config.table_cache_bytes)?;
    let log = tables.number(meta::LOG).map_err(&failed)?;
    let applied = tables.applied().map_err(&failed)?;
    let in_use = tables.number(meta::IN_USE).map_err(&failed)? > 0;
    let found = scan::find(&**disk, log, applied, in_use)?;

    let mut waiting: Vec<Arc<Block>> = Vec::new();
    let (mut waiting_records, mut replayed) = (0, 0);
    // Only what must be is read and written now. Retention has time until the engine runs, and knows then whom it can believe about the time.
    let upkeep = Upkeep { rules, due: &[], spared: &Spared::all(), now: None };
    let take_over = |waiting: &[Arc<Block>]| {
        apply(&tables, waiting, upkeep).map(drop).map_err(|error| match failed(error) {
            OpenError::Tables { path, reason } => OpenError::TakeOver { path, reason },
            error => error,
        })
    };
    let scanned = found.replay(&**disk, &mut |block| {
        let block = Block::new(block.position, block.operations, 0);
        waiting_records += block.records;
        waiting.push(Arc::new(block));
        if waiting_records >= config.apply_records {
            take_over(&waiting)?;
            replayed += waiting_records;
            waiting.clear();
            waiting_records = 0;
        }
        Ok(())
    })?;
    if !waiting.is_empty() {
        take_over(&waiting)?;
        replayed += waiting_records;
    }
    if let (Some(torn), Some(&newest)) = (scanned.torn, found.files.last()) {
        let file = disk.path(&scan::file_name(newest));
        tracing::warn!(
            file = %file.display(),
            offset = torn.offset,
            bytes = torn.bytes,
            "the commit log ends in a torn tail, as a crash leaves it: cut"
        );
    }
    if replayed > 0 {
        tracing::info!(messages = replayed, took = ?begun.elapsed(), "took messages from the commit log into the tables");
    }
    Ok(Recovered { tables, log, in_use, end: scanned.end, files: found.files, replayed })
}

/// Opens the log on a disk.
pub(crate) fn start(disk: Arc<dyn Disk>, config: &Config) -> Result<Arc<Embedded>, OpenError> {
    start_with(disk, config, random_step, Clock::starting())
}

/// As [`start`], with numbers of files that grow by `step`, and ages that are counted to `clock`.
pub(crate) fn start_with(
    disk: Arc<dyn Disk>,
    config: &Config,
    step: Step,
    clock: Clock,
) -> Result<Arc<Embedded>, OpenError> {
    let rules = Arc::new(Rules::new(config));
    let metrics = Metrics::new();
    let trouble = Arc::new(Trouble::default());
    let notes = Arc::new(NoteFile::open(Arc::clone(&disk), Arc::clone(&trouble))?);
    let Recovered { tables, log, in_use, end, files: found, replayed } = recover(&disk, config, &rules)?;
    metrics.replayed_records.set(replayed as f64);
    let tables_failed = tables_error(&*disk);
    let io = |action| {
        let path = disk.path("");
        move |source| OpenError::Io { action, path, source }
    };
    disk.hold(table::FILE).map_err(io("look at the tables in"))?;
    let renewed = renew_epochs(&tables).map_err(&tables_failed)?;
    if renewed > 0 {
        tracing::info!(
            groups = renewed,
            "this is a backup, or its commit log was given up: all groups begin a new epoch"
        );
    }

    let limits = Limits {
        segment: config.segment_bytes,
        spares: config.spare_segments,
        reserve: config.reserve_bytes,
        disk: config.disk_bytes,
    };
    crate::log::metrics::set_limit(config.disk_bytes);
    crate::log::metrics::set_reserve(config.reserve_bytes);
    if !in_use {
        Files::forget_spares(&*disk).map_err(io("remove spare files of"))?;
    }
    let files = Files::new(Arc::clone(&disk), limits, Arc::clone(&trouble), &found);
    let files = Arc::new(files.map_err(io("take over the files of the commit log in"))?);
    let tail = Arc::new(Tail::new(Arc::clone(&rules), config.cache_bytes, config.cache_records));
    let triggers = Triggers {
        records: config.apply_records.max(1),
        bytes: (config.unapplied_bytes / 2).max(1),
        interval: config.apply_interval.max(Duration::from_millis(1)),
    };
    let backlog = Arc::new(Backlog::new(config.unapplied_bytes.max(1), triggers, end.block));
    tables.pace().follow(Arc::clone(&backlog));
    let groups = tables.count().map_err(&tables_failed)?;
    let core = Arc::new(Core {
        disk: Arc::clone(&disk),
        queue: Arc::new(Queue::default()),
        places: Arc::new(Semaphore::new(config.append_queue.clamp(1, Semaphore::MAX_PERMITS))),
        readers: Arc::new(Semaphore::new(config.readers.clamp(1, Semaphore::MAX_PERMITS))),
        owners: Arc::new(Semaphore::new(config.readers.clamp(OWNERS, Semaphore::MAX_PERMITS))),
        tail,
        backlog,
        tables: Arc::new(tables),
        holes: Holes::default(),
        files,
        rules,
        trouble,
        groups: Arc::new(AtomicI64::new(groups as i64)),
        notes,
        metrics: metrics.clone(),
    });

    let loader = Arc::clone(&core);
    let mut writer = Writer {
        log,
        durability: config.durability,
        queue: Arc::clone(&core.queue),
        files: Arc::clone(&core.files),
        tail: Arc::clone(&core.tail),
        backlog: Arc::clone(&core.backlog),
        trouble: Arc::clone(&core.trouble),
        metrics: metrics.clone(),
        load_head: Box::new(move |group| -> Result<_, ReadError> { loader.load(group) }),
        groups: Arc::clone(&core.groups),
        segment: None,
        end,
        offset: FIRST_BLOCK,
        synced: FIRST_BLOCK,
        last_file: found.last().copied().unwrap_or(0).max(end.file),
        step,
    };
    // The first file is begun here: its header makes a torn tail void. A full disk is no reason not to serve reads.
    match core.files.prepare().and_then(|()| writer.rotate(0)) {
        Ok(()) => {
            // The file is on the disk and nothing was acknowledged yet: from here on its absence is noticed. Not where none could be begun,
            // or every later start would miss it. If one is begun after all, this is set with the first blocks that are applied. A crash
            // and somebody who removes the file in the seconds before that go unnoticed; to set it when the file is begun, the tables
            // would have to be written before anything is acknowledged, on a disk that was full a moment ago.
            if core.tables.number(meta::IN_USE).map_err(&tables_failed)? == 0 {
                core.tables.set_number(meta::IN_USE, 1).map_err(&tables_failed)?;
            }
            core.files.retire(writer.last_file);
        }
        Err(error) if is_full(&error) => core.trouble.set(Cause::Commit, Some(error.to_string())),
        Err(source) => return Err(io("begin a file of the commit log in")(source)),
    }
    let applier = Applier {
        tables: Arc::clone(&core.tables),
        rules: Arc::clone(&core.rules),
        tail: Arc::clone(&core.tail),
        backlog: Arc::clone(&core.backlog),
        files: Arc::clone(&core.files),
        trouble: Arc::clone(&core.trouble),
        metrics,
        sweep: Sweep::new(config.sweep_interval),
        complaints: Complaints::default(),
        clock,
        failing_since: None,
    };
    let (files, backlog) = (Arc::clone(&core.files), Arc::clone(&core.backlog));
    let short = Arc::clone(&core.files);
    let usage = Usage::new(Arc::clone(&core.tables), Arc::clone(&core.files), config.disk_bytes);
    let demand = move || {
        // All of the tables is read for that.
        let room = if short.is_short() { usage.room() } else { 0 };
        let (unapplied, is_failing) = (backlog.size().bytes as u64, backlog.is_failing());
        Demand { tables: usage.tables(), unapplied, room, is_failing }
    };
    let threads = Threads {
        writer: Some(spawn("log-commit", &core, move || writer.run())?),
        applier: Some(spawn("log-apply", &core, move || applier.run())?),
        files: Some(spawn("log-files", &core, move || files.run(&demand))?),
    };
    Ok(Arc::new(Embedded { core, threads: Mutex::new(threads) }))
}

/// Stops the engine if one of its threads panics: better no log than half of one.
struct Guard(Arc<Core>);

impl Drop for Guard {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.abort();
            tracing::error!("a thread of the log panicked: nothing is written any more");
            self.0.trouble.set(Cause::Stopped, Some("a thread of the log panicked: restart the server".to_owned()));
        }
    }
}

fn spawn(
    name: &str,
    core: &Arc<Core>,
    run: impl FnOnce() + Send + 'static,
) -> Result<thread::JoinHandle<()>, OpenError> {
    let guard = Guard(Arc::clone(core));
    let work = move || {
        let guard = guard;
        run();
        drop(guard);
    };
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(work);
    spawned.map_err(|source| {
        core.abort();
        OpenError::Thread { source }
    })
}
