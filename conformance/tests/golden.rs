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

/// Conversations in which agreement is claimed, with the least number of steps that must agree. Steps behind a choice that Kafka leaves to a hash map are skipped.
const REPLAYED: [(&str, usize); 2] = [("traces/walk-classic.jsonl", 1_200), ("traces/scripted.jsonl", 130)];

#[test]
fn every_difference_from_kafka_is_explained_by_a_rule() {
    let reports = run(&own_data()).expect("the golden data can be read");
    let text = report::render(&reports);
    println!("{text}");
    assert_eq!(reports.iter().map(|r| r.unexplained).sum::<usize>(), 0, "{text}");
    for (file, least) in REPLAYED {
        let report = reports.iter().find(|r| r.file == file).unwrap_or_else(|| panic!("{file} is missing"));
        assert!(report.agreed >= least, "{file} is hardly compared: {text}");
    }
    for file in COMPARED {
        let report = reports.iter().find(|r| r.file == file).unwrap_or_else(|| panic!("{file} is missing"));
        assert!(report.agreed >= 300 && report.skipped == 0, "{file} is hardly compared: {text}");
        assert!(report.explained <= 3, "so many differences are no exceptions: {text}");
    }
}
