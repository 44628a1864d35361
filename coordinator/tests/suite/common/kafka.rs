//! A member that speaks Kafka's consumer protocol, as clients do it.

use super::*;
use baton_coordinator::state::ClientInfo;

#[derive(Clone, Debug)]
pub struct Kafka {
    pub id: MemberId,
    pub instance: Option<InstanceId>,
    pub epoch: Epoch,
    pub owned: PartitionsById,
    pub topics: BTreeSet<TopicName>,
    pub regex: Option<String>,
}
impl Kafka {
    pub fn new(id: &str, subscribed: &[&str]) -> Self { Self { id: id.into(), instance: None, epoch: 0, owned: PartitionsById::new(), topics: topics(subscribed), regex: None } }
    pub fn fixed(id: &str, instance: &str, subscribed: &[&str]) -> Self { Self { instance: Some(instance.into()), ..Self::new(id, subscribed) } }
    /// Says nothing but that it lives.
    pub fn beat(&self) -> ConsumerHeartbeat {
        ConsumerHeartbeat {
            version: 1, member: self.id.clone(), made_id: "made".into(), epoch: self.epoch, instance_id: self.instance.clone(), rebalance_timeout_ms: -1, client: ClientInfo::default(),
            ..ConsumerHeartbeat::default()
        }
    }
    pub fn join(&self) -> ConsumerHeartbeat {
        ConsumerHeartbeat {
            epoch: 0, rebalance_timeout_ms: 60_000, subscribed_topics: Some(self.topics.clone()), subscribed_regex: self.regex.clone(), owned: Some(PartitionsById::new()), ..self.beat()
        }
    }
    /// Says what it owns.
    pub fn owning(&self) -> ConsumerHeartbeat { ConsumerHeartbeat { owned: Some(self.owned.clone()), ..self.beat() } }
    pub fn take(&mut self, v: &ConsumerView) {
        self.epoch = v.epoch;
        if let Some(a) = &v.assignment {
            self.owned = a.clone();
        }
    }
    /// The numbers of the partitions it owns, whatever the topic.
    pub fn has(&self) -> Vec<i32> { self.owned.values().flatten().copied().collect() }
}
impl World {
    pub fn consumer(&mut self, h: ConsumerHeartbeat) -> Result<ConsumerView, GroupError> {
        self.ask(Command::Consumer(Box::new(h))).map(|r| match r {
            Response::Consumer(v) => v,
            other => panic!("a consumer's heartbeat was answered with {other:?}"),
        })
    }
    pub fn kjoin(&mut self, k: &mut Kafka) {
        let v = self.consumer(k.join()).expect("the join is accepted");
        k.take(&v);
    }
    pub fn kbeat(&mut self, k: &mut Kafka) -> ConsumerView {
        let v = self.consumer(k.owning()).expect("the heartbeat is accepted");
        k.take(&v);
        v
    }
    /// Heartbeats until the group is stable.
    pub fn ksettle(&mut self, members: &mut [&mut Kafka]) {
        for _ in 0..20 {
            self.pass(200);
            for k in members.iter_mut() {
                self.kbeat(k);
            }
            if self.group().state() == GroupState::Stable {
                return;
            }
        }
        panic!("the group did not settle: {:#?}", self.group());
    }
    pub fn kcommit(&mut self, k: &Kafka, epoch: Epoch, partition: i32, offset: i64) -> Result<Result<(), CommitRefusal>, GroupError> {
        let offsets = vec![CommitOffset { partition: Partition::new("t", partition), token: FencingToken(0), offset, metadata: String::new(), leader_epoch: None }];
        match self.ask(Command::KafkaCommit(KafkaCommit { version: 9, member: k.id.clone(), instance_id: k.instance.clone(), epoch, offsets })) {
            Ok(Response::Committed(r)) => Ok(r[0].1),
            Ok(other) => panic!("{other:?}"),
            Err(e) => Err(e),
        }
    }
}
