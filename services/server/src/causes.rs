//! What is said of an error and what it comes from.

use std::error::Error;

/// An error and its causes on one line. Many an error tells its cause itself: that is not said twice.
#[must_use]
pub fn on_one_line(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
        source = error.source();
    }
    line
}
