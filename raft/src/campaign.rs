//! When a leader falls silent, its followers stand for election one after the other, as soon as their promise to it has run out.
//!
//! Consensus by itself lets each of them wait for a random time on top of that promise; two that draw nearly the same number both lose, and nobody leads
//! for another election time. Here they take turns. A campaign begins with a question to the others (pre-vote), which every node refuses that still hears the
//! leader or is still bound by its promise: this decides who asks first, never who may lead (`safety.md` 3). The timer of consensus stays as the second way.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::api::NodeId;
use crate::group::GroupHandle;

/// So often a node asks after one silence; whoever is cut off for longer leaves it to the timer of consensus.
const MOST: u32 = 8;

/// What a node knows of the last word of a group's leader.
#[derive(Default)]
pub struct Heard {
    last: Mutex<Last>,
}
#[derive(Default)]
struct Last {
    /// None: it has not been heard since this node started; then the timer of consensus is all there is.
    at: Option<Instant>,
    /// The newest leader that was known.
    leader: Option<NodeId>,
    /// Campaigns since it was heard.
    asked: u32,
}

/// Who may stand for election now, and under which times.
pub struct Standing {
    pub node: NodeId,
    pub voters: Vec<NodeId>,
    /// The leader as far as this node knows.
    pub leader: Option<NodeId>,
    /// Groups of one dead leader go to different nodes.
    pub group: u16,
    pub election_min: Duration,
    /// What every voter has promised since it heard the leader.
    pub promised: Duration,
}

impl Heard {
    /// The leader's word has arrived, or there is no need to hear it.
    pub fn note(&self, now: Instant) {
        let mut last = self.last();
        (last.at, last.asked) = (Some(now), 0);
    }

    /// Whether it is this node's turn to ask, and how long until the next look.
    pub fn turn(&self, s: &Standing, now: Instant) -> (bool, Duration) {
        let mut last = self.last();
        last.leader = s.leader.or(last.leader);
        let Some(at) = last.at.filter(|_| s.voters.len() > 1) else { return (false, s.promised) };
        // In a ring, from the leader on. Who leads, or has no vote, is not in it.
        let ring: Vec<NodeId> = {
            let (before, after): (Vec<NodeId>, Vec<NodeId>) = s.voters.iter().filter(|v| Some(**v) != last.leader).partition(|v| last.leader.is_some_and(|l| **v < l));
            after.into_iter().chain(before).collect()
        };
        let Some(place) = ring.iter().position(|v| *v == s.node) else { return (false, s.promised) };
        let place = ((place + usize::from(s.group)) % ring.len()) as u32;
        let (head_start, between) = (s.election_min / 10, s.election_min * 2 / 5);
        let silent = now.saturating_duration_since(at);
        let mut turn = false;
        loop {
            if last.asked == MOST {
                return (turn, s.promised);
            }
            let due = s.promised + head_start + between * (place + last.asked * ring.len() as u32);
            if due > silent {
                return (turn, due - silent);
            }
            last.asked += 1;
            turn = true;
        }
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Runs until `groups` gives None.
pub async fn run(groups: impl Fn() -> Option<Vec<GroupHandle>>, longest: Duration) {
    while let Some(groups) = groups() {
        let mut pause = longest;
        for group in groups {
            pause = pause.min(group.campaign().await);
        }
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    fn standing(node: NodeId, leader: Option<NodeId>, group: u16) -> Standing {
        Standing { node, voters: vec![1, 2, 3], leader, group, election_min: 300 * MS, promised: 600 * MS }
    }
    /// The moments in ms after the leader's last word at which the node asks, until `end`.
    fn turns(node: NodeId, leader: NodeId, group: u16, end: u32) -> Vec<u128> {
        let (heard, began) = (Heard::default(), Instant::now());
        assert!(!heard.turn(&standing(node, Some(leader), group), began + 5_000 * MS).0, "nothing was heard yet");
        heard.note(began);
        let (mut asked, mut known, mut now) = (Vec::new(), Some(leader), began);
        while now <= began + end * MS {
            let (turn, pause) = heard.turn(&standing(node, known, group), now);
            if turn {
                asked.push((now - began).as_millis());
                // From the first campaign on nobody knows a leader.
                known = None;
            }
            now += pause;
        }
        asked
    }

    #[test]
    fn followers_take_turns_once_their_promise_has_run_out() {
        assert_eq!(turns(3, 2, 0, 1_200), vec![630, 870, 1_110]);
        assert_eq!(turns(1, 2, 0, 1_200), vec![750, 990]);
        // In the next group the other one is first.
        assert_eq!(turns(3, 2, 1, 900), vec![750]);
        assert_eq!(turns(1, 2, 1, 900), vec![630, 870]);
        assert_eq!(turns(1, 2, 1, 60_000).len(), 8, "who is cut off does not ask for ever");
    }

    #[test]
    fn nobody_asks_while_the_leader_is_heard_or_who_leads_or_has_no_vote() {
        let (heard, mut now) = (Heard::default(), Instant::now());
        for _ in 0..100 {
            heard.note(now);
            now += 100 * MS;
            assert!(!heard.turn(&standing(1, Some(2), 0), now).0);
        }
        now += 5_000 * MS;
        assert!(!heard.turn(&standing(2, Some(2), 0), now).0, "it leads itself");
        assert!(!heard.turn(&standing(7, Some(2), 0), now).0, "it has no vote");
        assert!(heard.turn(&standing(1, Some(2), 0), now).0, "one question after a long stall");
        assert!(!heard.turn(&standing(1, Some(2), 0), now).0);
    }
}
