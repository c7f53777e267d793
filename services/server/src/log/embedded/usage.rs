//! What the tables take of `log.disk_bytes`.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::files::Files;
use super::table::Tables;

/// How long a measurement holds at least.
const HOLDS: Duration = Duration::from_secs(1);
/// Measuring reads all of the tables: it may take one part in so many of the time.
const SHARE: u32 = 20;

/// Tells how much the tables take. Their file never gets smaller, but what retention and moderators have freed in it is used before
/// it grows: once it is beyond the bound, only what is in use counts, and what the file has grown by since that was measured.
#[derive(Debug)]
pub(crate) struct Usage {
    tables: Arc<Tables>,
    files: Arc<Files>,
    /// Bytes that the directory may take; 0 for any.
    limit: u64,
    measured: Cell<Option<Measured>>,
}

#[derive(Debug, Clone, Copy)]
struct Measured {
    in_use: u64,
    /// The size of the file then.
    file: u64,
    until: Instant,
}

impl Usage {
    pub(crate) fn new(tables: Arc<Tables>, files: Arc<Files>, limit: u64) -> Self {
        Self { tables, files, limit, measured: Cell::new(None) }
    }

    /// Bytes that the tables take.
    pub(crate) fn tables(&self) -> u64 {
        let file = self.tables.disk_bytes();
        if self.limit == 0 || file.saturating_add(self.files.bytes()) <= self.limit {
            return file;
        }
        let measured = self.measured.get().filter(|measured| Instant::now() < measured.until);
        let measured = measured.unwrap_or_else(|| self.measure(file));
        measured.in_use.saturating_add(file.saturating_sub(measured.file)).min(file)
    }

    fn measure(&self, file: u64) -> Measured {
        let began = Instant::now();
        let in_use = self.tables.bytes_in_use();
        let ended = Instant::now();
        let until = ended + (ended.duration_since(began) * SHARE).max(HOLDS);
        let in_use = match in_use {
            Ok(in_use) => in_use,
            Err(error) => {
                tracing::warn!(%error, "cannot tell how much of the tables is in use; all of their file counts");
                file
            }
        };
        let measured = Measured { in_use, file, until };
        self.measured.set(Some(measured));
        measured
    }
}
