//! A panic is a line of the log like any other, and counted: it is a bug of this program, and somebody should hear of it.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, PanicHookInfo};
use std::thread;

use metrics::{Unit, counter, describe_counter};

const PANICS: &str = "tertulia_panics_total";

/// From now on panics of this process are logged and counted.
pub(super) fn init() {
    describe_counter!(PANICS, Unit::Count, "Tasks and threads of the server that panicked; each is a bug");
    counter!(PANICS).absolute(0);
    let as_ever = panic::take_hook();
    panic::set_hook(Box::new(move |panicked| {
        tell(panicked);
        // Whoever wants no log still wants to know.
        if !tracing::enabled!(tracing::Level::ERROR) {
            as_ever(panicked);
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
