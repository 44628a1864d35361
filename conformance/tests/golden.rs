//! The project's golden data, compared as `cargo xtask golden` does.
use baton_conformance::{own_data, report, run};

#[test]
fn every_difference_from_kafka_is_explained_by_a_rule() {
    let reports = run(&own_data()).expect("the golden data can be read");
    let text = report::render(&reports);
    println!("{text}");
    assert!(reports.iter().map(|r| r.unexplained).sum::<usize>() == 0, "{text}");
}
