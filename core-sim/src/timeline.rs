//! A story as one picture: partitions down, time across, owners in colour, faults and decisions as marks. One HTML file that needs nothing else:
//! details are shown by the browser when the mouse is on something.

use crate::plan::Ms;
use baton_invariants::Broken;
use std::{collections::BTreeMap, fmt::Write};

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

const LEFT: f64 = 170.0;
const WIDTH: f64 = 1_400.0;
const ROW: f64 = 20.0;
const TOP: f64 = 60.0;

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
        self.look(now, Vec::new());
        self.broken = broken.map(|b| (now, format!("{}: {}", b.invariant, b.what)));
    }

    /// The file.
    pub fn html(&self, title: &str) -> String {
        let end = self.spans.iter().map(|s| s.to).chain(self.marks.iter().map(|m| m.0)).chain(self.broken.iter().map(|b| b.0)).max().unwrap_or(1).max(1);
        let x = |t: Ms| LEFT + WIDTH * t.min(end) as f64 / end as f64;
        let mut rows: BTreeMap<&str, usize> = self.spans.iter().map(|s| (s.row.as_str(), 0)).collect();
        for (i, n) in rows.values_mut().enumerate() { *n = i; }
        let height = TOP + ROW * rows.len() as f64 + 30.0;
        let mut svg = String::new();
        for step in 0..=10 {
            let t = end * step / 10;
            put(&mut svg, format_args!("<line class=grid x1={0:.1} x2={0:.1} y1={1} y2={2}/><text x={0:.1} y={3}>{4:.1} s</text>", x(t), TOP - 6.0, height - 20.0, height - 4.0, t as f64 / 1e3));
        }
        for (row, i) in &rows {
            put(&mut svg, format_args!("<text x=4 y={:.1}>{}</text>", TOP + ROW * *i as f64 + 13.0, escape(row)));
        }
        for s in &self.spans {
            let (y, w) = (TOP + ROW * rows[s.row.as_str()] as f64, (x(s.to) - x(s.from)).max(1.5));
            let tip = format!("{} has {} under token {}\n{} ms to {} ms ({} ms), then {}", s.who, s.row, s.token, s.from, s.to, s.to - s.from, s.end);
            put(&mut svg, format_args!("<rect x={:.1} y={y} width={w:.1} height={} fill='{}'><title>{}</title></rect>", x(s.from), ROW - 4.0, colour(&s.who), escape(&tip)));
        }
        for (i, (at, what)) in self.marks.iter().enumerate() {
            let y = 8.0 + (i % 5) as f64 * 9.0;
            put(&mut svg, format_args!("<g class=mark><line x1={0:.1} x2={0:.1} y1={y} y2={1}/><circle cx={0:.1} cy={y} r=4 /><title>{at} ms: {2}</title></g>", x(*at), height - 20.0, escape(what)));
        }
        if let Some((at, what)) = &self.broken {
            put(&mut svg, format_args!("<g class=broken><line x1={0:.1} x2={0:.1} y1=0 y2={1}/><title>{at} ms: {2}</title></g>", x(*at), height - 20.0, escape(what)));
        }
        let verdict = self.broken.as_ref().map_or("No invariant was broken.".to_string(), |(at, what)| format!("Broken at {at} ms: {what}"));
        let mut list = String::new();
        for (at, what) in &self.marks { put(&mut list, format_args!("<li>{at} ms: {}</li>", escape(what))); }
        format!(
            "<!doctype html><html lang=en><meta charset=utf-8><title>{0}</title><style>body{{font:13px sans-serif;margin:12px}}svg text{{font-size:11px}}.grid{{stroke:#ddd}}\
             .mark line{{stroke:#0002}}.mark circle{{fill:#444}}.mark:hover line{{stroke:#000}}.mark:hover circle{{fill:#d60}}.broken line{{stroke:#d00;stroke-width:3}}rect:hover{{stroke:#000}}\
             ol{{columns:2;font-size:11px}}</style><h1>{0}</h1><p>{1}</p><p>Partitions down, time across, one colour for each owner; dots are faults and decisions. Point at anything for details.</p>\
             <svg width={2} height={height}>{svg}</svg><ol>{list}</ol></html>\n",
            escape(title), escape(&verdict), LEFT + WIDTH + 20.0
        )
    }
}

fn put(out: &mut String, what: std::fmt::Arguments) {
    // Writing into a String does not fail.
    let _ = out.write_fmt(what);
}
/// The same owner, the same colour.
fn colour(who: &str) -> String {
    let h = who.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    format!("hsl({} {}% {}%)", h % 360, 55 + h / 360 % 30, 45 + h / 11_000 % 25)
}
fn escape(text: &str) -> String { text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&#39;") }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_belief_becomes_a_span_and_text_is_escaped() {
        let mut t = Timeline::default();
        t.look(10, vec![("g <a>:0".into(), "m1".into(), 7)]);
        t.look(20, vec![("g <a>:0".into(), "m1".into(), 7), ("g <a>:0".into(), "m2".into(), 8)]);
        t.mark(15, "leader 1 dies".into());
        t.close(30, Some(&Broken { invariant: "one-believer", what: "m1 & m2".into() }));
        let spans: Vec<(&str, u64, Ms, Ms)> = t.spans.iter().map(|s| (s.who.as_str(), s.token, s.from, s.to)).collect();
        assert_eq!(spans, [("m1", 7, 10, 30), ("m2", 8, 20, 30)]);
        let html = t.html("seed 1");
        assert!(html.contains("g &lt;a&gt;:0") && html.contains("m1 &amp; m2") && html.contains("leader 1 dies") && !html.contains("http"), "{html}");
    }
}
