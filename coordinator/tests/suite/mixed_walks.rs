//! Random walks of a group in which classic, consumer and HTTP members come and go: conversions in both directions, leader changes, silence. No batch is ever refused for an
//! invariant, no request stays open, and what two members are told never overlaps.
use baton_coordinator::{classic::*, command::*, embedded::*, ids::*, invariants, record::*, shard::*};
use crate::common::{Model, Rng, World, kafka::Kafka};
use std::collections::BTreeMap;

/// A classic client: joins when it is called, assigns everything to itself if it is asked to.
#[derive(Clone, Debug, Default)]
struct Client {
    id: MemberId,
    instance: Option<InstanceId>,
    generation: i32,
    owned: Vec<Partition>,
    list: Vec<MemberId>,
}

struct Walk {
    w: World,
    r: Rng,
    classic: Vec<Client>,
    kafka: Vec<Kafka>,
    http: Model,
    joins: BTreeMap<Ticket, usize>,
    seen: BTreeMap<&'static str, u64>,
}

impl Walk {
    fn new(seed: u64) -> Walk {
        let classic = (0..3).map(|i| Client { generation: -1, instance: (i == 0).then(|| "i0".into()), ..Client::default() }).collect();
        let kafka = vec![Kafka::new("k1", &["t"]), Kafka::fixed("k2", "i2", &["t"])];
        Walk { w: World::new(&[("t", 5)]), r: Rng(seed), classic, kafka, http: Model::new("h", &["t"]), joins: BTreeMap::new(), seen: BTreeMap::new() }
    }
    fn saw(&mut self, what: &'static str) { *self.seen.entry(what).or_default() += 1; }
    fn step(&mut self) {
        let i = self.r.below(3) as usize;
        match self.r.below(16) {
            0..4 => self.join(i),
            4..6 => self.sync(i),
            6 | 7 => self.beat(i),
            8 => {
                let c = &self.classic[i];
                let leaver = Leaver { member: c.id.clone(), instance_id: c.instance.clone(), reason: None };
                let _ = self.w.ask(Command::Classic(ClassicCommand::Leave(vec![leaver])));
            }
            9..12 => self.consumer(i % 2),
            12 => self.http(),
            13 => {
                let ms = [100, 3_000, 9_000, 16_000][self.r.below(4) as usize];
                self.w.pass(ms);
            }
            14 if self.r.below(4) == 0 => self.change_leader(),
            _ => self.w.pass(500),
        }
        self.look();
    }
    fn join(&mut self, i: usize) {
        let random = u128::from(self.r.below(1 << 30));
        let c = &self.classic[i];
        let said = Subscription { topics: vec!["t".into()], owned: c.owned.clone(), generation: c.generation, ..Subscription::default() }.encode(3).expect("it is short");
        let join = Join {
            member: c.id.clone(), instance_id: c.instance.clone(), client_id: format!("c{i}"), client_host: "h".into(), session_timeout_ms: 8_000, rebalance_timeout_ms: 12_000,
            protocol_type: "consumer".into(), protocols: vec![("range".into(), said.into())], version: 9, random, reason: None,
        };
        let t = self.w.send(Command::Classic(ClassicCommand::Join(Box::new(join))));
        self.joins.insert(t, i);
    }
    fn sync(&mut self, i: usize) {
        let c = &self.classic[i];
        let share = |n: usize| Assigned { partitions: (0..5).filter(|p| *p as usize % c.list.len() == n).map(|p| Partition::new("t", p)).collect(), user_data: None }.encode(3).expect("it is short");
        let assignments = c.list.iter().enumerate().map(|(n, m)| (m.clone(), share(n).into())).collect();
        let sync = Sync { member: c.id.clone(), instance_id: c.instance.clone(), generation: c.generation, assignments, ..Sync::default() };
        let t = self.w.send(Command::Classic(ClassicCommand::Sync(sync)));
        // A held one is answered to nobody here: the client asks again.
        if let Some(Ok(Response::Classic(ClassicAnswer::Synced { assignment, .. }))) = self.w.answer(t) {
            self.classic[i].owned = Assigned::decode(&assignment.0).expect("it can be read").partitions;
            self.saw("synced");
        }
    }
    fn beat(&mut self, i: usize) {
        let c = &self.classic[i];
        let beat = Beat { member: c.id.clone(), instance_id: c.instance.clone(), generation: c.generation };
        if self.w.ask(Command::Classic(ClassicCommand::Heartbeat(beat))).is_ok() {
            self.saw("steady classic heartbeats");
        }
    }
    fn consumer(&mut self, i: usize) {
        let leaves = self.r.below(5) == 0;
        let k = self.kafka[i].clone();
        let h = if k.epoch == 0 { k.join() } else if leaves { ConsumerHeartbeat { epoch: -1, ..k.beat() } } else { k.owning() };
        match self.w.consumer(h) {
            Ok(v) if v.epoch > 0 => {
                self.kafka[i].take(&v);
                self.saw("consumer heartbeats");
            }
            Ok(_) | Err(_) => (self.kafka[i].epoch, self.kafka[i].owned) = (0, Default::default()),
        }
    }
    fn http(&mut self) {
        let removes = self.r.below(6) == 0;
        if removes {
            let _ = self.w.ask(Command::RemoveMember { member: "h".into() });
        }
        let h = if self.http.epoch == 0 { self.http.join_request() } else { self.http.steady_request() };
        match self.w.beat(h) {
            Ok(v) => self.http.take(&v),
            Err(_) => (self.http.epoch, self.http.owned) = (0, Default::default()),
        }
    }
    fn change_leader(&mut self) {
        let mut next = Shard::restore(1, Default::default(), &self.w.shard.snapshot()).expect("the snapshot is read");
        self.w.shard.step_down();
        self.w.run();
        next.lead(1, 1, self.w.now);
        next.metadata(std::sync::Arc::new(self.w.meta.clone()), self.w.now);
        self.w.shard = next;
        self.w.run();
        self.saw("leader changes");
    }
    fn look(&mut self) {
        for (t, result) in std::mem::take(&mut self.w.answers) {
            let Some(i) = self.joins.remove(&t) else { continue };
            let c = &mut self.classic[i];
            match result {
                Ok(Response::Classic(ClassicAnswer::Joined(j))) => {
                    (c.id, c.generation, c.list) = (j.member, j.generation, j.members.into_iter().map(|m| m.member).collect());
                    self.saw("joined");
                }
                Err(GroupError::Classic { code: ClassicCode::MemberIdRequired, member: Some(m) }) => c.id = m,
                Err(GroupError::Classic { code: ClassicCode::UnknownMemberId | ClassicCode::FencedInstanceId, .. }) => (c.id, c.generation, c.owned) = ("".into(), -1, Vec::new()),
                _ => {}
            }
        }
        assert_eq!(self.w.shard.stats().refused_batches, 0, "a batch was refused or quarantined: {:#?}", self.w.shard.group(&"g".into()));
        if let Some(g) = self.w.shard.group(&"g".into()) {
            assert_eq!(invariants::check(g), Vec::<String>::new());
            assert!(g.classic.is_none() || g.holds.is_empty(), "a classic group holds nothing");
        }
    }
    fn end(mut self) -> BTreeMap<&'static str, u64> {
        self.w.pass(600_000);
        self.look();
        assert!(self.joins.is_empty(), "unanswered: {:?}", self.joins);
        assert_eq!(self.w.shard.group(&"g".into()).map_or(0, |g| g.members_count()), 0, "all are silent");
        for r in self.w.log.iter().flat_map(|e| &e.batches).flat_map(|b| &b.records) {
            if let Record::Classic(c) = r {
                match &**c {
                    ClassicRecord::Upgraded { .. } => *self.seen.entry("upgrades").or_default() += 1,
                    ClassicRecord::Downgraded(_) => *self.seen.entry("downgrades").or_default() += 1,
                    _ => {}
                }
            }
        }
        self.seen
    }
}

#[test]
fn mixed_groups_break_nothing_and_are_converted_in_both_directions() {
    let mut sum: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..400 {
        let mut walk = Walk::new(seed);
        (0..150).for_each(|_| walk.step());
        for (what, n) in walk.end() {
            *sum.entry(what).or_default() += n;
        }
    }
    println!("{sum:?}");
    for what in ["upgrades", "downgrades", "joined", "synced", "leader changes", "consumer heartbeats", "steady classic heartbeats"] {
        assert!(sum.get(what).copied().unwrap_or(0) >= 50, "{what} hardly happens: {sum:?}");
    }
}
