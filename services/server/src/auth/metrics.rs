//! How clients proved who they are, as metrics.

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

/// With labels `way` and `result`.
pub const LOGINS: &str = "tertulia_logins_total";
/// 1 while that file cannot be used; with the label `file`.
pub const RELOAD_FAILING: &str = "tertulia_auth_reload_failing";
/// Clients whose password is not checked yet.
pub const WAITING: &str = "tertulia_password_checks_waiting";

/// What clients are held against; the label `file`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum File {
    /// `auth.keys_file`.
    Keys,
    /// `auth.users_file`.
    Users,
}

/// How somebody says who it is; the label `way`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// By a token in `Hello`.
    Token,
    /// By another token, on a connection that had one.
    Refresh,
    /// By a password in `Hello`.
    Password,
    /// Not at all.
    Guest,
    /// By a name that nothing proves.
    Word,
}

/// Gives every metric of this part its text.
pub fn describe() {
    describe_counter!(
        LOGINS,
        "Times that a client said who it is, by result (accepted, refused) and way: token; refresh, of a token that was about to expire; password; word, where the server asks for no proof; guest, who showed nothing"
    );
    describe_gauge!(
        RELOAD_FAILING,
        "1 while a file by which clients prove who they are cannot be used: keys, of tokens (auth.keys_file), or users, with their passwords (auth.users_file); what was read before counts on. 0 where there is none"
    );
    describe_gauge!(
        WAITING,
        "Clients that wait for their password to be checked, because as many are as may be (auth.password_checks), or one from the same address"
    );
    for file in [File::Keys, File::Users] {
        reload_failing(file).set(0.0);
    }
    gauge!(WAITING).set(0.0);
}

/// Whether that file cannot be used.
pub(super) fn reload_failing(file: File) -> Gauge {
    let file = match file {
        File::Keys => "keys",
        File::Users => "users",
    };
    gauge!(RELOAD_FAILING, "file" => file)
}

/// One that waits for its password to be checked, as long as this is held.
#[derive(Debug)]
pub(super) struct Waiting(Gauge);

impl Waiting {
    pub(super) fn begin() -> Self {
        let gauge = gauge!(WAITING);
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// Counters that are made once.
#[derive(Debug)]
pub(super) struct Metrics([(Counter, Counter); 5]);

impl Way {
    const ALL: [Self; 5] = [Self::Token, Self::Refresh, Self::Password, Self::Guest, Self::Word];

    fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Refresh => "refresh",
            Self::Password => "password",
            Self::Guest => "guest",
            Self::Word => "word",
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self(Way::ALL.map(|way| {
            let counter = |result: &'static str| counter!(LOGINS, "way" => way.as_str(), "result" => result);
            (counter("accepted"), counter("refused"))
        }))
    }
}

impl Metrics {
    pub(super) fn count<T, E>(&self, way: Way, result: Result<T, E>) -> Result<T, E> {
        self.count_one(way, result.is_ok());
        result
    }

    pub(super) fn count_one(&self, way: Way, is_accepted: bool) {
        let (accepted, refused) = &self.0[way as usize];
        if is_accepted { accepted } else { refused }.increment(1);
    }
}
