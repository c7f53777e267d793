//! Making files, and doing away with them.

use std::io;
use std::sync::Arc;

use super::super::disk::DiskFile;
use super::{Files, Spare};

impl Files {
    /// Makes a spare file of one that nobody needs. If that fails, it is tried again; a file that is gone, or that cannot be used again, is
    /// done with, or no other one would ever be made.
    pub(super) fn recycle(&self, name: &str, spare: String, size: u64) -> io::Result<()> {
        let file = match self.disk.open(name, false) {
            Ok(file) => file,
            Err(error) => {
                tracing::warn!(%error, file = %self.disk.path(name).display(), "cannot use a file of the commit log again");
                return self.remove(name);
            }
        };
        match self.disk.rename(name, &spare) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed?,
        }
        // On the disk before the file gets another header: a header must never stand under another file's name.
        if let Err(error) = self.disk.sync_dir() {
            // If this fails too, it is not found under its name the next time, and left for the next start to use or remove.
            drop(self.disk.rename(&spare, name));
            return Err(error);
        }
        self.state().spares.push_back(Spare { name: spare, file, size });
        Ok(())
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match self.disk.remove(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Removes a file that is no use, if that can be.
    pub(super) fn discard(&self, name: &str) {
        if self.in_place().is_ok() {
            drop(self.disk.remove(name));
        }
    }

    /// Makes a file; between its slices `watch` is called.
    pub(super) fn make(&self, name: String, size: u64, watch: &dyn Fn()) -> io::Result<Spare> {
        let made = self.fill(&name, size, watch);
        if made.is_err() {
            self.discard(&name);
        }
        Ok(Spare { file: made?, name, size })
    }

    fn fill(&self, name: &str, size: u64, watch: &dyn Fn()) -> io::Result<Arc<dyn DiskFile>> {
        const SLICE: u64 = 1024 * 1024;
        self.in_place()?;
        let file = self.disk.open(name, true)?;
        let zeros = vec![0; SLICE.min(size) as usize];
        let mut offset = 0;
        while offset < size {
            let length = SLICE.min(size - offset);
            file.write_at(&zeros[..length as usize], offset)?;
            // Little by little, so that an append's fsync has little to wait for.
            file.sync()?;
            offset += length;
            // All of them together take seconds, in which posts would be acknowledged whose files are gone, and for which a stop would wait.
            watch();
            if offset < size && self.state().closed {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "the log is closed"));
            }
            if let Err(error) = self.in_place() {
                // Wherever it is now, and its name with it: it need take no space.
                drop(file.set_len(0));
                return Err(error);
            }
        }
        Ok(file)
    }
}
