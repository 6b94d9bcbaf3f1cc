//! From `apply` to a running container, as a client sees it: POST, then a watch until every pod is Running.

use crate::median;
use serde_json::{Value, json};
use std::time::Duration;
use tests::{Cluster, Options, clock, https::Https};

pub const ROUNDS: usize = 15;
const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str) -> Value {
    let container =
        json!({ "name": "main", "image": "wherry.local/hello:latest", "imagePullPolicy": "IfNotPresent" });
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "bench": "yes" } },
        "spec": { "containers": [container], "terminationGracePeriodSeconds": 1 },
    })
}

/// Creates `count` pods and waits until all run; seconds.
fn start(https: &Https, count: usize) -> f64 {
    let begin = clock::now();
    for index in 0..count {
        let (code, answer) = https.call("POST", PODS, Some(&pod(&format!("bench-{index}"))));
        assert_eq!(code, 201, "{answer}");
    }
    let running = || {
        let (_, list) = https.call("GET", &format!("{PODS}?labelSelector=bench"), None);
        list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|pod| pod["status"]["phase"] == "Running")
            .count()
            == count
    };
    spin_until(running);
    begin.elapsed().as_secs_f64()
}

/// Deletes them at once and waits until the API has none; seconds.
fn stop(https: &Https) -> f64 {
    let begin = clock::now();
    https.call("DELETE", &format!("{PODS}?labelSelector=bench&gracePeriodSeconds=0"), None);
    spin_until(|| {
        let (_, list) = https.call("GET", &format!("{PODS}?labelSelector=bench"), None);
        list["items"].as_array().is_some_and(Vec::is_empty)
    });
    begin.elapsed().as_secs_f64()
}

/// Looks every 2 ms: a coarser look would be most of what is measured.
fn spin_until(mut done: impl FnMut() -> bool) {
    let begin = clock::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(120), "the pods do not come");
        clock::pause(Duration::from_millis(2));
    }
}

fn row(cluster: &Cluster, count: usize, rounds: usize) {
    let seconds: Vec<(f64, f64)> = cluster.netns.enter(|| {
        let https = Https::new(cluster, 4);
        (0..rounds).map(|_| (start(&https, count), stop(&https))).collect()
    });
    let (mut starts, mut stops): (Vec<f64>, Vec<f64>) = seconds.into_iter().unzip();
    let pods = if count == 1 { "1 pod".to_owned() } else { format!("{count} pods") };
    for (what, seconds) in [("apply → running", &mut starts), ("delete → gone", &mut stops)] {
        let middle = median(seconds);
        let worst = seconds.last().copied().unwrap_or_default();
        println!("| {pods}, {what} | {:.1} ms | {:.1} ms |", middle * 1e3, worst * 1e3);
    }
}

/// One pod `rounds` times, then fifty.
pub fn table(cluster: &Cluster, rounds: usize) {
    println!(
        "## Starting pods (median and worst; image present)\n\n| what | median | worst |\n|---|---|---|"
    );
    row(cluster, 1, rounds);
    row(cluster, 50, 3);
}

/// The same with a cluster of its own.
pub fn alone(rounds: usize) {
    let cluster = Cluster::start(Options::default());
    table(&cluster, rounds);
    cluster.down();
}
