//! The faults of a plan, tick by tick, and the calm after them.

use super::*;
use crate::replicas::Replicas;
use baton_coordinator::{config::Setting, decide::TimerCommand, timers::Timer};

impl World {
    pub(super) fn meta(&mut self, c: MetaCommand) {
        if self.meta.apply(&c).is_err() {
            return;
        }
        if let MetaCommand::DeleteTopic { name } = &c { self.topic_goes(name.clone()) }
        self.tell(|w| format!("meta revision {}: {c:?}", w.meta.revision));
        self.topics = Arc::new(self.meta.topics.iter().map(|(t, f)| (t.clone(), (f.id, f.partitions))).collect());
        self.topic_names.extend(self.meta.topics.iter().map(|(t, f)| (f.id, t.clone())));
        let image = Arc::new(self.meta.clone());
        self.replicas.image = image.clone();
        let leader = self.replicas.leader.filter(|_| self.plan.aimed && self.plan.meta_lag_ms > 0 && !self.calm() && self.replicas.healthy());
        let ahead = leader.filter(|_| self.r.pct(30));
        for node in 0..3 {
            let lag = match ahead {
                Some(n) => if n == node { 0 } else { 6_000 },
                None => if self.calm() { 0 } else { self.r.below(self.plan.meta_lag_ms) },
            };
            self.at(self.now + lag, Ev::Image { node, image: image.clone() });
        }
        if ahead.is_some() {
            // Aimed: the groups take note of it, and the next leader has not heard of it yet when its members want something else (`safety.md` 23).
            let soon = self.now + self.r.range(700, 2_000);
            self.at(soon, Ev::LeaderDies);
            self.behind = Some(self.meta.revision);
        }
    }
    /// There is another leader: if it is behind with its metadata, members say what they want.
    pub(super) fn ask_who_is_behind(&mut self) {
        let Some(revision) = self.behind.take().filter(|_| !self.calm()) else { return };
        if self.replicas.leader.is_none_or(|n| self.replicas.nodes[n].image.revision >= revision) { return }
        self.fired.hit("leader behind with its metadata");
        for i in self.living() {
            let topics = self.some_topics();
            let p = &mut self.processes[i];
            if p.phase == Phase::Steady { p.wants(topics, p.regex.clone()); }
        }
    }
    pub(super) fn set_session(&mut self, group: &GroupId, session_timeout_ms: u64) {
        let interval = (session_timeout_ms / 6).clamp(300, 1_000);
        let settings = [(Setting::SessionTimeout, Some(session_timeout_ms)), (Setting::HeartbeatInterval, Some(interval))].into();
        self.meta(MetaCommand::SetGroupConfig { group: group.clone(), settings });
    }
    /// A new process of an HTTP member, perhaps in a static place.
    pub(super) fn spawn(&mut self, group: &GroupId, id: &str, predecessor_dead: bool) {
        // A member id has its place for good: an id that comes back without it would have it all the same, and nobody would know.
        if let Some(before) = self.processes.iter().rev().find(|p| p.group == *group && p.id.as_str() == id) {
            let place = before.instance.clone();
            let taken = self.processes.iter().any(|p| p.alive() && p.group == *group && place.is_some() && p.instance == place && p.id.as_str() != id);
            let other = format!("m{}", 20 + self.incarnations);
            return match place {
                Some(_) if taken => self.spawn_at(group, &other, predecessor_dead, None),
                place => self.spawn_at(group, id, predecessor_dead, place.as_ref().map(InstanceId::as_str)),
            };
        }
        let free: Vec<String> = ["h0", "h1"].into_iter().filter(|i| !self.processes.iter().any(|p| p.alive() && p.group == *group && p.instance.as_ref().is_some_and(|x| x.as_str() == *i))).map(String::from).collect();
        let place = if !predecessor_dead && self.r.pct(self.plan.static_pct / 2) { self.r.pick(&free).cloned() } else { None };
        self.spawn_at(group, id, predecessor_dead, place.as_deref());
    }
    pub(super) fn spawn_at(&mut self, group: &GroupId, id: &str, predecessor_dead: bool, place: Option<&str>) {
        self.incarnations += 1;
        let drift_per_mille = if self.plan.drift { self.r.range(0, 100) as i64 - 50 } else { 0 };
        let clock = Clock { offset: self.r.below(1_000_000), drift_per_mille };
        let subscribed = self.some_topics();
        let name = format!("{group}/{id}{}#{}", place.map(|i| format!("@{i}")).unwrap_or_default(), self.incarnations);
        let mut p = Process::new(id, name, self.incarnations << 96 | 7, group.clone(), clock, subscribed, self.now);
        p.next_send += self.r.below(300);
        p.zombie = self.plan.zombies && self.r.pct(25);
        p.hasty = self.r.pct(30);
        p.slow_pct = self.plan.slow_pct;
        p.slow_ms = *self.r.pick(&[200, 1_500, 6_000]).unwrap_or(&200);
        p.rebalance_ms = *self.r.pick(&[1_000, 3_000, 10_000]).unwrap_or(&3_000);
        p.wait_ms = if self.plan.wait && self.r.pct(50) { 800 } else { 0 };
        p.predecessor_dead = predecessor_dead;
        p.instance = place.map(InstanceId::from);
        if place.is_some() { self.fired.hit("static member starts"); }
        if self.r.pct(self.plan.regex_pct) {
            p.regex = self.r.pick(&clients::EXPRESSIONS).map(|e| e.to_string());
            if self.r.pct(50) { p.subscribed.clear(); }
            self.fired.hit("member with an expression starts");
        }
        self.tell(|_| format!("{} starts{} (zombie: {}, predecessor_dead: {predecessor_dead})", p.name, p.regex.as_ref().map(|r| format!(", subscribed to /{r}/")).unwrap_or_default(), p.zombie));
        self.processes.push(p);
    }
    pub(super) fn some_topics(&mut self) -> BTreeSet<TopicName> {
        let all: BTreeSet<TopicName> = ["a", "b"].into_iter().map(TopicName::from).collect();
        if self.plan.regex_pct > 0 && self.r.pct(20) {
            return self.r.pick(&clients::TOPICS).map(|t| [TopicName::from(*t)].into()).unwrap_or_default();
        }
        if self.r.pct(70) { all } else { all.into_iter().skip(self.r.below(2) as usize).take(1).collect() }
    }
    fn living(&self) -> Vec<usize> { (0..self.processes.len()).filter(|i| self.processes[*i].alive()).collect() }
    fn victim(&mut self, ppm: u64) -> Option<usize> {
        if !self.r.ppm(ppm) {
            return None;
        }
        let living = self.living();
        self.r.pick(&living).copied()
    }
    fn kill(&mut self, i: usize) {
        self.tell(|w| format!("{} is killed", w.processes[i].name));
        self.processes[i].drop_all(Phase::Gone);
    }

    pub(super) fn faults(&mut self) -> Verdict {
        self.node_faults();
        self.member_faults();
        self.client_faults();
        self.admin_faults();
        self.tool_faults();
        Ok(())
    }

    fn node_faults(&mut self) {
        let (now, plan) = (self.now, self.plan);
        if self.r.ppm(plan.leader) && self.replicas.healthy() {
            let how = self.r.below(3);
            self.fired.hit(["leader crashed", "leader cut off", "leader handed over"][how as usize]);
            self.tell(|w| format!("leader {:?} of term {}: {}", w.replicas.leader, w.replicas.term, ["crashes", "is cut off", "hands over"][how as usize]));
            self.replicas.change_leader(&mut self.r, now, how);
            if plan.aimed && self.r.pct(40)
                && let Some(i) = self.victim(1_000_000)
            {
                self.fired.hit("member killed with the leader");
                self.kill(i);
            }
        }
        if self.r.ppm(plan.lapse) && self.replicas.healthy() {
            let until = now + self.r.range(500, 8_000);
            self.fired.hit("lease lapsed, same term");
            self.tell(|_| format!("the leader loses touch until {until}; nobody else is elected"));
            self.replicas.lapse(now, until);
        }
        if self.r.ppm(plan.node_crash) && self.replicas.healthy() {
            let n = self.r.below(3) as usize;
            if self.replicas.leader != Some(n) {
                self.fired.hit("follower crashed");
                let at = now + self.r.range(300, 6_000);
                self.taken_up.retain(|(of, _)| *of != n);
                self.replicas.crash(n, at);
            }
        }
        if self.r.ppm(plan.lapse * 2) && self.replicas.healthy()
            && let Some(n) = self.replicas.leader
        {
            self.fired.hit("leader paused within its lease");
            let ms = self.r.below(LEASE_AGE - 40);
            self.stall(n, ms);
        }
        if plan.aimed && now.is_multiple_of(5 * TICK) { self.just_before_an_expiry() }
        if plan.aimed && now.is_multiple_of(90 * TICK) { self.slow_and_told_things() }
    }

    /// The last join of a process in its present life.
    pub(super) fn last_join(&self, i: usize) -> Option<usize> {
        self.calls.iter().rposition(|c| c.process == Some(i) && c.life == self.processes[i].life && matches!(&c.command, Command::Heartbeat(h) if h.epoch == 0))
    }

    /// Aimed: once a member has said something else, a copy of its join comes, which said what it wanted before.
    fn join_of_before(&mut self, i: usize) {
        if !self.plan.aimed || self.calm() || !self.tools.pct(60) { return }
        let Some(call) = self.last_join(i) else { return };
        let copy = self.copy(call);
        let when = self.now + self.tools.range(1_000, 4_000) / TICK * TICK;
        self.at(when, Ev::Request { node: None, call: copy });
        self.fired.hit("join of before a wish comes again");
    }

    /// Aimed: a member that is far too slow to give something back is told something new all the while. That gives it no more time.
    fn slow_and_told_things(&mut self) {
        let now = self.now;
        if let Some((group, until, longer)) = self.told_things.take() {
            let go_on = now < until && !self.calm();
            self.set_session(&group, if go_on && longer { self.plan.session_ms * 2 } else { self.plan.session_ms });
            self.told_things = go_on.then_some((group, until, !longer));
        } else if !self.calm() && self.tools.pct(40) {
            let slow = |p: &&mut Process| p.phase == Phase::Steady && p.stopping && !p.zombie && p.rebalance_ms <= 3_000 && now >= p.cut_out.max(p.cut_in).max(p.paused);
            let Some(p) = self.processes.iter_mut().find(slow) else { return };
            let late = 3 * p.rebalance_ms + 8_000;
            p.stop_at = p.clock.at(now + late);
            self.told_things = Some((p.group.clone(), now + late, true));
            self.fired.hit("slow member is told things");
        }
    }

    fn stall(&mut self, n: usize, ms: Ms) {
        self.replicas.nodes[n].paused = self.now + ms;
        self.stalls.push((n, self.now + ms));
    }
    /// Aimed: a member that was not heard of is about to expire when its leader stands still, or an entry of its group takes long; meanwhile its heartbeat comes.
    fn just_before_an_expiry(&mut self) {
        let now = self.now;
        if !self.processes.iter().any(|p| p.alive() && p.cut_out > now) || !self.replicas.healthy() { return }
        let Some(n) = self.replicas.leader.filter(|n| self.replicas.nodes[*n].paused <= now) else { return };
        let here = self.replicas.nodes[n].clock.at(now);
        let expires = |(at, t): (u64, Timer)| if let Timer::Command(g, TimerCommand::ExpireSession { member }) = t { Some((g, member, at.saturating_sub(here))) } else { None };
        let about: Vec<(GroupId, MemberId, Ms)> = self.replicas.nodes[n].shard.due(here + 12 * TICK).into_iter().filter_map(expires).collect();
        let left = |p: &Process| about.iter().find(|(g, m, _)| p.alive() && p.cut_out > now && p.group == *g && p.id == *m).map(|(.., left)| *left);
        let Some((i, left)) = self.processes.iter().enumerate().find_map(|(i, p)| Some((i, left(p)?))).filter(|_| self.r.pct(50)) else { return };
        let group = self.processes[i].group.clone();
        let other = self.processes.iter().enumerate().filter(|(_, p)| p.alive() && p.group == group).find_map(|(j, p)| p.beliefs(now).next().map(|(q, token)| (j, q.clone(), token)));
        let heard_at = match other.filter(|_| self.tools.pct(50)) {
            Some((j, partition, token)) => {
                self.fired.hit("entry takes long just before a member expires");
                self.tell(|w| format!("entries take long just before {} expires", w.processes[i].name));
                self.commits(j, partition, token);
                self.replicas.slow_until = now + left + self.tools.range(6, 40) * TICK;
                now + left + self.tools.range(1, 5) * TICK
            }
            None => {
                self.fired.hit("leader paused just before a member expires");
                self.tell(|w| format!("the leader stands still just before {} expires", w.processes[i].name));
                let ms = self.r.range(38, 44) * TICK;
                self.stall(n, ms);
                0
            }
        };
        let p = &mut self.processes[i];
        (p.cut_out, p.waiting, p.next_send) = (heard_at, None, heard_at);
    }

    fn member_faults(&mut self) {
        let (now, plan) = (self.now, self.plan);
        if let Some(i) = self.victim(plan.member_crash) {
            self.fired.hit("member killed");
            self.kill(i);
        }
        if let Some(i) = self.victim(plan.member_cut) {
            let until = now + self.r.range(plan.session_ms / 2, plan.session_ms * 5 / 2);
            let how = self.r.below(3);
            self.fired.hit(["member cut: out", "member cut: in", "member cut: both"][how as usize]);
            self.tell(|w| format!("{} is cut off ({}) until {until}", w.processes[i].name, ["out", "in", "both"][how as usize]));
            let p = &mut self.processes[i];
            if how != 1 { p.cut_out = until }
            if how != 0 { p.cut_in = until }
        }
        if let Some(i) = self.victim(plan.member_pause) {
            self.fired.hit("member paused");
            self.processes[i].paused = now + self.r.range(100, plan.session_ms * 2);
        }
        if let Some(i) = self.victim(plan.member_leave)
            && self.processes[i].phase == Phase::Steady
            && !self.processes[i].zombie
        {
            let away = self.processes[i].instance.is_some() && self.r.pct(70);
            self.fired.hit(if away { "static member leaves for a while" } else { "member leaves" });
            self.tell(|w| format!("{} stops everything and leaves{}", w.processes[i].name, if away { " for a while" } else { "" }));
            self.processes[i].drop_all(Phase::Leaving);
            (self.processes[i].next_send, self.processes[i].away) = (0, away);
        }
        self.static_faults();
        // An operator who said that earlier processes are dead does not start another under the same id.
        if let Some(i) = self.victim(plan.twin)
            && !self.processes.iter().any(|p| p.alive() && p.predecessor_dead && p.id == self.processes[i].id && p.group == self.processes[i].group)
        {
            self.fired.hit("second process under one id");
            let (g, id) = (self.processes[i].group.clone(), self.processes[i].id.clone());
            self.spawn(&g, id.as_str(), false);
        }
        if let Some(i) = self.victim(plan.subscription) {
            self.fired.hit("subscription changed");
            let topics = self.some_topics();
            let regex = if self.r.pct(plan.regex_pct) { self.r.pick(&clients::EXPRESSIONS).map(|e| e.to_string()) } else { None };
            let p = &mut self.processes[i];
            if p.regex != regex { self.fired.hit("expression of a member changed"); }
            p.wants(topics, regex);
            self.join_of_before(i);
        }
        // Somebody starts them again, under the same id or another.
        if self.r.ppm(4_000) {
            // Of the group's kinds.
            let http = |mix: Mix, r: &mut Rng| match mix { Mix::Http => true, Mix::All => r.pct(35), Mix::Consumer | Mix::Classic => false };
            let g = self.groups[self.r.below(self.groups.len() as u64) as usize].clone();
            let ids: BTreeSet<String> = self.processes.iter().filter(|p| p.alive() && p.group == g).map(|p| p.id.to_string()).collect();
            let free: Vec<String> = (0..plan.members + 2).map(|m| format!("m{m}")).filter(|m| !ids.contains(m)).collect();
            let mix = self.groups.iter().position(|x| *x == g).map_or(Mix::Http, |i| plan.mixes[i]);
            if self.population(&g) < plan.members && http(mix, &mut self.r)
                && let Some(id) = self.r.pick(&free).cloned()
            {
                let dead = self.r.pct(30);
                self.spawn(&g, &id, dead);
            }
        }
    }

    /// Static places of HTTP members: taken up again by another process, under the same member id or another; or by a second process while the first is alive.
    fn static_faults(&mut self) {
        let plan = self.plan;
        if plan.static_pct == 0 { return }
        if self.r.ppm(plan.static_pct * 40) {
            let gone: Vec<usize> = (0..self.processes.len()).filter(|i| !self.processes[*i].alive() && self.processes[*i].instance.is_some()).collect();
            // Sooner than others: one that had said of the one before it that it was dead.
            let says: BTreeSet<Incarnation> = self.calls.iter().filter_map(|c| if let Command::Heartbeat(h) = &c.command { h.predecessor_dead.then_some(h.incarnation) } else { None }).collect();
            let said: Vec<usize> = gone.iter().copied().filter(|i| says.contains(&self.processes[*i].incarnation)).collect();
            if let Some(p) = self.r.pick(if said.is_empty() { &gone } else { &said }).map(|i| &self.processes[*i])
                && !self.processes.iter().any(|x| x.alive() && x.group == p.group && (x.instance == p.instance || x.id == p.id))
                && self.population(&p.group) <= plan.members
            {
                let (g, place, same) = (p.group.clone(), p.instance.clone().map(|i| i.to_string()), p.id.clone());
                let id = if self.r.pct(if said.is_empty() { 50 } else { 20 }) { same.to_string() } else { format!("m{}", 20 + self.incarnations) };
                self.fired.hit("static member's place taken up again");
                self.spawn_at(&g, &id, false, place.as_deref());
                self.join_of_an_earlier_one(&g, place.as_deref(), &id);
            }
        }
        if let Some(i) = self.victim(plan.twin)
            && let Some(place) = self.processes[i].instance.clone()
            && !self.processes.iter().any(|p| p.alive() && p.predecessor_dead && p.group == self.processes[i].group)
        {
            let (g, id) = (self.processes[i].group.clone(), format!("m{}", 20 + self.incarnations));
            self.fired.hit("two processes in one static place");
            // Now and then the first is really dead, and the operator says so.
            let dead = self.r.pct(40);
            if dead { self.kill_place(&g, &place); }
            self.spawn_at(&g, &id, dead, Some(place.as_str()));
        }
    }
    /// Aimed: an earlier process of the place had said that the one before it was dead. A copy of that comes when its place is another's.
    fn join_of_an_earlier_one(&mut self, group: &GroupId, place: Option<&str>, id: &str) {
        // Of one that was in: nobody can tell the first word of another from that of a new process.
        let says = |h: &Heartbeat| h.epoch == 0 && h.predecessor_dead && h.member.as_str() != id && h.instance_id.as_ref().map(InstanceId::as_str) == place && self.judge.has_been_in(group, h.incarnation);
        let Some(call) = self.calls.iter().rposition(|c| c.group == *group && matches!(&c.command, Command::Heartbeat(h) if says(h))) else { return };
        self.fired.hit("join comes again when its place is another's");
        for _ in 0..3 {
            let (copy, at) = (self.copy(call), self.now + self.tools.range(500, 8_000));
            self.at(at, Ev::Request { node: None, call: copy });
        }
    }
    fn kill_place(&mut self, group: &GroupId, place: &InstanceId) {
        for i in self.living() {
            if self.processes[i].group == *group && self.processes[i].instance.as_ref() == Some(place) { self.kill(i); }
        }
    }

    fn admin(&mut self, group: &GroupId, command: Command) {
        let call = self.call(None, command);
        self.calls[call].group = group.clone();
        self.at(self.now + TICK, Ev::Request { node: None, call });
    }

    fn admin_faults(&mut self) {
        let plan = self.plan;
        let g = self.groups[self.r.below(self.groups.len() as u64) as usize].clone();
        if self.r.ppm(plan.topics) && !self.topics_stand {
            let name = TopicName::from(*self.r.pick(if plan.regex_pct > 0 { &clients::TOPICS } else { &["a", "b"] }).unwrap_or(&"a"));
            let have = self.meta.topics.get(&name).map(|t| t.partitions);
            let id_if_new = u128::from(self.meta.revision) + 100;
            match have {
                Some(n) if self.r.pct(50) && n < 9 => {
                    self.fired.hit("topic grown");
                    self.meta(MetaCommand::DeclareTopic { name, partitions: n + 1, id_if_new });
                }
                Some(n) => {
                    self.fired.hit("topic deleted");
                    self.meta(MetaCommand::DeleteTopic { name: name.clone() });
                    if self.r.pct(60) {
                        self.fired.hit("topic made again at once");
                        self.meta(MetaCommand::DeclareTopic { name, partitions: n, id_if_new });
                    }
                }
                None => {
                    self.fired.hit("topic made");
                    self.meta(MetaCommand::DeclareTopic { name, partitions: plan.partitions, id_if_new });
                }
            }
        }
        if self.r.ppm(plan.admin_remove) {
            let members: Vec<MemberId> = self.replicas.newest().shard.group(&g).map(|x| x.members.keys().cloned().collect()).unwrap_or_default();
            if let Some(member) = self.r.pick(&members).cloned() {
                self.fired.hit("administrator removes a member");
                self.admin(&g, Command::RemoveMember { member });
            }
        }
        if self.r.ppm(plan.delete_group) {
            // Aimed: everybody is removed and the group deleted at once; a new process joins under its name.
            let members: Vec<MemberId> = self.replicas.newest().shard.group(&g).map(|x| x.members.keys().cloned().collect()).unwrap_or_default();
            self.fired.hit("group emptied and deleted");
            for member in members {
                self.admin(&g, Command::RemoveMember { member });
            }
            self.replicas.force_deleted = plan.force;
            self.admin(&g, Command::DeleteGroup { force: plan.force });
            let mix = self.groups.iter().position(|x| *x == g).map_or(Mix::Http, |i| plan.mixes[i]);
            if !matches!(mix, Mix::Http | Mix::All) {
                self.spawn_some(&g);
            } else if !self.processes.iter().any(|p| p.alive() && p.predecessor_dead && p.id.as_str() == "late" && p.group == g) {
                self.spawn(&g, "late", false);
            }
        }
        if self.r.ppm(plan.config) {
            let session = *self.r.pick(&[3_000, 4_000, 12_000, 15_000]).unwrap_or(&3_000);
            self.fired.hit("session changed");
            self.set_session(&g, session);
            self.removed_unheard(&g, session);
            if plan.aimed {
                let soon = self.now + self.r.range(100, 2_500);
                self.at(soon, Ev::LeaderDies);
            }
        }
    }

    /// Aimed: a member's session is lowered, it hears nothing of that and goes on by what it was promised, and an administrator removes it meanwhile: what it has is held for the longer time.
    fn removed_unheard(&mut self, group: &GroupId, session: Ms) {
        let told = |p: &Process| self.replicas.newest().shard.group(group).and_then(|g| g.members.get(&p.id)).filter(|m| m.incarnation == p.incarnation).map_or(0, |m| m.session_told_ms);
        let goes_on = |p: &Process| p.alive() && !p.zombie && p.group == *group && p.phase == Phase::Steady && !p.owned.is_empty() && told(p) > 2 * session;
        let Some(i) = self.processes.iter().position(goes_on) else { return };
        self.fired.hit("member removed unheard after its session was lowered");
        // Its next heartbeat comes to the leader, which records the shorter session.
        self.processes[i].cut_in = self.now + 15_000;
        let call = self.call(None, Command::RemoveMember { member: self.processes[i].id.clone() });
        self.calls[call].group = group.clone();
        let at = self.now + self.tools.range(800, 2_500);
        self.at(at, Ev::Request { node: None, call });
    }

    /// The faults end: links heal, zombies and second processes go, everybody gets the newest image.
    pub(super) fn grow_calm(&mut self) {
        self.tell(|_| "calm from here on".into());
        self.clients_grow_calm();
        // In a static place it is the process that is a member, or else the newest.
        let holds = |w: &World, p: &Process| w.replicas.newest().shard.group(&p.group).and_then(|g| g.members.get(&p.id)).is_some_and(|m| m.incarnation == p.incarnation);
        for i in self.living() {
            let p = &self.processes[i];
            let rival = |j: &usize| *j != i && self.processes[*j].alive() && self.processes[*j].instance.is_some() && self.processes[*j].instance == p.instance && self.processes[*j].group == p.group;
            let better = |j: usize| holds(self, &self.processes[j]) && !self.processes[j].zombie || (j > i && !holds(self, p));
            if (0..self.processes.len()).filter(rival).any(better) { self.kill(i); }
        }
        let mut kept: BTreeMap<(GroupId, MemberId), usize> = BTreeMap::new();
        for i in self.living() {
            let p = &mut self.processes[i];
            (p.cut_in, p.cut_out, p.paused, p.slow_pct) = (0, 0, 0, 0);
            let key = (p.group.clone(), p.id.clone());
            let member = Replicas::newest(&self.replicas).shard.group(&key.0).and_then(|g| g.members.get(&key.1)).map(|m| m.incarnation);
            let (zombie, is_member) = (p.zombie, member == Some(p.incarnation));
            match kept.get(&key).copied() {
                _ if zombie => self.kill(i),
                Some(other) if is_member => {
                    self.kill(other);
                    kept.insert(key, i);
                }
                Some(_) => self.kill(i),
                None => {
                    kept.insert(key, i);
                }
            }
        }
        let image = Arc::new(self.meta.clone());
        for node in 0..3 {
            self.at(self.now, Ev::Image { node, image: image.clone() });
        }
    }
}
