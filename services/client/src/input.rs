//! What the person, or a script, types.
//!
//! Where standard input and output are both a terminal, [`editor`] reads it with editing and history; else [`lines`]
//! reads plain lines. Each runs on a thread of its own, since a blocked read cannot be cancelled, and ends with the
//! input; the session then sees its channel closed.

use std::io;

use tokio::sync::mpsc;

use command::Reader;
pub(crate) use command::{Command, HELP};
use lines::LineError;

mod command;
pub(crate) mod editor;
pub(crate) mod lines;

/// As many commands wait for the session at most.
const WAITING: usize = 64;

/// One line, understood or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Typed {
    /// Something to do.
    Command(Command),
    /// What is wrong with the line.
    Mistake(String),
}

/// What a line comes to: `None` for nothing, and `Quit` is for whoever reads on.
fn understand(reader: &mut Reader, line: &str) -> Option<Typed> {
    match reader.read(line) {
        Ok(command) => command.map(Typed::Command),
        Err(mistake) => Some(Typed::Mistake(mistake.to_string())),
    }
}

/// Reads plain lines of commands from standard input.
pub(crate) fn from_lines(current: Option<String>) -> io::Result<mpsc::Receiver<Typed>> {
    let mut reader = Reader::new(current);
    let (typed, receiver) = mpsc::channel(WAITING);
    lines::spawn(move |line: Result<&str, LineError>| {
        let next = match line {
            Ok(line) => understand(&mut reader, line),
            Err(error) => Some(Typed::Mistake(error.to_string())),
        };
        match next {
            None => true,
            Some(Typed::Command(Command::Quit)) => false,
            Some(next) => typed.blocking_send(next).is_ok(),
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
