use std::fs;

use super::*;

fn options() -> Admin {
    Admin {
        call: None,
        request: "{}".to_owned(),
        describe: false,
        all: false,
        address: None,
        token_file: None,
        ca: None,
        tls_name: None,
        cert: None,
        key: None,
        timeout: std::time::Duration::from_secs(1),
    }
}

fn place(tls: bool, host: &str, port: u16) -> Place {
    Place { tls, host: host.to_owned(), port }
}

#[test]
fn an_address_says_where_and_how() {
    assert_eq!(Place::named("localhost:8089", false).unwrap(), place(false, "localhost", 8_089));
    assert_eq!(Place::named("10.0.0.1:1", true).unwrap(), place(true, "10.0.0.1", 1));
    assert_eq!(Place::named("http://[::1]:8089/", false).unwrap(), place(false, "::1", 8_089));
    assert_eq!(Place::named("https://chat.example:443", false).unwrap(), place(true, "chat.example", 443));
    assert_eq!(place(true, "::1", 8_089).authority(), "[::1]:8089");
    for bad in ["", "localhost", "8089", "https://localhost", "ftp://localhost:1", "http://localhost:1/path", "a b:1"] {
        assert!(matches!(Place::named(bad, false), Err(Error::Address { .. })), "{bad}");
    }
    assert!(matches!(Place::named("http://localhost:1", true), Err(Error::InTheClear { .. })));
}

#[test]
fn the_own_server_is_where_it_listens() {
    let at = |address: &str| Config { address: address.parse().unwrap(), ..Config::default() };
    assert_eq!(Place::configured(&at("0.0.0.0:8089"), false).unwrap(), place(false, "127.0.0.1", 8_089));
    assert_eq!(Place::configured(&at("[::]:8089"), false).unwrap(), place(false, "::1", 8_089));
    assert_eq!(Place::configured(&at("10.0.0.1:8089"), true).unwrap(), place(true, "10.0.0.1", 8_089));
    assert!(matches!(Place::configured(&at("127.0.0.1:0"), false), Err(Error::UnknownPort)));
}

#[test]
fn no_other_server_is_told_the_token_of_this_one() {
    let directory = tempfile::tempdir().unwrap();
    let (own, given) = (directory.path().join("own"), directory.path().join("given"));
    fs::write(&own, "s3cret\n").unwrap();
    fs::write(&given, "ada other\n").unwrap();
    let config = Config { token_file: Some(own), ..Config::default() };
    let presented = |options: &Admin| {
        let target = Target::new(options, &config).unwrap();
        target.authorization.map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(presented(&options()).as_deref(), Some("Bearer s3cret"));
    let elsewhere = Admin { address: Some("localhost:1".to_owned()), ..options() };
    assert_eq!(presented(&elsewhere), None);
    let with_token = Admin { token_file: Some(given.clone()), ..elsewhere };
    assert_eq!(presented(&with_token).as_deref(), Some("Bearer other"));
    let of_own = Admin { token_file: Some(given), ..options() };
    assert_eq!(presented(&of_own).as_deref(), Some("Bearer other"));
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let nowhere = || Some(PathBuf::from("nowhere/file"));
    let tls = tertulia_server::tls::Files { cert_file: nowhere(), key_file: nowhere() };
    let secured = Config { tls, ..Config::default() };
    let plain = Config::default();
    for (options, config, option) in [
        (options(), &secured, "(admin.tls.cert_file)"),
        (Admin { token_file: nowhere(), ..options() }, &plain, "nowhere/file"),
        (Admin { ca: nowhere(), ..options() }, &plain, "nowhere/file"),
    ] {
        let told = Target::new(&options, config).err().unwrap().to_string();
        assert!(told.contains(option) && told.contains("nowhere/file"), "{told}");
    }
}
