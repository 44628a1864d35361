//! Random walks of classic clients with leader changes, lapsed leases and lost batches: no generation has two lists of members or two assignments, nobody is expired early or
//! late, and every request is answered.
use baton_coordinator::{classic::*, command::*, ids::*, record::*, shard::*};
use crate::common::{Rng, World};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// What a client believes. It may be wrong, late, or send things twice.
#[derive(Clone, Debug, Default)]
struct Client {
    id: MemberId,
    instance: Option<InstanceId>,
    generation: i32,
    /// Set by the answer that made it the assigning member.
    list: Option<Vec<GenerationMember>>,
    protocols: Vec<(String, Opaque)>,
}

#[derive(Clone, Debug)]
enum Sent {
    Join(usize),
    Sync(usize, i32),
    Other,
}

struct Walk {
    w: World,
    r: Rng,
    clients: Vec<Client>,
    sent: BTreeMap<Ticket, Sent>,
    /// Generation → who is in it, by instance id where there is one.
    lists: BTreeMap<i32, BTreeSet<String>>,
    /// Generation and member (or instance) → its assignment.
    parts: BTreeMap<(i32, String), Opaque>,
    term: u64,
    /// When each member's session last began: by a heartbeat, by its generation, by a leader's beginning, or when it was first seen.
    heard: BTreeMap<MemberId, u64>,
    generation: i32,
    seen: BTreeMap<&'static str, u64>,
}
const SESSION: u64 = 6_000;
const REBALANCE: u64 = 9_000;

fn name(id: &MemberId, instance: Option<&InstanceId>) -> String { instance.map_or_else(|| id.to_string(), |i| format!("static {i}")) }

impl Walk {
    fn new(seed: u64) -> Self {
        let mut r = Rng(seed);
        let clients = (0..5)
            .map(|i| Client {
                generation: -1, instance: (i < 2).then(|| format!("i{i}").as_str().into()),
                protocols: ["range", "sticky"].iter().skip(r.below(2) as usize).map(|p| (p.to_string(), Opaque::from(vec![i as u8]))).rev().collect(), ..Client::default()
            })
            .collect();
        Walk { w: World::new(&[]), r, clients, sent: BTreeMap::new(), lists: BTreeMap::new(), parts: BTreeMap::new(), term: 1, heard: BTreeMap::new(), generation: 0, seen: BTreeMap::new() }
    }
    fn saw(&mut self, what: &'static str) { *self.seen.entry(what).or_default() += 1; }
    fn state(&self) -> Option<&Classic> { self.w.shard.group(&"g".into()).and_then(|g| g.classic.as_deref()) }

    fn step(&mut self) {
        let i = self.r.below(self.clients.len() as u64) as usize;
        match self.r.below(20) {
            0..6 => self.join(i),
            6..11 => self.sync(i),
            11..15 => self.heartbeat(i),
            15 if self.r.one_in(2) => self.leave(i),
            16 if self.r.one_in(3) => self.restart(i),
            17 if self.r.one_in(3) => self.change_leader(),
            18 if self.r.one_in(3) => self.lose_a_batch(i),
            _ => {
                let ms = [1, 50, 700, 3_000, SESSION][self.r.below(5) as usize];
                self.pass(ms);
            }
        }
        self.look();
    }

    fn send(&mut self, what: Sent, command: ClassicCommand) {
        let t = self.w.send(Command::Classic(command));
        self.sent.insert(t, what);
    }
    fn join(&mut self, i: usize) {
        let c = &self.clients[i];
        let join = Join {
            member: c.id.clone(), instance_id: c.instance.clone(), client_id: format!("c{i}"), client_host: "h".into(), session_timeout_ms: SESSION, rebalance_timeout_ms: REBALANCE,
            protocol_type: "consumer".into(), protocols: c.protocols.clone(), version: if i == 4 { 3 } else { 9 }, random: u128::from(self.r.next()), reason: None,
        };
        self.send(Sent::Join(i), ClassicCommand::Join(Box::new(join)));
    }
    fn sync(&mut self, i: usize) {
        let salt = self.r.next();
        let c = &self.clients[i];
        // Two assignments of one list never look alike: so a second one would be seen.
        let assignments = c.list.iter().flatten().map(|m| (m.member.clone(), Opaque::from(format!("{} {salt}", m.member).into_bytes()))).collect();
        let sync = Sync { member: c.id.clone(), instance_id: c.instance.clone(), generation: c.generation, assignments, ..Sync::default() };
        self.send(Sent::Sync(i, c.generation), ClassicCommand::Sync(sync));
    }
    fn heartbeat(&mut self, i: usize) {
        let c = &self.clients[i];
        let (id, beat) = (c.id.clone(), Beat { member: c.id.clone(), instance_id: c.instance.clone(), generation: c.generation });
        let t = self.w.send(Command::Classic(ClassicCommand::Heartbeat(beat)));
        let answer = self.w.answer(t).expect("with no batch in flight a heartbeat is answered at once");
        if matches!(answer, Ok(_) | Err(GroupError::Classic { code: ClassicCode::RebalanceInProgress, .. })) {
            self.heard.insert(id, self.w.now.mono_ms);
            self.saw("accepted heartbeats");
        }
    }
    fn leave(&mut self, i: usize) {
        let c = &self.clients[i];
        let leaver = Leaver { member: c.id.clone(), instance_id: c.instance.clone(), reason: None };
        self.send(Sent::Other, ClassicCommand::Leave(vec![leaver]));
    }
    /// A client forgets everything; a static one comes back as the same instance.
    fn restart(&mut self, i: usize) {
        let c = &mut self.clients[i];
        (c.id, c.generation, c.list) = ("".into(), -1, None);
        self.join(i);
    }
    fn change_leader(&mut self) {
        self.term += 1;
        if self.r.one_in(3) {
            self.w.shard.lead(1, 1, self.w.now); // the lease had lapsed: the same leader, all timers anew
            self.saw("lapsed leases");
        } else {
            let mut next = Shard::restore(1, Default::default(), &self.w.shard.snapshot()).expect("the snapshot is read");
            self.w.shard.step_down();
            self.w.run();
            self.answers();
            next.lead(1, 1, self.w.now);
            self.w.shard = next;
            self.saw("leader changes");
        }
        self.w.run();
        let now = self.w.now.mono_ms;
        let all: Vec<MemberId> = self.state().map(|c| c.members.keys().cloned().collect()).unwrap_or_default();
        self.heard.extend(all.into_iter().map(|m| (m, now)));
    }
    /// A request whose entry finds another in its place.
    fn lose_a_batch(&mut self, i: usize) {
        self.w.auto_commit = false;
        let before = self.w.log.len();
        self.join(i);
        if self.w.log.len() > before {
            let lost = self.w.log.pop().expect("just proposed");
            self.w.shard.replay(&LogEntry { node: 9, base_sequence: lost.base_sequence, ..LogEntry::default() });
            self.w.shard.replay(&lost);
            self.saw("lost batches");
            let now = self.w.now.mono_ms;
            let all: Vec<MemberId> = self.state().map(|c| c.members.keys().cloned().collect()).unwrap_or_default();
            self.heard.extend(all.into_iter().map(|m| (m, now)));
        }
        self.w.auto_commit = true;
        self.w.run();
    }
    /// Time passes, timer by timer; whoever a session takes must have been silent for all of it.
    fn pass(&mut self, ms: u64) {
        let end = self.w.now.mono_ms + ms;
        while let Some(at) = self.w.shard.poll_timeout().filter(|at| *at <= end) {
            let from = self.w.log.len();
            self.w.pass(at.saturating_sub(self.w.now.mono_ms));
            let expired: Vec<MemberId> = self.w.log[from..].iter().flat_map(|e| &e.batches).flat_map(|b| &b.records)
                .filter_map(|r| match r {
                    Record::History(h) if h.kind == "expired" && h.cause.contains("for its session") => h.member.clone(),
                    _ => None,
                }).collect();
            for m in expired {
                let silent = self.w.now.mono_ms - self.heard.get(&m).copied().unwrap_or(0);
                assert!(silent >= SESSION, "{m} was expired after {silent} ms");
                self.saw("expired sessions");
            }
            self.look();
        }
        let rest = end - self.w.now.mono_ms;
        self.w.pass(rest);
    }

    fn answers(&mut self) {
        for (ticket, result) in std::mem::take(&mut self.w.answers) {
            let sent = self.sent.remove(&ticket).expect("every answer is to a request that was not answered before");
            match (sent, result) {
                (Sent::Join(i), Ok(Response::Classic(ClassicAnswer::Joined(j)))) => self.joined(i, *j),
                (Sent::Join(i), Err(GroupError::Classic { code: ClassicCode::MemberIdRequired, member: Some(m) })) => self.clients[i].id = m,
                (Sent::Join(i), Err(GroupError::Classic { code: ClassicCode::UnknownMemberId | ClassicCode::FencedInstanceId, .. })) => self.clients[i].id = "".into(),
                (Sent::Sync(i, generation), Ok(Response::Classic(ClassicAnswer::Synced { assignment, .. }))) => {
                    let c = &self.clients[i];
                    let key = (generation, name(&c.id, c.instance.as_ref()));
                    let first = self.parts.entry(key.clone()).or_insert_with(|| assignment.clone());
                    assert_eq!(*first, assignment, "{key:?} has two assignments");
                    self.saw("synced");
                }
                (_, _) => {}
            }
        }
    }
    fn joined(&mut self, i: usize, j: JoinedGeneration) {
        if !j.members.is_empty() {
            let list: BTreeSet<String> = j.members.iter().map(|m| name(&m.member, m.instance_id.as_ref())).collect();
            let first = self.lists.entry(j.generation).or_insert_with(|| list.clone());
            assert_eq!(*first, list, "generation {} has two lists", j.generation);
        }
        let c = &mut self.clients[i];
        (c.id, c.generation, c.list) = (j.member, j.generation, (!j.members.is_empty() && !j.skip_assignment).then_some(j.members));
        self.saw("joined");
    }

    /// What must hold after every step.
    fn look(&mut self) {
        self.answers();
        let now = self.w.now.mono_ms;
        let g: GroupId = "g".into();
        let Some(group) = self.w.shard.group(&g) else { return };
        assert_eq!(baton_coordinator::invariants::check(group), Vec::<String>::new());
        let (Some(c), Some(soft)) = (group.classic.as_deref(), self.w.shard.classic_soft(&g)) else { panic!("a group of classic clients is a classic one") };
        assert!(soft.joining.keys().chain(soft.syncing.keys()).chain(&soft.pending_sync).all(|m| c.members.contains_key(m)), "who waits is a member: {soft:?}");
        assert!(soft.joining.is_empty() || c.phase == Phase::Preparing, "nobody waits for a join phase in {:?}", c.phase);
        assert!(soft.syncing.is_empty() || c.phase == Phase::Completing, "nobody waits for an assignment in {:?}", c.phase);
        if c.phase == Phase::Preparing {
            assert!(soft.initial.is_some() || c.members.is_empty() || !soft.pending.is_empty() || soft.joining.len() < c.members.len(), "all have joined, and the join phase goes on");
        }
        for m in c.members.keys() {
            let heard = self.heard.entry(m.clone()).or_insert(now);
            if c.generation != self.generation {
                *heard = now;
            }
        }
        self.generation = c.generation;
        // Nobody who does not wait outlives a silent session (heartbeats and answers are the only ways to be heard of).
        for m in c.members.keys().filter(|m| !soft.joining.contains_key(*m) && !soft.syncing.contains_key(*m)) {
            let heard = self.heard[m];
            // Its sync may have been held for as long as the sync phase may last.
            assert!(now < heard + REBALANCE + SESSION, "{m} is silent for {} ms", now - heard);
        }
        self.heard.retain(|m, _| c.members.contains_key(m));
    }

    /// The clients stop: every request has its answer, and the group is empty.
    fn end(&mut self) {
        self.pass(600_000);
        self.look();
        assert!(self.sent.is_empty(), "unanswered: {:?}", self.sent);
        if let Some(c) = self.state() {
            assert_eq!((c.phase, c.members.len()), (Phase::Empty, 0));
        }
    }
}

fn walk(seed: u64, steps: usize) -> BTreeMap<&'static str, u64> {
    let mut walk = Walk::new(seed);
    (0..steps).for_each(|_| walk.step());
    walk.end();
    walk.seen
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_generation_has_two_lists_or_two_assignments_and_sessions_are_exact(seed in any::<u64>()) { walk(seed, 200); }
}

#[test]
fn the_walks_meet_what_they_are_about() {
    let mut sum: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..60 {
        for (what, n) in walk(seed, 200) {
            *sum.entry(what).or_default() += n;
        }
    }
    println!("{sum:?}");
    for what in ["accepted heartbeats", "joined", "synced", "leader changes", "lapsed leases", "lost batches", "expired sessions"] {
        assert!(sum.get(what).copied().unwrap_or(0) >= 20, "{what} hardly happens: {sum:?}");
    }
}
