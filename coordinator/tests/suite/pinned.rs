//! The same group gets the same assignment in every release: if it did not, an upgrade would move partitions in every group there is, and while it goes on two leaders
//! would disagree about what is best. A digest that differs is no bug in itself; it is a change that has to be wanted and told in the changelog.
use crate::common::Rng;
use baton_coordinator::{
    assign::{Assignment, ASSIGNORS, Input, assign, client::{self, *}},
    embedded::*,
    ids::*,
};
use std::collections::{BTreeMap, BTreeSet};

const GROUPS: u64 = 400;
const ROUNDS: u64 = 4;

/// FNV-1a.
fn add(digest: &mut u64, bytes: &[u8]) { for b in bytes { *digest = (*digest ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3); } }
fn add_all(digest: &mut u64, out: &Assignment) { for (m, ps) in out { add(digest, format!("{m}{ps:?}").as_bytes()); } }

fn topic(t: u64) -> TopicName { TopicName::from(format!("t{t}")) }
fn partitions(topics: &BTreeMap<TopicName, i32>) -> Vec<Partition> { topics.iter().flat_map(|(t, n)| (0..*n).map(move |p| Partition::new(t.clone(), p))).collect() }
fn racks(r: &mut Rng) -> BTreeSet<String> { (0..r.below(3)).map(|_| format!("r{}", r.below(3))).collect() }

/// A group in which members come and go and change what they subscribe to, with everything that an assignor looks at.
struct Drawn { r: Rng, input: Input, alike: bool, topics: u64 }
impl Drawn {
    fn new(seed: u64) -> Drawn {
        let mut r = Rng(seed);
        let topics = 1 + r.below(8);
        let counts: BTreeMap<TopicName, i32> = (0..topics).map(|t| (topic(t), 1 + r.below(12) as i32)).collect();
        let zones = partitions(&counts).into_iter().map(|p| (p, racks(&mut r))).collect();
        let weights = partitions(&counts).into_iter().filter_map(|p| (!r.one_in(3)).then(|| (p, 1 + r.below(9) as u32))).collect();
        let mut drawn = Drawn { input: Input { topics: counts, zones, weights, ..Input::default() }, alike: r.one_in(3), topics, r };
        for _ in 0..=drawn.r.below(14) { drawn.comes(); }
        drawn
    }
    fn subscription(&mut self) -> BTreeSet<TopicName> {
        let same = self.input.subscriptions.values().next().filter(|_| self.alike).cloned();
        let each: Vec<bool> = (0..self.topics).map(|_| !self.r.one_in(3)).collect();
        same.unwrap_or_else(|| each.iter().zip(0..).filter(|(on, _)| **on).map(|(_, t)| topic(t)).collect())
    }
    fn comes(&mut self) {
        let (m, wants) = (MemberId::from(format!("m{}", self.r.below(40))), self.subscription());
        let (r, input) = (&mut self.r, &mut self.input);
        input.subscriptions.insert(m.clone(), wants);
        if !r.one_in(3) { input.racks.insert(m.clone(), format!("r{}", r.below(3))); }
        if r.one_in(3) { input.instances.insert(m.clone(), format!("i{m}").as_str().into()); }
        if r.one_in(2) { input.capacities.insert(m, r.below(4) as u32); }
    }
    /// Some go, some come, somebody wants something else.
    fn changes(&mut self) {
        for _ in 0..self.r.below(4) {
            let all: Vec<MemberId> = self.input.subscriptions.keys().cloned().collect();
            let m = all[self.r.below(all.len() as u64) as usize].clone();
            match self.r.below(3) {
                0 if all.len() > 1 => drop(self.input.subscriptions.remove(&m)),
                1 if !self.alike => {
                    let wants = self.subscription();
                    self.input.subscriptions.insert(m, wants);
                }
                _ => self.comes(),
            }
        }
        let here: BTreeSet<MemberId> = self.input.subscriptions.keys().cloned().collect();
        self.input.racks.retain(|m, _| here.contains(m));
        self.input.instances.retain(|m, _| here.contains(m));
        self.input.capacities.retain(|m, _| here.contains(m));
        self.input.moves_max = self.r.one_in(3).then(|| self.r.below(6) as usize);
    }
}

#[test]
fn the_coordinators_assignors_give_what_they_gave() {
    let mut digests = [0xcbf2_9ce4_8422_2325_u64; ASSIGNORS.len()];
    for (name, digest) in ASSIGNORS.iter().zip(&mut digests) {
        for seed in 0..GROUPS {
            let mut drawn = Drawn::new(seed);
            for _ in 0..ROUNDS {
                let out = assign(name, &drawn.input);
                add_all(digest, &out);
                drawn.input.previous = out;
                drawn.changes();
            }
        }
    }
    assert_eq!(digests, [0xd38b_7cb7_43b7_d66e, 0x79b5_24f5_3ede_85f8, 0x2601_826d_c8b6_0fd8, 0xce80_cc38_d434_528a], "of {ASSIGNORS:?}");
}

#[test]
fn the_clients_assignors_give_what_they_gave() {
    let names = CLIENT.map(|a| a.name());
    let mut digests = [0xcbf2_9ce4_8422_2325_u64; CLIENT.len()];
    for (assignor, digest) in CLIENT.iter().zip(&mut digests) {
        for seed in 0..GROUPS {
            let mut drawn = Drawn::new(seed);
            let racks_of = |t: &TopicName, input: &Input| input.zones.iter().filter(|(p, _)| p.topic == *t).map(|(_, z)| z.clone()).collect();
            let topics: BTreeMap<TopicName, ClientTopic> = drawn.input.topics.iter().map(|(t, n)| (t.clone(), ClientTopic { partitions: *n, racks: racks_of(t, &drawn.input) })).collect();
            let (mut before, with_racks) = (Assignment::new(), drawn.r.one_in(2));
            for generation in 1..=ROUNDS as i32 {
                let members = drawn.input.subscriptions.iter().map(|(m, wants)| {
                    // Some come with what they had some time ago.
                    let (owned, lags) = (before.get(m).into_iter().flatten().cloned().collect::<Vec<_>>(), drawn.r.one_in(8));
                    let generation = generation - 1 - i32::from(lags);
                    let rack = drawn.input.racks.get(m).filter(|_| with_racks).cloned();
                    let user_data = assignor.user_data(&owned, generation);
                    let subscription = Subscription { topics: wants.iter().cloned().collect(), rack, user_data, owned, generation };
                    (m.clone(), ClientMember { instance: drawn.input.instances.get(m).cloned(), subscription })
                });
                let group = ClientGroup { members: members.collect(), topics: topics.clone() };
                for m in group.members.values() { add(digest, &m.subscription.user_data.clone().unwrap_or_default()); }
                let out = client::assign(assignor.name(), &group).expect("a known assignor");
                add_all(digest, &out);
                // Who was away this time comes back with what it had.
                before.extend(out);
                drawn.changes();
            }
        }
    }
    assert_eq!(digests, [0x1614_4f61_58d9_66e5, 0x2991_f207_f247_ad9b, 0x2a72_dbd1_3e1e_0f01, 0xb0aa_8bed_9756_36ff], "of {names:?}");
}
