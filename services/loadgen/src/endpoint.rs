//! Where a server is: its address, or a name and a port that lead to one.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

/// How long an address may take to answer, where a name has several.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// As it was given.
    pub name: String,
    /// Where that leads.
    pub address: SocketAddr,
}

impl FromStr for Endpoint {
    type Err = String;

    /// Looks a name up. Of several addresses it is the first that can be connected to, and those of IPv4 come first: once for all connections,
    /// which are to have the same way.
    fn from_str(text: &str) -> Result<Self, String> {
        let found = |address| Self { name: text.to_owned(), address };
        if let Ok(address) = text.parse() {
            return Ok(found(address));
        }
        let named = text.split_once(':').filter(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        let (host, _) = named.ok_or("must be HOST:PORT, such as localhost:8088 or [::1]:8088")?;
        let addresses = text.to_socket_addrs().map_err(|error| format!("cannot look up '{host}': {error}"))?;
        choose(addresses.collect()).map(found).ok_or_else(|| format!("'{host}' has no address"))
    }
}

/// The first address that can be connected to; if there is none, the first, and the run will say why not.
fn choose(mut addresses: Vec<SocketAddr>) -> Option<SocketAddr> {
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses.dedup();
    let answers = |address: &&SocketAddr| TcpStream::connect_timeout(address, PATIENCE).is_ok();
    if addresses.len() > 1 {
        return addresses.iter().find(answers).or(addresses.first()).copied();
    }
    addresses.first().copied()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn addresses_and_names_lead_to_a_server() {
        for text in ["127.0.0.1:8088", "[::1]:8088"] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.name.as_str(), endpoint.address.to_string().as_str()), (text, text));
        }
        let endpoint: Endpoint = "localhost:8088".parse().unwrap();
        assert!(endpoint.address.ip().is_loopback() && endpoint.address.port() == 8088, "{endpoint:?}");
        assert_eq!(endpoint.name, "localhost:8088");
    }

    #[test]
    fn what_is_no_address_is_told_with_what_would_be() {
        for wrong in ["localhost", ":8088", "localhost:", "localhost:x", "localhost:65536", "::1"] {
            let error = wrong.parse::<Endpoint>().unwrap_err();
            assert!(error.contains("HOST:PORT"), "{wrong}: {error}");
        }
    }

    #[test]
    fn of_several_addresses_it_is_the_first_that_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap();
        let away = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(choose(vec![away, there]), Some(there));
        assert_eq!(choose(vec!["[::1]:1".parse().unwrap(), there]), Some(there));
        assert_eq!(choose(vec![away]), Some(away), "the run says why it cannot be reached");
        assert_eq!(choose(Vec::new()), None);
    }
}
