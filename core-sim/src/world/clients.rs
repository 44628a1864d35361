//! Kafka's clients in a story: who starts, what happens to them, what they ask, and the judge's look at their answers.

use super::*;
use crate::client::{Client, Kind, Step};
use baton_coordinator::{classic::*, state::AWAY};

/// Topics and expressions of a story.
pub(super) const TOPICS: [&str; 4] = ["a", "b", "ab", "c"];
pub(super) const EXPRESSIONS: [&str; 4] = ["a.*", "[bc]", "c|a", ".*b"];

impl World {
    /// A new process of the kind that the group draws; `instance`: in that static place.
    pub(super) fn spawn_client(&mut self, group: &GroupId, kind: Kind, instance: Option<&str>) {
        self.incarnations += 1;
        let n = self.incarnations;
        let id: MemberId = if kind == Kind::Consumer { format!("k{n}").as_str().into() } else { "".into() };
        let name = format!("{group}/{}{}#{n}", match kind { Kind::Consumer => "consumer", Kind::Eager => "eager", Kind::Cooperative => "cooperative" }, instance.map(|i| format!("@{i}")).unwrap_or_default());
        let subscribed = self.some_topics();
        let mut c = Client::new(name, kind, group.clone(), id, instance.map(InstanceId::from), subscribed, self.now);
        c.next_send += self.r.below(300);
        c.slow_pct = self.plan.slow_pct;
        c.slow_ms = *self.r.pick(&[200, 1_500, 6_000]).unwrap_or(&200);
        c.rebalance_ms = *self.r.pick(&[2_000, 3_000, 8_000]).unwrap_or(&3_000);
        c.session_ms = *self.r.pick(&[6_000, 6_000, 10_000]).unwrap_or(&6_000);
        c.interval = if kind == Kind::Consumer { 300 } else { *self.r.pick(&[300, 1_000]).unwrap_or(&300) };
        if kind == Kind::Consumer && self.r.pct(self.plan.regex_pct) {
            c.regex = self.r.pick(&EXPRESSIONS).map(|e| e.to_string());
            if self.r.pct(50) { c.subscribed.clear(); }
        }
        // A static classic process is configured as the one before it: Kafka's coordinator gives it the same partitions without asking what it wants now (KIP-345).
        if let Some(before) = self.clients.iter().rev().find(|x| instance.is_some() && x.classic() && x.group == *group && x.instance == c.instance) {
            (c.subscribed, c.rebalance_ms, c.session_ms) = (before.subscribed.clone(), before.rebalance_ms, before.session_ms);
        }
        self.fired.hit(match kind { Kind::Consumer => "kafka consumer starts", Kind::Eager => "eager classic client starts", Kind::Cooperative => "cooperative classic client starts" });
        self.tell(|_| format!("{} starts{}", c.name, c.regex.as_ref().map(|r| format!(", subscribed to /{r}/")).unwrap_or_default()));
        self.clients.push(c);
    }
    /// One more of some kind that the group has.
    pub(super) fn spawn_some(&mut self, group: &GroupId) {
        let Some(mix) = self.groups.iter().position(|g| g == group).map(|i| self.plan.mixes[i]) else { return };
        let kind = self.client_kind(mix);
        if kind.is_none() {
            return;
        }
        let taken: BTreeSet<String> = self.clients.iter().filter(|c| c.alive() && c.group == *group).filter_map(|c| c.instance.as_ref().map(|i| i.to_string())).collect();
        let places: Vec<String> = (0..3).map(|n| format!("s{n}")).filter(|s| !taken.contains(s)).collect();
        let place = if self.r.pct(self.plan.static_pct) { self.r.pick(&places).cloned() } else { None };
        if let Some(kind) = kind { self.spawn_client(group, kind, place.as_deref()) }
    }
    fn client_kind(&mut self, mix: Mix) -> Option<Kind> {
        let classic = if self.plan.cooperative { Kind::Cooperative } else { Kind::Eager };
        match mix {
            Mix::Http => None,
            Mix::Consumer => Some(Kind::Consumer),
            Mix::Classic => Some(classic),
            Mix::All => Some(if self.r.pct(45) { Kind::Consumer } else { classic }),
        }
    }
    pub(super) fn population(&self, group: &GroupId) -> usize {
        self.clients.iter().filter(|c| c.alive() && c.group == *group).count() + self.processes.iter().filter(|p| p.alive() && p.group == *group).map(|p| &p.id).collect::<BTreeSet<_>>().len()
    }
    fn a_client(&mut self, ppm: u64) -> Option<usize> {
        if self.clients.is_empty() || !self.r.ppm(ppm) {
            return None;
        }
        let living: Vec<usize> = (0..self.clients.len()).filter(|i| self.clients[*i].alive()).collect();
        self.r.pick(&living).copied()
    }

    pub(super) fn client_faults(&mut self) {
        let (now, plan) = (self.now, self.plan);
        if let Some(i) = self.a_client(plan.member_crash) {
            self.fired.hit("client killed");
            self.tell(|w| format!("{} is killed", w.clients[i].name));
            self.clients[i].begin_anew(Step::Gone, now);
            if let (Some(place), true) = (self.clients[i].instance.clone(), self.r.pct(60)) {
                self.fired.hit("static client killed and started again");
                let (g, kind) = (self.clients[i].group.clone(), self.clients[i].kind);
                self.spawn_client(&g, kind, Some(place.as_str()));
            }
        }
        if let Some(i) = self.a_client(plan.member_cut) {
            let until = now + self.r.range(500, 12_000);
            let how = self.r.below(3);
            self.fired.hit("client cut off");
            self.tell(|w| format!("{} is cut off ({}) until {until}", w.clients[i].name, ["out", "in", "both"][how as usize]));
            let c = &mut self.clients[i];
            if how != 1 { c.cut_out = until }
            if how != 0 { c.cut_in = until }
        }
        if let Some(i) = self.a_client(plan.member_pause) {
            self.fired.hit("client paused");
            self.clients[i].paused = now + self.r.range(100, 12_000);
        }
        if let Some(i) = self.a_client(plan.member_leave)
            && matches!(self.clients[i].step, Step::Steady | Step::Join)
        {
            let c = &self.clients[i];
            let away = c.kind == Kind::Consumer && c.instance.is_some();
            if c.classic() && c.instance.is_some() {
                // Static classic clients do not leave: they just go.
                self.fired.hit("static classic client stops");
                self.tell(|w| format!("{} stops", w.clients[i].name));
                self.clients[i].begin_anew(Step::Gone, now);
            } else {
                self.fired.hit(if away { "static consumer leaves for a while" } else { "client leaves" });
                self.tell(|w| format!("{} stops everything and leaves{}", w.clients[i].name, if away { " for a while" } else { "" }));
                self.clients[i].leave(away, now);
            }
        }
        // A static place is taken up again, by a process of any kind.
        if self.r.ppm(plan.static_pct * 30) {
            let places: Vec<(GroupId, InstanceId)> = self.clients.iter().filter(|c| !c.alive()).filter_map(|c| Some((c.group.clone(), c.instance.clone()?))).collect();
            if let Some((g, place)) = self.r.pick(&places).cloned()
                && !self.clients.iter().any(|c| c.alive() && c.group == g && c.instance.as_ref() == Some(&place))
                && let Some(mix) = self.groups.iter().position(|x| *x == g).map(|i| plan.mixes[i])
                && let Some(kind) = self.client_kind(mix)
            {
                self.fired.hit("static place taken up again");
                self.spawn_client(&g, kind, Some(place.as_str()));
            }
        }
        if let Some(i) = self.a_client(plan.twin)
            && let Some(place) = self.clients[i].instance.clone()
        {
            self.fired.hit("two clients under one instance id");
            let (g, kind) = (self.clients[i].group.clone(), self.clients[i].kind);
            self.spawn_client(&g, kind, Some(place.as_str()));
        }
        if let Some(i) = self.a_client(plan.subscription) {
            let topics = self.some_topics();
            let regex = if self.r.pct(plan.regex_pct) { self.r.pick(&EXPRESSIONS).map(|e| e.to_string()) } else { None };
            let c = &mut self.clients[i];
            if !(c.classic() && c.instance.is_some()) { c.subscribed = topics; }
            c.full = true;
            if c.kind == Kind::Consumer {
                if c.regex != regex { self.fired.hit("expression changed"); }
                let c = &mut self.clients[i];
                c.regex = regex;
            }
        }
        let g = self.groups[self.r.below(self.groups.len() as u64) as usize].clone();
        if self.r.ppm(4_000) && self.population(&g) < plan.members {
            self.spawn_some(&g);
        }
        self.administrator(&g);
    }

    /// What administrators ask for besides removals: positions of an empty (or not empty) group, and a look at it.
    fn administrator(&mut self, g: &GroupId) {
        if !self.r.ppm(self.plan.admin) {
            return;
        }
        let topic = TopicName::from(*self.r.pick(&TOPICS).unwrap_or(&"a"));
        let command = match self.r.below(4) {
            0 => {
                self.fired.hit("administrator resets an offset");
                let offset = self.next_offset(&(g.clone(), Partition::new(topic.clone(), 0)));
                Command::Commit(Commit { member: None, offsets: vec![position(Partition::new(topic, 0), 0, offset)] })
            }
            1 => {
                self.fired.hit("administrator deletes offsets");
                Command::DeleteOffsets { topic }
            }
            2 => {
                // Of a classic group an administrator takes members out with a LeaveGroup of his own; of a consumer group whoever has a static place.
                let group = self.replicas.newest().shard.group(g);
                let classic = group.and_then(|x| x.classic.as_ref()).map(|c| c.members.iter().map(|(m, x)| (m.clone(), x.instance_id.clone())).collect());
                let placed = group.map(|x| x.instances.iter().map(|(i, m)| (m.clone(), Some(i.clone()))).collect::<Vec<_>>());
                let what = if classic.is_some() { "administrator removes a classic member" } else { "administrator empties a static place" };
                let members: Vec<(MemberId, Option<InstanceId>)> = classic.or(placed).unwrap_or_default();
                let Some((member, instance_id)) = self.r.pick(&members).cloned() else { return };
                self.fired.hit(what);
                let member = if instance_id.is_some() { MemberId::default() } else { member };
                Command::Classic(ClassicCommand::Leave(vec![Leaver { member, instance_id, reason: Some("removed".into()) }]))
            }
            _ => {
                self.fired.hit("described");
                Command::Describe
            }
        };
        let call = self.call(None, command);
        self.calls[call].group = g.clone();
        self.at(self.now + TICK, Ev::Request { node: None, call });
    }
    pub(super) fn next_offset(&mut self, place: &Place) -> i64 {
        let n = self.offsets.entry(place.clone()).or_default();
        *n += 1;
        *n
    }

    pub(super) fn clients_act(&mut self) {
        let topics = self.topics.clone();
        if self.r.ppm(self.plan.topics * 10) || (self.calm() && self.now.is_multiple_of(500)) {
            for i in 0..self.clients.len() {
                if self.clients[i].classic() && self.clients[i].look_at_topics(&topics, self.now, &mut self.r) {
                    self.fired.hit("assigning member sees other topics");
                }
            }
        }
        for i in 0..self.clients.len() {
            if !self.clients[i].alive() || self.now < self.clients[i].paused {
                continue;
            }
            let c = &mut self.clients[i];
            if c.ends_at > 0 && self.now >= c.ends_at && matches!(c.step, Step::Steady | Step::Join) {
                c.ends_at = 0;
                c.leave(false, self.now);
            }
            self.began |= self.clients[i].moving();
            if self.clients[i].tick(self.now, &mut self.r) {
                self.fired.hit("classic client gives itself up");
            }
            let id = self.calls.len() as u64;
            if let Some(command) = self.clients[i].request(self.now, &mut self.r, id, &topics) {
                let leaves = !self.clients[i].alive();
                if let (Command::Consumer(h), true) = (&command, leaves) {
                    self.fired.hit(if h.epoch == AWAY { "epoch -2 sent" } else { "epoch -1 sent" });
                }
                self.client_call(i, command);
            }
            self.client_commits(i);
        }
    }
    fn client_call(&mut self, i: usize, command: Command) -> usize {
        let call = self.call(None, command);
        let c = &mut self.clients[i];
        c.sent += 1;
        (self.calls[call].client, self.calls[call].group, self.calls[call].life, self.calls[call].sent) = (Some(i), c.group.clone(), c.life, c.sent);
        self.calls[call].deletions = self.judge.deletions.get(&c.group).copied().unwrap_or_default();
        self.post(call, None);
        call
    }
    /// Under its epoch or generation, for what it uses and sometimes for what it does not.
    fn client_commits(&mut self, i: usize) {
        let c = &self.clients[i];
        if self.calm() || c.committing.is_some() || c.step == Step::Leaving || c.epoch < 0 || !self.r.ppm(self.plan.commits) {
            return;
        }
        let owned: Vec<Partition> = self.clients[i].owned.keys().cloned().collect();
        let mut p = self.r.pick(&owned).cloned();
        if p.is_none() || self.r.pct(15) {
            self.fired.hit("commit for a partition of somebody else's");
            let n = self.r.below(3) as i32;
            p = self.r.pick(&TOPICS).map(|t| Partition::new(*t, n));
        }
        let Some(p) = p else { return };
        let c = &self.clients[i];
        let (member, instance_id, classic, epoch) = (c.id.clone(), c.instance.clone(), c.classic(), c.epoch);
        let offset = self.next_offset(&(c.group.clone(), p.clone()));
        let offsets = vec![position(p, 0, offset)];
        let command = if classic && self.r.pct(50) {
            Command::Classic(ClassicCommand::Commit(GenerationCommit { member, instance_id, generation: epoch, offsets }))
        } else {
            Command::KafkaCommit(KafkaCommit { version: if classic { 8 } else { 9 }, member, instance_id, epoch, offsets })
        };
        self.fired.hit(if classic { "generation commits" } else { "epoch commits" });
        let call = self.client_call(i, command);
        self.clients[i].committing = Some((call as u64, self.now + 1_000));
    }

    /// Kafka's clients have one connection: what they sent on an earlier one went down with it. True: it is such a request.
    pub(super) fn of_an_earlier_connection(&mut self, call: usize) -> bool {
        let c = &self.calls[call];
        let Some(client) = c.client.map(|i| &mut self.clients[i]) else { return false };
        let older = c.sent < client.arrived;
        client.arrived = client.arrived.max(c.sent);
        older
    }
    /// What is known at a commit's arrival: the group's epoch or generation, and whose the partition is.
    pub(super) fn standing(&self, call: usize) -> Option<Standing> {
        let c = &self.calls[call];
        let (member, offsets) = match &c.command {
            Command::KafkaCommit(k) => (&k.member, &k.offsets),
            Command::Classic(ClassicCommand::Commit(k)) => (&k.member, &k.offsets),
            _ => return None,
        };
        let g = self.replicas.newest().shard.group(&c.group)?;
        let (generation, completing) = (g.classic.as_ref().map(|x| x.generation), g.classic.as_ref().is_some_and(|x| x.phase == baton_coordinator::classic::Phase::Completing));
        let owned = g.owners.get(&offsets.first()?.partition);
        let (owner, own) = (owned.filter(|o| o.member != *member).map(|o| o.token), owned.is_some_and(|o| o.member == *member));
        Some(Standing { generation, completing, owner, own })
    }
    /// The judge's look at an answer to a client, when it is let go.
    pub(super) fn client_release(&mut self, call: usize, result: &Result<Response, GroupError>) -> Verdict {
        let c = &self.calls[call];
        let fresh = self.judge.deletions.get(&c.group).copied().unwrap_or_default() == c.deletions;
        self.watch.answered(&self.judge, &c.group, &c.command, result, &self.topic_names, fresh)?;
        let heard = match (&c.command, result) {
            (Command::Consumer(_), Ok(Response::Consumer(v))) if v.epoch >= 0 => Some(v.member.clone()),
            (Command::Classic(ClassicCommand::Heartbeat(b)), Ok(_) | Err(GroupError::Classic { code: ClassicCode::RebalanceInProgress, .. })) => Some(b.member.clone()),
            _ => None,
        };
        if let Some(m) = heard {
            let last = self.accepted.entry((c.group.clone(), m, Incarnation::default())).or_default();
            *last = (*last).max(c.arrived);
        }
        let (said, member, offsets) = match &c.command {
            Command::KafkaCommit(k) => (k.epoch, &k.member, &k.offsets),
            Command::Classic(ClassicCommand::Commit(k)) => (k.generation, &k.member, &k.offsets),
            Command::Commit(k) if k.member.is_none() => (-1, &MemberId(String::new().into()), &k.offsets),
            _ => return Ok(()),
        };
        let Ok(Response::Committed(results)) = result else { return Ok(()) };
        for (o, _) in offsets.iter().zip(results).filter(|(_, (_, r))| r.is_ok()) {
            let place = (c.group.clone(), o.partition.clone());
            if let (Some(at), Some(now)) = (&c.standing, self.standing(call)) {
                // Whoever has taken a static place by the consumer protocol and not been told an epoch yet may commit for what it has by then (KIP-1251), or had until another took that place.
                let back = said == 0 && now.generation.is_none() && (now.own || self.watch.is_gone(&c.group, member, c.arrived));
                if fresh && !back && at.generation.is_some_and(|g| said >= 0 && g > said) {
                    return broken("fencing", format!("{place:?}: a commit of {member} in generation {said} is accepted, the group was in {:?} when it came", at.generation));
                }
                if fresh && at.completing && now.completing && at.generation == now.generation {
                    return broken("fencing", format!("{place:?}: a commit of {member} in generation {said} is accepted, which has no assignment yet"));
                }
                if at.owner.is_some() && at.owner == now.owner {
                    return broken("fencing", format!("{place:?}: a commit of {member} is accepted, the partition is another member's all the time"));
                }
            }
            if fresh {
                self.judge.carried_out(&place, o.offset)?;
            }
        }
        Ok(())
    }
    pub(super) fn client_answer(&mut self, i: usize, call: usize, result: Result<Response, GroupError>) {
        self.began = true;
        let topics = self.topics.clone();
        let c = &mut self.clients[i];
        if !c.alive() || self.now < c.cut_in {
            return;
        }
        if self.now < c.paused {
            let later = c.paused;
            return self.at(later, Ev::Answer { call, result });
        }
        let before = (c.step, c.target.clone());
        if let Ok(Response::Classic(ClassicAnswer::Joined(j))) = &result {
            c.joined_late = self.watch.made_without(&c.group, j.generation, self.calls[call].arrived);
        }
        c.answer(self.now, &mut self.r, call as u64, self.calls[call].life, &result, &topics);
        if c.step == Step::Sync && before.0 == Step::Join && c.instance.is_some() && c.list.is_empty() && self.plan.aimed && self.now < self.plan.chaos_ms && self.r.pct(30) {
            self.paused_before_its_sync(i);
        }
        let c = &self.clients[i];
        if before != (c.step, c.target.clone()) || result.is_err() {
            self.tell(|w| { let c = &w.clients[i]; format!("{} hears {}, is now {:?} in {} and wants {:?}", c.name, if let Err(e) = &result { e.to_string() } else { "yes".into() }, c.step, c.epoch, c.target.keys()) });
        }
    }
    /// Aimed: it sleeps between its join and its sync, the group goes on to the next generation without it, and it keeps its place: it is a static one.
    fn paused_before_its_sync(&mut self, i: usize) {
        let (group, session_ms) = (self.clients[i].group.clone(), self.clients[i].session_ms);
        // It sleeps until the next generation has begun without it, which happens within its session and lengthens that.
        let join_phase = self.longest_join_phase(&group);
        let others: Vec<usize> = (0..self.clients.len()).filter(|j| *j != i && self.clients[*j].group == group && self.clients[*j].instance.is_none() && self.clients[*j].classic() && self.clients[*j].alive()).collect();
        let Some(other) = self.r.pick(&others).copied().filter(|_| join_phase + 1_500 < session_ms) else { return };
        self.fired.hit("classic client paused before its sync");
        self.clients[i].paused = self.now + join_phase + self.r.range(1_000, 4_000);
        // Somebody calls for that join phase.
        let topics = self.some_topics();
        let c = &mut self.clients[other];
        if c.subscribed != topics { c.subscribed = topics } else if c.subscribed.len() > 1 { c.subscribed.pop_last(); } else { c.subscribed.insert("b".into()); }
    }
    fn longest_join_phase(&self, group: &GroupId) -> Ms { self.clients.iter().filter(|c| c.alive() && c.group == *group && c.classic()).map(|c| c.rebalance_ms).max().unwrap_or_default() }
    /// Aimed: a dynamic client does not hear that its group rebalances, and goes on with what it has; it is back within its session.
    pub(super) fn sleeps_through_the_join_phase(&mut self, group: &GroupId) {
        if !self.plan.aimed || self.calm() || !self.r.pct(40) { return }
        let join_phase = self.longest_join_phase(group);
        let able = |c: &Client| c.alive() && c.group == *group && c.classic() && c.instance.is_none() && c.step == Step::Steady && !c.owned.is_empty() && join_phase + 1_500 < c.session_ms;
        let able: Vec<usize> = (0..self.clients.len()).filter(|i| able(&self.clients[*i])).collect();
        let Some(i) = self.r.pick(&able).copied() else { return };
        self.fired.hit("classic client sleeps through a join phase");
        self.clients[i].paused = self.now + join_phase + self.r.range(2_000, 6_000);
    }
    /// After what the replicas applied: the watch over clients.
    pub(super) fn watch(&mut self) -> Verdict {
        for index in std::mem::take(&mut self.judge.fresh) {
            let Some(entry) = &self.replicas.log[index - 1] else { continue };
            let before = (self.watch.upgrades, self.watch.downgrades);
            self.watch.entry(self.now, entry, &self.clients)?;
            if self.watch.upgrades > before.0 { self.fired.hit("classic group became a consumer group"); }
            if self.watch.downgrades > before.1 { self.fired.hit("consumer group became a classic one"); }
            for b in &entry.batches {
                if let Some((e, _)) = self.judge.epochs_of(&b.group) {
                    self.watch.epoch(&b.group, e);
                }
            }
        }
        Ok(())
    }
    /// At the end: every client that lives has its place, and believes what the state says.
    pub(super) fn clients_settled(&self, id: &GroupId) -> Verdict {
        let shard = &self.replicas.newest().shard;
        let living: Vec<&Client> = self.clients.iter().filter(|c| c.alive() && c.group == *id).collect();
        let Some(g) = shard.group(id) else {
            return if living.is_empty() { Ok(()) } else { broken("live", format!("{id} does not exist, {} waits", living[0].name)) };
        };
        for (r, x) in &g.regexes {
            let found = baton_coordinator::regexes::resolve(r, &self.meta);
            let known: BTreeSet<TopicName> = x.topics.iter().filter(|t| self.meta.topics.contains_key(*t)).cloned().collect();
            if found != known {
                return broken("complete", format!("{id}: /{r}/ stands for {known:?}, it matches {found:?}"));
            }
        }
        for c in &living {
            let state: Option<(BTreeSet<Partition>, Epoch)> = match &g.classic {
                Some(x) => x.members.get(&c.id).map(|m| (baton_coordinator::embedded::Assigned::decode(&m.assignment.0).map(|a| a.partitions.into_iter().collect()).unwrap_or_default(), x.generation)),
                None => g.members.get(&c.id).map(|m| (m.assigned.keys().cloned().collect(), m.epoch)),
            };
            let uses: BTreeSet<Partition> = c.owned.keys().cloned().collect();
            match state {
                Some((assigned, epoch)) if c.step == Step::Steady && c.epoch == epoch && uses == assigned => {}
                other => return broken("live", format!("{id}: {} ({:?} in {}, using {uses:?}) and the state differ: {other:?}", c.name, c.step, c.epoch)),
            }
        }
        if let Some(x) = &g.classic {
            if let Some(m) = x.members.keys().find(|m| !living.iter().any(|c| c.id == **m)) {
                return broken("live", format!("{id}: {m} is a member, but no such client lives"));
            }
            if living.is_empty() {
                return Ok(());
            }
            if x.phase != baton_coordinator::classic::Phase::Stable {
                return broken("live", format!("{id} is in {:?}", x.phase));
            }
            let wanted: BTreeSet<Partition> = living.iter().flat_map(|c| &c.subscribed).filter_map(|t| self.meta.topics.get(t).map(|f| (t, f.partitions))).flat_map(|(t, n)| (0..n).map(|p| Partition::new(t.clone(), p))).collect();
            let used: BTreeSet<Partition> = living.iter().flat_map(|c| c.owned.keys().cloned()).collect();
            if used.iter().any(|p| !wanted.contains(p)) || wanted.iter().any(|p| !used.contains(p) && !self.watch.withheld(id, x.generation, p)) {
                return broken("complete", format!("{id}: generation {} uses {used:?}, wanted are {wanted:?}", x.generation));
            }
        }
        Ok(())
    }
    /// The faults end for clients too: one process in each static place.
    pub(super) fn clients_grow_calm(&mut self) {
        let now = self.now;
        let mut places: BTreeSet<(GroupId, InstanceId)> = BTreeSet::new();
        for i in (0..self.clients.len()).rev().filter(|i| self.clients[*i].alive()).collect::<Vec<_>>() {
            let c = &mut self.clients[i];
            (c.cut_in, c.cut_out, c.paused, c.slow_pct) = (0, 0, 0, 0);
            if let Some(instance) = c.instance.clone()
                && !places.insert((c.group.clone(), instance))
            {
                c.begin_anew(Step::Gone, now);
            }
        }
    }
}

/// What was the case when a commit arrived: the generation of a classic group, and whether its members are yet to hear what it gives them; the token of another owner of the partition, and whether it is the member's own.
#[derive(Clone, Debug)]
pub struct Standing { generation: Option<i32>, completing: bool, owner: Option<FencingToken>, own: bool }

fn position(partition: Partition, token: u64, offset: i64) -> CommitOffset { CommitOffset { partition, token: FencingToken(token), offset, metadata: String::new(), leader_epoch: None } }
