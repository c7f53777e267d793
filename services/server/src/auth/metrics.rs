//! How clients proved who they are, as metrics.

use metrics::{Counter, counter, describe_counter, describe_gauge, gauge};

/// With labels `way` and `result`.
pub const LOGINS: &str = "tertulia_logins_total";
/// 1 while the file of keys cannot be used.
pub const RELOAD_FAILING: &str = "tertulia_auth_keys_reload_failing";

/// How somebody says who it is; the label `way`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// By a token in `Hello`.
    Token,
    /// By another token, on a connection that had one.
    Refresh,
    /// Not at all.
    Guest,
    /// By a name that nothing proves.
    Word,
}

/// Gives every metric of this part its text.
pub fn describe() {
    describe_counter!(
        LOGINS,
        "Times that a client said who it is, by result (accepted, refused) and way: token; refresh, of a token that was about to expire; word, where the server asks for no token; guest, who showed nothing"
    );
    describe_gauge!(
        RELOAD_FAILING,
        "1 while the file of the keys for the tokens of clients (auth.keys_file) cannot be used: the keys before it count on; 0 where there is none"
    );
    gauge!(RELOAD_FAILING).set(0.0);
}

/// Counters that are made once.
#[derive(Debug)]
pub(super) struct Metrics([(Counter, Counter); 4]);

impl Way {
    const ALL: [Self; 4] = [Self::Token, Self::Refresh, Self::Guest, Self::Word];

    fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Refresh => "refresh",
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
        let (accepted, refused) = &self.0[way as usize];
        if result.is_ok() { accepted } else { refused }.increment(1);
        result
    }
}
