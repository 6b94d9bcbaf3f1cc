//! Durable writes through the whole API server.

use crate::median;
use serde_json::json;
use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};
use tests::{Cluster, clock, https::Https};

const OBJECTS: usize = 10_000;

pub fn table(cluster: &Cluster) {
    for connections in [1, 16, 64] {
        row(cluster, connections);
    }
}

fn row(cluster: &Cluster, connections: usize) {
    let namespace = format!("bench-{connections}");
    let (next, latencies) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(OBJECTS)));
    let objects = if connections == 1 { OBJECTS / 10 } else { OBJECTS };
    let https = Https::new(cluster, connections);
    let seconds = cluster.netns.enter(|| {
        https.call("POST", "/api/v1/namespaces", Some(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } })));
        let begin = clock::now();
        let worker = || {
            let mut own = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= objects {
                    break;
                }
                let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("c{index}") }, "data": { "k": "v" } });
                let sent = clock::now();
                let (code, answer) = https.call("POST", &format!("/api/v1/namespaces/{namespace}/configmaps"), Some(&object));
                assert_eq!(code, 201, "{answer}");
                own.push(sent.elapsed().as_secs_f64());
            }
            latencies.lock().expect("no worker panics").extend(own);
        };
        std::thread::scope(|scope| (0..connections).for_each(|_| drop(scope.spawn(worker))));
        begin.elapsed().as_secs_f64()
    });
    let mut latencies = latencies.into_inner().expect("no worker panics");
    let p50 = median(&mut latencies);
    let p99 = latencies[latencies.len() * 99 / 100];
    println!(
        "| {connections} | {:.0} | {:.2} ms | {:.2} ms |",
        objects as f64 / seconds,
        p50 * 1e3,
        p99 * 1e3
    );
}
