//! Frames and answers that would be larger than what NATS takes in one message.

use futures_util::future::join_all;

use super::*;

/// Less than NATS takes, so that the tests need not make so much.
const SMALL: usize = 256 * 1024;

/// Far more than it takes, by the clock that does not wait, and less than it takes to ask again for what does not come.
const SOON: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn many_who_ask_for_many_names_are_all_answered() {
    const USERS: u64 = 200;
    let pair = Pair::within(Bounds { members_per_group: 300, ..BOUNDS }, SMALL).await;
    for number in 0..USERS {
        pair.two.join(&session(number, &format!("user-{number:0>59}"))).await.unwrap();
    }
    let bob = session(USERS, "bob");
    let begun = tokio::time::Instant::now();
    let asked = (0..400).map(|_| pair.two.shards.users(pair.two.group.clone(), None, 200));
    let asking = join_all(asked);
    let posting = async {
        // Behind them.
        tokio::task::yield_now().await;
        pair.two.post(&bob, &["a"]).await
    };
    let (pages, posted) = tokio::join!(asking, posting);
    for page in pages {
        let (users, more) = page.unwrap().unwrap();
        assert_eq!((users.len() as u64, more), (USERS, false));
    }
    assert_eq!(posted, [Ok(1)]);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_page_that_no_answer_could_hold_is_shorter() {
    let pair = Pair::within(Bounds { members_per_group: 300, ..BOUNDS }, 4 * 1024).await;
    for number in 0..100 {
        pair.two.join(&session(number, &format!("user-{number:0>59}"))).await.unwrap();
    }
    let mut all: Vec<UserName> = Vec::new();
    loop {
        let after = all.last().map(UserName::as_str);
        let (users, more) = pair.two.shards.users(pair.two.group.clone(), after, 10_000).await.unwrap().unwrap();
        assert!(!users.is_empty());
        all.extend(users);
        if !more {
            break;
        }
    }
    assert_eq!(all.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_text_of_any_length_may_stand_before_names() {
    let pair = Pair::within(BOUNDS, SMALL).await;
    for (number, name) in [(1, "bob"), (2, "cat")] {
        pair.two.join(&session(number, name)).await.unwrap();
    }
    let begun = tokio::time::Instant::now();
    let after = "bo".repeat(SMALL);
    let (users, more) = pair.two.shards.users(pair.two.group.clone(), Some(&after), 10).await.unwrap().unwrap();
    assert_eq!((users, more), (vec![UserName::new("cat").unwrap()], false));
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_roll_of_many_groups_with_long_names_gets_through() {
    const GROUPS: u64 = 2_000;
    let pair = Pair::within(Bounds { groups: 2_000, ..BOUNDS }, SMALL).await;
    let bob = session(1, "bob");
    for number in 0..GROUPS {
        // Each of these is two bytes in a frame.
        let name = GroupName::new(&format!("{}{number}", "\"".repeat(128))).unwrap();
        pair.two.join_group(&name, &bob).await.unwrap();
    }
    pair.one.shards.order(0, Order::Lost).await;
    // Until it does not answer any more that the shard is not its own.
    let asked = pair.air.owners.lock().unwrap()[0].clone();
    asked.closed().await;
    assert_eq!(pair.one.shards.directory().totals().groups, 0);
    let begun = tokio::time::Instant::now();
    pair.own(&pair.one, pair.reign + 1, Vec::new()).await;
    let told = async {
        // It has none but those.
        while pair.one.shards.directory().totals().groups < GROUPS {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("the owner learns of all");
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert_eq!(pair.two.post(&bob, &["a"]).await, [Err(Refusal::NoSuchGroup(pair.two.group.clone()))]);
}
