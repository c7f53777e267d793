//! TLS on the server's ports: whose certificate is shown, who must show one, and what becomes of those who do not get that far.
//!
//! `keys` makes of files what a port shows; `watch` looks at the files and replaces it; `acceptor` carries out the handshakes, of
//! which `slots` keeps so many at once; `stream` is a connection, with or without TLS, and `counted` the socket
//! below TLS.

mod acceptor;
mod counted;
mod keys;
mod slots;
mod stream;
#[cfg(test)]
pub(crate) mod tests;
mod unverified;
mod watch;

pub mod config;
pub mod metrics;

pub use acceptor::{Acceptor, BUFFER, Reason, Refused, next, open};
pub use config::{Config, Files};
pub use keys::{Error, Port, Source};
pub use stream::Stream;
pub use unverified::{client_of, connect, subject};
