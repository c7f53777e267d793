//! The line editor of the terminal, with history across sessions.
//!
//! The history is kept in `$XDG_STATE_HOME/tertulia/history` (`~/.local/state/tertulia/history` without that variable),
//! readable by its owner only. A line that begins with a blank is not kept.

use std::fs::DirBuilder;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;

use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{Config, Editor, ExternalPrinter};
use tokio::sync::mpsc;

use super::command::{Command, Reader};
use super::{Typed, WAITING, understand};
use crate::screen::{Above, escape};

/// Lines that are remembered.
const HISTORY: usize = 1_000;

/// Why there is no line editor.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The terminal does not play along.
    #[error("cannot edit lines on this terminal: {0}")]
    Terminal(#[from] ReadlineError),
    /// The thread could not be started.
    #[error("cannot start the line editor: {0}")]
    Thread(#[from] io::Error),
}

/// Starts the line editor. Returns what is typed, and the way to print above the line that is being typed.
pub(crate) fn start(reader: Reader) -> Result<(mpsc::Receiver<Typed>, Above), Error> {
    let config = Config::builder().max_history_size(HISTORY)?.history_ignore_space(true).build();
    let mut editor = Editor::<(), DefaultHistory>::with_config(config)?;
    let history = history_file();
    if let Some(path) = &history {
        // There is none yet at the first start; without it one types as well.
        editor.load_history(path).ok();
    }
    let mut printer = editor.create_external_printer()?;
    let above = Box::new(move |text| printer.print(text).is_ok());
    let (typed, receiver) = mpsc::channel(WAITING);
    thread::Builder::new().name("input".into()).spawn(move || edit(editor, reader, history.as_deref(), &typed))?;
    Ok((receiver, above))
}

fn edit(
    mut editor: Editor<(), DefaultHistory>,
    mut reader: Reader,
    history: Option<&Path>,
    typed: &mpsc::Sender<Typed>,
) {
    let mut interrupted = false;
    loop {
        let read = editor.readline(&prompt(&reader));
        if let Ok(line) = &read {
            remember(&mut editor, line, history);
        }
        let was_interrupted = std::mem::replace(&mut interrupted, matches!(read, Err(ReadlineError::Interrupted)));
        let (next, ends) = match read {
            Ok(line) => {
                let next = understand(&mut reader, &line);
                let quits = next == Some(Typed::Command(Command::Quit));
                (next, quits)
            }
            Err(error) => {
                let (next, ends) = without_line(&error, was_interrupted);
                (Some(next), ends)
            }
        };
        let is_heard = next.is_none_or(|next| typed.blocking_send(next).is_ok());
        if ends || !is_heard {
            return;
        }
    }
}

/// What it means that no line came, and whether none will. Pure.
fn without_line(error: &ReadlineError, was_interrupted: bool) -> (Typed, bool) {
    match error {
        // The first one drops the line, as in a shell.
        ReadlineError::Interrupted if !was_interrupted => {
            let help = "Control-D or quit ends the session, as does another Control-C";
            (Typed::Mistake(help.to_owned()), false)
        }
        ReadlineError::Interrupted | ReadlineError::Eof => (Typed::Command(Command::Quit), true),
        // A byte that is no text, as some keyboards and pastes send them: the line is lost, the conversation goes on.
        ReadlineError::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            (Typed::Mistake("what was typed is not UTF-8, and the line was dropped".to_owned()), false)
        }
        error => (Typed::Mistake(format!("cannot read the keyboard any more: {error}")), true),
    }
}

fn prompt(reader: &Reader) -> String {
    let mut prompt = String::new();
    escape::escape(reader.current().unwrap_or_default(), escape::Backslash::Keep, &mut prompt);
    prompt.push_str("> ");
    prompt
}

fn remember(editor: &mut Editor<(), DefaultHistory>, line: &str, history: Option<&Path>) {
    if line.trim().is_empty() {
        return;
    }
    // A history that cannot be kept is no reason to stop a conversation.
    editor.add_history_entry(line).ok();
    if let Some(path) = history {
        editor.append_history(path).ok();
    }
}

/// Where the history is kept; `None` if there is no such place.
fn history_file() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")))?;
    let directory = state.join("tertulia");
    private_directories(&directory).ok()?;
    Some(directory.join("history"))
}

fn private_directories(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Puts the terminal back as it was, if the editor was still reading when the session ended.
#[derive(Debug)]
pub(crate) struct Restore {
    #[cfg(unix)]
    before: Option<nix::sys::termios::Termios>,
}

impl Restore {
    /// Remembers how the terminal is.
    pub(crate) fn remember() -> Self {
        Self {
            #[cfg(unix)]
            before: nix::sys::termios::tcgetattr(io::stdin()).ok(),
        }
    }

    /// Sets it so again.
    pub(crate) fn restore(self) {
        #[cfg(unix)]
        if let Some(before) = self.before {
            use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
            let is_raw = tcgetattr(io::stdin()).is_ok_and(|now| !now.local_flags.contains(LocalFlags::ICANON));
            if is_raw {
                tcsetattr(io::stdin(), SetArg::TCSADRAIN, &before).ok();
                // No more bracketed paste, and no prompt that nobody answers.
                let mut out = io::stdout().lock();
                out.write_all(b"\x1b[?2004l\r\x1b[J").and_then(|()| out.flush()).ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_input_and_a_second_interrupt_quit() {
        let quit = (Typed::Command(Command::Quit), true);
        assert_eq!(without_line(&ReadlineError::Eof, false), quit);
        assert_eq!(without_line(&ReadlineError::Interrupted, true), quit);
        assert!(matches!(without_line(&ReadlineError::Interrupted, false), (Typed::Mistake(_), false)));
    }

    #[test]
    fn a_byte_that_is_no_text_costs_its_line_alone() {
        let invalid = ReadlineError::Io(io::ErrorKind::InvalidData.into());
        assert!(matches!(without_line(&invalid, false), (Typed::Mistake(_), false)));
    }

    #[test]
    fn a_keyboard_that_fails_is_told_before_the_end() {
        let gone = ReadlineError::Io(io::Error::other("unplugged"));
        let (Typed::Mistake(told), true) = without_line(&gone, false) else { panic!("it ends with a mistake") };
        assert!(told.contains("unplugged"));
    }
}
