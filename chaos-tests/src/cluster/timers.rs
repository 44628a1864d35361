//! Nobody is expired for what his leader could not do: after a time in which no node held a shard's lease, each member has its full promised
//! session again, counted from the first lease after it (`safety.md` 19). And nobody, ever, while a lease that it was told runs (`safety.md` 10, 11).

use super::plan::Ms;
use baton_coordinator::{ids::{GroupId, MemberId}, shard::Shard};
use baton_invariants::{Verdict, broken, timers};
use std::collections::BTreeMap;

/// So long without a lease counts: every leader notices that, at its next check or by the gap.
const GAP: Ms = 2_200;
/// The part of the session that is waited for: clocks drift, and looks are a few ms apart.
const PART: (u64, u64) = (85, 100);

/// So long after such a time batches from before it may still come.
const SOON: Ms = 500;

/// The newest time without a lease was from `before` to `since`. `in_flight`: nothing has been applied since; what comes first may have been decided before it.
#[derive(Default)]
struct Lease { last: Ms, before: Ms, since: Ms, in_flight: bool }
/// What is known of a member that is gone.
pub struct Gone {
    /// Something else than its session may have taken it.
    pub went: bool,
    /// Its last lease ended then.
    pub deadline: Ms,
}
/// What each member was promised, if nothing but its session can take it: one that owes a partition may run into its rebalance timeout.
#[derive(Default)]
struct Known { sequence: u64, members: BTreeMap<(GroupId, MemberId), Option<u64>> }

#[derive(Default)]
pub struct Timers { leases: BTreeMap<u16, Lease>, known: BTreeMap<u16, Known> }

impl Timers {
    /// A node holds the lease of a shard now.
    pub fn leased(&mut self, shard: u16, now: Ms) {
        let l = self.leases.entry(shard).or_default();
        if now > l.last + GAP { (l.before, l.since, l.in_flight) = (l.last, now, true); }
        l.last = now;
    }
    /// The applied state of a shard at some node. `gone` tells of a member that is not in it any more.
    pub fn look(&mut self, no: u16, shard: &Shard, now: Ms, gone: impl Fn(&GroupId, &MemberId) -> Gone) -> Verdict {
        let known = self.known.entry(no).or_default();
        let sequence = shard.state().sequence;
        if sequence <= known.sequence { return Ok(()); }
        let members = shard.state().groups.iter().flat_map(|(id, g)| g.members.iter().map(move |(m, x)| ((id.clone(), m.clone()), x.pending.is_empty().then_some(x.session_promised_ms)))).collect();
        let before = std::mem::replace(known, Known { sequence, members });
        let (gap_from, since, in_flight) = self.leases.get_mut(&no).map_or((0, 0, false), |l| (l.before, l.since, std::mem::take(&mut l.in_flight)));
        if in_flight && sequence == before.sequence + 1 { return Ok(()); }
        for ((group, member), promised) in before.members {
            let Some(promised) = promised else { continue };
            if known.members.contains_key(&(group.clone(), member.clone())) { continue; }
            let gone = gone(&group, &member);
            if !gone.went { timers::expired_past_its_lease(&group, &member, gone.deadline.saturating_sub(now))?; }
            // Silent for so long already: its end was on its way when the lease was lost, and comes with what else was decided since.
            let on_its_way = gone.deadline <= gap_from && now < since + SOON;
            if !gone.went && !on_its_way && now < since + promised * PART.0 / PART.1 {
                return broken("timers", format!("{member} of {group} was expired {} ms after a time without a leader, and was promised {promised} ms", now - since));
            }
        }
        Ok(())
    }
}
