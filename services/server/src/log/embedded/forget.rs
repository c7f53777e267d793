//! Going on without a commit log that is damaged or gone: an operator's choice, never a start's.
//!
//! What the tables hold is kept; what was in the commit log alone is given up. The directory is then as a backup is when it is
//! restored: no commit log is beside the tables, and none is missed.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::disk::{Directory, Disk};
use super::files::SPARE;
use super::offline::{OfflineError, count};
use super::open::{OpenError, open_tables};
use super::renewal::set_apart;
use super::scan::{file_name, file_number};
use super::table;
use crate::log::config::Config;

/// Where a log goes on whose commit log was forgotten: everything after this is given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Forgotten {
    /// The file of the commit log in which what the tables hold ends; none if they hold nothing.
    pub file: Option<String>,
    /// Where in that file.
    pub offset: u64,
    /// Groups that the tables hold.
    pub groups: u64,
    /// Messages that the tables hold.
    pub messages: u64,
}

/// Lets the next start do without the commit log that the tables in `dir` belong to.
///
/// # Errors
/// As [`verify`](super::verify), as far as things are read; and where a file of the commit log is there that a start can still use.
pub fn forget_commit_log(dir: &Path) -> Result<Forgotten, OfflineError> {
    if !dir.join(table::FILE).is_file() {
        return Err(OfflineError::NoLog(dir.display().to_string()));
    }
    let disk: Arc<dyn Disk> = Arc::new(Directory::lock(dir)?);
    forget(&disk)
}

/// As [`forget_commit_log`], on a disk.
pub(crate) fn forget(disk: &Arc<dyn Disk>) -> Result<Forgotten, OfflineError> {
    let tables = open_tables(disk, Config::default().table_cache_bytes)?;
    let applied = tables.applied()?;
    let failed = |action| {
        let path = disk.path("");
        move |source| OpenError::Io { action, path, source }
    };
    let names = disk.list().map_err(failed("list the files of"))?;
    // Earlier files hold nothing that the tables do not. Of the one in which they stand, and of later ones, nobody knows without reading
    // them: whoever gives them up moves them away.
    let usable = names.iter().filter_map(|name| file_number(name)).filter(|number| *number >= applied.file);
    if let Some(oldest) = usable.min() {
        return Err(OfflineError::CommitLogThere { path: disk.path(&file_name(oldest)) });
    }
    // The next file gets a number after the position of the tables, as those had that were moved away. A spare file may hold a refused
    // block under such a number, which must not be taken for one of the new file's.
    for name in names.iter().filter(|name| name.starts_with(SPARE)) {
        disk.remove(name).map_err(failed("remove the spare files of"))?;
    }
    disk.sync_dir().map_err(failed("sync the directory"))?;
    set_apart(&tables)?;
    let (groups, messages) = count(&tables)?;
    tables.close()?;
    let file = (applied.file > 0).then(|| file_name(applied.file));
    Ok(Forgotten { file, offset: applied.end, groups, messages })
}
