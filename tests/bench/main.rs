//! `make bench`: how fast pods start, how fast images are pulled, how much memory the daemons take, how fast the store writes; beside others, interleaved.
//!
//! `bench pulls [ROUNDS]` measures the pulls alone, `bench pods [ROUNDS]` the pods; `bench order MAP` is for `make order`.
//!
//! Prints Markdown tables of medians. Nothing here passes or fails: the machine decides what the numbers are.
#![forbid(unsafe_code)]

mod goals;
mod images;
mod memory;
mod order;
mod pods;
mod runtime;
mod sample;
mod writes;

use tests::{Cluster, Options};

fn main() {
    tests::require_root();
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.first().map(String::as_str) {
        Some("runtime") => return runtime::measure(&runtime::HOST),
        Some("runtime-in-guest") => return runtime::measure(&runtime::GUEST),
        Some("order") => {
            let map = words.get(1).expect("a map by lld after `order`");
            return runtime::in_namespace(&["order-in-namespace", map]);
        }
        Some("order-in-namespace") => return runtime::order(words[1].as_ref()),
        Some("pods") => return pods::alone(rounds(&words, pods::ROUNDS)),
        Some("pulls") => return images::table(rounds(&words, images::ROUNDS)),
        Some("pulls-in-namespaces") => return images::measure(rounds(&words, images::ROUNDS)),
        Some("guest") => return runtime::guest_table(),
        _ => {}
    }
    println!("## One container that does nothing (medians)\n");
    runtime::in_namespace(&["runtime"]);
    println!("\n### The same in a Debian 13 guest\n");
    runtime::guest_table();
    println!("\n## Pulling an image of 300 MB in eight layers, 800 MB unpacked (medians)\n");
    images::table(images::ROUNDS);
    let cluster = Cluster::start(Options::default());
    let idle = memory::daemons(&cluster);
    pods::table(&cluster, pods::ROUNDS);
    println!("\n## Memory\n\n| process | RSS idle | with 50 pods | of it private |\n|---|---|---|---|");
    memory::table(&cluster, &idle);
    println!(
        "\n## 10,000 ConfigMaps over one pool of HTTPS connections, fsync on\n\n| connections | writes/s | p50 | p99 |\n|---|---|---|---|"
    );
    writes::table(&cluster);
    cluster.down();
}

/// The optional word after the name of a measurement.
fn rounds(words: &[String], usual: usize) -> usize {
    let Some(word) = words.get(1) else { return usual };
    let count = word.parse().ok().filter(|&count| count > 0);
    count.unwrap_or_else(|| panic!("ROUNDS is {word:?}: a number from 1 on is allowed"))
}

/// Median of `values`, which are sorted on the way.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
