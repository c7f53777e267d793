//! Holds that were ended, or made anew, before the owner came to what made them: as where it waits for a slow log.

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);

fn close(group: GroupName, hold: Term, reply: tokio::sync::oneshot::Sender<Result<Option<Ended>, Refusal>>) -> Admin {
    Admin::End { group, how: Removal::Closed, reason: None, hold, epoch: None, in_doubt: false, reply }
}

#[tokio::test]
async fn a_hold_that_was_ended_does_not_come_back_when_its_owner_comes_to_what_made_it() {
    let world = World::new(Config::default(), BOUNDS);
    let (holds, ada) = (world.shards.holds(), session(1, "ada"));
    for is_closed in [false, true] {
        world.join(&ada).await.unwrap();
        let (group, target) = (world.group.clone(), Target::User(ada.user.clone()));
        let hold = |time| Hold::new(Some(group.clone()), (!is_closed).then(|| target.clone()), time);
        let kept = Term::of(&holds.keep(hold(HOUR)).await.unwrap(), HOUR);
        holds.keep(hold(Duration::ZERO)).await.unwrap();
        if is_closed {
            let ended = world.shards.ask(0, |reply| close(group, kept, reply)).await.unwrap();
            assert_eq!(ended, Ok(Some(Ended { members: 1, messages: 0 })));
        } else {
            let kick = |reply| Admin::Kick { group: Some(group), target, reason: None, hold: kept, reply };
            assert_eq!(world.shards.ask(0, kick).await.unwrap(), Ok(Some(vec![ada.id])));
        }
        assert!(matches!(next_event(&ada.inbox).await, Event::Removed { .. }));
        assert!(holds.is_empty());
    }
    world.join(&ada).await.unwrap();
}

/// Whoever asked for the end of the group did not wait for it.
#[tokio::test]
async fn a_name_that_was_closed_since_stays_closed_when_its_group_is_deleted() {
    let world = World::new(Config::default(), BOUNDS);
    let ada = session(1, "ada");
    world.join(&ada).await.unwrap();
    let closed = Hold::new(Some(world.group.clone()), None, HOUR);
    let closed = world.shards.holds().keep(closed).await.unwrap();
    assert!(world.delete(None).await.unwrap().is_some());
    assert!(matches!(next_event(&ada.inbox).await, Event::Removed { removal: Removal::Deleted, .. }));
    assert!(matches!(world.join(&ada).await, Err(Refusal::Closed { .. })));
    let group = world.group.clone();
    let ended = world.shards.ask(0, |reply| close(group, Term::of(&closed, HOUR), reply)).await.unwrap();
    assert_eq!(ended, Ok(Some(Ended { members: 0, messages: 0 })), "it is closed as its moderator wanted");
}
