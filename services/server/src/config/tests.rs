use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::table::entries;
use super::*;

mod table_and_documents;

/// A directory of configuration files.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn environment(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
}

fn flags(flags: &[(&str, &str, &str)]) -> Vec<Flag> {
    let owned = |(name, key, value): &(&str, &str, &str)| Flag {
        name: (*name).to_owned(),
        key: (*key).to_owned(),
        value: (*value).to_owned(),
    };
    flags.iter().map(owned).collect()
}

/// What is wrong with a file, its path written as `FILE`.
fn file_errors(name: &str, text: impl AsRef<[u8]>) -> Vec<String> {
    let files = Files::new();
    let path = files.write(name, text);
    errors_of(&Sources { file: Some(path.clone()), ..Sources::default() }, &path)
}

fn errors_of(sources: &Sources, path: &Path) -> Vec<String> {
    let errors = load(sources).expect_err("the configuration is faulty");
    errors.0.iter().map(|error| error.to_string().replace(&path.display().to_string(), "FILE")).collect()
}

fn environment_errors(variables: &[(&str, &str)]) -> Vec<String> {
    errors_of(&Sources { environment: environment(variables), ..Sources::default() }, Path::new("NO FILE"))
}

fn flag_errors(given: &[(&str, &str, &str)]) -> Vec<String> {
    errors_of(&Sources { flags: flags(given), ..Sources::default() }, Path::new("NO FILE"))
}

#[test]
fn without_sources_all_is_default() {
    let loaded = load(&Sources::default()).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert!(entries().all(|entry| loaded.origins.of(entry.key) == Origin::Default));
}

#[test]
fn later_sources_win() {
    let files = Files::new();
    let path = files.write("a.toml", "[limits]\ngroups = 1\npage = 1\nconnections = 1\nposts_burst = 1\n");
    let sources = Sources {
        file: Some(path.clone()),
        environment: environment(&[
            ("TERTULIA__LIMITS__PAGE", "2"),
            ("TERTULIA__LIMITS__CONNECTIONS", "2"),
            ("TERTULIA__LIMITS__POSTS_BURST", "2"),
        ]),
        flags: flags(&[
            ("--set", "limits.connections", "3"),
            ("--set", "limits.posts_burst", "3"),
            ("--set", "limits.posts_burst", "4"),
        ]),
    };
    let Loaded { config, origins } = load(&sources).unwrap();
    let limits = &config.limits;
    assert_eq!([limits.groups, limits.page, limits.connections, limits.posts_burst as usize], [1, 2, 3, 4]);
    assert_eq!(origins.of("limits.groups"), Origin::File(path));
    assert_eq!(origins.of("limits.page"), Origin::Environment("TERTULIA__LIMITS__PAGE".to_owned()));
    assert_eq!(origins.of("limits.connections"), Origin::Flag("--set".to_owned()));
    assert_eq!(origins.of("limits.line_bytes"), Origin::Default);
}

#[test]
fn toml_yaml_and_environment_say_the_same() {
    let files = Files::new();
    let toml = "[log]\ndata_dir = \"/d\"\n[log.retention]\nage = \"30m\"\nbytes = \"1MiB\"\n[admin]\ninsecure = true\ntoken_file = \"t\"\n";
    let yaml = "log:\n  data_dir: /d\n  retention:\n    age: 30m\n    bytes: 1MiB\nadmin: {insecure: true, token_file: t}\nchat:\n";
    let from_toml = Sources { file: Some(files.write("a.toml", toml)), ..Sources::default() };
    let from_yaml = Sources { file: Some(files.write("a.YML", yaml)), ..Sources::default() };
    let from_environment = Sources {
        environment: environment(&[
            ("TERTULIA__LOG__DATA_DIR", "/d"),
            ("TERTULIA__LOG__RETENTION__AGE", "30m"),
            ("TERTULIA__LOG__RETENTION__BYTES", "1MiB"),
            ("TERTULIA__ADMIN__INSECURE", "true"),
            ("TERTULIA__ADMIN__TOKEN_FILE", "t"),
        ]),
        ..Sources::default()
    };
    let config = load(&from_toml).unwrap().config;
    assert_eq!(config.log.retention.age, Duration::from_secs(1_800));
    assert_eq!(config.log.retention.bytes, 1 << 20);
    assert_eq!(config.admin.token_file, Some(PathBuf::from("t")));
    assert_eq!(config, load(&from_yaml).unwrap().config);
    assert_eq!(config, load(&from_environment).unwrap().config);
}

#[test]
fn retention_by_prefix_says_the_same_in_every_source() {
    let files = Files::new();
    let toml = "[log.retention_overrides.\"Logs/a.b\"]\nmessages = 5\nage = \"1d\"\n[log.retention_overrides.\"x \"]\nbytes = \"1MiB\"\n";
    let yaml =
        "log:\n  retention_overrides:\n    Logs/a.b: {messages: 5, age: 1day}\n    'x ':\n      bytes: 1048576\n";
    let json = r#"{"x ": {"bytes": "1024KiB"}, "Logs/a.b": {"messages": 5, "age": "24h"}}"#;
    let file = |name, text| Sources { file: Some(files.write(name, text)), ..Sources::default() };
    let environment = environment(&[("TERTULIA__LOG__RETENTION_OVERRIDES", json)]);
    let config = load(&file("a.toml", toml)).unwrap().config;
    let overrides = &config.log.retention_overrides.0;
    assert_eq!(overrides.keys().collect::<Vec<_>>(), ["Logs/a.b", "x "]);
    assert_eq!(overrides["Logs/a.b"].age, Some(Duration::from_secs(86_400)));
    assert_eq!((overrides["Logs/a.b"].messages, overrides["Logs/a.b"].bytes), (Some(5), None));
    assert_eq!(overrides["x "].bytes, Some(1 << 20));
    assert_eq!(config, load(&file("a.yaml", yaml)).unwrap().config);
    assert_eq!(config, load(&Sources { environment, ..Sources::default() }).unwrap().config);
    // A later source replaces all of it.
    let sources = Sources { flags: flags(&[("--set", "log.retention_overrides", "")]), ..file("a.toml", toml) };
    assert_eq!(load(&sources).unwrap().config, Config::default());
}

#[test]
fn what_is_wrong_with_retention_by_prefix_is_told() {
    let told = |text: &str| {
        let errors = flag_errors(&[("--set", "log.retention_overrides", text)]);
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors[0].split("(from flag --set): ").nth(1).unwrap().to_owned()
    };
    assert_eq!(
        told(r#"{"a": {"messages": -1}}"#),
        "must have an integer from 0 to 1000000000000 as messages of prefix \"a\""
    );
    assert_eq!(
        told(r#"{"a": {"size": 1}}"#),
        "must have only messages, bytes and age for a prefix, and \"a\" has \"size\""
    );
    assert_eq!(
        told(r#"{"a": {"bytes": "1KiB"}}"#),
        "must have 0 (no bound) or at least 16KiB as bytes of prefix \"a\", to keep one message: limits.message_bytes = 16KiB (default)"
    );
    assert!(told(r#"{"": {}}"#).starts_with("must have prefixes of 1 to "));
    assert!(told("logs/=5").contains("as JSON it is wrong: "));
    assert!(told(r#"{"a": 5}"#).contains("as JSON it is wrong: "));
    let in_file = file_errors("a.yaml", "log:\n  retention_overrides:\n    a: 5\n");
    assert!(in_file[0].ends_with("must have a table of messages, bytes and age for prefix \"a\""), "{in_file:?}");
}

#[test]
fn an_empty_path_takes_back_what_an_earlier_source_set() {
    let files = Files::new();
    let sources = Sources {
        file: Some(files.write("a.yaml", "admin:\n  token_file: t\n")),
        environment: environment(&[("TERTULIA__ADMIN__TOKEN_FILE", "")]),
        ..Sources::default()
    };
    assert_eq!(load(&sources).unwrap().config.admin.token_file, None);
}

#[test]
fn a_bad_value_names_key_source_and_range() {
    assert_eq!(
        environment_errors(&[("TERTULIA__LIMITS__GROUPS", "-3")]),
        ["limits.groups = -3 (from environment TERTULIA__LIMITS__GROUPS): must be an integer from 1 to 100000000"]
    );
    assert_eq!(
        flag_errors(&[("--engine", "log.engine", "mysql")]),
        ["log.engine = mysql (from flag --engine): must be one of \"embedded\", \"memory\", \"nats\""]
    );
    assert_eq!(
        file_errors("a.toml", "[limits]\nwrite_stall = 30\nline_bytes = \"1 horse\"\n[chat]\naddress = [1]\n"),
        [
            "chat.address = a list (from FILE): must be an IP address and a port, such as 127.0.0.1:8088 or [::1]:8088",
            "limits.line_bytes = \"1 horse\" (from FILE): must be a number of bytes from 1KiB to 64MiB, such as 4096 or \"64KiB\"",
            "limits.write_stall = 30 (from FILE): must be a duration from 100ms to 1h, such as \"500ms\", \"30s\" or \"5m\"",
        ]
    );
    assert_eq!(
        file_errors("a.yaml", "limits: 3\nchat:\n  post_without_join: maybe\n  address:\n"),
        [
            "chat.address = null (from FILE): must be an IP address and a port, such as 127.0.0.1:8088 or [::1]:8088",
            "chat.post_without_join = maybe (from FILE): must be true or false",
            "limits = 3 (from FILE): must be a table of options, such as limits.line_bytes",
        ]
    );
}

#[test]
fn a_number_with_an_exponent_is_told_from_the_whole_one_that_it_looks_like() {
    let read = "this was read as a number with a fraction or an exponent";
    let groups = format!("limits.groups = 5000.0 (from FILE): must be an integer from 1 to 100000000; {read}");
    assert_eq!(file_errors("a.yaml", "limits:\n  groups: 5e3\n"), [groups.as_str()]);
    assert_eq!(file_errors("a.toml", "[limits]\ngroups = 5e3\n"), [groups.as_str()]);
    assert_eq!(
        file_errors("a.yaml", "limits: {line_bytes: 1.5e4}\n"),
        [format!(
            "limits.line_bytes = 15000.0 (from FILE): must be a number of bytes from 1KiB to 64MiB, such as 4096 or \"64KiB\"; {read}"
        )]
    );
}

#[test]
fn a_section_has_no_value_of_its_own() {
    assert_eq!(
        flag_errors(&[("--set", "limits", "5"), ("--set", "log.retention", "7d")]),
        [
            "limits = 5 (from flag --set): is a section: set one of its options, such as limits.line_bytes",
            "log.retention = 7d (from flag --set): is a section: set one of its options, such as log.retention.messages",
        ]
    );
    assert_eq!(
        environment_errors(&[("TERTULIA__LIMITS", "4")]),
        [
            "limits = 4 (from environment TERTULIA__LIMITS): is a section: set one of its options, such as TERTULIA__LIMITS__LINE_BYTES"
        ]
    );
}

#[test]
fn a_hostile_value_is_shown_short_and_on_one_line() {
    let errors = environment_errors(&[("TERTULIA__LIMITS__GROUPS", &format!("a\nb\u{1b}[31m{}", "x".repeat(1_000)))]);
    assert_eq!(errors.len(), 1);
    assert!(errors[0].starts_with("limits.groups = \"a\\nb\\u{1b}[31mxxx"), "{}", errors[0]);
    assert!(errors[0].len() < 250, "{}", errors[0]);
}

#[test]
fn an_unknown_key_gets_a_suggestion() {
    assert_eq!(
        file_errors("a.toml", "[limits]\ngrups = 1\n"),
        ["unknown key 'limits.grups' (from FILE); did you mean 'limits.groups'?"]
    );
    assert_eq!(file_errors("a.yaml", "page: 1\n"), ["unknown key 'page' (from FILE); did you mean 'limits.page'?"]);
    assert_eq!(
        file_errors("a.toml", "[lmits]\ngroups = 1\n[zebra]\nx = 1\n"),
        ["unknown key 'lmits.groups' (from FILE); did you mean 'limits.groups'?", "unknown key 'zebra.x' (from FILE)",]
    );
    assert_eq!(
        environment_errors(&[("TERTULIA__LIMITS__GRUPS", "1"), ("TERTULIA__", "")]),
        [
            "unknown key 'limits.grups' (from environment TERTULIA__LIMITS__GRUPS); did you mean 'TERTULIA__LIMITS__GROUPS'?",
            "unknown key '' (from environment TERTULIA__)",
        ]
    );
    assert_eq!(
        flag_errors(&[("--set", "drain.grace_period", "1s")]),
        ["unknown key 'drain.grace_period' (from flag --set); did you mean 'drain.grace'?"]
    );
}

#[test]
fn variables_of_others_are_ignored() {
    let sources = Sources {
        environment: environment(&[
            ("TERTULIA_PORT", "tcp://10.0.0.1:8088"),
            ("TERTULIA_SERVICE_HOST", "10.0.0.1"),
            ("TERTULIA", "x"),
            ("PATH", "/bin"),
        ]),
        ..Sources::default()
    };
    assert_eq!(load(&sources).unwrap().config, Config::default());
}

#[test]
fn a_variable_that_is_not_utf8_is_told_only_if_it_is_ours() {
    let bad = || OsString::from_vec(vec![b'x', 0xff]);
    let sources = Sources {
        environment: vec![(OsString::from("OTHER"), bad()), (OsString::from("TERTULIA__LOG__DATA_DIR"), bad())],
        ..Sources::default()
    };
    assert_eq!(
        errors_of(&sources, Path::new("NO FILE")),
        ["environment variable TERTULIA__LOG__DATA_DIR is not valid UTF-8"]
    );
}

#[test]
fn all_errors_are_told_at_once() {
    let files = Files::new();
    let path = files.write("a.toml", "[limits]\ngroups = 0\ngrups = 1\n");
    let sources = Sources {
        file: Some(path.clone()),
        environment: environment(&[("TERTULIA__LIMITS__PAGE", "0")]),
        flags: flags(&[("--set", "shard.count", "65536"), ("--admin", "admin.address", "0.0.0.0:8089")]),
    };
    let errors = errors_of(&sources, &path);
    let keys: Vec<&str> = errors.iter().filter_map(|error| error.split(" (").next()).collect();
    let expected = [
        "limits.groups = 0",
        "unknown key 'limits.grups'",
        "limits.page = 0",
        "shard.count = 65536",
        "admin.address = 0.0.0.0:8089",
    ];
    assert_eq!(keys, expected);
}

#[test]
fn a_file_that_cannot_be_used_says_why() {
    let nowhere = Path::new("nowhere/a.toml");
    assert_eq!(
        errors_of(&Sources { file: Some(nowhere.to_owned()), ..Sources::default() }, nowhere),
        ["cannot read configuration file 'FILE': there is no such file"]
    );
    let files = Files::new();
    let directory = files.0.path().join("d.toml");
    std::fs::create_dir(&directory).unwrap();
    let errors = errors_of(&Sources { file: Some(directory.clone()), ..Sources::default() }, &directory);
    assert!(errors[0].starts_with("cannot read configuration file 'FILE': "), "{errors:?}");
    assert_eq!(
        file_errors("a.json", "{}"),
        ["cannot tell the format of configuration file 'FILE': its name must end in .toml, .yaml or .yml"]
    );
    assert_eq!(
        file_errors("a.toml", b"[limits]\n# \xff\n"),
        ["configuration file 'FILE' is not valid TOML: not UTF-8 at line 2"]
    );
    let toml = file_errors("a.toml", "[limits]\ngroups = = 3\n");
    assert_eq!(toml.len(), 1);
    assert!(toml[0].starts_with("configuration file 'FILE' is not valid TOML: at line 2, column 10: "), "{toml:?}");
    let yaml = file_errors("a.yaml", "limits:\n  groups: [1\nchat: 3\n");
    assert_eq!(yaml.len(), 1);
    assert!(yaml[0].starts_with("configuration file 'FILE' is not valid YAML: "), "{yaml:?}");
    assert!(yaml[0].contains("line 3"), "{yaml:?}");
    assert!([&toml[0], &yaml[0]].iter().all(|error| !error.contains('\n')));
    assert_eq!(file_errors("a.yaml", "- 1\n").len(), 1);
}

#[test]
fn an_empty_file_changes_nothing() {
    let files = Files::new();
    for (name, text) in [("a.toml", ""), ("a.yaml", ""), ("b.yaml", "# nothing\n"), ("c.yaml", "limits:\nlog: {}\n")] {
        let sources = Sources { file: Some(files.write(name, text)), ..Sources::default() };
        assert_eq!(load(&sources).map(|loaded| loaded.config), Ok(Config::default()), "{name}");
    }
}

#[test]
fn options_that_do_not_go_together_are_told() {
    let cases: [(&[(&str, &str)], &str); 17] = [
        (
            &[("limits.message_bytes", "64KiB")],
            "limits.line_bytes = 128KiB (default): must be at least 395008, to hold the longest message with every \
             character escaped: limits.message_bytes = 64KiB (from flag --set)",
        ),
        (
            &[("limits.outbound_bytes", "64KiB")],
            "limits.outbound_bytes = 64KiB (from flag --set): must be at least 128KiB, to hold one line: limits.line_bytes \
             = 128KiB (default)",
        ),
        (
            &[("shard.append_bytes", "8KiB")],
            "shard.append_bytes = 8KiB (from flag --set): must be at least 16KiB, to hold one message: \
             limits.message_bytes = 16KiB (default)",
        ),
        (
            &[("log.memory_bytes", "64KiB"), ("log.engine", "memory")],
            "log.memory_bytes = 64KiB (from flag --set): must be at least 1MiB, to hold one append: shard.append_bytes = \
             1MiB (default)",
        ),
        (
            &[("log.disk_bytes", "120MiB"), ("log.spare_segments", "1")],
            "log.disk_bytes = 120MiB (from flag --set): must be 0 (no bound) or at least 129MiB, to hold 2 files of the \
             commit log and the first messages: log.segment_bytes = 64MiB (default), log.spare_segments = 1 (from flag --set)",
        ),
        (
            &[("log.retention.bytes", "1")],
            "log.retention.bytes = 1 (from flag --set): must be 0 (no bound) or at least 16KiB, to keep one message: \
             limits.message_bytes = 16KiB (default)",
        ),
        (
            &[("admin.address", "[::]:8089")],
            "admin.address = [::]:8089 (from flag --set): must be a loopback address unless admin.token_file \
             (--admin-token-file) or admin.client_ca_file is set, or admin.insecure (--admin-insecure) is true",
        ),
        (
            &[("chat.tls.cert_file", "a.pem")],
            "chat.tls.cert_file = a.pem (from flag --set): needs chat.tls.key_file too: set both or none",
        ),
        (
            &[("http.tls.key_file", "a.pem")],
            "http.tls.key_file = a.pem (from flag --set): needs http.tls.cert_file too: set both or none",
        ),
        (
            &[("admin.client_ca_file", "ca.pem")],
            "admin.client_ca_file = ca.pem (from flag --set): needs admin.tls.cert_file and admin.tls.key_file: \
             certificates of callers are shown within TLS",
        ),
        (
            &[("http.address", "127.0.0.1:8088")],
            "http.address = 127.0.0.1:8088 (from flag --set): must not be another part's address: chat.address = \
             127.0.0.1:8088 (default)",
        ),
        (
            &[("drain.linger", "15s"), ("drain.delay", "5s")],
            "drain.grace = 20s (default): must be longer than 23s, since it counts from the signal and includes them and some time for the end: drain.delay = 5s \
             (from flag --set), drain.linger = 15s (from flag --set)",
        ),
        (
            &[("log.engine", "nats"), ("nats.user", "ada")],
            "nats.user = ada (from flag --set): nats.user is set and nats.password_file is not: set both or none",
        ),
        (
            &[("log.engine", "nats"), ("nats.token_file", "t"), ("nats.creds_file", "c")],
            "nats.creds_file = c (from flag --set): nats.token_file and nats.creds_file are both set: a connection has one kind of \
             credentials, so leave one of them empty",
        ),
        // What may be a password is not shown.
        (
            &[("log.engine", "nats"), ("nats.urls", "nats://a:4222,nats://ada:s3cret@b:4222")],
            "nats.urls = nats://***@b:4222 (from flag --set): 'b:4222' is not the URL of a NATS server (it may not hold a user or a \
             password: set nats.user and nats.password_file); write it as nats://host:4222 or tls://host:4222",
        ),
        (
            &[("telemetry.traces.endpoint", "http://ada:s3cret@b:4317")],
            "telemetry.traces.endpoint = \"http://***@b:4317\" (from flag --set): must be an address such as http://localhost:4317, or empty",
        ),
        // A rule about an option whose own value is bad is not told besides.
        (
            &[("limits.message_bytes", "1GiB")],
            "limits.message_bytes = 1GiB (from flag --set): must be a number of bytes from 1 to 10MiB, such as 4096 or \
             \"64KiB\"",
        ),
    ];
    for (options, expected) in cases {
        let given: Vec<_> = options.iter().map(|(key, value)| ("--set", *key, *value)).collect();
        assert_eq!(flag_errors(&given)[0], expected);
    }
}

#[test]
fn ports_chosen_by_the_system_and_a_guarded_admin_api_are_fine() {
    for given in [
        vec![("--chat", "chat.address", "127.0.0.1:0"), ("--http", "http.address", "127.0.0.1:0")],
        vec![("--admin", "admin.address", "0.0.0.0:1"), ("--admin-insecure", "admin.insecure", "true")],
        vec![("--admin", "admin.address", "0.0.0.0:1"), ("--admin-token-file", "admin.token_file", "t")],
    ] {
        load(&Sources { flags: flags(&given), ..Sources::default() }).unwrap();
    }
}

#[test]
fn a_pair_needs_a_key() {
    assert_eq!(Flag::from_pair("a.b = c=d").unwrap().key, "a.b");
    assert_eq!(Flag::from_pair("a.b=c=d").unwrap().value, "c=d");
    assert_eq!(
        Flag::from_pair("limits.groups").unwrap_err().to_string(),
        "--set limits.groups: must be KEY=VALUE, such as limits.groups=1000"
    );
    assert!(Flag::from_pair("=3").is_err());
}
