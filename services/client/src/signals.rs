//! The signals that end a session.

use std::io;

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits for an interrupt, a termination or the loss of the terminal.
pub(crate) struct Signals {
    #[cfg(unix)]
    kinds: Vec<(u8, Signal)>,
}

#[cfg(test)]
impl Signals {
    /// Waits for nothing.
    pub(crate) fn none() -> Self {
        Self {
            #[cfg(unix)]
            kinds: Vec::new(),
        }
    }
}

/// SIGHUP, SIGINT, SIGTERM.
#[cfg(unix)]
const ENDING: [u8; 3] = [1, 2, 15];

#[cfg(unix)]
impl Signals {
    /// Begins to listen: from now on these signals do not end the process by themselves. Those that whoever started the
    /// process had it ignore, as `nohup` does, stay ignored.
    pub(crate) fn new() -> io::Result<Self> {
        let ignored = std::fs::read_to_string("/proc/self/status").map_or(0, |status| ignored(&status));
        let heard = ENDING.into_iter().filter(|number| ignored & (1_u64 << (number - 1)) == 0);
        let listen = |number: u8| signal(SignalKind::from_raw(number.into())).map(|kind| (number, kind));
        Ok(Self { kinds: heard.map(listen).collect::<io::Result<_>>()? })
    }

    /// The number of the signal that came. Cancel safe.
    pub(crate) async fn next(&mut self) -> u8 {
        std::future::poll_fn(|cx| {
            let came =
                self.kinds.iter_mut().find_map(|(number, kind)| kind.poll_recv(cx).is_ready().then_some(*number));
            came.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
        })
        .await
    }
}

/// The signals that are ignored, a bit for each, as `/proc/PID/status` tells them. Where there is no such file, as
/// elsewhere than on Linux, there is no way to ask: none are.
#[cfg(unix)]
fn ignored(status: &str) -> u64 {
    let field = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    field.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(not(unix))]
impl Signals {
    /// Nothing to prepare.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    /// The number of the signal that came: an interrupt is the only one. Cancel safe.
    pub(crate) async fn next(&mut self) -> u8 {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        2
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_read_from_the_status() {
        assert_eq!(ignored("Name:\ttertulia\nSigBlk:\t00000000000000ff\nSigIgn:\t0000000000001001\n"), 0x1001);
        assert_eq!(ignored("Name:\tx\n"), 0);
    }
}
