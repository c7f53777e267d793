//! What the thread of the files watches: the space on the disk, and whether what the engine has open is still where it was.

use super::super::disk::LOCK;
use super::super::scan::file_name;
use super::super::trouble::Cause;
use super::{Demand, Files};

/// What a byte in the commit log may take in the tables, with the pages that are written anew on the way.
const APPLY_FACTOR: u64 = 2;

impl Files {
    /// Bytes that must stay free on the disk for posts to go on while so many bytes wait for the tables: below that they are refused, or the
    /// next file is not made.
    pub(crate) fn needs(&self, unapplied: u64) -> u64 {
        self.kept_free(Demand { unapplied, ..Demand::default() }).saturating_add(self.limits.segment)
    }

    /// Bytes that must be free on the disk for posts to be taken, when that was looked at last.
    pub(crate) fn kept(&self) -> u64 {
        self.state().kept_free
    }

    /// Whether so little is free that it matters how much room the tables have.
    pub(crate) fn is_short(&self) -> bool {
        self.state().is_short
    }

    /// Whether posts are refused for want of space, or will be once the file is full to which they go.
    pub(crate) fn is_refusing(&self) -> bool {
        self.trouble.of(Cause::Space).is_some() || self.state().error.is_some()
    }

    /// If the directory has little left of what it may take: how much that is, and how much is little.
    pub(crate) fn nears_bound(&self) -> Option<(u64, u64)> {
        let limit = self.limits.disk;
        let little = self.limits.segment.min(limit / 16);
        let left = limit.saturating_sub(self.state().used);
        (limit > 0 && left < little).then_some((left, little))
    }

    /// What the tables have room for within their file need not be free beside it: the file does not get smaller, so what was removed would
    /// never count. Half of the reserve is kept all the same, since nobody knows how well what comes fits into that room.
    pub(super) fn kept_free(&self, demand: Demand) -> u64 {
        let asked = self.limits.reserve.saturating_add(demand.unapplied.saturating_mul(APPLY_FACTOR));
        asked.saturating_sub(demand.room).max(self.limits.reserve / 2)
    }

    /// Looks whether anything was removed or replaced, and at the space; says what is wrong.
    pub(crate) fn watch(&self, demand: Demand) {
        self.watch_names();
        let commit_log = self.bytes();
        let used = demand.tables + commit_log;
        let kept_free = self.kept_free(demand);
        let space = self.disk.space();
        {
            let mut state = self.state();
            (state.kept_free, state.used) = (kept_free, used);
            state.is_short = space.as_ref().is_ok_and(|space| space.available < self.needs(demand.unapplied));
        }
        if let Ok(space) = &space {
            self.volume.available.set(space.available as f64);
            self.volume.size.set(space.size as f64);
        }
        let problem = match space.map(|space| space.available) {
            Ok(free) if free < kept_free => Some(format!(
                "{free} bytes are free on the disk, less than the {kept_free} that log.reserve_bytes and the commit log ask for: \
                 free some space, or remove messages"
            )),
            Ok(_) if self.limits.disk > 0 && used > self.limits.disk => Some(format!(
                "{used} bytes are used, {commit_log} of them by the commit log, more than log.disk_bytes = {}: lower the \
                 retention, raise the bound, or make log.segment_bytes smaller",
                self.limits.disk
            )),
            // Until they have been tried again they hold up what would be taken.
            Ok(_) if demand.is_failing && self.trouble.of(Cause::Space).is_some() => {
                Some("there is space again, and the tables could not be written since".to_owned())
            }
            Ok(_) => None,
            Err(error) => Some(format!("cannot tell how much space is free: {error}")),
        };
        self.trouble.set(Cause::Space, problem);
    }

    /// What is written to a file without a name is gone with this process, whatever is acknowledged; and without `LOCK`, another one may write
    /// here. Somebody may bring back what was moved away: then all is as it was; a copy under its name is not what is written to. Only for the thread of the files: what another one finds gone may
    /// have been retired and used again in between.
    pub(super) fn watch_names(&self) {
        // They stay until they are retired, and then until this thread has seen to them.
        let live: Vec<_> = self.state().live.iter().map(|live| (file_name(live.number), live.identity)).collect();
        let problem = self.disk.displaced(&live).map(|path| {
            let advice = if path.ends_with(LOCK) {
                "another process may use the directory: see that none does, and restart the server"
            } else {
                "what is acknowledged would be lost if it were stopped now: bring back what was there, the same \
                 file and not a copy; or make a backup with CreateBackup or, \
                 where admin.backup_dir is not set, copy the files that it still has open from /proc (docs/operations.md), then stop the \
                 server, and start it with that"
            };
            format!("{} was removed or replaced under the server, and {advice}", path.display())
        });
        self.trouble.set(Cause::Displaced, problem);
    }
}
