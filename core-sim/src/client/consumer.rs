//! KIP-848, as Kafka's clients speak it: an epoch, partial heartbeats, everything again after a lost answer, epoch 0 after it was fenced.

use super::*;

impl Client {
    fn by_id(&self) -> PartitionsById {
        let mut out = PartitionsById::new();
        for (p, id) in &self.owned {
            out.entry(*id).or_default().insert(p.partition);
        }
        out
    }
    pub(super) fn consumer_request(&mut self, r: &mut Rng) -> Command {
        let join = self.step == Step::Join;
        let mut h = ConsumerHeartbeat {
            version: 1, member: self.id.clone(), made_id: self.id.clone(), epoch: self.epoch, instance_id: self.instance.clone(), rebalance_timeout_ms: -1, ..ConsumerHeartbeat::default()
        };
        if self.step == Step::Leaving {
            h.epoch = if self.away { -2 } else { -1 };
            self.said_away |= self.away;
            return Command::Consumer(Box::new(h));
        }
        if join || self.full {
            (h.rebalance_timeout_ms, h.subscribed_topics, h.subscribed_regex) = (self.rebalance_ms as i32, Some(self.subscribed.clone()), Some(self.regex.clone().unwrap_or_default()));
        }
        // None says that nothing is new.
        h.owned = (join || self.full || r.pct(30)).then(|| self.by_id());
        self.full = false;
        Command::Consumer(Box::new(h))
    }
    pub(super) fn consumer_answer(&mut self, now: Ms, r: &mut Rng, result: &Result<Response, GroupError>, topics: &Topics) {
        match result {
            Ok(Response::Consumer(v)) => {
                (self.epoch, self.step, self.interval) = (v.epoch, Step::Steady, v.heartbeat_interval_ms.max(50));
                self.next_send = self.next_send.min(now + self.interval);
                if let Some(a) = &v.assignment {
                    // It looks the names up, also of topics that have just gone: then it knew them before.
                    let name = |id: &u128| {
                        let new = topics.iter().find(|(_, (i, _))| i == id).map(|(t, _)| t.clone());
                        new.or_else(|| self.owned.iter().find(|(_, i)| *i == id).map(|(p, _)| p.topic.clone()))
                    };
                    let target = a.iter().filter_map(|(id, ps)| name(id).map(|t| (id, t, ps))).flat_map(|(id, t, ps)| ps.iter().map(move |p| (Partition::new(t.clone(), *p), *id))).collect();
                    self.take(target, now, r);
                }
            }
            // Another process has its place, or has not left it: it ends.
            Err(GroupError::UnreleasedInstanceId { .. } | GroupError::FencedInstanceId { .. }) => self.begin_anew(Step::Gone, now),
            Err(GroupError::NotConvertible { .. } | GroupError::LimitReached { .. } | GroupError::GroupFull { .. } | GroupError::Invalid { .. } | GroupError::InvalidRegex { .. }) => {
                self.begin_anew(Step::Join, now);
                self.next_send = now + 1_000;
            }
            Ok(_) | Err(_) => {
                self.begin_anew(Step::Join, now);
                self.next_send = now;
            }
        }
    }
}
