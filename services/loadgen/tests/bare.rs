//! Whole runs against the bare server, in this process.

use std::net::SocketAddr;
use std::process::Command as Process;
use std::time::Duration;

use clap::Parser;
use tertulia_loadgen::args::{Cli, Command, Scenario};
use tertulia_loadgen::bare::Bare;
use tertulia_loadgen::plan::Plan;
use tertulia_loadgen::process::Watched;
use tertulia_loadgen::report::Report;
use tertulia_loadgen::run::run;

/// A server that loses every n-th post, or none; it ends with the test's process.
fn server(lose_every: Option<u64>) -> anyhow::Result<SocketAddr> {
    let mut server = Bare::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    if let Some(n) = lose_every {
        server = server.lose_every(n);
    }
    serve(server)
}

fn serve(server: Bare) -> anyhow::Result<SocketAddr> {
    let address = server.address()?;
    std::thread::spawn(|| server.run());
    Ok(address)
}

fn report(target: SocketAddr, arguments: &str) -> anyhow::Result<Report> {
    load(&format!("{arguments} --target {target}"))
}

fn load(arguments: &str) -> anyhow::Result<Report> {
    let (scenario, rest) = arguments.split_once(' ').unwrap_or((arguments, ""));
    let fixed = ["loadgen", scenario, "--quiet", "--warmup", "50ms"];
    let usual = [["--patience", "2s"], ["--duration", "300ms"]];
    let usual = usual.into_iter().filter(|[option, _]| !rest.contains(option)).flatten();
    let cli = Cli::try_parse_from(fixed.into_iter().chain(usual).chain(rest.split_whitespace()))?;
    let (scenario, load) = match cli.command {
        Command::Fanout(load) => (Scenario::Fanout, load),
        Command::Pairs(load) => (Scenario::Pairs, load),
        Command::Idle(load) => (Scenario::Idle, load),
        Command::Ingest(load) => (Scenario::Ingest, load),
        Command::Slow(load) => (Scenario::Slow, load),
        Command::Churn(load) => (Scenario::Churn, load),
        _ => anyhow::bail!("not used here"),
    };
    run(Plan::new(scenario, &load)?, &load, &Watched::default())
}

#[test]
fn a_server_that_does_its_work_has_no_faults() {
    let target = server(None).unwrap();
    for arguments in [
        "fanout --members 50 --window 16",
        "fanout --members 50 --window 16 --prefix own --done own",
        "fanout --members 50 --posters 3 --prefix posters",
        "fanout --members 50 --threads 3 --prefix threads",
        "pairs --groups 40 --window 8 --threads 2 --prefix pairs",
        "pairs --groups 10 --members 4 --quiet-groups 30 --prefix quiet",
        "ingest --window 64 --prefix ingest",
        "ingest --posters 2 --members 3 --threads 2 --prefix two",
        "fanout --members 20 --rate 500 --prefix rate",
        "churn --groups 5 --members 6 --rate 500 --churn-rate 100 --prefix churn",
        "fanout --members 10 --size 5000 --sources 2 --prefix large",
    ] {
        let report = report(target, arguments).unwrap_or_else(|error| panic!("{arguments}: {error:#}"));
        assert!(report.faults.none(), "{arguments}: {report}");
        assert!(report.posts > 0 && report.deliveries > 0, "{arguments}: {report}");
        assert!(report.latency.count > 0, "{arguments}: {report}");
        assert!(report.own.cpu_seconds > 0.0, "{arguments}: {report}");
    }
}

#[test]
fn a_server_is_found_by_its_name() {
    let target = server(None).unwrap();
    let by_name = format!("fanout --members 3 --rate 100 --target localhost:{}", target.port());
    let report = load(&by_name).unwrap();
    assert!(report.faults.none() && report.posts > 0, "{report}");
    assert_eq!(report.target, format!("localhost:{}", target.port()));
}

#[test]
fn every_delivery_in_a_run_is_counted_once() {
    let report = report(server(None).unwrap(), "fanout --members 25 --window 1").unwrap();
    // One post at a time: what is delivered when the measurement begins and ends differs by less than one post each.
    assert!(report.deliveries.abs_diff(report.posts * 25) <= 50, "{report}");
}

#[test]
fn slow_members_read_in_the_end_and_get_everything() {
    let report = report(server(None).unwrap(), "slow --members 10 --share 0.2 --rate 500").unwrap();
    assert!(report.faults.none(), "{report}");
    // All that was posted, to two members; some of it before the measurement.
    assert!(report.resumed.unwrap().deliveries >= report.posts * 2, "{report}");
}

#[test]
fn idle_connections_only_join() {
    let report = report(server(None).unwrap(), "idle --groups 20 --members 5").unwrap();
    assert_eq!((report.posts, report.deliveries, report.plan.connections), (0, 0, 100));
    // It does not answer joins, so that connections come at our own pace.
    assert_eq!(report.connecting.per_second, None);
    assert!(report.faults.none(), "{report}");
}

#[test]
fn a_lost_message_is_a_fault_for_every_member() {
    let report = report(server(Some(10)).unwrap(), "fanout --members 10 --rate 1000").unwrap();
    assert!(report.faults.missing > 0 && report.faults.missing.is_multiple_of(10), "{report}");
    assert!(report.faults.first.is_some());
}

/// A server that forgets who comes back after a few messages.
fn forgetful(times: u64) -> anyhow::Result<SocketAddr> {
    serve(Bare::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?.returners_get(times))
}

#[test]
fn what_comes_after_a_returners_last_delivery_is_missed() {
    let report = report(forgetful(1).unwrap(), "churn --groups 5 --members 6 --rate 500 --churn-rate 50").unwrap();
    assert!(report.faults.missing_at_end > 0, "{report}");
    assert!(report.faults.first.is_some(), "what is counted is said: {report}");
}

#[test]
fn whoever_comes_back_and_gets_nothing_is_missed() {
    let arguments = "churn --groups 5 --members 6 --rate 100 --churn-rate 5 --duration 3s";
    let report = report(forgetful(0).unwrap(), arguments).unwrap();
    assert!(report.faults.missing_at_end > 0, "{report}");
    assert!(report.faults.first.as_ref().unwrap().contains("came back and got nothing"), "{report}");
}

#[test]
fn where_joins_are_not_answered_nobody_knows_how_long_they_take() {
    let report = report(server(None).unwrap(), "churn --groups 5 --members 6 --rate 500 --churn-rate 100").unwrap();
    assert!(report.rejoins.is_none(), "{report}");
}

#[test]
fn a_run_with_faults_exits_with_one_and_says_so() {
    let run = |target: SocketAddr, load: &str| {
        let target = target.to_string();
        let fixed = load.split(' ').chain(["--rate", "1000", "--warmup", "0s", "--duration", "200ms", "--quiet"]);
        let mut process = Process::new(env!("CARGO_BIN_EXE_tertulia-loadgen"));
        process.args(fixed).args(["--patience", "500ms", "--json", "-", "--target", &target]).output().unwrap()
    };
    let good = run(server(None).unwrap(), "fanout --members 5");
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    let results: serde_json::Value = serde_json::from_slice(&good.stdout).unwrap();
    assert!(results["latency"]["p99_9"].is_u64() && results["plan"]["pace"]["open"].is_f64(), "{results}");
    let bad = run(forgetful(1).unwrap(), "churn --groups 5 --members 6 --churn-rate 100");
    assert_eq!(bad.status.code(), Some(1));
    let bad = run(server(Some(20)).unwrap(), "fanout --members 5");
    assert_eq!(bad.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("the run failed"), "{bad:?}");
    let results: serde_json::Value = serde_json::from_slice(&bad.stdout).unwrap();
    assert!(results["faults"]["missing"].as_u64().unwrap() > 0, "{results}");
}

#[test]
fn what_is_sent_long_after_it_was_due_is_told_to_be_late() {
    // Far more than can be sent in that time; in all, less than the server lets wait for a reader that reads too slowly.
    let arguments = "ingest --rate 3000000 --size 40 --duration 100ms --patience 60s";
    let report = report(server(None).unwrap(), arguments).unwrap();
    assert!(report.faults.none(), "{report}");
    // The last posts were due just before the end of the measurement, and sent long after it.
    assert!(report.lateness.max as f64 > 0.5e6 * report.seconds, "{report}");
    assert!(report.latency.max >= report.lateness.max, "{report}");
}

/// A server that rests once the load has begun.
fn resting(time: Duration) -> anyhow::Result<SocketAddr> {
    serve(Bare::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?.rest_after(50, time))
}

/// More than sockets hold of what a server does not take.
const MUCH: &str = "ingest --rate 5000 --size 20000";

#[test]
fn posts_count_when_the_server_takes_them() {
    let report = report(resting(Duration::from_secs(1)).unwrap(), &format!("{MUCH} --patience 60s")).unwrap();
    let due = 5_000.0 * report.seconds;
    assert!((report.posts as f64) < 0.9 * due && report.untaken > 100, "{report}");
    assert!(report.lateness.max > 300_000, "they waited here: {report}");
    assert!(report.to_string().contains("NOT TAKEN"), "{report}");
    // All of them were taken later.
    assert!(report.faults.none(), "{report}");
    assert!(report.lateness.count as f64 > 0.99 * due, "{report}");
}

#[test]
fn what_a_server_never_takes_is_a_fault_and_fills_no_memory() {
    // An eighth of what may wait is this thread's.
    let arguments = format!("{MUCH} --duration 1s --threads 8 --patience 300ms");
    let report = report(resting(Duration::from_secs(60)).unwrap(), &arguments).unwrap();
    let faults = &report.faults;
    assert!(faults.untaken > 2_000 && faults.untaken.abs_diff(report.untaken) < 500, "none was taken later: {report}");
    assert!(faults.unsent > 0 && faults.unsent < 10 * 1024 * 1024, "{report}");
    assert!(faults.first.as_ref().unwrap().contains("offered more than it can do"), "{report}");
}

#[test]
fn what_was_seen_of_a_server_that_ends_is_told() {
    let server = Bare::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap().end_after(300);
    let report = report(serve(server).unwrap(), "fanout --members 5 --rate 500 --duration 60s").unwrap();
    assert!(report.failed.as_ref().unwrap().contains("the server closed the connection"), "{report}");
    assert!(report.faults.closed > 0 && report.faults.missing_at_end == 0, "{report}");
    assert!(report.seconds < 30.0 && report.posts > 0 && report.latency.count > 0, "{report}");
    assert!(report.to_string().contains("FAILED"), "{report}");
}

/// What one run has left in a group is not taken for what another one posts.
#[test]
fn messages_of_another_run_are_told_apart() {
    let target = server(None).unwrap();
    let other = std::thread::spawn(move || report(target, "fanout --members 3 --rate 500 --duration 2s"));
    let seen = report(target, "fanout --members 3 --rate 500 --duration 1s").unwrap();
    drop(other.join().unwrap());
    let faults = &seen.faults;
    assert!(faults.foreign > 0 && faults.first.as_ref().unwrap().contains("another run"), "{seen}");
}

fn process(target: SocketAddr, arguments: &str) -> Process {
    let mut process = Process::new(env!("CARGO_BIN_EXE_tertulia-loadgen"));
    let (scenario, arguments) = arguments.split_once(' ').unwrap_or((arguments, ""));
    process.args([scenario, "--target", &target.to_string()]).args(arguments.split(' '));
    process.stderr(std::process::Stdio::piped());
    process
}

#[test]
fn results_that_cannot_be_written_are_refused_before_the_run_and_old_ones_do_not_stay() {
    let target = server(None).unwrap();
    let begun = std::time::Instant::now();
    let done = process(target, "fanout --members 2 --duration 60s --json /nonexistent/results.json").output().unwrap();
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.code() == Some(1) && told.contains("/nonexistent/results.json"), "{told}");
    assert!(begun.elapsed().as_secs() < 30);

    let file = std::env::temp_dir().join(format!("tertulia-loadgen-{}.json", std::process::id()));
    std::fs::write(&file, "{}").unwrap();
    let vacant = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let done = process(vacant, "fanout --members 2 --json").arg(&file).output().unwrap();
    assert!(done.status.code() == Some(1) && !file.exists(), "{done:?}");
}

#[test]
fn results_in_a_file_outlive_a_standard_output_that_nobody_reads() {
    let file = std::env::temp_dir().join(format!("tertulia-loadgen-{}-kept.json", std::process::id()));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let arguments = "fanout --members 2 --rate 100 --warmup 0s --duration 200ms --json";
    let done = process(server(None).unwrap(), arguments).arg(&file).stdout(writer).output().unwrap();
    let results = std::fs::read_to_string(&file);
    drop(std::fs::remove_file(&file));
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.code() == Some(1) && told.contains("standard output"), "{told}");
    let results: serde_json::Value = serde_json::from_str(&results.unwrap()).unwrap();
    assert!(results["latency"]["count"].as_u64() > Some(0), "{results}");
}

#[cfg(unix)]
#[test]
fn a_run_that_is_interrupted_tells_what_it_has_measured() {
    use std::io::{BufRead, BufReader, Read};

    let arguments = "fanout --members 2 --rate 100 --warmup 0s --duration 120s --json -";
    let mut child = process(server(None).unwrap(), arguments).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("measure") {
        line.clear();
        assert!(told.read_line(&mut line).unwrap() > 0, "it has ended");
    }
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    // Both are read, so that neither is full.
    let rest = std::thread::spawn(move || drop(std::io::copy(&mut told, &mut std::io::sink())));
    let mut results = String::new();
    child.stdout.take().unwrap().read_to_string(&mut results).unwrap();
    rest.join().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{results}");
    let results: serde_json::Value = serde_json::from_str(&results).unwrap();
    assert!(results["seconds"].as_f64().unwrap() < 60.0 && results["latency"]["count"].as_u64() > Some(0), "{results}");
}

#[test]
fn a_server_that_is_not_there_ends_the_run() {
    let vacant = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = report(vacant, "fanout --members 2").unwrap_err();
    assert!(format!("{error:#}").contains("connect to"), "{error:#}");
}
