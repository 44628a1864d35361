//! Plays one story: processes, network, shell and sinks around the replicas; the faults of its plan; then calm, in which everything must settle.

mod clients;
mod faults;
mod phases;
mod shell;
mod tools;

use crate::{client::Client, member::*, plan::*, replicas::Replicas, rng::Rng, timeline::Timeline, watch::Watch};
use baton_coordinator::{command::*, ids::*, metadata::*, seeded};
use baton_invariants::{
    Broken, Place, Verdict, answers, broken,
    linear::{History, Report, history::CallId, monotone::{Floor, Monotone}, offsets::{self, Offsets}},
    state::{self, Judge, complete}, timers,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

/// How a story ended.
pub struct Outcome {
    pub seed: u64,
    pub plan: Plan,
    /// When and how an invariant broke.
    pub broken: Option<(Ms, Broken)>,
    pub fired: Fired,
    /// Equal for two runs of one seed.
    pub trace: u64,
    /// Who did what when; empty unless asked for.
    pub story: Vec<String>,
    /// Who owned what when, with the faults beside it; empty unless asked for.
    pub timeline: Timeline,
    /// How often the branch of the seeded bug that is on was reached.
    pub reached: u64,
    /// The groups and the leader's timers as they were when something broke; empty otherwise.
    pub state: String,
    pub settled_after: Ms,
    /// What the check of the order of commits, fetches and admin calls looked at.
    pub order: Report,
    pub simulated_ms: Ms,
}

enum Ev {
    /// `node` None: whoever leads when it arrives.
    Request { node: Option<usize>, call: usize },
    Release { node: usize, term: Term, call: usize, result: Result<Response, GroupError> },
    Answer { call: usize, result: Result<Response, GroupError> },
    Image { node: usize, image: Arc<Metadata> },
    LeaderDies,
    Done { node: usize, done: Box<baton_coordinator::work::Done> },
}

/// One request on its way, or a copy of one.
struct Call {
    /// None: an administrator's.
    process: Option<usize>,
    client: Option<usize>,
    life: u64,
    sent: Ms,
    arrived: Ms,
    copy: bool,
    group: GroupId,
    command: Command,
    deletions: u64,
    /// In the histories of the partitions it is about, once it has arrived.
    noted: Vec<(Partition, CallId)>,
    /// What its member had been told when it arrived.
    told: Floor<(u64, Epoch)>,
    /// The committed membership when it arrived, if it is a heartbeat's.
    member_at: Option<(AssignmentRevision, Epoch)>,
    standing: Option<clients::Standing>,
    /// The partitions that the member of a commit held when it arrived, under the tokens that it names.
    held_at: BTreeSet<Partition>,
}

/// Who believes what is looked at whenever somebody may have begun to believe something, and this often anyway.
const LOOK: Ms = 100;

/// The simulated world.
pub struct World {
    r: Rng,
    plan: Plan,
    now: Ms,
    replicas: Replicas,
    processes: Vec<Process>,
    clients: Vec<Client>,
    watch: Watch,
    /// Every topic that ever was, by its id.
    topic_names: BTreeMap<u128, TopicName>,
    /// The topics as clients see them.
    topics: Arc<crate::client::Topics>,
    groups: Vec<GroupId>,
    meta: Metadata,
    queue: BTreeMap<(Ms, u64), Box<Ev>>,
    next: u64,
    calls: Vec<Call>,
    judge: Judge,
    /// Commits, fetches and admin calls, as they came in and were answered at the nodes' doors: each in an order that grows with every event.
    order: History<Place, Offsets>,
    looked: Report,
    stamp: u64,
    /// (assignment revision, epoch) that each member was told last.
    told: Monotone<(GroupId, MemberId, Incarnation), (u64, Epoch)>,
    /// Draws what administrators do: apart, so that the stories of members stay what they are.
    tools: Rng,
    fired: Fired,
    story: Option<Vec<String>>,
    timeline: Timeline,
    trace: u64,
    /// True arrival of the last heartbeat of a process that was answered with success.
    accepted: BTreeMap<(GroupId, MemberId, Incarnation), Ms>,
    /// Per node: the batch it proposed last (term, base sequence, groups).
    proposed: BTreeMap<usize, (Term, u64, BTreeSet<GroupId>)>,
    offsets: BTreeMap<Place, i64>,
    /// Commits of members that have come to a leader: the greatest number by place and token.
    numbers: BTreeMap<(Place, u64), u64>,
    /// Requests that have reached a node which stands still, and that it has not taken up yet.
    in_sockets: BTreeSet<(usize, usize)>,
    /// Requests that a node has taken up and not answered yet.
    taken_up: BTreeSet<(usize, usize)>,
    /// Join phases that begin: whoever waited for an assignment when they were proposed is to hear of it.
    calls_to_join: Vec<phases::CallToJoin>,
    revocations: phases::Revocations,
    /// The group of a member that is too slow, until when its session is changed again and again, and whether it is made longer next.
    told_things: Option<(GroupId, Ms, bool)>,
    /// Leaders that stood still, and until when.
    stalls: Vec<(usize, Ms)>,
    /// The next leader has not heard of this revision of the metadata yet.
    behind: Option<u64>,
    incarnations: u128,
    /// Seen outside of a step that can say so.
    wrong: Option<Broken>,
    /// Somebody may have begun to believe something since the last look at who believes what. Beliefs begin with answers and with a client's own step; they end at any time.
    began: bool,
    /// Nobody makes, grows or deletes a topic any more.
    topics_stand: bool,
}

/// Plays `seed`, with seeded bug `bug` (0: none); `tell` keeps the story.
pub fn run(seed: u64, bug: u8, tell: bool) -> Outcome {
    seeded::set(bug);
    let mut w = World::new(seed, tell);
    let played = catch_unwind(AssertUnwindSafe(|| w.play()));
    let result = played.unwrap_or_else(|p| {
        let text = p.downcast_ref::<String>().cloned().or(p.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default();
        broken("panic", text)
    });
    let reached = seeded::reached();
    seeded::set(0);
    let simulated_ms = w.now;
    let settled_after = w.now.saturating_sub(w.plan.chaos_ms);
    w.timeline.close(w.now, result.as_ref().err());
    let state = if result.is_err() && w.story.is_some() { w.state() } else { String::new() };
    Outcome { seed, state, simulated_ms, timeline: w.timeline, plan: w.plan, broken: result.err().map(|b| (w.now, b)), fired: w.fired, trace: w.trace, story: w.story.unwrap_or_default(), reached, settled_after, order: w.looked }
}

impl World {
    fn new(seed: u64, tell: bool) -> World {
        let mut r = Rng(seed.wrapping_mul(0x2545_F491_4F6C_DD1D) ^ 0xba70);
        let plan = Plan::draw(&mut r);
        let replicas = Replicas::new(&mut r, &plan);
        let groups = (0..plan.groups).map(|g| GroupId::from(format!("g{g}").as_str())).collect();
        let mut w = World {
            r, plan, now: 0, replicas, processes: Vec::new(), clients: Vec::new(), watch: Watch::default(), topic_names: BTreeMap::new(), topics: Arc::default(), groups, meta: Metadata::default(), queue: BTreeMap::new(), next: 0, calls: Vec::new(), judge: Judge::bounded(crate::replicas::limits().history_max),
            order: History::default(), looked: Report::default(), stamp: 0, told: Monotone::default(), tools: Rng(seed ^ 0x7001), fired: Fired::default(), story: tell.then(Vec::new), timeline: Timeline::default(), trace: 0, accepted: BTreeMap::new(), proposed: BTreeMap::new(), offsets: BTreeMap::new(), numbers: BTreeMap::new(), in_sockets: BTreeSet::new(), taken_up: BTreeSet::new(), calls_to_join: Vec::new(), revocations: phases::Revocations::default(), told_things: None, stalls: Vec::new(), behind: None, incarnations: 0, wrong: None, began: true, topics_stand: false,
        };
        for t in ["a", "b"] {
            let partitions = w.plan.partitions;
            w.meta(MetaCommand::DeclareTopic { name: t.into(), partitions, id_if_new: w.meta.revision as u128 + 1 });
        }
        let unread = GroupId::from("forgotten");
        for g in w.groups.clone().into_iter().chain(w.plan.forgets.then_some(unread)) {
            if w.plan.forgets { w.meta(MetaCommand::SetGroupConfig { group: g.clone(), settings: [(baton_coordinator::config::Setting::OffsetsRetention, Some(1))].into() }); }
        }
        for g in w.groups.clone() {
            w.set_session(&g, w.plan.session_ms);
            let mix = w.plan.mixes[w.groups.iter().position(|x| *x == g).unwrap_or(0)];
            for m in 0..w.plan.members {
                match mix {
                    Mix::Http => w.spawn(&g, &format!("m{m}"), false),
                    Mix::All if w.r.pct(35) => w.spawn(&g, &format!("m{m}"), false),
                    Mix::Consumer | Mix::Classic | Mix::All => w.spawn_some(&g),
                }
            }
        }
        w
    }

    fn tell(&mut self, what: impl FnOnce(&World) -> String) {
        if self.story.is_some() {
            let what = what(self);
            // Requests and answers are too many for a picture.
            if !what.contains(" gets #") && !what.contains(" hears ") && !what.contains(" takes ") { self.timeline.mark(self.now, what.clone()); }
            let line = format!("{:>7} ms  {what}", self.now);
            if let Some(s) = &mut self.story {
                s.push(line);
            }
        }
    }
    fn state(&self) -> String {
        let n = self.replicas.newest();
        format!("{:#?}\nclocks {:?}\ntimers: {:?}", n.shard.state().groups, self.replicas.leader.map(|l| self.replicas.clocks(l, self.now)), self.replicas.leader.map(|l| self.replicas.nodes[l].shard.due(u64::MAX)))
    }
    fn mark(&mut self, n: u64) { self.trace = (self.trace ^ n ^ self.now << 20).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23); }
    fn calm(&self) -> bool { self.now >= self.plan.chaos_ms }
    fn at(&mut self, when: Ms, ev: Ev) {
        self.next += 1;
        self.queue.insert((when, self.next), Box::new(ev));
    }

    fn play(&mut self) -> Verdict {
        let mut settled = 0;
        loop {
            self.now += TICK;
            let calm = self.calm();
            if !calm {
                self.faults()?;
            } else if self.now == self.plan.chaos_ms {
                self.grow_calm();
            }
            let term = self.replicas.term;
            self.replicas.step(self.now, &mut self.r, calm, &mut self.judge, &mut self.fired)?;
            self.watch()?;
            if self.replicas.term != term {
                self.fetch_everything();
                self.ask_who_is_behind();
            }
            for i in 0..self.processes.len() {
                let p = &mut self.processes[i];
                if p.alive() && self.now >= p.paused && p.step(self.now) {
                    self.fired.hit("lapses");
                    self.tell(|w| format!("{} lapsed and dropped everything", w.processes[i].name));
                }
            }
            self.events()?;
            self.wrong.take().map_or(Ok(()), Err)?;
            self.shells()?;
            for i in 0..self.processes.len() {
                if self.processes[i].alive() && self.now >= self.processes[i].paused {
                    self.let_send(i, None);
                }
            }
            self.clients_act();
            self.sinks()?;
            let verdict = if std::mem::take(&mut self.began) || self.now.is_multiple_of(LOOK) { self.believers() } else { Ok(()) };
            if self.story.is_some() {
                let beliefs = self.processes.iter().flat_map(|p| p.beliefs(self.now).map(|(q, t)| (format!("{} {q}", p.group), p.name.clone(), t)));
                let beliefs = beliefs.chain(self.clients.iter().flat_map(|c| c.owned.keys().map(|q| (format!("{} {q}", c.group), c.name.clone(), 0))));
                self.timeline.look(self.now, beliefs.collect());
            }
            verdict?;
            if calm && self.now >= self.plan.chaos_ms + 6_000 && self.now.is_multiple_of(500) {
                match self.settled() {
                    Ok(()) => settled += 1,
                    Err(why) if self.now >= self.plan.chaos_ms + SETTLE => return Err(why),
                    Err(_) => settled = 0,
                }
                let level = self.replicas.nodes.iter().all(|n| n.applied == self.replicas.log.len());
                if settled >= 3 && level {
                    if self.replicas.nodes.iter().any(|n| n.shard.digest() != self.replicas.nodes[0].shard.digest()) {
                        return broken("replicas-agree", "the replicas differ at the end");
                    }
                    let (looked, verdict) = self.order.check();
                    self.looked = looked;
                    return verdict;
                }
            }
        }
    }

    fn believers(&self) -> Verdict {
        let beliefs = self.processes.iter().filter(|p| !p.zombie).flat_map(|p| p.beliefs(self.now).map(|(q, t)| (&p.group, q, t, p.name.as_str())));
        let users = self.clients.iter().filter(|c| !c.owned.is_empty() && self.watch.protects(c)).flat_map(|c| c.owned.keys().map(|q| (&c.group, q, 0, c.name.as_str())));
        self.judge.believers(self.now, beliefs.chain(users))
    }

    /// Everybody who lives is a member, believes what the state says, and the groups are complete.
    fn settled(&self) -> Verdict {
        let shard = &self.replicas.newest().shard;
        let topics = self.meta.topics.iter().map(|(t, f)| (t.clone(), f.partitions)).collect();
        for id in &self.groups {
            self.clients_settled(id)?;
            let living: BTreeMap<&MemberId, &Process> = self.processes.iter().filter(|p| p.alive() && p.group == *id).map(|p| (&p.id, p)).collect();
            let Some(g) = shard.group(id) else {
                if living.is_empty() { continue } else { return broken("live", format!("{id} does not exist, with members waiting")) }
            };
            let client = |m: &MemberId| self.clients.iter().any(|c| c.alive() && c.group == *id && c.id == *m);
            if let Some((m, x)) = g.members.iter().find(|(m, x)| if x.conforming() { living.get(*m).is_none_or(|p| p.incarnation != x.incarnation) } else { !client(m) }) {
                return broken("live", format!("{id}: {m} ({}) is a member, but no such process lives", x.incarnation));
            }
            if let Some(p) = living.values().find(|p| !g.members.contains_key(&p.id)) {
                return broken("live", format!("{id}: {} ({:?}) is not a member", p.name, p.phase));
            }
            if g.members.is_empty() && g.holds.is_empty() {
                continue;
            }
            complete(id, g, &topics).map_err(|b| if g.holds.is_empty() { b } else { Broken { what: format!("{} holds: {:?}", b.what, g.holds), ..b } })?;
            for (m, x) in &g.members {
                let Some(p) = living.get(m).filter(|_| x.conforming()) else { continue };
                let believes: BTreeMap<&Partition, u64> = p.beliefs(self.now).collect();
                let assigned: BTreeMap<&Partition, u64> = x.assigned.iter().map(|(p, g)| (p, g.token.0)).collect();
                if believes != assigned || p.epoch != x.epoch {
                    return broken("live", format!("{} believes {believes:?} at epoch {}, the state has {assigned:?} at {}", p.name, p.epoch, x.epoch));
                }
                if !p.blurred && (*x.subscribed != p.subscribed || x.regex != p.regex) {
                    return broken("live", format!("{} wants {:?} {:?}, the state has {:?} {:?}", p.name, p.subscribed, p.regex, x.subscribed, x.regex));
                }
            }
        }
        Ok(())
    }

    fn events(&mut self) -> Verdict {
        while let Some((&(at, _), _)) = self.queue.first_key_value() {
            if at > self.now {
                break;
            }
            let Some((_, ev)) = self.queue.pop_first() else { break };
            match *ev {
                Ev::Request { node, call } => self.arrive(node, call)?,
                Ev::Release { node, term, call, result } => self.release(node, term, call, result)?,
                Ev::Answer { call, result } => self.answer(call, result)?,
                Ev::Image { node, image } => {
                    let clocks = self.replicas.clocks(node, self.now);
                    let n = &mut self.replicas.nodes[node];
                    if image.revision > n.image.revision {
                        n.image = image.clone();
                    }
                    // One that was overtaken too: the shard knows better.
                    if n.up {
                        n.shard.metadata(image, clocks);
                    }
                }
                Ev::Done { node, done } => {
                    let clocks = self.replicas.clocks(node, self.now);
                    if self.replicas.nodes[node].up {
                        self.replicas.nodes[node].shard.done(*done, clocks);
                    }
                }
                Ev::LeaderDies => {
                    if self.replicas.healthy() {
                        self.fired.hit("leader killed after a session change");
                        self.tell(|_| "the leader is killed, just after a session change".into());
                        let now = self.now;
                        self.replicas.change_leader(&mut self.r, now, 0);
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends what a process has to send; `to`: at once to that node.
    fn let_send(&mut self, i: usize, to: Option<usize>) {
        let id = self.calls.len() as u64;
        let Some(command) = self.processes[i].request(self.now, &mut self.r, id) else { return };
        let call = self.call(Some(i), command);
        self.post(call, to);
    }
    fn call(&mut self, process: Option<usize>, command: Command) -> usize {
        let p = process.map(|i| &self.processes[i]);
        let group = p.map_or_else(|| self.groups[0].clone(), |p| p.group.clone());
        let deletions = self.judge.deletions.get(&group).copied().unwrap_or_default();
        let (life, sent) = p.map_or((0, 0), |p| (p.life, p.clock.at(self.now)));
        self.calls.push(Call { process, client: None, standing: None, life, sent, arrived: 0, copy: false, group, command, deletions, noted: Vec::new(), told: Floor::default(), member_at: None, held_at: BTreeSet::new() });
        self.calls.len() - 1
    }
    fn copy(&mut self, call: usize) -> usize {
        let c = &self.calls[call];
        let copy = Call { process: c.process, client: c.client, standing: None, life: c.life, sent: c.sent, arrived: 0, copy: true, group: c.group.clone(), command: c.command.clone(), deletions: c.deletions, noted: Vec::new(), told: Floor::default(), member_at: None, held_at: BTreeSet::new() };
        self.calls.push(copy);
        self.calls.len() - 1
    }
    fn post(&mut self, call: usize, to: Option<usize>) {
        let calm = self.calm();
        let client = self.calls[call].client;
        let cut = self.calls[call].process.is_some_and(|i| self.now < self.processes[i].cut_out) || client.is_some_and(|i| self.now < self.clients[i].cut_out);
        let delay = TICK + if calm || to.is_some() { 0 } else { self.r.below(self.plan.delay_ms) };
        if !calm && client.is_none() && self.r.pct(self.plan.copies_pct) {
            let late = self.now + delay + self.r.below(self.plan.copies_late_ms);
            if late < self.plan.chaos_ms + 5_000 && !cut {
                self.fired.hit("copies");
                let c = self.copy(call);
                self.at(late, Ev::Request { node: None, call: c });
            }
        }
        if (cut || (!calm && self.r.pct(self.plan.loss_pct))) && to.is_none() {
            self.fired.hit("lost requests");
            return;
        }
        // Some processes stay with a leader that was replaced.
        let stays = |i: usize| i.is_multiple_of(2);
        let deposed = self.replicas.deposed.map(|d| d.node);
        let strays = deposed.is_some() && self.r.pct(15);
        let deposed = deposed.filter(|_| strays || self.calls[call].process.or(client).is_some_and(stays));
        let stray_pct = if matches!(self.calls[call].command, Command::FetchOffsets { .. }) { 60 } else { 2 };
        let stray = (!calm && self.r.pct(stray_pct)).then(|| self.r.below(3) as usize);
        self.at(self.now + delay, Ev::Request { node: to.or(deposed).or(stray), call });
    }

    fn answer(&mut self, call: usize, result: Result<Response, GroupError>) -> Verdict {
        let c = &self.calls[call];
        if let Some(i) = c.client {
            self.client_answer(i, call, result);
            return Ok(());
        }
        let Some(i) = c.process else { return Ok(()) };
        let p = &mut self.processes[i];
        if !p.alive() || self.now < p.cut_in {
            return Ok(());
        }
        if self.now < p.paused {
            let later = p.paused;
            self.at(later, Ev::Answer { call, result });
            return Ok(());
        }
        let (before, believed) = (p.taken, p.believes(self.now));
        p.answer(self.now, &mut self.r, call as u64, c.life, c.sent, &result);
        let (changed, phase) = (p.taken != before, p.phase);
        self.began |= changed || !believed;
        if changed || result.is_err() {
            self.tell(|w| match &w.processes[i] {
                p if changed => format!("{} takes {:?} (revision {})", p.name, p.target, p.taken),
                p => format!("{} hears {:?}, is now {phase:?}", p.name, result.as_ref().err()),
            });
        }
        if changed {
            let places: Vec<(Place, u64)> = self.processes[i].beliefs(self.now).map(|(q, t)| ((self.processes[i].group.clone(), q.clone()), t)).collect();
            for (place, token) in places {
                self.judge.write(&place, token, !self.processes[i].zombie, &self.processes[i].name)?; // registers its token before it works
            }
        }
        Ok(())
    }

    /// A process commits what it has read of a partition.
    fn commits(&mut self, i: usize, partition: Partition, token: u64) -> usize {
        let p = &mut self.processes[i];
        p.commit_seq += 1;
        let member = Some(CommitMember { member: p.id.clone(), incarnation: p.incarnation, commit_seq: p.commit_seq });
        let offset = self.next_offset(&(self.processes[i].group.clone(), partition.clone()));
        let offset = CommitOffset { partition, token: FencingToken(token), offset, metadata: String::new(), leader_epoch: None };
        let call = self.call(Some(i), Command::Commit(Commit { member, offsets: vec![offset] }));
        self.post(call, None);
        call
    }
    fn sinks(&mut self) -> Verdict {
        for i in 0..self.processes.len() {
            let p = &self.processes[i];
            if p.owned.is_empty() || self.now < p.paused || !self.r.pct(5) {
                continue;
            }
            let believed: Vec<(Partition, u64)> = p.beliefs(self.now).map(|(q, t)| (q.clone(), t)).collect();
            let Some((q, token)) = self.r.pick(&believed).cloned() else { continue };
            let place = (p.group.clone(), q.clone());
            let accepted = self.judge.write(&place, token, !p.zombie, &p.name)?;
            self.fired.hit(if accepted { "writes" } else { "zombie writes refused by a sink" });
            if !self.calm() && self.r.ppm(self.plan.commits * 5) {
                self.fired.hit("fetches");
                let call = self.call(Some(i), Command::FetchOffsets { topic: Some(q.topic.clone()), partition: Some(q.partition) });
                self.post(call, None);
            }
            if self.now < self.plan.chaos_ms && accepted && self.r.ppm(self.plan.commits * 5) {
                let call = self.commits(i, q, token);
                if self.r.pct(30) {
                    // A retry that may overtake or be overtaken by later commits.
                    let again = self.copy(call);
                    self.calls[again].copy = false;
                    let late = self.now + self.r.below(3_000);
                    self.at(late, Ev::Request { node: None, call: again });
                }
                self.fired.hit("commits");
            }
        }
        Ok(())
    }
}
