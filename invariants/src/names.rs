//! The list of the invariants: the names that a judge may use, what each of them promises, and which nets check it. `docs/invariants.md` says the same
//! to people; a test compares the two.

use Net::*;

/// Something that runs the product and feeds the judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Net {
    /// The simulation of the core.
    Core,
    /// The simulated cluster.
    Cluster,
    /// Real processes: the minute of kills and the nemesis.
    Processes,
}

/// One invariant.
pub struct Invariant {
    pub number: &'static str,
    pub name: &'static str,
    pub statement: &'static str,
    /// Which nets check it.
    pub nets: &'static [Net],
}

const fn i(number: &'static str, name: &'static str, nets: &'static [Net], statement: &'static str) -> Invariant { Invariant { number, name, statement, nets } }

/// All of them, in the order of their numbers.
pub const ALL: [Invariant; 19] = [
    i("I1", "one-owner", &[Core, Cluster], "At every log index a (group, topic, partition) is assigned to, pending revocation at, or held for at most one member, and the owner map says exactly that."),
    i("I2", "one-believer", &[Core, Cluster, Processes], "At any true instant at most one conforming member believes it owns a partition: from the answer that granted it until it stopped, or until its lease deadline counted on its own clock from the *send* time of the last answered heartbeat."),
    i("I3", "fencing", &[Core, Cluster, Processes], "Every grant carries a token greater than every earlier token of that partition, across deletion of the group and change of leader."),
    i("I4", "epochs", &[Core, Cluster], "member epoch ≤ target epoch ≤ group epoch; group and target epochs never fall, nor does the metadata revision that a group has recorded; an empty group's target is level with its epoch; no member is told epoch 0."),
    i("I5", "durable", &[Core, Cluster, Processes], "What was acknowledged survives the loss of a minority, and all nodes crashing at once with unsynced writes lost."),
    i("I6", "answers-committed", &[Core, Cluster], "An answer reveals only committed state, and only under a valid leader lease; a refusal is borne out by it."),
    i("I7", "complete", &[Core, Cluster, Processes], "A stable group's members own every partition of the topics they subscribe to, each once."),
    i("I8", "live", &[Core, Cluster, Processes], "Once faults stop, every group becomes stable within a bound."),
    i("I9", "timers", &[Core, Cluster], "After a change of leader each member has exactly one session timer, at full length of what it was promised; what a classic group waits for ends by a timer, and what is asked back is given back within the rebalance timeout (both judged in the core)."),
    i("I10", "replicas-agree", &[Core, Cluster], "Same applied index, same state digest; snapshot and log tail equal full replay."),
    i("I11", "bounded", &[Core], "Members, groups, subscriptions, bodies and history have limits with clear errors."),
    i("I12", "one-generation", &[Core], "A generation of a classic group has one list of members and one assignment, made by a member that is there; nobody waits for that of a generation that is over; a group with holds is never a classic one."),
    i("I13", "linearizable", &[Core, Cluster, Processes], "Commits, fetches and admin calls of a group have one order that fits every answer and the times at which calls were made and answered."),
    i("I14", "one-leader", &[Cluster], "In one term at most one node leads a shard."),
    i("I15", "lease", &[Cluster], "Once a later term of a shard has a leader, no node is given the lease of an earlier term, and no answer leaves under it; and while a lease is given, a majority still keeps its promise to elect nobody else."),
    i("I16", "replay", &[Core, Cluster], "No batch that breaks an invariant is decided, and replay undoes none: no group is ever quarantined."),
    i("I17", "panic", &[Core, Cluster], "Nothing panics, whatever arrives and whatever dies."),
    i("I18", "incarnations", &[Core], "A process of a member that left, or whose id another took over, is never a member again; a static place is not taken by an earlier process than the one that lives in it; the process that was let in last is the one that is in."),
    i("I19", "with-cause", &[Core], "A partition is asked back only from a member that is not to have it: its target lacks it, it does not subscribe to the topic, or the topic is another by now."),
];

/// The invariant of that name.
pub fn find(name: &str) -> Option<&'static Invariant> { ALL.iter().find(|i| i.name == name) }

impl Net {
    /// The names of those that this net checks.
    pub fn checks(self) -> Vec<&'static str> { ALL.iter().filter(|i| i.nets.contains(&self)).map(|i| i.name).collect() }
    /// Its word in the document.
    pub fn word(self) -> &'static str {
        match self {
            Core => "core",
            Cluster => "cluster",
            Processes => "processes",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_the_same_list() {
        let text = include_str!("../../docs/invariants.md");
        let rows: Vec<Vec<&str>> = text.lines().filter(|l| l.starts_with("| I")).map(|l| l.split('|').map(str::trim).collect()).collect();
        let said: Vec<(&str, &str, &str, String)> = rows.iter().map(|r| (r[1], r[2], r[3], r[4].to_string())).collect();
        let nets = |i: &Invariant| if i.nets.is_empty() { "–".to_string() } else { i.nets.iter().map(|n| n.word()).collect::<Vec<_>>().join(", ") };
        let meant: Vec<(&str, &str, &str, String)> = ALL.iter().map(|i| (i.number, i.name, i.statement, nets(i))).collect();
        for (s, m) in said.iter().zip(&meant) { assert_eq!(s, m); }
        assert_eq!(said.len(), meant.len());
    }

    #[test]
    fn a_name_stands_for_one_invariant() {
        for i in &ALL { assert_eq!(ALL.iter().filter(|o| o.name == i.name || o.number == i.number).count(), 1, "{}", i.name); }
    }

    #[test]
    #[should_panic(expected = "not in the list")]
    fn a_verdict_under_an_unknown_name_is_refused() { let _ = crate::broken::<()>("fine", "whatever"); }
}
