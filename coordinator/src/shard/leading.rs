//! What only the leader of a shard knows: who waits, what is in flight, which timers run. Built anew by `Shard::lead`, lost with the leadership.

use super::*;

/// A queued command.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    /// None: a timer's command.
    pub(super) ticket: Option<Ticket>,
    pub(super) group: GroupId,
    pub(super) what: What,
    /// When it arrived; a request is not taken up later than its budget.
    pub(super) arrived: Millis,
    pub(super) budget_ms: Option<u64>,
    pub(super) min_meta_revision: u64,
}
#[derive(Clone, Debug)]
pub(super) enum What {
    Request(Command),
    Timer(decide::TimerCommand),
    /// The result of work that was done beside the shard.
    Done(Found),
}

/// An answer that waits for the batch it belongs to.
#[derive(Clone)]
pub(super) struct Answer {
    pub(super) ticket: Ticket,
    pub(super) group: GroupId,
    /// What was asked, of a heartbeat that may be held; None where nothing can be held (any more).
    pub(super) command: Option<Command>,
    pub(super) arrived: Millis,
    pub(super) result: Result<Response, GroupError>,
}

/// The leader's entry that has been proposed and not replayed yet, with the answers that wait for it.
#[derive(Clone)]
pub(super) struct InFlight {
    pub(super) base_sequence: u64,
    pub(super) groups: BTreeSet<GroupId>,
    pub(super) replies: Vec<Answer>,
    pub(super) decided_at: Millis,
    /// The timers of classic groups that the entry's answers start.
    pub(super) armed: Vec<(Timer, Millis)>,
}

/// A heartbeat that is held until something changes for its member (`wait_ms`).
#[derive(Clone)]
pub(super) struct Held {
    pub(super) ticket: Ticket,
    pub(super) heartbeat: Heartbeat,
    pub(super) until: Millis,
    pub(super) response: Response,
}

/// A piece of work that is out.
#[derive(Clone, Copy)]
pub(super) struct Out {
    pub(super) run: u64,
    pub(super) since: Millis,
}
/// A result that has not come by then is taken for lost (its thread died, its task was dropped): the work is given out again, and what comes of the first run is not taken.
pub(super) const WORK_LOST_MS: Millis = 30_000;
impl Out {
    pub(super) fn lost_at(&self) -> Millis { self.since + WORK_LOST_MS }
}

#[derive(Clone)]
pub(super) struct Leading {
    pub(super) node: u64,
    pub(super) term: Term,
    pub(super) timers: Timers,
    /// When every timer was last armed in full.
    pub(super) rearmed_at: Millis,
    /// When it was last looked at whether there is something to do: a loop that runs does so all the time.
    pub(super) looked_at: Millis,
    /// The shard's time when the gate opened, and this node's clock then: the time goes on from there at the rate of this clock.
    pub(super) time_from: (u64, Millis),
    /// When groups are next looked through for what retention is over for, and behind which group to go on.
    pub(super) sweep_at: Millis,
    pub(super) swept: Option<GroupId>,
    /// The shard's time is to be written down although nobody wants anything.
    pub(super) tick: bool,
    pub(super) queue: VecDeque<Arc<Waiting>>,
    pub(super) in_flight: Option<InFlight>,
    pub(super) held: BTreeMap<(GroupId, MemberId), Held>,
    /// When a group's target was last computed, for the assignment interval.
    pub(super) assigned_at: BTreeMap<GroupId, Millis>,
    /// The image that a group was last compared with.
    pub(super) facts_seen: BTreeMap<GroupId, u64>,
    /// A batch of theirs was in flight when a newer image came.
    pub(super) unlooked: BTreeSet<GroupId>,
    /// A member of a group that had not arrived at the target when it was last looked at.
    pub(super) behind: BTreeMap<GroupId, MemberId>,
    /// Work that is out, and its run.
    pub(super) working: BTreeMap<(GroupId, Kind), Out>,
    pub(super) runs: u64,
    /// When a group's regular expressions were last resolved.
    pub(super) regexes_at: BTreeMap<GroupId, Millis>,
    /// Batches of a group refused in a row.
    pub(super) refused: BTreeMap<GroupId, u32>,
    /// Groups whose soft state must follow what was replayed, with the members that the batch names.
    pub(super) touched: Vec<(GroupId, BTreeSet<MemberId>)>,
    /// Who waits in which classic group, and for what.
    pub(super) classic: BTreeMap<GroupId, crate::classic::Soft>,
    /// Timers armed with an entry that has been applied, and when that was decided.
    pub(super) armed: Vec<(Timer, Millis, Millis)>,
    /// Groups whose batch was not applied: what was decided with it did not happen.
    pub(super) lost: BTreeSet<GroupId>,
}

impl Leading {
    /// What was computed for a group that is gone, or for a draft that was lost, says nothing about what comes under the same name and epoch: neither the
    /// work that is out nor its results that still wait.
    pub(super) fn forget_work(&mut self, group: &GroupId) {
        self.working.retain(|(g, _), _| g != group);
        self.queue.retain(|w| w.group != *group || !matches!(w.what, What::Done(_)));
    }
    pub(super) fn enqueue(&mut self, w: Waiting) { self.queue.push_back(Arc::new(w)); }
    /// A heartbeat that was held goes back into the queue, to be held for so long at most.
    pub(super) fn queue_held(&mut self, group: &GroupId, held: Held, wait_ms: u64, now: Now) {
        let heartbeat = Heartbeat { wait_ms, ..held.heartbeat };
        self.enqueue(Waiting { ticket: Some(held.ticket), group: group.clone(), what: What::Request(Command::Heartbeat(heartbeat)), arrived: now.mono_ms, budget_ms: None, min_meta_revision: 0 });
    }
    pub(super) fn queue_timer(&mut self, group: &GroupId, command: decide::TimerCommand, now: Now) {
        self.enqueue(Waiting { ticket: None, group: group.clone(), what: What::Timer(command), arrived: now.mono_ms, budget_ms: None, min_meta_revision: 0 });
    }
    /// The shard's time now (`safety.md` 18).
    pub(super) fn time(&self, now: Now) -> u64 { self.time_from.0 + now.mono_ms.saturating_sub(self.time_from.1) }
}
