//! The page around the drawings.

use super::{About, Colours, Focus, Timeline, chart, escape, put, seconds, words, words::Kind};
use crate::plan::Ms;
use std::collections::BTreeSet;

const STYLE: &str = "body{font:14px/1.4 system-ui,sans-serif;margin:16px 20px;color:#1c2733;max-width:1460px}h1{font-size:20px;margin:0 0 8px}h2{font-size:15px;margin:14px 0 4px}\
.verdict{border-left:6px solid #d21f1f;background:#fdeeee;padding:8px 14px;margin:0 0 8px}.verdict.fine{border-color:#2b9348;background:#eef8f0}.verdict b{color:#b01010}.fine b{color:#1e6b34}\
code{background:#f0f2f5;padding:1px 5px;border-radius:3px;font-size:13px}.two-panes{display:grid;grid-template-columns:minmax(0,1fr) 420px;gap:22px}\
.legend{font-size:12px;color:#445;margin:6px 0}.legend span{white-space:nowrap;margin-right:12px}.swatch{display:inline-block;width:22px;height:11px;border-radius:2px;vertical-align:-1px;margin-right:4px}\
.dot{display:inline-block;width:12px;height:12px;border-radius:6px;vertical-align:-2px;margin-right:4px}\
svg{display:block;max-width:1100px}svg text{font-size:11px;fill:#334}.grid{stroke:#e4e7eb}.axis{fill:#778!important}.row{font-size:11px}.row.hot{font-weight:700;fill:#b01010!important;font-size:12px!important}\
.hotrow{fill:#fff4d6}.beyond{fill:#f3f4f6}.last{fill:#fff0c2;stroke:#e2c66a}.bar{stroke:#fff;stroke-width:.6}.bar:hover{stroke:#000;stroke-width:1.6}.in{fill:#fff!important;font-weight:600;pointer-events:none;paint-order:stroke;stroke:#0006;stroke-width:2px}\
.moment{stroke:#d21f1f;stroke-width:3}.momenttext,.two{fill:#b01010!important;font-weight:700}.two{paint-order:stroke;stroke:#fff;stroke-width:4px;font-size:12px!important}\
.fault line{stroke:#d21f1f55}.fault circle{fill:#d21f1f}.fault text{fill:#a11!important;font-size:10px!important}.fault:hover line{stroke:#d21f1f}\
.flag line{stroke:#0001}.flag:hover line{stroke:#000}.flag text{fill:#fff;font-weight:700;font-size:10px}.flag.fault circle,.dot.fault,.n.fault{fill:#d21f1f;background:#d21f1f}.flag.decision circle,.dot.decision,.n.decision{fill:#3d4f66;background:#3d4f66}\
.flag.message circle,.dot.message,.n.message{fill:#8795a8;background:#8795a8}.flag.member circle,.dot.member,.n.member{fill:#2b9348;background:#2b9348}.flag.fault text{fill:#fff!important}\
ol.words{list-style:none;padding:0;margin:0;font-size:12.5px}ol.words li{padding:2px 0 2px 92px;text-indent:-92px;overflow-wrap:anywhere}ol.words .n{display:inline-block;text-indent:0;width:20px;border-radius:9px;color:#fff;font-size:10px;font-weight:700;text-align:center;margin-right:6px}\
ol.words .t{display:inline-block;text-indent:0;width:62px;color:#667;font-variant-numeric:tabular-nums}ol.words b{padding:0 3px;border-radius:3px;color:#fff}.end{color:#b01010;font-weight:700}details{margin-top:14px;font-size:12px}details ol{columns:2}";

/// The whole file.
pub fn page(t: &Timeline, about: &About) -> String {
    let lines = words::lines(t, about.story);
    let focus = Focus::of(t, &lines);
    let colours = Colours::of(t, focus.as_ref());
    let from = focus.as_ref().map_or(0, |f| f.from(t, &lines));
    let told = focus.as_ref().map(|f| words::concerned(&lines, f, from)).unwrap_or_default();
    let mut out = format!("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{0}</title><style>{STYLE}</style><h1>{0}</h1>{1}", escape(&about.title), verdict(focus.as_ref(), about));
    match &focus {
        Some(f) => {
            let large = chart::last_moments(t, f, &colours, from, &told);
            put(&mut out, format_args!("<div class=\"two-panes\"><div><h2>The last moments{}</h2>{}{large}", f.group.as_ref().map(|g| format!(" of group {}", escape(g))).unwrap_or_default(), legend(t, f, &colours, from)));
            put(&mut out, format_args!("<h2>The whole story (yellow: the part above)</h2>{}</div><div><h2>What happened</h2>{}</div></div>", chart::overview(t, Some(f), &colours, from), list(&told, f, &colours)));
        }
        None => put(&mut out, format_args!("<p class=\"legend\">Partitions down, time across, one colour for each owner; red: faults. Point at anything for details.</p>{}", chart::overview(t, None, &colours, 0))),
    }
    put(&mut out, format_args!("<details><summary>Every fault and decision, {} in all</summary><ol>", t.marks.len()));
    for (at, what) in &t.marks {
        put(&mut out, format_args!("<li>{} s: {}</li>", seconds(*at), escape(&words::plain(what))));
    }
    out.push_str("</ol></details></html>\n");
    out
}

fn verdict(focus: Option<&Focus>, about: &About) -> String {
    let bug = about.bug.as_ref().map(|b| format!("<br>A bug was put back on purpose: <i>{}</i>.", escape(b))).unwrap_or_default();
    let replay = if about.replay.is_empty() { String::new() } else { format!("<br>The same story again: <code>{}</code>", escape(&about.replay)) };
    match focus {
        Some(f) => format!("<p class=\"verdict\"><b>{}</b> was broken at {} s: {}.{}{bug}{replay}</p>", escape(&f.invariant), seconds(f.at), escape(&f.what), meaning(&f.invariant)),
        None => format!("<p class=\"verdict fine\"><b>No invariant was broken.</b>{bug}{replay}</p>"),
    }
}

/// What an invariant promises, for those who do not know its name.
fn meaning(invariant: &str) -> String {
    baton_invariants::names::find(invariant).map(|i| format!("<br>The promise ({}): {}", i.number, escape(&i.statement.replace('*', "")))).unwrap_or_default()
}

fn legend(t: &Timeline, f: &Focus, colours: &Colours, from: Ms) -> String {
    let near = |s: &&super::Span| s.to >= from && s.from <= f.at && f.group.as_ref().is_none_or(|g| s.row.split(' ').next() == Some(g));
    let others: BTreeSet<&String> = t.spans.iter().filter(near).map(|s| &s.who).filter(|w| !f.who.contains(w)).collect();
    let mut out = String::from("<p class=\"legend\">A bar: this member believes that the partition is its own. Nothing: nobody does. ");
    for who in f.who.iter().chain(others) {
        let name = if f.who.contains(who) { format!("<b>{}</b>", escape(who)) } else { escape(who) };
        put(&mut out, format_args!("<span><i class=\"swatch\" style=\"background:{}\"></i>{name}</span> ", colours.get(who)));
    }
    for (kind, what) in [(Kind::Fault, "fault"), (Kind::Decision, "decision of the coordinator"), (Kind::Message, "request or answer"), (Kind::Member, "a member's doing")] {
        put(&mut out, format_args!("<span><i class=\"dot {}\"></i>{what}</span> ", kind.class()));
    }
    out.push_str("The numbers are those of the words beside. Point at anything for details.</p>");
    out
}

fn list(told: &[(Ms, String)], f: &Focus, colours: &Colours) -> String {
    let mut out = String::from("<ol class=\"words\">");
    for (i, (at, what)) in told.iter().enumerate() {
        put(&mut out, format_args!("<li><span class=\"n {}\">{}</span><span class=\"t\">{} s</span> {}</li>", Kind::of(what).class(), i + 1, seconds(*at), coloured(&words::plain(what), f, colours)));
    }
    put(&mut out, format_args!("<li class=\"end\"><span class=\"n fault\">!</span><span class=\"t\">{} s</span> {}: {}</li></ol>", seconds(f.at), escape(&f.invariant), coloured(&f.what, f, colours)));
    out
}

/// The names of those concerned in their colours.
fn coloured(text: &str, f: &Focus, colours: &Colours) -> String {
    // Longest first, so that no name is found inside of another.
    let mut who: Vec<&String> = f.who.iter().collect();
    who.sort_by_key(|w| std::cmp::Reverse(w.len()));
    let mut out = escape(text);
    for w in who {
        if words::names(text, w) {
            out = out.replace(&escape(w), &format!("<b style=\"background:{}\">{}</b>", colours.get(w), escape(w)));
        }
    }
    out
}
