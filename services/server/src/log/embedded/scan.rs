//! Reading the commit log at a start: which files count, which blocks in them, and where the log ends.
//!
//! The newest file names the end of what is valid before it, and so back to the position that the tables have applied. Between
//! there and the newest file every block must be whole. In the newest file the first block that is not whole is the end: a torn tail if
//! nothing after it says that it had been synced, corruption if something does.

use std::io;
use std::sync::Arc;

use super::disk::{Disk, DiskFile};
use super::frame::{self, BadHeader, BlockHeader, FIRST_BLOCK, FileHeader, PAGE, Position};
use super::open::OpenError;
use super::record::{Input, Operation};
use super::table;

const PREFIX: &str = "commit-";
const SUFFIX: &str = ".log";
/// So many pages after the end of the commit log may be unreadable: a disk that gives no more is asked for no more, since each may take seconds.
const UNREAD_PAGES: u32 = 16;

/// The name of a file of the commit log.
pub(crate) fn file_name(number: u64) -> String {
    format!("{PREFIX}{number:016x}{SUFFIX}")
}

/// The number of a file of the commit log, if the name is that of one.
pub(crate) fn file_number(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?, 16).ok()
}

/// A block that was read back.
#[derive(Debug)]
pub(crate) struct ScannedBlock {
    /// Its end.
    pub(crate) position: Position,
    /// What it holds.
    pub(crate) operations: Vec<Operation>,
}

/// An end of the log that a crash left incomplete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Torn {
    /// Where it begins.
    pub(crate) offset: u64,
    /// Bytes that were found there.
    pub(crate) bytes: u64,
}

/// The commit log as it was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// The numbers of all files, oldest first, also of those that hold nothing valid.
    pub(crate) files: Vec<u64>,
    /// The files to read, oldest first, where to begin in each, and the block before.
    chain: Vec<Link>,
    /// Where the tables stand.
    applied: Position,
}

#[derive(Debug)]
struct Link {
    file: Arc<dyn DiskFile>,
    header: FileHeader,
    /// Where what is valid ends; unknown for the newest file.
    end: Option<Position>,
}

/// What is known after all was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scanned {
    /// The end of the last valid block.
    pub(crate) end: Position,
    /// What a crash left after it.
    pub(crate) torn: Option<Torn>,
}

/// Finds the files and checks that none is missing. Without a commit log `in_use`, which a backup and one that an operator gave up have
/// not, there need be none.
pub(crate) fn find(disk: &dyn Disk, log: u64, applied: Position, in_use: bool) -> Result<Found, OpenError> {
    let names = disk.list().map_err(|source| io_error(disk, "list the files", ".", source))?;
    let mut files: Vec<u64> = names.iter().filter_map(|name| file_number(name)).collect();
    files.sort_unstable();
    let mut chain = Vec::new();
    let newest = files.last().copied();
    let Some(newest) = newest.filter(|newest| *newest >= applied.file) else {
        if in_use {
            // That one may rightly be gone, and one after it not.
            return Err(OpenError::NoCommitLog { path: disk.path(&file_name(applied.file.max(1))) });
        }
        // What is left is older than the tables. It is going to be used again, so it had better be ours.
        if let Some(leftover) = newest {
            open(disk, log, leftover)?;
        }
        return Ok(Found { files, chain, applied });
    };
    let (mut number, mut end) = (newest, None);
    loop {
        let (file, header) = open(disk, log, number)?;
        chain.push(Link { file, header, end });
        if header.previous.block <= applied.block {
            // The tables stand in this file, or where it begins. A file of another copy of this log need not contradict them otherwise.
            let is_in_it = number == applied.file && header.previous.block < applied.block;
            if !is_in_it && header.previous != applied {
                return Err(OpenError::Astray { path: disk.path(&file_name(number)) });
            }
            break;
        }
        let before = header.previous.file;
        if files.binary_search(&before).is_err() {
            let path = disk.path(&file_name(before));
            // Of one file that is missing the tables stand in it or are behind a file that is there.
            let are_behind_all = files.first() == Some(&number) && (1..before).contains(&applied.file);
            if !in_use || are_behind_all {
                let (tables, file) = (disk.path(table::FILE), disk.path(&file_name(number)));
                return Err(OpenError::Older { tables, file, before: path });
            }
            return Err(OpenError::MissingFile { path });
        }
        (number, end) = (header.previous.file, Some(header.previous));
    }
    chain.reverse();
    Ok(Found { files, chain, applied })
}

fn open(disk: &dyn Disk, log: u64, number: u64) -> Result<(Arc<dyn DiskFile>, FileHeader), OpenError> {
    let name = file_name(number);
    let path = disk.path(&name);
    let failed = |source| io_error(disk, "read the header of", &name, source);
    let file = disk.open(&name, false).map_err(failed)?;
    let mut page = vec![0; PAGE as usize];
    let corrupt = |reason: &str| OpenError::Corrupt { path: path.clone(), offset: 0, reason: reason.to_owned() };
    if file.len().map_err(failed)? < PAGE {
        return Err(corrupt("the file is shorter than its header"));
    }
    file.read_at(&mut page, 0).map_err(failed)?;
    let header = match FileHeader::decode(&page) {
        Ok(header) => header,
        Err(BadHeader::Corrupt) => return Err(corrupt("the header is not what was written")),
        Err(BadHeader::Version(found)) => {
            return Err(OpenError::Version { path: path.clone(), found, supported: frame::VERSION });
        }
    };
    if header.log != log {
        return Err(OpenError::Foreign { path });
    }
    if header.file != number {
        return Err(corrupt("the header names another file"));
    }
    Ok((file, header))
}

impl Found {
    /// Hands every block that the tables do not hold to `sink`, oldest first.
    pub(crate) fn replay(
        &self,
        disk: &dyn Disk,
        sink: &mut dyn FnMut(ScannedBlock) -> Result<(), OpenError>,
    ) -> Result<Scanned, OpenError> {
        let mut end = self.applied;
        let mut torn = None;
        for link in &self.chain {
            let number = link.header.file;
            // The tables may stand inside this file; otherwise it is read from its first block.
            let mut offset = if end.file == number { end.end } else { FIRST_BLOCK };
            let mut block = if end.file == number { end.block } else { link.header.previous.block };
            let reader = Reader { disk, link, name: file_name(number) };
            loop {
                if link.end.is_some_and(|end| offset >= end.end) {
                    break;
                }
                match reader.block(offset, block + 1)? {
                    Some((position, operations)) => {
                        (offset, block, end) = (position.end, position.block, position);
                        sink(ScannedBlock { position, operations })?;
                    }
                    None if link.end.is_some() => {
                        return Err(reader.corrupt(offset, "a block is not what was written, and later files follow"));
                    }
                    None => {
                        torn = reader.torn(offset)?;
                        break;
                    }
                }
            }
            if let Some(expected) = link.end
                && (expected.block, expected.end) != (block, offset)
            {
                return Err(reader.corrupt(offset, "the blocks do not end where the next file says"));
            }
        }
        Ok(Scanned { end, torn })
    }
}

/// Reads the blocks of one file.
struct Reader<'a> {
    disk: &'a dyn Disk,
    link: &'a Link,
    name: String,
}

impl Reader<'_> {
    fn corrupt(&self, offset: u64, reason: &str) -> OpenError {
        OpenError::Corrupt { path: self.disk.path(&self.name), offset, reason: reason.to_owned() }
    }

    fn failed(&self, source: io::Error) -> OpenError {
        io_error(self.disk, "read", &self.name, source)
    }

    /// The header and the bytes of a whole block of this file at `offset`.
    fn whole(&self, offset: u64) -> Result<Option<(BlockHeader, Vec<u8>)>, OpenError> {
        let length = self.link.file.len().map_err(|source| self.failed(source))?;
        let Some(header) = self.header(offset, length)? else { return Ok(None) };
        if offset + u64::from(header.length) > length {
            return Ok(None);
        }
        let mut bytes = vec![0; header.length as usize];
        self.link.file.read_at(&mut bytes, offset).map_err(|source| self.failed(source))?;
        Ok(frame::is_whole(&bytes).then_some((header, bytes)))
    }

    /// What looks like the header of a block of this file.
    fn header(&self, offset: u64, length: u64) -> Result<Option<BlockHeader>, OpenError> {
        if offset + frame::BLOCK_HEADER as u64 > length {
            return Ok(None);
        }
        let mut bytes = [0; frame::BLOCK_HEADER];
        self.link.file.read_at(&mut bytes, offset).map_err(|source| self.failed(source))?;
        Ok(BlockHeader::decode(&bytes).filter(|header| header.file == self.link.header.file))
    }

    fn block(&self, offset: u64, number: u64) -> Result<Option<(Position, Vec<Operation>)>, OpenError> {
        let Some((header, bytes)) = self.whole(offset)? else { return Ok(None) };
        if header.block != number {
            return Err(self.corrupt(offset, "a block is out of order"));
        }
        let mut input = Input::new(&bytes[frame::BLOCK_HEADER..]);
        let mut operations = Vec::with_capacity(header.operations as usize);
        for _ in 0..header.operations {
            let operation = Operation::decode(&mut input);
            operations.push(operation.map_err(|error| self.corrupt(offset, &error.to_string()))?);
        }
        let end = offset + frame::pages(u64::from(header.length));
        Ok(Some((Position { file: header.file, end, block: header.block }, operations)))
    }

    /// What lies after the last whole block: nothing, or a tail that a crash tore; an error if it had been synced.
    fn torn(&self, offset: u64) -> Result<Option<Torn>, OpenError> {
        let length = self.link.file.len().map_err(|source| self.failed(source))?;
        let looks_begun = self.header(offset, length)?;
        let mut torn_end = looks_begun.map(|header| length.min(offset + frame::pages(u64::from(header.length))));
        let mut at = offset + PAGE;
        let (mut unread, mut unread_pages): (Option<(u64, io::Error)>, u32) = (None, 0);
        while at < length {
            let found = match self.whole(at) {
                // What nobody has written need not be readable. Where a block was begun, what is behind it may tell that it had been synced.
                Err(OpenError::Io { source, .. }) => {
                    unread_pages += 1;
                    unread.get_or_insert((at, source));
                    if unread_pages > UNREAD_PAGES {
                        break;
                    }
                    None
                }
                found => found?,
            };
            let step = match found {
                Some((header, _)) if header.synced > offset => {
                    let reason = "a block is not what was written, though it was on the disk before later ones";
                    return Err(self.corrupt(offset, reason));
                }
                Some((header, _)) => {
                    let step = frame::pages(u64::from(header.length));
                    torn_end = Some(length.min(at + step));
                    step
                }
                None => PAGE,
            };
            at += step;
        }
        if let Some((at, error)) = unread {
            // Where it seems to end two blocks may be bad, of which the second has the proof for the first.
            if looks_begun.is_some() || at == offset + PAGE || unread_pages > UNREAD_PAGES {
                return Err(self.failed(error));
            }
            let file = self.disk.path(&self.name);
            tracing::warn!(file = %file.display(), offset = at, %error, "the commit log cannot be read after its end");
        }
        Ok(torn_end.map(|end| Torn { offset, bytes: end - offset }))
    }
}

fn io_error(disk: &dyn Disk, action: &'static str, name: &str, source: io::Error) -> OpenError {
    OpenError::Io { action, path: disk.path(name), source }
}
