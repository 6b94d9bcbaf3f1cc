//! `make bench`: how fast pods start, how much memory the daemons take, how fast the store writes; beside others, interleaved.
//!
//! Prints Markdown tables of medians. Nothing here passes or fails: the machine decides what the numbers are.
#![forbid(unsafe_code)]

mod memory;
mod pods;
mod writes;

use tests::{Cluster, Options};

fn main() {
    tests::require_root();
    let cluster = Cluster::start(Options::default());
    let idle = memory::daemons(&cluster);
    println!(
        "## Starting pods (median and worst; image present)\n\n| what | median | worst |\n|---|---|---|"
    );
    pods::one(&cluster);
    pods::fifty(&cluster);
    println!("\n## Memory\n\n| process | RSS idle | with 50 pods | of it private |\n|---|---|---|---|");
    memory::table(&cluster, &idle);
    println!(
        "\n## 10,000 ConfigMaps over one pool of HTTPS connections, fsync on\n\n| connections | writes/s | p50 | p99 |\n|---|---|---|---|"
    );
    writes::table(&cluster);
    cluster.down();
}

/// Median of `values`, which are sorted on the way.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
