use std::fs;

use super::*;
use crate::admin_client::tests::options;

fn place(tls: bool, is_said: bool, host: &str, port: u16) -> Place {
    Place { tls, is_said, host: host.to_owned(), port }
}

#[test]
fn an_address_says_where_and_how() {
    assert_eq!(Place::named("localhost:8089", false).unwrap(), place(false, false, "localhost", 8_089));
    assert_eq!(Place::named("10.0.0.1:1", true).unwrap(), place(true, false, "10.0.0.1", 1));
    assert_eq!(Place::named("http://[::1]:8089/", false).unwrap(), place(false, true, "::1", 8_089));
    assert_eq!(Place::named("https://chat.example:443", false).unwrap(), place(true, true, "chat.example", 443));
    assert_eq!(place(true, true, "::1", 8_089).authority(), "[::1]:8089");
    for bad in [
        "",
        "localhost",
        "8089",
        ":8089",
        "https://localhost",
        "https://:1",
        "ftp://localhost:1",
        "http://localhost:1/path",
        "a b:1",
        "ada:pw@localhost:1",
        "https://ada@localhost:1",
        "localhost:1?x",
        "http://localhost:1/?x",
        "localhost:1#x",
    ] {
        assert!(matches!(Place::named(bad, false), Err(Error::Address { .. })), "{bad}");
    }
    assert!(matches!(Place::named("http://localhost:1", true), Err(Error::InTheClear { .. })));
}

#[test]
fn the_own_server_is_where_it_listens() {
    let at = |address: &str| Config { address: address.parse().unwrap(), ..Config::default() };
    assert_eq!(Place::configured(&at("0.0.0.0:8089"), false).unwrap(), place(false, true, "127.0.0.1", 8_089));
    assert_eq!(Place::configured(&at("[::]:8089"), false).unwrap(), place(false, true, "::1", 8_089));
    assert_eq!(Place::configured(&at("10.0.0.1:8089"), true).unwrap(), place(true, true, "10.0.0.1", 8_089));
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
fn a_token_leaves_this_machine_in_the_clear_only_where_that_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    fs::write(&token, "s3cret\n").unwrap();
    let named = |address: &str, token_file: Option<&PathBuf>| {
        let options = Admin { address: Some(address.to_owned()), token_file: token_file.cloned(), ..options() };
        Target::new(&options, &Config::default()).map(|target| target.address())
    };
    for address in ["10.0.0.1:8089", "chat.example:8089", "[2001:db8::1]:8089"] {
        let error = named(address, Some(&token)).unwrap_err();
        assert!(error.is_of_usage() && error.to_string().contains(&format!("https://{address}")), "{error}");
        assert!(named(address, None).is_ok());
        assert!(named(&format!("http://{address}"), Some(&token)).is_ok());
    }
    for address in ["127.0.0.1:8089", "127.9.9.9:1", "[::1]:8089", "localhost:8089"] {
        assert!(named(address, Some(&token)).is_ok(), "{address}");
    }
    // Those who said with an option that TLS is spoken did say it.
    let ca = directory.path().join("ca");
    fs::write(&ca, rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap().cert.pem()).unwrap();
    let secured = Admin { address: Some("10.0.0.1:1".to_owned()), token_file: Some(token), ca: Some(ca), ..options() };
    assert!(Target::new(&secured, &Config::default()).is_ok());
}

#[test]
fn of_a_certificate_and_its_key_the_one_that_is_wrong_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let certified = rcgen::generate_simple_self_signed(["ops".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["ops".to_owned()]).unwrap();
    let crt = file("ops.crt", &certified.cert.pem());
    let key = file("ops.key", &certified.signing_key.serialize_pem());
    let other = file("other.key", &other.signing_key.serialize_pem());
    let told = |cert: &PathBuf, key: &PathBuf| {
        let (cert, key) = (Some(cert.clone()), Some(key.clone()));
        let options = Admin { ca: Some(crt.clone()), cert, key, ..options() };
        Target::new(&options, &Config::default()).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(told(&crt, &key), Ok(()));
    let error = told(&key, &key).unwrap_err();
    assert!(error.ends_with("ops.key (--cert): there is no certificate (PEM) in it"), "{error}");
    let error = told(&crt, &other).unwrap_err();
    assert!(error.ends_with("other.key (--key): it is not the key of the certificate in --cert"), "{error}");
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let nowhere = || Some(PathBuf::from("nowhere/file"));
    let unnamed = Admin { tls_name: Some("a b".to_owned()), ..options() };
    assert!(Target::new(&unnamed, &Config::default()).err().unwrap().is_of_usage());
    let tls = tertulia_server::tls::Files { cert_file: nowhere(), key_file: nowhere() };
    let secured = Config { tls, ..Config::default() };
    let plain = Config::default();
    for (options, config, option) in [
        (options(), &secured, "(admin.tls.cert_file)"),
        (Admin { token_file: nowhere(), ..options() }, &plain, "nowhere/file"),
        (Admin { ca: nowhere(), ..options() }, &plain, "nowhere/file"),
    ] {
        let error = Target::new(&options, config).err().unwrap();
        let told = error.to_string();
        assert!(error.is_of_usage() && told.contains(option) && told.contains("nowhere/file"), "{told}");
    }
}
