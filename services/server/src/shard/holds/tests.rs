mod order;
mod said;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use proptest::prelude::*;
use tertulia_protocol::UserName;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

use super::follow::PRUNE;
use super::*;
use crate::log::notes::Following;
use crate::shard::ConnectionId;

/// Notes in memory, which can fail, and of which several follow.
#[derive(Debug, Default)]
struct Paper {
    notes: Mutex<HashMap<String, Kept>>,
    changes: AtomicU64,
    followers: Mutex<Vec<mpsc::UnboundedSender<Kept>>>,
    fails: std::sync::atomic::AtomicBool,
    /// What is kept takes a permit, if there is one to be had.
    slow: Option<tokio::sync::Semaphore>,
}

#[derive(Debug, Clone, Default)]
struct Sheet(Arc<Paper>);

impl Sheet {
    /// All who follow have to begin anew.
    fn tear(&self) {
        self.0.followers.lock().unwrap().clear();
    }
}

impl Notes for Sheet {
    fn keep(&self, note: Note) -> BoxFuture<'static, Result<u64, NoteError>> {
        let paper = Arc::clone(&self.0);
        Box::pin(async move {
            if paper.fails.load(Ordering::Relaxed) {
                return Err(NoteError { reason: "no ink".into() });
            }
            let kept = Kept { change: paper.changes.fetch_add(1, Ordering::Relaxed) + 1, note };
            paper.notes.lock().unwrap().insert(kept.note.key.clone(), kept.clone());
            if let Some(slow) = &paper.slow {
                slow.acquire().await.unwrap().forget();
            }
            paper.followers.lock().unwrap().retain(|follower| follower.send(kept.clone()).is_ok());
            Ok(kept.change)
        })
    }

    fn follow(&self) -> BoxFuture<'static, Result<Following, NoteError>> {
        if self.0.fails.load(Ordering::Relaxed) {
            return Box::pin(async { Err(NoteError { reason: "no paper".into() }) });
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        self.0.followers.lock().unwrap().push(sender);
        let now = now_ms();
        let notes = self.0.notes.lock().unwrap().values().filter(|kept| kept.note.until > now).cloned().collect();
        Box::pin(async move { Ok((notes, UnboundedReceiverStream::new(receiver).boxed())) })
    }
}

fn group(name: &str) -> GroupName {
    GroupName::new(name).unwrap()
}

fn user(name: &str) -> Target {
    Target::User(UserName::new(name).unwrap())
}

fn session(id: u64, name: &str, address: impl Into<IpAddr>) -> Session {
    Session {
        id: ConnectionId(id),
        user: UserName::new(name).unwrap(),
        address: address.into(),
        inbox: Arc::default(),
        home: None,
        wants_places: true,
    }
}

const HOUR: Duration = Duration::from_secs(3_600);

fn hold(group_name: &str, target: Option<Target>, time: Duration) -> Hold {
    Hold::new((!group_name.is_empty()).then(|| group(group_name)), target, time)
}

fn code(result: Result<(), Refusal>) -> &'static str {
    result.map_or_else(|refusal| refusal.reason(), |()| "ok")
}

#[tokio::test]
async fn who_is_held_where_is_found_by_user_connection_and_address() {
    let holds = Arc::new(Holds::new(None, 100, true));
    let ada = session(1, "ada", [10, 0, 0, 1]);
    let bob = session(2, "bob", [10, 0, 0, 2]);
    assert_eq!(code(holds.check(&group("Dogs"), &ada)), "ok");
    holds.keep(hold("Dogs", Some(user("ada")), HOUR)).await.unwrap();
    assert_eq!(code(holds.check(&group("Dogs"), &ada)), "kicked");
    assert_eq!(code(holds.check(&group("Dogs"), &bob)), "ok");
    assert_eq!(code(holds.check(&group("Cats"), &ada)), "ok");
    holds.keep(hold("Cats", Some(Target::Connection(ConnectionId(2))), HOUR)).await.unwrap();
    assert_eq!(code(holds.check(&group("Cats"), &bob)), "kicked");
    holds.keep(hold("", Some(Target::Address(IpAddr::from([10, 0, 0, 1]))), 2 * HOUR)).await.unwrap();
    assert_eq!(code(holds.check(&group("Cats"), &ada)), "kicked");
    let Err(Refusal::Kicked { retry_after, .. }) = holds.check(&group("Dogs"), &ada) else { panic!("not held") };
    assert!(retry_after > HOUR, "the longer of the two: {retry_after:?}");
    holds.keep(hold("Birds", None, HOUR)).await.unwrap();
    assert_eq!(code(holds.check(&group("Birds"), &bob)), "closed");
    assert!(holds.closed_for("Birds").is_some());
    holds.keep(hold("Birds", None, Duration::ZERO)).await.unwrap();
    assert_eq!(code(holds.check(&group("Birds"), &bob)), "ok");
    assert_eq!(holds.len(), 3);
}

#[tokio::test]
async fn by_an_address_of_ipv6_its_network_is_held_and_by_one_that_was_held_before_that_alone() {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let [ada, neighbour] = ["2001:db8:1:2:3::4", "2001:db8:1:2::9"].map(|text| session(1, "ada", address(text)));
    let other = session(2, "bob", address("2001:db8:1:3::9"));
    let check = |holds: &Holds, session| code(holds.check(&group("Dogs"), session));
    let holds = Holds::new(None, 100, true);
    let network = Target::from_address(ada.address);
    assert_eq!(network.to_string(), "address 2001:db8:1:2::/64");
    assert_eq!([&ada, &neighbour, &other].map(|session| network.matches(session)), [true, true, false]);
    holds.apply(hold("Dogs", Some(network), HOUR));
    assert_eq!([&ada, &neighbour, &other].map(|session| check(&holds, session)), ["kicked", "kicked", "ok"]);

    let before = Holds::new(None, 100, true);
    let alone = Target::Address(ada.address);
    assert_eq!(alone.to_string(), "address 2001:db8:1:2:3::4");
    assert_eq!([&ada, &neighbour].map(|session| alone.matches(session)), [true, false]);
    before.apply(hold("", Some(alone), HOUR));
    assert_eq!([&ada, &neighbour].map(|session| check(&before, session)), ["kicked", "ok"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_over_is_forgotten() {
    let holds = Arc::new(Holds::new(None, 100, true));
    let stop = CancellationToken::new();
    let following = tokio::spawn(Arc::clone(&holds).follow(None, |_| true, stop.clone()));
    let ada = session(1, "ada", [10, 0, 0, 1]);
    holds.keep(hold("Dogs", Some(user("ada")), Duration::from_secs(90))).await.unwrap();
    tokio::time::sleep(Duration::from_secs(89)).await;
    assert_eq!(code(holds.check(&group("Dogs"), &ada)), "kicked");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(code(holds.check(&group("Dogs"), &ada)), "ok");
    tokio::time::sleep(PRUNE).await;
    assert!(holds.is_empty());
    stop.cancel();
    following.await.unwrap();
}

#[tokio::test]
async fn too_many_are_refused_and_those_that_are_there_can_be_changed() {
    let holds = Arc::new(Holds::new(None, 2, true));
    holds.keep(hold("Dogs", Some(user("ada")), HOUR)).await.unwrap();
    holds.keep(hold("", Some(user("bob")), HOUR)).await.unwrap();
    let full = holds.keep(hold("Dogs", Some(user("cyd")), HOUR)).await;
    assert_eq!(full, Err(HoldError::Full { max: 2 }));
    holds.keep(hold("Dogs", Some(user("ada")), 2 * HOUR)).await.unwrap();
    holds.keep(hold("Dogs", Some(user("ada")), Duration::ZERO)).await.unwrap();
    holds.keep(hold("Dogs", Some(user("cyd")), HOUR)).await.unwrap();
}

#[tokio::test]
async fn a_hold_that_cannot_be_kept_is_none() {
    let sheet = Sheet::default();
    let holds = Arc::new(Holds::new(Some(Arc::new(sheet.clone())), 100, true));
    sheet.0.fails.store(true, Ordering::Relaxed);
    assert!(matches!(holds.keep(hold("Dogs", Some(user("ada")), HOUR)).await, Err(HoldError::NotKept(_))));
    assert_eq!(code(holds.check(&group("Dogs"), &session(1, "ada", [1, 1, 1, 1]))), "ok");
}

/// Else it would be in force with the next start, and nobody would know.
#[tokio::test]
async fn a_hold_that_nobody_waits_for_any_more_is_in_force_once_it_is_kept() {
    let sheet = Sheet(Arc::new(Paper { slow: Some(tokio::sync::Semaphore::new(0)), ..Paper::default() }));
    let holds = Arc::new(Holds::new(Some(Arc::new(sheet.clone())), 100, true));
    let ada = session(1, "ada", [1, 1, 1, 1]);
    {
        let mut keeping = std::pin::pin!(holds.keep(hold("Dogs", Some(user("ada")), HOUR)));
        while sheet.0.notes.lock().unwrap().is_empty() {
            assert!(futures_util::poll!(&mut keeping).is_pending());
            tokio::task::yield_now().await;
        }
    }
    sheet.0.slow.as_ref().unwrap().add_permits(1);
    let in_force = async {
        while code(holds.check(&group("Dogs"), &ada)) == "ok" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), in_force).await.expect("the hold is kept and not in force");
}

#[tokio::test]
async fn a_connection_is_held_only_while_its_number_is_its_own() {
    let sheet = Sheet::default();
    for keeps_connections in [false, true] {
        let node = || Arc::new(Holds::new(Some(Arc::new(sheet.clone())), 100, keeps_connections));
        let (before, ada) = (node(), session(1, "ada", [1, 1, 1, 1]));
        before.keep(hold("Dogs", Some(Target::Connection(ada.id)), HOUR)).await.unwrap();
        assert_eq!(code(before.check(&group("Dogs"), &ada)), "kicked");
        let after = node();
        drop(after.load().await.unwrap());
        assert_eq!(code(after.check(&group("Dogs"), &ada)), if keeps_connections { "kicked" } else { "ok" });
    }
}

#[tokio::test]
async fn holds_are_there_after_a_restart_and_on_other_nodes() {
    let sheet = Sheet::default();
    let node = || Arc::new(Holds::new(Some(Arc::new(sheet.clone())), 100, true));
    let (one, other) = (node(), node());
    let stop = CancellationToken::new();
    let following = other.load().await.unwrap();
    let task = tokio::spawn(Arc::clone(&other).follow(following, |_| true, stop.clone()));
    let ada = session(1, "ada", [10, 0, 0, 1]);
    let until = async |wanted: &str| {
        while code(other.check(&group("Dogs"), &ada)) != wanted {
            tokio::task::yield_now().await;
        }
    };
    one.keep(hold("Dogs", Some(user("ada")), HOUR)).await.unwrap();
    until("kicked").await;
    // What happens while nobody follows is found when it begins anew.
    sheet.tear();
    one.keep(hold("Dogs", Some(user("ada")), Duration::ZERO)).await.unwrap();
    one.keep(hold("Dogs", None, HOUR)).await.unwrap();
    until("closed").await;
    let ended = other.read().end(&hold("Dogs", Some(user("ada")), HOUR)).is_none();
    assert!(ended, "a hold that ended unheard does not go on because it was new");
    let anew = node();
    drop(anew.load().await.unwrap());
    assert_eq!(code(anew.check(&group("Dogs"), &ada)), "closed");
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_changed_of_late_is_handed_over_with_its_shard() {
    let holds = Arc::new(Holds::new(None, 100, true));
    holds.keep(hold("Old", Some(user("ada")), HOUR)).await.unwrap();
    tokio::time::sleep(RECENT + Duration::from_secs(1)).await;
    holds.keep(hold("Dogs", Some(user("ada")), HOUR)).await.unwrap();
    holds.keep(hold("", Some(user("bob")), HOUR)).await.unwrap();
    holds.keep(hold("Dogs", None, Duration::ZERO)).await.unwrap();
    let shard = shard_of(&group("Dogs"), 1_024);
    let recent = holds.recent(shard, 1_024);
    assert_eq!(recent.len(), 3, "{recent:?}");
    let next = Arc::new(Holds::new(None, 100, true));
    recent.into_iter().for_each(|hold| next.apply(hold));
    assert_eq!(code(next.check(&group("Dogs"), &session(1, "ada", [1, 1, 1, 1]))), "kicked");
    assert_eq!(holds.recent((shard + 1) % 1_024, 1_024).len(), 1, "only what is for all groups");
}

proptest! {
    /// Against the plain list of all that is held.
    #[test]
    fn a_session_is_held_when_anything_that_it_is_is_held(
        held in prop::collection::vec((0..4_usize, 0..7_usize, 0..3_u64), 0..40),
    ) {
        let groups = ["", "a", "b", "c"];
        let targets = |n: usize| match n {
            0 | 1 => Some(user(["ada", "bob"][n])),
            2 | 3 => Some(Target::Connection(ConnectionId(n as u64 - 1))),
            4 | 5 => Some(Target::Address(IpAddr::from([10, 0, 0, n as u8 - 3]))),
            _ => None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let holds = Arc::new(Holds::new(None, 1_000, true));
            let mut plain: HashMap<(usize, usize), u64> = HashMap::new();
            for (group, target, hours) in held {
                if groups[group].is_empty() && target == 6 {
                    continue;
                }
                let time = HOUR * u32::try_from(hours).unwrap();
                holds.apply(Hold::new((group > 0).then(|| super::tests::group(groups[group])), targets(target), time));
                plain.insert((group, target), hours);
            }
            for id in 1..=2_u64 {
                let session = session(id, ["ada", "bob"][id as usize - 1], [10, 0, 0, id as u8]);
                let of_session = [id as usize - 1, id as usize + 1, id as usize + 3];
                for (group, name) in groups.iter().enumerate().skip(1) {
                    let in_force = |group: usize, target: usize| plain.get(&(group, target)).is_some_and(|hours| *hours > 0);
                    let expected = if in_force(group, 6) {
                        "closed"
                    } else if of_session.iter().any(|target| in_force(group, *target) || in_force(0, *target)) {
                        "kicked"
                    } else {
                        "ok"
                    };
                    assert_eq!(code(holds.check(&super::tests::group(name), &session)), expected);
                }
            }
        });
    }
}

#[tokio::test]
async fn a_hold_is_covered_by_one_that_ends_no_sooner() {
    let holds = Arc::new(Holds::new(None, 10, true));
    let hold = |seconds| {
        let group = Some(GroupName::new("Dogs").unwrap());
        Hold::new(group, Some(Target::User(UserName::new("eve").unwrap())), Duration::from_secs(seconds))
    };
    assert!(!holds.covers(&hold(60)));
    holds.apply(hold(60));
    assert!(holds.covers(&hold(60)) && holds.covers(&hold(30)) && !holds.covers(&hold(90)));
    assert!(!holds.covers(&Hold { target: None, ..hold(60) }), "nobody closed the group");
    holds.apply(hold(0));
    assert!(!holds.covers(&hold(60)), "it was taken back");
}

#[tokio::test(start_paused = true)]
async fn they_are_listed_in_the_order_of_their_places_as_long_as_they_are_in_force() {
    let holds = Holds::new(None, 100, true);
    let reason: Arc<str> = "spam".into();
    let everywhere = Hold::new(None, Some(user("bob")), HOUR).because(Some(&reason));
    holds.apply(hold("Dogs", Some(user("bob")), HOUR));
    holds.apply(hold("Dogs", None, HOUR));
    holds.apply(everywhere.clone());
    holds.apply(hold("Cats", Some(user("ada")), HOUR));
    holds.apply(hold("Ants", Some(user("ada")), Duration::from_secs(1)));
    tokio::time::advance(Duration::from_secs(2)).await;
    let places =
        |holds: &[Hold]| holds.iter().map(|hold| (hold.group.clone(), hold.target.clone())).collect::<Vec<_>>();
    let all = [
        (None, Some(user("bob"))),
        (Some(group("Cats")), Some(user("ada"))),
        (Some(group("Dogs")), None),
        (Some(group("Dogs")), Some(user("bob"))),
    ];
    let listed = holds.list(None, 10, |_, _| true);
    assert_eq!((places(&listed).as_slice(), &listed[0]), (&all[..], &everywhere));
    // Page by page it is the same.
    for size in 1..=4 {
        let (mut after, mut paged) = (None, Vec::new());
        loop {
            let page = places(&holds.list(after.as_ref(), size, |_, _| true));
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            paged.extend(page);
        }
        assert_eq!(paged, all, "{size} a page");
    }
    let of_bob = holds.list(None, 10, |_, target| target == Some(&user("bob")));
    assert_eq!(places(&of_bob), [all[0].clone(), all[3].clone()]);
    assert_eq!(holds.find(all[0].clone()), Some(everywhere));
    assert_eq!(holds.find((None, Some(user("ada")))), None);
}

#[test]
fn what_was_ended_does_not_come_back_with_a_shard() {
    let holds = Holds::new(None, 100, true);
    let of_ada = hold("Dogs", Some(user("ada")), HOUR);
    holds.apply(of_ada.clone());
    holds.apply(hold("Cats", Some(user("ada")), HOUR));
    holds.apply(hold("Dogs", Some(user("ada")), Duration::ZERO));
    holds.inherit(of_ada.clone());
    assert_eq!(holds.find((of_ada.group.clone(), of_ada.target.clone())), None);
    // Made anew, it is one more.
    holds.apply(of_ada.clone());
    holds.inherit(of_ada.clone());
    holds.inherit(hold("Dogs", Some(user("bob")), HOUR));
    assert_eq!(holds.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_is_read_anew_when_that_is_asked_for() {
    let sheet = Sheet::default();
    let node = || Arc::new(Holds::new(Some(Arc::new(sheet.clone())), 100, true));
    let (one, other) = (node(), node());
    let stop = CancellationToken::new();
    let following = other.load().await.unwrap();
    let task = tokio::spawn(Arc::clone(&other).follow(following, |_| true, stop.clone()));
    let ada = session(1, "ada", [10, 0, 0, 1]);
    // Who follows is told nothing, and does not learn that, as where a connection carries nothing.
    let silent = std::mem::take(&mut *sheet.0.followers.lock().unwrap());
    one.keep(hold("Dogs", Some(user("ada")), HOUR)).await.unwrap();
    tokio::time::sleep(HOUR / 2).await;
    assert_eq!(code(other.check(&group("Dogs"), &ada)), "ok");
    let begun = Instant::now();
    tokio::time::timeout(HOUR, other.refresh()).await.expect("it is not read");
    assert_eq!((code(other.check(&group("Dogs"), &ada)), begun.elapsed()), ("kicked", Duration::ZERO));
    // Also while it waits before it tries again what has failed.
    sheet.0.fails.store(true, Ordering::Relaxed);
    drop(silent);
    sheet.tear();
    tokio::time::sleep(Duration::from_secs(60)).await;
    sheet.0.fails.store(false, Ordering::Relaxed);
    one.keep(hold("Cats", Some(user("ada")), HOUR)).await.unwrap();
    let begun = Instant::now();
    tokio::time::timeout(HOUR, other.refresh()).await.expect("it is not read");
    assert_eq!((code(other.check(&group("Cats"), &ada)), begun.elapsed()), ("kicked", Duration::ZERO));
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn where_others_hold_somebody_it_is_looked_a_while_later_and_again_if_it_cannot_be() {
    let sheet = Sheet::default();
    let node = || Arc::new(Holds::new(Some(Arc::new(sheet.clone())), 100, true));
    let (one, other) = (node(), node());
    let stop = CancellationToken::new();
    let (told, mut looks) = mpsc::unbounded_channel();
    let begun = Instant::now();
    // The first time nobody has room for it.
    let look = move |group: Option<&GroupName>| {
        told.send((group.cloned(), begun.elapsed())).unwrap();
        begun.elapsed() > Duration::from_secs(3)
    };
    let following = other.load().await.unwrap();
    let task = tokio::spawn(Arc::clone(&other).follow(following, look, stop.clone()));
    one.keep(hold("Dogs", Some(user("ada")), HOUR)).await.unwrap();
    // Whoever is held no more is nobody's concern.
    one.keep(hold("Cats", Some(user("ada")), Duration::ZERO)).await.unwrap();
    let mut looked = async || tokio::time::timeout(HOUR, looks.recv()).await.expect("nobody looks").unwrap();
    for seconds in [2, 4] {
        assert_eq!(looked().await, (Some(group("Dogs")), Duration::from_secs(seconds)));
    }
    other.refresh().await;
    assert_eq!(looked().await, (None, Duration::from_secs(6)));
    stop.cancel();
    task.await.unwrap();
}
