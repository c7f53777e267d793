//! A panic is a line of the log like any other, and counted: it is a bug of this program, and somebody should hear of it.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, PanicHookInfo};
use std::thread;
use std::time::Duration;

use metrics::{Unit, counter, describe_counter};

use super::logs;

const PANICS: &str = "tertulia_panics_total";

/// How long a panic waits until its line has been written. Writing takes less than a millisecond, unless stderr takes nothing.
pub(super) const PATIENCE: Duration = Duration::from_millis(200);

/// From now on panics of this process are logged and counted. `written` returns when stderr has what the thread has logged, or soon.
pub(super) fn init(written: impl Fn() + Send + Sync + 'static) {
    describe_counter!(PANICS, Unit::Count, "Tasks and threads of the server that panicked; each is a bug");
    counter!(PANICS).absolute(0);
    let as_ever = panic::take_hook();
    panic::set_hook(Box::new(move |panicked| {
        tell(panicked);
        // Whoever wants no log still wants to know.
        if !tracing::enabled!(tracing::Level::ERROR) {
            as_ever(panicked);
        } else if thread::current().name() != Some(logs::THREAD) {
            // The process may be about to abort, as it does when something panics while another panic unwinds: then nobody writes any more.
            written();
        }
    }));
}

fn tell(panicked: &PanicHookInfo<'_>) {
    counter!(PANICS).increment(1);
    let payload = panicked.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text");
    let place = panicked.location().map(ToString::to_string).unwrap_or_default();
    let thread = thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    // Where `RUST_BACKTRACE` asks for one.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(panic = text, place, thread, backtrace, "panicked: this is a bug of the server");
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::config::{Config, LogFormat};
    use super::*;

    /// In the environment of the process that is to abort.
    const TO_ABORT: &str = "TERTULIA_TEST_ABORTS";

    struct PanicsToo;

    impl Drop for PanicsToo {
        fn drop(&mut self) {
            panic!("while it unwinds");
        }
    }

    /// What the test below runs in a process of its own: nothing, unless that one asks for it.
    #[test]
    fn aborting() {
        if std::env::var_os(TO_ABORT).is_none() {
            return;
        }
        let config = Config { log_format: LogFormat::Json, ..Config::default() };
        let (_lost, _levels, _written, waiter) = logs::init(&config).unwrap();
        init(move || {
            waiter.waits(Duration::from_secs(30));
        });
        let _dropped_by_a_panic = PanicsToo;
        panic!("at first");
    }

    #[test]
    fn what_panics_is_in_the_log_also_when_the_process_aborts() {
        let this = std::env::current_exe().unwrap();
        let test = "telemetry::panics::tests::aborting";
        let aborted = Command::new(this).args(["--exact", test, "--nocapture"]).env(TO_ABORT, "1").output().unwrap();
        assert!(!aborted.status.success());
        let text = String::from_utf8_lossy(&aborted.stderr);
        assert!(!text.contains('\0'), "{text:?}");
        for panicked in ["at first", "while it unwinds"] {
            let line = format!(r#""panic":"{panicked}""#);
            assert!(text.lines().any(|other| other.contains(&line)), "{line} is not in:\n{text}");
        }
    }
}
