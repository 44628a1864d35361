use super::*;

const GOOD: &str = "A title\n\nWords.\nMore words.\n\nsetup\n  # a comment\n  topic t has 2 partitions, called P1 to P2\n  group consumer.session.timeout.ms 6000\n  every member: topics t, give-up 50ms\n  C1, C2: consumer\n\nsteps\n  at 0s   C1 and C2 start\n  at 1.5s C2 is cut off\n  until 3s\n\nexpect\n  x\n";

fn mistake(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    parse("f.scenario", &GOOD.replace(from, to)).expect_err("it has a mistake").to_string()
}

#[test]
fn a_file_is_read() {
    let s = parse("f.scenario", GOOD).expect("it is right");
    assert_eq!((s.title.as_str(), s.about.as_str(), s.end, s.expect.as_str()), ("A title", "Words.\nMore words.", 3_000, "  x\n"));
    assert_eq!(s.steps.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 0, 1_500]);
    assert_eq!((s.setup.members["C2"].give_up_ms, s.setup.members["C2"].protocol, s.setup.settings[&Setting::SessionTimeout]), (50, Protocol::Consumer, 6_000));
    assert_eq!(s.setup.topics, [Topic { name: "t".into(), partitions: 2, called: Some(("P".into(), 1)) }]);
}

#[test]
fn a_mistake_names_file_line_and_what_was_expected() {
    for (from, to, says) in [
        ("P1 to P2", "P1 to P3", "f.scenario:8: expected P2, since there are 2 partitions, found \"P3 (in: topic t has 2 partitions, called P1 to P3)\""),
        ("has 2 partitions", "has two partitions", "f.scenario:8: expected the number of partitions, a whole number, found \"two (in"),
        ("consumer.session.timeout.ms 6000", "session.timeout 6000", "f.scenario:9: expected one of the settings consumer.session.timeout.ms, "),
        ("consumer.session.timeout.ms 6000", "consumer.session.timeout.ms 60", "f.scenario:9: expected a value from 3000 to 1800000"),
        ("give-up 50ms", "give-up soon", "f.scenario:10: expected a time such as 200ms, 3s, 1.5s or 2min, found \"soon\""),
        ("C1, C2: consumer", "C1, C2: eager", "f.scenario:11: expected http, consumer or classic, or one of: topics,"),
        ("C1, C2: consumer", "C1, C2: strategies best", "f.scenario:11: expected strategies out of range, roundrobin, sticky, cooperative-sticky, found \"best\""),
        ("C1 and C2 start", "C1 and C3 start", "f.scenario:14: expected a member of the setup (C1, C2), `topic …` or `the coordinator fails over`, found \"C3"),
        ("C2 is cut off", "C2 is cut", "f.scenario:15: expected `off`, found \"nothing (after: at 1.5s C2 is cut)\""),
        ("C2 is cut off", "C2 explodes", "f.scenario:15: expected start(s), leave(s)"),
        ("C2 is cut off", "C2 leaves now", "f.scenario:15: expected the end of the line, found \"now (in"),
        ("at 0s ", "at 2s ", "f.scenario:15: expected a time that is not before the step above"),
        ("  until 3s\n", "", "expected a last step `until TIME`, such as `until 30s`"),
        ("steps\n", "step\n", "f.scenario:13: expected `topic NAME has N partitions`"),
        ("topics t, ", "", "f.scenario:11: expected `topics NAME …` or `regex EXPRESSION`, found \"a member without a subscription\""),
    ] {
        let said = mistake(from, to);
        assert!(said.contains(says), "{said}\n  instead of\n{says}");
    }
}
