//! Levels of the log that are changed while the server runs.

use anyhow::{Context, Result, ensure};
use harness::{Server, ServerOptions};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A line at the level `debug`.
const QUIET: &str = "it does not speak HTTP/2";

/// Has the server say that.
async fn provoke(server: &Server) -> Result<()> {
    let mut stream = TcpStream::connect(server.listening().admin.context("no admin API")?).await?;
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
    // Closed, if need be with an error.
    drop(stream.read_to_end(&mut Vec::new()).await);
    Ok(())
}

fn count(server: &Server, text: &str) -> Result<usize> {
    Ok(server.log()?.matches(text).count())
}

#[tokio::test]
async fn more_is_logged_for_as_long_as_somebody_asked_for() -> Result<()> {
    let server = ServerOptions::new().set("telemetry.log_level", "warn").start().await?;
    provoke(&server).await?;
    let levels = "info,tertulia_server::admin=debug";
    let asked = json!({"levels": levels, "reason": "who calls?"});
    let answer = server.admin("SetLogLevels", asked).await?;
    ensure!(
        answer["levels"] == levels && answer["configuredLevels"] == "warn" && answer["until"].is_string(),
        "{answer}"
    );
    provoke(&server).await?;
    server.until_logged(QUIET).await?;
    ensure!(count(&server, QUIET)? == 1, "only since it was asked for");
    // By itself.
    server.admin("SetLogLevels", json!({"levels": levels, "seconds": 1})).await?;
    server.until_logged("the log has the configured levels again").await?;
    let log = server.log()?;
    ensure!(
        log.contains("SetLogLevels") && log.contains("who calls?"),
        "who did it is told whatever the levels are: {log}"
    );

    server.admin("SetLogLevels", json!({"levels": "debug"})).await?;
    let answer = server.admin("SetLogLevels", json!({})).await?;
    ensure!(answer == json!({"levels": "warn", "configuredLevels": "warn"}), "{answer}");
    let before = count(&server, QUIET)?;
    provoke(&server).await?;
    for (request, told) in [
        (json!({"levels": "debgu"}), "'debgu' is no level"),
        (json!({"levels": "debug", "seconds": 86_401}), "seconds must be 86400 at most"),
    ] {
        let error =
            server.admin("SetLogLevels", request).await.map_or_else(|error| format!("{error:#}"), |it| it.to_string());
        ensure!(error.contains("InvalidArgument") && error.contains(told), "{error}");
    }
    ensure!(count(&server, QUIET)? == before, "it is as configured");
    Ok(())
}
