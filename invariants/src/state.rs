//! Applied state and the records that made it. Two ways to look: after every entry, with its records (`applied`), or now and then at the state of some
//! node (`sampled`); then what only records tell is not judged.

use crate::{Broken, Place, Verdict, belief, broken, causes::Causes, rules::{Rules, of_topics_that_are}, sink::Sink};
use baton_coordinator::{classic::ClassicRecord, command::*, ids::*, record::*, replay::HistoryChange, shard::Shard, state::*};
use std::collections::{BTreeMap, BTreeSet};

/// What is remembered from entry to entry.
#[derive(Default)]
pub struct Judge {
    /// (node, shard) → entries applied at the last look.
    looked: BTreeMap<(u64, u16), u64>,
    /// Groups that were ever seen.
    looked_at: BTreeSet<(u16, GroupId)>,
    /// A group that is poisoned on purpose: it, and no other, may be quarantined.
    pub poisoned: Option<GroupId>,
    /// How many history records a group may keep; None: not judged.
    history_max: Option<u64>,
    /// (shard, applied index) → the digest of the replica that was seen there first.
    digests: BTreeMap<(u16, u64), u64>,
    /// Applied index → (sequence, last token) of the replica that came there first.
    came: BTreeMap<usize, (u64, u64)>,
    /// Applied index → what the first replica did to histories.
    histories: BTreeMap<usize, Vec<HistoryChange>>,
    /// The highest token granted so far, never forgotten.
    tokens: BTreeMap<Place, u64>,
    /// Every grant that was committed, by its token.
    granted: BTreeSet<(u64, GroupId, Partition)>,
    /// Group and target epoch, and at which applied index they were seen: replicas may be looked at in any order.
    epochs: BTreeMap<GroupId, (u64, Epoch, Epoch)>,
    /// The metadata revision that a group has recorded, and the applied index: the same.
    images: BTreeMap<GroupId, (u64, u64)>,
    /// The process that is a member now, and those that left or were replaced.
    incarnations: BTreeMap<(GroupId, MemberId), Incarnation>,
    gone: BTreeSet<(GroupId, MemberId, Incarnation)>,
    /// Every process that has been a member since the group was made.
    been: BTreeSet<(GroupId, Incarnation)>,
    /// (shard, group) → the applied index at which a sampled state did not have it: what it was before says nothing of what it is after.
    absent: BTreeMap<(u16, GroupId), u64>,
    /// Which member was ever granted what: nothing else may be told.
    told: BTreeSet<(GroupId, MemberId, Partition)>,
    /// Entries that took effect since somebody took them from here.
    pub fresh: Vec<usize>,
    /// The commit that the state must not go below: token, seq, and the offset each such pair stands for.
    acked: BTreeMap<Place, (u64, u64, i64)>,
    seen: BTreeMap<Place, (u64, u64)>,
    /// Every commit that was carried out (each offset is said once).
    log: BTreeSet<(GroupId, Partition, i64)>,
    /// How often the offsets of a group or topic were deleted: an answer that was on its way meanwhile proves nothing.
    pub deletions: BTreeMap<GroupId, u64>,
    /// Held partitions given up by force: one-believer is waived for these tokens.
    pub waived: BTreeSet<(GroupId, Partition, u64)>,
    sinks: Sink<Place>,
    causes: Causes,
    rules: Rules,
}

/// Every so many entries the whole state is looked at.
const EVERYTHING: usize = 8;

impl Judge {
    /// Judges the bound of history too.
    pub fn bounded(history_max: usize) -> Judge { Judge { history_max: Some(history_max as u64), ..Judge::default() } }

    /// The state of a shard at some replica, which has applied so much. Replicas that have applied as many entries are equal. True: nobody had come so far.
    fn first_at(&mut self, no: u16, index: u64, shard: &Shard) -> Result<bool, Broken> {
        let digest = shard.digest();
        match self.digests.insert((no, index), digest) {
            Some(d) if d == digest => Ok(false),
            Some(_) => broken("replicas-agree", format!("shard {no}: two replicas differ after entry {index}")),
            None => Ok(true),
        }
    }

    /// Now and then: the state of a shard at a node.
    pub fn sampled(&mut self, node: u64, no: u16, shard: &Shard) -> Verdict {
        if self.poisoned.is_none() { nothing_refused(node, shard)?; }
        let index = shard.state().sequence;
        if self.looked.insert((node, no), index) == Some(index) { return Ok(()) }
        if !self.first_at(no, index, shard)? { return Ok(()) }
        self.note_absent(no, index, shard);
        for (id, g) in &shard.state().groups {
            let gone = self.absent.get(&(no, id.clone())).copied().unwrap_or(0);
            if self.epochs.get(id).is_some_and(|seen| gone > seen.0.min(index)) {
                // Before and after a deletion: two groups of one name.
                if self.epochs[id].0 > index { continue; }
                self.epochs.remove(id);
                self.images.remove(id);
            }
            self.group(index, id, g)?;
        }
        Ok(())
    }

    fn note_absent(&mut self, no: u16, index: u64, shard: &Shard) {
        let gone: Vec<GroupId> = self.looked_at.iter().filter(|(n, id)| *n == no && !shard.state().groups.contains_key(id)).map(|(_, id)| id.clone()).collect();
        for id in gone {
            let at = self.absent.entry((no, id)).or_default();
            *at = (*at).max(index);
        }
        self.looked_at.extend(shard.state().groups.keys().map(|id| (no, id.clone())));
    }

    /// After every entry at every replica. What the entry touches is looked at each time; all groups, and the digests of whole states, now and then: what two replicas do
    /// differently, and what nobody touched, is still there some entries later.
    pub fn applied(&mut self, index: usize, entry: Option<&LogEntry>, took_effect: bool, force: bool, shard: &Shard) -> Verdict {
        let everything = index.is_multiple_of(EVERYTHING);
        if everything { self.first_at(0, index as u64, shard)?; }
        let came_so_far = (shard.state().sequence, shard.state().last_token);
        match self.came.insert(index, came_so_far) {
            Some(other) if other == came_so_far => return Ok(()),
            Some(other) => return broken("replicas-agree", format!("after entry {index} one replica has (sequence, last token) {other:?}, another {came_so_far:?}")),
            None => {}
        }
        if took_effect { self.fresh.push(index); }
        self.rules.time(index, shard.state().time_ms)?;
        for b in entry.iter().filter(|_| took_effect).flat_map(|e| &e.batches) {
            if let Some(g) = shard.group(&b.group) { let_in(b, g)?; }
            self.causes.batch(b, shard.group(&b.group))?;
            self.rules.batch(b, shard.group(&b.group), force)?;
            for r in &b.records {
                self.who_is_in(&b.group, r)?;
                match r {
                    r if !grants(r).is_empty() => {
                        for (member, p, token) in grants(r) {
                            self.told.insert((b.group.clone(), member.clone(), p.clone()));
                            let highest = self.tokens.entry((b.group.clone(), p.clone())).or_default();
                            if token.0 <= *highest {
                                return broken("fencing", format!("{} {p}: token {} after {highest}", b.group, token.0));
                            }
                            *highest = token.0;
                            self.granted.insert((token.0, b.group.clone(), p.clone()));
                        }
                    }
                    // Between the protocols an empty group begins a new life.
                    Record::Classic(c) if matches!(**c, ClassicRecord::Opened { .. } | ClassicRecord::Closed) => {
                        self.epochs.remove(&b.group);
                        // An answer of the life before may still be on its way.
                        *self.deletions.entry(b.group.clone()).or_default() += 1;
                    }
                    Record::Deleted => {
                        self.epochs.remove(&b.group);
                        self.images.remove(&b.group);
                        self.forget(&b.group, None);
                        if force {
                            self.waived.extend(self.granted.iter().filter(|(_, g, _)| *g == b.group).map(|(t, g, p)| (g.clone(), p.clone(), *t)));
                        }
                    }
                    Record::Offset(o) => {
                        self.log.insert((b.group.clone(), o.partition.clone(), o.committed.offset));
                    }
                    Record::OffsetsRemoved { topic } => self.forget(&b.group, Some(topic)),
                    Record::OffsetsExpired { partitions } => partitions.iter().for_each(|p| self.forget(&b.group, Some(&p.topic))),
                    _ => {}
                }
            }
        }
        let touched = |id: &GroupId| entry.is_some_and(|e| e.batches.iter().any(|b| b.group == *id));
        for (id, g) in shard.state().groups.iter().filter(|(id, _)| everything || touched(id)) {
            self.group(index as u64, id, g)?;
            self.recorded(id, g)?;
        }
        Ok(())
    }

    /// Whether a process has been a member of the group as it is now: a deletion forgets who was in before.
    pub fn has_been_in(&self, group: &GroupId, incarnation: Incarnation) -> bool { self.been.contains(&(group.clone(), incarnation)) }
    /// Who left, or whose id was taken over by another process, is never a member again (`safety.md` 6, 8). Kafka's clients have no incarnation.
    fn who_is_in(&mut self, group: &GroupId, r: &Record) -> Verdict {
        let id = |m: &MemberId| (group.clone(), m.clone());
        match r {
            Record::Joined(j) => {
                if let Some(old) = j.replaces { self.gone.insert((group.clone(), j.member.clone(), old)); }
                if j.incarnation != Incarnation::default() {
                    if self.gone.contains(&(group.clone(), j.member.clone(), j.incarnation)) {
                        return broken("incarnations", format!("{group}: {} is let in again as {}, which had left or was replaced", j.member, j.incarnation));
                    }
                    self.incarnations.insert(id(&j.member), j.incarnation);
                    self.been.insert((group.clone(), j.incarnation));
                }
            }
            Record::Replaced(x) => {
                self.incarnations.remove(&id(&x.old));
                self.incarnations.insert(id(&x.new), x.incarnation);
                self.been.insert((group.clone(), x.incarnation));
            }
            Record::Removed { member, fence, .. } => {
                if let Some(i) = self.incarnations.remove(&id(member)).filter(|_| *fence) { self.gone.insert((group.clone(), member.clone(), i)); }
            }
            Record::Deleted => {
                self.incarnations.retain(|(g, _), _| g != group);
                self.gone.retain(|(g, ..)| g != group);
                self.been.retain(|(g, _)| g != group);
            }
            _ => {}
        }
        Ok(())
    }

    /// History is kept beside the state, but it is replicated all the same.
    pub fn history(&mut self, index: usize, changes: Vec<HistoryChange>) -> Verdict {
        let first = self.histories.entry(index).or_insert_with(|| changes.clone());
        if *first == changes { Ok(()) } else { broken("replicas-agree", format!("two replicas keep another history after entry {index}")) }
    }

    fn forget(&mut self, group: &GroupId, topic: Option<&TopicName>) {
        *self.deletions.entry(group.clone()).or_default() += 1;
        let stays = |(g, p): &Place| g != group || topic.is_some_and(|t| *t != p.topic);
        self.acked.retain(|k, _| stays(k));
        self.seen.retain(|k, _| stays(k));
    }

    /// What the state alone tells.
    fn group(&mut self, index: u64, id: &GroupId, g: &Group) -> Verdict {
        if let Some(why) = g.quarantined.as_ref().filter(|_| self.poisoned.as_ref() != Some(id)) {
            return broken("replay", format!("{id} is quarantined: {why}"));
        }
        one_owner(id, g)?;
        if self.history_max.is_some_and(|most| g.history.next - g.history.first > most) {
            return broken("bounded", format!("{id} has {:?}", g.history));
        }
        // A generation is an epoch, also across conversions.
        let (e, t) = g.classic.as_ref().map_or((g.epoch, g.target_epoch), |c| (c.generation, c.generation));
        let seen = self.epochs.entry(id.clone()).or_insert((index, e, t));
        let (older, newer) = if seen.0 <= index { ((seen.1, seen.2), (e, t)) } else { ((e, t), (seen.1, seen.2)) };
        if newer.0 < older.0 || newer.1 < older.1 || t > e {
            return broken("epochs", format!("{id}: (group, target) epoch {older:?} → {newer:?}"));
        }
        if seen.0 <= index { *seen = (index, e, t); }
        let seen = self.images.entry(id.clone()).or_insert((index, g.metadata_revision));
        let (older, newer) = if seen.0 <= index { (seen.1, g.metadata_revision) } else { (g.metadata_revision, seen.1) };
        if newer < older {
            return broken("epochs", format!("{id}: what it knows of topics goes back from revision {older} to {newer}"));
        }
        if seen.0 <= index { *seen = (index, g.metadata_revision); }
        for (m, x) in &g.members {
            if x.epoch > g.target_epoch || (x.epoch < 0 && x.epoch != AWAY) {
                return broken("epochs", format!("{id}: {m} at {} above the target's {}", x.epoch, g.target_epoch));
            }
        }
        stable_has_its_target(id, g)?;
        of_topics_that_are(id, g)?;
        for (p, o) in &g.offsets {
            if g.topics.get(&p.topic).is_some_and(|t| t.id != o.topic_id) {
                return broken("durable", format!("{id} {p}: an offset of a topic that is gone counts for the one that was made again under its name"));
            }
        }
        Ok(())
    }

    /// What the state must have because of the records so far, and of what was acknowledged.
    fn recorded(&mut self, id: &GroupId, g: &Group) -> Verdict {
        for (p, grant) in g.members.values().flat_map(|x| x.assigned.iter()) {
            let token = grant.token.0;
            if !self.granted.contains(&(token, id.clone(), p.clone())) {
                return broken("fencing", format!("{id} {p}: no record granted token {token}"));
            }
        }
        for (p, o) in &g.offsets {
            let place = (id.clone(), p.clone());
            let now = (o.token.0, o.seq);
            if o.token.0 == 0 {
                // Set without a token: it replaces what members committed, and orders with nothing but by time, which is `linear`'s to judge.
                if self.seen.remove(&place).is_some() {
                    self.acked.remove(&place);
                    *self.deletions.entry(id.clone()).or_default() += 1;
                }
                continue;
            }
            let had = self.seen.insert(place.clone(), now).unwrap_or_default();
            let acked = self.acked.get(&place).copied().unwrap_or_default();
            // Kafka's and administrators' commits have no sequence; only a member that holds the partition gives a token. They may take the place of any that is not newer by its token.
            if o.seq == 0 {
                if o.token.0 > 0 && o.token.0 < had.0.max(acked.0) {
                    return broken("durable", format!("{id} {p}: a commit under token {} took the place of one under {}", o.token.0, had.0.max(acked.0)));
                }
                self.acked.remove(&place);
                continue;
            }
            if now < had || now < (acked.0, acked.1) {
                return broken("durable", format!("{id} {p}: the commit went from {had:?} (acknowledged {acked:?}) to {now:?}"));
            }
            if now == (acked.0, acked.1) && o.offset != acked.2 {
                return broken("durable", format!("{id} {p}: {} was acknowledged, {} is kept", acked.2, o.offset));
            }
        }
        if let Some(((_, p), a)) = self.acked.iter().find(|((x, p), _)| x == id && !g.offsets.contains_key(p)) {
            return broken("durable", format!("{id} {p}: the acknowledged commit {a:?} is gone"));
        }
        Ok(())
    }

    /// A commit was acknowledged to its member.
    pub fn commit_acked(&mut self, place: Place, token: u64, seq: u64, offset: i64) -> Verdict {
        let seen = self.seen.get(&place).copied().unwrap_or_default();
        if seen < (token, seq) && seen.1 > 0 {
            return broken("durable", format!("{place:?}: ({token}, {seq}) was acknowledged, the state has {seen:?}"));
        }
        self.carried_out(&place, offset)?;
        // One without a sequence may have taken its place since.
        if seen == (token, seq) || seen.1 > 0 {
            let a = self.acked.entry(place).or_default();
            *a = (*a).max((token, seq, offset));
        }
        Ok(())
    }
    /// Any commit was acknowledged: it is in the log.
    pub fn carried_out(&mut self, place: &Place, offset: i64) -> Verdict {
        if self.log.contains(&(place.0.clone(), place.1.clone(), offset)) { Ok(()) } else { broken("durable", format!("{place:?}: {offset} was acknowledged and never committed")) }
    }

    /// Group and target epoch (of a classic group its generation, twice) as last seen.
    pub fn epochs_of(&self, group: &GroupId) -> Option<(Epoch, Epoch)> { self.epochs.get(group).map(|(_, e, t)| (*e, *t)) }
    /// A member without tokens was told of partitions: some record granted them to it.
    pub fn told(&self, group: &GroupId, member: &MemberId, mut told: impl Iterator<Item = Partition>) -> Verdict {
        match told.find(|p| !self.told.contains(&(group.clone(), member.clone(), p.clone()))) {
            Some(p) => broken("answers-committed", format!("{group}: {member} is told of {p}, which was never granted to it")),
            None => Ok(()),
        }
    }
    /// An answer was let go: what it grants must be committed.
    pub fn answered(&self, group: &GroupId, v: &HeartbeatView) -> Verdict {
        match v.assignment.iter().flatten().find(|(p, t)| !self.granted.contains(&(t.0, group.clone(), (*p).clone()))) {
            Some((p, t)) => broken("answers-committed", format!("{} was told of {p} under {}, which nobody committed", v.member, t.0)),
            None => Ok(()),
        }
    }

    /// A write at the sink. A conforming owner is never refused.
    pub fn write(&mut self, place: &Place, token: u64, conforming: bool, who: &str) -> Result<bool, Broken> {
        if conforming && (self.waived.is_empty() || !self.waived.contains(&(place.0.clone(), place.1.clone(), token))) {
            return self.sinks.guarded(place, token, who).map(|()| true);
        }
        self.sinks.register(place, token, who)
    }

    /// At one true instant: who believes what, under which token.
    pub fn believers<'a>(&self, now: u64, beliefs: impl Iterator<Item = (&'a GroupId, &'a Partition, u64, &'a str)>) -> Verdict {
        belief::at_once(now, beliefs.filter(|(g, p, token, _)| self.waived.is_empty() || !self.waived.contains(&((*g).clone(), (*p).clone(), *token))).map(|(g, p, token, who)| ((g, p), token, who)))
    }
}

/// The last process that a batch lets in under a member id is the one that is in afterwards.
fn let_in(b: &Batch, g: &Group) -> Verdict {
    let of = |r: &Record| match r {
        Record::Joined(j) => Some((j.member.clone(), j.incarnation)),
        Record::Replaced(x) => Some((x.new.clone(), x.incarnation)),
        _ => None,
    };
    let last: BTreeMap<MemberId, Incarnation> = b.records.iter().filter_map(of).collect();
    match last.iter().find_map(|(id, i)| g.members.get(id).filter(|m| m.incarnation != *i).map(|m| (id, i, m.incarnation))) {
        Some((id, i, other)) => broken("incarnations", format!("{}: {id} was let in as {i}, and is {other} in the state", b.group)),
        None => Ok(()),
    }
}

/// The grants of a record: to whom, what, under which token.
pub fn grants(r: &Record) -> Vec<(&MemberId, &Partition, FencingToken)> {
    match r {
        Record::Reconciled(r) => r.granted.iter().map(|(p, t)| (&r.member, p, *t)).collect(),
        Record::Regranted { member, tokens, .. } => tokens.iter().map(|(p, t)| (member, p, *t)).collect(),
        Record::Replaced(r) => r.tokens.iter().map(|(p, t)| (&r.new, p, *t)).collect(),
        Record::Classic(c) => match &**c {
            ClassicRecord::Upgraded { members, .. } => members.iter().flat_map(|m| m.assigned.iter().map(|(p, _, t)| (&m.member, p, *t))).collect(),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// A node has every record of a group's history that its state says there is.
pub fn history_is_whole(node: u64, group: &GroupId, numbers: &std::ops::Range<u64>, found: usize) -> Verdict {
    let wanted = numbers.end - numbers.start;
    if found as u64 == wanted { Ok(()) } else { broken("replicas-agree", format!("node {node} has {found} records of the history of {group}, its state says {wanted} ({numbers:?})")) }
}

/// Nobody takes the static place of a process that lives and was started after it, whatever was said of predecessors (`safety.md` 6). `earlier`: that is the case.
pub fn not_by_an_earlier_one(group: &GroupId, member: &MemberId, holder: &MemberId, earlier: bool) -> Verdict {
    if earlier { broken("incarnations", format!("{group}: {member} takes the place of {holder}, which was started after it and lives")) } else { Ok(()) }
}

/// A member that is in joins again only by a request of after its last join.
pub fn joins_again_by_a_later_request(group: &GroupId, member: &MemberId, later: bool) -> Verdict {
    if later { Ok(()) } else { broken("incarnations", format!("{group}: {member} is taken in again by a join from before the one that let it in")) }
}

/// No batch broke an invariant, neither when it was decided nor in replay.
pub fn nothing_refused(node: u64, shard: &Shard) -> Verdict {
    if shard.stats().refused_batches > 0 { broken("replay", format!("node {node} refused or undid a batch that broke an invariant")) } else { Ok(()) }
}

/// Assigned, pending and held are disjoint, and the owner map says the same.
pub fn one_owner(id: &GroupId, g: &Group) -> Verdict {
    let mut claims: BTreeMap<&Partition, (&MemberId, u64)> = BTreeMap::new();
    let members = g.members.iter().flat_map(|(m, x)| x.holdings().map(move |(p, t, _)| (p, m, t.0)));
    for (p, m, t) in members.chain(g.holds.iter().map(|(p, h)| (p, &h.member, h.token.0))) {
        if let Some((other, _)) = claims.insert(p, (m, t)) {
            return broken("one-owner", format!("{id} {p} is {other}'s and {m}'s"));
        }
    }
    let owners: BTreeMap<&Partition, (&MemberId, u64)> = g.owners.iter().map(|(p, o)| (p, (&o.member, o.token.0))).collect();
    if owners != claims {
        return broken("one-owner", format!("{id}: the owner map has {owners:?}, the members {claims:?}"));
    }
    Ok(())
}

/// Whoever stops by a deadline and is said to be stable has all of its target that there is and that it subscribes to (KIP-848): else it waits for something that nobody owes it any more.
fn stable_has_its_target(id: &GroupId, g: &Group) -> Verdict {
    // Of an older target, expressions may match more by now.
    if g.epoch != g.target_epoch { return Ok(()) }
    let there = |p: &Partition| g.topics.get(&p.topic).is_some_and(|t| p.partition < t.partitions && g.target_topics.get(&p.topic).is_some_and(|then| then.id == t.id));
    for (m, x) in g.members.iter().filter(|(_, x)| x.conforming() && x.state == MemberState::Stable && x.epoch == g.target_epoch) {
        if let Some(p) = g.target.get(m).into_iter().flatten().find(|p| !x.assigned.contains_key(p) && there(p) && g.subscribes(x, &p.topic)) {
            return broken("complete", format!("{id}: {m} is stable at epoch {} without {p}, which is in its target", x.epoch));
        }
    }
    Ok(())
}

/// Every partition of every subscribed topic that exists is owned exactly once, nothing else is, and the group stands still.
pub fn complete(id: &GroupId, g: &Group, topics: &BTreeMap<TopicName, i32>) -> Verdict {
    if g.state() != GroupState::Stable || g.epoch != g.target_epoch || !g.holds.is_empty() {
        let states: Vec<String> = g.members.iter().map(|(m, x)| format!("{m}: {:?} at {} with {} pending", x.state, x.epoch, x.pending.len())).collect();
        return broken("live", format!("{id} is {:?} (epoch {}, target {}), {} holds, {states:?}", g.state(), g.epoch, g.target_epoch, g.holds.len()));
    }
    let wanted: BTreeSet<Partition> = g.subscribed_topics().iter().filter_map(|t| topics.get(t).map(|n| (t, n))).flat_map(|(t, n)| (0..*n).map(|p| Partition::new(t.clone(), p))).collect();
    let owned: BTreeSet<Partition> = g.members.values().flat_map(|m| m.assigned.keys().cloned()).collect();
    if wanted != owned {
        return broken("complete", format!("{id}: wanted {wanted:?}, owned {owned:?}"));
    }
    Ok(())
}
