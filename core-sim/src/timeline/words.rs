//! The story in words: which lines there are, of what kind each is, and which of them belong to what was broken.

use super::{Focus, Timeline};
use crate::plan::Ms;

/// What a line tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind { /** Done to the cluster or its members. */ Fault, /** The coordinator has decided. */ Decision, /** A request, an answer. */ Message, /** A member did something by itself. */ Member }
impl Kind {
    pub fn of(line: &str) -> Kind {
        let says = |words: &[&str]| words.iter().any(|w| line.contains(w));
        if says(&["decides", "meta revision", " leads shard "]) {
            Kind::Decision
        } else if says(&["crash", "cut off", "killed", "loses touch", "hands over", "act:", "pause", "slow", " dies (", " is put back "]) {
            Kind::Fault
        } else if says(&[" gets #", " hears "]) {
            Kind::Message
        } else {
            Kind::Member
        }
    }
    pub fn class(self) -> &'static str {
        match self {
            Kind::Fault => "fault",
            Kind::Decision => "decision",
            Kind::Message => "message",
            Kind::Member => "member",
        }
    }
}

/// Whether a text has this name, and not a longer one that begins or ends with it.
pub fn names(text: &str, name: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    !name.is_empty() && text.match_indices(name).any(|(i, _)| !part(text[..i].chars().next_back()) && !part(text[i + name.len()..].chars().next()))
}

/// All lines with their times: of the story, else the marks.
pub fn lines(t: &Timeline, story: &[String]) -> Vec<(Ms, String)> {
    if story.is_empty() { t.marks.clone() } else { story.iter().filter_map(|l| line(l)).collect() }
}
/// `   120 ms  what` or `  0.120 s  what`.
fn line(l: &str) -> Option<(Ms, String)> {
    let (time, rest) = l.trim_start().split_once(' ')?;
    let (unit, what) = rest.split_once("  ")?;
    match unit {
        "ms" => Some((time.parse().ok()?, what.into())),
        "s" => Some(((time.parse::<f64>().ok()? * 1e3).round() as Ms, what.into())),
        _ => None,
    }
}

/// The most lines that a reader should have to read.
const MOST: usize = 24;

/// The lines from `from` on that matter for what was broken, as many as can be read: of those concerned, and of the leader.
pub fn concerned(lines: &[(Ms, String)], focus: &Focus, from: Ms) -> Vec<(Ms, String)> {
    let in_group = |l: &str| focus.group.as_ref().is_none_or(|g| names(l, g));
    let mine = |l: &str| {
        let by_id = || in_group(l) && focus.who.iter().any(|w| names(l, short(w)));
        let leader = || (Kind::of(l) == Kind::Fault && l.contains("leader")) || l.contains(" leads shard ") || l.contains(" dies (");
        // Of no member: what was done to the cluster, who leads, and what names the place or the node.
        let cluster = || focus.who.is_empty() && (Kind::of(l) == Kind::Fault || l.contains(" leads shard ") || focus.names.iter().any(|n| names(l, n)));
        focus.who.iter().any(|w| names(l, w)) || cluster() || leader() || (Kind::of(l) == Kind::Decision && by_id())
    };
    let all: Vec<&(Ms, String)> = lines.iter().filter(|(at, l)| *at >= from && *at <= focus.at && !l.starts_with("BROKEN") && mine(l)).collect();
    all[all.len().saturating_sub(MOST)..].iter().map(|x| (*x).clone()).collect()
}
/// `m1` of `g0/m1#2`.
pub fn short(who: &str) -> &str {
    let id = who.rsplit_once('/').map_or(who, |(_, id)| id);
    id.split_once('#').map_or(id, |(id, _)| id)
}

/// In words, without what only a programmer reads. A line of a shape that is not known stays as it is.
pub fn plain(line: &str) -> String {
    if let Some(said) = heartbeat(line).or_else(|| asked(line)).or_else(|| taken(line)).or_else(|| refused(line)).or_else(|| decided(line)) {
        return said;
    }
    let mut l = line.replace(" (zombie: false, predecessor_dead: false)", "").replace("zombie: true", "ignores its deadline on purpose");
    l = l.replace("zombie: false, predecessor_dead: true", "its operator says that its predecessor is dead").replace(", predecessor_dead: false", "");
    l.replace("leader Some(", "leader (node ").replace("hears Some(", "hears (")
}
/// `node 2 gets #4 (copy) of g0/m1#2: heartbeat epoch 8 revision 6540000 owned Some({a:2})`
fn heartbeat(line: &str) -> Option<String> {
    let (node, rest) = line.strip_prefix("node ")?.split_once(" gets #")?;
    let (copy, rest) = rest.split_once(" of ")?;
    let (who, rest) = rest.split_once(": heartbeat epoch ")?;
    let (epoch, rest) = rest.split_once(" revision ")?;
    let (revision, owned) = rest.split_once(" owned ")?;
    let owned = match owned.strip_prefix("Some({").and_then(|o| o.split_once("})")) {
        Some(("", _)) => "\u{201c}I own nothing\u{201d}".to_string(),
        Some((owned, _)) => format!("\u{201c}I own {}\u{201d}", owned.replace(',', "")),
        None => "says nothing of what it owns".into(),
    };
    let (what, copy) = (if epoch == "0" { "joins" } else { "heartbeat" }, if copy.contains("copy") { ", a copy" } else { "" });
    Some(format!("{who} to node {node}: {what}, {owned} (epoch {epoch}, revision {revision}{copy})"))
}
/// `node 1 gets #447 of g0/m1#2: Commit(…)`
fn asked(line: &str) -> Option<String> {
    let (node, rest) = line.strip_prefix("node ")?.split_once(" gets #")?;
    let (who, what) = rest.split_once(" of ")?.1.split_once(": ")?;
    let what = match what.split([' ', '(']).next()? {
        "Commit" => "commits offsets",
        "FetchOffsets" => "asks for offsets",
        "Leave" => "leaves",
        _ => return None,
    };
    Some(format!("{who} to node {node}: {what}"))
}
/// `g0/m2#3 hears Some(Unavailable { reason: "not the leader" }), is now Steady`
fn refused(line: &str) -> Option<String> {
    let (who, rest) = line.split_once(" hears Some(")?;
    let (what, _) = rest.rsplit_once("), is now ")?;
    let why = what.split_once("reason: \"").and_then(|(_, r)| r.split_once('"')).map_or(what, |(r, _)| r);
    Some(format!("{who} is refused: {why}"))
}
/// `g0/m4#14 takes {a:2: 14050003} (revision 14050002)`
fn taken(line: &str) -> Option<String> {
    let (who, rest) = line.split_once(" takes {")?;
    let (tokens, revision) = rest.split_once("} (revision ")?;
    let parts: Vec<&str> = tokens.split(", ").filter_map(|p| p.rsplit_once(": ").map(|(p, _)| p)).collect();
    let has = if parts.is_empty() { "nothing".to_string() } else { parts.join(" ") };
    Some(format!("{who} is told: yours is {has}, no more and no less (revision {revision}"))
}
/// `node 2 decides for g0 (on 27): m4 joined (joined)`
fn decided(line: &str) -> Option<String> {
    let (node, rest) = line.strip_prefix("node ")?.split_once(" decides for ")?;
    let (_, what) = rest.split_once("): ")?;
    let what = what.rsplit_once(" (").map_or(what, |(w, _)| w);
    Some(format!("node {node} decides: {what}"))
}

/// What fits over a mark: `m3 cut off`, `leader crashes`.
pub fn label(line: &str) -> String {
    let l = plain(line);
    let who = if l.contains("leader") { "leader" } else { l.split(' ').next().unwrap_or("") };
    let what = ["crashes", "hands over", "loses touch", "is killed", "is cut off"].into_iter().find(|w| l.contains(w));
    match what {
        Some(what) => format!("{who} {what}").replace(" is ", " "),
        None => {
            // An act of the simulated cluster has its kind first: what else it is stands where the mouse points.
            let what = l.trim_start_matches("act: ");
            what.split_once(": ").map_or(what, |(kind, _)| kind).chars().take(48).collect()
        }
    }
}
