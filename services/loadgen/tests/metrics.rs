//! Runs that watch a server by its metrics: a stub of these, beside the bare server.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Parser;
use tertulia_loadgen::args::{Cli, Command, Scenario};
use tertulia_loadgen::bare::Bare;
use tertulia_loadgen::plan::Plan;
use tertulia_loadgen::process::Watched;
use tertulia_loadgen::report::Report;
use tertulia_loadgen::run::run;

/// Serves metrics until `answers` were given, and fails then. Tells where, and counts how often it was asked.
fn metrics(answers: u64) -> Result<(String, Arc<AtomicU64>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/metrics", listener.local_addr()?);
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    std::thread::spawn(move || -> Result<()> {
        for socket in listener.incoming() {
            let mut socket = socket?;
            // All of it: what is left unread would break the connection.
            let (mut request, mut byte) = (Vec::new(), [0]);
            while !request.ends_with(b"\r\n\r\n") {
                socket.read_exact(&mut byte)?;
                request.extend(byte);
            }
            let answer = match count.fetch_add(1, Ordering::Relaxed) {
                before if before < answers => {
                    "200 OK\r\n\r\nprocess_cpu_seconds_total 1000\nprocess_resident_memory_bytes 4096\n"
                }
                _ => "503 Service Unavailable\r\n\r\n",
            };
            socket.write_all(format!("HTTP/1.0 {answer}").as_bytes())?;
        }
        Ok(())
    });
    Ok((url, asked))
}

fn watching(url: &str) -> Result<Report> {
    let server = Bare::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let target = server.address()?.to_string();
    std::thread::spawn(|| server.run());
    let arguments = "loadgen fanout --members 5 --rate 100 --warmup 0s --duration 2s --patience 2s --quiet --target";
    let Command::Fanout(load) = Cli::try_parse_from(arguments.split(' ').chain([target.as_str()]))?.command else {
        bail!("another command")
    };
    run(Plan::new(Scenario::Fanout, &load)?, &load, &Watched::from_arguments(&[], Some(url), &[])?)
}

#[test]
fn metrics_are_fetched_no_more_than_once_a_second() {
    let (url, asked) = metrics(u64::MAX).unwrap();
    let begun = Instant::now();
    let report = watching(&url).unwrap();
    let seconds = begun.elapsed().as_secs();
    assert!(report.faults.none(), "{report}");
    assert_eq!(report.server.unwrap().cpu_micros_per_connect, None, "it does not answer joins");
    assert!(report.samples.iter().all(|sample| sample.cores < 1.0), "{:?}", report.samples);
    // Once to see whether it can be asked, four times for the results, and each second.
    let asked = asked.load(Ordering::Relaxed);
    assert!(asked <= 5 + seconds, "{asked} times in {seconds} s");
}

#[test]
fn a_run_whose_server_cannot_be_measured_fails() {
    let (url, _) = metrics(2).unwrap();
    let error = format!("{:#}", watching(&url).unwrap_err());
    assert!(error.contains("cannot tell what the server used") && error.contains(&url), "{error}");
}
