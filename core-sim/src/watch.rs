//! What is promised for Kafka's clients, which stop by no deadline. As long as one has not been removed from its group, nobody else is given what it uses; it is told only
//! what was granted to it, or assigned in the generation that it names; its place is kept while it is away; and a generation has one assignment.
//!
//! One that *was* removed (expired, by an administrator, replaced in its static place, late in a rebalance) may go on until it hears of it: Kafka promises no more.

use crate::{
    client::{Client, Kind},
    plan::Ms,
};
use baton_invariants::{Verdict, broken, state::Judge};
use baton_coordinator::{classic::*, command::*, ids::*, record::*};
use std::collections::BTreeMap;

/// What is remembered of the log, for clients.
#[derive(Default)]
pub struct Watch {
    /// True time at which a member, or its whole group, was last taken out.
    gone: BTreeMap<(GroupId, MemberId), Ms>,
    group_gone: BTreeMap<GroupId, Ms>,
    /// Who is away, and since when.
    away: BTreeMap<(GroupId, MemberId), Ms>,
    /// What each generation was assigned.
    assigned: BTreeMap<(GroupId, i32), BTreeMap<MemberId, Opaque>>,
    generation: BTreeMap<GroupId, i32>,
    /// The last one that the group had as a classic one.
    classic_generation: BTreeMap<GroupId, i32>,
    /// When the newest generation of the classic protocol was made, whatever the group has become since.
    made_at: BTreeMap<GroupId, (i32, Ms)>,
    /// The generation at which a group was last converted: below and at it, a sync may be answered by either side of the conversion.
    converted: BTreeMap<GroupId, i32>,
    /// The generation in which static members were last replaced after it had been assigned, and who came.
    replaced: BTreeMap<GroupId, (i32, Vec<MemberId>)>,
    pub upgrades: u64,
    pub downgrades: u64,
    pub upgraded_in_rebalance: u64,
}

impl Watch {
    /// After an entry that took effect.
    pub fn entry(&mut self, now: Ms, entry: &LogEntry, clients: &[Client]) -> Verdict {
        for b in &entry.batches {
            let g = &b.group;
            for (i, r) in b.records.iter().enumerate() {
                match r {
                    Record::Removed { member, .. } => {
                        let why = b.records[i..].iter().find_map(|r| if let Record::History(h) = r { Some(h.kind.as_str()) } else { None }).unwrap_or("");
                        let said_away = clients.iter().any(|c| c.away && c.group == *g && c.id == *member);
                        if (self.away.remove(&(g.clone(), member.clone())).is_some() || said_away) && why == "left" {
                            return broken("timers", format!("{g}: {member} left for a while and lost its place at once"));
                        }
                        self.gone(now, g, member);
                    }
                    // Another process under its id, or itself again: it is in.
                    Record::Joined(j) => { self.away.remove(&(g.clone(), j.member.clone())); }
                    Record::Away { member } => { self.away.insert((g.clone(), member.clone()), now); }
                    Record::Replaced(x) if x.old != x.new => {
                        self.away.remove(&(g.clone(), x.old.clone()));
                        let classic = b.records.iter().any(|r| matches!(r, Record::Classic(c) if matches!(&**c, ClassicRecord::Speaks { member, .. } if *member == x.new)));
                        let alive = clients.iter().find(|c| c.alive() && c.group == *g && c.id == x.old && c.kind == Kind::Consumer && !c.said_away);
                        if let (Some(c), false, false) = (alive, classic, self.is_gone(g, &x.old, alive.map_or(0, |c| c.life_began))) {
                            return broken("one-believer", format!("{g}: {} takes the place of {}, which never left it", x.new, c.name));
                        }
                        self.gone(now, g, &x.old);
                    }
                    Record::Replaced(x) => { self.away.remove(&(g.clone(), x.old.clone())); }
                    Record::Reconciled(x) => {
                        let still = clients.iter().find(|c| c.alive() && c.group == *g && c.id == x.member && x.released.iter().any(|p| c.owned.contains_key(p)));
                        if let Some(c) = still.filter(|c| !self.is_gone(g, &c.id, c.life_began)) {
                            return broken("one-believer", format!("{g}: {:?} are freed, {} still uses some of them", x.released, c.name));
                        }
                    }
                    Record::Deleted => {
                        self.group_gone.insert(g.clone(), now);
                        self.generation.remove(g);
                        self.classic_generation.remove(g);
                        self.assigned.retain(|(x, _), _| x != g);
                    }
                    Record::Classic(c) => self.classic(now, g, c)?,
                    _ => {}
                }
            }
        }
        Ok(())
    }
    fn classic(&mut self, now: Ms, g: &GroupId, c: &ClassicRecord) -> Verdict {
        match c {
            ClassicRecord::Opened { .. } | ClassicRecord::Closed => {
                self.generation.remove(g);
                self.classic_generation.remove(g);
                self.assigned.retain(|(x, _), _| x != g);
            }
            ClassicRecord::Removed { member, .. } => self.gone(now, g, member),
            ClassicRecord::Replaced { old, new } => {
                self.gone(now, g, old);
                if let Some(generation) = self.classic_generation.get(g).filter(|n| self.assigned.contains_key(&(g.clone(), **n))) {
                    let (of, who) = self.replaced.entry(g.clone()).or_default();
                    if of != generation { (*of, *who) = (*generation, Vec::new()); }
                    who.push(new.clone());
                }
                for (_, m) in self.assigned.iter_mut().filter(|((x, _), _)| x == g) {
                    if let Some(a) = m.get(old).cloned() {
                        m.insert(new.clone(), a);
                    }
                }
            }
            ClassicRecord::Generation { generation, .. } => {
                if self.converted.get(g) == Some(&i32::MAX) { self.converted.insert(g.clone(), *generation - 1); }
                self.classic_generation.insert(g.clone(), *generation);
                self.made_at.insert(g.clone(), (*generation, now));
                let last = self.generation.insert(g.clone(), *generation).unwrap_or_default();
                if *generation <= last {
                    return broken("epochs", format!("{g}: generation {generation} after {last}"));
                }
            }
            ClassicRecord::Assigned { generation, assignments } => {
                if self.assigned.insert((g.clone(), *generation), assignments.clone()).is_some() {
                    return broken("one-generation", format!("{g}: generation {generation} is assigned twice"));
                }
            }
            ClassicRecord::Upgraded { .. } => {
                self.upgrades += 1;
                self.converted.insert(g.clone(), self.generation.get(g).copied().unwrap_or_default());
            }
            ClassicRecord::Downgraded(_) => {
                self.downgrades += 1;
                self.converted.insert(g.clone(), i32::MAX);
            }
            ClassicRecord::Joined { .. } | ClassicRecord::Preparing | ClassicRecord::Speaks { .. } => {}
        }
        Ok(())
    }
    /// A consumer group's epochs are its classic members' generations.
    pub fn epoch(&mut self, g: &GroupId, epoch: Epoch) {
        let last = self.generation.entry(g.clone()).or_default();
        *last = (*last).max(epoch);
    }
    /// Whether the assigning client left a partition out of this generation because a static member was to give it back first, and that member was replaced since. The new process has
    /// nothing to give back, so it does not call for the generation that would give the partition to somebody, and nobody else sees a reason to: KIP-345 and cooperative assignors
    /// (KIP-429) do that to each other, whoever coordinates.
    pub fn withheld(&self, g: &GroupId, generation: i32, p: &Partition) -> bool {
        let has = |generation: &i32, member: Option<&MemberId>| self.assigned.get(&(g.clone(), *generation)).into_iter().flatten().filter(|(m, _)| member.is_none_or(|x| x == *m))
            .any(|(_, a)| baton_coordinator::embedded::Assigned::decode(&a.0).is_ok_and(|a| a.partitions.contains(p)));
        let replaced = self.replaced.get(g).filter(|(of, _)| *of == generation).map_or(&[][..], |(_, who)| who);
        !has(&generation, None) && replaced.iter().any(|m| (0..generation).any(|earlier| has(&earlier, Some(m))))
    }
    fn gone(&mut self, now: Ms, g: &GroupId, member: &MemberId) { self.gone.insert((g.clone(), member.clone()), now); }
    /// Whether it was taken out, or its place taken, since then.
    pub fn is_gone(&self, g: &GroupId, member: &MemberId, since: Ms) -> bool {
        self.gone.get(&(g.clone(), member.clone())).is_some_and(|at| *at >= since) || self.group_gone.get(g).is_some_and(|at| *at >= since)
    }
    /// Whether a join that arrived then was too late to be part of that generation.
    pub fn made_without(&self, g: &GroupId, generation: i32, arrived: Ms) -> bool { self.made_at.get(g).is_some_and(|(n, at)| *n == generation && *at < arrived) }
    /// Whether nobody else may be given what this client uses now.
    pub fn protects(&self, c: &Client) -> bool {
        // A static member of a classic group is kept although it did not come to the join phase, and learns of it later.
        let behind = c.classic() && c.instance.is_some() && (c.catching_up || self.classic_generation.get(&c.group).is_some_and(|g| *g > c.told_in));
        c.alive() && !behind && !self.is_gone(&c.group, &c.id, c.life_began)
    }

    /// An answer to a client is let go.
    pub fn answered(&self, judge: &Judge, group: &GroupId, command: &Command, result: &Result<Response, GroupError>, names: &BTreeMap<u128, TopicName>, fresh: bool) -> Verdict {
        match (command, result) {
            (Command::Consumer(h), Ok(Response::Consumer(v))) if h.epoch >= 0 => {
                if fresh && judge.epochs_of(group).is_none_or(|(_, target)| v.epoch > target) {
                    return broken("answers-committed", format!("{group}: {} is told epoch {}, the group is at {:?}", v.member, v.epoch, judge.epochs_of(group)));
                }
                for (id, ps) in v.assignment.iter().flatten() {
                    let Some(t) = names.get(id) else { return broken("answers-committed", format!("{group}: {} is told of a topic {id} that never was", v.member)) };
                    judge.told(group, &v.member, ps.iter().map(|p| Partition::new(t.clone(), *p)))?;
                }
                Ok(())
            }
            (Command::Classic(ClassicCommand::Join(_)), Ok(Response::Classic(ClassicAnswer::Joined(j)))) => {
                let known = judge.epochs_of(group).map_or(0, |(e, _)| e).max(self.generation.get(group).copied().unwrap_or_default());
                if fresh && j.generation > known { broken("answers-committed", format!("{group}: {} is told generation {}, committed is {known}", j.member, j.generation)) } else { Ok(()) }
            }
            (Command::Classic(ClassicCommand::Sync(s)), Ok(Response::Classic(ClassicAnswer::Synced { assignment, .. }))) if fresh => {
                let mine = self.assigned.get(&(group.clone(), s.generation));
                if mine.is_some_and(|m| m.get(&s.member).cloned().unwrap_or_default() == *assignment) || self.downgrades > 0 && mine.is_none() {
                    return Ok(());
                }
                if mine.is_some() && self.converted.get(group).is_none_or(|at| s.generation > *at) {
                    return broken("one-generation", format!("{group}: the sync of {} in generation {} is answered with another assignment than that generation's", s.member, s.generation));
                }
                // Of a classic group that always was one: that generation has no assignment.
                if !self.converted.contains_key(group) && self.classic_generation.get(group).is_some_and(|g| *g >= s.generation) {
                    return broken("one-generation", format!("{group}: the sync of {} in generation {} is answered, and that generation was never assigned", s.member, s.generation));
                }
                // Of a consumer group: what was granted.
                let told = baton_coordinator::embedded::Assigned::decode(&assignment.0).map(|a| a.partitions).unwrap_or_default();
                if self.downgrades > 0 { Ok(()) } else { judge.told(group, &s.member, told.into_iter()) }
            }
            _ => Ok(()),
        }
    }
}
