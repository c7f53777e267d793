//! Tests of the test itself: a violation …

use crate::code::Code;
use crate::drawing::Arrows;
use crate::{SERVER, manifest};

const DRAWN: &str = "
text
```arrows
* -> protocol::name     # every part
main -> server
server -> config, front, shard
config -> front::config
front -> shard, protocol
shard -> log
log ->
tertulia-client -> tertulia-protocol
tertulia-protocol ->
```
```arrows
log -> front
```
";

/// The faults of these files, shortened to place and parts.
fn faults(files: &[(&str, &str)]) -> Vec<String> {
    let mut code = Code::default();
    code.exports_of("protocol", "pub use name::{GroupName, UserName}; pub use code::Code;".parse().unwrap());
    for (path, source) in files {
        code.file(path, source).unwrap();
    }
    let faults = code.faults(&Arrows::parse(DRAWN).unwrap());
    faults.iter().map(|fault| fault.trim_start_matches(SERVER).split(" (").next().unwrap().to_owned()).collect()
}

fn in_file(path: &str, source: &str) -> Vec<String> {
    faults(&[(path, source)])
}

#[test]
fn is_named_with_both_parts_and_its_place() {
    let mut code = Code::default();
    code.file("log/memory.rs", "use std::fmt;\nuse crate::shard::Handle;").unwrap();
    assert_eq!(
        code.faults(&Arrows::parse(DRAWN).unwrap()),
        [
            "services/server/src/log/memory.rs:2: log may not use shard (shard::Handle); docs/architecture.md allows it: \
            protocol::name"
        ]
    );
}

#[test]
fn is_found_in_imports_of_any_shape() {
    let wrong = ["/shard/owner.rs:2: shard may not use front"];
    for import in [
        "use crate::front::Outbound;",
        "use crate::{log::Log, front::{self, Outbound}};",
        "use crate::{log, front};",
        "pub use crate::front::*;",
        "use crate::front as far;",
        "use super::super::front;",
        "use super::{ring, super::front::Outbound};",
        "use self::super::super::front::Outbound;",
        "fn f(x: &crate::front::Outbound) {}",
        "fn f() { println!(\"{}\", crate::front::X) }",
        "macro_rules! m { () => { $crate::front::X } }",
        "mod inner { use super::super::super::front::X; }",
        "#[cfg(not(test))] use crate::front;",
        "#[cfg(test)] use crate::front;",
        "use tertulia_server::front::Outbound;",
    ] {
        let mut found = in_file("shard/owner.rs", &format!("//! Owns.\n{import}"));
        found.dedup();
        assert_eq!(found, wrong, "{import}");
    }
}

#[test]
fn is_not_seen_where_there_is_none() {
    for fine in [
        "use crate::log::Log; use super::ring::Ring; use crate::shard::map;",
        "// use crate::front::X;\n/* crate::front */ /// crate::front::X\nfn f() {}",
        "fn f() { \"crate::front::X\"; r#\"crate::front\"#; }",
        "pub(crate) fn f<'a>(self: &'a Self) -> char { ':' }",
        "mod inner { use super::super::map::X; }",
        "use tertulia_protocol::{GroupName, name::MAX};",
        "fn f(front: Front) { front.go() }",
        "use std::front; fn f() { front::go(); other::front::go() }",
    ] {
        assert_eq!(in_file("shard/owner.rs", fine), [""; 0], "{fine}");
    }
}

#[test]
fn is_more_than_the_module_that_may_be_used() {
    let front = ("front.rs", "pub mod config;\npub use config::{Config, Limits as Bounds};\npub use hub::Hub;");
    let fine = "use crate::front::{Config, Bounds, config::Limits};";
    assert_eq!(faults(&[front, ("config.rs", fine)]), [""; 0]);
    let bound = "use crate::front;\nstruct Config { front: front::Config }";
    assert_eq!(faults(&[front, ("config.rs", bound)]), [""; 0]);
    let wrong = "use crate::front;\nstruct Config { hub: front::Hub }";
    assert_eq!(faults(&[front, ("config.rs", wrong)]), ["/config.rs:2: config may not use front"]);
    assert_eq!(in_file("log.rs", "use tertulia_protocol::Code;"), ["/log.rs:1: log may not use protocol"]);
    assert_eq!(in_file("log.rs", "use tertulia_protocol as p;\nfn f(c: p::Code) {}").len(), 1);
}

#[test]
fn is_the_whole_crate() {
    for import in ["use crate::*;", "use crate as all;", "use crate::{self as all};", "use super::*;"] {
        assert_eq!(in_file("shard.rs", import), ["/shard.rs:1: shard may not use the whole crate"], "{import}");
    }
}

#[test]
fn is_allowed_to_tests_along_the_arrows_only() {
    let front = |source| in_file("front/hub.rs", source);
    assert_eq!(front("use crate::log::Log;").len(), 1);
    assert_eq!(front("#[cfg(test)] mod tests { use super::*; use crate::log::Log; }"), [""; 0]);
    assert_eq!(front("#[cfg(test)] fn f() { crate::log::x() } fn g() { crate::log::x() }").len(), 1);
    assert_eq!(front("#[cfg(test)] mod tests { use crate::server::run; }").len(), 1);
    let declared = [("front/tests/a.rs", "use crate::log::Log;"), ("front.rs", "#[cfg(test)]\nmod tests;")];
    assert_eq!(faults(&declared), [""; 0]);
}

#[test]
fn is_a_part_that_is_not_drawn() {
    assert_eq!(in_file("gossip.rs", "")[0], ": docs/architecture.md has no arrows for the part 'gossip'");
    assert_eq!(in_file("main.rs", "mod log;\nfn main() { log::start() }"), ["/main.rs:2: main may not use log"]);
}

#[test]
fn is_a_drawing_that_leads_back_or_nowhere() {
    let parse = |lines: &str| Arrows::parse(&format!("```arrows\n{lines}\n```")).map(|_| ());
    assert!(parse("a -> b\nb -> c\nc ->").is_ok());
    assert!(parse("a -> b\nb -> c\nc -> a").is_err());
    assert!(parse("a -> b").is_err());
    assert!(parse("a ->\na ->").is_err());
    assert!(parse("").is_err());
}

#[test]
fn is_found_between_crates() {
    let faults = |manifest: &str| manifest::faults("x/Cargo.toml", manifest, &Arrows::parse(DRAWN).unwrap());
    let name = "[package]\nname = \"tertulia-client\"\ndescription = \"for tertulia-server\"\n";
    assert_eq!(faults(&format!("{name}[dependencies]\ntertulia-protocol.workspace = true\n")), [""; 0]);
    let wrong = ["x/Cargo.toml:5: tertulia-client may not use tertulia-server (see docs/architecture.md)"];
    for section in ["[dependencies]", "[dev-dependencies]", "[target.'cfg(unix)'.build-dependencies]"] {
        for line in ["tertulia-server.workspace = true", "x = { package = \"tertulia-server\" }"] {
            assert_eq!(faults(&format!("{name}{section}\n{line}\n")), wrong, "{section} {line}");
        }
    }
}

#[test]
fn is_looked_for_in_every_member() {
    for list in ["[\"a\", \"b/c\"]", "[\n    \"a\",\n    \"b/c\",\n]"] {
        assert_eq!(manifest::members(&format!("[workspace]\nmembers = {list}\nother = [\"x\"]\n")), ["a", "b/c"]);
    }
}
