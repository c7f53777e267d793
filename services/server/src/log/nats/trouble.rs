//! Why the log cannot be written now, by what was met.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// There is no connection to any server.
    Connection,
    /// A stream does not answer, or takes nothing.
    Stream(u16),
    /// It is not known how an append of a shard ended. Other shards of its stream are not kept from trying.
    Append(u16),
}

/// What is wrong now.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    reasons: Mutex<BTreeMap<Cause, String>>,
    /// The log is being closed: what ends then is no trouble.
    closing: AtomicBool,
}

impl Trouble {
    fn reasons(&self) -> MutexGuard<'_, BTreeMap<Cause, String>> {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on there is no more news.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Sets or clears one.
    pub(crate) fn set(&self, cause: Cause, reason: Option<String>) {
        if self.closing.load(Ordering::Relaxed) {
            return;
        }
        let mut reasons = self.reasons();
        match reason {
            Some(reason) => {
                if !reasons.contains_key(&cause) {
                    tracing::warn!(?cause, reason, "the log cannot be written");
                }
                reasons.insert(cause, reason);
            }
            None => {
                if reasons.remove(&cause).is_some() {
                    tracing::info!(?cause, "the log can be written again");
                }
            }
        }
    }

    /// What stands in the way of writing to a stream.
    pub(crate) fn of_stream(&self, stream: u16) -> Option<String> {
        let reasons = self.reasons();
        reasons.get(&Cause::Connection).or_else(|| reasons.get(&Cause::Stream(stream))).cloned()
    }

    /// The first that there is.
    pub(crate) fn any(&self) -> Option<String> {
        self.reasons().values().next().cloned()
    }
}
