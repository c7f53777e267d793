//! The path of a post through the real front, shards and log, for counting its instructions: `tests/instructions/check` does.
//!
//! `tertulia-instructions SCENARIO ROUNDS` serves so many rounds on one thread, in which clients on sockets of this very process post and read. Sockets of the
//! loopback device deliver while they are written to, so nothing depends on time, and what two runs of different length differ by
//! is the price of their rounds alone. It says on stdout how many units of work a round has.

use std::hint::black_box;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use tertulia_protocol::codec::{classic_message, decode_classic, decode_extended, extended_message};
use tertulia_protocol::extended;
use tertulia_server::front::{self, Front, Limits};
use tertulia_server::log::{self, memory::Memory};
use tertulia_server::shard::{self, Bounds, Shards};
use tokio_util::sync::CancellationToken;

const MESSAGE: &str = "0123456789 the quick brown fox jumps over the lazy dog, and once more: the quick brown fox jumps over the lazy dog 0123456789 +";

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [scenario, rounds] = &arguments[..] else {
        bail!("usage: tertulia-instructions SCENARIO ROUNDS");
    };
    let rounds = rounds.parse().context("ROUNDS must be a number")?;
    let Some((_, run)) = SCENARIOS.iter().find(|(name, _)| name == scenario) else {
        bail!("there is no scenario '{scenario}'");
    };
    let units = run(rounds)?;
    println!("{units}");
    Ok(())
}

type Scenario = fn(usize) -> anyhow::Result<usize>;

/// Each answers how many units of work one round is: deliveries, posts or lines.
const SCENARIOS: &[(&str, Scenario)] = &[
    ("decode-classic", |rounds| lines(rounds, |line, _| drop(black_box(decode_classic(line))))),
    ("decode-extended", |rounds| lines(rounds, |line, _| drop(black_box(decode_extended(line))))),
    ("encode-classic", |rounds| lines(rounds, |_, out| classic_message("Dogs", MESSAGE, out))),
    ("encode-extended", |rounds| {
        lines(rounds, |_, out| {
            let (group_name, message, sender) = ("Dogs".into(), MESSAGE.into(), "ada".into());
            let message = extended::Message {
                group_name,
                message,
                seq: 123_456,
                sender,
                at: 1_764_000_000_000,
                id: None,
                removed: false,
                removes: None,
            };
            extended_message(&message, out);
        })
    }),
    ("fanout", |rounds| chat(rounds, Chat { groups: 1, members: 100, ..Chat::default() })),
    ("fanout-8", |rounds| chat(rounds, Chat { groups: 1, members: 100, posts: 8, ..Chat::default() })),
    ("groups", |rounds| chat(rounds, Chat { groups: 20, members: 10, ..Chat::default() })),
    ("pairs", |rounds| chat(rounds, Chat { groups: 50, members: 2, ..Chat::default() })),
    ("pairs-extended", |rounds| chat(rounds, Chat { groups: 50, members: 2, extended: true, ..Chat::default() })),
    ("ingest", |rounds| chat(rounds, Chat { groups: 1, members: 1, posts: 64, stranger: true, ..Chat::default() })),
];

/// Lines read or written, 100 a round.
fn lines(rounds: usize, mut work: impl FnMut(&[u8], &mut Vec<u8>)) -> anyhow::Result<usize> {
    const A_ROUND: usize = 100;
    let line = post("Dogs");
    let line = line.trim_end().as_bytes();
    let mut out = Vec::with_capacity(1024);
    for _ in 0..rounds * A_ROUND {
        out.clear();
        work(black_box(line), &mut out);
        black_box(&out);
    }
    Ok(A_ROUND)
}

fn post(group: &str) -> String {
    format!("{{\"Post\":{{\"group_name\":\"{group}\",\"message\":\"{MESSAGE}\"}}}}\n")
}

/// Groups in which posts are sent and read.
#[derive(Clone, Copy)]
struct Chat {
    groups: usize,
    members: usize,
    /// Posts to each group in each round, written at once.
    posts: usize,
    /// Whether who posts is not a member.
    stranger: bool,
    extended: bool,
}

impl Default for Chat {
    fn default() -> Self {
        Self { groups: 1, members: 1, posts: 1, stranger: false, extended: false }
    }
}

fn chat(rounds: usize, chat: Chat) -> anyhow::Result<usize> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let shards = start_shards();
        let stop = CancellationToken::new();
        let front = Front::new(&front::Config::default(), Limits::default(), shards.clone(), front::Options::default());
        let listener = front::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let address = listener.local_addr()?;
        let serving = tokio::spawn(front.clone().serve(listener, stop.clone()));
        let result = converse(rounds, chat, address, &shards).await;
        stop.cancel();
        serving.await?;
        result
    })
}

fn start_shards() -> Shards {
    const SHARDS: u16 = 16;
    let retention = log::Retention { messages: 100, ..log::Retention::default() };
    let log = Memory::new(&log::Config { retention, ..log::Config::default() }, SHARDS);
    let bounds = Bounds { members_per_group: 10_000, groups: 10_000, ..Bounds::default() };
    let config = shard::Config { count: SHARDS, ..shard::Config::default() };
    Shards::start(config, bounds, Arc::new(log), "local".to_owned())
}

async fn converse(rounds: usize, chat: Chat, address: SocketAddr, shards: &Shards) -> anyhow::Result<usize> {
    let Chat { groups, members, posts, stranger, extended } = chat;
    let mut posters = Vec::new();
    let mut readers = Vec::new();
    for number in 0..groups {
        let group = format!("group-{number}");
        let line = post(&group).repeat(posts);
        let first = readers.len();
        for _ in 0..members {
            readers.push(Client::connect(address, extended).await?.join(&group));
        }
        let joined = || shards.directory().get(&group).is_some_and(|group| group.members() == members as u64);
        until(joined).await?;
        if stranger {
            let poster = Client::connect(address, extended).await?;
            posters.push((poster, line));
        } else {
            posters.push((Client::on(readers[first].socket.try_clone()?), line));
        }
    }
    // What joining was answered with is read away.
    tokio::task::yield_now().await;
    readers.iter_mut().try_for_each(|reader| reader.read().map(|_| reader.lines = 0))?;
    for _ in 0..rounds {
        for (place, (poster, line)) in posters.iter_mut().enumerate() {
            poster.socket.write_all(line.as_bytes())?;
            let members_of = place * members..(place + 1) * members;
            for (number, reader) in readers[members_of].iter_mut().enumerate() {
                // An extended poster has an answer to each post besides the message.
                let expected = if extended && !stranger && number == 0 { 2 * posts } else { posts };
                reader.await_lines(expected).await?;
            }
        }
    }
    Ok(groups * members * posts)
}

/// Lets the tasks of this thread run until it is so.
async fn until(mut so: impl FnMut() -> bool) -> anyhow::Result<()> {
    const PATIENCE: usize = 1_000_000;
    for _ in 0..PATIENCE {
        if so() {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
    bail!("nothing comes any more")
}

struct Client {
    socket: TcpStream,
    /// Lines read that nobody has waited for yet.
    lines: usize,
    /// Made once, so that the client's part is small beside the server's.
    buffer: Box<[u8]>,
}

impl Client {
    fn on(socket: TcpStream) -> Self {
        Self { socket, lines: 0, buffer: vec![0; 16 * 1024].into() }
    }

    async fn connect(address: SocketAddr, extended: bool) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let mut client = Self::on(socket);
        if extended {
            client.socket.write_all(b"{\"Hello\":{\"version\":1}}\n")?;
            client.await_lines(1).await?;
        }
        Ok(client)
    }

    fn join(mut self, group: &str) -> Self {
        // A new socket has room for a line.
        drop(writeln!(self.socket, "{{\"Join\":{{\"group_name\":\"{group}\"}}}}"));
        self
    }

    async fn await_lines(&mut self, count: usize) -> anyhow::Result<()> {
        let mut failed = None;
        until(|| {
            if self.lines < count {
                failed = self.read().err();
            }
            failed.is_some() || self.lines >= count
        })
        .await?;
        self.lines -= count.min(self.lines);
        failed.map_or(Ok(()), Err)
    }

    fn read(&mut self) -> anyhow::Result<()> {
        match self.socket.read(&mut self.buffer) {
            Ok(count) => {
                ensure!(count > 0, "the server has closed the connection");
                let read = &self.buffer[..count];
                ensure!(!read.starts_with(b"{\"Error"), "{}", String::from_utf8_lossy(read));
                self.lines += memchr::memchr_iter(b'\n', read).count();
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
