//! `tertulia-server auth hash-password`: what is kept of a password.

use std::io::{self, BufRead, IsTerminal, Read, Stdin, Write};

use anyhow::{Context, bail, ensure};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tertulia_server::auth;

/// More than any password has, so that it is seen when one is too long.
const MOST: u64 = 64 * 1024;

/// Reads a password from stdin and answers its hash, as a line.
///
/// # Errors
/// There is none, it cannot be read, or it cannot be one.
pub(crate) fn run() -> anyhow::Result<String> {
    let stdin = io::stdin();
    let password = if stdin.is_terminal() { ask(&stdin)? } else { read(stdin.lock())? };
    Ok(format!("{}\n", auth::hash_of(&password)?))
}

/// The one line that there is.
fn read(from: impl Read) -> anyhow::Result<String> {
    let mut text = String::new();
    from.take(MOST).read_to_string(&mut text).context("cannot read the password from stdin")?;
    let line = without_line_end(&text);
    ensure!(!line.contains('\n'), "a password is one line, and there are more on stdin");
    Ok(line.to_owned())
}

/// What somebody types, twice, without showing it.
fn ask(stdin: &Stdin) -> anyhow::Result<String> {
    let _unseen = Unseen::begin(stdin).context("cannot keep the terminal from showing the password")?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().build().context("cannot start the runtime")?;
    // Ctrl-C must not leave the terminal as it is now.
    let typed = runtime.block_on(async {
        tokio::select! {
            typed = tokio::task::spawn_blocking(type_twice) => typed.context("the password was not read")?,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    });
    // Whoever reads the terminal may go on to.
    runtime.shutdown_background();
    typed
}

fn type_twice() -> anyhow::Result<String> {
    let [one, other] = ["Password: ", "Again: "].map(|text| {
        let mut stderr = io::stderr();
        stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush()).ok();
        let mut line = String::new();
        let read = io::stdin().lock().take(MOST).read_line(&mut line).context("cannot read the password");
        read.map(|_| without_line_end(&line).to_owned())
    });
    let (one, other) = (one?, other?);
    ensure!(one == other, "these are two different passwords");
    Ok(one)
}

fn without_line_end(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

/// A terminal that does not show what is typed, until this is dropped.
struct Unseen<'a> {
    terminal: &'a Stdin,
    before: Termios,
}

impl<'a> Unseen<'a> {
    fn begin(terminal: &'a Stdin) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut modes = before.clone();
        modes.local_modes.remove(LocalModes::ECHO);
        // The end of the line is shown.
        modes.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(terminal, OptionalActions::Flush, &modes)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Unseen<'_> {
    fn drop(&mut self) {
        // There is nobody to tell who could do something about it.
        tcsetattr(self.terminal, OptionalActions::Flush, &self.before).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_one_line_with_all_that_is_in_it() {
        for (given, password) in [("a b", "a b"), (" s3cret \n", " s3cret "), ("größe\r\n", "größe"), ("", "")] {
            assert_eq!(read(given.as_bytes()).unwrap(), password);
        }
        assert!(read(&b"one\ntwo"[..]).unwrap_err().to_string().contains("one line"));
        assert!(read(&b"\xff"[..]).is_err());
    }
}
