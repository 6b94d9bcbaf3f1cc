//! Resident memory of every daemon, and of one monitor per pod; conmon beside it.

use crate::median;
use serde_json::json;
use std::{fs, process::Command};
use tests::{Cluster, clock, https::Https};

/// (RSS, private) of a process, KiB, from smaps_rollup.
fn memory(pid: i32) -> Option<(f64, f64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let field = |name: &str| -> f64 {
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok()).sum()
    };
    Some((field("Rss:"), field("Private_Clean:") + field("Private_Dirty:")))
}

fn monitors(cluster: &Cluster) -> Vec<i32> {
    let pods = fs::read_dir(cluster.dir.join("run/pods")).into_iter().flatten().flatten();
    pods.filter_map(|pod| fs::read_to_string(pod.path().join("monitor.lock")).ok()?.trim().parse().ok())
        .collect()
}

const DAEMONS: [&str; 3] = ["scheduler", "agent", "netd"];

/// (RSS, private) of every daemon, KiB.
pub fn daemons(cluster: &Cluster) -> [(f64, f64); 3] {
    DAEMONS.map(|name| cluster.daemon(name).and_then(memory).unwrap_or_default())
}

/// `idle`: what the daemons took before anything ran.
pub fn table(cluster: &Cluster, idle: &[(f64, f64); 3]) {
    let replicas = 50;
    let container = json!({ "name": "main", "image": "wherry.local/hello:latest" });
    let template =
        json!({ "metadata": { "labels": { "app": "mem" } }, "spec": { "containers": [container] } });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "mem" },
        "spec": { "replicas": replicas, "selector": { "matchLabels": { "app": "mem" } }, "template": template },
    });
    cluster.netns.enter(|| {
        Https::new(cluster, 1).call("POST", "/apis/apps/v1/namespaces/default/deployments", Some(&deployment))
    });
    cluster.kubectl(&["rollout", "status", "deployment/mem", "--timeout=120s"]).ok();
    for (index, (name, busy)) in DAEMONS.into_iter().zip(daemons(cluster)).enumerate() {
        println!(
            "| wherry-{name} | {:.1} MB | {:.1} MB | {:.1} MB |",
            idle[index].0 / 1e3,
            busy.0 / 1e3,
            busy.1 / 1e3
        );
    }
    let each: Vec<(f64, f64)> = monitors(cluster).into_iter().filter_map(memory).collect();
    let (mut rss, mut private): (Vec<f64>, Vec<f64>) = each.into_iter().unzip();
    if !rss.is_empty() {
        println!(
            "| monitor, per pod (median) | — | {:.2} MB | {:.2} MB |",
            median(&mut rss) / 1e3,
            median(&mut private) / 1e3
        );
    }
    cluster.kubectl(&["delete", "deployment", "mem"]).ok();
    let gone = || (cluster.list("pods", "app=mem").is_empty()).then_some(());
    clock::poll(tests::cluster::SOON, gone).expect("the pods go");
    match conmon() {
        Some((rss, private)) => {
            println!("| conmon, per container (peer) | — | {:.2} MB | {:.2} MB |", rss / 1e3, private / 1e3);
        }
        None => println!("| conmon (peer) | not measured: it is not installed | | |"),
    }
}

/// conmon holding one container as podman would have it hold one; over our own runtime, as not every host runs others.
/// `None` where it is not installed.
fn conmon() -> Option<(f64, f64)> {
    let runtime = tests::binaries().join("wherry-runtime");
    let dir = tempfile::tempdir().ok()?;
    let root = dir.path().join("rootfs/bin");
    fs::create_dir_all(&root).ok()?;
    fs::copy("/bin/busybox", root.join("sleep")).ok()?;
    let run = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    run(Command::new(&runtime).arg("spec").current_dir(dir.path())).then_some(())?;
    let config = dir.path().join("config.json");
    let mut spec: serde_json::Value = serde_json::from_slice(&fs::read(&config).ok()?).ok()?;
    spec["process"]["args"] = json!(["/bin/sleep", "600"]);
    spec["process"]["terminal"] = json!(false);
    fs::write(&config, spec.to_string()).ok()?;
    let (id, pid_file) = (format!("bench-{}", std::process::id()), dir.path().join("conmon.pid"));
    let mut conmon = Command::new("conmon");
    conmon.args(["--cid", &id, "--cuuid", &id, "--name", &id, "--runtime"]).arg(&runtime);
    conmon.arg("--socket-dir-path").arg(dir.path()).arg("--conmon-pidfile").arg(&pid_file);
    let log = format!("k8s-file:{}", dir.path().join("log").display());
    conmon.arg("--bundle").arg(dir.path()).arg("--log-path").arg(log);
    run(&mut conmon).then_some(())?;
    // It returns before the container is there.
    let started = || run(Command::new(&runtime).args(["start", &id])).then_some(());
    let started = clock::poll(tests::cluster::SOON, started);
    let pid = fs::read_to_string(&pid_file).ok().and_then(|pid| pid.trim().parse().ok());
    let measured = pid.filter(|_| started.is_some()).and_then(memory);
    run(Command::new(&runtime).args(["delete", "--force", &id]));
    measured
}
