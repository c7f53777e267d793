//! `--state FILE`: up to where each group was printed, kept from one run to the next.
//!
//! The file has one line for each group: its name, the epoch and the last `seq`, separated by tabs (a name has none). It is
//! replaced as a whole, once a second at most, and never says more than was printed. So a run that ends in an orderly way
//! goes on exactly where it was; after a kill or a power cut, what was printed in the last second comes again.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
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
}

impl Bookmarks {
    /// Reads the file, if there is one.
    pub(crate) fn open(path: PathBuf) -> Result<(Self, Places), Error> {
        let places = match std::fs::read_to_string(&path) {
            Ok(text) => read(&text).map_err(|line| Error::Line { path: path.clone(), line })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Places::new(),
            Err(source) => return Err(Error::Read { path, source }),
        };
        Ok((Self { path, next: VecDeque::new(), due: None }, places))
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

    /// Writes what has become true now that so many bytes are printed.
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
        replace(&self.path, &text).map_err(|source| Error::Write { path: self.path.clone(), source })
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

/// Whoever reads the file sees what it held before, or all of `text`.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    // The new name is kept by its directory.
    #[cfg(unix)]
    if let Some(directory) = path.parent() {
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        File::open(directory)?.sync_all()?;
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
        let held = || Bookmarks::open(path.clone()).map(|(_, places)| places).unwrap();
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
}
