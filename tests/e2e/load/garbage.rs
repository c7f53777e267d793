//! Whatever is sent to a port is answered or the connection is closed, the memory stays bounded, and others do not notice.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use harness::metrics::get;
use harness::{Connector, RawClient, ServerOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use crate::latency::{Control, Probe, p99};
use crate::machine;

/// Messages whose latency is measured before.
const PROBES: usize = 500;
/// Connections that attack each port at the same time.
const ATTACKERS: usize = 24;
const HUGE: usize = 100 * 1024 * 1024;
/// Beyond what the process takes by itself: nothing of what comes may be kept.
const MEMORY_BOUND: u64 = 128 * 1024 * 1024;
/// How long a port may take to answer or to close.
const PATIENCE: Duration = Duration::from_secs(30);

/// The beginning of a TLS 1.2 handshake.
const TLS_HELLO: &[u8] = &[
    0x16, 0x03, 0x01, 0x00, 0x2f, 0x01, 0x00, 0x00, 0x2b, 0x03, 0x03, 0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07,
    0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a,
    0x1b, 0x1c, 0x1d, 0x1e, 0x1f, 0x00, 0x00, 0x04, 0x13, 0x01, 0x13, 0x02, 0x01, 0x00,
];

/// What is sent.
#[derive(Debug, Clone, Copy)]
enum Garbage {
    Random,
    Tls,
    Http,
    HalfLine,
    Huge,
    Slowloris,
    Nothing,
}

const ALL: [Garbage; 7] = [
    Garbage::Random,
    Garbage::Tls,
    Garbage::Http,
    Garbage::HalfLine,
    Garbage::Huge,
    Garbage::Slowloris,
    Garbage::Nothing,
];

/// Sends garbage, and waits until the port answers or closes the connection. What it sends may not be taken to its end.
async fn attack(address: SocketAddr, garbage: Garbage, seed: u64) -> Result<()> {
    let mut client: RawClient = Connector::new(address).raw().await?;
    let (mut read, mut write) = client.stream().split();
    let sending = async {
        match garbage {
            Garbage::Random => {
                let mut random = fastrand::Rng::with_seed(seed);
                for _ in 0..200 {
                    let mut bytes = vec![0; random.usize(1..4000)];
                    random.fill(&mut bytes);
                    write.write_all(&bytes).await?;
                }
            }
            Garbage::Tls => write.write_all(TLS_HELLO).await?,
            Garbage::Http => write.write_all(b"GET /chat HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n").await?,
            Garbage::HalfLine => write.write_all(b"{\"Join\":{\"group_name\":\"Do").await?,
            Garbage::Huge => {
                let piece = vec![b'x'; 64 * 1024];
                for _ in 0..HUGE / piece.len() {
                    write.write_all(&piece).await?;
                }
                write.write_all(b"\n").await?;
            }
            Garbage::Slowloris => {
                for byte in b"POST /metrics HTTP/1.1\r\n".iter().cycle() {
                    write.write_all(&[*byte]).await?;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            Garbage::Nothing => {}
        }
        // Nothing more comes, but the connection stays.
        std::future::pending::<std::io::Result<()>>().await
    };
    let answered = async {
        let mut answer = [0; 1024];
        read.read(&mut answer).await
    };
    // An error of either half means that the port has closed the connection.
    let outcome = tokio::time::timeout(PATIENCE, async {
        tokio::select! {
            sent = sending => drop(sent),
            answer = answered => drop(answer),
        }
    });
    outcome.await.with_context(|| format!("{garbage:?} (seed {seed}) was neither answered nor closed"))
}

impl Garbage {
    /// Whether it takes the port some time to see that nothing good will come.
    fn is_patient(self) -> bool {
        matches!(self, Garbage::HalfLine | Garbage::Slowloris | Garbage::Nothing)
    }
}

/// Attacks a port in every way at the same time: the quick ways again and again until the patient ones are through.
async fn attack_all(address: SocketAddr, name: &'static str) -> Result<()> {
    let through = Arc::new(AtomicBool::new(false));
    let mut patient = JoinSet::new();
    let mut quick = JoinSet::new();
    for number in 0..ATTACKERS {
        let garbage = ALL[number % ALL.len()];
        if garbage.is_patient() {
            patient.spawn(attack(address, garbage, 0));
            continue;
        }
        let through = Arc::clone(&through);
        quick.spawn(async move {
            let mut seed = number as u64;
            while !through.load(Ordering::Acquire) {
                attack(address, garbage, seed).await?;
                seed += ATTACKERS as u64;
            }
            anyhow::Ok(())
        });
    }
    let all = async {
        while let Some(outcome) = patient.join_next().await {
            outcome??;
        }
        through.store(true, Ordering::Release);
        while let Some(outcome) = quick.join_next().await {
            outcome??;
        }
        anyhow::Ok(())
    };
    all.await.with_context(|| format!("port {name}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_port_answers_or_closes_and_nobody_else_notices() -> Result<()> {
    let _machine = machine().await;
    let options = ServerOptions::new().set("limits.hello_timeout", "3s").set("limits.line_timeout", "3s");
    let server = options.start().await?;
    let mut probe = Probe::new(&server.connector()).await?;
    probe.p99(PROBES).await?;
    let before = probe.p99(PROBES).await?;

    let over = Arc::new(AtomicBool::new(false));
    let ports = server.listening();
    let attacks = tokio::spawn({
        let over = Arc::clone(&over);
        async move {
            let admin = async {
                match ports.admin {
                    Some(admin) => attack_all(admin, "admin").await,
                    None => Ok(()),
                }
            };
            let outcome = tokio::try_join!(attack_all(ports.chat, "chat"), attack_all(ports.http, "http"), admin);
            over.store(true, Ordering::Release);
            outcome
        }
    });
    let (mut during, mut elsewhere) = (Vec::new(), Vec::new());
    let mut control = Control::new().await?;
    while !over.load(Ordering::Acquire) {
        during.push(probe.once().await?);
        elsewhere.push(control.once().await?);
    }
    attacks.await??;
    let (count, during, elsewhere) = (during.len(), p99(during), p99(elsewhere));
    println!(
        "p99 of a message: {before:?} before, {during:?} during the attack ({count} messages), {elsewhere:?} beside it"
    );
    // The attackers, and whatever else runs, share the machine with the server. What they cost is seen where no server is: a message
    // takes six turns of some task, the control two.
    let bound = before * 10 + elsewhere * 6 + Duration::from_millis(100);
    assert!(during < bound, "{during:?}, bound {bound:?}");
    let peak = server.process().peak_resident_bytes()?;
    println!("the server's peak memory: {peak} bytes, its bound {MEMORY_BOUND}");
    assert!(peak < MEMORY_BOUND, "{peak} of {MEMORY_BOUND}");

    // All ports serve as before.
    probe.once().await?;
    assert_eq!(get(server.http(), "/livez").await?.status, 200);
    assert_eq!(get(server.http(), "/readyz").await?.status, 200);
    assert_eq!(get(server.http(), "/nothing").await?.status, 404);
    Ok(())
}
