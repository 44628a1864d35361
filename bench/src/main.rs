//! `cargo run --release -p baton-bench [-- RUNS]`: a table of every assignor, size, subscription and event: least and median time of so many runs, and the
//! most memory that one run needed beyond its input.

use baton_bench::{Event, SIZES, Subscriptions, assignors, group, input, memory};
use baton_coordinator::assign::assign;
use std::{hint::black_box, time::Instant};

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

fn main() {
    let runs: usize = match std::env::args().nth(1).map(|a| a.parse()) {
        None => 15,
        Some(Ok(n)) if n > 0 => n,
        Some(_) => {
            eprintln!("usage: baton-bench [RUNS], RUNS at least 1");
            std::process::exit(2);
        }
    };
    println!("| assignor | members × topics × partitions | subscriptions | event | least ms | median ms | memory MiB |\n| --- | --- | --- | --- | --- | --- | --- |");
    for assignor in assignors() {
        for size in SIZES {
            for subscriptions in Subscriptions::ALL {
                for event in Event::ALL {
                    let spec = group(assignor, size, subscriptions, event);
                    line(runs, &format!("{} | {size} | {} | {}", assignor.name(), subscriptions.name(), event.name()), || assignor.assign(black_box(&spec)));
                }
            }
        }
    }
    for size in SIZES {
        for subscriptions in [Subscriptions::Same, Subscriptions::RandomTenth] {
            let input = input(size, subscriptions);
            line(runs, &format!("uniform, from and to names | {size} | {} | initial", subscriptions.name()), || assign("uniform", black_box(&input)));
        }
    }
}

/// Measures the memory of one run, then the time of `runs`.
fn line<T>(runs: usize, what: &str, run: impl Fn() -> T) {
    let (_, peak) = memory::peak_of(|| black_box(run()));
    let mut times: Vec<f64> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            let out = black_box(run());
            let elapsed = start.elapsed();
            drop(out);
            elapsed.as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("| {what} | {:.3} | {:.3} | {:.2} |", times[0], times[runs / 2], peak as f64 / f64::from(1 << 20));
}
