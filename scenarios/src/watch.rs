//! Looks on: whose a partition is at the coordinator, what each member does with it, and when nobody (or two) worked on it.

use crate::{
    Ms,
    members::{Hands, Process},
    world::Names,
};
use baton_coordinator::{command::{GroupState, OwnerState}, embedded::Assigned, ids::*, state::Group};
use std::collections::{BTreeMap, BTreeSet};

/// A partition on which nobody worked, from when to when (None: until the end), and who did before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause { pub partition: String, pub from: Ms, pub to: Option<Ms>, pub before: String, pub after: String }

/// Who works on what.
#[derive(Default)]
pub struct Watch {
    pub pauses: Vec<Pause>,
    pub overlaps: Vec<Pause>,
    /// On these somebody has worked.
    pub ever: BTreeSet<String>,
    working: BTreeMap<String, BTreeSet<String>>,
    /// Since when nobody works on it, and who did last.
    paused: BTreeMap<String, (Ms, String)>,
    doubled: BTreeMap<String, (Ms, String)>,
    hands: BTreeMap<String, Hands>,
}

impl Watch {
    /// What a member's hands did since the last look.
    pub fn hands(&mut self, who: &str, p: &Process, names: &Names) -> Vec<String> {
        let now = &p.body.hands;
        let before = self.hands.insert(who.to_string(), now.clone()).unwrap_or_default();
        let mut out = Vec::new();
        let mut tell = |what: &str, ps: Vec<&Partition>| if !ps.is_empty() { out.push(format!("{what} {}", names.partitions(ps))) };
        let owned = now.owned();
        tell("has given up", before.giving.keys().filter(|x| !owned.contains(*x)).collect());
        // With nothing to finish, stopping and having given up are one.
        tell("stops", before.working.iter().filter(|x| !owned.contains(*x)).collect());
        tell("begins to give up", now.giving.keys().filter(|x| !before.giving.contains_key(*x)).collect());
        tell("works on", now.working.difference(&before.working).collect());
        out
    }
    /// Who works on what after an event.
    pub fn work(&mut self, now: Ms, pairs: Vec<(String, String)>) {
        let mut working: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (partition, who) in pairs {
            self.ever.insert(partition.clone());
            working.entry(partition).or_default().insert(who);
        }
        let join = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(" and ");
        for (partition, who) in &working {
            if let Some((from, before)) = self.paused.remove(partition)
                && from < now
            {
                self.pauses.push(Pause { partition: partition.clone(), from, to: Some(now), before, after: join(who) });
            }
            if who.len() > 1 {
                self.doubled.entry(partition.clone()).or_insert((now, join(who)));
            }
        }
        for (partition, who) in std::mem::take(&mut self.working) {
            if !working.contains_key(&partition) {
                self.paused.insert(partition, (now, join(&who)));
            }
        }
        for (partition, (from, before)) in std::mem::take(&mut self.doubled) {
            match working.get(&partition) {
                Some(who) if who.len() > 1 => {
                    self.doubled.insert(partition, (from, before));
                }
                who => self.overlaps.push(Pause { partition, from, to: Some(now), before, after: who.map(&join).unwrap_or_default() }),
            }
        }
        self.working = working;
    }
    /// The story begins here: pauses that have ended belong to what came before.
    pub fn forget(&mut self) {
        self.pauses.clear();
        self.overlaps.clear();
    }
    /// The story is over.
    pub fn close(&mut self) {
        let open = |(partition, (from, before)): (String, (Ms, String))| Pause { partition, from, to: None, before, after: String::new() };
        self.pauses.extend(std::mem::take(&mut self.paused).into_iter().map(open));
        self.overlaps.extend(std::mem::take(&mut self.doubled).into_iter().map(open));
        self.pauses.sort_by(|a, b| (a.from, &a.partition).cmp(&(b.from, &b.partition)));
    }
}

/// The group as it was last told: whose each partition is, its number (epoch or generation), and since when it is not stable.
#[derive(Default)]
pub struct Owners {
    owners: BTreeMap<Partition, (MemberId, OwnerState)>,
    number: Option<(bool, i32)>,
    stable: bool,
    unstable_since: Option<Ms>,
}

impl Owners {
    /// What is new: (who, what).
    pub fn follow(&mut self, now: Ms, group: Option<&Group>, names: &Names) -> Vec<(&'static str, String)> {
        let mut out = Vec::new();
        let Some(g) = group else {
            *self = Owners::default();
            return out;
        };
        let number = g.classic.as_ref().map_or((false, g.epoch), |c| (true, c.generation));
        if self.number != Some(number) {
            self.number = Some(number);
            if !number.0 {
                out.push(("group", format!("has epoch {}", number.1))); // a generation is told by the history
            }
        }
        let owners = owners(g);
        out.extend(changes(&self.owners, &owners, names).into_iter().map(|what| ("owner", what)));
        self.owners = owners;
        let stable = g.state() == GroupState::Stable;
        match (self.stable, stable) {
            (true, false) => self.unstable_since = Some(now),
            (false, true) => {
                let took = self.unstable_since.take().map(|since| format!(" again after {} ms", now - since)).unwrap_or_default();
                out.push(("group", format!("is stable{took}: {}", whole(&self.owners, g, names))));
            }
            (true, true) | (false, false) => {}
        }
        self.stable = stable;
        out
    }
}

impl Owners {
    /// The group as it is.
    pub fn summary(&self, group: Option<&Group>, names: &Names) -> (&'static str, String) {
        let Some(g) = group else { return ("group", "does not exist yet".into()) };
        let number = g.classic.as_ref().map_or_else(|| format!("epoch {}", g.epoch), |c| format!("generation {}", c.generation));
        ("group", format!("is {:?} in {number}: {}", g.state(), whole(&self.owners, g, names)))
    }
}

/// Whose each partition is. In a classic group only members read what they are assigned; it is decoded here.
fn owners(g: &Group) -> BTreeMap<Partition, (MemberId, OwnerState)> {
    let Some(c) = &g.classic else { return g.owners.iter().map(|(p, o)| (p.clone(), (o.member.clone(), o.state))).collect() };
    let of = |a: &[u8]| Assigned::decode(a).map(|a| a.partitions).unwrap_or_default();
    c.members.iter().flat_map(|(id, m)| of(&m.assignment.0).into_iter().map(move |p| (p, (id.clone(), OwnerState::Assigned)))).collect()
}

/// One line for each change that partitions have in common.
fn changes(before: &BTreeMap<Partition, (MemberId, OwnerState)>, now: &BTreeMap<Partition, (MemberId, OwnerState)>, names: &Names) -> Vec<String> {
    let mut by: BTreeMap<String, Vec<&Partition>> = BTreeMap::new();
    for (p, old) in before {
        if !now.contains_key(p) {
            by.entry(format!("free, was {}'s", names.member(&old.0))).or_default().push(p);
        }
    }
    for (p, (m, state)) in now.iter().filter(|(p, o)| before.get(*p) != Some(o)) {
        let name = names.member(m);
        let how = match state {
            OwnerState::Assigned => format!("is {name}'s"),
            OwnerState::PendingRevocation => format!("is asked back from {name}"),
            OwnerState::Held => format!("is held: {name} may still work on it"),
            OwnerState::Free => continue,
        };
        by.entry(how).or_default().push(p);
    }
    by.into_iter().map(|(how, ps)| format!("{}: {how}", names.partitions(ps))).collect()
}

fn whole(owners: &BTreeMap<Partition, (MemberId, OwnerState)>, g: &Group, names: &Names) -> String {
    let members = g.members.keys().chain(g.classic.iter().flat_map(|c| c.members.keys()));
    let mut by: BTreeMap<String, Vec<&Partition>> = members.map(|m| (names.member(m), Vec::new())).collect();
    for (p, (m, _)) in owners {
        by.entry(names.member(m)).or_default().push(p);
    }
    let one = |(m, ps): (String, Vec<&Partition>)| if ps.is_empty() { format!("{m} nothing") } else { format!("{m} {}", names.partitions(ps)) };
    by.into_iter().map(one).collect::<Vec<_>>().join(", ")
}
