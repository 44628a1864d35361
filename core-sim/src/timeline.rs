//! A story as one picture: partitions down, time across, owners in colour, faults and decisions as marks, and beside it the story in words. One HTML file that needs
//! nothing else; details are shown by the browser when the mouse is on something.
//!
//! Where an invariant was broken, the picture turns to that: the last moments in large, the partition it is about first, and the words that matter for it.

mod chart;
mod page;
mod words;

use crate::plan::Ms;
use baton_invariants::Broken;
use std::{collections::{BTreeMap, BTreeSet}, fmt::Write};

/// A belief: who had a partition, under which token, from when to when.
#[derive(Clone, Debug)]
pub struct Span { pub row: String, pub who: String, pub token: u64, pub from: Ms, pub to: Ms, pub end: String }

/// What is drawn.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    pub spans: Vec<Span>,
    /// When, and what happened.
    pub marks: Vec<(Ms, String)>,
    pub broken: Option<(Ms, String)>,
    open: BTreeMap<(String, String, u64), Ms>,
}

/// What a page says beside its picture.
#[derive(Clone, Debug, Default)]
pub struct About<'a> {
    pub title: String,
    /// The command that plays the same story again.
    pub replay: String,
    /// The bug that was put back on purpose, in words.
    pub bug: Option<String>,
    /// Every line of the story, each with its time (`   120 ms  …` or `  0.120 s  …`). Without it the marks are told.
    pub story: &'a [String],
}

impl Timeline {
    /// Who believes what now: (partition, process, token).
    pub fn look(&mut self, now: Ms, beliefs: Vec<(String, String, u64)>) {
        let mut still = BTreeMap::new();
        for key in beliefs {
            let since = self.open.remove(&key).unwrap_or(now);
            still.insert(key, since);
        }
        for ((row, who, token), from) in std::mem::replace(&mut self.open, still) {
            self.spans.push(Span { row, who, token, from, to: now, end: "stopped, lapsed or died".into() });
        }
    }
    /// Something happened.
    pub fn mark(&mut self, at: Ms, what: String) { self.marks.push((at, what)); }
    /// The story ends here.
    pub fn close(&mut self, now: Ms, broken: Option<&Broken>) {
        let before = self.spans.len();
        self.look(now, Vec::new());
        self.spans[before..].iter_mut().for_each(|s| s.end = "the story ended".into());
        self.broken = broken.map(|b| (now, format!("{}: {}", b.invariant, b.what)));
    }

    /// The file.
    pub fn html(&self, about: &About) -> String { page::page(self, about) }

    fn end(&self) -> Ms { self.spans.iter().map(|s| s.to).chain(self.marks.iter().map(|m| m.0)).chain(self.broken.iter().map(|b| b.0)).max().unwrap_or(1).max(1) }
}

/// What the broken invariant is about.
struct Focus {
    at: Ms,
    /// The name of the invariant, and what was seen.
    invariant: String,
    what: String,
    rows: Vec<String>,
    who: Vec<String>,
    group: Option<String>,
    /// Nodes, and the group or topic, that the sentence names.
    names: Vec<String>,
}

impl Focus {
    fn of(t: &Timeline, lines: &[(Ms, String)]) -> Option<Focus> {
        let (at, text) = t.broken.as_ref()?;
        let (invariant, what) = text.split_once(": ").unwrap_or(("invariant", text));
        // The time is said beside it.
        let what = what.strip_prefix(&format!("at {at} ms ")).unwrap_or(what);
        let rows: BTreeSet<&String> = t.spans.iter().map(|s| &s.row).collect();
        let mut what = what.to_string();
        for r in &rows {
            // Judges write a place as `(g0, a:2)` too.
            what = what.replace(&format!("({})", r.replacen(' ', ", ", 1)), r);
        }
        let what = what.as_str();
        let rows: Vec<String> = rows.into_iter().filter(|r| words::names(what, r)).cloned().collect();
        let group = rows.first().and_then(|r| r.split_once(' ')).map(|(g, _)| g.to_string());
        Some(Focus { at: *at, invariant: invariant.into(), what: what.into(), who: concerned(t, lines, what, &rows, group.as_deref(), *at), rows, group, names: named(what) })
    }
    /// Where the last moments begin: when the latest of those concerned had just come, at least 1.5 s and at most 6 s before.
    fn from(&self, t: &Timeline, lines: &[(Ms, String)]) -> Ms {
        let first = |w: &String| lines.iter().find(|(_, l)| words::names(l, w)).map(|l| l.0).or_else(|| t.spans.iter().filter(|s| s.who == *w).map(|s| s.from).min());
        let latest = self.who.iter().filter_map(first).max().unwrap_or(0);
        self.at.saturating_sub(((self.at.saturating_sub(latest)) * 5 / 4).clamp(1_500, 6_000))
    }
}

/// What a sentence names beside partitions and members: `node 2`, and of a place in quotation marks that is no partition of anybody the part before the slash.
fn named(what: &str) -> Vec<String> {
    let nodes = what.match_indices("node ").filter_map(|(i, _)| what[i + 5..].split(|c: char| !c.is_ascii_digit()).next().filter(|n| !n.is_empty()).map(|n| format!("node {n}")));
    let place = what.split('"').nth(1).and_then(|p| p.split_once('/')).map(|(group, _)| group.to_string());
    nodes.chain(place).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Who a broken invariant is about: by full names; or by the ids of the group's members; or whoever has the partition then, or has just had it.
fn concerned(t: &Timeline, lines: &[(Ms, String)], what: &str, rows: &[String], group: Option<&str>, at: Ms) -> Vec<String> {
    let mut everybody: Vec<&str> = t.spans.iter().map(|s| s.who.as_str()).collect();
    everybody.extend(lines.iter().filter_map(|(_, l)| l.strip_suffix(')').map_or(Some(l.as_str()), |l| l.split_once(" (").map(|x| x.0))?.strip_suffix(" starts")));
    let unique = |who: Vec<&str>| who.into_iter().collect::<BTreeSet<_>>().into_iter().map(String::from).collect::<Vec<_>>();
    let named = unique(everybody.iter().copied().filter(|w| words::names(what, w)).collect());
    if !named.is_empty() {
        return named;
    }
    // Of several processes under one id the one that was last heard of; one that has only just started does not count as heard of.
    let heard = |who: &str| lines.iter().rposition(|(_, l)| words::names(l, who) && !l.contains(" starts"));
    let mut by_id: BTreeMap<&str, (Option<usize>, &str)> = BTreeMap::new();
    for who in everybody.iter().filter(|w| group.is_none_or(|g| w.starts_with(g)) && words::names(what, words::short(w))) {
        let found = (heard(who), *who);
        let best = by_id.entry(words::short(who)).or_insert(found);
        *best = found.max(*best);
    }
    if !by_id.is_empty() {
        return unique(by_id.into_values().map(|(_, who)| who).collect());
    }
    unique(t.spans.iter().filter(|s| rows.contains(&s.row) && s.from <= at && s.to + 1_000 >= at).map(|s| s.who.as_str()).collect())
}

/// One colour for each owner: those concerned first, in colours that are far apart.
struct Colours(BTreeMap<String, &'static str>);
const NEAR: [&str; 4] = ["#1f6fd6", "#f08c00", "#0a9b6b", "#8a4fd0"];
const FAR: [&str; 8] = ["#9ec3ea", "#b9d9a8", "#d9c7f0", "#c9ced6", "#a9dcd6", "#efd9a0", "#e4bcd3", "#bfc6a4"];
impl Colours {
    fn of(t: &Timeline, focus: Option<&Focus>) -> Colours {
        let mut out = BTreeMap::new();
        for (who, colour) in focus.iter().flat_map(|f| &f.who).zip(NEAR) {
            out.insert(who.clone(), colour);
        }
        let mut far = FAR.iter().cycle();
        for s in &t.spans {
            if !out.contains_key(&s.who)
                && let Some(colour) = far.next()
            {
                out.insert(s.who.clone(), colour);
            }
        }
        Colours(out)
    }
    fn get(&self, who: &str) -> &'static str { self.0.get(who).copied().unwrap_or("#c9ced6") }
}

fn put(out: &mut String, what: std::fmt::Arguments) {
    // Writing into a String does not fail.
    let _ = out.write_fmt(what);
}
fn escape(text: &str) -> String { text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;") }
fn seconds(ms: Ms) -> String { format!("{}.{:03}", ms / 1_000, ms % 1_000) }

#[cfg(test)]
mod tests;
