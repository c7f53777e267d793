//! The checker accepts what a right server does, and catches each way to be wrong.

use tertulia_protocol::code::Code;
use tertulia_protocol::extended::LeftReason;

use super::*;
use crate::membership::Fault;
use crate::recording::{Dialect, End, Event, Joined, Lagged, Left, Posted, Rejected, Sent, Text};

mod lives;
mod simulation;

pub(super) const GROUP: &str = "Dogs";
pub(super) const EPOCH: u64 = 7;

pub(super) fn message(seq: u64, sender: &str, text: &str, id: Option<&str>) -> Arc<Message> {
    let id = id.map(Into::into);
    Arc::new(Message {
        group: GROUP.into(),
        seq,
        sender: sender.into(),
        text: text.into(),
        at: 100 + seq,
        id,
        removed: false,
        removes: None,
    })
}

fn join(after: Option<u64>, last: Option<u64>) -> Event {
    let epoch = after.map(|_| EPOCH);
    Event::Sent(Arc::new(Sent::Join { group: GROUP.into(), after, last, epoch }))
}

pub(super) fn joined(head: u64, recovered: bool) -> Event {
    Event::Joined(Arc::new(Joined { group: GROUP.into(), epoch: EPOCH, head, members: 1, recovered }))
}

fn leave() -> Event {
    Event::Sent(Arc::new(Sent::Leave { group: GROUP.into() }))
}

fn left() -> Event {
    Event::Left(Arc::new(Left { group: GROUP.into(), reason: LeftReason::Leave, detail: None }))
}

pub(super) fn post(text: &str, id: Option<&str>) -> Event {
    Event::Sent(Arc::new(Sent::Post { group: GROUP.into(), text: text.into(), id: id.map(Into::into) }))
}

pub(super) fn posted(id: Option<&str>, seq: u64) -> Event {
    let id = id.map(Into::into);
    Event::Posted(Arc::new(Posted { group: GROUP.into(), id, epoch: EPOCH, seq, at: 100 + seq }))
}

fn refused(request: &str, code: Code, id: Option<&str>) -> Event {
    Event::Rejected(Arc::new(Rejected {
        code,
        message: "no".into(),
        request: Some(request.into()),
        group: Some(GROUP.into()),
        id: id.map(Into::into),
        retry_after_ms: None,
        outcome_unknown: false,
    }))
}

fn lagged(first: u64, last: u64) -> Event {
    Event::Lagged(Arc::new(Lagged { group: GROUP.into(), first, last }))
}

fn text(text: &str) -> Event {
    Event::Text(Arc::new(Text { group: GROUP.into(), text: text.into() }))
}

pub(super) fn recording(who: &str, dialect: Dialect, events: Vec<Event>) -> Recording {
    let user = (dialect == Dialect::Extended).then(|| who.into());
    Recording { who: who.into(), user, dialect, events, end: End::Settled }
}

fn seen(messages: &[Arc<Message>]) -> impl Iterator<Item = Event> + '_ {
    messages.iter().map(|message| Event::Message(Arc::clone(message)))
}

/// A right evening: ada posts three with ids, a classic client posts one, bob only listens, another classic client too.
struct Evening {
    log: Vec<Arc<Message>>,
    ada: Recording,
    bob: Recording,
    guest: Recording,
    listener: Recording,
    rules: Rules,
}

impl Evening {
    fn new() -> Self {
        let log = vec![
            message(1, "ada", "one", Some("a1")),
            message(2, "guest-abc", "two", None),
            message(3, "ada", "three", Some("a2")),
            message(4, "ada", "four", Some("a3")),
        ];
        let mut ada = vec![join(None, None), joined(0, true)];
        ada.extend([post("one", Some("a1")), post("three", Some("a2")), post("four", Some("a3"))]);
        ada.extend([posted(Some("a1"), 1), posted(Some("a2"), 3), posted(Some("a3"), 4)]);
        ada.extend(seen(&log));
        let mut bob = vec![join(None, None), joined(1, true)];
        bob.extend(seen(&log[1..]));
        let guest = vec![join(None, None), post("two", None), text("two"), text("three"), text("four")];
        let listener = vec![join(None, None), text("one"), text("two"), text("three"), text("four")];
        Self {
            log,
            ada: recording("ada", Dialect::Extended, ada),
            bob: recording("bob", Dialect::Extended, bob),
            guest: recording("guest", Dialect::Classic, guest),
            listener: recording("listener", Dialect::Classic, listener),
            rules: Rules::default(),
        }
    }

    fn verdict(&self) -> Verdict {
        let recordings = [&self.ada, &self.bob, &self.guest, &self.listener].map(Clone::clone);
        let log = GroupLog { group: GROUP.into(), epoch: EPOCH, messages: self.log.clone() };
        check_by(self.rules, &recordings, &[log])
    }

    /// The violations, which must be of this promise only.
    fn broken(&self, promise: &str) -> Vec<Violation> {
        let violations = self.verdict().violations;
        assert!(!violations.is_empty(), "nothing was caught");
        for violation in &violations {
            assert_eq!(violation.promise(), promise, "{violation:?}");
        }
        violations
    }

    /// Where a message of `seq` stands in bob's recording.
    fn at_bob(&self, seq: u64) -> usize {
        let found = self.bob.events.iter().position(|event| matches!(event, Event::Message(it) if it.seq == seq));
        found.unwrap()
    }
}

const ORDER: &str = "P1 order";
const KEPT: &str = "P2 acknowledged means kept";
const LOSS: &str = "P3 no silent loss";
const ONCE: &str = "P4 no duplicates";

#[test]
fn a_right_evening_is_clean_and_counted() {
    let verdict = Evening::new().verdict();
    verdict.assert_clean();
    let facts =
        Facts { messages: 4, deliveries: 4 + 3 + 3 + 4, acknowledged: 3, refused: 0, joins: 4, ..Facts::default() };
    assert_eq!(verdict.facts, facts);
}

#[test]
fn two_messages_with_one_seq() {
    let mut it = Evening::new();
    let at = it.at_bob(3);
    it.bob.events[at] = Event::Message(message(3, "ada", "another", Some("a2")));
    assert!(matches!(it.broken(ORDER)[..], [Violation::Disagreement { .. }]));
}

#[test]
fn every_field_of_a_message_is_compared() {
    for change in [
        |it: &mut Message| it.sender = "eve".into(),
        |it: &mut Message| it.at += 1,
        |it: &mut Message| it.id = None,
        |it: &mut Message| it.text = "".into(),
    ] {
        let mut it = Evening::new();
        let at = it.at_bob(4);
        let mut changed = Message::clone(&it.log[3]);
        change(&mut changed);
        it.bob.events[at] = Event::Message(Arc::new(changed));
        assert!(matches!(it.broken(ORDER)[..], [Violation::Disagreement { .. }]));
    }
}

#[test]
fn reordered_for_one_member() {
    let mut it = Evening::new();
    let at = it.at_bob(2);
    it.bob.events.swap(at, at + 1);
    let violations = it.verdict().violations;
    let fault = |violation: &Violation| match violation {
        Violation::Unexpected { fault, .. } => fault.clone(),
        other => panic!("{other:?}"),
    };
    let faults: Vec<_> = violations.iter().map(fault).collect();
    assert_eq!(faults, [Fault::Gap { expected: 2 }, Fault::OutOfOrder]);
}

#[test]
fn reordered_for_one_classic_member() {
    let mut it = Evening::new();
    it.listener.events.swap(2, 3);
    assert!(matches!(it.broken(ORDER)[..], [Violation::NotARun { fitting: 1, .. }]));
}

#[test]
fn pipelined_posts_that_change_places() {
    let mut it = Evening::new();
    // Posted in the order a1, a3, a2, but kept as a1, a2, a3.
    it.ada.events.swap(3, 4);
    assert!(matches!(it.broken(ORDER)[..], [Violation::PostsSwapped { first: 4, later: 3, .. }]));
}

#[test]
fn a_log_with_a_hole_or_with_time_that_goes_back() {
    let mut it = Evening::new();
    let mut late = Message::clone(&it.log[1]);
    late.at = 1000;
    let late = Arc::new(late);
    let at = it.at_bob(2);
    it.log[1] = Arc::clone(&late);
    it.bob.events[at] = Event::Message(Arc::clone(&late));
    let in_ada = it.ada.events.iter().position(|event| matches!(event, Event::Message(it) if it.seq == 2)).unwrap();
    it.ada.events[in_ada] = Event::Message(late);
    assert_eq!(it.broken(ORDER), [Violation::TimeWentBack { group: GROUP.into(), seq: 3 }]);

    let mut it = Evening::new();
    it.log.remove(1);
    let violations = it.verdict().violations;
    assert!(violations.contains(&Violation::LogNotDense { group: GROUP.into(), previous: 1, next: 3 }));
}

#[test]
fn a_gap() {
    let mut it = Evening::new();
    let at = it.at_bob(3);
    it.bob.events.remove(at);
    assert!(matches!(it.broken(LOSS)[..], [Violation::Unexpected { seq: 4, fault: Fault::Gap { expected: 3 }, .. }]));
}

#[test]
fn a_gap_for_a_classic_member() {
    let mut it = Evening::new();
    it.listener.events.remove(2);
    assert!(matches!(it.broken(ORDER)[..], [Violation::NotARun { .. }]));
}

#[test]
fn a_missing_end() {
    let mut it = Evening::new();
    it.bob.events.pop();
    assert!(matches!(it.broken(LOSS)[..], [Violation::NotCaughtUp { next: 4, head: 4, .. }]));
    it.bob.end = End::Cut;
    it.verdict().assert_clean();

    let mut it = Evening::new();
    it.listener.events.pop();
    assert!(matches!(it.broken(LOSS)[..], [Violation::NotCaughtUp { next: 4, head: 4, .. }]));
    it.listener.end = End::Cut;
    it.verdict().assert_clean();
}

#[test]
fn a_missing_beginning() {
    let mut it = Evening::new();
    let at = it.at_bob(2);
    it.bob.events.remove(at);
    assert!(matches!(it.broken(LOSS)[..], [Violation::Unexpected { fault: Fault::Gap { expected: 2 }, .. }]));

    let mut it = Evening::new();
    // A classic join is not answered, but what one posts oneself comes after it.
    it.guest.events.retain(|event| *event != text("two"));
    assert!(matches!(it.broken(LOSS)[..], [Violation::OwnPostMissed { seq: 2, .. }]));
    it.guest.events.retain(|event| !matches!(event, Event::Text(_)));
    assert!(matches!(it.broken(LOSS)[..], [Violation::OwnPostMissed { seq: 2, .. }]));
}

#[test]
fn a_duplicate() {
    let mut it = Evening::new();
    let at = it.at_bob(3);
    it.bob.events.insert(at, it.bob.events[at].clone());
    assert!(matches!(it.broken(ONCE)[..], [Violation::Unexpected { seq: 3, fault: Fault::Repeated, .. }]));

    let mut it = Evening::new();
    it.listener.events.insert(2, text("two"));
    assert!(matches!(it.broken(ORDER)[..], [Violation::NotARun { .. }]));
}

#[test]
fn a_message_after_leaving_or_without_joining() {
    let mut it = Evening::new();
    let at = it.at_bob(4);
    it.bob.events.splice(at..at, [leave(), left()]);
    assert!(matches!(it.broken("membership")[..], [Violation::Unexpected { seq: 4, fault: Fault::Outside, .. }]));
    it.bob.events.remove(at + 2);
    it.verdict().assert_clean();

    let mut it = Evening::new();
    it.listener.events.remove(0);
    assert!(it.broken(ORDER).iter().all(|violation| matches!(violation, Violation::NotARun { .. })));
}

#[test]
fn a_member_that_is_put_out_unasked() {
    let mut it = Evening::new();
    it.bob.events.push(left());
    assert!(matches!(it.broken("membership")[..], [Violation::Unexpected { fault: Fault::LeftUnasked, .. }]));
    // A moderator needs nobody's leave, but then it was in.
    let kicked = || Event::Left(Arc::new(Left { group: GROUP.into(), reason: LeftReason::Kicked, detail: None }));
    it.bob.events.pop();
    it.bob.events.push(kicked());
    it.verdict().assert_clean();
    it.bob.events.push(kicked());
    assert!(matches!(it.broken("membership")[..], [Violation::Unexpected { fault: Fault::Outside, .. }]));
    // A leave that was refused is not answered by the next one's end.
    it.bob.events.pop();
    it.bob.events.pop();
    it.bob.events.extend([leave(), refused("Leave", Code::NotAMember, None), left()]);
    assert!(matches!(it.broken("membership")[..], [Violation::Unexpected { fault: Fault::LeftUnasked, .. }]));
}

#[test]
fn an_unanswered_join() {
    let mut it = Evening::new();
    it.bob.events.push(join(None, None));
    assert!(matches!(it.broken("membership")[..], [Violation::JoinUnanswered { .. }]));
    it.bob.end = End::Cut;
    it.verdict().assert_clean();
    it.bob.end = End::Settled;
    it.bob.events.push(refused("Join", Code::Kicked, None));
    it.verdict().assert_clean();
}

#[test]
fn a_lost_acknowledged_post() {
    let mut it = Evening::new();
    // The end of the log is gone; whoever saw it saw what is not kept.
    it.log.pop();
    let violations = it.broken(KEPT);
    assert!(violations.iter().any(|violation| matches!(violation, Violation::LostAck { seq: 4, .. })));
    assert!(violations.iter().any(|violation| matches!(violation, Violation::DeliveredNotKept { seq: 4, .. })));
}

#[test]
fn a_lost_beginning() {
    let mut it = Evening::new();
    it.log.drain(..2);
    let begins_with_3 = Violation::BeginningLost { group: GROUP.into(), first: 3 };
    let violations = it.broken(KEPT);
    assert!(violations.contains(&begins_with_3));
    for lost in [1, 2] {
        let is_it = |it: &Violation| matches!(it, Violation::DeliveredNotKept { seq, .. } if *seq == lost);
        assert!(violations.iter().any(is_it), "{violations:?}");
    }

    // Nobody saw it, but who posted it was told that it is stored.
    for member in [&mut it.ada, &mut it.bob] {
        member.events[1] = joined(2, true);
        member.events.retain(|event| !matches!(event, Event::Message(message) if message.seq < 3));
    }
    // It had posted before it joined.
    it.ada.events[..3].rotate_right(1);
    it.guest.events = vec![join(None, None), text("three"), text("four")];
    it.listener.events = it.guest.events.clone();
    let violations = it.broken(KEPT);
    assert!(violations.contains(&begins_with_3));
    assert!(violations.iter().any(|violation| matches!(violation, Violation::LostAck { seq: 1, .. })));

    // And nobody who is left was told of it: the log alone tells.
    it.ada.events.retain(|event| *event != posted(Some("a1"), 1) && *event != post("one", Some("a1")));
    assert_eq!(it.broken(KEPT), [begins_with_3]);

    // Retention or a purge may take it.
    it.rules.oldest_may_go = true;
    it.verdict().assert_clean();
}

#[test]
fn an_acknowledged_place_that_holds_another_message() {
    let mut it = Evening::new();
    let at = it.ada.events.iter().position(|event| *event == posted(Some("a2"), 3)).unwrap();
    it.ada.events[at] = posted(Some("a2"), 2);
    assert!(matches!(it.broken(KEPT)[..], [Violation::AckOfAnother { seq: 2, .. }]));
}

#[test]
fn an_acknowledgement_nobody_asked_for() {
    let mut it = Evening::new();
    it.ada.events.push(posted(Some("a2"), 3));
    assert!(matches!(it.broken(KEPT)[..], [Violation::AckNotAsked { seq: 3, .. }]));
}

#[test]
fn an_unanswered_post() {
    let mut it = Evening::new();
    it.ada.events.retain(|event| *event != posted(Some("a3"), 4));
    assert!(matches!(&it.broken(KEPT)[..], [Violation::Unanswered { post, .. }] if &**post == "a3"));
    it.ada.end = End::Cut;
    it.verdict().assert_clean();
}

#[test]
fn a_refused_post_that_is_kept_all_the_same() {
    let mut it = Evening::new();
    let at = it.ada.events.iter().position(|event| *event == posted(Some("a3"), 4)).unwrap();
    it.ada.events[at] = refused("Post", Code::Unavailable, Some("a3"));
    assert!(matches!(it.broken(KEPT)[..], [Violation::RefusedButKept { seq: 4, .. }]));
    let Event::Rejected(refusal) = &it.ada.events[at] else { unreachable!() };
    it.ada.events[at] = Event::Rejected(Arc::new(Rejected { outcome_unknown: true, ..(**refusal).clone() }));
    it.verdict().assert_clean();
}

#[test]
fn a_message_that_nobody_posted() {
    for sender in ["ada", "guest-xyz"] {
        let mut it = Evening::new();
        let ghost = message(5, sender, "boo", None);
        it.log.push(Arc::clone(&ghost));
        for member in [&mut it.ada, &mut it.bob] {
            member.events.push(Event::Message(Arc::clone(&ghost)));
        }
        for member in [&mut it.guest, &mut it.listener] {
            member.events.push(text("boo"));
        }
        assert!(matches!(&it.broken(KEPT)[..], [Violation::NeverPosted { message, .. }] if message.seq == 5));
    }
}

#[test]
fn a_classic_post_under_a_name_that_is_no_guests() {
    for (sender, id) in [("eve", None), ("ada", None), ("guest-user", None), ("guest-abc", Some("x"))] {
        let mut it = Evening::new();
        it.bob.user = Some("guest-user".into());
        // All agree that the classic client's post is of this sender.
        let changed = message(2, sender, "two", id);
        for member in [&mut it.ada, &mut it.bob] {
            for event in &mut member.events {
                if matches!(event, Event::Message(it) if it.seq == 2) {
                    *event = Event::Message(Arc::clone(&changed));
                }
            }
        }
        it.log[1] = changed;
        it.guest.end = End::Cut;
        assert!(matches!(&it.broken(KEPT)[..], [Violation::NeverPosted { .. }]), "{sender}");
    }
}

#[test]
fn a_lost_classic_post() {
    let mut it = Evening::new();
    it.guest.events.push(post("five", None));
    assert!(matches!(it.broken(KEPT)[..], [Violation::ClassicPostsLost { sent: 2, .. }]));
    it.guest.events.push(Event::Error("slow down".into()));
    it.verdict().assert_clean();
}

#[test]
fn an_id_stored_twice() {
    let mut it = Evening::new();
    let again = message(5, "ada", "four", Some("a3"));
    it.log.push(Arc::clone(&again));
    it.ada.events.extend([post("four", Some("a3")), posted(Some("a3"), 5), Event::Message(Arc::clone(&again))]);
    it.bob.events.push(Event::Message(again));
    it.guest.events.push(text("four"));
    it.listener.events.push(text("four"));
    let violations = it.broken(ONCE);
    assert!(violations.iter().any(|it| matches!(it, Violation::StoredTwice { first: 4, second: 5, .. })));
    assert!(violations.iter().any(|it| matches!(it, Violation::AcksDiffer { seqs: [4, 5], .. })));
}

#[test]
fn a_repeat_that_is_answered_with_the_first_place_is_right() {
    let mut it = Evening::new();
    it.ada.events.extend([post("four", Some("a3")), posted(Some("a3"), 4)]);
    it.verdict().assert_clean();
}

#[test]
fn acknowledgements_of_another_life() {
    let mut it = Evening::new();
    let old = Posted { group: GROUP.into(), id: Some("a0".into()), epoch: EPOCH - 1, seq: 9, at: 1 };
    it.ada.events.extend([post("zero", Some("a0")), Event::Posted(Arc::new(old))]);
    assert!(matches!(it.broken(KEPT)[..], [Violation::EpochEnded { .. }]));
    let log = GroupLog { group: GROUP.into(), epoch: EPOCH, messages: it.log.clone() };
    let rules = Rules { epochs_may_end: true, ..Rules::default() };
    check_by(rules, &[it.ada, it.guest], &[log]).assert_clean();
}

#[test]
fn told_losses_have_to_be_true_and_in_place() {
    // Retention has removed 1 and 2; a member that resumes after 0 is told so.
    let mut it = Evening::new();
    it.rules.oldest_may_go = true;
    it.log.drain(..2);
    it.guest.end = End::Cut;
    let carol = vec![join(Some(0), None), joined(4, false), lagged(1, 2)];
    let mut carol = recording("carol", Dialect::Extended, carol);
    carol.events.extend(seen(&it.log));
    it.bob = carol;
    it.verdict().assert_clean();
    assert_eq!(it.verdict().facts.told_losses, 1);

    it.bob.events[2] = lagged(1, 1);
    assert!(matches!(it.broken(LOSS)[..], [Violation::Unexpected { fault: Fault::Gap { expected: 2 }, .. }]));
    it.bob.events[2] = lagged(1, 3);
    it.bob.events.remove(3);
    assert!(matches!(it.broken(LOSS)[..], [Violation::UnfoundedLoss { first: 1, kept: 3, .. }]));
}

#[test]
fn a_recovery_denied_without_a_reason() {
    let mut it = Evening::new();
    it.bob.events[0] = join(Some(1), None);
    it.bob.events[1] = joined(4, false);
    assert!(matches!(it.broken(LOSS)[..], [Violation::UnfoundedLoss { first: 2, kept: 1, .. }]));
    it.bob.events[1] = joined(4, true);
    it.verdict().assert_clean();
    it.bob.events[1] = joined(5, true);
    assert!(matches!(it.broken(LOSS)[..], [Violation::HeadAhead { head: 5, newest: 4, .. }]));
}

#[test]
fn a_told_loss_of_a_classic_member_is_exact() {
    let mut it = Evening::new();
    let dropped = |count: u64| Event::Error(tertulia_protocol::classic::dropped(count, GROUP).into());
    it.listener.events = vec![join(None, None), text("one"), dropped(2), text("four")];
    it.verdict().assert_clean();
    it.listener.events[2] = dropped(1);
    assert!(matches!(it.broken(ORDER)[..], [Violation::NotARun { fitting: 1, .. }]));
    it.listener.events = vec![join(None, None), dropped(3), text("four")];
    it.verdict().assert_clean();
}

#[test]
fn a_classic_member_that_was_kicked_and_came_back() {
    let mut it = Evening::new();
    let kicked = Event::Error("You were kicked from group 'Dogs'.".into());
    it.listener.events = vec![join(None, None), text("one"), kicked, join(None, None), text("four")];
    it.verdict().assert_clean();
    it.listener.events.remove(3);
    assert!(matches!(it.broken(ORDER)[0], Violation::NotARun { .. }));
}

#[test]
fn a_classic_member_is_sent_out_of_the_group_that_is_named() {
    for told in ["You were kicked from group 'Dogs': enough", "Group 'Dogs' was closed.", "Group 'Dogs' was deleted: x"]
    {
        let mut it = Evening::new();
        it.listener.events.insert(2, Event::Error(told.into()));
        assert!(matches!(it.broken(ORDER)[0], Violation::NotARun { fitting: 0, .. }), "{told}");
    }
    // Its name begins as theirs does.
    for told in ["You were kicked from group 'Dogs 2'.", "You were kicked from group 'Dogs's'."] {
        let mut it = Evening::new();
        it.listener.events.insert(2, Event::Error(told.into()));
        it.verdict().assert_clean();
        it.listener.events.pop();
        assert!(matches!(it.broken(LOSS)[..], [Violation::NotCaughtUp { .. }]), "it is in all the same");
    }
}

#[test]
fn pages_of_history_agree_too() {
    use crate::recording::History;
    let mut it = Evening::new();
    let page = |messages: Vec<Arc<Message>>| {
        Event::History(Arc::new(History { group: GROUP.into(), epoch: EPOCH, messages, more: false }))
    };
    it.bob.events.push(page(it.log.clone()));
    it.verdict().assert_clean();
    it.bob.events.pop();
    it.bob.events.push(page(vec![Arc::clone(&it.log[0]), Arc::clone(&it.log[2])]));
    assert!(matches!(it.broken(ORDER)[..], [Violation::LogNotDense { previous: 1, next: 3, .. }]));
    it.bob.events.pop();
    it.bob.events.push(page(vec![message(1, "ada", "won", Some("a1"))]));
    assert!(matches!(it.broken(ORDER)[..], [Violation::Disagreement { .. }]));
}
