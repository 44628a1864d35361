//! The classic protocol, as Kafka's clients speak it: join, sync, heartbeat; the assigning member divides. An eager client drops everything before it joins again,
//! a cooperative one keeps it, gives back what a sync does not name, and joins again for that.

use super::*;
use baton_coordinator::{
    assign::client::{self, ClientGroup, ClientMember, ClientTopic},
    classic::*,
    embedded::{Assigned, Subscription},
};

impl Client {
    /// Its strategy.
    pub fn strategy(&self) -> &'static str { if self.kind == Kind::Cooperative { "cooperative-sticky" } else { "range" } }
    fn says(&self) -> Vec<u8> {
        let cooperative = self.kind == Kind::Cooperative;
        let owned: Vec<Partition> = if cooperative { self.owned.keys().cloned().collect() } else { Vec::new() };
        let assignor = client::CLIENT.iter().find(|a| a.name() == self.strategy());
        let generation = if cooperative { self.told_in } else { -1 };
        let user_data = assignor.and_then(|a| a.user_data(&owned, generation));
        Subscription { topics: self.subscribed.iter().cloned().collect(), user_data, owned, generation, rack: None }.encode(3).unwrap_or_default()
    }
    pub(super) fn classic_request(&mut self, now: Ms, r: &mut Rng, topics: &Topics) -> Option<(Command, Ms)> {
        let (member, instance_id, generation) = (self.id.clone(), self.instance.clone(), self.epoch);
        let command = match self.step {
            Step::Gone => return None,
            // Eager: everything is stopped first, and that takes its time.
            Step::Join if self.kind == Kind::Eager && !self.owned.is_empty() => return None,
            Step::Join => {
                self.list.clear();
                self.said = self.subscribed.clone();
                let join = Join {
                    member, instance_id, client_id: "c".into(), client_host: "h".into(), session_timeout_ms: self.session_ms, rebalance_timeout_ms: self.rebalance_ms, protocol_type: "consumer".into(),
                    protocols: vec![(self.strategy().into(), self.says().into())], version: 9, random: u128::from(r.bits()) << 64 | u128::from(r.bits()), reason: None,
                };
                return Some((Command::Classic(ClassicCommand::Join(Box::new(join))), self.rebalance_ms + 5_000));
            }
            Step::Sync => {
                let assignments = self.assign(topics);
                self.heard_at = now;
                ClassicCommand::Sync(Sync { member, instance_id, generation, protocol_type: Some("consumer".into()), protocol: Some(self.strategy().into()), assignments })
            }
            Step::Steady => ClassicCommand::Heartbeat(Beat { member, instance_id, generation }),
            Step::Leaving => ClassicCommand::Leave(vec![Leaver { member, instance_id, reason: None }]),
        };
        let patience = if self.step == Step::Sync { self.rebalance_ms + 5_000 } else { 1_000 };
        Some((Command::Classic(command), patience))
    }
    /// The assigning member's part.
    fn assign(&mut self, topics: &Topics) -> BTreeMap<MemberId, Opaque> {
        if self.list.is_empty() {
            return BTreeMap::new();
        }
        // Those of the first time that it assigns this generation: a second Sync may be one too many, the assignment of the first has been taken.
        self.topics_seen.get_or_insert_with(|| topics.iter().map(|(t, (_, n))| (t.clone(), *n)).collect());
        let members = self.list.iter().map(|(m, instance, said)| (m.clone(), ClientMember { instance: instance.clone(), subscription: Subscription::decode(said).unwrap_or_default() })).collect();
        let topics = topics.iter().map(|(t, (_, n))| (t.clone(), ClientTopic { partitions: *n, racks: Vec::new() })).collect();
        let divided = client::assign(self.strategy(), &ClientGroup { members, topics }).unwrap_or_default();
        let part = |m: &MemberId| {
            let partitions = divided.get(m).map(|ps| ps.iter().cloned().collect()).unwrap_or_default();
            Assigned { partitions, user_data: None }.encode(3).map(Opaque::from).unwrap_or_default()
        };
        self.list.iter().map(|(m, ..)| (m.clone(), part(m))).collect()
    }
    pub(super) fn classic_answer(&mut self, now: Ms, r: &mut Rng, result: &Result<Response, GroupError>, topics: &Topics) {
        match (self.step, result) {
            (Step::Join, Ok(Response::Classic(ClassicAnswer::Joined(j)))) => {
                (self.id, self.epoch, self.step, self.next_send, self.heard_at) = (j.member.clone(), j.generation, Step::Sync, now, now);
                self.list = j.members.iter().filter(|_| !j.skip_assignment).map(|m| (m.member.clone(), m.instance_id.clone(), m.metadata.0.to_vec())).collect();
                // It did not make the assignment that is in force: it looks soon whether the topics are still those.
                self.topics_seen = j.skip_assignment.then(BTreeMap::new);
            }
            (Step::Sync, Ok(Response::Classic(ClassicAnswer::Synced { assignment, .. }))) => {
                let told = Assigned::decode(&assignment.0).map(|a| a.partitions).unwrap_or_default();
                let id = |p: &Partition| topics.get(&p.topic).map_or(0, |(id, _)| *id);
                let target: BTreeMap<Partition, u128> = told.into_iter().map(|p| { let id = self.owned.get(&p).copied().unwrap_or(id(&p)); (p, id) }).collect();
                self.catching_up = self.told_in >= 0 && (self.epoch > self.told_in + 1 || self.joined_late);
                (self.step, self.told_in, self.heard_at) = (Step::Steady, self.epoch, now);
                self.next_send = now + self.interval;
                self.take(target, now, r);
            }
            (Step::Steady, Ok(Response::Classic(ClassicAnswer::Heartbeat))) => self.heard_at = now,
            (_, Err(GroupError::Classic { code, member })) => match code {
                ClassicCode::MemberIdRequired => {
                    if let Some(m) = member {
                        (self.id, self.next_send) = (m.clone(), now);
                    }
                }
                ClassicCode::RebalanceInProgress => self.join_again(now, r),
                ClassicCode::IllegalGeneration => {
                    let id = self.id.clone();
                    self.begin_anew(Step::Join, now);
                    (self.id, self.next_send) = (id, now);
                }
                ClassicCode::FencedInstanceId | ClassicCode::InvalidSessionTimeout => self.begin_anew(Step::Gone, now),
                ClassicCode::UnknownMemberId | ClassicCode::GroupIdNotFound => self.lost(now),
                // Somebody in the group has no strategy of its own kind, or the group is closing: it tries again.
                ClassicCode::InconsistentGroupProtocol | ClassicCode::GroupMaxSizeReached => {
                    self.lost(now);
                    self.next_send = now + 1_000;
                }
            },
            (_, Err(GroupError::UnreleasedInstanceId { .. })) => self.begin_anew(Step::Gone, now),
            (_, Err(_)) => self.lost(now),
            (_, Ok(_)) => {}
        }
    }
    fn lost(&mut self, now: Ms) {
        self.begin_anew(Step::Join, now);
        (self.id, self.next_send) = ("".into(), now);
    }
    /// Called to join: an eager client stops everything first.
    pub fn join_again(&mut self, now: Ms, r: &mut Rng) {
        (self.step, self.next_send, self.heard_at) = (Step::Join, now, now);
        if self.kind == Kind::Eager {
            self.take(BTreeMap::new(), now, r);
        } else {
            // What it was about to take up it has not.
            self.target = self.owned.clone();
        }
    }
    pub(super) fn classic_tick(&mut self, now: Ms, r: &mut Rng) -> bool {
        self.catching_up &= self.moving();
        if now >= self.stop_at && self.moving() {
            let gave_back = self.owned.keys().any(|p| !self.target.contains_key(p));
            self.owned = self.target.clone();
            if self.kind == Kind::Cooperative && gave_back && self.step == Step::Steady {
                (self.step, self.waiting, self.next_send) = (Step::Join, None, now);
            }
        }
        if self.step == Step::Steady && self.said != self.subscribed {
            self.waiting = None;
            self.join_again(now, r);
        }
        // Its own session: it takes itself for dead, and joins anew under its id.
        if self.step == Step::Steady && now > self.heard_at + self.session_ms {
            let id = self.id.clone();
            self.begin_anew(Step::Join, now);
            (self.id, self.next_send) = (id, now);
            return true;
        }
        false
    }
    /// Who assigns looks at the topics from time to time, and joins again when they are others.
    pub fn look_at_topics(&mut self, topics: &Topics, now: Ms, r: &mut Rng) -> bool {
        let seen: BTreeMap<TopicName, i32> = topics.iter().map(|(t, (_, n))| (t.clone(), *n)).collect();
        let changed = self.step == Step::Steady && self.topics_seen.as_ref().is_some_and(|s| *s != seen);
        if changed {
            self.waiting = None;
            self.join_again(now, r);
        }
        changed
    }
}
