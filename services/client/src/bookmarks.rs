//! `--state FILE`: up to where each group was printed, kept from one run to the next.
//!
//! The file has one line for each group: its name, the epoch and the last `seq`, separated by tabs (a name has none). It is
//! replaced as a whole, once a second at most, and never says more than was printed. So a run that ends in an orderly way
//! goes on exactly where it was; after a kill or a power cut, what was printed in the last second comes again.
//!
//! Beside it is `FILE.lock`, which whoever runs with the file holds: two runs would each put back what the other kept.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::session::Position;

/// How often the file is written at most.
const EVERY: Duration = Duration::from_secs(1);

/// The groups and how far they were seen.
pub(crate) type Places = BTreeMap<String, Position>;

/// Why the file is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is something else.
    #[error("line {line} of {} is not a group, an epoch and a number of a message, separated by tabs", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// Somebody else keeps places in it.
    #[error("{} is in use by another tertulia: each needs a file of its own", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The file, and what it is to hold next.
#[derive(Debug)]
pub(crate) struct Bookmarks {
    path: PathBuf,
    /// What it is to hold once so many bytes are printed.
    next: VecDeque<(u64, String)>,
    /// Nothing is noted before.
    due: Option<Instant>,
    /// Whether it could not be written the last time.
    failing: bool,
    /// Locked for as long as this is open.
    _lock: File,
}

impl Bookmarks {
    /// Reads the file, if there is one, and tries to write it.
    ///
    /// # Errors
    /// If it cannot be read or written, is something else, or is in use.
    pub(crate) fn open(path: PathBuf) -> Result<(Self, Places), Error> {
        let path = behind_links(path);
        // What is no file has no place for a lock beside it, and is not to be replaced.
        if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            return Err(Error::Read { path, source: io::Error::other("it is no file") });
        }
        let lock = lock(&path)?;
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(Error::Read { path, source }),
        };
        let places = read(&text).map_err(|line| Error::Line { path: path.clone(), line })?;
        let mut bookmarks = Self { path, next: VecDeque::new(), due: None, failing: false, _lock: lock };
        // Better told now than when something is to be kept.
        bookmarks.write(&text)?;
        Ok((bookmarks, places))
    }

    /// Whether the file could not be written the last time.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing
    }

    /// Whether it is time to look where things stand.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| now >= due)
    }

    /// When it is time to look again, if something waits here, or if there is news.
    pub(crate) fn deadline(&self, news: bool) -> Option<Instant> {
        self.due.filter(|_| news || !self.next.is_empty())
    }

    /// Notes where things stand: so it is once `mark` bytes are printed.
    pub(crate) fn note(&mut self, places: &Places, mark: u64) {
        self.next.push_back((mark, write(places)));
    }

    /// Writes what has become true now that so many bytes are printed. What cannot be written is kept for the next time.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn keep(&mut self, printed: u64, now: Instant) -> Result<(), Error> {
        self.due = Some(now + EVERY);
        let mut newest = None;
        while let Some((_, text)) = self.next.pop_front_if(|(mark, _)| *mark <= printed) {
            newest = Some(text);
        }
        let Some(text) = newest else { return Ok(()) };
        let written = self.write(&text);
        if written.is_err() {
            self.next.push_front((printed, text));
        }
        written
    }

    fn write(&mut self, text: &str) -> Result<(), Error> {
        let written = replace(&self.path, text);
        self.failing = written.is_err();
        written.map_err(|source| Error::Write { path: self.path.clone(), source })
    }
}

/// The places, or the number of the line that is wrong.
fn read(text: &str) -> Result<Places, usize> {
    let place = |line: &str| {
        let mut fields = line.split('\t');
        let (group, epoch, seen) = (fields.next()?, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        fields.next().is_none().then(|| (group.to_owned(), Position { epoch, seen }))
    };
    text.lines().enumerate().map(|(number, line)| place(line).ok_or(number + 1)).collect()
}

fn write(places: &Places) -> String {
    places.iter().map(|(group, place)| format!("{group}\t{}\t{}\n", place.epoch, place.seen)).collect()
}

/// What the path leads to: a link to the file is not to be replaced.
fn behind_links(path: PathBuf) -> PathBuf {
    if let Ok(whole) = path.canonicalize() {
        return whole;
    }
    // The file may be still to come.
    match (path.read_link(), path.parent()) {
        (Ok(target), Some(directory)) => directory.join(target),
        _ => path,
    }
}

/// The path with more at its end.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Takes the lock of the file. It ends with the process, however that ends; what it is held on stays.
fn lock(path: &Path) -> Result<File, Error> {
    let name = beside(path, ".lock");
    let file = File::create(&name).map_err(|source| Error::Write { path: name.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path: path.to_owned() }),
        // Some file systems know no locks.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(file),
        Err(TryLockError::Error(source)) => Err(Error::Write { path: name, source }),
    }
}

/// Whoever reads the file sees what it held before, or all of `text`.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = beside(path, ".new");
    let mut file = File::create(&new)?;
    if let Ok(old) = path.metadata() {
        file.set_permissions(old.permissions())?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    // The new name is kept by its directory. Not all file systems let that be asked for.
    #[cfg(unix)]
    if let Some(directory) = path.parent() {
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        File::open(directory).and_then(|directory| directory.sync_all()).ok();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(seen: u64) -> Places {
        [("two words".to_owned(), Position { epoch: 1_811_000_000_000_123, seen })].into()
    }

    #[test]
    fn what_was_written_is_read_again() {
        assert_eq!(read(&write(&places(7))), Ok(places(7)));
        assert_eq!(read(""), Ok(Places::new()));
        for bad in ["Dogs", "Dogs\t1", "Dogs\t1\tx", "Dogs\t1\t2\t3"] {
            assert_eq!(read(&format!("Cats\t1\t2\n{bad}\n")), Err(2), "{bad}");
        }
    }

    #[test]
    fn the_file_never_says_more_than_was_printed() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("state");
        let held = || read(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let (mut bookmarks, before) = Bookmarks::open(path.clone()).unwrap();
        assert_eq!(before, Places::new());
        let now = Instant::now();
        assert!(bookmarks.is_due(now));
        bookmarks.note(&places(7), 100);
        bookmarks.keep(99, now).unwrap();
        assert_eq!((bookmarks.is_due(now), bookmarks.deadline(false)), (false, Some(now + EVERY)));
        assert_eq!(held(), Places::new());
        bookmarks.note(&places(8), 200);
        bookmarks.keep(150, now).unwrap();
        assert_eq!(held(), places(7));
        bookmarks.keep(200, now).unwrap();
        assert_eq!(held(), places(8));
        assert_eq!((bookmarks.deadline(false), bookmarks.deadline(true)), (None, Some(now + EVERY)));
    }

    #[test]
    fn a_file_of_something_else_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("state");
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        assert!(matches!(Bookmarks::open(path), Err(Error::Line { line: 1, .. })));
        assert!(matches!(Bookmarks::open(home.path().to_owned()), Err(Error::Read { .. })));
    }

    #[test]
    fn a_file_is_for_one_run_at_a_time() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("state");
        let first = Bookmarks::open(path.clone()).unwrap();
        assert!(matches!(Bookmarks::open(path.clone()), Err(Error::InUse { .. })));
        drop(first);
        Bookmarks::open(path).unwrap();
    }

    #[test]
    fn a_place_that_cannot_be_written_is_told_at_the_start() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("none").join("state");
        assert!(matches!(Bookmarks::open(path), Err(Error::Write { .. })));
        let path = home.path().join("state");
        std::fs::create_dir(home.path().join("state.new")).unwrap();
        assert!(matches!(Bookmarks::open(path), Err(Error::Write { .. })));
    }

    #[test]
    fn what_could_not_be_written_is_written_as_soon_as_it_can_be() {
        let home = tempfile::tempdir().unwrap();
        let (path, now) = (home.path().join("state"), Instant::now());
        let (mut bookmarks, _) = Bookmarks::open(path.clone()).unwrap();
        let in_the_way = home.path().join("state.new");
        std::fs::create_dir(&in_the_way).unwrap();
        bookmarks.note(&places(7), 100);
        for _ in 0..2 {
            assert!(matches!(bookmarks.keep(100, now), Err(Error::Write { .. })));
            assert!(bookmarks.is_failing());
        }
        std::fs::remove_dir(in_the_way).unwrap();
        bookmarks.keep(100, now).unwrap();
        assert!(!bookmarks.is_failing());
        assert_eq!(read(&std::fs::read_to_string(path).unwrap()), Ok(places(7)));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_and_the_mode_of_the_file_are_kept() {
        use std::os::unix::fs::{PermissionsExt, symlink};

        let home = tempfile::tempdir().unwrap();
        let (path, link) = (home.path().join("state"), home.path().join("link"));
        symlink("state", &link).unwrap();
        for is_there in [false, true] {
            let (mut bookmarks, _) = Bookmarks::open(link.clone()).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
            bookmarks.note(&places(7), 0);
            bookmarks.keep(0, Instant::now()).unwrap();
            assert!(link.is_symlink(), "{is_there}");
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(read(&std::fs::read_to_string(&path).unwrap()), Ok(places(7)));
        }
    }
}
