//! Every scenario file comes out as it says, and one that says something else is found.
use baton_coordinator::seeded;
use baton_scenarios::{Played, all, compare, find, name, play, play_text};

#[test]
fn every_file_comes_out_as_it_expects() {
    let files = all().expect("the folder is read");
    assert!(files.len() >= 20, "{} files", files.len());
    let wrong: Vec<String> = files.iter().filter_map(|f| play(f).expect("it is played").difference().map(|d| format!("{}:\n{d}", name(f)))).collect();
    assert!(wrong.is_empty(), "If that is right: cargo xtask scenario --all --bless\n\n{}", wrong.join("\n"));
}

#[test]
fn the_comparison_is_the_table_of_the_file_and_of_the_page() {
    let table = compare::table().expect("the files are played");
    assert_eq!(std::fs::read_to_string(compare::file()).expect("it is there"), table, "If that is right: cargo xtask scenario compare --bless");
    let page = include_str!("../README.md");
    assert!(page.contains(&table), "scenarios/README.md shows another table than:\n{table}");
    for f in all().expect("the folder is read") {
        assert!(page.contains(&format!("`{}`", name(&f))), "scenarios/README.md does not list {}", name(&f));
    }
}

fn changed(from: &str, to: &str) -> Played {
    let path = find("one-by-one").expect("it is there");
    let text = std::fs::read_to_string(path).expect("it is read");
    assert_eq!(text.matches(from).count(), 1, "{from}");
    play_text("one-by-one.scenario", text.replace(from, to)).expect("it is played")
}

#[test]
fn a_changed_expectation_is_a_difference_and_blessing_undoes_it() {
    let played = changed("P3: is C3's", "P3: is C2's");
    let difference = played.difference().expect("it differs");
    assert!(difference.contains("- ") && difference.contains("P3: is C2's") && difference.contains("+ "), "{difference}");
    let blessed = play_text("one-by-one.scenario", played.blessed()).expect("it is played");
    assert_eq!(blessed.difference(), None);
    let original = play(&find("one-by-one").expect("it is there")).expect("it is played");
    assert_eq!(original.blessed(), played.blessed(), "nothing but the block is touched");
}

#[test]
fn a_changed_story_is_a_difference_too() {
    assert!(changed("C2: give-up 2s", "C2: give-up 1s").difference().is_some());
    assert!(changed("at 10s C3 starts", "at 11s C3 starts").difference().is_some());
    assert!(changed("called P1 to P6", "called P0 to P5").difference().is_some());
}

#[test]
fn the_same_file_twice_is_the_same_story() {
    for f in all().expect("the folder is read") {
        assert_eq!(play(&f).expect("it is played").produced, play(&f).expect("it is played").produced);
    }
}

/// What the pictures are for: with members that stop by a deadline no partition is ever worked on twice.
#[test]
fn only_kafka_members_that_are_cut_off_work_on_a_partition_twice() {
    for f in all().expect("the folder is read") {
        let twice = !play(&f).expect("it is played").told.overlaps.is_empty();
        assert_eq!(twice, name(&f) == "session-timeout-kafka", "{}", name(&f));
    }
}

/// The stories are the core's: with a bug put back they come out differently. The numbers are those of `docs/evidence.md`.
#[test]
fn a_bug_that_is_put_back_changes_the_story_that_is_about_it() {
    for (bug, story) in [(2, "one-by-one"), (5, "failover"), (6, "failover"), (17, "held"), (18, "new-partitions"), (21, "regex"), (41, "static-restart")] {
        let path = find(story).expect("it is there");
        seeded::set(bug);
        let played = play(&path);
        let reached = seeded::reached();
        seeded::set(0);
        let differs = played.map_or(true, |p| p.difference().is_some());
        assert!(differs && reached > 0, "bug {bug} does not show in {story}");
    }
}
