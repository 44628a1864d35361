use super::*;

fn told() -> Timeline {
    let mut t = Timeline::default();
    t.look(10, vec![("g <a>:0".into(), "g/m1#1".into(), 7)]);
    t.look(20, vec![("g <a>:0".into(), "g/m1#1".into(), 7), ("g <a>:0".into(), "g/m1#12".into(), 8)]);
    t.mark(15, "leader Some(1) of term 2: crashes".into());
    t.mark(16, "node 2 decides for g (on 3): m1 joined (joined)".into());
    t.close(30, Some(&Broken { invariant: "one-believer", what: "at 30 ms (g, <a>:0) is believed by g/m1#1 (token 7) and g/m1#12 (token 8)".into() }));
    t
}
fn about(story: &[String]) -> About<'_> { About { title: "Seed 1 & more".into(), replay: "cargo xtask sim replay 1 --bug 3".into(), bug: Some("the bug".into()), story } }

#[test]
fn a_belief_becomes_a_span_and_text_is_escaped() {
    let t = told();
    let spans: Vec<(&str, u64, Ms, Ms)> = t.spans.iter().map(|s| (s.who.as_str(), s.token, s.from, s.to)).collect();
    assert_eq!(spans, [("g/m1#1", 7, 10, 30), ("g/m1#12", 8, 20, 30)]);
    let html = t.html(&about(&[]));
    for has in ["g &lt;a&gt;:0", "Seed 1 &amp; more", "leader crashes", "<code>cargo xtask sim replay 1 --bug 3</code>", "put back on purpose: <i>the bug</i>", "<b>one-believer</b> was broken at 0.030 s: g &lt;a&gt;:0 is believed", "The promise (I2): At any true instant", "two at once"] {
        assert!(html.contains(has), "{has} is missing in {html}");
    }
    assert!(!html.contains("http") && !html.contains("<a>"), "nothing is fetched, nothing unescaped: {html}");
}

/// A value without quotes before `/>` takes the slash with it, and the element swallows the rest of the drawing: seen in a browser.
#[test]
fn every_element_is_closed() {
    let html = told().html(&about(&[]));
    for svg in html.split("<svg").skip(1).filter_map(|s| s.split_once("</svg>")).map(|(s, _)| s) {
        let mut open = Vec::new();
        for tag in svg.split('<').skip(1).filter_map(|s| s.split_once('>')).map(|(tag, _)| tag) {
            let unquoted = tag.split('=').skip(1).any(|v| !v.starts_with('\'') && !v.starts_with('"'));
            assert!(!unquoted, "{tag}");
            match tag.strip_prefix('/') {
                Some(name) => assert_eq!(open.pop(), Some(name), "{tag}"),
                None if tag.ends_with('/') => {}
                None => open.push(tag.split(' ').next().unwrap_or(tag)),
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }
}

#[test]
fn the_words_are_those_that_concern_what_was_broken() {
    let story: Vec<String> = ["     12 ms  node 2 gets #4 of g/m1#1: heartbeat", "     13 ms  node 2 gets #5 of g/m1#11: heartbeat", "  0.014 s  g/m1#12 takes it", "     15 ms  leader Some(1) of term 2: crashes"].map(String::from).to_vec();
    let t = told();
    let focus = Focus::of(&t, &words::lines(&t, &story)).expect("it is broken");
    assert_eq!((focus.rows.as_slice(), focus.who.as_slice()), (["g <a>:0".to_string()].as_slice(), ["g/m1#1".to_string(), "g/m1#12".to_string()].as_slice()));
    let lines = words::lines(&t, &story);
    let at: Vec<Ms> = words::concerned(&lines, &focus, 0).iter().map(|l| l.0).collect();
    assert_eq!(at, [12, 14, 15], "m1#11 is somebody else");
}

#[test]
fn a_story_without_a_broken_invariant_is_drawn_too() {
    let mut t = told();
    t.broken = None;
    assert!(t.html(&about(&[])).contains("No invariant was broken"));
    assert!(Timeline::default().html(&About::default()).contains("<svg"));
}

#[test]
fn lines_are_told_in_words() {
    for (line, told) in [
        ("node 2 gets #4 (copy) of g0/m1#2: heartbeat epoch 8 revision 65 owned Some({a:2, b:0})", "g0/m1#2 to node 2: heartbeat, \u{201c}I own a:2 b:0\u{201d} (epoch 8, revision 65, a copy)"),
        ("node 2 gets #4 of g0/m1#2: heartbeat epoch 8 revision 65 owned None", "g0/m1#2 to node 2: heartbeat, says nothing of what it owns (epoch 8, revision 65)"),
        ("node 2 gets #4 of g0/m1#2: heartbeat epoch 0 revision 0 owned Some({})", "g0/m1#2 to node 2: joins, \u{201c}I own nothing\u{201d} (epoch 0, revision 0)"),
        ("g0/m4#14 takes {a:2: 14050003, b:1: 7} (revision 14050002)", "g0/m4#14 is told: yours is a:2 b:1, no more and no less (revision 14050002)"),
        ("node 2 decides for g0 (on 27): m4 joined (joined)", "node 2 decides: m4 joined"),
        ("node 1 gets #447 of g0/late#13: Commit(Commit { member: Some(..) })", "g0/late#13 to node 1: commits offsets"),
        ("g0/m2#3 hears Some(Unavailable { reason: \"not the leader\" }), is now Steady", "g0/m2#3 is refused: not the leader"),
        ("something else (of another shape)", "something else (of another shape)"),
    ] {
        assert_eq!(words::plain(line), told);
    }
}

#[test]
fn members_that_are_named_by_their_ids_only_are_found() {
    let mut t = told();
    t.broken = Some((30, "one-owner: g <a>:0 is m1's and m6's".into()));
    let lines = [(3, "g/m6#7 starts (zombie: false, predecessor_dead: false)".to_string()), (4, "h/m6#8 starts".to_string())];
    let focus = Focus::of(&t, &lines).expect("it is broken");
    assert_eq!((focus.who, focus.group.as_deref()), (vec!["g/m1#12".to_string(), "g/m6#7".to_string()], Some("g")));
}
