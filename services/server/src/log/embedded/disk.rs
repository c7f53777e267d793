//! The disk below the commit log and the tables.
//!
//! A trait, so that a simulated disk can lose what was not synced, fail and fill up: nothing else in the engine
//! touches the file system. All names are of files in one directory.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::open::OpenError;

/// The file whose lock keeps a second process away.
pub(crate) const LOCK: &str = "LOCK";

/// A directory of files.
pub(crate) trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Opens a file for reading and writing; makes it if asked to and it is not there.
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>>;
    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Gives a file another name, in place of a file that has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes what was created, renamed and removed so far last.
    fn sync_dir(&self) -> io::Result<()>;
    /// The space on the file system.
    fn space(&self) -> io::Result<Space>;
    /// Notices from now on, in [`Disk::displaced`], if this file is removed or another one put in its place.
    fn hold(&self, name: &str) -> io::Result<()>;
    /// Something that is no longer where this process has it open: the directory, its lock, what is [held](Disk::hold), or one of `files`, which
    /// are there as far as this process is concerned, each with the file that it is to lead to. What cannot be looked at is taken to be there.
    fn displaced(&self, files: &[(String, Identity)]) -> Option<PathBuf>;
    /// A file's name as operators know it.
    fn path(&self, name: &str) -> PathBuf;
    /// Lets another process have the directory.
    fn release(&self);
}

/// The space on a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    /// What may still be written.
    pub(crate) available: u64,
    /// All, used or not.
    pub(crate) size: u64,
}

/// What tells a file from all others that are there. Once it is gone, and nobody has it open, another one may get its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) number: u64,
}

impl Identity {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), number: metadata.ino() }
    }

    /// Whether `path` leads to another file, or nowhere.
    fn is_displaced(self, path: &Path) -> bool {
        match fs::metadata(path) {
            Ok(there) => Self::of(&there) != self,
            Err(error) => is_absence(&error),
        }
    }
}

/// Whether there is no space, or none for this user.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Fails where the directory, its lock or what is held is not where this process has it open: what is done there by name may be done to what
/// another process works with.
pub(crate) fn in_place(disk: &dyn Disk) -> io::Result<()> {
    let told = |path: PathBuf| io::Error::other(format!("{} was removed or replaced under the server", path.display()));
    disk.displaced(&[]).map_or(Ok(()), |path| Err(told(path)))
}

/// One file. Its methods may be called from several threads at once.
pub(crate) trait DiskFile: fmt::Debug + Send + Sync + 'static {
    /// Bytes from the beginning to the end.
    fn len(&self) -> io::Result<u64>;
    /// Bytes that the file takes on the disk.
    fn allocated(&self) -> io::Result<u64>;
    /// Fills `buffer` from `offset` on, or fails.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`, or fails; what is then written is unknown.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes what was written so far last.
    fn sync(&self) -> io::Result<()>;
    /// Which file it is, whatever its name.
    fn identity(&self) -> io::Result<Identity>;
}

/// A directory of the file system, locked for this process.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    /// Kept open: a sync that had to open the directory first would fail where no descriptor is left. Locked too: somebody may remove `LOCK`.
    directory: File,
    lock: Mutex<Option<File>>,
    held: Mutex<Vec<Held>>,
}

/// What must stay under its name.
#[derive(Debug)]
struct Held {
    path: PathBuf,
    identity: Identity,
    /// Kept open, so that its number is given to nothing else.
    _file: File,
}

impl Held {
    fn new(path: &Path, file: &File) -> io::Result<Self> {
        let (path, file, identity) = (path.to_owned(), file.try_clone()?, Identity::of(&file.metadata()?));
        Ok(Self { path, identity, _file: file })
    }
}

/// Whether the name leads nowhere, and not only nobody can tell.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

impl Directory {
    /// Makes the directory if need be and locks it.
    pub(crate) fn lock(path: &Path) -> Result<Self, OpenError> {
        let failed = |action, path: &Path, source: io::Error| match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                OpenError::NotWritable { path: path.to_owned(), source }
            }
            _ => OpenError::Io { action, path: path.to_owned(), source },
        };
        if !path.is_dir() {
            if let Some(in_the_way) = path.ancestors().find(|above| above.exists()).filter(|above| !above.is_dir()) {
                return Err(OpenError::NotADirectory { path: in_the_way.to_owned() });
            }
            make_directories(path).map_err(|source| failed("create the data directory", path, source))?;
        }
        let directory = File::open(path).map_err(|source| failed("open the data directory", path, source))?;
        let file = path.join(LOCK);
        let locked = || {
            let process = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
            OpenError::Locked { path: path.to_owned(), process }
        };
        match directory.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(locked()),
            // Not every file system can lock a directory (NFS cannot). There the file has to do.
            Err(TryLockError::Error(error)) => {
                tracing::debug!(%error, directory = %path.display(), "cannot lock the directory itself");
            }
        }
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&file);
        let lock = opened.map_err(|source| failed("open the lock file", &file, source))?;
        match lock.try_lock() {
            Ok(()) => {
                // For whoever finds it locked. It protects nothing, so a disk that does not take it is no reason to stop.
                let told =
                    lock.set_len(0).and_then(|()| lock.write_all_at(std::process::id().to_string().as_bytes(), 0));
                if let Err(error) = told {
                    tracing::debug!(%error, file = %file.display(), "cannot write the id of this process");
                }
                let held = [(path, &directory), (&file, &lock)].map(|(path, file)| Held::new(path, file));
                let held = held.into_iter().collect::<io::Result<_>>();
                let held = held.map_err(|source| failed("look at the lock file", &file, source))?;
                Ok(Self { path: path.to_owned(), directory, lock: Mutex::new(Some(lock)), held: Mutex::new(held) })
            }
            // Earlier versions lock nothing but the file.
            Err(TryLockError::WouldBlock) => Err(locked()),
            Err(TryLockError::Error(source)) => Err(failed("lock the data directory", &file, source)),
        }
    }
}

/// The directory that a file or directory is in.
pub(crate) fn above(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a directory, and those above it that are missing, so that they are there after a power cut too.
fn make_directories(path: &Path) -> io::Result<()> {
    let named = path.ancestors().filter(|directory| !directory.as_os_str().is_empty());
    let missing: Vec<&Path> = named.take_while(|directory| !directory.exists()).collect();
    fs::create_dir_all(path)?;
    // The name of each stands in the one above.
    missing.into_iter().try_for_each(|made| File::open(above(made))?.sync_all())
}

impl Disk for Directory {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path.join(name);
        let file = OpenOptions::new().read(true).write(true).create(create).truncate(false).open(path)?;
        Ok(Arc::new(Plain(file)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.directory.sync_all()
    }

    fn space(&self) -> io::Result<Space> {
        // Of what is open: where the directory was removed, a backup of what it held still has to know.
        let stat = rustix::fs::fstatvfs(&self.directory)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Space { available: bytes(stat.f_bavail), size: bytes(stat.f_blocks) })
    }

    fn hold(&self, name: &str) -> io::Result<()> {
        let path = self.path.join(name);
        let held = Held::new(&path, &File::open(&path)?)?;
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(held);
        Ok(())
    }

    fn displaced(&self, files: &[(String, Identity)]) -> Option<PathBuf> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let of_held = |is_lock: bool| {
            let mut asked = held.iter().filter(|held| held.path.ends_with(LOCK) == is_lock);
            asked.find(|held| held.identity.is_displaced(&held.path)).map(|held| held.path.clone())
        };
        let of_files = || {
            let mut asked = files.iter().map(|(name, identity)| (self.path.join(name), identity));
            asked.find(|(path, identity)| identity.is_displaced(path)).map(|(path, _)| path)
        };
        // The lock last: where messages are gone too, it is they that operators have to care for.
        of_held(false).or_else(of_files).or_else(|| of_held(true))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn release(&self) {
        // Closing the file, also where it is held, gives the lock back. The directory stays open, and may not have been locked.
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clear();
        drop(self.directory.unlock());
    }
}

/// A file of the file system.
#[derive(Debug)]
struct Plain(File);

impl DiskFile for Plain {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn allocated(&self) -> io::Result<u64> {
        const BLOCK: u64 = 512;
        Ok(self.0.metadata()?.blocks().saturating_mul(BLOCK))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn identity(&self) -> io::Result<Identity> {
        Ok(Identity::of(&self.0.metadata()?))
    }
}
