//! A Kafka client that speaks the consumer protocol (KIP-848): epochs, no lease. It finishes what it is asked back, then says at once what it owns.

use super::*;

pub struct Consumer {
    id: MemberId,
    epoch: Epoch,
    /// What it last said that it owns; None: it says everything in its next request.
    said: Option<PartitionsById>,
    leaving: bool,
    /// It left by itself and waits for its application.
    away: bool,
}

impl Consumer {
    pub fn new(id: &str) -> Consumer { Consumer { id: id.into(), epoch: 0, said: None, leaving: false, away: false } }
    fn leave_epoch(b: &Body) -> Epoch { if b.spec.instance.is_some() { -2 } else { -1 } }
}

fn by_id(owned: &BTreeSet<Partition>, meta: &Metadata) -> PartitionsById {
    let mut out = PartitionsById::new();
    for p in owned {
        if let Some(t) = meta.topics.get(&p.topic) {
            out.entry(t.id).or_default().insert(p.partition);
        }
    }
    out
}
fn by_name(assigned: &PartitionsById, meta: &Metadata) -> BTreeSet<Partition> {
    let name = |id: u128| meta.topics.iter().find(|(_, t)| t.id == id).map(|(n, _)| n.clone());
    assigned.iter().filter_map(|(id, ps)| name(*id).map(|n| (n, ps))).flat_map(|(n, ps)| ps.iter().map(move |p| Partition::new(n.clone(), *p))).collect()
}

impl Speaks for Consumer {
    fn id(&self) -> Option<&MemberId> { Some(&self.id) }
    fn request(&mut self, b: &mut Body, _now: Ms, meta: &Metadata) -> Option<(Command, Ms)> {
        let instance_id = b.spec.instance.as_deref().map(InstanceId::from);
        let beat = ConsumerHeartbeat { version: 1, member: self.id.clone(), epoch: self.epoch, instance_id, rebalance_timeout_ms: -1, ..ConsumerHeartbeat::default() };
        if self.leaving || self.away {
            return Some((Command::Consumer(Box::new(ConsumerHeartbeat { epoch: Self::leave_epoch(b), ..beat })), 0));
        }
        let owned = by_id(&b.hands.owned(), meta);
        let full = self.epoch == 0 || self.said.is_none();
        // Unchanged since the last request: left out (KIP-848).
        let changed = self.said.as_ref() != Some(&owned);
        self.said = Some(owned.clone());
        let said = ConsumerHeartbeat { owned: (full || changed).then_some(owned), ..beat };
        Some((
            Command::Consumer(Box::new(if full {
                ConsumerHeartbeat {
                    rebalance_timeout_ms: i32::try_from(b.spec.rebalance_ms).unwrap_or(i32::MAX), subscribed_topics: Some(b.spec.topics.iter().map(|t| t.as_str().into()).collect()),
                    subscribed_regex: b.spec.regex.clone(), assignor: b.spec.assignor.clone(), ..said
                }
            } else {
                said
            })),
            0,
        ))
    }
    fn answer(&mut self, b: &mut Body, now: Ms, sent: Ms, result: &Result<Response, GroupError>, meta: &Metadata) {
        if self.leaving {
            return b.end();
        }
        if self.away {
            b.next_send = None;
            return;
        }
        match result {
            Ok(Response::Consumer(v)) => {
                self.epoch = v.epoch;
                b.next_send = Some((sent + v.heartbeat_interval_ms).max(now));
                if let Some(a) = &v.assignment {
                    let (target, had) = (by_name(a, meta), b.hands.owned());
                    if !b.turn_to(&target, now) && target != had {
                        self.gave_up(b, now);
                    }
                }
            }
            Ok(other) => b.say(format!("does not understand the answer {other:?}")),
            Err(e @ (GroupError::Unavailable { .. } | GroupError::Loading { .. })) => {
                b.say(format!("is told to try again: {}", refusal(e, b.spec.protocol)));
                self.said = None;
                b.next_send = Some(now + 100);
            }
            Err(e @ (GroupError::FencedMemberEpoch { .. } | GroupError::UnknownMember { .. })) => {
                b.say(format!("loses everything and is to join again: {}", refusal(e, b.spec.protocol)));
                b.drop_all();
                (self.epoch, self.said) = (0, None);
                b.next_send = b.stuck.is_none().then_some(now);
            }
            Err(e) => {
                b.say(format!("ends: {}", refusal(e, b.spec.protocol)));
                b.end();
            }
        }
    }
    fn gave_up(&mut self, b: &mut Body, now: Ms) { b.next_send = Some(now); }
    fn unanswered(&mut self) { self.said = None; }
    fn close(&mut self, b: &mut Body, now: Ms) {
        self.leaving = true;
        b.next_send = b.hands.giving.values().max().copied().or(Some(now));
    }
    fn polls_no_more(&mut self, b: &mut Body, now: Ms) {
        b.say(format!("leaves by itself: its application has not come back for {} ms", b.spec.poll_timeout_ms));
        b.drop_all();
        (self.away, self.epoch, self.said) = (true, 0, None);
        (b.waiting, b.next_send) = (None, Some(now));
    }
    fn polls_again(&mut self, b: &mut Body, now: Ms) {
        self.away = false;
        (b.waiting, b.next_send) = (None, Some(now));
    }
}
