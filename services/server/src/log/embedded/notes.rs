//! Notes in a file of their own beside the log: few, and written whole.
//!
//! The file is never changed: a new one is written and synced under another name, and then takes its name. It begins with a line
//! that tells the format and a checksum of what follows, which is one note in JSON a line.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;

use super::disk::{Disk, in_place};
use super::open::OpenError;
use super::trouble::{Cause, Trouble};
use crate::log::clock::running;
use crate::log::notes::{self, Following, Note, NoteError, Notes};
use crate::log::now_ms;

/// The file.
pub(super) const FILE: &str = "notes";
/// The next one, while it is written.
pub(super) const NEXT: &str = "notes.next";
/// The format of the file.
const VERSION: u32 = 1;
const TITLE: &str = "tertulia-notes";
/// A note is forgotten so long after its end, by the time that passes: a clock that is ahead for a moment ends none for good. Short ones sooner,
/// of which there may be many: after as long as they held, and this at least.
const GRACE: Duration = Duration::from_secs(3600);
const SHORT_GRACE: Duration = Duration::from_secs(600);

/// The notes of a data directory.
#[derive(Debug)]
pub(crate) struct NoteFile {
    disk: Arc<dyn Disk>,
    trouble: Arc<Trouble>,
    state: Mutex<State>,
    /// Held by who writes the file; what it holds is the change up to which it is written, or nothing once it is written no more.
    written: Arc<tokio::sync::Mutex<Option<u64>>>,
}

#[derive(Debug, Default)]
struct State {
    notes: BTreeMap<String, Kept>,
    /// Grows with each change.
    changes: u64,
    closed: bool,
}

#[derive(Debug)]
struct Kept {
    note: Note,
    /// Until when, by [`running`].
    until: Duration,
}

impl Kept {
    /// One that is put in now.
    fn new(note: Note) -> Self {
        Self::with(note, SHORT_GRACE)
    }

    /// One of which it is not known for how long it was to hold.
    fn found(note: Note) -> Self {
        Self::with(note, GRACE)
    }

    fn with(note: Note, least_grace: Duration) -> Self {
        let left = Duration::from_millis(note.until.saturating_sub(now_ms()));
        let grace = left.clamp(least_grace, GRACE);
        Self { note, until: running().saturating_add(left).saturating_add(grace) }
    }

    /// Whether its time is over by both clocks, `now` by [`running`].
    fn is_over(&self, now: Duration) -> bool {
        self.until <= now && self.note.until <= now_ms()
    }
}

fn closed() -> NoteError {
    NoteError { reason: "the log is closed".to_owned() }
}

impl NoteFile {
    /// The notes that are there.
    pub(super) fn open(disk: Arc<dyn Disk>, trouble: Arc<Trouble>) -> Result<Self, OpenError> {
        let notes = load(&*disk)?.into_iter().map(|note| (note.key.clone(), Kept::found(note))).collect();
        // What is there was the first change.
        let state = State { notes, changes: 1, ..State::default() };
        let written = Arc::new(tokio::sync::Mutex::new(Some(0)));
        Ok(Self { disk, trouble, state: Mutex::new(state), written })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The notes that hold now, as of the newest change.
    pub(super) fn all(&self) -> Vec<notes::Kept> {
        let (now, state) = (now_ms(), self.state());
        let holding = state.notes.values().filter(|kept| kept.note.until > now);
        holding.map(|kept| notes::Kept { change: state.changes, note: kept.note.clone() }).collect()
    }

    /// What is in the file, or will be.
    pub(super) fn kept(&self) -> Vec<Note> {
        self.state().notes.values().map(|kept| kept.note.clone()).collect()
    }

    /// Keeps nothing any more.
    pub(super) fn close(&self) {
        self.state().closed = true;
    }

    /// Waits for who writes the file; nobody does any more. Blocks.
    pub(super) fn end(&self) {
        *self.written.blocking_lock() = None;
    }

    /// Puts a note in, at the time `now` by [`running`]; answers which change that was, and what was in its place.
    fn put(&self, note: &Note, now: Duration) -> Result<(u64, Option<Kept>), NoteError> {
        let mut state = self.state();
        if state.closed {
            return Err(closed());
        }
        if let Some(reason) = self.trouble.of(Cause::Displaced) {
            return Err(NoteError { reason });
        }
        state.notes.retain(|_, kept| !kept.is_over(now));
        let before = match note.until > now_ms() {
            true => state.notes.insert(note.key.clone(), Kept::new(note.clone())),
            false => state.notes.remove(&note.key),
        };
        state.changes += 1;
        Ok((state.changes, before))
    }

    /// Takes back what could not be written, unless it was changed again.
    fn take_back(&self, note: &Note, before: Option<Kept>) {
        let mut state = self.state();
        let is_still = match state.notes.get(&note.key) {
            Some(now) => now.note == *note,
            None => note.until <= now_ms(),
        };
        if is_still {
            match before {
                Some(before) => drop(state.notes.insert(note.key.clone(), before)),
                None => drop(state.notes.remove(&note.key)),
            }
            state.changes += 1;
        }
    }

    /// Writes the file unless that is done up to `change`. Whoever waits meanwhile finds its change written as well.
    async fn write_up_to(self: Arc<Self>, change: u64) -> Result<(), NoteError> {
        let mut written = Arc::clone(&self.written).lock_owned().await;
        if written.ok_or_else(closed)? >= change {
            return Ok(());
        }
        // The guard goes with the work: nobody else writes while it is under way, though who asked for it may be gone.
        let writing = tokio::task::spawn_blocking(move || {
            let (notes, changes): (Vec<Note>, u64) = {
                let state = self.state();
                (state.notes.values().map(|kept| kept.note.clone()).collect(), state.changes)
            };
            write(&*self.disk, &notes)?;
            *written = Some(changes);
            Ok(())
        });
        let failed = |reason: String| NoteError { reason };
        let result: io::Result<()> = writing.await.map_err(|error| failed(error.to_string()))?;
        result.map_err(|error| failed(error.to_string()))
    }
}

/// The notes of a directory, as a handle that can be shared.
#[derive(Debug, Clone)]
pub(crate) struct Handle(pub(super) Arc<NoteFile>);

impl Notes for Handle {
    fn keep(&self, note: Note) -> BoxFuture<'static, Result<u64, NoteError>> {
        let file = Arc::clone(&self.0);
        Box::pin(async move {
            let (change, before) = file.put(&note, running())?;
            let kept = Arc::clone(&file).write_up_to(change).await;
            if kept.is_err() {
                file.take_back(&note, before);
            }
            kept.map(|()| change)
        })
    }

    fn follow(&self) -> BoxFuture<'static, Result<Following, NoteError>> {
        // Nobody else changes them.
        let nothing_more = futures_util::stream::pending().boxed();
        Box::pin(std::future::ready(Ok((self.0.all(), nothing_more))))
    }
}

/// Writes the file anew, durably; not where another process may have one of these names by now.
pub(super) fn write(disk: &dyn Disk, notes: &[Note]) -> io::Result<()> {
    let mut body = String::new();
    for note in notes {
        body += &serde_json::to_string(note)?;
        body.push('\n');
    }
    let mut text = String::new();
    // A text takes everything.
    writeln!(text, "{TITLE} {VERSION} {:08x}", crc32fast::hash(body.as_bytes())).unwrap_or_default();
    text += &body;
    in_place(disk)?;
    let file = disk.open(NEXT, true)?;
    file.set_len(0)?;
    file.write_at(text.as_bytes(), 0)?;
    file.sync()?;
    drop(file);
    in_place(disk)?;
    disk.rename(NEXT, FILE)?;
    disk.sync_dir()
}

/// Reads the file, with notes whose time may be over; nothing if there is none.
pub(super) fn load(disk: &dyn Disk) -> Result<Vec<Note>, OpenError> {
    let path = disk.path(FILE);
    let damaged = |reason: String| OpenError::Notes { path: path.clone(), reason };
    let file = match disk.open(FILE, false) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(OpenError::Io { action: "open", path, source }),
    };
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
        file.read_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|source| OpenError::Io { action: "read", path: path.clone(), source })?;
    let text = String::from_utf8(bytes).map_err(|error| damaged(error.to_string()))?;
    let (title, body) = text.split_once('\n').ok_or_else(|| damaged("it does not begin with its format".to_owned()))?;
    let fields: Vec<&str> = title.split(' ').collect();
    let [TITLE, version, sum] = fields[..] else {
        return Err(damaged("it does not begin with its format".to_owned()));
    };
    let found: u32 = version.parse().map_err(|_| damaged("its format is no number".to_owned()))?;
    if found != VERSION {
        return Err(OpenError::Version { path, found, supported: VERSION });
    }
    if sum != format!("{:08x}", crc32fast::hash(body.as_bytes())) {
        return Err(damaged("its checksum is another".to_owned()));
    }
    let notes = body.lines().map(serde_json::from_str).collect::<Result<Vec<Note>, _>>();
    notes.map_err(|error| damaged(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::embedded::simulated::SimulatedDisk;

    #[test]
    fn a_clock_that_is_ahead_for_a_moment_ends_no_note_for_good() {
        let note = |key: &str, until| Note { key: key.into(), text: String::new(), until };
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::default());
        // To a clock that is ahead this one has ended.
        write(&*disk, &[note("bob", now_ms() - 1_000)]).unwrap();
        let file = NoteFile::open(Arc::clone(&disk), Arc::default()).unwrap();
        let keys = |notes: Vec<Note>| notes.into_iter().map(|note| note.key).collect::<Vec<_>>();
        let all = |file: &NoteFile| file.all().into_iter().map(|kept| kept.note).collect();
        let later = now_ms() + 60_000;
        file.put(&note("ada", later), running()).unwrap();
        assert_eq!((keys(file.kept()), keys(all(&file))), (vec!["ada".into(), "bob".into()], vec!["ada".into()]));
        file.put(&note("cat", later), running() + GRACE).unwrap();
        assert_eq!(keys(file.kept()), ["ada", "cat"]);
        // One that held for a moment is not kept as long, but none goes whose end the clock has yet to tell.
        file.put(&note("dan", now_ms() + 1), running()).unwrap();
        let both = ["ada", "cat"];
        while now_ms() <= later - 60_000 + 1 {
            std::thread::yield_now();
        }
        for (after, names) in [(SHORT_GRACE / 2, &["ada", "cat", "dan"][..]), (2 * SHORT_GRACE, &both[..])] {
            file.put(&note("ada", later), running() + after).unwrap();
            assert_eq!(keys(file.kept()), names);
        }
    }
}
