//! Judges the phases of classic groups: who is called, who divides, and what ends them; and that a revocation ends.

use super::*;
use baton_coordinator::{classic::{ClassicCommand, ClassicRecord, Due, Phase}, decide::TimerCommand, timers::Timer};

/// Timers of classic groups are looked at so often.
const TIMERS: Ms = 200;

/// A member that has something to give back: since when one leader has waited for that without a break, and the longest time that it was given.
#[derive(Default)]
pub(super) struct Revocations(BTreeMap<(GroupId, MemberId, AssignmentRevision), Waited>);
struct Waited { node: usize, led_at: Ms, since: Ms, timeout_ms: Ms }

/// A join phase that a leader has proposed.
pub(super) struct CallToJoin { node: usize, led_at: Ms, group: GroupId, at: Ms }

impl World {
    /// A leader proposes what begins or ends a phase of a group.
    pub(super) fn phase_proposed(&mut self, n: usize, group: &GroupId, record: &ClassicRecord) -> Verdict {
        match record {
            ClassicRecord::Preparing => self.calls_to_join.push(CallToJoin { node: n, led_at: self.replicas.nodes[n].led_at, group: group.clone(), at: self.now }),
            ClassicRecord::Generation { generation, assigning_member: Some(m), .. } => {
                let joins = |c: &Call| c.group == *group && matches!(&c.command, Command::Classic(ClassicCommand::Join(j)) if j.member == *m || j.member.as_str().is_empty());
                let here = self.taken_up.iter().any(|(at, call)| *at == n && joins(&self.calls[*call]));
                answers::divided_by_who_is_here(group, *generation, m, here)?;
            }
            _ => {}
        }
        Ok(())
    }
    /// After everything that the shards wanted done in this tick.
    pub(super) fn phases(&mut self) -> Verdict {
        if self.now.is_multiple_of(TIMERS) {
            self.phases_end()?;
            self.revocations_end()?;
        }
        if self.calls_to_join.is_empty() { Ok(()) } else { self.called_to_join() }
    }

    /// What a classic group waits for ends by a timer, and each of its members is waiting itself or has one. Of a leader with nothing in flight.
    fn phases_end(&mut self) -> Verdict {
        let Some(n) = self.replicas.leader.filter(|_| self.replicas.nothing_in_flight()) else { return Ok(()) };
        let shard = &self.replicas.nodes[n].shard;
        let groups: Vec<_> = shard.state().groups.iter().filter_map(|(id, g)| Some((id, g.classic.as_deref()?, shard.classic_soft(id)?))).collect();
        if groups.is_empty() { return Ok(()) }
        let armed: BTreeSet<Timer> = shard.due(u64::MAX).into_iter().map(|(_, t)| t).collect();
        for (id, c, soft) in groups {
            let runs = |due: Due| armed.contains(&Timer::Command(id.clone(), TimerCommand::Classic(due)));
            let ends = match c.phase {
                Phase::Preparing => runs(Due::Join),
                Phase::Completing => soft.all_synced() || runs(Due::Sync),
                Phase::Stable | Phase::Empty => true,
            };
            let untimed = c.members.keys().chain(soft.pending.keys()).find(|m| !soft.joining.contains_key(*m) && !soft.syncing.contains_key(*m) && !runs(Due::Session { member: (*m).clone() }));
            timers::phase_ends(id, c.phase, ends, untimed)?;
        }
        Ok(())
    }

    /// A leader that is well takes out whoever does not give back in time. A classic member is called to join instead.
    fn revocations_end(&mut self) -> Verdict {
        /// A proposal, and the look after it.
        const SLACK: Ms = 3_000;
        let before = std::mem::take(&mut self.revocations.0);
        let Some(n) = self.replicas.leader.filter(|_| self.replicas.healthy() && self.now >= self.replicas.slow_until) else { return Ok(()) };
        let node = &self.replicas.nodes[n];
        for (id, g) in &node.shard.state().groups {
            for (m, x) in g.members.iter().filter(|(_, x)| x.classic.is_none()) {
                let Some(asked) = x.pending.values().map(|p| p.revoked_at).min() else { continue };
                let key = (id.clone(), m.clone(), asked);
                let earlier = before.get(&key).filter(|w| (w.node, w.led_at) == (n, node.led_at));
                // Who stands still moves its timers on by that.
                let (since, timeout_ms) = earlier.map_or((self.now, x.rebalance_timeout_ms), |w| (w.since.max(node.paused), w.timeout_ms.max(x.rebalance_timeout_ms)));
                timers::revocation_ends(id, m, self.now.saturating_sub(since), timeout_ms, timeout_ms / 10 + SLACK)?;
                self.revocations.0.insert(key, Waited { node: n, led_at: node.led_at, since, timeout_ms });
            }
        }
        Ok(())
    }

    /// Whoever waited for an assignment when a join phase was proposed has been told, a while later: it would come too late otherwise.
    fn called_to_join(&mut self) -> Verdict {
        const WHILE: Ms = 3_000;
        let (now, replicas) = (self.now, &self.replicas);
        // Of a leader that has led without a break since.
        self.calls_to_join.retain(|c| replicas.healthy() && replicas.leader == Some(c.node) && replicas.nodes[c.node].led_at == c.led_at && now >= replicas.slow_until && now >= replicas.nodes[c.node].paused);
        for c in self.calls_to_join.extract_if(.., |c| now >= c.at + WHILE) {
            let waits = |x: &Call| x.group == c.group && matches!(x.command, Command::Classic(ClassicCommand::Sync(_))) && (c.led_at..c.at).contains(&x.arrived);
            let left = self.taken_up.iter().find(|(at, call)| *at == c.node && waits(&self.calls[*call]));
            answers::called_to_join(&c.group, WHILE, left.and_then(|(_, call)| self.calls[*call].client).map(|i| self.clients[i].name.as_str()))?;
        }
        Ok(())
    }
}
