//! Durable creates in the embedded store: one writer at a time, then many that share fsyncs.

use scheduler::store::{Embedded, Expect, Store, Write};
use std::time::Instant;

const WRITES: usize = 10_000;
const VALUE_BYTES: usize = 600;

#[allow(clippy::disallowed_methods)]
fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("builds");
    for (writers, writes) in [(1, WRITES / 10), (64, WRITES)] {
        let directory = tempfile::tempdir_in(".").expect("makes a directory on a real disk");
        let (mut times, total) = runtime.block_on(async {
            let store = Embedded::open(&directory.path().join("store.redb")).expect("opens");
            let start = Instant::now();
            let mut tasks = tokio::task::JoinSet::new();
            for writer in 0..writers {
                let store = store.clone();
                tasks.spawn(async move {
                    let mut times = Vec::new();
                    for number in 0..writes / writers {
                        let key = format!("/configmaps/default/{writer}-{number}");
                        let write =
                            Write { key, expect: Expect::Absent, value: Some(vec![b'x'; VALUE_BYTES]) };
                        let begun = Instant::now();
                        store.commit(vec![write]).await.expect("commits");
                        times.push(begun.elapsed());
                    }
                    times
                });
            }
            (tasks.join_all().await.concat(), start.elapsed())
        });
        times.sort_unstable();
        let rate = times.len() as f64 / total.as_secs_f64();
        let p99 = times[times.len() * 99 / 100];
        println!(
            "{writers:>3} writers: {rate:>6.0} durable creates/s, p99 {:.1} ms",
            p99.as_secs_f64() * 1e3
        );
    }
}
