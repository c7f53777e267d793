//! CPU time and memory of processes.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;

/// Ticks of `/proc/PID/stat`: a constant of Linux's interface.
const TICKS_PER_SECOND: f64 = 100.0;

/// Where the server's figures come from.
#[derive(Debug, Clone)]
pub enum Server {
    /// `/proc`, of all these processes together.
    Pids(Vec<u32>),
    /// Its metrics: host and port, path.
    Metrics(String, String),
}

/// Whose CPU time and memory a run tells, if anybody's.
#[derive(Debug, Clone, Default)]
pub struct Watched {
    /// The server, or all of them together.
    pub server: Option<Server>,
    /// What the servers store in and reach each other by.
    pub store: Option<Server>,
}

/// What processes have used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Seconds of CPU since they started, user and system.
    pub cpu: f64,
    /// Resident bytes now.
    pub rss: u64,
}

impl Watched {
    /// What the command line names.
    ///
    /// # Errors
    /// If the URL is not understood.
    pub fn from_arguments(pids: &[u32], metrics: Option<&str>, store_pids: &[u32]) -> Result<Self> {
        let by_metrics = metrics.map(Server::from_url).transpose()?;
        Ok(Self { server: Server::from_pids(pids).or(by_metrics), store: Server::from_pids(store_pids) })
    }
}

impl Server {
    fn from_pids(pids: &[u32]) -> Option<Self> {
        (!pids.is_empty()).then(|| Self::Pids(pids.to_vec()))
    }

    fn from_url(url: &str) -> Result<Self> {
        let rest = url.strip_prefix("http://").ok_or_else(|| anyhow!("--metrics must begin with http://"))?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, "metrics"));
        Ok(Self::Metrics(host.to_owned(), format!("/{path}")))
    }

    /// What it has used until now.
    ///
    /// # Errors
    /// If it has ended, or does not tell.
    pub fn usage(&self) -> Result<Usage> {
        match self {
            Self::Pids(pids) => {
                let mut all = Usage::default();
                for pid in pids {
                    let Usage { cpu, rss } = usage_of(*pid)?;
                    all = Usage { cpu: all.cpu + cpu, rss: all.rss + rss };
                }
                Ok(all)
            }
            Self::Metrics(host, path) => {
                let text = fetch(host, path).with_context(|| format!("fetch http://{host}{path}"))?;
                from_metrics(&text).ok_or_else(|| anyhow!("no process_cpu_seconds_total at http://{host}{path}"))
            }
        }
    }
}

fn usage_of(pid: u32) -> Result<Usage> {
    let stat = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&stat).with_context(|| format!("read {stat}"))?;
    let statm = format!("/proc/{pid}/statm");
    let statm = fs::read_to_string(&statm).with_context(|| format!("read {statm}"))?;
    from_proc(&stat, &statm).ok_or_else(|| anyhow!("/proc/{pid} is not as expected"))
}

fn from_proc(stat: &str, statm: &str) -> Option<Usage> {
    // The second field is a name in parentheses, in which anything may stand.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    let page = rustix::param::page_size() as u64;
    Some(Usage { cpu: (ticks(14)? + ticks(15)?) as f64 / TICKS_PER_SECOND, rss: pages * page })
}

fn from_metrics(text: &str) -> Option<Usage> {
    let value = |name: &str| -> Option<f64> {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
    };
    let cpu = value("process_cpu_seconds_total")?;
    Some(Usage { cpu, rss: value("process_resident_memory_bytes").unwrap_or(0.0) as u64 })
}

fn fetch(host: &str, path: &str) -> Result<String> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let mut socket = TcpStream::connect(host)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    // 1.0: the end of the answer is the end of the connection.
    write!(socket, "GET {path} HTTP/1.0\r\nHost: {host}\r\nAccept: text/plain\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| anyhow!("not HTTP"))?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("{status}");
    }
    Ok(body.to_owned())
}

/// Seconds of CPU that this process has used.
#[must_use]
pub fn own_cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_parentheses_does_not_confuse() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 4 0 1";
        let usage = from_proc(stat, "100 25 3 4 5 6 7").unwrap();
        assert!((usage.cpu - 3.0).abs() < 1e-9);
        assert_eq!(usage.rss, 25 * rustix::param::page_size() as u64);
        assert_eq!(from_proc("7 (a) S 1", "1 2"), None);
    }

    #[test]
    fn metrics_are_found_by_their_whole_name() {
        let text = "# HELP process_cpu_seconds_total x\nprocess_cpu_seconds_total_other 9\nprocess_cpu_seconds_total 1.5\n\
            process_resident_memory_bytes 4096\n";
        assert_eq!(from_metrics(text), Some(Usage { cpu: 1.5, rss: 4096 }));
        assert_eq!(from_metrics("tertulia_posts 3\n"), None);
    }

    #[test]
    fn our_own_process_can_be_measured() {
        let me = std::process::id();
        let usage = Server::Pids(vec![me]).usage().unwrap();
        assert!(usage.rss > 0);
        assert!(own_cpu() > 0.0);
        let twice = Server::Pids(vec![me, me]).usage().unwrap();
        assert!(twice.rss > usage.rss + usage.rss / 2, "{twice:?} is not twice {usage:?}");
    }
}
