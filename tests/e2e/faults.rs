//! kill -9 of any daemon, in any order, at any time; and a store that keeps what it has acknowledged.

use std::{collections::BTreeSet, time::Duration};
use tests::{
    Cluster, Options,
    clock::{self, Random},
    traffic::{self, Load},
};

const DAEMONS: [&str; 3] = ["scheduler", "agent", "netd"];
/// Kills during one run.
const KILLS: usize = 15;

/// uids of pods and ids of their containers, as the kernel's cgroups have them.
fn processes(cluster: &Cluster) -> BTreeSet<String> {
    let mut pids = BTreeSet::new();
    for pod in std::fs::read_dir(cluster.cgroup()).into_iter().flatten().flatten() {
        if !pod.file_name().to_string_lossy().starts_with("pod-") {
            continue;
        }
        for container in std::fs::read_dir(pod.path()).into_iter().flatten().flatten() {
            let procs = std::fs::read_to_string(container.path().join("cgroup.procs")).unwrap_or_default();
            pids.extend(procs.lines().map(str::to_owned));
        }
    }
    pids
}

#[test]
fn daemons_die_at_any_time_during_a_rolling_update() {
    let seed = clock::seed();
    println!("seed {seed}: SEED={seed} repeats this run");
    let mut random = Random(seed | 1);
    let cluster = Cluster::start(Options::default());
    cluster.apply_example("hello.yaml");
    for round in 0..KILLS {
        clock::pause(Duration::from_millis(random.below(400)));
        let name = DAEMONS[random.below(3) as usize];
        cluster.kill_daemon(name);
        if random.below(2) == 0 {
            clock::pause(Duration::from_millis(random.below(300)));
            cluster.kill_daemon(DAEMONS[random.below(3) as usize]);
        }
        cluster.wait_for("every daemon is up again", || cluster.up().success().then_some(()));
        let patch = format!(
            r#"{{"spec":{{"replicas":{},"template":{{"metadata":{{"annotations":{{"round":"{round}"}}}}}}}}}}"#,
            1 + random.below(4)
        );
        cluster.wait_for("the change is accepted", || {
            cluster.kubectl(&["patch", "deployment", "hello", "-p", &patch]).success().then_some(())
        });
    }
    cluster.up().ok();
    cluster.kubectl(&["rollout", "status", "deployment/hello", "--timeout=120s"]).ok();
    let wanted = cluster.get("deployment", "hello")["spec"]["replicas"].as_u64().expect("a number");
    cluster.wait_for("the declared state is there", || {
        (cluster.list("pods", "app=hello").len() as u64 == wanted).then_some(())
    });
    cluster
        .wait_for("no process is left over", || (processes(&cluster).len() as u64 == wanted).then_some(()));
    cluster.wait_for("the page is served", || {
        cluster.netns.enter(|| traffic::get(cluster.node_port(30080), "/")).ok()
    });
    cluster.kubectl(&["delete", "deployment", "hello"]).ok();
    cluster.wait_for("every pod is gone", || processes(&cluster).is_empty().then_some(()));
    cluster.down();
}

#[test]
fn containers_and_traffic_go_on_without_scheduler_and_agent() {
    let cluster = Cluster::start(Options::default());
    cluster.apply_example("hello.yaml");
    cluster.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]).ok();
    cluster.wait_for("the page is served", || {
        cluster.netns.enter(|| traffic::get(cluster.node_port(30080), "/")).ok()
    });
    let before = processes(&cluster);
    let load = Load::start(&cluster.netns, cluster.node_port(30080), "/", 2);
    for name in ["scheduler", "agent"] {
        assert!(cluster.kill_daemon(name), "{name} ran");
        let served = load.served();
        cluster.wait_for("requests are served without it", || (load.served() > served + 50).then_some(()));
    }
    cluster.up().ok();
    cluster.wait_ready(cluster.list("pods", "app=hello")[0]["metadata"]["name"].as_str().expect("a name"));
    let (served, failures) = load.stop();
    assert!(failures.is_empty(), "{served} served, {} failed: {:?}", failures.len(), failures.first());
    assert_eq!(processes(&cluster), before, "no container was restarted");
    assert!(cluster.kill_daemon("netd"), "netd ran");
    cluster.up().ok();
    cluster.wait_for("the page is served by the new netd", || {
        cluster.netns.enter(|| traffic::get(cluster.node_port(30080), "/")).ok()
    });
    assert_eq!(processes(&cluster), before, "no container was restarted");
    cluster.down();
}

#[test]
fn an_acknowledged_write_is_there_afterwards() {
    let cluster = Cluster::start(Options::default());
    let seed = clock::seed();
    println!("seed {seed}: SEED={seed} repeats this run");
    let mut random = Random(seed | 1);
    let mut acknowledged = Vec::new();
    for round in 0..5 {
        for index in 0..1 + random.below(8) {
            let name = format!("kept-{round}-{index}");
            if cluster
                .ctl_with(
                    &["create", "-f", "-"],
                    &format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n"),
                )
                .success()
            {
                acknowledged.push(name);
            }
        }
        cluster.kill_daemon("scheduler");
        cluster.up().ok();
        for name in &acknowledged {
            assert!(!cluster.get("configmap", name).is_null(), "{name} was acknowledged and is gone");
        }
    }
    cluster.down();
}
