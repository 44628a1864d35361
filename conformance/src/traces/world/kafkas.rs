//! Where Kafka goes another way on purpose or by a slip, the world goes it too: what Baton does instead is tried on a copy or predicted, and then Kafka's is put into its log.

use super::*;

impl World {
    /// Where Kafka computed another target by a slip, its own takes the place of Baton's.
    pub(super) fn as_kafka_computes(&mut self, entry: &mut LogEntry) -> Result<(), String> {
        let group = GroupId::from("g");
        let before = self.shard.state().groups.get(&group);
        let Some(batch) = entry.batches.iter_mut().find(|b| b.group == group) else { return Ok(()) };
        if batch.records.iter().any(|r| matches!(r, Record::Target { .. })) {
            self.computed_at = Some(self.now);
            self.computed += 1;
        }
        if !self.looks_again && self.kind.retarget(before, &self.meta, &self.default_assignor, &mut batch.records)? {
            self.rules.explained_by(slips::KIND_BEFORE);
            // What was given by Baton's target in the same step was given too early.
            let at = batch.records.iter().position(|r| matches!(r, Record::Target { .. })).unwrap_or(0);
            let known = |r: &Record| matches!(r, Record::Target { assignment, .. } if assignment.keys().all(|m| before.is_some_and(|g| g.members.contains_key(m))));
            let given = batch.records[at..].iter().any(|r| matches!(r, Record::Reconciled(_)));
            self.given_too_early = batch.records.get(at).filter(|r| given && known(r)).cloned();
        }
        if self.gives_up.as_ref().is_some_and(|m| m.keeps_the_places_target(before, &mut batch.records)) {
            self.rules.explained_by(slips::RENAMED_INSTANCE);
        }
        if kept::at_an_upgrade(&self.meta, &mut batch.records) || kept::at_a_downgrade(before, &self.meta, &mut batch.records)? {
            self.rules.explained_by(kept::KEPT_AT_CONVERSION);
        }
        if let Some(joiner) = kept::leaves_to_nobody(before, &self.meta, &mut batch.records)? {
            self.rules.explained_by(kept::KEPT_AT_CONVERSION);
            self.goes_on_as_it_is = Some(joiner);
        }
        self.kind.follow(before, &batch.records)
    }
    /// Who joined at a conversion that left something to nobody is told its epoch, and what its place had.
    pub(super) fn after_something_was_left_to_nobody(&mut self) {
        let Some(id) = self.goes_on_as_it_is.take() else { return };
        let Some(m) = self.group().and_then(|g| g.members.get(&id).cloned()) else { return };
        if let Some(v) = self.told() {
            let mut has = PartitionsById::new();
            for (p, x) in m.assigned.iter() {
                has.entry(x.topic_id).or_default().insert(p.partition);
            }
            (v.epoch, v.assignment) = (m.epoch, Some(has));
        }
    }
    /// The answer to this step's heartbeat. Joins and syncs that waited may have been answered behind it.
    fn told(&mut self) -> Option<&mut ConsumerView> { self.answers.iter_mut().rev().find_map(|(_, a)| if let Ok(Response::Consumer(v)) = a { Some(v) } else { None }) }
    /// This world after a step, with nothing compared.
    pub fn tried(&self, i: usize, step: &Step) -> Result<World, String> {
        let mut w = self.clone();
        let command = w.command(step)?;
        w.send(i, &step.op, command);
        Ok(w)
    }
    /// Puts into the log what Kafka did and Baton would not.
    fn inject(&mut self, records: Vec<Record>) -> Result<(), String> {
        let Some(g) = self.group() else { return Ok(()) };
        let batch = Batch { group: "g".into(), base_revision: g.revision, records };
        let state = self.shard.state();
        let entry = LogEntry { node: 0, term: 0, base_sequence: state.sequence, time_ms: state.time_ms, batches: vec![batch] };
        self.kind.follow(Some(&g), &entry.batches[0].records)?;
        self.shard.replay(&entry);
        self.drive();
        Ok(())
    }
    /// The member of a step asks under an instance id that it has left behind itself: Kafka still takes it for its own. Gives what Kafka then answers; Baton must not know the id.
    pub(super) fn asks_under_an_id_left_behind(&mut self, i: usize, step: &Step) -> Result<Option<&'static str>, String> {
        let by_now = self.by_now();
        if !self.instances.is_left_behind_by_itself(&by_now, step) {
            return Ok(None);
        }
        let own = self.tried(i, step)?.take_answers();
        if !matches!(own.last(), Some(Err(e)) if e.kafka().name == "UNKNOWN_MEMBER_ID") {
            return Err(format!("a request under an id that its member has given up: Baton did {own:?}"));
        }
        self.rules.explained_by(slips::RENAMED_INSTANCE);
        let names = vec![Record::Instance { member: self.names.id(step.text("m")), instance: step.text("inst").into() }];
        let mut w = self.clone();
        w.inject(names.clone())?;
        match w.tried(i, step)?.take_answers().pop() {
            Some(Err(e)) => Ok(Some(e.kafka().name)),
            _ => self.inject(names).map(|()| None),
        }
    }
    /// What Kafka takes the group for, otherwise than it is, when it takes up a step: Baton's is tried on a copy, then made so.
    pub(super) fn as_kafka_sees_it(&mut self, i: usize, step: &Step) -> Result<(), String> {
        let by_now = self.by_now();
        if let Some(symbol) = self.instances.takes_for_its_own(&by_now, step) {
            let holder = self.names.id(&symbol);
            self.left_behind = by_now["members"][&symbol]["inst"].as_str().map(String::from);
            slips::joins_as_under_a_new_id(self, i, step)?;
            self.rules.explained_by(slips::RENAMED_INSTANCE);
            self.inject(vec![Record::Instance { member: holder, instance: step.text("inst").into() }])?;
        }
        if let Some((gives_up, removed)) = slips::gives_up_its_place(self, i, step)? {
            self.rules.explained_by(slips::RENAMED_INSTANCE);
            self.inject(vec![removed])?;
            self.gives_up = Some(gives_up);
        }
        if let Some(records) = kept::before_an_upgrade(self, i, step)? {
            self.rules.explained_by(kept::KEPT_AT_CONVERSION);
            self.inject(records)?;
        }
        let behind = self.group().is_some_and(|g| g.epoch > g.target_epoch);
        if step.op == "hb" && behind && !self.looks_again && let Some(target) = self.tried(i, step)?.given_too_early {
            self.rules.explained_by(slips::KIND_BEFORE);
            self.inject(vec![target])?;
            if let Some(at) = self.computed_at.filter(|_| self.interval_ms > 0) {
                self.stretched = true;
                self.stretch(self.now + self.interval_ms - at);
            }
        }
        Ok(())
    }

    /// Who took another's place had its own in Kafka's eyes until this step was written: what it was given of that waits until it asks again.
    pub(super) fn after_a_place_was_given_up(&mut self, step: &Step) -> Result<(), String> {
        let (Some(GivesUp { had: given_up, .. }), id) = (self.gives_up.take(), self.names.id(step.text("m"))) else { return Ok(()) };
        let Some(m) = self.group().and_then(|g| g.members.get(&id).cloned()) else { return Ok(()) };
        let waits: BTreeMap<&Partition, _> = m.assigned.iter().filter(|(p, _)| given_up.contains(*p)).collect();
        if waits.is_empty() {
            return Ok(());
        }
        if let Some(v) = self.told() {
            let has = v.assignment.get_or_insert_default();
            for (p, x) in &waits {
                if let Some(ps) = has.get_mut(&x.topic_id) {
                    ps.remove(&p.partition);
                }
            }
            has.retain(|_, ps| !ps.is_empty());
        }
        self.inject(vec![slips::waits_for(&m, &id, waits.into_keys().cloned().collect())])
    }

    /// What Kafka makes otherwise of a join at which Baton has computed no target.
    pub(super) fn after_a_join_without_target(&mut self, step: &Step, before: Option<&Group>) -> Result<(), String> {
        let (Some(before), Some(after), id) = (before, self.group(), self.names.id(step.text("m"))) else { return Ok(()) };
        // Its empty group's target was behind, so it computes one when its interval allows, and the interval to the next runs from there.
        let k = self.rules.kafkas();
        let was_behind = before.members.is_empty() || (k["epoch"] != k["aepoch"] && before.epoch == before.target_epoch);
        if was_behind && step.fields.contains_key("asg_det") && let Some(at) = self.computed_at {
            self.stretched = true;
            self.stretch(self.now + self.interval_ms - at);
            self.rules.explained_by(super::super::rules::EMPTY_TARGET_EPOCH);
        }
        let accepted = |r: &Result<Response, GroupError>| matches!(r, Ok(Response::Consumer(_)));
        if !self.answers.last().is_some_and(|(_, r)| accepted(r)) || !self.instances.finds_no_target(before, &id, step) {
            return Ok(());
        }
        self.finds_no_target = true;
        let Some(m) = after.members.get(&id).filter(|m| !m.assigned.is_empty() || m.state != MemberState::Stable) else { return Ok(()) };
        let (has, own) = (m.assigned.keys().cloned().collect::<BTreeSet<_>>(), slips::goes_on(before, &after, &id));
        if has != own {
            return Err(format!("{id} came back as another instance and has {has:?}, by its target {own:?}"));
        }
        self.rules.explained_by(slips::RENAMED_INSTANCE);
        self.inject(vec![slips::takes_all(m, &id)])?;
        if let Some(v) = self.told() {
            v.assignment = Some(PartitionsById::new());
        }
        Ok(())
    }
    /// Longer than anybody could set it.
    pub(super) fn stretch(&mut self, interval_ms: u64) {
        self.meta.group_configs.entry("g".into()).or_default().insert(Setting::AssignmentInterval, interval_ms);
        self.meta.revision += 1;
        self.shard.metadata(Arc::new(self.meta.clone()), self.clock());
        self.drive();
    }
    /// The error that Kafka answers with for an instance id that was left behind.
    pub(super) fn refuses(&mut self, step: &Step) -> Option<&'static str> {
        let by_now = self.by_now();
        self.instances.refuses(&by_now, step)
    }
    /// Kafka's group as the timers have left it.
    fn by_now(&mut self) -> Value {
        let (before, group) = (self.rules.kafkas().clone(), self.group());
        let here: BTreeSet<String> = group.iter().flat_map(|g| g.members.keys()).map(|m| self.names.symbol(m)).collect();
        let mut by_now = before.clone();
        if let Some(members) = by_now["members"].as_object_mut() {
            members.retain(|m, _| here.contains(m));
        }
        self.instances.follow(&before, &by_now, &[]);
        by_now
    }

    /// Kafka takes out who does not give back what Baton has not given it: Baton's member would go on.
    pub(super) fn expire_who_was_not_asked(&mut self, step: &Step) -> Result<(), String> {
        for f in &step.fired {
            let Some((at, symbol)) = f.split_once(" rebalance-timeout ").filter(|(_, m)| self.rules.is_not_asked(m)) else { continue };
            self.pass(at.parse().map_err(|e| format!("{f}: {e}"))?);
            let (id, Some(g)) = (self.names.id(symbol), self.group()) else { continue };
            let Some(m) = g.members.get(&id).filter(|m| m.pending.is_empty()) else { continue };
            let removed = Record::Removed { member: id, freed: m.holdings().map(|(p, ..)| p.clone()).collect(), held: Vec::new(), fence: false };
            let mut records = vec![removed];
            records.extend(m.regex.clone().filter(|r| g.members_with_regex(r) == 1 && g.regexes.contains_key(r)).map(|regex| Record::Regex { regex, resolved: None }));
            records.push(Record::Epoch { epoch: g.epoch + 1, time_ms: self.shard.state().time_ms });
            self.inject(records)?;
            let wanted = self.group().map(|g| g.subscribed_topics()).unwrap_or_default();
            let topics = wanted.into_iter().filter_map(|t| self.meta.topics.get(&t).map(|f| (t.clone(), *f))).collect();
            self.inject(vec![Record::Topics { revision: self.meta.revision, topics }])?;
            self.fired.push(f.clone());
        }
        Ok(())
    }
}
