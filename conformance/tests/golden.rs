//! The project's golden data, compared as `cargo xtask golden` does.
use baton_conformance::{own_data, report, run};

/// Files in which agreement is claimed; without the list an empty or skipped file would look like agreement.
const COMPARED: [&str; 6] = [
    "assignors/client-cooperative-sticky.jsonl",
    "assignors/client-range.jsonl",
    "assignors/client-roundrobin.jsonl",
    "assignors/client-sticky.jsonl",
    "assignors/server-range.jsonl",
    "assignors/server-uniform.jsonl",
];

/// Conversations in which agreement is claimed, and how many there are at least.
/// `walk-late` are walks that differed when they were met, with what each of them taught since;
/// `walk-slips` are walks around what the rules `renamed-instance` and `kind-before` are about.
const REPLAYED: [(&str, usize); 7] = [
    ("traces/walk-slips.jsonl", 28), ("traces/walk-late.jsonl", 27),
    ("traces/walk-classic.jsonl", 30), ("traces/scripted.jsonl", 70), ("traces/walk-range.jsonl", 70), ("traces/walk-uniform.jsonl", 40), ("traces/walk-interval.jsonl", 10),
];
/// Rules of the conversations.
const RULES_MAX: usize = 10;

#[test]
fn every_difference_from_kafka_is_explained_by_a_rule() {
    let reports = run(&own_data()).expect("the golden data can be read");
    let text = report::render(&reports);
    println!("{text}");
    for report in &reports {
        assert_eq!(report.unexplained, 0, "{text}");
    }
    for (file, least) in REPLAYED {
        let report = reports.iter().find(|r| r.file == file).unwrap_or_else(|| panic!("{file} is missing"));
        assert!(report.agreed + report.explained >= least, "{file}: {text}");
    }
    let slips = reports.iter().find(|r| r.file == "traces/walk-slips.jsonl").map(|r| r.rules.clone()).unwrap_or_default();
    assert!(slips.get("renamed-instance").is_some_and(|n| *n >= 10) && slips.get("kind-before").is_some_and(|n| *n >= 10), "the walks meet what they are about: {slips:?}");
    let rules: std::collections::BTreeSet<&str> = reports.iter().filter(|r| r.file.starts_with("traces/")).flat_map(|r| r.rules.keys().copied()).collect();
    assert!(rules.len() <= RULES_MAX, "so many rules explain anything: {rules:?}");
    for file in COMPARED {
        let report = reports.iter().find(|r| r.file == file).unwrap_or_else(|| panic!("{file} is missing"));
        assert!(report.agreed >= 300 && report.skipped == 0, "{file} is hardly compared: {text}");
        assert!(report.explained <= 3, "so many differences are no exceptions: {text}");
    }
}
