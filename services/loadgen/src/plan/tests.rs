use clap::Parser;

use super::*;
use crate::args::{Cli, Command};

fn plan(arguments: &str) -> Result<Plan> {
    let cli = Cli::try_parse_from(["loadgen"].into_iter().chain(arguments.split(' ')))?;
    match cli.command {
        Command::Fanout(load) => Plan::new(Scenario::Fanout, &load),
        Command::Slow(load) => Plan::new(Scenario::Slow, &load),
        Command::Ingest(load) => Plan::new(Scenario::Ingest, &load),
        Command::Catchup(load) => Plan::new(Scenario::Catchup, &load),
        Command::Soak(load) => Plan::new(Scenario::Soak, &load),
        Command::Idle(load) => Plan::new(Scenario::Idle, &load),
        _ => bail!("not used here"),
    }
}

#[test]
fn a_rate_opens_the_loop_and_a_window_closes_it() {
    assert_eq!(plan("fanout").unwrap().pace, Pace::Closed(256));
    assert_eq!(plan("fanout --rate 50").unwrap().pace, Pace::Open(50.0));
    assert_eq!(plan("soak").unwrap().pace, Pace::Open(1_000.0));
    assert_eq!(plan("soak --window 8").unwrap().pace, Pace::Closed(8));
    assert_eq!(plan("soak --mode closed").unwrap().pace, Pace::Closed(64));
    for wrong in ["fanout --mode open", "fanout --mode closed --rate 5", "fanout --rate 0", "fanout --rate inf"] {
        assert!(plan(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn the_special_members_are_the_last_ones() {
    let plan = plan("slow --members 20 --share 0.1").unwrap();
    assert_eq!(
        (plan.role(0), plan.role(17), plan.role(18), plan.role(19)),
        (Role::Member, Role::Member, Role::Slow, Role::Slow)
    );
    assert_eq!((plan.poster(0), plan.poster(1)), (Some(0), None));
    assert_eq!(plan.watchers(), 18);
    let few = self::plan("slow --members 4 --share 0.1").unwrap();
    assert_eq!(few.special, 1, "a run without a slow one would show nothing");
    assert_eq!(self::plan("slow --members 4 --share 0").unwrap().special, 0);
    assert!(plan.watches(17, 0) && !plan.watches(18, 0));
}

#[test]
fn what_cannot_be_is_refused() {
    assert!(plan("slow --members 2 --share 1").is_err());
    assert!(plan("catchup").is_err(), "the classic dialect has no history");
    for wrong in [
        "fanout --rate 1e12",
        "fanout --rate 1e-11",
        "soak --churn-rate 1e12",
        "fanout --rate 5 --window 8",
        "fanout --duration 0s",
        "fanout --share 0.5",
        "fanout --depth 5",
        "slow --churn-rate 5",
        "fanout --receive-buffer 4096",
        "fanout --protocol redis --dialect extended",
        "fanout --protocol nats --tls",
        "fanout --protocol nats --token-file x",
        "fanout --sources 2 --target [::1]:8088",
        "fanout --groups 4 --threads 4 --window 3",
        "idle --rate 5",
        "idle --window 5",
    ] {
        assert!(plan(wrong).is_err(), "{wrong}");
    }
    assert!(plan("catchup --dialect extended").is_ok());
    assert!(plan("fanout --dialect extended --token-file x").is_ok());
    let classic = plan("fanout --token-file x").unwrap_err().to_string();
    assert!(classic.ends_with("the classic one has no place for a token"), "{classic}");
}

#[test]
fn posters_outside_are_connections_of_their_own() {
    let plan = plan("ingest --posters 3").unwrap();
    assert_eq!((plan.connections, plan.poster(0)), (4, None));
    assert!(plan.watches(0, 2));
    let idle = self::plan("idle --groups 10 --members 10 --outside-posters").unwrap();
    assert_eq!((idle.connections, idle.outside), (100, false), "where nobody posts there are none");
}

#[test]
fn churn_is_shared_by_the_threads_that_have_who_comes_and_goes() {
    let plan = plan("soak --groups 1 --members 2 --share 0.5 --threads 4").unwrap();
    let having: Vec<usize> = (0..4).filter(|thread| plan.has_special(*thread)).collect();
    assert_eq!(having, [1]);
}

#[test]
fn the_window_is_shared_out_whole() {
    for (arguments, shares) in [
        ("fanout --threads 3", [256, 0, 0]),
        ("fanout --groups 2 --threads 3 --window 5", [2, 3, 0]),
        ("fanout --groups 9 --threads 3 --window 100", [33, 33, 34]),
    ] {
        let plan = plan(arguments).unwrap();
        assert_eq!([0, 1, 2].map(|thread| plan.slots(thread).1), shares, "{arguments}");
    }
}

#[test]
fn posters_are_where_posting_is_done() {
    let plan = plan("fanout --groups 1 --members 9 --threads 4 --posters 2").unwrap();
    assert_eq!(plan.thread_of(0, 0), plan.home(0));
    assert_eq!(plan.thread_of(0, 1), plan.home(0));
    assert_eq!(plan.thread_of(0, 7), 3);
}

#[test]
fn members_of_a_group_and_posters_go_from_server_to_server() {
    let turns = |arguments: &str, group, places: [u32; 3]| {
        let plan = plan(arguments).unwrap();
        places.map(|place| plan.turn(group, place) % 3)
    };
    assert_eq!(turns("fanout --members 9 --target 127.0.0.1:1,127.0.0.1:2,127.0.0.1:3", 0, [0, 1, 5]), [0, 1, 2]);
    assert_eq!(turns("fanout --members 9", 1, [0, 1, 5]), [1, 2, 0], "another group begins with another one");
    assert_eq!(turns("ingest", 0, [0, u32::MAX, u32::MAX]), [0, 1, 1], "the poster is not where the reader is");
}
