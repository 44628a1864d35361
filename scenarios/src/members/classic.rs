//! A Kafka client that speaks the classic protocol: join, sync, heartbeat; the assigning member runs the strategy itself, with the assignors of the library.
//!
//! Eager: everything is given up before it joins again. Cooperative (every strategy it offers can do that): it joins again with what it has, works on, gives up what
//! it no longer gets, and then joins once more, so that the others can have it.

use super::*;
use baton_coordinator::{
    assign::client::{self, CLIENT, ClientGroup, ClientMember, ClientTopic},
    classic::*,
    embedded::{Assigned, NO_GENERATION, Subscription, VERSION_MAX},
};

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    /// To join.
    Out,
    /// Called to join: it gives up everything first, and goes on heartbeating.
    GivingUp,
    /// Has joined; these are the assignments that it made, if it is the one that assigns.
    Synchronizing(BTreeMap<MemberId, Opaque>),
    In,
    Leaving,
    /// It left by itself and waits for its application.
    Idle,
}

pub struct Classic {
    client_id: String,
    random: u128,
    id: MemberId,
    generation: i32,
    phase: Phase,
    /// What it was assigned last: the sticky strategies say it.
    last: BTreeSet<Partition>,
    /// Set while it is the assigning member: the partition counts that it assigned by, and when it looks again.
    assigns: Option<(BTreeMap<TopicName, i32>, Ms)>,
    /// Joins again as soon as it has given up what it no longer gets.
    again: bool,
}

impl Classic {
    pub fn new(client_id: &str, random: u128) -> Classic {
        Classic { client_id: client_id.into(), random, id: MemberId::default(), generation: NO_GENERATION, phase: Phase::Out, last: BTreeSet::new(), assigns: None, again: false }
    }
    /// Called to join again, or with a reason of its own.
    fn rejoin(&mut self, b: &mut Body, now: Ms) {
        // Joining is its application's turn, while heartbeats go on by themselves.
        if self.phase == Phase::GivingUp || b.stuck.is_some() {
            return;
        }
        if b.spec.cooperative() && !b.hands.giving.is_empty() {
            self.again = true;
            return;
        }
        if !b.spec.cooperative() {
            let all = b.hands.owned();
            b.give_up(all, now);
            b.let_go(now);
            if !b.hands.giving.is_empty() {
                self.phase = Phase::GivingUp;
                b.next_send = Some(now + b.spec.heartbeat_ms);
                return;
            }
        }
        self.phase = Phase::Out;
        b.next_send = Some(now);
    }
    fn lost(&mut self, b: &mut Body, now: Ms, e: &GroupError) {
        b.say(format!("loses everything and is to join again: {}", refusal(e, b.spec.protocol)));
        b.drop_all();
        (self.generation, self.phase, self.again) = (NO_GENERATION, Phase::Out, false);
        b.next_send = b.stuck.is_none().then_some(now);
    }
    fn join(&self, b: &Body) -> Join {
        let last: Vec<Partition> = self.last.iter().cloned().collect();
        let owned: Vec<Partition> = if b.spec.cooperative() { b.hands.working.iter().cloned().collect() } else { Vec::new() };
        let said = |strategy: &str| {
            let assignor = CLIENT.iter().find(|a| a.name() == strategy);
            let user_data = assignor.filter(|_| self.generation >= 0).and_then(|a| a.user_data(&last, self.generation));
            let said = Subscription { topics: b.spec.topics.iter().map(|t| t.as_str().into()).collect(), user_data, owned: owned.clone(), generation: self.generation, rack: None };
            Opaque::from(said.encode(VERSION_MAX).unwrap_or_default())
        };
        Join {
            member: self.id.clone(), instance_id: b.spec.instance.as_deref().map(InstanceId::from), client_id: self.client_id.clone(), client_host: "simulated".into(),
            session_timeout_ms: b.spec.session_ms, rebalance_timeout_ms: b.spec.rebalance_ms, protocol_type: "consumer".into(),
            protocols: b.spec.offered().into_iter().map(|s| { let said = said(&s); (s, said) }).collect(), version: 9, random: self.random, reason: None,
        }
    }
    /// Divides the partitions, as the strategy of the generation does it.
    fn assign(&mut self, b: &mut Body, now: Ms, j: &JoinedGeneration, meta: &Metadata) -> BTreeMap<MemberId, Opaque> {
        let mut group = ClientGroup::default();
        for m in &j.members {
            let subscription = Subscription::decode(&m.metadata.0).unwrap_or_default();
            group.members.insert(m.member.clone(), ClientMember { instance: m.instance_id.clone(), subscription });
        }
        let topics: BTreeSet<&TopicName> = group.members.values().flat_map(|m| &m.subscription.topics).collect();
        group.topics = topics.into_iter().filter_map(|t| meta.topics.get(t).map(|f| (t.clone(), ClientTopic { partitions: f.partitions, racks: Vec::new() }))).collect();
        self.assigns = Some((group.topics.iter().map(|(t, f)| (t.clone(), f.partitions)).collect(), now + b.spec.metadata_age_ms));
        let strategy = j.protocol.as_deref().unwrap_or("");
        b.say(format!("assigns generation {} by {strategy}", j.generation));
        let Some(made) = client::assign(strategy, &group) else {
            b.say(format!("does not know the strategy {strategy:?}"));
            return BTreeMap::new();
        };
        let encode = |(id, ps): (MemberId, BTreeSet<Partition>)| (id, Opaque::from(Assigned { partitions: ps.into_iter().collect(), user_data: None }.encode(VERSION_MAX).unwrap_or_default()));
        made.into_iter().map(encode).collect()
    }
    /// The assigning member notices that topics have grown.
    fn sees_growth(&mut self, b: &Body, now: Ms, meta: &Metadata) -> bool {
        let Some((seen, at)) = &mut self.assigns else { return false };
        if now < *at {
            return false;
        }
        *at = now + b.spec.metadata_age_ms;
        seen.iter().any(|(t, n)| meta.topics.get(t).map_or(0, |f| f.partitions) != *n)
    }
    fn synced(&mut self, b: &mut Body, now: Ms, assignment: &Opaque) {
        let target: BTreeSet<Partition> = Assigned::decode(&assignment.0).map(|a| a.partitions.into_iter().collect()).unwrap_or_default();
        let kept_all = b.hands.working.is_subset(&target);
        self.phase = Phase::In;
        self.again = !kept_all;
        self.last = target.clone();
        b.next_send = Some(now + b.spec.heartbeat_ms);
        if !b.turn_to(&target, now) && self.again {
            self.gave_up(b, now);
        }
    }
}

impl Speaks for Classic {
    fn id(&self) -> Option<&MemberId> { Some(&self.id).filter(|id| !id.as_str().is_empty()) }
    fn request(&mut self, b: &mut Body, now: Ms, meta: &Metadata) -> Option<(Command, Ms)> {
        let (member, instance_id, generation) = (self.id.clone(), b.spec.instance.as_deref().map(InstanceId::from), self.generation);
        if self.phase == Phase::In && self.sees_growth(b, now, meta) {
            b.say("sees that a topic has grown");
            self.rejoin(b, now);
        }
        let (command, held) = match &self.phase {
            Phase::Out => (ClassicCommand::Join(Box::new(self.join(b))), b.spec.rebalance_ms + 5_000),
            Phase::Synchronizing(made) => {
                (ClassicCommand::Sync(Sync { member, instance_id, generation, protocol_type: None, protocol: None, assignments: made.clone() }), b.spec.rebalance_ms + 5_000)
            }
            Phase::In | Phase::GivingUp => (ClassicCommand::Heartbeat(Beat { member, instance_id, generation }), 0),
            // It will be back, and its place is kept for its session.
            Phase::Leaving if instance_id.is_some() => {
                b.end();
                return None;
            }
            Phase::Leaving | Phase::Idle => (ClassicCommand::Leave(vec![Leaver { member, instance_id, reason: None }]), 0),
        };
        Some((Command::Classic(command), held))
    }
    fn answer(&mut self, b: &mut Body, now: Ms, _sent: Ms, result: &Result<Response, GroupError>, meta: &Metadata) {
        match self.phase {
            Phase::Leaving => return b.end(),
            Phase::Idle => return,
            Phase::Out | Phase::GivingUp | Phase::Synchronizing(_) | Phase::In => {}
        }
        match result {
            Ok(Response::Classic(ClassicAnswer::Joined(j))) => {
                (self.id, self.generation, self.assigns) = (j.member.clone(), j.generation, None);
                let made = if j.assigning_member == j.member && !j.skip_assignment { self.assign(b, now, j, meta) } else { BTreeMap::new() };
                self.phase = Phase::Synchronizing(made);
                b.next_send = Some(now);
            }
            Ok(Response::Classic(ClassicAnswer::Synced { assignment, .. })) => self.synced(b, now, assignment),
            Ok(_) => b.next_send = Some(now + b.spec.heartbeat_ms),
            Err(GroupError::Classic { code: ClassicCode::MemberIdRequired, member: Some(id) }) => {
                self.id = id.clone();
                b.next_send = Some(now);
            }
            Err(GroupError::Classic { code: ClassicCode::RebalanceInProgress, .. }) => {
                b.next_send = Some(now + b.spec.heartbeat_ms);
                if self.phase == Phase::In && b.stuck.is_none() {
                    b.say("is called to join again (REBALANCE_IN_PROGRESS)");
                }
                self.rejoin(b, now);
            }
            Err(e @ GroupError::Classic { code: ClassicCode::UnknownMemberId, .. }) => {
                self.id = MemberId::default();
                self.lost(b, now, e);
            }
            Err(e @ GroupError::Classic { code: ClassicCode::IllegalGeneration, .. }) => self.lost(b, now, e),
            Err(e @ (GroupError::Unavailable { .. } | GroupError::Loading { .. })) => {
                b.say(format!("is told to try again: {}", refusal(e, b.spec.protocol)));
                b.next_send = Some(now + 100);
            }
            Err(e) => {
                b.say(format!("ends: {}", refusal(e, b.spec.protocol)));
                b.end();
            }
        }
    }
    fn gave_up(&mut self, b: &mut Body, now: Ms) {
        if self.phase == Phase::GivingUp || std::mem::take(&mut self.again) {
            self.phase = Phase::Out;
            b.waiting = None;
            b.next_send = Some(now);
        }
    }
    fn close(&mut self, b: &mut Body, now: Ms) {
        (self.phase, self.again) = (Phase::Leaving, false);
        let at = b.hands.giving.values().max().copied().unwrap_or(now);
        b.next_send = Some(at);
    }
    fn polls_no_more(&mut self, b: &mut Body, now: Ms) {
        b.drop_all();
        self.phase = Phase::Idle;
        b.waiting = None;
        // A static member only stops its heartbeats.
        b.next_send = b.spec.instance.is_none().then_some(now);
        let how = if b.spec.instance.is_none() { "leaves by itself" } else { "stops its heartbeats" };
        b.say(format!("{how}: its application has not come back for {} ms", b.spec.poll_timeout_ms));
    }
    fn polls_again(&mut self, b: &mut Body, now: Ms) {
        if b.spec.instance.is_none() {
            self.id = MemberId::default();
        }
        (self.phase, self.generation) = (Phase::Out, NO_GENERATION);
        (b.waiting, b.next_send) = (None, Some(now));
    }
}
