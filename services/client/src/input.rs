//! What the person, or a script, types.
//!
//! Where standard input and output are both a terminal, [`editor`] reads it with editing and history; else [`lines`]
//! reads plain lines. Each runs on a thread of its own, since a blocked read cannot be cancelled, and ends with the
//! input; the session then sees its channel closed.

use std::io;

use tokio::sync::mpsc;

pub(crate) use command::{Command, HELP, Reader};
use lines::LineError;

mod command;
pub(crate) mod editor;
pub(crate) mod lines;

/// As many commands wait for the session at most.
const WAITING: usize = 64;

/// What the end of the input means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Nothing more comes.
    Silence,
    /// Control-D at a terminal: the person goes.
    Quit,
}

/// One line, understood or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Typed {
    /// Something to do.
    Command(Command),
    /// What is wrong with the line.
    Mistake(String),
}

/// What a line comes to: `None` for nothing. After `Quit` nobody reads on.
fn understand(reader: &mut Reader, line: &str) -> Option<Typed> {
    match reader.read(line) {
        Ok(command) => command.map(Typed::Command),
        Err(mistake) => Some(Typed::Mistake(mistake.to_string())),
    }
}

/// Reads plain lines from standard input. `at_end` is what its end means.
pub(crate) fn from_lines(mut reader: Reader, at_end: End) -> io::Result<mpsc::Receiver<Typed>> {
    let (typed, receiver) = mpsc::channel(WAITING);
    let ended = typed.clone();
    let take = move |line: Result<&str, LineError>| {
        let next = match line {
            Ok(line) => understand(&mut reader, line),
            Err(error) => Some(Typed::Mistake(error.to_string())),
        };
        let Some(next) = next else { return true };
        let quits = next == Typed::Command(Command::Quit);
        typed.blocking_send(next).is_ok() && !quits
    };
    lines::spawn(take, move || {
        if at_end == End::Quit {
            // If the session is over already, it does not care.
            ended.blocking_send(Typed::Command(Command::Quit)).ok();
        }
    })?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::command::Mistake;
    use super::*;

    #[test]
    fn a_mistake_is_told_in_words() {
        let mut reader = Reader::default();
        assert_eq!(understand(&mut reader, " "), None);
        assert_eq!(understand(&mut reader, "hi"), Some(Typed::Mistake(Mistake::NoGroup.to_string())));
        assert_eq!(understand(&mut reader, "quit"), Some(Typed::Command(Command::Quit)));
    }
}
