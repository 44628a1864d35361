//! Judges what workers believed: were there two owners of one partition at any time? [`at_once`] asks while a story runs and every belief can be seen;
//! the rest works afterwards, on the records that worker processes left behind.
//! All times are nanoseconds of one machine's CLOCK_BOOTTIME, so records of several processes can be laid side by side.
//!
//! A belief begins with its grant and ends with the first of: its own stop, the member's deadline (a member checks it before every use), the kill of its process.
//! A use after that end draws the end to the use: a member that works on past its deadline did believe.

use crate::{Verdict, broken};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// At one true instant nobody believes in a place in which another believes: (place, token, who).
pub fn at_once<'a, P: Ord + fmt::Debug>(now_ms: u64, beliefs: impl Iterator<Item = (P, u64, &'a str)>) -> Verdict {
    let mut all: Vec<(P, u64, &str)> = beliefs.collect();
    all.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    match all.windows(2).find(|two| two[0].0 == two[1].0) {
        Some([(place, t, other), (_, token, who)]) => broken("one-believer", format!("at {now_ms} ms {place:?} is believed by {other} (token {t}) and {who} (token {token})")),
        _ => Ok(()),
    }
}

/// What a worker process writes down, one line each, with one `write` so that a kill loses at most what had not happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// From `at` on the member may use the partition under the token.
    Grant { at: u64, member: String, partition: String, token: u64 },
    /// It does not any more.
    Stop { at: u64, member: String, partition: String, token: u64 },
    /// Noticed at `at`: without another renewal the member's beliefs end at `deadline`.
    Lease { at: u64, member: String, deadline: u64 },
    /// The member asked its guard, at `at` or just after, and began an outside effect.
    Use { at: u64, member: String, partition: String, token: u64 },
    /// The member lost what it had without being asked first: `why` is the client's word for it.
    Fenced { at: u64, member: String, why: String },
    /// A commit was acknowledged.
    Acked { at: u64, member: String, partition: String, token: u64, offset: i64 },
    /// A commit is about to be asked for. `call` is a number that the member gives to one request only; `seq` grows with every commit.
    Commits { at: u64, member: String, call: u64, partition: String, token: u64, seq: u64, offset: i64 },
    /// A committed offset is about to be asked for.
    Fetches { at: u64, member: String, call: u64, partition: String },
    /// The answer to that. A call without one, or whose outcome nobody knows, has no such line.
    Told { at: u64, member: String, call: u64, partition: String, told: Told },
}

/// What a member was told of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told { Taken, Refused, Found(i64), None }

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Record::Grant { at, member, partition, token } => write!(f, "grant {at} {member} {partition} {token}"),
            Record::Stop { at, member, partition, token } => write!(f, "stop {at} {member} {partition} {token}"),
            Record::Lease { at, member, deadline } => write!(f, "lease {at} {member} {deadline}"),
            Record::Use { at, member, partition, token } => write!(f, "use {at} {member} {partition} {token}"),
            Record::Fenced { at, member, why } => write!(f, "fenced {at} {member} {why}"),
            Record::Acked { at, member, partition, token, offset } => write!(f, "acked {at} {member} {partition} {token} {offset}"),
            Record::Commits { at, member, call, partition, token, seq, offset } => write!(f, "commits {at} {member} {call} {partition} {token} {seq} {offset}"),
            Record::Fetches { at, member, call, partition } => write!(f, "fetches {at} {member} {call} {partition}"),
            Record::Told { at, member, call, partition, told } => match told {
                Told::Taken => write!(f, "told {at} {member} {call} {partition} taken"),
                Told::Refused => write!(f, "told {at} {member} {call} {partition} refused"),
                Told::None => write!(f, "told {at} {member} {call} {partition} none"),
                Told::Found(offset) => write!(f, "told {at} {member} {call} {partition} found {offset}"),
            },
        }
    }
}

impl FromStr for Record {
    type Err = String;
    fn from_str(line: &str) -> Result<Record, String> {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |i: usize| words.get(i).and_then(|w| w.parse::<u64>().ok()).ok_or_else(|| format!("{line:?}: word {i} is not a number"));
        let text = |i: usize| words.get(i).map(|w| w.to_string()).ok_or_else(|| format!("{line:?}: word {i} is missing"));
        let (at, member) = (number(1)?, text(2)?);
        match words[0] {
            "grant" => Ok(Record::Grant { at, member, partition: text(3)?, token: number(4)? }),
            "stop" => Ok(Record::Stop { at, member, partition: text(3)?, token: number(4)? }),
            "lease" => Ok(Record::Lease { at, member, deadline: number(3)? }),
            "use" => Ok(Record::Use { at, member, partition: text(3)?, token: number(4)? }),
            "fenced" => Ok(Record::Fenced { at, member, why: text(3)? }),
            "acked" => Ok(Record::Acked { at, member, partition: text(3)?, token: number(4)?, offset: number(5)? as i64 }),
            "commits" => Ok(Record::Commits { at, member, call: number(3)?, partition: text(4)?, token: number(5)?, seq: number(6)?, offset: number(7)? as i64 }),
            "fetches" => Ok(Record::Fetches { at, member, call: number(3)?, partition: text(4)? }),
            "told" => {
                let told = match words.get(5) {
                    Some(&"taken") => Told::Taken,
                    Some(&"refused") => Told::Refused,
                    Some(&"none") => Told::None,
                    Some(&"found") => Told::Found(number(6)? as i64),
                    _ => return Err(format!("{line:?} does not say what was told")),
                };
                Ok(Record::Told { at, member, call: number(3)?, partition: text(4)?, told })
            }
            _ => Err(format!("{line:?} is no record")),
        }
    }
}

/// The records of one process, in the order it wrote them, and when it was killed, if it was.
#[derive(Clone, Debug, Default)]
pub struct Process { pub records: Vec<Record>, pub killed_at: Option<u64> }

/// Why a belief ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End { Stopped, Lapsed, Killed, UsedAfter, Open }

/// One member's belief in one partition.
#[derive(Clone, Debug, PartialEq)]
pub struct Belief { pub partition: String, pub member: String, pub token: u64, pub from: u64, pub to: u64, pub end: End }

/// What must never be.
#[derive(Clone, Debug, PartialEq)]
pub enum Violation {
    /// Both believed at the same time.
    TwoOwners { first: Belief, second: Belief },
    /// A later grant has a token that is not greater.
    TokenFell { first: Belief, second: Belief },
    /// A stop or use without a grant: the records themselves are not to be trusted.
    Unfounded { record: Record },
}
impl Violation {
    /// The invariant that it breaks.
    pub fn invariant(&self) -> &'static str {
        match self {
            Violation::TwoOwners { .. } | Violation::Unfounded { .. } => "one-believer",
            Violation::TokenFell { .. } => "fencing",
        }
    }
}
impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |a: u64, b: u64| b.saturating_sub(a) / 1_000_000;
        match self {
            Violation::TwoOwners { first: a, second: b } => write!(f, "{}: {} (token {}, {:?}) and {} (token {}) both believed, for {} ms", a.partition, a.member, a.token, a.end, b.member, b.token, ms(b.from, a.to.min(b.to))),
            Violation::TokenFell { first: a, second: b } => write!(f, "{}: token {} of {} was followed by {} of {}", a.partition, a.token, a.member, b.token, b.member),
            Violation::Unfounded { record } => write!(f, "without a grant: {record}"),
        }
    }
}

/// When it was granted, first stopped, last used.
type Seen = (u64, Option<u64>, Option<u64>);

/// All beliefs, ordered by partition and begin, and what is wrong with the records.
pub fn beliefs(processes: &[Process]) -> (Vec<Belief>, Vec<Violation>) {
    let (mut all, mut wrong) = (Vec::new(), Vec::new());
    for process in processes {
        let mut leases: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
        for r in &process.records {
            if let Record::Lease { at, member, deadline } = r { leases.entry(member).or_default().push((*at, *deadline)); }
        }
        // (member, partition, token) → grant, first stop, last use.
        let mut seen: BTreeMap<(&str, &str, u64), Seen> = BTreeMap::new();
        for r in &process.records {
            match r {
                Record::Grant { at, member, partition, token } => { seen.entry((member, partition, *token)).or_insert((*at, None, None)); }
                Record::Stop { at, member, partition, token } => match seen.get_mut(&(member.as_str(), partition.as_str(), *token)) {
                    Some(s) => { s.1.get_or_insert(*at); }
                    None => wrong.push(Violation::Unfounded { record: r.clone() }),
                },
                Record::Use { at, member, partition, token } => match seen.get_mut(&(member.as_str(), partition.as_str(), *token)) {
                    Some(s) => s.2 = Some(s.2.map_or(*at, |u| u.max(*at))),
                    None => wrong.push(Violation::Unfounded { record: r.clone() }),
                },
                Record::Lease { .. } | Record::Fenced { .. } | Record::Acked { .. } | Record::Commits { .. } | Record::Fetches { .. } | Record::Told { .. } => {}
            }
        }
        for ((member, partition, token), (from, stop, used)) in seen {
            let mut ends: Vec<(u64, End)> = Vec::new();
            ends.extend(stop.map(|t| (t, End::Stopped)));
            ends.extend(leases.get(member).map(|l| (lapse(l, from), End::Lapsed)));
            ends.extend(process.killed_at.map(|t| (t, End::Killed)));
            let (mut to, mut end) = ends.into_iter().min().unwrap_or((u64::MAX, End::Open));
            if let Some(u) = used && u > to { (to, end) = (u, End::UsedAfter); }
            all.push(Belief { partition: partition.into(), member: member.into(), token, from, to: to.max(from), end });
        }
    }
    all.sort_by(|a, b| (&a.partition, a.from, a.token).cmp(&(&b.partition, b.from, b.token)));
    (all, wrong)
}

/// When a belief that began at `from` lapses: renewals that came in time move it, one that came too late does not.
fn lapse(leases: &[(u64, u64)], from: u64) -> u64 {
    let mut deadline = leases.iter().rev().find(|(at, _)| *at <= from).or(leases.first()).map_or(u64::MAX, |l| l.1);
    for (at, next) in leases {
        if *at < from { continue; }
        if *at > deadline { break; }
        deadline = deadline.max(*next);
    }
    deadline
}

/// Everything that is wrong. `beliefs` must be ordered as [`beliefs`] gives them.
pub fn judge(beliefs: &[Belief]) -> Vec<Violation> {
    let mut wrong = Vec::new();
    // The one of the partition's earlier beliefs that lasts longest.
    let mut longest: Option<&Belief> = None;
    let mut previous: Option<&Belief> = None;
    for b in beliefs {
        if let Some(p) = previous.filter(|p| p.partition == b.partition) && b.token <= p.token {
            wrong.push(Violation::TokenFell { first: p.clone(), second: b.clone() });
        }
        match longest.filter(|l| l.partition == b.partition) {
            // One member may hold a new token before it has closed the old one: it is one owner.
            Some(l) if b.from < l.to && b.member != l.member => wrong.push(Violation::TwoOwners { first: l.clone(), second: b.clone() }),
            _ => {}
        }
        if longest.is_none_or(|l| l.partition != b.partition || l.to <= b.to) { longest = Some(b); }
        previous = Some(b);
    }
    wrong
}

/// The gaps between one owner and the next, ns: those after a stop (handed over), and those after a kill or a lapse.
pub fn gaps(beliefs: &[Belief]) -> (Vec<u64>, Vec<u64>) {
    let (mut handed, mut taken) = (Vec::new(), Vec::new());
    for pair in beliefs.windows(2) {
        let [a, b] = pair else { continue };
        if a.partition != b.partition || b.from < a.to { continue; }
        if a.end == End::Stopped { handed.push(b.from - a.to) } else { taken.push(b.from - a.to) }
    }
    handed.sort_unstable();
    taken.sort_unstable();
    (handed, taken)
}

/// Beliefs of all processes laid side by side, and everything that is wrong with them.
pub fn judged(processes: &[Process]) -> (Vec<Belief>, Vec<Violation>) {
    let (all, mut wrong) = beliefs(processes);
    wrong.extend(judge(&all));
    (all, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_at_one_instant_fire() {
        let at_once = |beliefs: &[(&'static str, u64, &'static str)]| super::at_once(5, beliefs.iter().copied());
        assert_eq!(at_once(&[("t:0", 1, "a"), ("t:1", 2, "b")]), Ok(()));
        assert!(at_once(&[("t:0", 1, "a"), ("t:1", 2, "b"), ("t:0", 3, "b")]).is_err_and(|b| b.invariant == "one-believer"));
    }

    fn process(lines: &[&str], killed_at: Option<u64>) -> Process { Process { records: lines.iter().map(|l| l.parse().unwrap()).collect(), killed_at } }
    fn wrong(processes: &[Process]) -> Vec<Violation> { judged(processes).1 }
    fn ends(processes: &[Process]) -> Vec<(u64, End)> { beliefs(processes).0.iter().map(|b| (b.to, b.end)).collect() }

    #[test]
    fn records_survive_a_round_trip() {
        for line in ["grant 1 m t:0 7", "stop 1 m t:0 7", "lease 1 m 9", "use 1 m t:0 7", "fenced 1 m Lapsed", "acked 1 m t:0 7 42", "commits 1 m 3 t:0 7 4 42", "fetches 1 m 4 t:0", "told 2 m 3 t:0 taken", "told 2 m 3 t:0 refused", "told 2 m 4 t:0 none", "told 2 m 4 t:0 found 42"] {
            assert_eq!(line.parse::<Record>().unwrap().to_string(), line);
        }
        for bad in ["", "grant", "grant x m t:0 7", "grant 1 m t:0", "nope 1 m", "told 1 m 3 t:0 maybe"] { assert!(bad.parse::<Record>().is_err(), "{bad}"); }
    }

    #[test]
    fn a_clean_hand_over_is_clean() {
        let a = process(&["lease 0 a 100", "grant 5 a t:0 1", "use 6 a t:0 1", "stop 20 a t:0 1"], None);
        let b = process(&["lease 19 b 200", "grant 21 b t:0 2"], None);
        assert_eq!(wrong(&[a.clone(), b.clone()]), vec![]);
        assert_eq!(gaps(&beliefs(&[a, b]).0), (vec![1], vec![]));
    }

    #[test]
    fn an_overlap_fires() {
        let a = process(&["lease 0 a 100", "grant 5 a t:0 1", "stop 20 a t:0 1"], None);
        let b = process(&["lease 0 b 200", "grant 19 b t:0 2"], None);
        assert!(matches!(&wrong(&[a, b])[..], [Violation::TwoOwners { .. }]));
    }

    #[test]
    fn an_overlap_with_an_earlier_long_belief_fires() {
        let a = process(&["grant 1 a t:0 1", "stop 100 a t:0 1"], None);
        let b = process(&["grant 2 b t:0 2", "stop 3 b t:0 2"], None);
        let c = process(&["grant 50 c t:0 3"], None);
        assert_eq!(wrong(&[a, b, c]).len(), 2);
    }

    #[test]
    fn a_kill_and_a_deadline_end_a_belief() {
        assert_eq!(ends(&[process(&["lease 0 a 100", "grant 5 a t:0 1"], Some(50))]), vec![(50, End::Killed)]);
        assert_eq!(ends(&[process(&["lease 0 a 100", "grant 5 a t:0 1"], None)]), vec![(100, End::Lapsed)]);
        assert_eq!(ends(&[process(&["lease 0 a 100", "grant 5 a t:0 1", "lease 90 a 190", "stop 150 a t:0 1"], None)]), vec![(150, End::Stopped)]);
        // Stopped (by the system) past its deadline, the late stop and the late renewal change nothing.
        let late = ["lease 0 a 100", "grant 5 a t:0 1", "stop 300 a t:0 1", "lease 310 a 410"];
        assert_eq!(ends(&[process(&late, None)]), vec![(100, End::Lapsed)]);
        // Without any lease known only a stop or a kill ends it.
        assert_eq!(ends(&[process(&["grant 5 a t:0 1"], None)]), vec![(u64::MAX, End::Open)]);
    }

    #[test]
    fn a_use_after_the_deadline_is_a_belief() {
        let a = process(&["lease 0 a 100", "grant 5 a t:0 1", "use 300 a t:0 1", "stop 301 a t:0 1"], None);
        let b = process(&["lease 110 b 400", "grant 120 b t:0 2"], None);
        assert_eq!(ends(std::slice::from_ref(&a)), vec![(300, End::UsedAfter)]);
        assert!(matches!(&wrong(&[a, b])[..], [Violation::TwoOwners { .. }]));
    }

    #[test]
    fn a_falling_token_and_unfounded_records_fire() {
        let a = process(&["grant 1 a t:0 5", "stop 2 a t:0 5"], None);
        let b = process(&["grant 3 b t:0 5", "stop 4 b t:0 5"], None);
        assert!(matches!(&wrong(&[a, b])[..], [Violation::TokenFell { .. }]));
        assert!(matches!(&wrong(&[process(&["use 3 b t:0 5"], None)])[..], [Violation::Unfounded { .. }]));
        assert!(matches!(&wrong(&[process(&["stop 3 b t:0 5"], None)])[..], [Violation::Unfounded { .. }]));
    }

    #[test]
    fn partitions_are_judged_apart() {
        let a = process(&["grant 1 a t:0 9"], None);
        let b = process(&["grant 2 b t:1 3"], None);
        assert_eq!(wrong(&[a, b]), vec![]);
    }
}
