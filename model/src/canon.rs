//! When two states are the same: they differ only in names of members and partitions, in when they are, or in numbers that mean nothing but their order.
//!
//! Tokens and revisions are only compared with each other, and a new one is above all: their ranks say everything. Epochs are compared and counted up: their distance to the
//! group's says everything. Members and partitions are ordered by what they are, not by what they are called; two that look alike may keep their order, then one
//! state is visited under two names, which costs time and hides nothing. The assignors break ties by name, so states that are called the same need not go on
//! in literally the same way: the walks then follow one of the ways. `--no-symmetry` keeps the names.

use crate::world::*;
use baton_coordinator::{command::*, decide::TimerCommand, ids::*, record::Record, state::Group, timers::Timer};
use std::{
    hash::{Hash, Hasher},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

/// Whether names count.
pub static NAMES_COUNT: AtomicBool = AtomicBool::new(false);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Word {
    Plain(i64),
    /// Only its order counts; 0 is "none".
    Number(u64),
}
use Word::{Number, Plain};

/// Who is called what in the canonical form.
struct Names {
    /// Member → its place.
    members: [usize; MEMBERS],
    /// Partition → its place; None: only how many there are counts.
    partitions: Option<[usize; PARTITIONS as usize]>,
}
impl Names {
    fn member(&self, id: &MemberId) -> i64 { id.as_str()[1..].parse::<usize>().map_or(-1, |i| self.members[i] as i64) }
    fn partition(&self, p: &Partition) -> Option<i64> { self.partitions.map(|places| places[p.partition as usize] as i64) }
    /// A set of partitions, each with what is said of it.
    fn set<'a>(&self, out: &mut Vec<Word>, parts: impl Iterator<Item = (&'a Partition, Vec<Word>)>) {
        let mut all: Vec<(i64, Vec<Word>)> = parts.map(|(p, words)| (self.partition(p).unwrap_or(0), words)).collect();
        out.push(Plain(all.len() as i64));
        if self.partitions.is_some() {
            all.sort_by_key(|(p, _)| *p);
            for (p, words) in all {
                out.push(Plain(p));
                out.extend(words);
            }
        }
    }
}

impl World {
    /// The canonical form, numbers ranked.
    pub fn words(&self) -> Vec<i64> {
        let identity = Names { members: std::array::from_fn(|i| i), partitions: Some(std::array::from_fn(|i| i)) };
        let names = if NAMES_COUNT.load(Relaxed) { identity } else { self.order() };
        let mut out = Vec::with_capacity(256);
        let mut by_place: [usize; MEMBERS] = std::array::from_fn(|i| i);
        by_place.sort_by_key(|i| names.members[*i]);
        for i in by_place {
            self.member_words(i, &names, &mut out);
        }
        self.rest(&names, &mut out);
        let mut numbers: Vec<u64> = out.iter().filter_map(|w| if let Number(n) = w { Some(*n) } else { None }).collect();
        numbers.push(0);
        numbers.sort_unstable();
        numbers.dedup();
        out.iter().map(|w| match w {
            Plain(n) => *n,
            Number(n) => numbers.binary_search(n).map_or(-1, |at| at as i64),
        }).collect()
    }

    /// Orders members by what can be said of each without names, then partitions by who has them.
    fn order(&self) -> Names {
        let blind = Names { members: [0; MEMBERS], partitions: None };
        let mut look: Vec<(Vec<Word>, usize)> = (0..MEMBERS)
            .map(|i| {
                let mut words = Vec::with_capacity(64);
                self.member_words(i, &blind, &mut words);
                // Blind of numbers too: they are compared in the whole state only.
                (words.into_iter().map(|w| if let Number(n) = w { Plain(i64::from(n > 0)) } else { w }).collect(), i)
            })
            .collect();
        look.sort();
        let mut members = [0; MEMBERS];
        look.iter().enumerate().for_each(|(place, (_, i))| members[*i] = place);
        let named = Names { members, partitions: None };
        let mut look: Vec<(Vec<i64>, usize)> = (0..PARTITIONS).map(|p| (self.partition_look(&Partition::new("t", p), &named), p as usize)).collect();
        look.sort();
        let mut partitions = [0; PARTITIONS as usize];
        look.iter().enumerate().for_each(|(place, (_, p))| partitions[*p] = place);
        Names { members, partitions: Some(partitions) }
    }
    fn partition_look(&self, p: &Partition, names: &Names) -> Vec<i64> {
        let mut out = Vec::with_capacity(16);
        if let Some(g) = self.group() {
            out.push(g.owners.get(p).map_or(-1, |o| names.member(&o.member) * 4 + o.state as i64));
            out.push(g.target.iter().find(|(_, t)| t.contains(p)).map_or(-1, |(m, _)| names.member(m)));
        }
        let mut uses: Vec<i64> = (0..MEMBERS).flat_map(|i| {
            let m = &self.members[i];
            let place = names.members[i] as i64;
            [m.owned.contains_key(p).then_some(place), m.target.contains_key(p).then_some(place + 10)]
        }).flatten().collect();
        uses.sort_unstable();
        out.push(-2);
        out.extend(uses);
        let mut said: Vec<i64> = self.letters.iter().filter_map(|l| match &*l.command {
            Command::Heartbeat(h) => Some(names.members[l.from] as i64 * 2 + i64::from(h.owned.as_ref().is_some_and(|o| o.contains(p)))),
            _ => None,
        }).collect();
        said.sort_unstable();
        out.push(-3);
        out.extend(said);
        out
    }
    fn group(&self) -> Option<&Group> { self.shard.group(&GroupId::from("g")) }
    fn epoch(&self, e: Epoch) -> Word { Plain(if e <= 0 { i64::from(e) - 1_000 } else { i64::from(self.group().map_or(0, |g| g.epoch) - e) }) }
    /// How long ago, or how long still; what is over is over.
    fn since(&self, at: u64) -> Word { Plain((at as i64 - self.now as i64).max(-4 * TICK_MS as i64)) }

    fn member_words(&self, i: usize, names: &Names, out: &mut Vec<Word>) {
        let m = &self.members[i];
        out.extend([Plain(m.phase as i64), self.epoch(m.epoch), Number(m.taken), Number(m.applied), if m.deadline == 0 { Plain(-1) } else { self.since(m.deadline) }]);
        names.set(out, m.owned.iter().map(|(p, t)| (p, vec![Number(*t)])));
        names.set(out, m.target.iter().map(|(p, t)| (p, vec![Number(*t)])));
        for l in self.letters.iter().filter(|l| l.from == i) {
            self.letter_words(l, names, out);
        }
        out.push(Plain(-7));
        for l in self.open.values().filter(|l| l.from == i) {
            self.letter_words(l, names, out);
        }
        out.push(Plain(-8));
        for a in self.answers.iter().filter(|a| a.to == i) {
            out.extend([Plain(i64::from(a.life == m.life)), self.since(a.sent)]);
            match &*a.result {
                Ok(Response::Heartbeat(v)) => {
                    out.extend([self.epoch(v.member_epoch), Number(v.assignment_revision.0), Plain(i64::from(v.assignment.is_some()))]);
                    names.set(out, v.assignment.iter().flatten().map(|(p, t)| (p, vec![Number(t.0)])));
                }
                Ok(_) => out.push(Plain(-20)),
                Err(e) => out.push(Plain(-21 - kind(e))),
            }
        }
        out.push(Plain(-9));
        let Some(g) = self.group() else { return };
        // Processes of the member that are remembered, relative to the one of now.
        let earlier = |x: &(MemberId, Incarnation)| (x.0 == m.id).then(|| Plain(i64::from(m.incarnation) + 1 - x.1.0 as i64));
        out.extend(g.fenced.iter().filter_map(earlier));
        out.push(Plain(-10));
        out.extend(g.departed.iter().filter_map(earlier));
        out.push(Plain(-11));
        if let Some(s) = g.members.get(&m.id) {
            out.extend([
                Plain(i64::from(m.incarnation) + 1 - s.incarnation.0 as i64), self.epoch(s.epoch), self.epoch(s.previous_epoch), Plain(s.state as i64), Number(s.assignment_revision.0),
                Number(s.joined_at.0), Plain(i64::from(s.subscribed.is_empty())),
            ]);
            names.set(out, s.assigned.iter().map(|(p, x)| (p, vec![Number(x.token.0), Number(x.granted_at.0)])));
            names.set(out, s.pending.iter().map(|(p, x)| (p, vec![Number(x.grant.token.0), Number(x.grant.granted_at.0), Number(x.revoked_at.0)])));
        }
        names.set(out, g.target.get(&m.id).into_iter().flatten().map(|p| (p, Vec::new())));
        let held = g.holds.iter().filter(|(_, h)| h.member == m.id);
        names.set(out, held.map(|(p, h)| (p, vec![Number(h.token.0), Number(h.granted_at.0), Plain(i64::from(m.incarnation) + 1 - h.incarnation.0 as i64)])));
        for (at, t) in self.shard.due(u64::MAX) {
            let of = match &t {
                Timer::Command(_, TimerCommand::ExpireSession { member }) => (member == &m.id).then_some(1),
                Timer::Command(_, TimerCommand::ExpireRebalance { member, .. }) => (member == &m.id).then_some(2),
                Timer::Command(_, TimerCommand::ReleaseHold { partition, .. }) => g.holds.get(partition).is_some_and(|h| h.member == m.id).then_some(3),
                _ => None,
            };
            if let Some(what) = of {
                out.extend([Plain(what), self.since(at)]);
            }
        }
    }
    fn letter_words(&self, l: &Letter, names: &Names, out: &mut Vec<Word>) {
        let m = &self.members[l.from];
        let process = |i: Incarnation| Plain(i64::from(m.incarnation) + 1 - i.0 as i64);
        out.extend([Plain(i64::from(l.life == m.life)), self.since(l.sent), Plain(i64::from(l.delivered)), Plain(i64::from(l.number < m.delivered)), Plain(i64::from(l.number == m.sent))]);
        match &*l.command {
            Command::Heartbeat(h) => {
                out.extend([process(h.incarnation), self.epoch(h.epoch), Number(h.assignment_revision.0), Plain(h.owned.as_ref().map_or(-1, |o| o.len() as i64))]);
                names.set(out, h.owned.iter().flatten().map(|p| (p, Vec::new())));
            }
            Command::Leave(x) => out.extend([process(x.incarnation), Number(x.assignment_revision.0), Plain(-30)]),
            _ => out.push(Plain(-31)),
        }
    }

    /// What belongs to no member.
    fn rest(&self, names: &Names, out: &mut Vec<Word>) {
        let l = self.left;
        out.extend([l.ticks, l.leader_changes, l.leaves, l.posts, l.late_answers, l.copies].map(|n| Plain(i64::from(n))));
        names.set(out, self.highest.iter().map(|(p, t)| (p, vec![Number(*t)])));
        out.push(Number(self.shard.state().last_token));
        if let Some(g) = self.group() {
            out.push(self.epoch(g.target_epoch));
            names.set(out, g.owners.iter().map(|(p, o)| (p, vec![Plain(names.member(&o.member)), Plain(o.state as i64), Number(o.token.0)])));
        }
        for r in self.entry.iter().flat_map(|e| &e.batches).flat_map(|b| &b.records) {
            self.record_words(r, names, out);
        }
        out.push(Plain(match &self.broken { None => 0, Some(b) => 1 + crate::INVARIANTS.iter().position(|i| *i == b.invariant).unwrap_or(9) as i64 }));
    }
    fn record_words(&self, r: &Record, names: &Names, out: &mut Vec<Word>) {
        match r {
            Record::Joined(j) => {
                out.extend([Plain(1), Plain(names.member(&j.member)), Number(j.joined_at.0), Plain(j.replaces.is_some() as i64)]);
                names.set(out, j.freed.iter().map(|p| (p, Vec::new())));
            }
            Record::Reconciled(x) => {
                out.extend([Plain(2), Plain(names.member(&x.member)), self.epoch(x.epoch), Plain(x.state as i64), Number(x.revision.0)]);
                names.set(out, x.released.iter().map(|p| (p, Vec::new())));
                names.set(out, x.revoked.iter().map(|p| (p, Vec::new())));
                names.set(out, x.granted.iter().map(|(p, t)| (p, vec![Number(t.0)])));
            }
            Record::Removed { member, freed, held, fence } => {
                out.extend([Plain(3), Plain(names.member(member)), Plain(i64::from(*fence))]);
                names.set(out, freed.iter().map(|p| (p, Vec::new())));
                names.set(out, held.iter().map(|p| (p, Vec::new())));
            }
            Record::HoldReleased { partition, .. } => out.extend([Plain(4), Plain(names.partition(partition).unwrap_or(0))]),
            Record::Epoch { epoch, .. } => out.extend([Plain(5), self.epoch(*epoch)]),
            Record::Target { epoch, assignment } => {
                out.extend([Plain(6), self.epoch(*epoch)]);
                let mut all: Vec<(i64, &std::collections::BTreeSet<Partition>)> = assignment.iter().map(|(m, ps)| (names.member(m), ps)).collect();
                all.sort_by_key(|(m, _)| *m);
                for (m, ps) in all {
                    out.push(Plain(m));
                    names.set(out, ps.iter().map(|p| (p, Vec::new())));
                }
            }
            // Settings, subscriptions and history are the same in all walks.
            _ => out.push(Plain(7)),
        }
    }
}

fn kind(e: &GroupError) -> i64 {
    match e {
        GroupError::UnknownMember { .. } => 1,
        GroupError::FencedMemberEpoch { .. } => 2,
        GroupError::FencedIncarnation => 3,
        GroupError::FencedRemoved { .. } => 4,
        GroupError::MemberIdInUse { .. } => 5,
        GroupError::StaleLeave => 6,
        _ => 7,
    }
}

impl Hash for World {
    fn hash<H: Hasher>(&self, h: &mut H) { self.words().hash(h) }
}
impl PartialEq for World {
    fn eq(&self, other: &World) -> bool { self.words() == other.words() }
}
