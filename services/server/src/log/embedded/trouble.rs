//! Why the log cannot be written now, by the part that met it.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Who met it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Somebody removed or replaced what the engine has open. First, since it may be what the others come from.
    Displaced,
    /// The commit log could not be written or synced.
    Commit,
    /// The space is used up or nearly so.
    Space,
    /// The tables cannot be written, and the commit log waits for them.
    Tables,
    /// The engine was closed, or one of its threads ended.
    Stopped,
}

const CAUSES: usize = 5;

/// What is wrong now.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    reasons: Mutex<[Option<String>; CAUSES]>,
}

impl Trouble {
    fn reasons(&self) -> MutexGuard<'_, [Option<String>; CAUSES]> {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets or clears what one part met.
    pub(crate) fn set(&self, cause: Cause, reason: Option<String>) {
        let slot = &mut self.reasons()[cause as usize];
        match (&*slot, &reason) {
            // Not an error but the end; whoever stops for another reason says so.
            _ if cause == Cause::Stopped => {}
            (None, Some(reason)) => tracing::error!(?cause, reason, "the log cannot be written"),
            (Some(_), None) => tracing::info!(?cause, "the log can be written again"),
            _ => {}
        }
        *slot = reason;
    }

    /// What one part met.
    pub(crate) fn of(&self, cause: Cause) -> Option<String> {
        self.reasons()[cause as usize].clone()
    }

    /// The first reason there is.
    pub(crate) fn any(&self) -> Option<String> {
        self.reasons().iter().flatten().next().cloned()
    }
}
