//! What grpcurl, an independent client, makes of reflection.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::world::World;

/// The tool as it is on PATH, or where `tests/tools/fetch` puts it.
fn grpcurl() -> PathBuf {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin/grpcurl");
    if fetched.exists() { fetched } else { "grpcurl".into() }
}

async fn run(arguments: &[&str]) -> (bool, String, String) {
    let mut command = Command::new(grpcurl());
    command.args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
    let output = output.expect("grpcurl cannot be run: tests/tools/fetch grpcurl brings it");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_lists_and_describes_by_reflection() {
    let world = World::new().await;
    let address = world.admin.to_string();
    let (ok, out, err) = run(&["-plaintext", &address, "list"]).await;
    assert!(ok, "{err}");
    let services: Vec<&str> = out.lines().collect();
    let expected = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "tertulia.admin.v1.AdminService",
    ];
    assert_eq!(services, expected);
    let (ok, out, err) = run(&["-plaintext", &address, "describe", "tertulia.admin.v1.AdminService"]).await;
    assert!(ok, "{err}");
    assert!(out.contains("rpc WatchEvents") && out.contains("// Shows one group."), "{out}");
    let (ok, out, err) = run(&["-plaintext", &address, "describe", "tertulia.admin.v1.Group"]).await;
    assert!(ok && out.contains("google.protobuf.Timestamp closed_until"), "{out}{err}");
    let (ok, out, err) = run(&["-plaintext", &address, "grpc.health.v1.Health/Check"]).await;
    assert!(ok && out.contains("SERVING"), "{out}{err}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_needs_the_token() {
    let directory = tempfile::tempdir().unwrap();
    let token_file = directory.path().join("token");
    std::fs::write(&token_file, "s3cret").unwrap();
    let wishes = crate::world::Wishes { token_file: Some(token_file), ..Default::default() };
    let world = World::with(wishes).await;
    let address = world.admin.to_string();
    let (ok, _, err) = run(&["-plaintext", &address, "list"]).await;
    assert!(!ok && err.contains("authorization: Bearer TOKEN"), "{err}");
    let (ok, out, err) = run(&["-plaintext", "-H", "authorization: Bearer s3cret", &address, "list"]).await;
    assert!(ok && out.contains("tertulia.admin.v1.AdminService"), "{out}{err}");
    world.stop().await;
}
