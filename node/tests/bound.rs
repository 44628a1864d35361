//! What is kept on disk does not grow with the number of commits. The example `million` is the same at full length.
#![cfg(not(madsim))]

#[path = "bound/mod.rs"]
mod bound;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_thousand_commits_leave_a_bounded_log() {
    let folder = std::env::temp_dir().join(format!("baton-bound-{}", std::process::id()));
    let report = bound::run(bound::Plan { folder: folder.clone(), commits: 50_000, segment_bytes: 256 << 10 }).await;
    report.print();
    // It is in the temporary folder: what cannot be removed goes with that.
    let _ = std::fs::remove_dir_all(&folder);
    assert!(report.written > 3 * report.log_bound, "far more went through the log than it may keep: {} of {}", report.written, report.log_bound);
    assert!(report.seen.log <= report.log_bound, "{:?} with a bound of {}", report.seen, report.log_bound);
    assert!(report.seen.all <= report.all_bound, "{:?} with a bound of {}", report.seen, report.all_bound);
}
