//! A disk that can lose power, fail and fill up, for tests.
//!
//! What was written is in two layers: what a sync made last, and the writes since. At a power cut, each page of a write that was not synced
//! is kept, lost or (if the write covers it) zeroed, independently of the others; of the changes to the directory since its last sync, any
//! first part happened, as in a file system with a journal.

mod inode;
mod random;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use self::inode::{Change, Inode, PAGE, overwrite};
pub(crate) use self::random::Random;
use super::disk::{Disk, DiskFile, Identity, Space};

#[derive(Debug, Clone)]
enum NameChange {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

/// What is to go wrong.
#[derive(Debug, Default, Clone)]
pub(crate) struct Faults {
    /// The power goes after so many more writes, syncs and changes of the directory.
    pub(crate) operations_left: Option<u64>,
    /// So many syncs of files whose name begins so fail; what they should have synced may be lost for good.
    pub(crate) failing_syncs: Option<(&'static str, u64)>,
    /// Syncs of files whose name begins so take so long.
    pub(crate) slow_syncs: Option<(&'static str, Duration)>,
    /// Whether what a failing sync should have synced is on the disk all the same.
    pub(crate) failed_sync_keeps: bool,
    /// So many writes to files whose name begins so fail half way.
    pub(crate) failing_writes: Option<(&'static str, u64)>,
    /// Reads of files whose name begins so fail.
    pub(crate) failing_reads: Option<&'static str>,
    /// Reads of these bytes of files whose name begins so fail, as of sectors that are bad.
    pub(crate) bad_sectors: Vec<(&'static str, Range<u64>)>,
    /// So many openings of files that are there fail.
    pub(crate) failing_opens: u64,
    /// So many syncs of the directory fail.
    pub(crate) failing_directory_syncs: u64,
    /// Renames to names that begin so fail.
    pub(crate) failing_renames: Option<&'static str>,
    /// Bytes that all files may have.
    pub(crate) capacity: Option<u64>,
    /// The same, as a quota: what is free does not show it.
    pub(crate) quota: Option<u64>,
}

#[derive(Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    name_changes: Vec<NameChange>,
    faults: Faults,
    held: Vec<String>,
    off: bool,
    bad_reads: u64,
    is_released: bool,
    changes_after_release: u64,
}

/// The disk. A clone is another handle of the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct SimulatedDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    inode: usize,
}

fn identify(inode: usize) -> Identity {
    Identity { device: 0, number: inode as u64 }
}

fn power_lost() -> io::Error {
    io::Error::other("the power is off")
}

impl State {
    /// Counts an operation that changes something; the power may go instead.
    fn operate(&mut self) -> io::Result<()> {
        self.changes_after_release += u64::from(self.is_released);
        if let Some(left) = &mut self.faults.operations_left {
            if *left == 0 {
                self.off = true;
            } else {
                *left -= 1;
            }
        }
        self.check()
    }

    fn check(&self) -> io::Result<()> {
        if self.off { Err(power_lost()) } else { Ok(()) }
    }

    fn used(&self) -> u64 {
        self.names.values().map(|inode| (self.inodes[*inode].taken.len() * PAGE) as u64).sum()
    }

    /// Takes the space that a write needs, if there is so much.
    fn take(&mut self, inode: usize, offset: usize, len: usize) -> io::Result<()> {
        let pages = offset / PAGE..(offset + len).div_ceil(PAGE);
        let more = pages.clone().filter(|page| !self.inodes[inode].taken.contains(page)).count() * PAGE;
        let is_beyond = |bound: u64| more > 0 && self.used() + more as u64 > bound;
        if self.faults.capacity.is_some_and(is_beyond) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.faults.quota.is_some_and(is_beyond) {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        self.inodes[inode].taken.extend(pages);
        Ok(())
    }

    fn is_named(&self, inode: usize, prefix: &str) -> bool {
        self.names.iter().any(|(name, number)| *number == inode && name.starts_with(prefix))
    }
}

fn apply_name_change(names: &mut BTreeMap<String, usize>, change: &NameChange) {
    match change {
        NameChange::Create(name, inode) => drop(names.insert(name.clone(), *inode)),
        NameChange::Remove(name) => drop(names.remove(name)),
        NameChange::Rename(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
    }
}

impl SimulatedDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Sets what is to go wrong.
    pub(crate) fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Switches the power off, if it still is on.
    pub(crate) fn power_off(&self) {
        self.state().off = true;
    }

    /// Whether the power is off.
    pub(crate) fn is_off(&self) -> bool {
        self.state().off
    }

    /// The disk as it is found when the power comes back.
    pub(crate) fn after_power_cut(&self, random: &mut Random) -> Self {
        let state = self.state();
        let mut names = state.durable_names.clone();
        let happened = random.below(state.name_changes.len() as u64 + 1) as usize;
        state.name_changes[..happened].iter().for_each(|change| apply_name_change(&mut names, change));
        Self::with(names, |inode| state.inodes[inode].after_power_cut(random))
    }

    /// The disk as a killed process leaves it: nothing is lost.
    pub(crate) fn copy(&self) -> Self {
        let state = self.state();
        Self::with(state.names.clone(), |inode| state.inodes[inode].current.clone())
    }

    fn with(names: BTreeMap<String, usize>, mut content: impl FnMut(usize) -> Vec<u8>) -> Self {
        let mut state = State::default();
        for (name, inode) in names {
            let content = content(inode);
            state.names.insert(name, state.inodes.len());
            state.inodes.push(Inode::durable(content));
        }
        state.durable_names = state.names.clone();
        Self(Arc::new(Mutex::new(state)))
    }

    /// How many files were ever made.
    pub(crate) fn files_made(&self) -> usize {
        self.state().inodes.len()
    }

    /// How many reads met a bad sector.
    pub(crate) fn bad_reads(&self) -> u64 {
        self.state().bad_reads
    }

    /// How many writes, syncs and changes of the directory came after another process could have it.
    pub(crate) fn changes_after_release(&self) -> u64 {
        self.state().changes_after_release
    }

    /// Keeps everything that is done with the disk waiting until what this returns is dropped.
    pub(crate) fn hold_up(&self) -> impl Drop + '_ {
        self.state()
    }

    /// The bytes of a file.
    pub(crate) fn content(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        state.inodes[state.names[name]].current.clone()
    }

    /// Puts other bytes into a file.
    pub(crate) fn set_content(&self, name: &str, bytes: Vec<u8>) {
        let mut state = self.state();
        let inode = state.names[name];
        state.inodes[inode] = Inode::durable(bytes);
    }
}

impl Disk for SimulatedDisk {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.check()?;
        let inode = match state.names.get(name) {
            Some(_) if state.faults.failing_opens > 0 => {
                state.faults.failing_opens -= 1;
                return Err(io::Error::other("a file could not be opened"));
            }
            Some(inode) => *inode,
            None if create => {
                state.operate()?;
                let inode = state.inodes.len();
                state.inodes.push(Inode::default());
                state.names.insert(name.to_owned(), inode);
                state.name_changes.push(NameChange::Create(name.to_owned(), inode));
                inode
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Arc::new(SimulatedFile { disk: self.clone(), inode }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        state.check()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if state.faults.failing_renames.is_some_and(|prefix| to.starts_with(prefix)) {
            return Err(io::Error::other("a rename failed"));
        }
        let change = NameChange::Rename(from.to_owned(), to.to_owned());
        apply_name_change(&mut state.names, &change);
        state.name_changes.push(change);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        if !state.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let change = NameChange::Remove(name.to_owned());
        apply_name_change(&mut state.names, &change);
        state.name_changes.push(change);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        if state.faults.failing_directory_syncs > 0 {
            state.faults.failing_directory_syncs -= 1;
            return Err(io::Error::other("a sync of the directory failed"));
        }
        state.durable_names = state.names.clone();
        state.name_changes.clear();
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        let state = self.state();
        let size = state.faults.capacity.unwrap_or(u64::MAX / 2);
        let used = state.faults.capacity.map_or(0, |_| state.used());
        Ok(Space { available: size.saturating_sub(used), size })
    }

    fn hold(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.held.push(name.to_owned());
        Ok(())
    }

    fn displaced(&self, files: &[(String, Identity)]) -> Option<PathBuf> {
        let state = self.state();
        if state.off {
            return None;
        }
        let held = state.held.iter().find(|name| !state.names.contains_key(*name));
        let is_there = |name, identity| state.names.get(name).is_some_and(|inode| identify(*inode) == identity);
        let of_files = || files.iter().find(|(name, identity)| !is_there(name, *identity)).map(|(name, _)| name);
        held.or_else(of_files).map(|name| self.path(name))
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("simulated").join(name)
    }

    fn release(&self) {
        self.state().is_released = true;
    }
}

impl DiskFile for SimulatedFile {
    fn len(&self) -> io::Result<u64> {
        let state = self.disk.state();
        state.check()?;
        Ok(state.inodes[self.inode].current.len() as u64)
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok((self.disk.state().inodes[self.inode].taken.len() * PAGE) as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.check()?;
        if state.faults.failing_reads.is_some_and(|prefix| state.is_named(self.inode, prefix)) {
            return Err(io::Error::other("a read failed"));
        }
        let end = offset + buffer.len() as u64;
        let is_bad = |(prefix, bytes): &(&'static str, Range<u64>)| {
            bytes.start < end && offset < bytes.end && state.is_named(self.inode, prefix)
        };
        if state.faults.bad_sectors.iter().any(is_bad) {
            state.bad_reads += 1;
            return Err(io::Error::other("a sector is bad"));
        }
        let offset = offset as usize;
        let found = state.inodes[self.inode].current.get(offset..offset + buffer.len());
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let was_off = state.off;
        let operated = state.operate();
        let offset = offset as usize;
        state.take(self.inode, offset, bytes.len())?;
        let mut fails = false;
        if let Some((prefix, left)) = state.faults.failing_writes
            && left > 0
            && state.is_named(self.inode, prefix)
        {
            state.faults.failing_writes = Some((prefix, left - 1));
            fails = true;
        }
        let inode = &mut state.inodes[self.inode];
        if !was_off {
            // The write during which the power goes may still reach the disk, in part.
            let part = if fails { &bytes[..bytes.len() / 2] } else { bytes };
            overwrite(&mut inode.current, offset, part);
            inode.pending.push(Change::Write { offset, bytes: part.to_vec() });
        }
        operated?;
        if fails { Err(io::Error::other("a write failed")) } else { Ok(()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.operate()?;
        let len = len as usize;
        let inode = &mut state.inodes[self.inode];
        inode.current.resize(len, 0);
        inode.taken.retain(|page| page * PAGE < len);
        inode.pending.push(Change::SetLen(len));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        if let Some((prefix, time)) = state.faults.slow_syncs
            && state.is_named(self.inode, prefix)
        {
            drop(state);
            thread::sleep(time);
            state = self.disk.state();
        }
        state.operate()?;
        if let Some((prefix, left)) = state.faults.failing_syncs
            && left > 0
            && state.is_named(self.inode, prefix)
        {
            state.faults.failing_syncs = Some((prefix, left - 1));
            let kept = state.faults.failed_sync_keeps;
            state.inodes[self.inode].settle(kept);
            return Err(io::Error::other("a sync failed"));
        }
        state.inodes[self.inode].settle(true);
        Ok(())
    }
    fn identity(&self) -> io::Result<Identity> {
        Ok(identify(self.inode))
    }
}
