//! `tertulia-server admin …`: calls the admin API with nothing but this program, for where there is no shell and no other client of gRPC.
//!
//! `calls` finds in the descriptors what there is to call, and makes requests of JSON; `target` says where the server is, whom to take for it
//! and what to show it; `link` is the connection, `output` what is written of the answers. `json` reads what people write.

use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use prost_reflect::DynamicMessage;
use tertulia_server::admin::{Config, metrics, token};
use tokio::time::timeout;
use tonic::Code;

use crate::cli::Admin;

mod calls;
mod json;
mod link;
mod output;
mod target;

use calls::{Call, Calls};
use link::Link;
use target::Target;

/// Why a call does not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No such call.
    #[error("there is no call '{name}'{}; `tertulia-server admin` tells what there is", maybe(.nearest.as_deref()))]
    UnknownCall { name: String, nearest: Option<String> },
    /// What was given is no request of this call.
    #[error("not a request of {call}: {fault}; `tertulia-server admin --describe {call}` tells what it may have")]
    Request { call: String, fault: String },
    /// The answer has no next page.
    #[error("{call} has no pages: leave out --all")]
    NoPages { call: String },
    /// Not an address.
    #[error("'{address}' must be HOST:PORT, http://HOST:PORT or https://HOST:PORT")]
    Address { address: String },
    /// The address says that it is without TLS.
    #[error("'{address}' is without TLS: say https://, or leave out --ca, --tls-name and --cert")]
    InTheClear { address: String },
    /// Nor that a token may be shown without it.
    #[error(
        "others could read the token on its way to '{address}': say https://{address}, or http://{address} if it is to go there without TLS"
    )]
    TokenInTheClear { address: String },
    /// The configured port is chosen by the system.
    #[error("the admin port is 0, so it is not known where to call: use --admin or --address")]
    UnknownPort,
    /// The descriptors in this program are not in order.
    #[error("cannot read the descriptors of the admin API")]
    Descriptors(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The request cannot be read.
    #[error("cannot read the request from stdin")]
    Input(#[source] io::Error),
    /// Whoever reads the answers has gone, or there is no room for them.
    #[error("cannot write the answer")]
    Output(#[source] io::Error),
    /// There is no token to present.
    #[error(transparent)]
    Token(#[from] token::Error),
    /// There is nobody to trust.
    #[error(transparent)]
    Trust(#[from] tertulia_tls_client::Error),
    /// A file cannot be used for what it is named for.
    #[error("cannot use {} ({option}): {cause}", path.display())]
    Unusable { path: PathBuf, option: &'static str, cause: String },
    /// TLS cannot be spoken.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// The system does not give what it takes.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    /// Nobody answers there.
    #[error(
        "cannot connect to {address}: {cause}; is the server running, and its admin API there (admin.address)? --address names another place"
    )]
    Connect { address: String, cause: io::Error },
    /// The server is not the one that was expected, or does not take us for one of its callers.
    #[error("no TLS connection to {address}: {cause}; {advice}")]
    Handshake { address: String, cause: io::Error, advice: String },
    /// The connection came to nothing.
    #[error("the connection to {address} failed: {cause}{advice}")]
    Connection { address: String, cause: String, advice: &'static str },
    /// The connection did not come about in time.
    #[error("no connection to {address} within {} (--timeout): nothing was sent", humantime::format_duration(*limit))]
    Unreached { address: String, limit: Duration },
    /// The answer did not come in time.
    #[error("no answer from {address} within {} (--timeout): what was asked for may be done or not", humantime::format_duration(*limit))]
    Slow { address: String, limit: Duration },
    /// The server refused.
    #[error("{}: {message}{advice}", metrics::code_name(*code))]
    Refused { code: Code, message: String, advice: String },
}

fn maybe(nearest: Option<&str>) -> String {
    nearest.map(|name| format!(" (is it {name}?)")).unwrap_or_default()
}

impl Error {
    /// Whether what was given was wrong, or what it names, and nothing was tried.
    pub(crate) fn is_of_usage(&self) -> bool {
        matches!(
            self,
            Self::UnknownCall { .. }
                | Self::Request { .. }
                | Self::NoPages { .. }
                | Self::Address { .. }
                | Self::InTheClear { .. }
                | Self::TokenInTheClear { .. }
                | Self::UnknownPort
                | Self::Input(_)
                | Self::Token(_)
                | Self::Trust(_)
                | Self::Unusable { .. }
        )
    }

    /// Whether whoever reads the answers has gone, and need not be told so.
    pub(crate) fn has_reader_left(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// Does what was asked, and writes what came of it to stdout. `config` is that of the server that is called unless another is named.
///
/// # Errors
/// Why not.
pub(crate) fn run(options: &Admin, config: &Config) -> Result<(), Error> {
    let calls = Calls::new()?;
    let Some(name) = &options.call else { return output::write(&calls.list()) };
    let call = calls.find(name)?;
    if options.describe {
        return output::write(&call.description());
    }
    if options.all && !call.is_paged() {
        return Err(Error::NoPages { call: call.name().to_owned() });
    }
    let request = match options.request.as_str() {
        "-" => call.request(&io::read_to_string(io::stdin().lock()).map_err(Error::Input)?)?,
        given => call.request(given)?,
    };
    let target = Target::new(options, config)?;
    // With a thread of its own, the connection stays alive while whoever reads the answers takes none.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(Error::Runtime)?;
    let done = runtime.block_on(carry_out(&call, request, &target, options));
    // A look-up of a host name may still be blocked.
    runtime.shutdown_background();
    done
}

async fn carry_out(call: &Call, mut request: DynamicMessage, target: &Target, options: &Admin) -> Result<(), Error> {
    let limit = options.timeout;
    let slow = |_| Error::Slow { address: target.address(), limit };
    let unreached = |_| Error::Unreached { address: target.address(), limit };
    let mut link = timeout(limit, Link::open(target)).await.map_err(unreached)??;
    if call.is_streaming() {
        let mut answers = timeout(limit, link.stream(call, request)).await.map_err(slow)??;
        let mut left = pin!(output::left(io::stdout()));
        loop {
            let answer = tokio::select! {
                answer = answers.message() => answer.map_err(|status| target.interruption(&status))?,
                // Until the next answer, the server would count a caller that is none any more.
                () = &mut left => return Err(Error::Output(io::ErrorKind::BrokenPipe.into())),
            };
            let Some(answer) = answer else { return Ok(()) };
            output::print(serde_json::to_string(&answer))?;
        }
    }
    loop {
        let answer = timeout(limit, link.unary(call, request.clone())).await.map_err(slow)??;
        output::print(serde_json::to_string_pretty(&answer))?;
        if !(options.all && Call::turn_page(&mut request, &answer)) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests;
