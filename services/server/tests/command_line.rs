//! The program as scripts see it: what it writes where, and how it exits.

use std::fs::File;
use std::process::Command;

/// The program without our variables in its environment.
fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tertulia-server"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TERTULIA__") || name == "TERTULIA_CONFIG" {
            command.env_remove(name);
        }
    }
    command.args(arguments);
    command
}

/// A run of it: its exit code, stdout and stderr.
fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = program(arguments);
    command.envs(variables.iter().copied());
    end(command)
}

fn end(mut command: Command) -> (Option<i32>, String, String) {
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => panic!("cannot run the program: {error}"),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_valid_configuration_exits_with_0() {
    let (code, stdout, stderr) = run(&["check-config"], &[("TERTULIA_PORT", "tcp://10.0.0.1:8088")]);
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (Some(0), "the configuration is valid\n", ""));
}

#[test]
fn each_fault_of_a_configuration_is_a_line_and_the_exit_code_is_2() {
    for command in ["run", "check-config", "print-config", "health"] {
        let arguments = [command, "--set", "limits.grups=1", "--chat", "here"];
        let (code, stdout, stderr) = run(&arguments, &[("TERTULIA__LIMITS__GROUPS", "-3")]);
        assert_eq!((code, stdout.as_str()), (Some(2), ""));
        let expected = [
            "tertulia-server: limits.groups = -3 (from environment TERTULIA__LIMITS__GROUPS): must be an integer from 1 to 100000000",
            "tertulia-server: unknown key 'limits.grups' (from flag --set); did you mean 'limits.groups'?",
            "tertulia-server: chat.address = here (from flag --chat): must be an IP address and a port, such as 127.0.0.1:8088 or [::1]:8088",
        ];
        assert_eq!(stderr.lines().collect::<Vec<_>>(), expected);
    }
    assert_eq!(run(&["--set", "nothing"], &[]).0, Some(2));
    assert_eq!(run(&["--no-such-flag"], &[]).0, Some(2));
}

#[test]
fn a_token_that_cannot_be_used_keeps_the_server_from_starting() {
    let directory = tempfile::tempdir().unwrap();
    let (missing, empty) = (directory.path().join("missing"), directory.path().join("empty"));
    std::fs::write(&empty, "\n").unwrap();
    for (file, why) in [(missing, "cannot read the tokens in"), (empty, "there is no token in")] {
        let file = file.to_str().unwrap();
        let ports = ["--engine", "memory", "--chat", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--http", "127.0.0.1:0"];
        let (code, stdout, stderr) = run(&[&ports[..], &["--admin-token-file", file]].concat(), &[]);
        assert_eq!((code, stdout.as_str()), (Some(1), ""));
        let last = stderr.lines().last().unwrap();
        let begin = format!("tertulia-server: cannot serve the admin API: {why} {file} (admin.token_file)");
        assert!(last.starts_with(&begin), "{last}");
    }
    let ports = ["--engine", "memory", "--chat", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let json = ["--log-format", "json", "--admin-token-file", "/nowhere/token"];
    let (code, _, stderr) = run(&[&ports[..], &json].concat(), &[]);
    assert_eq!(code, Some(1));
    let lines: Vec<serde_json::Value> = stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = lines.last().unwrap();
    assert_eq!((&last["level"], &last["message"]), (&"ERROR".into(), &"the server ends".into()));
    assert!(
        last["error"].as_str().unwrap().starts_with("cannot serve the admin API: cannot read the tokens in"),
        "{last}"
    );
    let (code, _, stderr) = run(&["check-config", "--admin", "0.0.0.0:8089"], &[]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("must be a loopback address unless admin.token_file"), "{stderr}");
    for guard in [&["--admin-insecure"][..], &["--admin-token-file", "token"]] {
        assert_eq!(run(&[&["check-config", "--admin", "0.0.0.0:8089"], guard].concat(), &[]).0, Some(0));
    }
}

#[test]
fn files_that_keep_the_server_from_starting_are_told_before_it_starts() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let missing = directory.path().join("missing").display().to_string();
    let certified = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (one, other) = (certified(), certified());
    let (cert, key) = (file("tls.crt", &one.cert.pem()), file("tls.key", &one.signing_key.serialize_pem()));
    let (others, token, empty) =
        (file("other.key", &other.signing_key.serialize_pem()), file("token", "s3cret"), file("empty", ""));
    let check = |cert: &str, key: &str, token: &str, more: &[&str]| {
        let set = [("chat.tls.cert_file", cert), ("chat.tls.key_file", key), ("admin.token_file", token)];
        let set: Vec<String> = set.iter().map(|(key, value)| format!("--set={key}={value}")).collect();
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        run(&[&["check-config"], &set[..], more].concat(), &[])
    };
    let valid = (Some(0), "the configuration is valid\n".to_owned(), String::new());
    assert_eq!(check(&cert, &key, &token, &["--files"]), valid);
    // Where the server is not to run they need not be there.
    assert_eq!(check(&missing, &missing, &missing, &[]), valid);
    for (cert, key, token, told) in [
        (&missing, &key, &token, vec![format!("cannot read {missing} (chat.tls.cert_file): ")]),
        (&cert, &others, &token, vec![format!("cannot use {cert} and {others} (chat.tls): ")]),
        (&key, &cert, &token, vec![format!("{key} (chat.tls.cert_file) has no certificate (PEM)")]),
        (
            &cert,
            &missing,
            &empty,
            vec![
                format!("cannot read {missing} (chat.tls.key_file): "),
                format!("there is no token in {empty} (admin.token_file)"),
            ],
        ),
        (&cert, &key, &missing, vec![format!("cannot read the tokens in {missing} (admin.token_file): ")]),
    ] {
        let (code, stdout, stderr) = check(cert, key, token, &["--files"]);
        assert_eq!((code, stdout.as_str(), stderr.lines().count()), (Some(2), "", told.len()), "{stderr}");
        for (line, told) in stderr.lines().zip(&told) {
            assert!(line.starts_with(&format!("tertulia-server: {told}")), "{line}");
        }
    }
}

#[test]
fn the_printed_configuration_can_be_read_again() {
    let directory = tempfile::tempdir().unwrap();
    for (format, name) in [("toml", "a.toml"), ("yaml", "a.yaml")] {
        let (code, printed, _) = run(&["print-config", "--format", format, "--data-dir", "d"], &[]);
        assert_eq!(code, Some(0));
        assert!(printed.contains("\"d\"  # from flag --data-dir\n"), "{printed}");
        let path = directory.path().join(name);
        std::fs::write(&path, &printed).unwrap();
        let path = path.to_str().unwrap();
        let (code, again, stderr) = run(&["--config", path, "print-config", "--format", "json"], &[]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        let again: serde_json::Value = serde_json::from_str(&again).unwrap();
        assert_eq!(again["log"]["data_dir"], "d");
    }
}

#[test]
fn the_environment_names_the_file_where_no_flag_does() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, groups: u32| {
        let path = directory.path().join(name);
        std::fs::write(&path, format!("limits: {{groups: {groups}, page: 7}}")).unwrap();
        path.into_os_string().into_string().unwrap()
    };
    let (named, given) = (file("named.yaml", 1), file("given.yaml", 2));
    let limits = |arguments: &[&str], variables: &[(&str, &str)]| {
        let arguments = [&["print-config", "--format", "json"], arguments].concat();
        let (code, printed, stderr) = run(&arguments, variables);
        assert_eq!(code, Some(0), "{stderr}");
        let printed: serde_json::Value = serde_json::from_str(&printed).unwrap();
        (printed["limits"]["groups"].as_u64().unwrap(), printed["limits"]["page"].as_u64().unwrap())
    };
    let named = ("TERTULIA_CONFIG", named.as_str());
    assert_eq!(limits(&["--log-level", "debug"], &[named]), (1, 7));
    assert_eq!(limits(&["--config", &given], &[named]), (2, 7));
    assert_eq!(limits(&["--set", "limits.page=8"], &[named, ("TERTULIA__LIMITS__GROUPS", "3")]), (3, 8));
    assert_eq!(limits(&[], &[("TERTULIA_CONFIG", "")]), (1_000_000, 200));

    let (code, _, stderr) = run(&["check-config"], &[("TERTULIA_CONFIG", "/nonexistent/tertulia.yaml")]);
    assert!(code == Some(2) && stderr.contains("/nonexistent/tertulia.yaml"), "{stderr}");
}

#[test]
fn health_exits_with_1_when_nobody_answers() {
    let (code, stdout, stderr) = run(&["health", "--url", "http://127.0.0.1:1/readyz"], &[]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.starts_with("tertulia-server: cannot connect to http://127.0.0.1:1/readyz: "), "{stderr}");
    assert_eq!(stderr.lines().count(), 1);
}

#[test]
fn a_full_disk_is_told_and_a_reader_that_has_left_is_not() {
    for (arguments, what) in
        [(&["admin"][..], "cannot write the answer: "), (&["print-config"], "cannot write to stdout: ")]
    {
        let mut full = program(arguments);
        full.stdout(File::options().write(true).open("/dev/full").unwrap());
        let (code, _, stderr) = end(full);
        assert_eq!(code, Some(1));
        assert!(stderr.starts_with(&format!("tertulia-server: {what}")), "{arguments:?}: {stderr}");

        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut unread = program(arguments);
        unread.stdout(writer);
        assert_eq!(end(unread), (Some(1), String::new(), String::new()));
    }
}

#[test]
fn a_call_that_cannot_be_made_of_what_was_given_exits_with_2() {
    let directory = tempfile::tempdir().unwrap();
    let binary = directory.path().join("request");
    std::fs::write(&binary, b"{\"prefix\":\"\xff\"}").unwrap();
    let mut asked = program(&["admin", "ListGroups", "-"]);
    asked.stdin(File::open(&binary).unwrap());
    let (code, stdout, stderr) = end(asked);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(stderr.starts_with("tertulia-server: cannot read the request from stdin: "), "{stderr}");

    let (code, _, stderr) = run(&["admin", "ListGroups", "--token-file", "/nowhere/token"], &[]);
    assert_eq!(code, Some(2));
    let begin = "tertulia-server: cannot read the tokens in /nowhere/token (admin.token_file): ";
    assert!(stderr.starts_with(begin), "{stderr}");
}

#[test]
fn version_tells_commit_and_features() {
    let (code, stdout, _) = run(&["--version"], &[]);
    assert_eq!(code, Some(0));
    assert!(
        stdout.starts_with("tertulia-server ")
            && stdout.contains("(commit ")
            && stdout.contains("engines: embedded, memory, nats")
    );
}
