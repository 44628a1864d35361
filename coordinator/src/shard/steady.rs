//! A heartbeat with nothing new in it, answered at once: no queue, no turn of the node's loop. By far most requests of a well cluster are such.

use super::{answers::{count, heard}, *};

impl Shard {
    /// The answer to a heartbeat that changes nothing and waits for nothing; its session runs again from `now`. None: it is to be `handle`d like any other request, and
    /// nothing was done. The caller must hold the lease of `leading` at the moment of this call, or at one after it.
    pub fn steady(&mut self, request: &Request, now: Now) -> Option<Response> {
        let Request { group, command, min_meta_revision, .. } = request;
        let (Command::Heartbeat(h), Some(l)) = (command, &mut self.leading) else { return None };
        // What is in flight, what waits, and what was replayed and not followed yet comes first (`safety.md` 1).
        let first = !l.queue.is_empty() || !l.touched.is_empty() || !l.armed.is_empty() || !l.lost.is_empty() || l.in_flight.as_ref().is_some_and(|f| f.groups.contains(group));
        if first && !seeded::on(221) || self.image.revision < *min_meta_revision {
            return None;
        }
        let g = self.state.groups.get(group)?;
        let m = g.members.get(&h.member)?;
        // A first look that is cheap. What is decided on a draft below says whether it is so.
        let as_it_is = h.epoch > 0 && h.epoch == m.epoch && m.state == MemberState::Stable && h.assignment_revision == m.assignment_revision && g.epoch == g.target_epoch && g.said.is_empty();
        if !as_it_is || h.wait_ms > 0 || h.says_a_wish() || (!l.held.is_empty() && l.held.contains_key(&(group.clone(), h.member.clone()))) {
            return None;
        }
        let context = Context {
            metadata: &self.image, limits: &self.limits, wall_us: now.wall_us, time_ms: l.time(now), may_assign: false, facts_seen: false, now_ms: now.mono_ms, regexes_at: None, resolving: false,
            session_remaining: &|_| 0, hold_remaining: &|_| 0,
        };
        let mut draft = Draft::of(Some(g.clone()), self.state.last_token, &context);
        let response = decide::request(&mut draft, group, command).ok()?;
        let nothing = draft.records.is_empty() && draft.effects.is_empty() && draft.resolve.is_none() && !draft.compute && !draft.assignor_failed;
        if !nothing {
            return None;
        }
        drop(draft);
        count(&mut self.stats, command);
        let result = Ok(response);
        heard(l, group, now.mono_ms, Some(g), Some(&result));
        result.ok()
    }
}
