//! Two slips of Kafka's that Baton does not make, worked out from the state alone: what Kafka does is predicted as well as what Baton does, and both must come true.
//! Where Kafka gave another target, its own is put into Baton's log instead of Baton's, so that everything behind it can still be compared exactly.

use super::{classic, consumer, trace::Step, world::World};
use baton_coordinator::{
    assign::{self, Assignment, Input},
    ids::*,
    metadata::Metadata,
    record::{Reconciled, Record},
    replay,
    command::MemberState,
    state::{Group, Member},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A member that comes back under another instance id than it had. Kafka leaves the old id pointing at it, also when it has gone, and refuses everybody who joins
/// under that id until the group is loaded again; Baton forgets the old id, so the join goes as under an id that was never used. And Kafka looks for its target under the
/// new id, finds none, and takes everything from it until there is a new target; Baton's member goes on with the target that it has.
pub const RENAMED_INSTANCE: &str = "renamed-instance";
/// A target that is computed at a request which bumps no epoch: Kafka takes the group for as homogeneous as it was when a member was last written down, before the
/// request and before what regular expressions stand for changed. If it so takes an unequal group for an equal one, everybody is given what the first member
/// subscribes to. Baton looks at the subscriptions.
pub const KIND_BEFORE: &str = "kind-before";

/// Which member Kafka's group takes each instance id for.
#[derive(Clone, Debug, Default)]
pub struct Instances(BTreeMap<String, String>);
impl Instances {
    /// Follows Kafka's group from one step to the next. `fired` are the timers of the step: whom they took out may be in again.
    pub fn follow(&mut self, before: &Value, after: &Value, fired: &[String]) {
        let empty = serde_json::Map::new();
        let members = |g: &Value| if g["type"] == "consumer" { g["members"].as_object().unwrap_or(&empty).clone() } else { empty.clone() };
        if after["type"] != "consumer" {
            self.0.clear(); // a group made anew, or converted, starts from its members
        }
        let (old, new) = (members(before), members(after));
        let taken_out = |id: &str| fired.iter().any(|f| f.ends_with(&format!("timeout {id}")));
        for (_, m) in old.iter().filter(|(id, _)| !new.contains_key(*id) || taken_out(id)) {
            self.0.remove(m["inst"].as_str().unwrap_or(""));
        }
        for (id, m) in &new {
            if let Some(i) = m["inst"].as_str() {
                self.0.insert(i.to_string(), id.clone());
            }
        }
    }

    /// The place of a member was given away under an id that it had left behind: the id that it has had since stands for whoever has the place now.
    pub fn leaves_behind(&mut self, instance: String, member: String) { self.0.insert(instance, member); }

    /// The error that Kafka answers a join under an id that it has left behind with; None: it has not.
    pub fn refuses(&self, group: &Value, step: &Step) -> Option<&'static str> {
        let (instance, join) = (step.maybe("inst")?, step.op == "hb" && step.number("e") == 0);
        let held_by = self.0.get(instance)?;
        let m = &group["members"][held_by];
        match (m.is_null(), join) {
            (true, true) => Some("UNKNOWN_MEMBER_ID"),
            // An emptied group is forgotten, with the id, for a member of the classic protocol.
            (true, false) => (step.op == "join" && group["members"].as_object().is_some_and(|m| !m.is_empty())).then_some("UNKNOWN_MEMBER_ID"),
            (false, true) if m["inst"].as_str() != Some(instance) && m["e"].as_i64() != Some(-2) => Some("UNRELEASED_INSTANCE_ID"),
            // Who is in asks under an id that stands for another.
            (false, false) if matches!(step.op.as_str(), "hb" | "heartbeat" | "sync") && held_by != step.text("m") && m["inst"].as_str() != Some(instance) => Some("FENCED_INSTANCE_ID"),
            (false, _) => None,
        }
    }
}

impl Instances {
    /// Whether a member that is in asks under an id that it had before another one.
    pub fn is_left_behind_by_itself(&self, group: &Value, step: &Step) -> bool {
        let (Some(instance), id) = (step.maybe("inst"), step.text("m")) else { return false };
        let m = &group["members"][id];
        step.op == "hb" && !matches!(step.number("e"), 0 | -2) && !m.is_null() && m["inst"].as_str() != Some(instance) && self.0.get(instance).is_some_and(|holder| holder == id)
    }

    /// The member whose place Kafka gives away with an id that it has left behind: it is away, or the one who asks speaks the classic protocol, which asks nobody.
    pub fn takes_for_its_own(&self, group: &Value, step: &Step) -> Option<String> {
        let held_by = self.0.get(step.maybe("inst")?)?;
        let m = group["members"].get(held_by)?;
        let asks = match step.op.as_str() {
            "hb" => step.number("e") == 0 && m["e"].as_i64() == Some(-2),
            "join" => step.text("m").is_empty(),
            _ => false,
        };
        (asks && m["inst"].as_str() != step.maybe("inst")).then(|| held_by.clone())
    }

    /// Whether Kafka finds no target for the member that joins: it is in, under another instance id or none, and nobody has had the one it says now.
    pub fn finds_no_target(&self, before: &Group, id: &MemberId, step: &Step) -> bool {
        let (Some(instance), Some(m)) = (step.maybe("inst"), before.members.get(id)) else { return false };
        let (as_before, settled) = (m.instance_id.as_ref().is_some_and(|i| i.as_str() == instance), m.epoch == before.target_epoch && m.state == MemberState::Stable);
        step.op == "hb" && step.number("e") == 0 && !as_before && !settled && !self.0.contains_key(instance)
    }
}

/// What a member has that takes over another's place and is in itself.
#[derive(Clone, Debug)]
pub struct GivesUp {
    member: MemberId,
    target: BTreeSet<Partition>,
    pub had: BTreeSet<Partition>,
}
impl GivesUp {
    /// Kafka writes down whose target has changed, and looks at what the member had in its own place for that. If its new one is the same, it keeps what the place had.
    /// True: that is something else.
    pub fn keeps_the_places_target(&self, before: Option<&Arc<Group>>, records: &mut [Record]) -> bool {
        let place = records.iter().find_map(|r| if let Record::Replaced(r) = r { before?.target.get(&r.old) } else { None });
        let (Some(place), Some(assignment)) = (place, records.iter_mut().find_map(|r| if let Record::Target { assignment, .. } = r { Some(assignment) } else { None })) else { return false };
        let (place, new) = (place.iter().cloned().collect(), assignment.entry(self.member.clone()).or_default());
        let differs = *new == self.target && *new != place;
        if differs {
            *new = place;
        }
        differs
    }
}

/// A member that is in takes over the place of another that is away. What it was to have in its own place is nobody's then: Baton computes a target for that at once; Kafka
/// bumps no epoch, and leaves it to the next change. In Kafka's world the member was not in at all before: gives what it had, and the record that takes it out. A regular expression
/// that only it has said is not forgotten: Kafka looks at what the place said.
pub fn gives_up_its_place(world: &World, i: usize, step: &Step) -> Result<Option<(GivesUp, Record)>, String> {
    let Some(g) = world.group().filter(|_| step.op == "hb" && step.number("e") == 0) else { return Ok(None) };
    let id = world.names.id(step.text("m"));
    let holder = step.maybe("inst").and_then(|i| g.instances.get(&InstanceId::from(i)));
    let (Some(m), Some(holder)) = (g.members.get(&id), holder.filter(|h| **h != id)) else { return Ok(None) };
    let after = world.tried(i, step)?.group();
    let Some(after) = after.filter(|a| a.instances.get(&InstanceId::from(step.text("inst"))) == Some(&id) && !a.members.contains_key(holder)) else { return Ok(None) };
    let target: BTreeSet<Partition> = g.target.get(&id).into_iter().flatten().cloned().collect();
    let given: BTreeSet<&Partition> = after.target.values().flatten().collect();
    let wanted = after.topics.iter().filter(|(t, _)| after.members.values().any(|m| after.subscribes(m, t))).flat_map(|(t, f)| (0..f.partitions).map(|p| Partition::new(t.clone(), p)));
    let complete = after.target_epoch < after.epoch || wanted.into_iter().all(|p| given.contains(&p));
    let computed = after.epoch == g.epoch + 1 && complete;
    if !target.is_empty() && !computed {
        return Err(format!("{id} gave up its own place, and the epoch went from {} to {}, with the target {:?}", g.epoch, after.epoch, after.target));
    }
    let had: BTreeSet<Partition> = m.holdings().map(|(p, ..)| p.clone()).collect();
    let removed = Record::Removed { member: id.clone(), freed: had.iter().cloned().collect(), held: Vec::new(), fence: false };
    Ok(Some((GivesUp { member: id, target, had }, removed)))
}

/// What a member that goes on with its target has after its join: all of it that was its own before, or nobody's.
pub fn goes_on(before: &Group, after: &Group, id: &MemberId) -> BTreeSet<Partition> {
    let Some(m) = after.members.get(id) else { return BTreeSet::new() };
    let exists = |p: &&Partition| after.topics.get(&p.topic).is_some_and(|t| (0..t.partitions).contains(&p.partition)) && after.subscribes(m, &p.topic);
    let free = |p: &&Partition| before.owners.get(*p).is_none_or(|o| o.member == *id);
    after.target.get(id).into_iter().flatten().filter(exists).filter(free).cloned().collect()
}

/// The step that takes everything from a member.
pub fn takes_all(m: &Member, id: &MemberId) -> Record { takes(m, id, m.assigned.keys().cloned().collect(), MemberState::Stable) }
/// The step that lets a member wait for what it was given.
pub fn waits_for(m: &Member, id: &MemberId, released: Vec<Partition>) -> Record { takes(m, id, released, MemberState::UnreleasedPartitions) }
fn takes(m: &Member, id: &MemberId, released: Vec<Partition>, state: MemberState) -> Record {
    Record::Reconciled(Box::new(Reconciled {
        member: id.clone(), epoch: m.epoch, previous_epoch: m.previous_epoch, state, revision: m.assignment_revision, released, revoked: Vec::new(), granted: Vec::new(),
    }))
}

/// Baton takes such a join as one under an id that nobody has ever used. Both are tried on copies: in Kafka's world, which the trace goes on in, nobody joined.
pub fn joins_as_under_a_new_id(world: &World, i: usize, step: &Step) -> Result<(), String> {
    // Behind its place in the order of ids comes no other.
    let new_id = format!("{}'", step.text("inst"));
    let tried = |instance: Option<&str>| {
        let (mut w, mut s) = (world.clone(), step.clone());
        if let Some(instance) = instance {
            s.fields.insert("inst".into(), json!(instance));
        }
        let command = w.command(&s)?;
        w.send(i, &s.op, command);
        w.work();
        let answers: Vec<Value> = w.take_answers().into_iter().map(|r| consumer::answer(&mut w, &s, &r).or_else(|| classic::answer(&mut w.names, &s.op, &r)).unwrap_or_else(|| json!(format!("{r:?}")))).collect();
        Ok::<_, String>(json!([answers, w.view()]))
    };
    let (own, new) = (tried(None)?, tried(Some(&new_id))?);
    let renamed: Value = serde_json::from_str(&new.to_string().replace(&new_id, step.text("inst"))).map_err(|e| e.to_string())?;
    // Only a join may come under an id that nobody has used.
    let expected = if step.op == "hb" && step.number("e") == 0 { "NONE" } else { "UNKNOWN_MEMBER_ID" };
    let accepted = step.op == "join" || own[0][0]["err"] == expected;
    if own == renamed && accepted { Ok(()) } else { Err(format!("a join under an id that a member has given up: Baton did {own}, under a new id {renamed}")) }
}

/// Whether Kafka takes the group's subscriptions for equal; it looks when a member is written down.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    equal: bool,
}
impl Default for Kind { fn default() -> Self { Self { equal: true } } }
impl Kind {
    /// Follows a batch of the group's records, from the group before it.
    pub fn follow(&mut self, before: Option<&Arc<Group>>, records: &[Record]) -> Result<(), String> {
        let (mut draft, mut token) = (before.cloned(), 0);
        for r in records {
            replay::record(&mut draft, r, &mut token).map_err(|e| e.to_string())?;
            let written = matches!(
                r,
                Record::Joined(_) | Record::Subscribed { .. } | Record::Away { .. } | Record::Replaced(_) | Record::Instance { .. } | Record::Reconciled(_) | Record::Removed { .. } | Record::Classic(_)
            );
            match &draft {
                None => *self = Self::default(),
                Some(g) if g.classic.is_some() => *self = Self::default(),
                Some(g) if written => self.equal = homogeneous(g),
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Puts Kafka's target where Baton's is, if Kafka computed it on the kind of group that it had before. True: it did so.
    pub fn retarget(self, before: Option<&Arc<Group>>, image: &Metadata, default_assignor: &str, records: &mut [Record]) -> Result<bool, String> {
        let Some(before) = before.filter(|g| g.classic.is_none()) else { return Ok(false) };
        let Some(at) = records.iter().position(|r| matches!(r, Record::Target { .. })) else { return Ok(false) };
        let (earlier, rest) = records.split_at_mut(at);
        let Some(Record::Target { assignment, .. }) = rest.first_mut() else { return Ok(false) };
        if earlier.iter().any(|r| matches!(r, Record::Epoch { .. })) {
            return Ok(false); // it looked at the group as it is
        }
        let (mut draft, mut token) = (Some(before.clone()), 0);
        for r in earlier.iter() {
            replay::record(&mut draft, r, &mut token).map_err(|e| e.to_string())?;
        }
        let Some(now) = draft else { return Ok(false) };
        let name = now.assignor(default_assignor).to_string();
        let input = Input::of(&now, &now.topics, image);
        let own = assign::assign(&name, &input);
        if filled(&own) != filled(assignment) {
            return Err(format!("the target is {assignment:?}, by itself {name} gives {own:?}"));
        }
        let kafkas = if self.equal { as_if_homogeneous(&name, &input) } else { assign::assign(&name, &Input { mixed: true, ..input.clone() }) };
        let differs = filled(&own) != filled(&kafkas);
        if differs {
            *assignment = kafkas;
        }
        Ok(differs)
    }
}

/// Whether Kafka takes all members' subscriptions for equal: every topic that it knows of is named by all; or all say one regular expression and no names, and
/// no other expression stands for one of its topics.
fn homogeneous(g: &Group) -> bool {
    let members = g.members.len();
    let matched = |t: &TopicName| g.regexes.values().filter(|r| r.topics.contains(t)).count();
    let named = |t: &TopicName| g.members.values().filter(|m| m.subscribed.contains(t)).count();
    let topics = g.subscribed_topics();
    match g.said.values().next() {
        None => topics.iter().all(|t| named(t) == members),
        Some(count) => *count == members as u64 && topics.iter().all(|t| matched(t) == 1 && named(t) == 0),
    }
}

/// What an assignor gives that takes the first member's subscription for everybody's. `range` looks at static members first.
fn as_if_homogeneous(name: &str, input: &Input) -> Assignment {
    let first_static = input.instances.iter().filter(|_| name == "range").min_by_key(|(_, i)| *i).map(|(m, _)| m);
    let first = first_static.or_else(|| input.subscriptions.keys().next());
    let topics = first.and_then(|m| input.subscriptions.get(m)).cloned().unwrap_or_default();
    let all = input.subscriptions.keys().map(|m| (m.clone(), topics.clone())).collect();
    assign::assign(name, &Input { subscriptions: all, mixed: false, ..input.clone() })
}

fn filled(a: &Assignment) -> BTreeMap<&MemberId, &BTreeSet<Partition>> { a.iter().filter(|(_, ps)| !ps.is_empty()).collect() }

#[cfg(test)]
mod tests {
    use super::*;

    fn step(text: Value) -> Step { serde_json::from_value(text).expect("a step") }

    #[test]
    fn an_id_is_left_behind_by_a_member_that_takes_another_one() {
        let group = |members: Value| json!({"type": "consumer", "members": members});
        let (first, second) = (group(json!({"a": {"e": 1, "inst": "i1"}})), group(json!({"a": {"e": 2, "inst": "i2"}})));
        let join = |inst: &str| step(json!({"t": 1, "op": "hb", "m": "b", "e": 0, "inst": inst}));
        let mut kept = Instances::default();
        kept.follow(&Value::Null, &first, &[]);
        assert_eq!(kept.refuses(&first, &join("i1")), None, "the ordinary refusal is nobody's slip");
        kept.follow(&first, &second, &[]);
        assert_eq!((kept.refuses(&second, &join("i1")), kept.refuses(&second, &join("i2"))), (Some("UNRELEASED_INSTANCE_ID"), None));
        kept.follow(&second, &group(json!({})), &[]);
        assert_eq!((kept.refuses(&group(json!({})), &join("i1")), kept.refuses(&group(json!({})), &join("i2"))), (Some("UNKNOWN_MEMBER_ID"), None));
        kept.follow(&group(json!({})), &Value::Null, &[]);
        assert_eq!(kept.refuses(&Value::Null, &join("i1")), None);
    }

    #[test]
    fn the_first_members_topics_are_everybodys_for_one_who_does_not_look() {
        let names = |l: &[&str]| l.iter().map(|t| TopicName::from(*t)).collect::<BTreeSet<_>>();
        let input = Input {
            subscriptions: [("a".into(), names(&["t"])), ("b".into(), names(&[]))].into(), topics: [("t".into(), 2)].into(), instances: [("b".into(), "i".into())].into(), ..Input::default()
        };
        assert!(filled(&as_if_homogeneous("range", &input)).is_empty(), "the static one comes first and wants nothing");
        assert_eq!(as_if_homogeneous("uniform", &input)[&MemberId::from("b")].len(), 1, "one who wants nothing is given something");
        assert_eq!(assign::assign("range", &input)[&MemberId::from("a")].len(), 2);
    }
}
