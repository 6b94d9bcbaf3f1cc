//! From `apply` to a running container, as a client sees it: POST, then a watch until every pod is Running.

use crate::median;
use serde_json::{Value, json};
use std::time::Duration;
use tests::{Cluster, clock, https::Https};

const ROUNDS: usize = 15;
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

fn stop(https: &Https) {
    https.call("DELETE", &format!("{PODS}?labelSelector=bench&gracePeriodSeconds=0"), None);
    spin_until(|| {
        let (_, list) = https.call("GET", &format!("{PODS}?labelSelector=bench"), None);
        list["items"].as_array().is_some_and(Vec::is_empty)
    });
}

/// Looks every 2 ms: a coarser look would be most of what is measured.
fn spin_until(mut done: impl FnMut() -> bool) {
    let begin = clock::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(120), "the pods do not come");
        clock::pause(Duration::from_millis(2));
    }
}

fn row(cluster: &Cluster, what: &str, count: usize, rounds: usize) {
    let mut seconds: Vec<f64> = cluster.netns.enter(|| {
        let https = Https::new(cluster, 4);
        (0..rounds).map(|_| (start(&https, count), stop(&https)).0).collect()
    });
    let middle = median(&mut seconds);
    let worst = seconds.last().copied().unwrap_or_default();
    println!("| {what} | {:.0} ms | {:.0} ms |", middle * 1e3, worst * 1e3);
}

pub fn one(cluster: &Cluster) {
    row(cluster, "1 pod, apply → running", 1, ROUNDS);
}

pub fn fifty(cluster: &Cluster) {
    row(cluster, "50 pods, apply → all running", 50, 3);
}
