//! The stories of the core that CI plays: many, every hundredth of them twice. Here, because the build of the simulated cluster has all that they need.
#![cfg(madsim)]

use baton_chaos_tests::core_sim::batch;

const STORIES: u64 = 20_000;

#[test]
fn twenty_thousand_stories_of_the_core_break_nothing() {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    batch::stories(0..STORIES, 0, jobs).expect("no invariant broken, every story the same when it is played again, every demanded event seen");
}
