//! The classic dialect, byte for byte in both directions.

use anyhow::{Context, Result};
use harness::{RawClient, Server, ServerOptions};

const JOIN: &str = r#"{"Join":{"group_name":"Dogs"}}"#;

fn post(text: &str) -> String {
    format!(r#"{{"Post":{{"group_name":"Dogs","message":"{text}"}}}}"#)
}

fn message(text: &str) -> String {
    format!(r#"{{"Message":{{"group_name":"Dogs","message":"{text}"}}}}"#)
}

/// A client that is a member of `Dogs`: it has its own message back.
async fn member(server: &Server) -> Result<RawClient> {
    let mut client = server.connector().raw().await?;
    client.line(JOIN).await?;
    client.line(&post("here I am")).await?;
    client.expect(&message("here I am")).await?;
    Ok(client)
}

/// Expects an `Error` line next, and answers its text.
async fn error(client: &mut RawClient) -> Result<String> {
    let line = client.json().await?;
    let text = line["Error"].as_str().with_context(|| format!("expected an Error, got {line}"))?;
    assert_eq!(line.as_object().map(|object| object.len()), Some(1), "{line}");
    Ok(text.to_owned())
}

#[tokio::test]
async fn the_books_conversation() -> Result<()> {
    let server = Server::start().await?;
    let mut one = member(&server).await?;
    let mut two = member(&server).await?;
    one.expect(&message("here I am")).await?;
    one.send(b"{\"Post\":{\"group_name\":\"Dogs\",\"message\":\"Samoyeds rock!\"}}\n").await?;
    for client in [&mut one, &mut two] {
        client.expect(r#"{"Message":{"group_name":"Dogs","message":"Samoyeds rock!"}}"#).await?;
    }
    two.line(r#"{"Post":{"group_name":"Cats","message":"hello?"}}"#).await?;
    two.expect(r#"{"Error":"Group 'Cats' does not exist"}"#).await?;
    two.line(&post("still here")).await?;
    for client in [&mut one, &mut two] {
        client.expect(&message("still here")).await?;
    }
    Ok(())
}

#[tokio::test]
async fn nothing_is_answered_to_a_join_and_joining_again_changes_nothing() -> Result<()> {
    let server = Server::start().await?;
    let mut client = server.connector().raw().await?;
    client.line(JOIN).await?;
    client.line(JOIN).await?;
    client.line(&post("one")).await?;
    client.line(JOIN).await?;
    client.line(&post("two")).await?;
    client.expect(&message("one")).await?;
    client.expect(&message("two")).await
}

#[tokio::test]
async fn one_may_post_without_joining() -> Result<()> {
    let server = Server::start().await?;
    let mut member = member(&server).await?;
    let mut stranger = server.connector().raw().await?;
    stranger.line(&post("from outside")).await?;
    member.expect(&message("from outside")).await?;
    // The stranger got nothing of it: what comes first after it has joined is what it posts then.
    stranger.line(JOIN).await?;
    stranger.line(&post("from inside")).await?;
    stranger.expect(&message("from inside")).await?;
    member.expect(&message("from inside")).await
}

#[tokio::test]
async fn a_server_can_refuse_posts_of_strangers() -> Result<()> {
    let server = ServerOptions::new().set("chat.post_without_join", false).start().await?;
    let mut member = member(&server).await?;
    let mut stranger = server.connector().raw().await?;
    stranger.line(&post("from outside")).await?;
    let text = error(&mut stranger).await?;
    assert!(text.contains("Dogs") && text.contains("member"), "{text}");
    stranger.line(JOIN).await?;
    stranger.line(&post("from inside")).await?;
    stranger.expect(&message("from inside")).await?;
    member.expect(&message("from inside")).await
}

#[tokio::test]
async fn lines_may_end_as_they_do_elsewhere() -> Result<()> {
    let server = Server::start().await?;
    let mut client = server.connector().raw().await?;
    client.send("\r\n\n{\"Join\":{\"group_name\":\"Dogs\"}}\r\n\r\n").await?;
    client.send(format!("{}\r\n{}\n", post("one"), post("two"))).await?;
    client.expect(&message("one")).await?;
    client.expect(&message("two")).await
}

#[tokio::test]
async fn lines_may_come_in_any_pieces() -> Result<()> {
    let server = Server::start().await?;
    let mut client = server.connector().raw().await?;
    let lines = format!("{JOIN}\n{}\n{}\n", post("grüße"), post("🐾"));
    for byte in lines.into_bytes() {
        client.send([byte]).await?;
    }
    client.expect(&message("grüße")).await?;
    client.expect(&message("🐾")).await
}

#[tokio::test]
async fn a_last_line_without_an_end_counts() -> Result<()> {
    use tokio::io::AsyncWriteExt;
    let server = Server::start().await?;
    let mut member = member(&server).await?;
    let mut client = server.connector().raw().await?;
    client.send(post("over and out")).await?;
    client.stream().shutdown().await?;
    member.expect(&message("over and out")).await?;
    client.expect_closed().await
}

#[tokio::test]
async fn fields_that_the_book_does_not_know_are_ignored() -> Result<()> {
    let server = Server::start().await?;
    let mut client = server.connector().raw().await?;
    client.line(r#"{"Join":{"color":["brown",{}],"group_name":"Dogs","after":0}}"#).await?;
    client.line(r#" { "Post" : { "id":"x", "message" : "spaced" , "group_name" : "Dogs", "n": null } } "#).await?;
    client.expect(&message("spaced")).await
}

#[tokio::test]
async fn texts_are_encoded_as_the_book_does() -> Result<()> {
    let server = Server::start().await?;
    let mut client = server.connector().raw().await?;
    client.line(r#"{"Join":{"group_name":"\u0044ogs"}}"#).await?;
    let cases = [
        (r"\u00e9 \ud83d\udc3e \u4e24", "é 🐾 两"),
        (r"\/ \b \f \n \r \t \u0001 \u001f", r"/ \b \f \n \r \t \u0001 \u001f"),
        (r#"\"quoted\" \\ back"#, r#"\"quoted\" \\ back"#),
        (r"\u007f \u0080 \u2028 \ufeff", "\u{7f} \u{80} \u{2028} \u{feff}"),
        ("", ""),
        ("  ", "  "),
    ];
    for (sent, seen) in cases {
        client.line(&post(sent)).await?;
        client.expect(&message(seen)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn group_names_are_compared_byte_by_byte() -> Result<()> {
    let server = Server::start().await?;
    let mut client = member(&server).await?;
    for other in ["dogs", "Do\u{301}gs", "DOGS", "Dog", "Dogs2"] {
        client.line(&format!(r#"{{"Post":{{"group_name":"{other}","message":"x"}}}}"#)).await?;
        client.expect(&format!(r#"{{"Error":"Group '{other}' does not exist"}}"#)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_malformed_line_is_explained_and_the_connection_lives_on() -> Result<()> {
    let server = ServerOptions::new().set("limits.malformed_lines", 1000).start().await?;
    let mut client = server.connector().raw().await?;
    // Even the first line may be one.
    client.line("hello").await?;
    assert!(error(&mut client).await?.contains("column 1"));
    client.line(JOIN).await?;
    let with_column: [&[u8]; 9] = [
        br#"{"Post":{"group_name":"Dogs","message":"unfinished"#,
        br#"{"Post":{"group_name":"Dogs","message":7}}"#,
        br#"{"Post":{"group_name":"Dogs"}}"#,
        br#"{"Post":"Dogs"}"#,
        br#"{"Post":{"group_name":"Dogs","message":"lone \ud83d"}}"#,
        br#"{"Join":{"group_name":"Dogs"}} {"#,
        b"GET / HTTP/1.1",
        b"{\"Join\":{\"group_name\":\"D\xf0gs\"}}",
        b"\x00\xff\x16\x03\x01",
    ];
    for line in with_column {
        client.send([line, b"\n"].concat()).await?;
        let text = error(&mut client).await?;
        assert!(text.contains("column "), "{:?}: {text}", String::from_utf8_lossy(line));
    }
    for line in [r#"{"Leave":{"group_name":"Dogs"}}"#, r"{}", r#"{"Join":{"group_name":"Dogs"},"Post":{}}"#, "[]", "1"]
    {
        client.line(line).await?;
        let text = error(&mut client).await?;
        assert!(!text.contains("closed"), "{line}: {text}");
    }
    client.line(&post("alive")).await?;
    client.expect(&message("alive")).await
}

#[tokio::test]
async fn a_late_hello_is_an_error() -> Result<()> {
    let server = Server::start().await?;
    let mut client = member(&server).await?;
    client.line(r#"{"Hello":{"version":1,"user":"ada"}}"#).await?;
    let text = error(&mut client).await?;
    assert!(text.contains("Hello"), "{text}");
    client.line(&post("classic still")).await?;
    client.expect(&message("classic still")).await
}

#[tokio::test]
async fn too_many_malformed_lines_end_the_connection() -> Result<()> {
    let server = ServerOptions::new().set("limits.malformed_lines", 3).start().await?;
    let mut client = member(&server).await?;
    client.send("a\nb\nc\n").await?;
    for _ in 0..3 {
        assert!(error(&mut client).await?.contains("column 1"));
    }
    assert!(error(&mut client).await?.contains("closed"));
    client.expect_closed().await
}

#[tokio::test]
async fn a_line_over_the_limit_ends_the_connection() -> Result<()> {
    let server = ServerOptions::new().set("limits.line_bytes", 2000).set("limits.message_bytes", 10).start().await?;
    let mut client = member(&server).await?;
    let padded = |length: usize| {
        let line =
            |padding: &str| format!(r#"{{"Post":{{"group_name":"Dogs","message":"fits","padding":"{padding}"}}}}"#);
        line(&"x".repeat(length - line("").len()))
    };
    client.line(&padded(2000)).await?;
    client.expect(&message("fits")).await?;
    client.send(format!("{}\r\n", padded(2000))).await?;
    client.expect(&message("fits")).await?;
    client.line(&padded(2001)).await?;
    let text = error(&mut client).await?;
    assert!(text.contains("2000") && text.contains("closed"), "{text}");
    client.expect_closed().await
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused() -> Result<()> {
    let server = ServerOptions::new().set("limits.message_bytes", 10).start().await?;
    let mut client = member(&server).await?;
    client.line(&post("0123456789")).await?;
    client.expect(&message("0123456789")).await?;
    client.line(&post("01234567é9")).await?;
    let text = error(&mut client).await?;
    assert!(text.contains("10") && text.contains("11"), "{text}");
    client.line(&post(r"\u00e9\u00e9\u00e9\u00e9\u00e9")).await?;
    client.expect(&message("ééééé")).await
}

#[tokio::test]
async fn a_bad_group_name_is_refused_by_its_rule() -> Result<()> {
    let server = ServerOptions::new().set("limits.group_name_characters", "ascii").start().await?;
    let mut client = member(&server).await?;
    for (name, rule) in [("", "empty"), (" Dogs", "ASCII"), ("Köter", "ASCII"), ("a\\u0000b", "ASCII")] {
        client.line(&format!(r#"{{"Join":{{"group_name":"{name}"}}}}"#)).await?;
        let text = error(&mut client).await?;
        assert!(text.contains("group name") && text.contains(rule), "{name}: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn pipelined_posts_keep_their_order() -> Result<()> {
    const POSTS: usize = 3000;
    let server = Server::start().await?;
    let mut client = member(&server).await?;
    let lines: String = (0..POSTS).map(|number| post(&number.to_string()) + "\n").collect();
    client.send(lines).await?;
    for number in 0..POSTS {
        client.expect(&message(&number.to_string())).await?;
    }
    Ok(())
}
