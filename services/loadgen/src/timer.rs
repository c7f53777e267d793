//! A wake-up at an exact time: `epoll` alone knows only whole milliseconds.

use anyhow::Result;
use mio::{Registry, Token};

/// A wake-up at an exact time, where the system has one; elsewhere the loop's timeout must do.
#[derive(Debug)]
pub(crate) struct Timer {
    #[cfg(target_os = "linux")]
    descriptor: rustix::fd::OwnedFd,
    set_to: Option<u64>,
}

#[cfg(target_os = "linux")]
impl Timer {
    /// A timer that is not set, and wakes with `token`.
    ///
    /// # Errors
    /// As the system's.
    pub(crate) fn new(registry: &Registry, token: Token) -> Result<Self> {
        use std::os::fd::AsRawFd;

        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        let descriptor = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        registry.register(&mut mio::unix::SourceFd(&descriptor.as_raw_fd()), token, mio::Interest::READABLE)?;
        Ok(Self { descriptor, set_to: None })
    }

    /// Wakes once at `at`, given what time it is; both in nanoseconds of the same clock.
    ///
    /// # Errors
    /// As the system's.
    pub(crate) fn set(&mut self, at: u64, now: u64) -> Result<()> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
        if self.set_to == Some(at) && at > now {
            return Ok(());
        }
        self.set_to = Some(at);
        // Zero would unset it.
        let wait = at.saturating_sub(now).max(1);
        let value = Timespec { tv_sec: (wait / 1_000_000_000) as i64, tv_nsec: (wait % 1_000_000_000) as i64 };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        // Setting it also makes an expired one not ready, so it need not be read.
        timerfd_settime(&self.descriptor, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    /// The longest wait of the loop that does not miss the time.
    #[must_use]
    pub(crate) fn timeout(&self, _now: u64) -> Option<std::time::Duration> {
        None
    }
}

#[cfg(not(target_os = "linux"))]
#[allow(missing_docs, clippy::missing_errors_doc, reason = "as above")]
impl Timer {
    pub(crate) fn new(_registry: &Registry, _token: Token) -> Result<Self> {
        Ok(Self { set_to: None })
    }

    pub(crate) fn set(&mut self, at: u64, _now: u64) -> Result<()> {
        self.set_to = Some(at);
        Ok(())
    }

    #[must_use]
    pub(crate) fn timeout(&self, now: u64) -> Option<std::time::Duration> {
        self.set_to.map(|at| std::time::Duration::from_nanos(at.saturating_sub(now)))
    }
}
