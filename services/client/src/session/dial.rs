//! Reaching a host that has several addresses.
//!
//! Some of them may lead nowhere without a word, as where a machine has an address of IPv6 and no way out: so each gets a
//! head start, and then the next is tried beside it. The first that answers is taken. One that answers and lets nobody in, as
//! a server that is frozen or full, is tried after the others the next time.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long one step of an attempt to connect may take.
pub(super) const CONNECT: Duration = Duration::from_secs(10);
/// How long an address is tried alone.
const HEAD_START: Duration = Duration::from_secs(2);
/// So many addresses are tried before it is said that none lets the client in.
const MOST_TRIED: usize = 64;

/// `HOST:PORT`, and what became of its addresses.
#[derive(Debug)]
pub(crate) struct Host {
    name: String,
    /// What its name stood for the last time.
    addresses: Vec<SocketAddr>,
    /// Those that had their turn, as long as none has let the client in.
    tried: Vec<SocketAddr>,
    was_let_in: bool,
    /// Those that answered and did not let the client in, the last of them at the end.
    closed: Vec<SocketAddr>,
}

impl Host {
    /// Of its addresses nothing is known yet.
    pub(crate) fn new(name: String) -> Self {
        Self { name, addresses: Vec::new(), tried: Vec::new(), was_let_in: false, closed: Vec::new() }
    }

    /// Connects, and tells to which address.
    pub(super) async fn dial(&mut self) -> io::Result<(SocketAddr, TcpStream)> {
        // If the name is not found now, nothing is known that could be tried.
        self.addresses.clear();
        self.addresses = in_time(lookup_host(&self.name)).await?.collect();
        self.reach(|address| in_time(TcpStream::connect(address))).await
    }

    async fn reach<T, Connecting>(&mut self, connect: impl Fn(SocketAddr) -> Connecting) -> io::Result<(SocketAddr, T)>
    where
        T: Send + 'static,
        Connecting: Future<Output = io::Result<T>> + Send + 'static,
    {
        let addresses = self.in_order(self.addresses.clone());
        let (tried, is_counted) = (&mut self.tried, !self.was_let_in);
        first_of(addresses, |address| {
            if is_counted && !tried.contains(&address) {
                tried.push(address);
            }
            connect(address)
        })
        .await
    }

    /// Whether one of the addresses has not had its turn, because others answered before it and let the client in no more than those before
    /// them. A name that stands for others each time it is asked has an end too.
    pub(crate) fn has_another(&self) -> bool {
        !self.was_let_in
            && self.tried.len() < MOST_TRIED
            && self.addresses.iter().any(|address| !self.tried.contains(address))
    }

    /// Those first that are not known to let nobody in, then those of which that is known the longest.
    fn in_order(&mut self, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        // What the host's name no longer stands for is forgotten, so that nothing grows.
        self.closed.retain(|closed| addresses.contains(closed));
        addresses.sort_by_key(|address| self.closed.iter().position(|closed| closed == address));
        addresses
    }

    /// What became of a connection to that address: whether it let the client in.
    pub(super) fn note(&mut self, address: SocketAddr, let_in: bool) {
        self.closed.retain(|closed| *closed != address);
        if let_in {
            self.was_let_in = true;
            self.tried = Vec::new();
        } else {
            self.closed.push(address);
        }
    }
}

async fn in_time<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(CONNECT, step).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
    }
}

/// What the first address leads to that leads anywhere, and which one that is; else why the first of them did not: that one the system
/// takes for the best.
async fn first_of<T, Connecting>(
    addresses: impl IntoIterator<Item = SocketAddr>,
    mut connect: impl FnMut(SocketAddr) -> Connecting,
) -> io::Result<(SocketAddr, T)>
where
    T: Send + 'static,
    Connecting: Future<Output = io::Result<T>> + Send + 'static,
{
    let mut addresses = addresses.into_iter();
    let mut attempts = JoinSet::new();
    let mut error = None;
    loop {
        let answer = match addresses.next() {
            Some(address) => {
                let connecting = connect(address);
                attempts.spawn(async move { (address, connecting.await) });
                let Ok(answer) = timeout(HEAD_START, attempts.join_next()).await else { continue };
                answer
            }
            None => attempts.join_next().await,
        };
        match answer {
            Some(Ok((address, Ok(connected)))) => return Ok((address, connected)),
            Some(Ok((_, Err(failure)))) => drop(error.get_or_insert(failure)),
            Some(Err(failure)) => drop(error.get_or_insert(failure.into())),
            None => {
                let none = || io::Error::new(io::ErrorKind::NotFound, "the host has no address");
                return Err(error.unwrap_or_else(none));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    fn addresses(count: u16) -> Vec<SocketAddr> {
        (1..=count).map(|port| ([127, 0, 0, 1], port).into()).collect()
    }

    /// Port 1 never answers, port 2 refuses, port 3 answers after a second, port 4 after five.
    async fn play(address: SocketAddr) -> io::Result<u16> {
        match address.port() {
            1 => std::future::pending().await,
            2 => return Err(io::ErrorKind::ConnectionRefused.into()),
            3 => sleep(Duration::from_secs(1)).await,
            _ => sleep(Duration::from_secs(5)).await,
        }
        Ok(address.port())
    }

    async fn reached(order: &[u16]) -> (io::Result<u16>, Duration) {
        let start = Instant::now();
        let all = addresses(4);
        let order = order.iter().map(|port| all[usize::from(*port) - 1]);
        (first_of(order, play).await.map(|(_, port)| port), start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_leads_nowhere_holds_up_the_next_for_a_moment_only() {
        let (port, after) = reached(&[1, 3]).await;
        assert_eq!(port.unwrap(), 3);
        assert_eq!(after, Duration::from_secs(3), "two for the one, one for the other");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_lets_the_next_have_its_turn_at_once() {
        let (port, after) = reached(&[2, 3]).await;
        assert_eq!((port.unwrap(), after), (3, Duration::from_secs(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_slow_may_still_be_the_first() {
        let (port, after) = reached(&[4, 1]).await;
        assert_eq!((port.unwrap(), after), (4, Duration::from_secs(5)));
    }

    #[test]
    fn an_address_that_lets_nobody_in_comes_last_until_it_does() {
        let all = addresses(3);
        let mut host = Host::new("test:1".into());
        let order = |host: &mut Host| host.in_order(all.clone()).iter().map(SocketAddr::port).collect::<Vec<_>>();
        assert_eq!(order(&mut host), [1, 2, 3]);
        host.note(all[0], false);
        assert_eq!(order(&mut host), [2, 3, 1]);
        host.note(all[1], false);
        assert_eq!(order(&mut host), [3, 1, 2], "all of them have their turn");
        host.note(all[0], false);
        assert_eq!(order(&mut host), [3, 2, 1]);
        host.note(all[0], true);
        assert_eq!(order(&mut host), [1, 3, 2]);
        assert_eq!(host.in_order(all[..1].to_vec()), all[..1]);
        assert_eq!(order(&mut host), [1, 2, 3], "what the name no longer stood for is forgotten");
    }

    /// Dials until there is no other address; answers which ones were reached.
    async fn dial_all(host: &mut Host) -> Vec<SocketAddr> {
        let mut reached = Vec::new();
        loop {
            let (address, _) = host.reach(play).await.unwrap();
            host.note(address, false);
            reached.push(address);
            if !host.has_another() {
                return reached;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_let_in_nowhere_has_another_address_until_each_has_had_its_turn() {
        let all = addresses(4);
        let third: SocketAddr = ([127, 0, 0, 2], 3).into();
        let mut host = Host::new("test:1".into());
        for (addresses, reached) in [
            // One that refuses lets the next have its turn; one that never answers has had its own.
            (vec![all[2], all[1], third], vec![all[2], third]),
            (vec![all[0], all[2]], vec![all[2]]),
            (vec![all[2]], vec![all[2]]),
        ] {
            host = Host { addresses, ..Host::new(host.name) };
            assert_eq!(dial_all(&mut host).await, reached);
        }
        host.note(all[2], true);
        host.addresses = all;
        assert!(!host.has_another(), "who was let in once waits before it tries again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_stands_for_others_each_time_is_not_asked_for_ever() {
        let mut host = Host::new("test:1".into());
        let mut dials = 0;
        while dials == 0 || host.has_another() {
            dials += 1;
            let address = |number: u8| ([127, 0, dials, number], 3).into();
            host.addresses = vec![address(0), address(1)];
            let (address, _) = host.reach(play).await.unwrap();
            host.note(address, false);
        }
        assert_eq!(usize::from(dials), MOST_TRIED);
    }

    #[tokio::test(start_paused = true)]
    async fn if_none_answers_it_is_said_why() {
        let (port, _) = reached(&[2, 2]).await;
        assert_eq!(port.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(reached(&[]).await.0.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
