//! What a node's shell does with its shard: requests in, proposals and answers out, and every answer only past a lease check at its release.

use super::*;
use baton_coordinator::{classic::ClassicRecord, decide::TimerCommand, record::{Joined, Record}, shard::*, timers::Timer};

impl World {
    pub(super) fn arrive(&mut self, node: Option<usize>, call: usize) -> Verdict {
        let Some(n) = node.or(self.replicas.leader) else {
            self.refuse(call);
            return Ok(());
        };
        self.in_sockets.remove(&(n, call));
        if !self.replicas.nodes[n].up {
            return Ok(());
        }
        if self.now < self.replicas.nodes[n].paused {
            // Its sockets are read after its timers have been looked at: both are due, and either may come first.
            let later = self.replicas.nodes[n].paused + TICK;
            self.in_sockets.insert((n, call));
            self.at(later, Ev::Request { node: Some(n), call });
            return Ok(());
        }
        if self.of_an_earlier_connection(call) {
            return Ok(());
        }
        if self.replicas.nodes[n].shard.leading().is_none() {
            let elected = self.replicas.leader == Some(n);
            if matches!(self.calls[call].command, Command::FetchOffsets { .. }) && (seeded::on(8) || (elected && seeded::on(50))) {
                self.read_applied(n, call);
            } else {
                self.refuse(call);
            }
            return Ok(());
        }
        let (member_at, standing, held_at) = (self.membership(call), self.standing(call), self.held(call));
        let clocks = self.replicas.clocks(n, self.now);
        self.note_numbers(call);
        if let (Some(i), Command::Heartbeat(h)) = (self.calls[call].process, &self.calls[call].command) {
            self.processes[i].arrives(h, call as u64, self.calls[call].copy, member_at.is_some());
        }
        let c = &mut self.calls[call];
        (c.arrived, c.member_at, c.standing, c.held_at) = (self.now, member_at, standing, held_at);
        self.note_call(call);
        let c = &self.calls[call];
        // Kafka's requests have no such field: there the front gives its own.
        let http = matches!(c.command, Command::Heartbeat(_) | Command::Commit(_) | Command::FetchOffsets { .. } | Command::DeleteOffsets { .. } | Command::DeleteGroup { .. });
        let budget_ms = Some(if http { self.plan.timeout_ms } else { 5_000 });
        let request = Request { group: c.group.clone(), command: c.command.clone(), budget_ms, min_meta_revision: 0 };
        self.mark(call as u64);
        self.tell(|w| {
            let c = &w.calls[call];
            let who = c.process.map(|i| w.processes[i].name.clone()).or(c.client.map(|i| w.clients[i].name.clone())).unwrap_or("the administrator".into());
            let what = match &c.command {
                Command::Heartbeat(h) => {
                    let wants = h.subscribed_topics.as_ref().map(|t| format!(", wants {t:?} {:?}", h.subscribed_regex.as_deref().unwrap_or_default())).unwrap_or_default();
                    format!("heartbeat epoch {} revision {} owned {:?}{wants}", h.epoch, h.assignment_revision.0, h.owned)
                }
                other => format!("{other:?}"),
            };
            format!("node {n} gets #{call}{} of {who}: {what}", if c.copy { " (copy)" } else { "" })
        });
        // One half of what has nothing new in it: the other goes on to take the ordinary way.
        let term = self.replicas.nodes[n].shard.leading().filter(|t| call.is_multiple_of(2) && self.replicas.lease(n, *t, self.now));
        if let Some((term, response)) = term.and_then(|t| Some((t, self.replicas.nodes[n].shard.steady(&request, clocks)?))) {
            self.fired.hit("answered at once");
            let result = Ok(response);
            self.rule_one(n, term, call, &result)?;
            return self.release(n, term, call, result);
        }
        self.taken_up.insert((n, call));
        self.replicas.nodes[n].shard.handle(Ticket(call as u64), request, clocks);
        Ok(())
    }
    /// When the member of a heartbeat last joined, as committed by now.
    fn membership(&self, call: usize) -> Option<(AssignmentRevision, Epoch)> {
        let c = &self.calls[call];
        let Command::Heartbeat(h) = &c.command else { return None };
        self.replicas.newest().shard.group(&c.group)?.members.get(&h.member).filter(|m| m.incarnation == h.incarnation).map(|m| (m.joined_at, m.epoch))
    }
    /// What the member of a commit holds of what it commits, under the tokens that it names, as committed by now.
    fn held(&self, call: usize) -> BTreeSet<Partition> {
        let c = &self.calls[call];
        let (Command::Commit(Commit { member: Some(m), offsets }), Some(g)) = (&c.command, self.replicas.newest().shard.group(&c.group)) else { return BTreeSet::new() };
        let holds = |o: &&CommitOffset| g.owners.get(&o.partition).is_some_and(|x| x.member == m.member && x.incarnation == m.incarnation && x.token == o.token);
        offsets.iter().filter(holds).map(|o| o.partition.clone()).collect()
    }
    fn note_numbers(&mut self, call: usize) {
        let c = &self.calls[call];
        let Command::Commit(Commit { member: Some(m), offsets }) = &c.command else { return };
        for o in offsets {
            let greatest = self.numbers.entry(((c.group.clone(), o.partition.clone()), o.token.0)).or_default();
            *greatest = (*greatest).max(m.commit_seq);
        }
    }
    /// Seeded bugs 8 and 50: a node that does not lead, or not yet, reads from what it has applied.
    fn read_applied(&mut self, n: usize, call: usize) {
        self.note_call(call);
        let c = &self.calls[call];
        let offsets = self.replicas.nodes[n].shard.group(&c.group).into_iter().flat_map(|g| &g.offsets).filter(|(p, _)| c.noted.iter().any(|(q, _)| q == *p));
        let found = offsets.map(|(p, o)| OffsetView { partition: p.clone(), offset: o.offset, metadata: o.metadata.clone(), leader_epoch: o.leader_epoch, committed_at_ms: o.committed_at_ms }).collect();
        self.note_answer(call, &Ok(Response::Offsets(found)));
    }
    fn refuse(&mut self, call: usize) {
        let result = Err(GroupError::Unavailable { reason: "not the leader".into() });
        self.deliver(call, result);
    }
    fn deliver(&mut self, call: usize, result: Result<Response, GroupError>) {
        let calm = self.calm();
        if self.calls[call].copy || (!calm && self.r.pct(self.plan.loss_pct)) {
            return;
        }
        let delay = TICK + if calm { 0 } else { self.r.below(self.plan.delay_ms) };
        self.at(self.now + delay, Ev::Answer { call, result });
    }

    /// The lease check, when the answer is let go.
    pub(super) fn release(&mut self, node: usize, term: Term, call: usize, result: Result<Response, GroupError>) -> Verdict {
        let n = &self.replicas.nodes[node];
        if !n.up {
            return Ok(());
        }
        let same_term = n.shard.leading() == Some(term);
        let bug = seeded::on(7) || (result.is_err() && seeded::on(26));
        if !(same_term && (self.replicas.lease(node, term, self.now) || bug)) {
            self.fired.hit("answers withheld: no lease");
            self.refuse(call);
            return Ok(());
        }
        self.client_release(call, &result)?;
        let c = &self.calls[call];
        match (&c.command, &result) {
            (Command::Heartbeat(h), Ok(Response::Heartbeat(v))) => {
                self.judge.answered(&c.group, v)?;
                let who = (c.group.clone(), h.member.clone(), h.incarnation);
                self.told.answered(&who, &c.told, (v.assignment_revision.0, v.member_epoch))?;
                let last = self.accepted.entry((c.group.clone(), h.member.clone(), h.incarnation)).or_default();
                *last = (*last).max(c.arrived);
            }
            (Command::Heartbeat(h), Err(why)) => {
                let committed = self.replicas.newest().shard.group(&c.group).and_then(|g| g.members.get(&h.member)).filter(|m| m.incarnation == h.incarnation);
                let (then, now) = (c.member_at, self.membership(call));
                answers::refused(&c.group, h, why, committed.map(|m| &**m), then.is_some_and(|(join, _)| now.is_some_and(|(j, _)| j == join)), then.map(|(_, e)| e))?;
            }
            (Command::Commit(asked), Ok(Response::Committed(results))) => {
                let held = self.held(call);
                for (o, (p, done)) in asked.offsets.iter().zip(results) {
                    let (Some(m), Err(why)) = (&asked.member, done) else { continue };
                    let greatest = self.numbers.get(&((c.group.clone(), p.clone()), o.token.0)).copied().unwrap_or_default();
                    answers::commit_refused(&format!("{} {p}", c.group), *why, c.held_at.contains(p) && held.contains(p), greatest > m.commit_seq)?;
                }
                let current = self.judge.deletions.get(&c.group).copied().unwrap_or_default() == c.deletions;
                if let (Some(m), true) = (&asked.member, current) {
                    for (o, (p, done)) in asked.offsets.iter().zip(results) {
                        if done.is_ok() {
                            self.judge.commit_acked((c.group.clone(), p.clone()), o.token.0, m.commit_seq, o.offset)?;
                        }
                    }
                }
            }
            _ => {}
        }
        self.note_answer(call, &result);
        self.mark(call as u64 ^ 0xa5);
        self.deliver(call, result);
        Ok(())
    }

    /// Timers under a lease, then everything the shards want done.
    pub(super) fn shells(&mut self) -> Verdict {
        for n in 0..self.replicas.nodes.len() {
            let node = &self.replicas.nodes[n];
            if !node.up || self.now < node.paused {
                continue;
            }
            let clocks = self.replicas.clocks(n, self.now);
            if let Some(term) = node.shard.leading()
                && node.shard.poll_timeout().is_some_and(|at| at <= clocks.mono_ms)
                && self.replicas.lease(n, term, self.now)
            {
                self.timeout(n, clocks)?;
            }
            while let Some(action) = self.replicas.nodes[n].shard.poll(clocks) {
                let term = self.replicas.nodes[n].shard.leading();
                if let Action::Reply { ticket, .. } = &action { self.taken_up.remove(&(n, ticket.0 as usize)); }
                match (action, term) {
                    (Action::Propose(entry), _) => self.propose(n, entry)?,
                    (Action::Work(work), _) => self.work(n, work, clocks),
                    (Action::Reply { ticket, result }, Some(term)) => {
                        if let Err(GroupError::Unavailable { reason }) = &result && reason.contains("it would break an invariant") {
                            return broken("replay", format!("node {n}: {reason}"));
                        }
                        if nothing_done(&result) { self.fired.hit("request taken up too late"); }
                        self.rule_one(n, term, ticket.0 as usize, &result)?;
                        let at = self.now + self.r.below(4) * TICK;
                        self.at(at, Ev::Release { node: n, term, call: ticket.0 as usize, result });
                    }
                    (Action::Reply { ticket, result }, None) => {
                        answers::without_leading(&result)?;
                        self.deliver(ticket.0 as usize, result);
                    }
                }
            }
            state::nothing_refused(n as u64, &self.replicas.nodes[n].shard)?;
        }
        self.phases()
    }

    /// Work beside the shard takes its time; an assignor fails now and then, a result comes twice, or to a leader of a later term.
    fn work(&mut self, n: usize, work: baton_coordinator::work::Work, clocks: Now) {
        use baton_coordinator::work::Kind;
        let mut done = work.run();
        if self.calm() || !self.plan.slow_work {
            return self.replicas.nodes[n].shard.done(done, clocks);
        }
        if done.kind == Kind::Assign && self.r.pct(10) {
            self.fired.hit("assignor failed");
            done.result = Err("it failed".into());
        }
        self.fired.hit(if done.kind == Kind::Assign { "target computed beside the shard" } else { "expressions resolved beside the shard" });
        let longest = *self.r.pick(&[20, 500, 4_000]).unwrap_or(&20);
        let mut at = self.now + self.r.below(longest);
        if done.kind != Kind::Assign && self.plan.aimed && self.now > self.plan.chaos_ms * 2 / 3 && !self.topics_stand && self.r.pct(50) {
            at = self.now + self.r.range(1_500, 4_000);
            self.topics_change_meanwhile();
        }
        if self.r.pct(20) {
            self.fired.hit("result of work comes twice");
            let again = at + self.r.below(5_000);
            self.at(again, Ev::Done { node: n, done: Box::new(done.clone()) });
        }
        self.at(at, Ev::Done { node: n, done: Box::new(done) });
    }

    /// Aimed: a member is removed while it works, and before it hears of that a copy of its last join arrives. It says nothing of what was granted since, and takes its time to stop.
    fn old_join(&mut self, group: &GroupId, member: &MemberId, removed_at: Ms) -> bool {
        let Some(i) = self.processes.iter().position(|p| p.alive() && p.phase == Phase::Steady && p.group == *group && p.id == *member) else { return false };
        let Some(call) = self.last_join(i) else { return false };
        self.fired.hit("join of a removed member comes again");
        let p = &mut self.processes[i];
        (p.slow_pct, p.slow_ms) = (100, 3 * self.plan.session_ms);
        let copy = self.copy(call);
        let when = removed_at + self.r.range(1, 6) * TICK;
        self.at(when, Ev::Request { node: None, call: copy });
        true
    }

    /// No heartbeat is answered while a batch of its group is in flight.
    fn rule_one(&self, n: usize, term: Term, call: usize, result: &Result<Response, GroupError>) -> Verdict {
        let Some((t, base, groups)) = self.proposed.get(&n) else { return Ok(()) };
        let c = &self.calls[call];
        let in_flight = *t == term && *base == self.replicas.nodes[n].shard.state().sequence && groups.contains(&c.group);
        answers::not_in_flight(&c.group, result, in_flight)
    }

    /// A process that is in joins again only by a request of after its last join: a late copy of an earlier one would have everything asked back from it (`safety.md` 7).
    fn joins_again(&self, n: usize, group: &GroupId, j: &Joined, records: &[Record]) -> Verdict {
        let went = records.iter().any(|r| matches!(r, Record::Removed { member, .. } if *member == j.member));
        let Some(m) = self.replicas.nodes[n].shard.group(group).and_then(|g| g.members.get(&j.member)).filter(|m| m.conforming() && m.incarnation == j.incarnation && !went) else { return Ok(()) };
        let asks = |c: &Call| c.group == *group && matches!(&c.command, Command::Heartbeat(h) if h.member == j.member && h.incarnation == j.incarnation && h.epoch == 0 && h.assignment_revision >= m.joined_at);
        state::joins_again_by_a_later_request(group, &j.member, self.taken_up.iter().any(|(at, call)| *at == n && asks(&self.calls[*call])))
    }

    fn propose(&mut self, n: usize, entry: baton_coordinator::record::LogEntry) -> Verdict {
        // Now and then: every kind of record comes by often enough.
        if entry.base_sequence.is_multiple_of(4) && baton_coordinator::record::LogEntry::decode(&entry.encode()).as_ref() != Ok(&entry) {
            return broken("replicas-agree", "an entry does not survive its encoding");
        }
        self.proposed.insert(n, (entry.term, entry.base_sequence, entry.batches.iter().map(|b| b.group.clone()).collect()));
        self.mark(entry.base_sequence ^ 0x77);
        let (mut removed, mut asked_back, mut rebalances) = (Vec::<(GroupId, MemberId, bool)>::new(), Vec::new(), Vec::new());
        for b in &entry.batches {
            for r in &b.records {
                match r {
                    Record::History(h) => {
                        if self.story.is_some() {
                            let line = format!("node {n} decides for {} (on {}): {} ({})", b.group, entry.base_sequence, h.cause, h.kind);
                            self.tell(|_| line);
                        }
                        if let ("expired", Some(m), true) = (h.kind.as_str(), &h.member, h.cause.contains("was not heard of for its session")) {
                            self.fired.hit("expired");
                            self.expired_in_time(n, &b.group, m)?;
                        }
                        if let ("replaced", Some(m), Some((_, holder, _))) = (h.kind.as_str(), &h.member, removed.last().filter(|(of, ..)| *of == b.group)) {
                            // Processes are in the order in which they started.
                            let newest = self.processes.iter().rposition(|p| p.group == b.group && p.id == *holder);
                            let lives = |i: &usize| self.processes[*i].alive() && !self.processes[*i].zombie;
                            // Who has not been in before may have been on its way for long: then it is the operator who said what was not so.
                            let was_in = |i: usize| self.judge.has_been_in(&b.group, self.processes[i].incarnation);
                            let joined = b.records.iter().find_map(|r| if let Record::Joined(j) = r { (j.member == *m).then_some(j.incarnation) } else { None });
                            let taker = self.processes.iter().position(|p| Some(p.incarnation) == joined);
                            let earlier = taker.zip(newest.filter(lives)).is_some_and(|(taker, holder)| taker < holder && was_in(taker));
                            state::not_by_an_earlier_one(&b.group, m, holder, earlier)?;
                        }
                        if let ("fenced", Some(m)) = (h.kind.as_str(), &h.member) {
                            self.fired.hit("rebalance timeout");
                            timers::fenced_with_cause(&b.group, m, self.replicas.nodes[n].shard.group(&b.group).and_then(|g| g.members.get(m)).map(|m| &**m))?;
                        }
                    }
                    Record::Joined(j) => {
                        if j.replaces.is_none() { self.joins_again(n, &b.group, j, &b.records)?; }
                        let said = b.records.iter().rev().find_map(|r| if let Record::Subscribed { member, wish } = r { (*member == j.member).then_some(&**wish) } else { None });
                        if let Some(p) = self.processes.iter_mut().find(|p| p.group == b.group && p.incarnation == j.incarnation) { p.let_in(said.unwrap_or(&j.wish)); }
                    }
                    Record::Reconciled(r) if !r.revoked.is_empty() => asked_back.push((b.group.clone(), r.member.clone(), r.revoked.clone())),
                    Record::Removed { member, held, .. } => removed.push((b.group.clone(), member.clone(), !held.is_empty())),
                    Record::OffsetsExpired { partitions } => {
                        let gone = removed.iter().filter(|(g, ..)| *g == b.group).map(|(_, m, _)| m.clone()).collect();
                        self.forgotten(n, &b.group, partitions, &gone)?;
                    }
                    Record::Classic(c) if matches!(**c, ClassicRecord::Preparing | ClassicRecord::Generation { .. } | ClassicRecord::Assigned { .. }) => {
                        let begins = matches!(**c, ClassicRecord::Preparing);
                        self.phase_proposed(n, &b.group, c)?;
                        rebalances.push((b.group.clone(), begins));
                    }
                    _ => {}
                }
            }
        }
        let mut delay = TICK + self.r.below(self.plan.commit_ms);
        if self.plan.aimed && !self.calm() && !removed.is_empty() {
            // Aimed: the member's own heartbeat arrives between the proposal and the commit of its removal.
            delay += 300;
            for (g, m, held) in removed {
                if held && self.r.pct(50) && self.old_join(&g, &m, self.now + delay) { continue }
                if let Some(i) = self.processes.iter().position(|p| p.alive() && p.phase == Phase::Steady && p.group == g && p.id == m) {
                    self.fired.hit("heartbeat during its own removal");
                    self.processes[i].waiting = None;
                    self.processes[i].next_send = 0;
                    self.let_send(i, Some(n));
                }
            }
        }
        for (g, begins) in rebalances {
            self.consumer_in_mid_rebalance(&g);
            if begins { self.sleeps_through_the_join_phase(&g); }
        }
        for (g, m, partitions) in asked_back {
            self.old_heartbeat(&g, &m, &partitions, self.now + delay);
        }
        self.replicas.propose(n, entry, self.now, delay);
        Ok(())
    }

    /// Positions go: of a topic that is gone, or because they were kept long enough. What a member reads, or somebody holds, stays (as the proposer's own state has it).
    /// `gone`: who was removed by the same batch, before.
    fn forgotten(&mut self, n: usize, group: &GroupId, partitions: &[Partition], gone: &BTreeSet<MemberId>) -> Verdict {
        let Some(g) = self.replicas.nodes[n].shard.group(group) else { return Ok(()) };
        let image = &self.replicas.nodes[n].image;
        let there = |p: &&Partition| g.offsets.get(*p).is_some_and(|o| image.topics.get(&p.topic).is_some_and(|t| t.id == o.topic_id));
        let old: BTreeSet<Partition> = partitions.iter().filter(there).cloned().collect();
        if let Some(p) = old.iter().find(|p| g.owners.get(*p).is_some_and(|o| !gone.contains(&o.member)) || g.members.iter().any(|(id, m)| !gone.contains(id) && g.subscribes(m, &p.topic))) {
            return broken("durable", format!("{group} {p}: the position is forgotten while a member reads the topic"));
        }
        if !old.is_empty() {
            self.fired.hit("positions past their retention");
            self.places_go(group.clone(), old);
        }
        Ok(())
    }
    /// Aimed: while an expression is looked up on today's topics, one that it may match is made and another grows, which the group hears of first. Then topics stay as they are.
    fn topics_change_meanwhile(&mut self) {
        let missing: Vec<&str> = clients::TOPICS.into_iter().filter(|t| !self.meta.topics.contains_key(&TopicName::from(*t))).collect();
        let Some(new) = self.r.pick(&missing).copied() else { return };
        let grown = self.meta.topics.iter().find(|(_, f)| f.partitions < 9).map(|(t, f)| (t.clone(), f.partitions + 1));
        self.fired.hit("topics change while an expression is resolved");
        self.topics_stand = true;
        let lag = std::mem::take(&mut self.plan.meta_lag_ms);
        self.meta(MetaCommand::DeclareTopic { name: new.into(), partitions: self.plan.partitions, id_if_new: u128::from(self.meta.revision) + 100 });
        if let Some((name, partitions)) = grown { self.meta(MetaCommand::DeclareTopic { name, partitions, id_if_new: 0 }) }
        self.plan.meta_lag_ms = lag;
    }
    /// Aimed: a classic group is between two generations, or its members have not yet given back what the last one asks for, and the first consumer comes.
    fn consumer_in_mid_rebalance(&mut self, group: &GroupId) {
        let mix = self.groups.iter().position(|g| g == group).map(|i| self.plan.mixes[i]);
        let often = match mix { Some(Mix::All) => 60, Some(Mix::Classic) if self.plan.cooperative => 40, Some(Mix::Classic) => 15, _ => 0 };
        if self.plan.aimed && !self.calm() && self.population(group) <= self.plan.members && self.r.pct(often) {
            self.fired.hit("consumer joins in mid-rebalance");
            self.spawn_client(group, crate::client::Kind::Consumer, None);
            // Often it goes soon, and the group is a classic one again.
            let stays = self.r.range(2_000, 8_000);
            if let Some(c) = self.clients.last_mut().filter(|_| stays < 6_000) { c.ends_at = self.now + stays; }
        }
    }

    /// Aimed: a copy of what the member said before it had the partitions that are asked back now.
    fn old_heartbeat(&mut self, group: &GroupId, member: &MemberId, partitions: &[Partition], at: Ms) {
        if !self.plan.aimed || self.calm() || !self.r.pct(50) {
            return;
        }
        let Some(m) = self.replicas.newest().shard.group(group).and_then(|g| g.members.get(member)) else { return };
        let incarnation = m.incarnation;
        let says_without = |c: &Call| {
            c.group == *group && matches!(&c.command, Command::Heartbeat(h) if h.member == *member && h.incarnation == incarnation && h.epoch > 0
                && h.owned.as_ref().is_some_and(|o| partitions.iter().any(|p| !o.contains(p))))
        };
        let from = self.calls.len().saturating_sub(2_000);
        if let Some(old) = self.calls[from..].iter().position(says_without) {
            self.fired.hit("old heartbeat after a revocation");
            let copy = self.copy(from + old);
            let at = at + self.r.range(20, 400);
            self.at(at, Ev::Request { node: None, call: copy });
        }
    }

    /// Nobody is expired before its promised session has passed, on the leader's clock, since it was last heard or since this leader began.
    fn expired_in_time(&self, n: usize, group: &GroupId, m: &MemberId) -> Verdict {
        let Some(g) = self.replicas.nodes[n].shard.group(group) else { return Ok(()) };
        let classic = g.classic.as_ref().and_then(|c| c.members.get(m)).map(|x| (Incarnation::default(), x.session_timeout_ms));
        let Some((incarnation, promised)) = g.members.get(m).map(|x| (x.incarnation, x.session_promised_ms)).or(classic) else { return Ok(()) };
        let heard = self.accepted.get(&(group.clone(), m.clone(), incarnation)).copied().unwrap_or_default();
        let since = heard.max(self.replicas.nodes[n].led_at);
        timers::expired_in_time(group, m, promised, (self.now - since) * 105 / 100 + 2 * TICK)?;
        // A lease of an earlier membership, which an administrator ended, is not this one's: what was held under it is kept by holds.
        let joined_at = g.members.get(m).map_or(0, |x| x.joined_at.0);
        if let Some(p) = self.processes.iter().find(|p| p.group == *group && p.id == *m && p.incarnation == incarnation && p.taken >= joined_at) {
            timers::expired_past_its_lease(group, m, p.deadline.saturating_sub(p.clock.at(self.now)))?;
        }
        if let Some(x) = g.members.get(m) {
            let hears = |c: &Call| c.group == *group && matches!(&c.command, Command::Heartbeat(h) if h.member == *m && h.incarnation == incarnation && (h.epoch == x.epoch || (h.epoch == 0 && h.assignment_revision >= x.joined_at)))
                && c.member_at == Some((x.joined_at, x.epoch)) && c.arrived < self.now && self.now - c.arrived < promised.min(self.plan.timeout_ms).min(4_000);
            timers::waiting_is_heard(group, m, self.taken_up.iter().any(|(at, call)| *at == n && hears(&self.calls[*call])))?;
        }
        Ok(())
    }

    /// The timers that are due are carried out. A leader that stood still until now hears first of those whose requests wait in its sockets.
    fn timeout(&mut self, n: usize, clocks: Now) -> Verdict {
        let stood_still = self.stalls.last().is_some_and(|(at, until)| *at == n && self.now - until <= TICK);
        let shard = &mut self.replicas.nodes[n].shard;
        let late: Vec<(u64, Timer)> = if stood_still { shard.due(clocks.mono_ms).into_iter().filter(|(at, _)| *at + LATE < clocks.mono_ms).collect() } else { Vec::new() };
        shard.handle_timeout(clocks);
        if late.is_empty() { return Ok(()) }
        let armed = shard.due(u64::MAX);
        for (at, timer) in &late {
            let Timer::Command(g, TimerCommand::ExpireSession { member }) = timer else { continue };
            let of_member = |c: &Call| c.group == *g && match &c.command { Command::Heartbeat(h) => h.member == *member, Command::Consumer(h) => h.member == *member, _ => false };
            let waits = self.in_sockets.iter().any(|(of, call)| *of == n && of_member(&self.calls[*call]));
            let fired = !armed.iter().any(|(_, t)| t == timer);
            timers::late_loop_listens(g, member, clocks.mono_ms - at, LATE, waits && fired)?;
        }
        Ok(())
    }
}

/// A loop that is late by more than this has to listen before it expires anybody.
const LATE: Ms = 200;

/// The request's own time was over before anything was done.
pub(super) fn nothing_done(result: &Result<Response, GroupError>) -> bool { matches!(result, Err(GroupError::Unavailable { reason }) if reason.contains("later than its timeout_ms")) }
