//! The command line: what may be given, and the flags as a source of the configuration.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use tertulia_protocol::name::NameError;
use tertulia_protocol::{GroupName, UserName};
use tertulia_server::build;
use tertulia_server::config::{Error, Errors, Flag, Sources, docs};

/// The flag that sets any option.
const SET: &str = "set";

/// The variable that names the file of options where no flag does. With one underscore, since it is no option; Kubernetes sets none of this
/// name for a Service.
const FILE: &str = "TERTULIA_CONFIG";

/// A group-chat server: chat clients over TCP, admins over gRPC, metrics and health over HTTP.
#[derive(Debug, Parser)]
#[command(name = "tertulia-server", version = build::DESCRIPTION, max_term_width = 120)]
pub(crate) struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What to do; `run` if nothing is said.
#[derive(Debug, Clone, Default, Subcommand)]
pub(crate) enum Command {
    /// Serve until SIGTERM or SIGINT (the default)
    #[default]
    Run,
    /// Tell all that is wrong with the configuration; exits with 0 if nothing is, else with 2
    CheckConfig(CheckConfig),
    /// Write the configuration that results from file, environment and flags, with the source of what is not a default
    PrintConfig(PrintConfig),
    /// Ask a running server whether it is ready; exits with 0 if it is, else with 1
    Health(Health),
    /// Call the admin API of a running server; without CALL, tell what there is to call
    ///
    /// Without --address it is the server of this configuration (file, environment and flags), called as that says: at admin.address, with the
    /// first token in admin.token_file that may do everything, and, where admin.tls is set, over TLS with the server that shows that
    /// certificate. An answer is written as JSON, those of a stream one on each line. Exits with 1 if the call fails, and with 2
    /// if none can be made of what was given.
    Admin(Box<Admin>),
    /// Look at the messages in the data directory of the engine embedded, while no server uses it
    #[command(subcommand)]
    Log(Log),
    /// Make what clients prove with who they are, to try it, for scripts and for tests
    #[command(subcommand)]
    Auth(Auth),
}

/// What to do with a data directory (`--data-dir`, `log.data_dir`). To check, count and back it up first brings it up to the end of its
/// commit log, as a start does.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Log {
    /// Check all of it: every checksum, and that no group has a gap; exits with 1 at the first fault
    Verify(Report),
    /// Count what it holds
    Stats(Report),
    /// Write the messages of a group, oldest first
    Export(Export),
    /// Copy it into another directory, which can then serve as a data directory
    Backup(Backup),
    /// Let the server start without a commit log that is damaged or missing. Everything that was in the commit log alone is given up, though
    /// it was acknowledged; files of it that may be of use have to be moved away first
    #[command(name = "forget-commit-log")]
    Forget,
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Report {
    /// How to write what was found
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    pub(crate) format: ReportFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Export {
    /// The group
    #[arg(long, value_name = "NAME", value_parser = parse_group)]
    pub(crate) group: GroupName,
    /// How to write the messages: jsonl is one JSON object a line
    #[arg(long, value_enum, default_value_t = ExportFormat::Jsonl)]
    pub(crate) format: ExportFormat,
    /// A new file to write to, instead of stdout
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ExportFormat {
    Jsonl,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Backup {
    /// A directory that is empty or not there yet
    #[arg(value_name = "DIR")]
    pub(crate) to: PathBuf,
}

fn parse_group(text: &str) -> Result<GroupName, NameError> {
    GroupName::new(text)
}

/// What clients prove with who they are. The server that asks for it need not run.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Auth {
    /// Write a JWK Set with a new secret, for `auth.keys_file` and for whoever signs tokens: who has it can be anybody
    Key,
    /// Write a token, signed with the first secret in the file of --auth-keys-file
    Token(Token),
    /// Write the hash of a password, for a line `NAME HASH` in the file of --auth-users-file. The password is the first line of stdin; at a
    /// terminal it is asked for, and not shown
    #[command(name = "hash-password")]
    HashPassword,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Token {
    /// Whose it is
    #[arg(long, value_name = "NAME", value_parser = parse_user)]
    pub(crate) user: UserName,
    /// How long it counts, from a second to ten years
    #[arg(long = "for", value_name = "DURATION", default_value = "1h", value_parser = parse_lifetime)]
    pub(crate) lifetime: Duration,
    /// A group that may be joined and read; one that ends in * means all whose names begin so. May be repeated; without it all, with '' none
    #[arg(long, value_name = "PATTERN")]
    pub(crate) read: Vec<String>,
    /// A group to which may be posted, said in the same way
    #[arg(long, value_name = "PATTERN")]
    pub(crate) post: Vec<String>,
}

fn parse_user(text: &str) -> Result<UserName, NameError> {
    UserName::new(text)
}

fn parse_lifetime(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(3_650 * 24 * 3_600);
    let lifetime = parse_duration(text).map_err(|error| error.to_string())?;
    let is_right = (Duration::from_secs(1)..=LONGEST).contains(&lifetime);
    is_right.then_some(lifetime).ok_or_else(|| "from 1s to 3650days, such as 15m".to_owned())
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct CheckConfig {
    /// Also read the files of certificates, keys, authorities, users and the admin token, as a start on this machine would (not those of `nats`)
    #[arg(long)]
    pub(crate) files: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct PrintConfig {
    /// How to write it; TOML and YAML can be read again
    #[arg(long, value_enum, default_value_t = Format::Toml)]
    pub(crate) format: Format,
    /// Write docs/configuration.md instead
    #[arg(long, hide = true)]
    pub(crate) docs: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Format {
    Toml,
    Yaml,
    Json,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Health {
    /// The page to ask for, http://HOST:PORT/PATH or https://…; without it /readyz at the configured HTTP address (see
    /// --http), with TLS if that is configured. A certificate is not looked at
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Ask whether it is alive (/livez) rather than ready
    #[arg(long, conflicts_with = "url")]
    pub(crate) live: bool,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Admin {
    /// What to call, such as ListGroups or list-groups
    pub(crate) call: Option<String>,
    /// The request as JSON, such as '{"prefix": "D"}'; '-' reads it from stdin
    #[arg(value_name = "JSON", default_value = "{}")]
    pub(crate) request: String,
    /// Tell what CALL does and what its request may have, and do not call
    #[arg(long, requires = "call")]
    pub(crate) describe: bool,
    /// Call again for every further page of a list
    #[arg(long, requires = "call", conflicts_with = "describe")]
    pub(crate) all: bool,
    /// Another server, HOST:PORT, http://HOST:PORT or https://HOST:PORT; then no token and no certificate is taken from the configuration
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) address: Option<String>,
    /// The file with the token to present, as in `admin.token_file`
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Speak TLS, and trust the certificates in this file (PEM)
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Speak TLS with a server whose certificate is for this name rather than for the address
    #[arg(long, value_name = "NAME")]
    pub(crate) tls_name: Option<String>,
    /// Speak TLS, and show this certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// The key of --cert (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// How long to wait for the connection, and for each answer or the begin of a stream. The server itself gives up after 10 s, and then says
    /// what that means
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
}

fn parse_duration(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}

/// Flags of the configuration. All are texts: the table of options reads them.
#[derive(Debug, Args)]
struct Options {
    /// Read options from a TOML or YAML file; without it from the one that the variable TERTULIA_CONFIG names, if it is set
    #[arg(long, global = true, value_name = "FILE", help_heading = "Configuration")]
    config: Option<PathBuf>,
    /// Of all commands that were given, the outer ones first: see [`with_set`].
    #[arg(skip)]
    set: Vec<String>,

    /// Where chat clients connect
    #[arg(long, global = true, value_name = "ADDR", help_heading = "Listeners")]
    chat: Option<String>,
    /// The file with the keys of the tokens that chat clients show: a JWK Set, or public keys in PEM
    #[arg(long, global = true, value_name = "FILE", help_heading = "Clients")]
    auth_keys_file: Option<String>,
    /// The users who log in with a password
    #[arg(long, global = true, value_name = "FILE", help_heading = "Clients")]
    auth_users_file: Option<String>,
    /// Where the admin API listens
    #[arg(long, global = true, value_name = "ADDR", help_heading = "Listeners")]
    admin: Option<String>,
    /// The file with the bearer token of the admin API
    #[arg(long, global = true, value_name = "FILE", help_heading = "Listeners")]
    admin_token_file: Option<String>,
    /// Serve the admin API off loopback without a token
    #[arg(long, global = true, help_heading = "Listeners")]
    admin_insecure: bool,
    /// Where metrics and health are served
    #[arg(long, global = true, value_name = "ADDR", help_heading = "Listeners")]
    http: Option<String>,

    /// Where messages are kept: embedded (on this machine's disk, the default), memory or nats
    #[arg(long, global = true, value_name = "ENGINE", help_heading = "Storage")]
    engine: Option<String>,
    /// The servers of NATS, for the engine nats
    #[arg(long, global = true, value_name = "URLS", help_heading = "Storage")]
    nats_url: Option<String>,
    /// The name of this node among others, for the engine nats
    #[arg(long, global = true, value_name = "NAME", help_heading = "Storage")]
    node_id: Option<String>,
    /// The directory in which the engine embedded keeps messages; made if it is not there
    #[arg(long, global = true, value_name = "DIR", help_heading = "Storage")]
    data_dir: Option<String>,

    /// How the log on stderr looks: text or json
    #[arg(long, global = true, value_name = "FORMAT", help_heading = "Logging")]
    log_format: Option<String>,
    /// What is logged: error, warn, info, debug, trace, or a list such as info,tertulia_server::front=debug
    #[arg(long, global = true, value_name = "LEVELS", help_heading = "Logging")]
    log_level: Option<String>,
}

/// The command line parser, whose long help ends with all options.
fn parser() -> clap::Command {
    with_set(Cli::command().after_long_help(docs::help()))
}

/// Adds `--set` to a command and all below it. Were it one global argument, what is given after a command would take the place of what is
/// given before it.
fn with_set(command: clap::Command) -> clap::Command {
    let set = Arg::new(SET)
        .long(SET)
        .value_name("KEY=VALUE")
        .action(ArgAction::Append)
        .help("Set any option, such as limits.groups=1000; may be given many times")
        .help_heading("Configuration");
    command.arg(set).mut_subcommands(with_set)
}

/// What `--set` was given, before and after commands.
fn every_set(matches: &ArgMatches) -> Vec<String> {
    let levels = std::iter::successors(Some(matches), |level| level.subcommand().map(|(_, below)| below));
    let given = levels.filter_map(|level| level.try_get_many::<String>(SET).ok().flatten());
    given.flatten().cloned().collect()
}

impl Cli {
    /// Reads the command line. Answers `--help` and `--version`, and exits with 2 if it cannot be understood.
    pub(crate) fn parse_or_exit() -> Self {
        Self::from_matches(&parser().get_matches()).unwrap_or_else(|error| error.exit())
    }

    fn from_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut cli = Self::from_arg_matches(matches)?;
        cli.options.set = every_set(matches);
        Ok(cli)
    }

    /// What to do.
    pub(crate) fn chosen(&self) -> Command {
        self.command.clone().unwrap_or_default()
    }

    /// The sources of the configuration: the file, this process's environment and the flags.
    ///
    /// # Errors
    /// What `--set` was given is not `KEY=VALUE`.
    pub(crate) fn sources(self) -> Result<Sources, Errors> {
        let named = self.options.named();
        let (pairs, errors): (Vec<_>, Vec<_>) =
            self.options.set.iter().map(|text| Flag::from_pair(text)).partition(Result::is_ok);
        let errors: Vec<Error> = errors.into_iter().filter_map(Result::err).collect();
        if !errors.is_empty() {
            return Err(Errors(errors));
        }
        let flags = pairs.into_iter().filter_map(Result::ok).chain(named).collect();
        let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
        let file = self.options.config.or_else(|| named_file(&environment));
        Ok(Sources { file, environment, flags })
    }
}

/// The file that the environment names, if it does.
fn named_file(environment: &[(OsString, OsString)]) -> Option<PathBuf> {
    let (_, path) = environment.iter().find(|(name, path)| name == FILE && !path.is_empty())?;
    Some(path.into())
}

impl Options {
    /// The flags of their own that were given.
    fn named(&self) -> Vec<Flag> {
        let insecure = self.admin_insecure.then(|| "true".to_owned());
        let flags = [
            ("--chat", "chat.address", &self.chat),
            ("--auth-keys-file", "auth.keys_file", &self.auth_keys_file),
            ("--auth-users-file", "auth.users_file", &self.auth_users_file),
            ("--admin", "admin.address", &self.admin),
            ("--admin-token-file", "admin.token_file", &self.admin_token_file),
            ("--admin-insecure", "admin.insecure", &insecure),
            ("--http", "http.address", &self.http),
            ("--engine", "log.engine", &self.engine),
            ("--data-dir", "log.data_dir", &self.data_dir),
            ("--nats-url", "nats.urls", &self.nats_url),
            ("--node-id", "cluster.node_id", &self.node_id),
            ("--log-format", "telemetry.log_format", &self.log_format),
            ("--log-level", "telemetry.log_level", &self.log_level),
        ];
        let given = flags.into_iter().filter_map(|(name, key, value)| {
            let value = value.clone()?;
            Some(Flag { name: name.to_owned(), key: key.to_owned(), value })
        });
        given.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tertulia_server::config::table;

    use super::*;

    fn parse(arguments: &[&str]) -> Cli {
        let all = std::iter::once("tertulia-server").chain(arguments.iter().copied());
        Cli::from_matches(&parser().try_get_matches_from(all).unwrap()).unwrap()
    }

    #[test]
    fn the_command_line_is_sound() {
        parser().debug_assert();
    }

    #[test]
    fn each_flag_of_the_table_sets_its_option_and_no_other_does() {
        let of_table: BTreeMap<&str, &str> =
            table::entries().filter_map(|entry| entry.flag.map(|flag| (flag, entry.key))).collect();
        let of_parser: Vec<String> = parser()
            .get_arguments()
            .filter_map(|argument| argument.get_long())
            .filter(|long| !["config", "set", "help", "version"].contains(long))
            .map(|long| format!("--{long}"))
            .collect();
        let mut sorted = of_parser.clone();
        sorted.sort();
        assert_eq!(sorted, of_table.keys().map(|flag| (*flag).to_owned()).collect::<Vec<_>>());

        for flag in of_parser {
            let given = if flag == "--admin-insecure" { vec![flag.as_str()] } else { vec![flag.as_str(), "v"] };
            let flags = parse(&given).sources().unwrap().flags;
            let keys: Vec<&str> = flags.iter().map(|flag| flag.key.as_str()).collect();
            assert_eq!(keys, [of_table[flag.as_str()]], "{flag}");
        }
    }

    #[test]
    fn flags_stand_before_or_after_the_command_and_beat_set() {
        for arguments in
            [["--set", "chat.address=x", "--chat", "y", "run"], ["run", "--chat", "y", "--set", "chat.address=x"]]
        {
            let flags = parse(&arguments).sources().unwrap().flags;
            assert_eq!(flags.iter().map(|flag| flag.value.as_str()).collect::<Vec<_>>(), ["x", "y"]);
        }
        assert!(parse(&["--set", "nothing"]).sources().is_err());
    }

    #[test]
    fn what_is_set_before_and_after_commands_all_counts() {
        let given = ["--set", "a=1", "log", "--set", "b=2", "--set", "c=3", "stats", "--set", "a=4"];
        let flags = parse(&given).sources().unwrap().flags;
        let pairs: Vec<_> = flags.iter().map(|flag| (flag.key.as_str(), flag.value.as_str())).collect();
        assert_eq!(pairs, [("a", "1"), ("b", "2"), ("c", "3"), ("a", "4")]);
    }

    #[test]
    fn a_token_is_for_a_user_and_for_a_time() {
        let Command::Auth(Auth::Token(token)) =
            parse(&["auth", "token", "--user", "ada", "--read", "a*", "--read", "b"]).chosen()
        else {
            panic!("another command")
        };
        assert_eq!((token.user.as_str(), token.lifetime), ("ada", Duration::from_secs(3_600)));
        assert_eq!((token.read.len(), token.post.len()), (2, 0));
        for bad in
            [&["--user", "a b"][..], &["--user", "ada", "--for", "0s"], &["--user", "ada", "--for", "11years"], &[]]
        {
            let all = ["tertulia-server", "auth", "token"].iter().chain(bad);
            assert!(parser().try_get_matches_from(all).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn all_pages_are_those_of_a_call() {
        let given = |arguments: &[&str]| {
            let all = ["tertulia-server", "admin"].iter().chain(arguments);
            parser().try_get_matches_from(all).is_ok()
        };
        assert!(given(&["ListGroups", "--all"]) && given(&[]));
        assert!(!given(&["--all"]) && !given(&["ListGroups", "--all", "--describe"]));
    }

    #[test]
    fn the_long_help_names_every_option() {
        let help = parser().render_long_help().to_string();
        for entry in table::entries() {
            assert!(help.contains(entry.key), "{}", entry.key);
            assert!(entry.flag.is_none_or(|flag| help.contains(flag)), "{:?}", entry.flag);
        }
    }
}
