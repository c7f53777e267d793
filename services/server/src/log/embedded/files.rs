//! The commit log's files: made, handed out, taken back.
//!
//! Making a file means writing all of it, so that a later append changes no metadata (its fsync is then one flush) and finds its
//! space reserved. That takes time, so a thread of its own does it ahead, in slices that no append has to wait behind. A
//! file whose blocks are all applied is renamed and used again.
//!
//! The same thread watches the space on the disk, and whether what the engine has open is still where it was.

mod make;
mod watch;

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::disk::{Disk, DiskFile, Identity, in_place, is_full};
use super::frame::{FileHeader, PAGE, pages};
use super::quota::Refused;
use super::scan::file_name;
use super::trouble::{Cause, Trouble};
use crate::log::metrics::Volume;

/// What the names of files begin with that are ready to be used.
pub(crate) const SPARE: &str = "spare-";
/// How often the free space is looked at, and how soon something that failed is tried again.
const WATCH: Duration = Duration::from_millis(250);
/// How long a rotation waits for a file before the append is refused.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the rest of the engine takes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Demand {
    /// Bytes of the tables.
    pub(crate) tables: u64,
    /// Bytes of the commit log that the tables have to take over.
    pub(crate) unapplied: u64,
    /// Bytes that the tables take over without a larger file, as far as that is known.
    pub(crate) room: u64,
    /// Whether the tables could not be written when that was tried last.
    pub(crate) is_failing: bool,
}

/// What bounds the files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of a file.
    pub(crate) segment: u64,
    /// Files held ready.
    pub(crate) spares: usize,
    /// Bytes that stay free on the file system.
    pub(crate) reserve: u64,
    /// Bytes that the directory may take; 0 for any.
    pub(crate) disk: u64,
}

/// A file that is written.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) number: u64,
    pub(crate) size: u64,
}

#[derive(Debug)]
struct Spare {
    name: String,
    file: Arc<dyn DiskFile>,
    size: u64,
}

/// A file in the chain.
#[derive(Debug)]
struct Live {
    number: u64,
    size: u64,
    identity: Identity,
    /// Kept open, so that its identity is given to no other file, and what somebody removes can be saved.
    _file: Arc<dyn DiskFile>,
}

#[derive(Debug, Default)]
struct State {
    spares: VecDeque<Spare>,
    /// Files in the chain that may still be needed, oldest first.
    live: VecDeque<Live>,
    /// Files that nobody needs any more.
    retired: VecDeque<(String, u64)>,
    next_spare: u64,
    /// What must stay free for the tables, as was last known.
    kept_free: u64,
    /// Whether so little is free that it matters how much room the tables have.
    is_short: bool,
    /// What was last known to be taken of what the directory may take.
    used: u64,
    /// The last file that was to be made was more than may be written.
    refused: Option<Refused>,
    error: Option<String>,
    closed: bool,
}

/// The files of the commit log.
#[derive(Debug)]
pub(crate) struct Files {
    disk: Arc<dyn Disk>,
    limits: Limits,
    trouble: Arc<Trouble>,
    volume: Volume,
    state: Mutex<State>,
    /// Something for the thread to do.
    wanted: Condvar,
    /// A spare file has come, or an error.
    ready: Condvar,
}

impl Files {
    /// Removes what an earlier log left: a block in a spare file may have the number of one of a log that begins anew.
    pub(crate) fn forget_spares(disk: &dyn Disk) -> io::Result<()> {
        for name in disk.list()?.into_iter().filter(|name| name.starts_with(SPARE)) {
            disk.remove(&name)?;
        }
        disk.sync_dir()
    }

    /// Takes over what is in the directory: whole spare files are used, the others removed, and the files of the
    /// earlier commit log are recycled once [`Files::retire`] says so.
    pub(crate) fn new(disk: Arc<dyn Disk>, limits: Limits, trouble: Arc<Trouble>, found: &[u64]) -> io::Result<Self> {
        let segment = pages(limits.segment.max(2 * PAGE));
        let limits = Limits { segment, ..limits };
        let mut state = State { kept_free: limits.reserve, ..State::default() };
        for name in disk.list()?.into_iter().filter(|name| name.starts_with(SPARE)) {
            let number = name.strip_prefix(SPARE).and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
            state.next_spare = state.next_spare.max(number + 1);
            let file = disk.open(&name, false)?;
            if file.len()? == segment && state.spares.len() < limits.spares.max(1) {
                state.spares.push_back(Spare { name, file, size: segment });
            } else {
                disk.remove(&name)?;
            }
        }
        for &number in found {
            let file = disk.open(&file_name(number), false)?;
            state.live.push_back(Live { number, size: file.len()?, identity: file.identity()?, _file: file });
        }
        let (wanted, ready) = (Condvar::new(), Condvar::new());
        Ok(Self { disk, limits, trouble, volume: Volume::new(), state: Mutex::new(state), wanted, ready })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a file that follows what `header.previous` names and has room for `need` bytes of blocks. When this returns, the
    /// file and its header are on the disk, and what may stand after the previous position is void.
    pub(crate) fn begin(&self, header: FileHeader, need: u64) -> io::Result<Segment> {
        let spare = self.take(need + PAGE)?;
        let name = file_name(header.file);
        let begun = spare.file.write_at(&header.encode(), 0).and_then(|()| spare.file.sync());
        let identity = match begun.and_then(|()| spare.file.identity()) {
            Ok(identity) => identity,
            Err(error) => {
                // What the file holds now is unknown: it is not used again.
                self.discard(&spare.name);
                return Err(error);
            }
        };
        if let Err(error) = self.in_place() {
            self.state().spares.push_front(spare);
            return Err(error);
        }
        // Renamed only now: a file under a commit log's name always has its header.
        if let Err(error) = self.disk.rename(&spare.name, &name) {
            self.discard(&spare.name);
            return Err(error);
        }
        let synced = self.disk.sync_dir();
        // Of one whose name may not last nothing is used: it goes, lest each attempt leave one. If a power cut brings it back, it says
        // of the log before it what the next one does, and it has a lower number. If it cannot go, it is given back as others are.
        if synced.is_ok() || self.remove(&name).is_err() {
            let _file = Arc::clone(&spare.file);
            self.state().live.push_back(Live { number: header.file, size: spare.size, identity, _file });
        }
        self.wanted.notify_one();
        synced?;
        Ok(Segment { file: spare.file, number: header.file, size: spare.size })
    }

    fn take(&self, need: u64) -> io::Result<Spare> {
        if need > self.limits.segment {
            // One append larger than a file gets a file of its own.
            let size = pages(need);
            let (name, kept_free) = {
                let mut state = self.state();
                (self.next_name(&mut state), state.kept_free)
            };
            if self.disk.space()?.available < kept_free.saturating_add(size) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            return self.make(name, size, &|| ());
        }
        let begun = Instant::now();
        let mut state = self.state();
        loop {
            if let Some(reason) = self.trouble.of(Cause::Displaced) {
                return Err(io::Error::other(reason));
            }
            if let Some(spare) = state.spares.pop_front() {
                self.wanted.notify_one();
                return Ok(spare);
            }
            if let Some(error) = &state.error {
                return Err(io::Error::other(error.clone()));
            }
            if state.closed || begun.elapsed() > PATIENCE {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no file of the commit log is ready"));
            }
            self.wanted.notify_one();
            state = self.ready.wait_timeout(state, WATCH).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Gives back the files before `number`: what they hold is in the tables.
    pub(crate) fn retire(&self, number: u64) {
        let mut state = self.state();
        while let Some(oldest) = state.live.pop_front_if(|oldest| oldest.number < number) {
            state.retired.push_back((file_name(oldest.number), oldest.size));
        }
        self.wanted.notify_one();
    }

    /// Makes the first spare file, if there is none: what a start needs.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        let name = {
            let mut state = self.state();
            if !state.spares.is_empty() {
                return Ok(());
            }
            self.next_name(&mut state)
        };
        let spare = self.make(name, self.limits.segment, &|| ())?;
        self.state().spares.push_back(spare);
        Ok(())
    }

    /// Bytes that the commit log takes on the disk.
    pub(crate) fn bytes(&self) -> u64 {
        let state = self.state();
        let spares: u64 = state.spares.iter().map(|spare| spare.size).sum();
        let live: u64 = state.live.iter().map(|live| live.size).sum();
        let retired: u64 = state.retired.iter().map(|(_, size)| size).sum();
        spares + live + retired
    }

    /// Bytes of a file.
    pub(crate) fn segment(&self) -> u64 {
        self.limits.segment
    }

    /// Ends the thread, and what it is making.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.wanted.notify_all();
        self.ready.notify_all();
    }

    /// The thread: keeps spare files ready and watches the space. `demand` tells what the rest of the engine takes and will take.
    pub(crate) fn run(&self, demand: &dyn Fn() -> Demand) {
        let mut watched: Option<Instant> = None;
        let mut is_done = false;
        loop {
            let mut state = self.state();
            if state.closed {
                return;
            }
            let idle = state.retired.is_empty() && state.spares.len() >= self.limits.spares.max(1);
            if idle || is_done || state.error.is_some() {
                state = self.wanted.wait_timeout(state, WATCH).unwrap_or_else(PoisonError::into_inner).0;
            }
            if state.closed {
                return;
            }
            drop(state);
            if watched.is_none_or(|at| at.elapsed() >= WATCH) {
                self.watch(demand());
                watched = Some(Instant::now());
            }
            let result = self.provide(demand);
            let mut state = self.state();
            if state.closed {
                return;
            }
            if let Err(error) = &result
                && state.error.is_none()
            {
                tracing::warn!(%error, "cannot make a file of the commit log; trying again");
            }
            is_done = matches!(result, Ok(false));
            state.error = result.err().map(|error| error.to_string());
            drop(state);
            self.ready.notify_all();
        }
    }

    /// Does one thing: recycles a file, or makes one, beside which it watches as ever. Answers whether there was something that could be done.
    pub(crate) fn provide(&self, demand: &dyn Fn() -> Demand) -> io::Result<bool> {
        self.in_place()?;
        let mut state = self.state();
        let enough = state.spares.len() >= self.limits.spares.max(1);
        if let Some((name, size)) = state.retired.pop_front() {
            let fits = !enough && size == self.limits.segment;
            let spare = self.next_name(&mut state);
            drop(state);
            let done = if fits { self.recycle(&name, spare, size) } else { self.remove(&name) };
            if done.is_err() {
                self.state().retired.push_front((name, size));
            }
            return done.map(|()| true);
        }
        if enough {
            return Ok(false);
        }
        let has_spare = !state.spares.is_empty();
        let refused = state.refused;
        let short = |error: io::Error| if has_spare { Ok(false) } else { Err(error) };
        if let Some(refused) = refused.filter(|refused| has_spare || refused.holds(Instant::now())) {
            return short(refused.error());
        }
        let name = self.next_name(&mut state);
        drop(state);
        // The commit log must not take the space that the tables need to take over what is in it.
        if self.disk.space()?.available < self.kept_free(demand()).saturating_add(self.limits.segment) {
            return short(io::ErrorKind::StorageFull.into());
        }
        let watched = Cell::new(Instant::now());
        let watch = || {
            if watched.get().elapsed() < WATCH {
                return self.watch_names();
            }
            self.watch(demand());
            watched.set(Instant::now());
        };
        match self.make(name, self.limits.segment, &watch) {
            Ok(spare) => {
                let mut state = self.state();
                state.refused = None;
                state.spares.push_back(spare);
                Ok(true)
            }
            Err(error) if is_full(&error) => {
                self.state().refused = Some(Refused::again(refused, &error, Instant::now()));
                short(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Asked before anything is done by name: under the name of the directory there may be another one, of another server.
    fn in_place(&self) -> io::Result<()> {
        let told = self.trouble.of(Cause::Displaced);
        told.map_or_else(|| in_place(&*self.disk), |reason| Err(io::Error::other(reason)))
    }

    fn next_name(&self, state: &mut State) -> String {
        let name = format!("{SPARE}{}", state.next_spare);
        state.next_spare += 1;
        name
    }
}
