//! Decides one command on the draft of one group: reads state, writes records. Leader only, pure.
//! Heartbeats are in `decide/heartbeat.rs`; here is the rest of a group's life.

mod consumer;
mod convert;
mod heartbeat;
mod mixed;
pub(crate) mod offsets;
mod subscription;
mod view;

pub use mixed::CONSUMER;
pub use offsets::commit_without_token;
pub use view::{group_view, heartbeat_view};

use crate::{assign, classic, command::*, draft::Draft, ids::*, invariants, record::*, reconcile, seeded, state::*, work};
use std::collections::{BTreeMap, BTreeSet};

/// What only the leader's timers ask for; each is checked again against the state it meets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimerCommand {
    /// The member's session has passed without an accepted heartbeat.
    ExpireSession { member: MemberId },
    /// The member did not confirm, within its rebalance timeout, what was asked back at this revision.
    ExpireRebalance { member: MemberId, revoked_at: AssignmentRevision },
    /// A hold has lasted one promised session.
    ReleaseHold { partition: Partition, token: FencingToken },
    /// One old session has passed since the shorter one was told.
    LowerSession { member: MemberId, told_ms: u64 },
    /// The assignment interval is over, or the metadata changed.
    Refresh,
    /// Of a classic group.
    Classic(classic::Due),
    /// Offsets have been kept long enough, or their topic is gone; or nothing is left of the group.
    Sweep,
}

/// Decides a request. Reads give their answer without records.
pub fn request(draft: &mut Draft, group: &GroupId, command: &Command) -> Result<Response, GroupError> {
    if let Some(reason) = draft.group().and_then(|g| g.quarantined.clone())
        && !matches!(command, Command::Describe | Command::FetchOffsets { .. } | Command::History { .. } | Command::Repair)
    {
        return Err(GroupError::Quarantined { reason });
    }
    match command {
        Command::Heartbeat(h) => heartbeat::heartbeat(draft, group, h),
        Command::Leave(l) => leave(draft, group, l),
        Command::Consumer(h) => consumer::heartbeat(draft, group, h),
        Command::KafkaCommit(c) => offsets::kafka_commit(draft, group, c),
        Command::KafkaFetch(f) => offsets::kafka_fetch(draft, group, f),
        Command::RemoveMember { member } => remove(draft, group, member),
        Command::Commit(c) => offsets::commit(draft, group, c),
        Command::FetchOffsets { topic, partition } => offsets::fetch(draft, group, topic.as_ref(), *partition),
        Command::DeleteOffsets { topic } => offsets::delete(draft, group, topic),
        Command::DeleteGroup { force } => delete(draft, group, *force),
        Command::Repair => repair(draft, group),
        Command::Describe => Ok(Response::Group(Box::new(group_view(group, existing(draft, group)?, draft.context)))),
        // Of a member of a consumer group: in a classic one the shard itself takes turns, since it knows who waits.
        Command::Classic(c) => mixed::request(draft, group, c),
        Command::History { .. } => existing(draft, group).map(|g| Response::HistoryAt { first: g.history.first, next: g.history.next }),
    }
}

/// Carries out a timer's command, if the state still calls for it.
pub fn timer(draft: &mut Draft, group: &GroupId, command: &TimerCommand) {
    let Some(g) = draft.group() else { return };
    if g.quarantined.is_some() {
        return;
    }
    match command {
        TimerCommand::ExpireSession { member } => {
            let Some(m) = g.members.get(member) else { return };
            let (freed, cause) = (holdings(m), format!("{member} was not heard of for its session of {} ms", m.session_promised_ms));
            take_out(draft, group, member, Parting { freed, held: Vec::new(), fence: false }, "expired", cause);
        }
        TimerCommand::ExpireRebalance { member, revoked_at } => {
            let Some(m) = g.members.get(member).filter(|m| m.epoch != AWAY) else { return };
            if !m.pending.values().any(|p| p.revoked_at == *revoked_at) && !seeded::on(17) {
                return;
            }
            // It heartbeats, so it may still be working: refused from now on, its partitions held (`safety.md` 12).
            let cause = format!("{member} did not give back its partitions within {} ms", m.rebalance_timeout_ms);
            let (freed, held) = freed_or_held(m);
            take_out(draft, group, member, Parting { freed, held, fence: false }, "fenced", cause);
        }
        TimerCommand::ReleaseHold { partition, token } => {
            if g.holds.get(partition).is_some_and(|h| h.token == *token) {
                release_holds(draft, vec![(partition.clone(), *token)], "one full session has passed since the removal");
                convert::downgrade(draft, Some("the last partition that was held for a consumer member is free"));
            }
        }
        TimerCommand::LowerSession { member, told_ms } => {
            if g.members.get(member).is_some_and(|m| m.session_told_ms == *told_ms && m.session_promised_ms > *told_ms) {
                draft.put(Record::Session { member: member.clone(), told_ms: *told_ms, promised_ms: *told_ms });
            }
        }
        TimerCommand::Classic(due) => mixed::timed_out(draft, group, due),
        TimerCommand::Refresh => {
            let (looked_at, wanted) = (subscription::LookedAt::of(draft), subscription::wanted_so_far(draft));
            refresh_metadata(draft, group, Bump::If(&wanted));
            retarget(draft);
            // Kafka's members look at their own heartbeats.
            if draft.group().is_some_and(Group::has_conforming) {
                subscription::look(draft, &looked_at, false);
            }
        }
        TimerCommand::Sweep => offsets::sweep(draft, group),
    }
}

/// The group, or the error that names it.
fn existing<'a>(draft: &'a Draft, group: &GroupId) -> Result<&'a Group, GroupError> { draft.group().ok_or_else(|| GroupError::UnknownGroup { group: group.clone() }) }
/// What becomes of the partitions of a member that is removed while it may still work: held, unless it never stops by a deadline anyway (`safety.md` 12).
fn freed_or_held(m: &Member) -> (Vec<Partition>, Vec<Partition>) { if m.conforming() { (Vec::new(), holdings(m)) } else { (holdings(m), Vec::new()) } }
fn holdings(m: &Member) -> Vec<Partition> { m.holdings().map(|(p, ..)| p.clone()).collect() }

/// A member's own wish to go. Frees only what it names: what was granted after the revision it carries is held (`safety.md` 8).
fn leave(draft: &mut Draft, group: &GroupId, l: &Leave) -> Result<Response, GroupError> {
    let g = existing(draft, group)?;
    let Some(m) = g.members.get(&l.member) else {
        let mine: Vec<(Partition, FencingToken)> =
            g.holds_of(&l.member, l.incarnation).filter(|(_, h)| h.granted_at <= l.assignment_revision).map(|(p, h)| (p.clone(), h.token)).collect();
        if !mine.is_empty() {
            release_holds(draft, mine, "the removed member says that it has stopped");
            retarget(draft);
            return Ok(Response::Left);
        }
        // A copy of a leave that was carried out.
        return if g.is_fenced(&l.member, l.incarnation) { Ok(Response::Left) } else { Err(GroupError::UnknownMember { member: l.member.clone() }) };
    };
    if m.incarnation != l.incarnation {
        return Err(GroupError::FencedIncarnation);
    }
    if l.assignment_revision < m.joined_at {
        return Err(GroupError::StaleLeave);
    }
    if l.is_static {
        return leave_for_a_while(draft, l);
    }
    if l.assignment_revision > m.assignment_revision {
        return Err(ahead(m.assignment_revision));
    }
    let (freed, held) = m.holdings().partition::<Vec<_>, _>(|(.., granted_at)| *granted_at <= l.assignment_revision);
    let names = |v: Vec<(&Partition, FencingToken, AssignmentRevision)>| v.into_iter().map(|(p, ..)| p.clone()).collect::<Vec<_>>();
    let (freed, held) = (names(freed), names(held));
    take_out(draft, group, &l.member, Parting { freed, held, fence: true }, "left", format!("{} left by its own wish", l.member));
    Ok(Response::Left)
}

/// A static member that will be back keeps its place for one session. It must know of everything that it was granted: then nobody uses its partitions.
fn leave_for_a_while(draft: &mut Draft, l: &Leave) -> Result<Response, GroupError> {
    let Some(m) = draft.group().and_then(|g| g.members.get(&l.member)) else { return Err(GroupError::UnknownMember { member: l.member.clone() }) };
    if m.instance_id.is_none() {
        return Err(GroupError::Invalid { field: "static".into(), detail: "only a member with an instance_id keeps its place".into() });
    }
    if m.epoch == AWAY {
        return Ok(Response::Left);
    }
    match l.assignment_revision.cmp(&m.assignment_revision) {
        std::cmp::Ordering::Less => return Err(GroupError::StaleLeave),
        std::cmp::Ordering::Greater => return Err(ahead(m.assignment_revision)),
        std::cmp::Ordering::Equal => {}
    }
    draft.put(Record::Away { member: l.member.clone() });
    draft.note("away", format!("{} left for a while and keeps its place", l.member), Some(&l.member), Vec::new());
    Ok(Response::Left)
}

/// An administrator's removal: the member may still be working, so its partitions are held.
fn remove(draft: &mut Draft, group: &GroupId, member: &MemberId) -> Result<Response, GroupError> {
    let m = existing(draft, group)?.members.get(member).ok_or_else(|| GroupError::UnknownMember { member: member.clone() })?;
    let (freed, held) = if seeded::on(56) { (holdings(m), Vec::new()) } else { freed_or_held(m) };
    take_out(draft, group, member, Parting { freed, held, fence: false }, "removed", format!("an administrator removed {member}"));
    Ok(Response::Removed)
}

/// What becomes of the partitions of a member that is taken out, and whether its incarnation is fenced for good.
struct Parting { freed: Vec<Partition>, held: Vec<Partition>, fence: bool }

/// Removes a member and says why; what changed meanwhile in the topics is part of the same bump. The next target is computed at once if somebody waits to hear of it, else at the next heartbeat.
fn take_out(draft: &mut Draft, group: &GroupId, member: &MemberId, parting: Parting, kind: &str, cause: String) {
    let consumer = put_out(draft, member, parting);
    go_on_without(draft, group, member, consumer, kind, cause);
}
/// Takes out one member. True: it spoke the consumer protocol.
fn put_out(draft: &mut Draft, member: &MemberId, parting: Parting) -> bool {
    let (regex, consumer) = draft.group().and_then(|g| g.members.get(member)).map_or((None, false), |m| (m.regex.clone(), m.classic.is_none()));
    let Parting { freed, held, fence } = parting;
    draft.put(Record::Removed { member: member.clone(), freed, held, fence });
    subscription::forget_regex(draft, regex.as_ref());
    consumer
}
/// What follows for the group, once for all that were taken out; `consumer`: one of them spoke the consumer protocol.
fn go_on_without(draft: &mut Draft, group: &GroupId, first: &MemberId, consumer: bool, kind: &str, cause: String) {
    if consumer && convert::downgrade(draft, Some(&cause)) {
        return;
    }
    draft.bump(kind, cause, Some(first));
    refresh_metadata(draft, group, Bump::Done);
    if draft.group().is_some_and(Group::has_conforming) {
        retarget(draft);
    }
}

fn release_holds(draft: &mut Draft, holds: Vec<(Partition, FencingToken)>, why: &str) {
    let count = holds.len();
    for (partition, token) in holds {
        draft.put(Record::HoldReleased { partition, token });
    }
    draft.note("hold-released", format!("{count} held partitions are free: {why}"), None, Vec::new());
}

/// Deletes an empty group. Held partitions keep it; `force` gives up one-believer for them.
fn delete(draft: &mut Draft, group: &GroupId, force: bool) -> Result<Response, GroupError> {
    let g = existing(draft, group)?;
    if g.members_count() > 0 {
        return Err(GroupError::NonEmptyGroup { members: g.members_count() as u64 });
    }
    if !g.holds.is_empty() && !force && !seeded::on(25) {
        let remaining_ms = g.holds.keys().map(|p| (draft.context.hold_remaining)(p)).max().unwrap_or(0);
        return Err(GroupError::GroupDraining { holds: g.holds.len() as u64, remaining_ms });
    }
    draft.put(Record::Deleted);
    Ok(Response::Deleted)
}

/// Lifts a quarantine. The batch that broke the rules was undone, so the state is the last good one; it is looked at once more all the same.
fn repair(draft: &mut Draft, group: &GroupId) -> Result<Response, GroupError> {
    let g = existing(draft, group)?;
    let Some(reason) = g.quarantined.clone() else { return Err(GroupError::NotQuarantined) };
    if let Some(broken) = invariants::check(g).first() {
        return Err(GroupError::Quarantined { reason: format!("its state is broken ({broken}): delete the group with force, or report this") });
    }
    draft.put(Record::Repaired);
    draft.note("repaired", format!("the quarantine was lifted; its reason was: {reason}"), None, Vec::new());
    Ok(Response::Repaired)
}

/// Whether a change of the facts bumps the epoch, or has just been counted as a change of subscription.
#[derive(Clone, Copy)]
enum Bump<'a> {
    /// If topics changed that somebody subscribed to when the command began.
    If(&'a BTreeSet<TopicName>),
    Done,
}

/// Whether a member that subscribes to `topics`, added to a group, changes nothing in what the group knows of topics and settings: those that it knows are as they were, so are
/// the new ones, and none was made since it last looked.
fn knows_all(draft: &Draft, group: &GroupId, topics: &BTreeSet<TopicName>) -> bool {
    let image = draft.context.metadata;
    draft.group().is_some_and(|g| {
        image.topics_made_at <= g.metadata_revision && g.config == image.config_of(group) && g.topics.iter().all(|(t, f)| image.topics.get(t) == Some(f))
            && topics.iter().all(|t| image.topics.get(t) == g.topics.get(t))
    })
}

/// What the image knows of these topics.
fn facts(image: &crate::metadata::Metadata, topics: &BTreeSet<TopicName>) -> BTreeMap<TopicName, crate::metadata::TopicFacts> {
    topics.iter().filter_map(|t| image.topics.get(t).map(|f| (t.clone(), *f))).collect()
}

/// Takes over newer facts of the subscribed topics. A topic that went, or was made again under its name, is asked back from whoever
/// has it, in the same batch (`safety.md` 13), and its offsets go.
fn refresh_metadata(draft: &mut Draft, group: &GroupId, bump: Bump<'_>) {
    let image = draft.context.metadata;
    // An older image than the group has seen: a newer one brings the refresh (`safety.md` 23).
    if (draft.image_is_behind() && !seeded::on(202)) || (draft.context.facts_seen && matches!(bump, Bump::If(_))) {
        return;
    }
    let config = image.config_of(group);
    if draft.group().is_some_and(|g| g.config != config) {
        draft.put(Record::Config { config });
    }
    let Some(g) = draft.group() else { return };
    let wanted: BTreeSet<TopicName> = g.subscribed_topics();
    let mut topics = facts(image, &wanted);
    if topics == g.topics {
        return;
    }
    let changed = match bump {
        Bump::If(before) => before.iter().any(|t| g.topics.get(t) != image.topics.get(t)),
        Bump::Done => true,
    };
    let gone: Vec<TopicName> = g.topics.iter().filter(|(t, f)| image.topics.get(*t).is_none_or(|n| (n.id != f.id && !seeded::on(20)) || seeded::on(255))).map(|(t, _)| t.clone()).collect();
    // Nobody has waited for a change: what was left behind is counted with the next one (Kafka's hash of the topics); but what is gone is asked back in any case.
    if !changed {
        if gone.is_empty() {
            return;
        }
        topics = g.topics.iter().filter(|(t, _)| !gone.contains(t)).map(|(t, f)| (t.clone(), *f)).collect();
    }
    // Whoever stops by a deadline is asked at once; a Kafka member at its own next heartbeat: its grants name the topic that they were for.
    let mut revocations = Vec::new();
    for (id, m) in g.members.iter().filter(|(_, m)| m.conforming() && m.epoch != AWAY) {
        let revoked: Vec<Partition> = m.assigned.keys().filter(|p| gone.contains(&p.topic)).cloned().collect();
        if !revoked.is_empty() && !seeded::on(245) {
            revocations.push((id.clone(), revoked));
        }
    }
    let target_epoch = g.target_epoch;
    draft.put(Record::Topics { revision: image.revision, topics });
    offsets::forget_gone(draft);
    for (id, revoked) in revocations {
        let revision = AssignmentRevision(draft.draw(0));
        let Some(m) = draft.group().and_then(|g| g.members.get(&id)) else { continue };
        let step = Reconciled {
            // Epoch 0: it has come back in this very draft.
            member: id.clone(), epoch: if m.epoch == 0 { target_epoch } else { m.epoch }, previous_epoch: m.previous_epoch, state: MemberState::UnrevokedPartitions, revision, released: Vec::new(), revoked, granted: Vec::new(),
        };
        draft.put(Record::Reconciled(Box::new(step)));
    }
    if matches!(bump, Bump::If(_)) && changed {
        draft.bump("metadata", format!("the subscribed topics changed at meta revision {}", image.revision), None);
    }
}

/// Computes a new target when the group epoch has gone past the old one's, unless the last is younger than the assignment interval.
fn retarget(draft: &mut Draft) {
    compute_target(draft);
    // A group that was converted before its first generation, and whose target has to wait: nobody is ever told epoch 0.
    if let Some(epoch) = draft.group().filter(|g| g.target_epoch == 0 && !g.members.is_empty()).map(|g| g.epoch) {
        draft.put(Record::Target { epoch, assignment: BTreeMap::new() });
        draft.bump("converted", "a group without members and without a generation yet begins: its first target is to come".into(), None);
    }
}

fn compute_target(draft: &mut Draft) {
    let Some(g) = draft.group() else { return };
    if g.epoch == g.target_epoch || g.members.is_empty() || !draft.context.may_assign {
        return;
    }
    let limits = draft.context.limits;
    if g.members.len() + g.topics.values().map(|t| t.partitions as usize).sum::<usize>() >= limits.offload_from {
        draft.compute = true;
        return;
    }
    let epoch = g.epoch;
    match work::assign(g.assignor(limits.default_assignor()), &assign::Input::of(g, &g.topics, draft.context.metadata)) {
        // Seeded bug 18: what was computed for an earlier epoch, late.
        Ok(_) if !g.target.is_empty() && seeded::on(18) => {
            let assignment = g.target.iter().filter(|(m, _)| g.members.contains_key(*m)).map(|(m, t)| (m.clone(), t.iter().cloned().collect())).collect();
            draft.put(Record::Target { epoch, assignment });
        }
        Ok(assignment) => draft.put(Record::Target { epoch, assignment }),
        // The old target stays in force; it is tried again when the assignment interval is over.
        Err(_) => draft.assignor_failed = true,
    }
}

/// The result of work that was done beside the shard, decided against the group as it is by now.
pub fn done(draft: &mut Draft, group: &GroupId, found: &work::Found) {
    let Some(g) = draft.group() else { return };
    if g.quarantined.is_some() {
        return;
    }
    match found {
        // Of an epoch that has been superseded meanwhile it is still newer than what is there. Who left since is left out; reconciliation looks at subscriptions.
        work::Found::Target { epoch, assignment, instances } => {
            let epoch = if seeded::on(49) { &g.epoch } else { epoch };
            if *epoch > g.target_epoch && *epoch <= g.epoch && !g.members.is_empty() {
                // A static member that came back under another id meanwhile has the place, and so the part, of the one before: its return bumps no epoch.
                let now = |m: &MemberId| if g.members.contains_key(m) { Some(m.clone()) } else { instances.get(m).and_then(|i| g.instances.get(i)).filter(|n| !assignment.contains_key(*n)).cloned() };
                let assignment = assignment.iter().filter_map(|(m, ps)| now(m).map(|m| (m, ps.clone()))).collect();
                draft.put(Record::Target { epoch: *epoch, assignment });
            }
        }
        // Found on an older image than the group has seen by now: it is looked at again.
        work::Found::Topics { revision, .. } if *revision < g.metadata_revision && !seeded::on(45) => {}
        work::Found::Topics { revision, topics } => subscription::resolved(draft, group, if seeded::on(45) { draft.context.metadata.revision } else { *revision }, topics),
    }
}

/// A revision that this member was never given.
fn ahead(own: AssignmentRevision) -> GroupError {
    GroupError::Invalid { field: "assignment_revision".into(), detail: format!("it is above the member's own, {}: send the last one that an answer gave", own.0) }
}

