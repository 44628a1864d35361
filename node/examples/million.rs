//! One million offset commits through one node, on real files: shows what is kept of them, and fails if it is more than `docs/storage.md` says.
//!
//! `cargo run --release -p baton-node --example million [COMMITS [SEGMENT_KIB [FOLDER]]]`

#[path = "../tests/bound/mod.rs"]
mod bound;

use std::path::PathBuf;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: u64| args.get(i).map_or(default, |a| a.parse().unwrap_or_else(|_| panic!("{a:?} is not a number: million [COMMITS [SEGMENT_KIB [FOLDER]]]")));
    let temporary = std::env::temp_dir().join(format!("baton-million-{}", std::process::id()));
    let folder = args.get(2).map_or(temporary.clone(), PathBuf::from);
    let plan = bound::Plan { folder: folder.clone(), commits: number(0, 1_000_000), segment_bytes: number(1, 1024) << 10 };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime starts");
    let report = runtime.block_on(bound::run(plan));
    report.print();
    if folder == temporary {
        // It is in the temporary folder: what cannot be removed goes with that.
        let _ = std::fs::remove_dir_all(&temporary);
    }
    assert!(report.seen.log <= report.log_bound, "the log grew beyond its bound");
    assert!(report.seen.all <= report.all_bound, "the folder grew beyond its bound");
}
