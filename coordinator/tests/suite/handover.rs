//! Hand-over: revoke, confirm, assign; and the messages that must confirm nothing.
use baton_coordinator::{command::*, ids::*};
use crate::common::*;

/// The smallest story: one member has all, a second joins, gets nothing until the first has confirmed.
#[test]
fn revoked_partition_goes_to_next_owner_only_after_ack() {
    let mut w = World::new(&[("t", 4)]);
    let (mut a, mut b) = (Model::new("a", &["t"]), Model::new("b", &["t"]));
    w.join(&mut a);
    assert_eq!(a.owned.len(), 4);
    w.pass(200);
    let v = w.join(&mut b);
    assert_eq!((b.owned.len(), v.member_state), (0, MemberState::UnreleasedPartitions));
    let v = w.steady(&mut a);
    assert_eq!((v.member_state, v.pending_revocation.len()), (MemberState::UnrevokedPartitions, 2));
    assert_eq!(w.steady(&mut b).assignment.map(|x| x.len()).unwrap_or(0), 0, "not confirmed yet");
    w.steady(&mut a); // owns the two it keeps, at the new revision: that confirms
    w.steady(&mut b);
    assert_eq!((a.owned.len(), b.owned.len()), (2, 2));
    assert!(a.owned.is_disjoint(&b.owned));
    w.settle(&mut [&mut a, &mut b]);
}

#[test]
fn tokens_of_a_partition_only_grow_also_across_deletion_of_the_group() {
    let mut w = World::new(&[("t", 1)]);
    let mut last = 0;
    for round in 0..3 {
        let mut a = Model::new(&format!("a{round}"), &["t"]);
        w.join(&mut a);
        let token = w.member(&format!("a{round}")).assigned[&Partition::new("t", 0)].token.0;
        assert!(token > last, "{token} after {last}");
        last = token;
        assert_eq!(w.ask(a.leave_request()), Ok(Response::Left));
        assert_eq!(w.ask(Command::DeleteGroup { force: false }), Ok(Response::Deleted));
        w.pass(200);
    }
}

/// protocol-facts §12, trap of KIP-848: null means unchanged.
#[test]
fn a_null_owned_set_confirms_nothing() {
    let (mut w, mut a, _b) = half_way();
    let mut h = a.steady_request();
    h.owned = None;
    let v = w.beat(h).expect("accepted");
    assert_eq!((v.member_state, v.pending_revocation.len()), (MemberState::UnrevokedPartitions, 2));
    a.take(&v);
    assert_eq!(w.steady(&mut a).pending_revocation.len(), 0, "the owned set confirms");
}

/// `safety.md` 8: a duplicate of a heartbeat that was sent before the revocation was asked for.
#[test]
fn an_older_revision_confirms_nothing_even_if_it_owns_nothing() {
    let (mut w, a, _b) = half_way();
    let mut h = a.steady_request();
    h.owned = Some(Default::default());
    h.assignment_revision = AssignmentRevision(a.revision.0 - 1);
    let v = w.beat(h).expect("accepted");
    assert_eq!(v.pending_revocation.len(), 2);
}

#[test]
fn a_revision_above_the_members_own_is_refused() {
    let (mut w, a, _b) = half_way();
    let mut h = a.steady_request();
    h.assignment_revision = AssignmentRevision(a.revision.0 + 1);
    assert!(matches!(w.beat(h), Err(GroupError::Invalid { field, .. }) if field == "assignment_revision"));
}

/// `safety.md` 8: minutes late, a copy of the member's first join must not free what it uses.
#[test]
fn a_late_copy_of_a_join_changes_nothing() {
    let mut w = World::new(&[("t", 4)]);
    let mut a = Model::new("a", &["t"]);
    let copy = a.join_request();
    w.join(&mut a);
    let before = w.group().clone();
    let v = w.beat(copy).expect("answered");
    assert_eq!(v.assignment.map(|x| x.len()), Some(4), "the retry gets the full state");
    assert_eq!(*w.group(), before);
}

#[test]
fn a_late_copy_of_a_leave_is_stale_and_a_late_join_makes_no_ghost() {
    let mut w = World::new(&[("t", 4)]);
    let mut a = Model::new("a", &["t"]);
    let early_leave = a.leave_request();
    let join = a.join_request();
    w.join(&mut a);
    assert_eq!(w.ask(early_leave), Err(GroupError::StaleLeave));
    assert_eq!(w.ask(a.leave_request()), Ok(Response::Left));
    assert_eq!(w.ask(a.leave_request()), Ok(Response::Left), "a retry of the leave is answered as carried out");
    assert_eq!(w.beat(join), Err(GroupError::FencedIncarnation));
    assert!(w.group().members.is_empty() && w.group().owners.is_empty());
}

/// `safety.md` 8: what was granted after the revision the leave carries may be in use: held, not free.
#[test]
fn a_leave_that_does_not_know_the_newest_grant_leaves_a_hold() {
    let (mut w, mut a, mut b) = half_way();
    w.steady(&mut a);
    let before_grant = b.leave_request();
    w.beat(b.steady_request()).expect("grants two partitions, the answer is lost");
    assert_eq!(w.ask(before_grant), Ok(Response::Left));
    assert_eq!(w.group().holds.len(), 2);
    assert!(matches!(w.ask(Command::RemoveMember { member: "zz".into() }), Err(GroupError::UnknownMember { .. })));
    w.pass(14_000);
    w.steady(&mut a);
    w.steady(&mut a);
    assert_eq!(a.owned.len(), 2, "one full session first");
    w.pass(2_000);
    w.steady(&mut a);
    w.steady(&mut a);
    assert_eq!(a.owned.len(), 4);
    b.owned.clear();
}

/// KAFKA-16147: a partition that is pending and given back must stay in the owner map, and the old acknowledgement must free nothing.
#[test]
fn a_pending_partition_given_back_is_a_new_grant_and_keeps_its_owner() {
    let (mut w, mut a, b) = half_way();
    let ack = a.steady_request();
    let old_token = w.member("a").pending.values().next().map(|p| p.grant.token);
    assert_eq!(w.ask(b.leave_request()), Ok(Response::Left));
    w.pass(200);
    let mut other = a.steady_request();
    other.owned = None;
    let v = w.beat(other).expect("accepted");
    assert_eq!((v.pending_revocation.len(), w.member("a").assigned.len()), (0, 4));
    assert!(w.member("a").assigned.values().any(|x| Some(x.token) > old_token));
    assert_eq!(w.group().owners.len(), 4);
    w.beat(ack).expect("accepted");
    assert_eq!((w.member("a").assigned.len(), w.group().owners.len()), (4, 4), "the old acknowledgement frees nothing");
    a.take(&v);
    assert_eq!(a.owned.len(), 4);
}
