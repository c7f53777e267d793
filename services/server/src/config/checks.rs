//! Rules between options, checked once each has an allowed value.

use std::net::SocketAddr;

use super::error::{Error, without_secrets};
use super::kind::bytes_to_text;
use super::{Config, Origins, written};
use crate::auth::config::groups as groups_of;
use crate::log::config::Engine;

/// A byte of text takes at most this many on a line: `\u0041`.
const ESCAPED: usize = 6;
/// What a line of a post holds besides its message and the group's name: braces, keys and a post id.
const ENVELOPE: usize = 1_024;

/// What the tables have at least, beside the commit log, before there is a message.
const TABLES: u64 = 1024 * 1024;

/// The longest line that a post may take, or a message on its way to a node or to NATS: with every character escaped.
pub(crate) fn longest_line(limits: &crate::front::Limits) -> usize {
    ESCAPED * (limits.message_bytes + limits.group_name_bytes) + ENVELOPE
}

/// Collects the rules that are broken.
pub(super) struct Checks<'a> {
    pub(super) config: &'a Config,
    pub(super) origins: &'a Origins,
    /// Options whose value was refused: what rules say of them would mislead.
    pub(super) faulty: &'a [&'static str],
    pub(super) errors: Vec<Error>,
}

impl Checks<'_> {
    /// Checks every rule.
    pub(super) fn run(mut self) -> Vec<Error> {
        self.sizes();
        self.disk();
        self.overrides();
        self.guests();
        self.addresses();
        self.times();
        self.nodes();
        self.nats();
        self.certificates();
        self.errors
    }

    fn sizes(&mut self) {
        let limits = &self.config.limits;
        let shard = &self.config.shard;
        let log = &self.config.log;
        let needed = longest_line(limits);
        self.rule(limits.line_bytes >= needed, "limits.line_bytes", &["limits.message_bytes"], |with| {
            format!("must be at least {needed}, to hold the longest message with every character escaped: {with}")
        });
        let line = bytes_to_text(limits.line_bytes as u64);
        self.rule(
            limits.outbound_bytes >= limits.line_bytes,
            "limits.outbound_bytes",
            &["limits.line_bytes"],
            |with| format!("must be at least {line}, to hold one line: {with}"),
        );
        let message = bytes_to_text(limits.message_bytes as u64);
        let holds_message = shard.append_bytes >= limits.message_bytes;
        self.rule(holds_message, "shard.append_bytes", &["limits.message_bytes"], |with| {
            format!("must be at least {message}, to hold one message: {with}")
        });
        let append = bytes_to_text(shard.append_bytes as u64);
        let holds_append = log.engine != Engine::Memory || log.memory_bytes >= shard.append_bytes;
        self.rule(holds_append, "log.memory_bytes", &["shard.append_bytes"], |with| {
            format!("must be at least {append}, to hold one append: {with}")
        });
        let keeps_message = log.retention.bytes == 0 || log.retention.bytes >= limits.message_bytes as u64;
        self.rule(keeps_message, "log.retention.bytes", &["limits.message_bytes"], |with| {
            format!("must be 0 (no bound) or at least {message}, to keep one message: {with}")
        });
    }

    /// With less, the commit log's own files would be beyond the bound, and no post would ever be taken.
    fn disk(&mut self) {
        let log = &self.config.log;
        // The file that is written, and those that are held ready: one at least.
        let files = log.spare_segments.max(1) as u64 + 1;
        let least = log.segment_bytes.saturating_mul(files).saturating_add(TABLES);
        let holds = log.engine != Engine::Embedded || log.disk_bytes == 0 || log.disk_bytes >= least;
        let text = bytes_to_text(least);
        self.rule(holds, "log.disk_bytes", &["log.segment_bytes", "log.spare_segments"], |with| {
            format!(
                "must be 0 (no bound) or at least {text}, to hold {files} files of the commit log and the first messages: \
                 {with}"
            )
        });
    }

    fn overrides(&mut self) {
        let least = self.config.limits.message_bytes as u64;
        let config = self.config;
        let mut bytes =
            config.log.retention_overrides.0.iter().filter_map(|(prefix, rule)| Some((prefix, rule.bytes?)));
        if let Some((prefix, _)) = bytes.find(|(_, bytes)| (1..least).contains(bytes)) {
            let message = bytes_to_text(least);
            self.rule(false, "log.retention_overrides", &["limits.message_bytes"], |with| {
                format!("must have 0 (no bound) or at least {message} as bytes of prefix {prefix:?}, to keep one message: {with}")
            });
        }
    }

    fn guests(&mut self) {
        let auth = &self.config.auth;
        for (key, groups) in [("auth.guest_read", &auth.guest_read), ("auth.guest_post", &auth.guest_post)] {
            if let Err(error) = groups_of(groups) {
                self.rule(false, key, &[], |_| {
                    format!("must be names of groups, or beginnings with a '*', separated by commas: {error}")
                });
            }
        }
        let is_asked = auth.keys_file.is_some() || auth.users_file.is_some();
        for (key, is_said) in [("auth.issuer", !auth.issuer.is_empty()), ("auth.audience", !auth.audience.is_empty())] {
            self.rule(!is_said || auth.keys_file.is_some(), key, &["auth.keys_file"], |_| {
                "needs auth.keys_file, with the keys of those who issue tokens: without it no token is looked at"
                    .to_owned()
            });
        }
        self.rule(!auth.guests || is_asked, "auth.guests", &["auth.keys_file", "auth.users_file"], |_| {
            "needs auth.keys_file or auth.users_file: without them nobody has to prove anything, and all are let in"
                .to_owned()
        });
    }

    fn addresses(&mut self) {
        let Config { chat, admin, http, .. } = self.config;
        let guarded = admin.address.ip().to_canonical().is_loopback()
            || admin.token_file.is_some()
            || admin.client_ca_file.is_some()
            || admin.insecure;
        self.rule(guarded, "admin.address", &["admin.token_file", "admin.client_ca_file", "admin.insecure"], |_| {
            "must be a loopback address unless admin.token_file (--admin-token-file) or admin.client_ca_file is set, or \
             admin.insecure (--admin-insecure) is true"
                .to_owned()
        });
        self.rule(differ(admin.address, chat.address), "admin.address", &["chat.address"], |with| {
            format!("must not be another part's address: {with}")
        });
        self.rule(differ(http.address, chat.address), "http.address", &["chat.address"], |with| {
            format!("must not be another part's address: {with}")
        });
        self.rule(differ(http.address, admin.address), "http.address", &["admin.address"], |with| {
            format!("must not be another part's address: {with}")
        });
    }

    fn times(&mut self) {
        let drain = &self.config.drain;
        let least = drain.least_grace();
        let text = humantime::format_duration(least).to_string();
        self.rule(drain.grace > least, "drain.grace", &["drain.delay", "drain.linger"], |with| {
            format!("must be longer than {text}, since it counts from the signal and includes them and some time for the end: {with}")
        });
    }

    fn nodes(&mut self) {
        let replicas = self.config.nats.replicas;
        self.rule(replicas % 2 == 1, "nats.replicas", &[], |_| {
            "must be 1, 3 or 5: of an even number half is no majority, so one more server is of no use".to_owned()
        });
        let cluster = &self.config.cluster;
        let is_word = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        let is_name = cluster.node_id.len() <= 64 && is_word(&cluster.node_id);
        self.rule(is_name, "cluster.node_id", &[], |_| {
            "must be empty, or have at most 64 letters, digits, - and _".to_owned()
        });
        let shortest = 3 * cluster.renew;
        let text = humantime::format_duration(shortest).to_string();
        self.rule(cluster.lease >= shortest, "cluster.lease", &["cluster.renew"], |with| {
            format!("must be at least {text}, so that two lost renewals do no harm: {with}")
        });
    }

    /// How NATS is reached, where it is.
    fn nats(&mut self) {
        let Config { nats, log, .. } = self.config;
        if log.engine != Engine::Nats {
            // What is written down is shown, also where it is not used.
            if let Err(error) = nats.addresses() {
                self.rule(!nats.urls.contains('@'), "nats.urls", &[], |_| error.to_string());
            }
            return;
        }
        if let Err(error) = nats.addresses() {
            self.rule(false, "nats.urls", &[], |_| error.to_string());
        }
        if let Err(contradiction) = nats.check() {
            let (told, other) = contradiction.options();
            self.rule(false, told, &[other], |_| contradiction.to_string());
        }
    }

    fn certificates(&mut self) {
        let Config { chat, admin, http, .. } = self.config;
        for (files, cert, key) in [
            (&chat.tls, "chat.tls.cert_file", "chat.tls.key_file"),
            (&admin.tls, "admin.tls.cert_file", "admin.tls.key_file"),
            (&http.tls, "http.tls.cert_file", "http.tls.key_file"),
        ] {
            let both_or_none = files.cert_file.is_some() == files.key_file.is_some();
            let (given, missing) = if files.cert_file.is_some() { (cert, key) } else { (key, cert) };
            self.rule(both_or_none, given, &[missing], |_| format!("needs {missing} too: set both or none"));
        }
        let shown = admin.client_ca_file.is_none() || admin.tls.cert_file.is_some();
        self.rule(shown, "admin.client_ca_file", &["admin.tls.cert_file"], |_| {
            "needs admin.tls.cert_file and admin.tls.key_file: certificates of callers are shown within TLS".to_owned()
        });
    }

    /// Records that `key` breaks a rule unless `holds`. `others` are the options that the rule compares it with.
    fn rule(&mut self, holds: bool, key: &'static str, others: &[&'static str], rule: impl FnOnce(String) -> String) {
        if holds || self.faulty.contains(&key) || others.iter().any(|other| self.faulty.contains(other)) {
            return;
        }
        let with = others
            .iter()
            .map(|other| format!("{other} = {} ({})", self.value(other), self.origins.of(other)))
            .collect::<Vec<_>>()
            .join(", ");
        let origin = self.origins.of(key);
        self.errors.push(Error::NotAllowed { key: key.to_owned(), value: self.value(key), origin, rule: rule(with) });
    }

    fn value(&self, key: &str) -> String {
        let mut written = written(self.config).into_iter();
        written.find(|(entry, _)| entry.key == key).map(|(_, text)| without_secrets(&text)).unwrap_or_default()
    }
}

fn differ(one: SocketAddr, other: SocketAddr) -> bool {
    one != other || one.port() == 0
}
