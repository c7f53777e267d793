//! Where the server listens.

use std::io::Write;
use std::net::SocketAddr;

use anyhow::Context;
use serde::Serialize;
use tokio::net::{TcpListener, TcpSocket};

use crate::config::Config;
use crate::front;

/// The ports. At those of chat and the admin API nobody listens before there is somebody to serve: whoever connects is refused until then,
/// and goes elsewhere.
pub(super) struct Listeners {
    pub(super) chat: TcpSocket,
    pub(super) admin: TcpSocket,
    pub(super) http: TcpListener,
    pub(super) addresses: Addresses,
}

/// Where the server listens.
#[derive(Debug, Serialize)]
pub(super) struct Addresses {
    pub(super) chat: SocketAddr,
    pub(super) admin: SocketAddr,
    http: SocketAddr,
}

impl Listeners {
    /// # Errors
    /// One of the addresses cannot be had.
    pub(super) fn reserve(config: &Config) -> anyhow::Result<Self> {
        let reserve = |what: &str, address: SocketAddr| {
            let socket = front::reserve(address).with_context(|| cannot(what, address))?;
            let reserved = socket.local_addr().with_context(|| format!("cannot tell the address of {what}"))?;
            anyhow::Ok((socket, reserved))
        };
        let (chat, chat_address) = reserve("chat", config.chat.address)?;
        let (admin, admin_address) = reserve("admin", config.admin.address)?;
        let (http, http_address) = reserve("http", config.http.address)?;
        let addresses = Addresses { chat: chat_address, admin: admin_address, http: http_address };
        let http = front::listen(http).with_context(|| cannot("http", http_address))?;
        Ok(Self { chat, admin, http, addresses })
    }
}

/// Listens at an address that was reserved for a part.
///
/// # Errors
/// Somebody else was quicker.
pub(super) fn listen(what: &str, socket: TcpSocket, address: SocketAddr) -> anyhow::Result<TcpListener> {
    front::listen(socket).with_context(|| cannot(what, address))
}

fn cannot(what: &str, address: SocketAddr) -> String {
    format!("cannot listen on {address} ({what}.address)")
}

impl Addresses {
    /// One line for programs on stdout, and the same in the log. Whoever has stdout may not read it, and is not waited for: not before the end
    /// of the runtime, which gives it a moment.
    pub(super) fn tell(&self) {
        #[derive(Serialize)]
        struct Line<'a> {
            listening: &'a Addresses,
        }
        tracing::info!(chat = %self.chat, admin = %self.admin, http = %self.http, version = env!("CARGO_PKG_VERSION"), "listening");
        let line = serde_json::to_string(&Line { listening: self }).unwrap_or_default();
        drop(tokio::task::spawn_blocking(move || {
            let mut stdout = std::io::stdout().lock();
            if let Err(error) = writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
                tracing::debug!(%error, "nobody reads the addresses");
            }
        }));
    }
}
