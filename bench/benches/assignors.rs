//! The same groups under criterion, for comparing two states of the code: `cargo bench -p baton-bench`.

use baton_bench::{Event, SIZES, Subscriptions, assignors, group};
use criterion::{Criterion, criterion_group, criterion_main};
use std::{hint::black_box, time::Duration};

fn all(c: &mut Criterion) {
    for assignor in assignors() {
        for size in SIZES {
            for subscriptions in Subscriptions::ALL {
                for event in Event::ALL {
                    let spec = group(assignor, size, subscriptions, event);
                    c.bench_function(&format!("{}/{size}/{}/{}", assignor.name(), subscriptions.name(), event.name()), |b| b.iter(|| assignor.assign(black_box(&spec))));
                }
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = all
}
criterion_main!(benches);
