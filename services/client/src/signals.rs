//! The signals that end a session.

use std::io;

/// Waits for an interrupt, a termination or the loss of the terminal.
pub(crate) struct Signals {
    #[cfg(unix)]
    kinds: [(u8, tokio::signal::unix::Signal); 3],
}

#[cfg(unix)]
impl Signals {
    /// Begins to listen: from now on these signals do not end the process by themselves.
    pub(crate) fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |number: u8| Ok::<_, io::Error>((number, signal(SignalKind::from_raw(number.into()))?));
        // SIGHUP, SIGINT, SIGTERM.
        Ok(Self { kinds: [listen(1)?, listen(2)?, listen(15)?] })
    }

    /// The number of the signal that came. Cancel safe.
    pub(crate) async fn next(&mut self) -> u8 {
        let [(hangup, hangups), (interrupt, interrupts), (term, terms)] = &mut self.kinds;
        tokio::select! {
            _ = hangups.recv() => *hangup,
            _ = interrupts.recv() => *interrupt,
            _ = terms.recv() => *term,
        }
    }
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
