//! The drawings: the whole story in small, and its last moments in large.

use super::{Colours, Focus, Span, Timeline, escape, put, seconds, words, words::Kind};
use crate::plan::Ms;
use std::collections::BTreeSet;

const WIDTH: f64 = 940.0;
const LEFT: f64 = 84.0;
/// Beyond the end of the last moments: what would go on.
const BEYOND: f64 = 90.0;

/// Time → place.
struct Axis { from: Ms, to: Ms, right: f64, text_until: f64 }
impl Axis {
    fn x(&self, t: Ms) -> f64 { LEFT + (self.right - LEFT) * (t.clamp(self.from, self.to) - self.from) as f64 / (self.to - self.from).max(1) as f64 }
    fn grid(&self, svg: &mut String, top: f64, bottom: f64) {
        let step = [100, 200, 250, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 60_000].into_iter().find(|s| (self.to - self.from) / s <= 10).unwrap_or(120_000);
        let mut t = self.from.next_multiple_of(step);
        while t <= self.to {
            let text = if step < 1_000 { seconds(t)[..seconds(t).len() - 1].to_string() } else { (t / 1_000).to_string() };
            put(svg, format_args!("<line class='grid' x1='{0:.1}' x2='{0:.1}' y1='{top}' y2='{bottom}'/>", self.x(t)));
            if self.x(t) < self.text_until {
                put(svg, format_args!("<text class='axis' x='{0:.1}' y='{1}' text-anchor='middle'>{text} s</text>", self.x(t), bottom + 13.0));
            }
            t += step;
        }
    }
}

fn svg(height: f64, inner: &str) -> String { format!("<svg viewBox='0 0 {WIDTH} {height:.0}' width='100%' role='img'>{inner}</svg>") }

/// Everything that happened, with names only on faults.
pub fn overview(t: &Timeline, focus: Option<&Focus>, colours: &Colours, from: Ms) -> String {
    let axis = Axis { from: 0, to: t.end(), right: WIDTH - 14.0, text_until: WIDTH };
    let mut rows: Vec<&str> = t.spans.iter().map(|s| s.row.as_str()).collect::<BTreeSet<_>>().into_iter().collect();
    rows.sort_by_key(|r| focus.is_some_and(|f| !f.rows.iter().any(|x| x == r)));
    let (top, row) = (52.0, (260.0 / rows.len().max(1) as f64).clamp(7.0, 16.0));
    let bottom = top + row * rows.len() as f64;
    let mut out = String::new();
    if let Some(f) = focus {
        put(&mut out, format_args!("<rect class='last' x='{:.1}' y='{top}' width='{:.1}' height='{:.1}'><title>shown in large above</title></rect>", axis.x(from), (axis.x(f.at) - axis.x(from)).max(3.0), bottom - top));
    }
    axis.grid(&mut out, top, bottom);
    put(&mut out, format_args!("<text class='axis' x='{:.1}' y='{:.1}' text-anchor='end'>partition</text>", LEFT - 6.0, top - 5.0));
    for (i, name) in rows.iter().enumerate() {
        let (y, hot) = (top + row * i as f64, focus.is_some_and(|f| f.rows.iter().any(|x| x == name)));
        if row >= 10.0 || hot {
            put(&mut out, format_args!("<text class='{}' x='{:.1}' y='{:.1}' text-anchor='end'>{}</text>", if hot { "row hot" } else { "row" }, LEFT - 6.0, y + row - 2.0, escape(name)));
        }
        for s in t.spans.iter().filter(|s| s.row == *name) {
            bar(&mut out, s, axis.x(s.from), axis.x(s.to), y + 1.0, row - 2.0, colours);
        }
    }
    let mut lanes = [0.0f64; 3];
    for (at, what) in t.marks.iter().filter(|(_, w)| Kind::of(w) == Kind::Fault) {
        let (x, text) = (axis.x(*at), words::label(what));
        let wide = text.chars().count() as f64 * 5.4 + 10.0;
        let lane = lanes.iter().position(|end| *end <= x).filter(|_| x + wide < WIDTH);
        let tip = escape(&format!("{} s: {}", seconds(*at), words::plain(what)));
        put(&mut out, format_args!("<g class='fault'><line x1='{x:.1}' x2='{x:.1}' y1='{}' y2='{bottom}'/><circle cx='{x:.1}' cy='{}' r='3'/>", top - 4.0, top - 4.0));
        if let Some(lane) = lane {
            lanes[lane] = x + wide;
            put(&mut out, format_args!("<text x='{:.1}' y='{:.1}'>{}</text>", x + 3.0, 12.0 + lane as f64 * 13.0, escape(&text)));
        }
        put(&mut out, format_args!("<title>{tip}</title></g>"));
    }
    if let Some(f) = focus {
        put(&mut out, format_args!("<line class='moment' x1='{0:.1}' x2='{0:.1}' y1='{1}' y2='{2}'/>", axis.x(f.at), top - 10.0, bottom));
    }
    svg(bottom + 20.0, &out)
}

fn bar(out: &mut String, s: &Span, x: f64, to: f64, y: f64, h: f64, colours: &Colours) {
    let tip = format!("{} believes that it has {}\nfrom {} s to {} s ({} ms), then: {}\nfencing token {}", s.who, s.row, seconds(s.from), seconds(s.to), s.to - s.from, s.end, s.token);
    put(out, format_args!("<rect class='bar' x='{x:.1}' y='{y:.1}' width='{:.1}' height='{h:.1}' rx='2' fill='{}'><title>{}</title></rect>", (to - x).max(1.5), colours.get(&s.who), escape(&tip)));
}

/// The last moments before an invariant was broken: the group that it is about, and numbers that the words beside it have too.
pub fn last_moments(t: &Timeline, f: &Focus, colours: &Colours, from: Ms, told: &[(Ms, String)]) -> String {
    let axis = Axis { from, to: f.at.max(from + 1), right: WIDTH - BEYOND, text_until: WIDTH - 230.0 };
    let mut out = String::new();
    let (flags, lanes) = flags(told, &axis);
    let top = 14.0 + 20.0 * lanes as f64;
    let rows = rows(t, f, from);
    let height = |r: &str| if f.rows.iter().any(|x| x == r) { 58.0 } else { 19.0 };
    let bottom = top + rows.iter().map(|r| height(r)).sum::<f64>();
    axis.grid(&mut out, top, bottom);
    put(&mut out, format_args!("<text class='axis' x='{:.1}' y='{:.1}' text-anchor='end'>partition</text>", LEFT - 6.0, top - 5.0));
    put(&mut out, format_args!("<rect class='beyond' x='{:.1}' y='{top}' width='{BEYOND}' height='{:.1}'/>", axis.right, bottom - top));
    let mut y = top;
    for row in &rows {
        let (h, hot) = (height(row), f.rows.contains(row));
        if hot {
            put(&mut out, format_args!("<rect class='hotrow' x='0' y='{y:.1}' width='{WIDTH}' height='{h:.1}'/>"));
        }
        put(&mut out, format_args!("<text class='{}' x='{:.1}' y='{:.1}' text-anchor='end'>{}</text>", if hot { "row hot" } else { "row" }, LEFT - 6.0, y + h / 2.0 + 4.0, escape(row)));
        believers(&mut out, t, f, row, &axis, y + 2.0, h - 4.0, colours);
        y += h;
    }
    out.push_str(&flags);
    let x = axis.x(f.at);
    put(&mut out, format_args!("<line class='moment' x1='{x:.1}' x2='{x:.1}' y1='4' y2='{bottom}'/><text class='momenttext' x='{:.1}' y='{:.1}' text-anchor='end'>{} broken, {} s</text>", WIDTH - 2.0, bottom + 13.0, escape(&f.invariant), seconds(f.at)));
    svg(bottom + 20.0, &out)
}

/// The rows of the group concerned: the partition itself first, at most 12.
fn rows(t: &Timeline, f: &Focus, from: Ms) -> Vec<String> {
    let near = |s: &&Span| s.to >= from && s.from <= f.at && f.group.as_ref().is_none_or(|g| s.row.split(' ').next() == Some(g));
    let others: BTreeSet<&String> = t.spans.iter().filter(near).map(|s| &s.row).filter(|r| !f.rows.contains(r)).collect();
    f.rows.iter().chain(others).take(12).cloned().collect()
}

/// Who believes, one below the other where two do at once. Whoever still does at the end would go on.
#[allow(clippy::too_many_arguments)] // a place on the drawing
fn believers(out: &mut String, t: &Timeline, f: &Focus, row: &str, axis: &Axis, y: f64, h: f64, colours: &Colours) {
    let mut spans: Vec<&Span> = t.spans.iter().filter(|s| s.row == row && s.to >= axis.from && s.from <= f.at).collect();
    spans.sort_by_key(|s| (s.from, s.to));
    let mut lanes: Vec<(Ms, &str)> = Vec::new();
    let mut placed = Vec::new();
    for s in &spans {
        let lane = lanes.iter().position(|(to, who)| *to <= s.from && (*to < f.at || *who == s.who)).unwrap_or(lanes.len());
        if lane == lanes.len() { lanes.push((s.to, &s.who)) } else { lanes[lane] = (s.to, &s.who) }
        placed.push(lane);
    }
    let each = h / lanes.len().max(1) as f64;
    for (s, lane) in spans.iter().zip(placed) {
        let goes_on = s.to >= f.at;
        let (x, to) = (axis.x(s.from), if goes_on { WIDTH - 4.0 } else { axis.x(s.to) });
        let y = y + each * lane as f64;
        bar(out, s, x, to, y + 1.0, each - 2.0, colours);
        let text = if goes_on && to - x < 220.0 { words::short(&s.who).to_string() } else { format!("{} (token {})", s.who, s.token) };
        if to - x > text.chars().count() as f64 * 6.0 + 8.0 && each >= 13.0 {
            put(out, format_args!("<text class='in' x='{:.1}' y='{:.1}'>{}</text>", x + 5.0, y + each / 2.0 + 4.0, escape(&text)));
        }
    }
    if lanes.len() > 1 && f.rows.iter().any(|r| r == row) {
        put(out, format_args!("<text class='two' x='{:.1}' y='{:.1}' text-anchor='end'>two at once</text>", WIDTH - 8.0, y + h / 2.0 + 4.0));
    }
}

/// A number over the time of each thing told; so many lanes.
fn flags(told: &[(Ms, String)], axis: &Axis) -> (String, usize) {
    let (mut out, mut lanes): (String, Vec<f64>) = (String::new(), Vec::new());
    for (i, (at, what)) in told.iter().enumerate() {
        let x = axis.x(*at);
        let lane = lanes.iter().position(|end| *end <= x).unwrap_or(lanes.len());
        if lane == lanes.len() { lanes.push(x + 19.0) } else { lanes[lane] = x + 19.0 }
        let y = 12.0 + 20.0 * lane as f64;
        let tip = escape(&format!("{}. {} s: {}", i + 1, seconds(*at), words::plain(what)));
        put(&mut out, format_args!("<g class='flag {}'><line x1='{x:.1}' x2='{x:.1}' y1='{y}' y2='2000'/><circle cx='{x:.1}' cy='{y}' r='9'/><text x='{x:.1}' y='{:.1}' text-anchor='middle'>{}</text><title>{tip}</title></g>", Kind::of(what).class(), y + 4.0, i + 1));
    }
    (out, lanes.len().max(1))
}
