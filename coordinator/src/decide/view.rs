//! What members and people are shown. Reads only.

use super::*;
use crate::{config::lease_ms, draft::Context};

/// The whole picture for a member that has just been heard.
pub fn heartbeat_view(g: &Group, m: &Member, h: &Heartbeat) -> HeartbeatView {
    let current = h.epoch > 0 && h.assignment_revision == m.assignment_revision;
    let assignment: Option<BTreeMap<Partition, FencingToken>> = (!current).then(|| m.assigned.iter().map(|(p, x)| (p.clone(), x.token)).collect());
    let topic_ids = assignment.iter().flat_map(BTreeMap::keys).filter_map(|p| g.topics.get(&p.topic).map(|t| (p.topic.clone(), t.id))).collect();
    HeartbeatView {
        member: h.member.clone(), member_epoch: m.epoch, group_epoch: g.epoch, member_state: m.state,
        heartbeat_interval_ms: interval_ms(g, m),
        session_timeout_ms: m.session_told_ms, lease_ms: lease_ms(m.session_told_ms), assignment_revision: m.assignment_revision,
        assignment, pending_revocation: m.pending.keys().cloned().collect(), taken: BTreeSet::new(), topic_ids,
        waited_at_most_ms: h.wait_ms.min(heartbeat::wait_max_ms(m.session_told_ms)),
    }
}

/// A member with something to do is asked back soon: that is what makes a hand-over fast.
pub fn interval_ms(g: &Group, m: &Member) -> u64 {
    let busy = m.state != MemberState::Stable || m.epoch != g.epoch;
    let short = g.config.pending_interval_ms;
    if busy && short > 0 { short.min(g.config.heartbeat_interval_ms) } else { g.config.heartbeat_interval_ms }
}

/// The group as a person wants to see it.
pub fn group_view(group: &GroupId, g: &Group, c: &Context) -> GroupView {
    let members = g.members.iter().map(|(id, m)| MemberView {
        member: id.clone(), instance_id: m.instance_id.clone(), incarnation: m.incarnation, member_epoch: m.epoch, member_state: m.state,
        assigned: m.assigned.keys().cloned().collect(), pending_revocation: m.pending.keys().cloned().collect(),
        target: g.target.get(id).into_iter().flatten().cloned().collect(), session_remaining_ms: (c.session_remaining)(id),
    });
    let holds: Vec<HoldView> = g.holds.iter().map(|(p, h)| HoldView { partition: p.clone(), member: h.member.clone(), remaining_ms: (c.hold_remaining)(p) }).collect();
    let mut partitions: BTreeMap<Partition, OwnerView> = g
        .topics.iter().flat_map(|(t, f)| (0..f.partitions).map(|p| Partition::new(t.clone(), p)))
        .map(|p| (p.clone(), OwnerView { partition: p, owner: None, token: None, state: OwnerState::Free })).collect();
    for (p, o) in &g.owners {
        partitions.insert(p.clone(), OwnerView { partition: p.clone(), owner: Some(o.member.clone()), token: Some(o.token), state: o.state });
    }
    GroupView {
        group: group.clone(), state: g.state(), group_epoch: g.epoch, target_epoch: g.target_epoch, assignor: g.assignor(c.limits.default_assignor()).into(),
        members: members.collect(), stuck_because: stuck(g, c), holds, partitions: partitions.into_values().collect(), quarantined: g.quarantined.clone(), classic: g.classic.clone(),
    }
}

/// Whom a reconciling group waits for: members that have not given back, and holds that still run.
fn stuck(g: &Group, c: &Context) -> Vec<StuckView> {
    let wanted: BTreeSet<&Partition> = g.members.iter().filter_map(|(id, m)| g.target.get(id).map(|t| (m, t))).flat_map(|(m, t)| t.iter().filter(|p| !m.assigned.contains_key(p))).collect();
    let now_ms = c.wall_us / 1000;
    let since = |id: &MemberId| g.history.named.get(id).map_or(0, |at_ms| now_ms.saturating_sub(*at_ms));
    wanted.into_iter().filter_map(|p| g.owners.get(p).map(|o| (p, o))).map(|(p, o)| {
        let at_most_ms = if o.state == OwnerState::Held { (c.hold_remaining)(p) } else { g.members.get(&o.member).map_or(0, |m| m.rebalance_timeout_ms + m.session_promised_ms) };
        StuckView { member: o.member.clone(), partition: p.clone(), since_ms: since(&o.member), at_most_ms }
    }).collect()
}
