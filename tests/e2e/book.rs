//! The built `tertulia --classic`, driven as the book's session does.

use std::time::Duration;

use anyhow::Result;
use harness::Server;
use harness::terminal::Terminal;

const END: Duration = Duration::from_secs(10);

#[tokio::test]
async fn two_people_at_their_terminals() -> Result<()> {
    let server = Server::start().await?;
    let address = server.chat().to_string();
    let mut one = Terminal::start(&["--classic", &address])?;
    let mut two = Terminal::start(&["--classic", &address])?;
    one.types("join Dogs").await?;
    one.types("post Dogs Samoyeds rock!").await?;
    one.expect_in_session("message posted to Dogs: Samoyeds rock!").await?;
    two.types("join Dogs").await?;
    two.types("post Dogs indeed they do").await?;
    two.expect_in_session("message posted to Dogs: indeed they do").await?;
    one.expect("message posted to Dogs: indeed they do").await?;
    two.types("post Cats hello?").await?;
    two.expect("error from server: Group 'Cats' does not exist").await?;
    one.types("post Dogs   goodbye, all  ").await?;
    // The book's client drops the blanks before a message, and keeps those after it.
    two.expect("message posted to Dogs: goodbye, all  ").await?;
    for mut terminal in [one, two] {
        terminal.hang_up();
        let (code, complaints) = terminal.end(END).await?;
        // Also of the one to whom something was refused, as in the book.
        assert_eq!(code, Some(0), "{complaints}");
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_by_the_exit_code() -> Result<()> {
    let mut server = Server::start().await?;
    let address = server.chat().to_string();
    server.kill().await?;
    let terminal = Terminal::start(&["--classic", &address])?;
    let (code, complaints) = terminal.end(END).await?;
    assert!(code.is_some_and(|code| code != 0), "{code:?}");
    assert!(complaints.contains(&address), "{complaints}");
    Ok(())
}

#[tokio::test]
async fn a_line_that_is_too_long_is_skipped_and_fails_the_session_in_the_end() -> Result<()> {
    let server = Server::start().await?;
    let mut one = Terminal::start(&["--classic", &server.chat().to_string()])?;
    one.types("join Dogs").await?;
    one.types(&format!("post Dogs {}", "x".repeat(1024 * 1024))).await?;
    one.types("post Dogs still here").await?;
    one.hang_up();
    one.expect_in_session("message posted to Dogs: still here").await?;
    let (code, complaints) = one.end(END).await?;
    assert_eq!(code, Some(1), "{complaints}");
    assert!(complaints.contains("a longer one was skipped"), "{complaints}");
    assert!(!complaints.contains("had not finished"), "the server closes once it has done all: {complaints}");
    Ok(())
}
