//! What administrators and their tools do to offsets, and the histories of all calls that touch offsets. A group that nobody joins is theirs alone: only there
//! may they set and delete offsets at any time.

use super::*;
use baton_coordinator::classic::{ClassicCommand, GenerationCommit};

/// The administrators' own group.
const TOOLS: &str = "tools";
/// How often an administrator does something, per million ticks.
const RATE: u64 = 12_000;

impl World {
    pub(super) fn tool_faults(&mut self) {
        let busy = self.replicas.nodes.iter().any(|n| n.paused > self.now);
        if self.tools.ppm(1_500) && !busy && self.replicas.healthy() {
            let n = self.tools.below(3) as usize;
            if self.replicas.leader != Some(n) {
                self.fired.hit("follower falls behind");
                self.replicas.nodes[n].paused = self.now + self.tools.range(300, 3_000);
            }
        }
        // A group whose positions nobody comes back to.
        if self.plan.forgets && self.now <= 6_000 && self.now.is_multiple_of(2_000) {
            let offset = CommitOffset { partition: Partition::new("a", 0), token: FencingToken(0), offset: self.now as i64, metadata: String::new(), leader_epoch: None };
            self.tool(&GroupId::from("forgotten"), Command::Commit(Commit { member: None, offsets: vec![offset] }));
        }
        if !self.tools.ppm(RATE) { return }
        let group = GroupId::from(TOOLS);
        let partition = Partition::new(*self.tools.pick(&["a", "b"]).unwrap_or(&"a"), self.tools.below(2) as i32);
        let command = match self.tools.below(20) {
            0 => Command::DeleteGroup { force: false },
            1 | 2 => Command::DeleteOffsets { topic: partition.topic },
            3..=9 => {
                let n = self.offsets.entry((group.clone(), partition.clone())).or_default();
                *n += 1;
                let offset = CommitOffset { partition, token: FencingToken(0), offset: *n, metadata: format!("set {n}"), leader_epoch: None };
                Command::Commit(Commit { member: None, offsets: vec![offset] })
            }
            _ => Command::FetchOffsets { topic: Some(partition.topic), partition: Some(partition.partition) },
        };
        match &command {
            Command::DeleteGroup { .. } => self.fired.hit("group of an administrator deleted"),
            Command::DeleteOffsets { .. } => self.fired.hit("offsets deleted by an administrator"),
            Command::Commit(_) => self.fired.hit("offsets set by an administrator"),
            _ => {}
        }
        self.tool(&group, command);
    }

    /// To whoever leads, or to some node; sometimes a copy comes later.
    fn tool(&mut self, group: &GroupId, command: Command) {
        let call = self.call(None, command);
        self.calls[call].group = group.clone();
        let node = self.tools.pct(30).then(|| self.tools.below(3) as usize);
        let at = self.now + TICK + self.tools.below(self.plan.delay_ms);
        self.at(at, Ev::Request { node, call });
        if self.tools.pct(self.plan.copies_pct) {
            let (copy, late) = (self.copy(call), self.tools.below(self.plan.copies_late_ms));
            if at + late < self.plan.chaos_ms + 5_000 { self.at(at + late, Ev::Request { node: None, call: copy }); }
        }
    }

    /// Aimed: right after an election everybody asks for the positions that are known.
    pub(super) fn fetch_everything(&mut self) {
        if self.calm() { return }
        let places: Vec<Place> = self.offsets.keys().cloned().collect();
        if places.is_empty() { return }
        self.fired.hit("everything fetched after an election");
        for (group, p) in places {
            let call = self.call(None, Command::FetchOffsets { topic: Some(p.topic), partition: Some(p.partition) });
            self.calls[call].group = group;
            self.at(self.now + TICK, Ev::Request { node: None, call });
        }
    }

    fn stamp(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }

    /// A topic was deleted: some time later its offsets go, and those that come until then.
    pub(super) fn topic_goes(&mut self, topic: TopicName) {
        let at = self.stamp();
        let call = self.order.called_for_all(at, move |(_, p)| p.topic == topic, offsets::Op::Clear);
        self.order.repeats(call);
    }

    /// Positions of a group are past their retention: the same.
    pub(super) fn places_go(&mut self, group: GroupId, partitions: BTreeSet<Partition>) {
        let at = self.stamp();
        let call = self.order.called_for_all(at, move |(g, p)| *g == group && partitions.contains(p), offsets::Op::Clear);
        self.order.repeats(call);
    }

    /// A call has come to a node that will decide on it.
    pub(super) fn note_call(&mut self, call: usize) {
        let at = self.stamp();
        let c = &mut self.calls[call];
        let group = c.group.clone();
        let mut note = |p: &Partition, op: offsets::Op| c.noted.push((p.clone(), self.order.called(at, (group.clone(), p.clone()), op)));
        match &c.command {
            Command::Heartbeat(h) => c.told = self.told.ask(&(group, h.member.clone(), h.incarnation)),
            Command::Commit(commit) => for o in &commit.offsets {
                let value = offsets::Value { offset: o.offset, metadata: o.metadata.clone() };
                match &commit.member {
                    Some(m) => note(&o.partition, offsets::Op::Commit { token: o.token.0, seq: m.commit_seq, value }),
                    None => note(&o.partition, offsets::Op::Set { value }),
                }
            },
            Command::KafkaCommit(KafkaCommit { offsets, .. }) | Command::Classic(ClassicCommand::Commit(GenerationCommit { offsets, .. })) => {
                offsets.iter().for_each(|o| note(&o.partition, offsets::Op::Set { value: offsets::Value::of(o.offset) }));
            }
            Command::FetchOffsets { topic: Some(t), partition: Some(n) } => note(&Partition::new(t.clone(), *n), offsets::Op::Fetch { found: None }),
            Command::DeleteOffsets { topic } => {
                let (g, t) = (group, topic.clone());
                let id = self.order.called_for_all(at, move |(x, p)| *x == g && p.topic == t, offsets::Op::Clear);
                c.noted.push((Partition::new(topic.clone(), -1), id));
            }
            Command::DeleteGroup { .. } => {
                let id = self.order.called_for_all(at, move |(x, _)| *x == group, offsets::Op::Clear);
                c.noted.push((Partition::new("", -1), id));
            }
            _ => {}
        }
    }

    /// Its answer leaves. An answer that says nothing leaves the outcome unknown.
    pub(super) fn note_answer(&mut self, call: usize, result: &Result<Response, GroupError>) {
        let at = self.stamp();
        for (p, id) in std::mem::take(&mut self.calls[call].noted) {
            match result {
                Ok(Response::Offsets(found)) => {
                    let found = found.iter().find(|o| o.partition == p).map(|o| offsets::Value { offset: o.offset, metadata: o.metadata.clone() });
                    self.order.answered(id, at, offsets::Op::Fetch { found });
                }
                Ok(Response::Committed(results)) if results.iter().any(|(q, r)| *q == p && r.is_err()) => self.order.refused(id),
                Ok(_) => self.order.returned(id, at),
                Err(GroupError::UnknownGroup { .. }) if matches!(self.calls[call].command, Command::FetchOffsets { .. }) => self.order.answered(id, at, offsets::Op::Fetch { found: None }),
                Err(GroupError::Unavailable { .. }) if !shell::nothing_done(result) => {}
                Err(_) => self.order.refused(id),
            }
        }
    }
}
