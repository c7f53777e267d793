//! A copy until it is whole: in a directory under another name, whose lock is held while it is made.
//!
//! What is left of a copy whose process was killed is told by its lock, which nobody holds any more.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::backup::CopyError;
use super::disk::{Directory, Disk, LOCK, above};
use super::{notes, table};

/// What the name of a copy ends in until it is whole.
pub(super) const PARTIAL: &str = ".partial";
/// Nothing was written for so long to what counts as left behind. A copy is written all the time, and some network file systems do not
/// show the lock of another machine.
const LEFT_BEHIND: Duration = Duration::from_secs(3600);
/// All that a copy may have in it.
const FILES: [&str; 5] = [LOCK, table::FILE, table::NEW_FILE, notes::FILE, notes::NEXT];

/// A copy that is being made. What has not got its place by the time that this is dropped is removed.
#[derive(Debug)]
pub(super) struct Partial {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    is_published: bool,
}

impl Partial {
    /// Begins one, in place of what a process left there that has ended.
    pub(super) fn begin(path: PathBuf) -> Result<Self, CopyError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::WouldBlock => CopyError::InUse(path.clone()),
            _ => CopyError::NotWritable { path: path.clone(), source },
        };
        let lock = take_lock(&path).map_err(failed)?;
        remove(&path).map_err(failed)?;
        drop(lock);
        let disk: Arc<dyn Disk> = Arc::new(Directory::lock(&path)?);
        Ok(Self { path, disk, is_published: false })
    }

    /// Where it is made.
    pub(super) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Gives the whole copy its name. If that may not last, it has not got it.
    pub(super) fn publish(mut self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to)?;
        let synced = File::open(above(to)).and_then(|parent| parent.sync_all());
        synced.inspect_err(|_| drop(fs::rename(to, &self.path)))?;
        self.is_published = true;
        Ok(())
    }

    /// Moves the whole copy into `dest`, the tables last: what has them is whole. If that may not last, nothing of it is left.
    pub(super) fn unpack(self, dest: &Path) -> io::Result<()> {
        let moved = self.move_into(dest);
        if moved.is_err() {
            drop(fs::remove_file(dest.join(table::FILE)));
            drop(fs::remove_file(dest.join(notes::FILE)));
        }
        moved
    }

    fn move_into(&self, dest: &Path) -> io::Result<()> {
        let directory = File::open(dest)?;
        // Those of an attempt that was killed here are not this copy's, which may have none.
        absent_is_well(fs::remove_file(dest.join(notes::FILE)))?;
        absent_is_well(fs::rename(self.path.join(notes::FILE), dest.join(notes::FILE)))?;
        directory.sync_all()?;
        fs::rename(self.path.join(table::FILE), dest.join(table::FILE))?;
        directory.sync_all()
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.is_published
            && let Err(error) = remove(&self.path)
        {
            tracing::warn!(%error, directory = %self.path.display(), "cannot remove a backup that is not whole");
        }
    }
}

/// What is in `dest` beside a copy that is being made in it, and what an attempt may have moved by the time that it was killed.
pub(super) fn is_foreign(dest: &Path, name: &OsStr) -> bool {
    let was_begun = dest.join(PARTIAL).exists();
    // A lock is no longer moved, but was.
    name != PARTIAL && !(was_begun && (name == LOCK || name == notes::FILE))
}

/// Removes the copies in `parent` whose processes were killed meanwhile: no later one need have the same name.
pub(super) fn remove_left_behind(parent: &Path) {
    // If it cannot be read, the copy itself will say so.
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        if !entry.file_name().to_string_lossy().ends_with(PARTIAL) {
            continue;
        }
        match remove_if_left_behind(&path) {
            Ok(true) => tracing::info!(directory = %path.display(), "removed what a killed process left of a backup"),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, directory = %path.display(), "cannot remove what seems to be left of a backup");
            }
        }
    }
}

fn remove_if_left_behind(path: &Path) -> io::Result<bool> {
    // One that has no lock yet may just be begun.
    let _lock = match take_lock(path) {
        Ok(Some(lock)) => lock,
        Ok(None) => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
        Err(error) => return Err(error),
    };
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let is_old = entry.metadata()?.modified()?.elapsed().is_ok_and(|age| age >= LEFT_BEHIND);
        if !is_old || !FILES.iter().any(|name| entry.file_name() == *name) {
            return Ok(false);
        }
    }
    remove(path)?;
    Ok(true)
}

/// Takes the lock of a copy; none if there is no file to lock. An error of the kind `WouldBlock` if another process has it.
fn take_lock(path: &Path) -> io::Result<Option<File>> {
    let name = path.join(LOCK);
    let lock = match OpenOptions::new().read(true).write(true).open(&name) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        opened => opened?,
    };
    lock.try_lock()?;
    // Whoever had it may have given its copy the right name, and another one be made here now.
    let mine = lock.metadata()?;
    let is_same = fs::metadata(&name).is_ok_and(|there| (there.dev(), there.ino()) == (mine.dev(), mine.ino()));
    if is_same { Ok(Some(lock)) } else { Err(io::ErrorKind::WouldBlock.into()) }
}

/// Removes a copy, if it is there.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        // What stands in its way is told by whoever makes it.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(()),
        removed => absent_is_well(removed),
    }
}

fn absent_is_well(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
