//! Pods on one node: init containers, restarts, probes, volumes, logs, what goes wrong and how it is said.

use serde_json::Value;
use tests::{Cluster, Options, cluster::condition, images::Registry};

/// A pod of the busybox image; `spec` is indented by two.
pub fn pod(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{run: {name}}}}}\nspec:\n{spec}")
}

pub fn status(pod: &Value, container: usize) -> &Value {
    &pod["status"]["containerStatuses"][container]
}

#[test]
fn lifecycle_of_containers() {
    let cluster = Cluster::start(Options { registries: Registry::mirror_config(), ..Options::default() });
    let registry = Registry::start(&cluster.netns);
    init_containers_run_in_order(&cluster);
    a_failing_container_backs_off(&cluster);
    a_killed_container_restarts(&cluster);
    containers_share_network_and_volumes(&cluster);
    drop(registry);
    cluster.down();
}

/// Without overlayfs a container has a copy of its image, is told so, and leaves nothing.
#[test]
fn images_are_copied_where_overlayfs_is_refused() {
    let registries = Registry::mirror_config();
    let cluster = Cluster::start(Options { registries, on_overlay: true, ..Options::default() });
    let registry = Registry::start(&cluster.netns);
    cluster.apply(&pod(
        "copied",
        "  containers:
  - {name: main, image: busybox, command: [sh, -c, 'rm /bin/vi; echo changed > /bin/own; grep \" / \" /proc/mounts; while :; do sleep 3600; done']}
  - {name: other, image: busybox, command: [sh, -c, 'while :; do sleep 3600; done']}
",
    ));
    cluster.wait_ready("copied");
    let root = cluster.kubectl(&["logs", "copied", "-c", "main"]).ok();
    assert!(root.contains("overlay / overlay"), "the copy lies on the test's overlay: {root}");
    assert!(root.contains(".layers/upper"), "and on no other: {root}");
    cluster
        .kubectl(&["exec", "copied", "-c", "main", "--", "sh", "-c", "test -e /bin/own && ! test -e /bin/vi"])
        .ok();
    cluster
        .kubectl(&[
            "exec",
            "copied",
            "-c",
            "other",
            "--",
            "sh",
            "-c",
            "test -e /bin/vi && ! test -e /bin/own",
        ])
        .ok();
    let events = cluster.kubectl(&["get", "events", "--field-selector=reason=OverlayUnavailable"]).ok();
    assert!(events.contains("Warning") && events.contains("a copy of its image"), "{events}");
    cluster.apply(&pod("own", "  hostUsers: false\n  containers: [{name: main, image: busybox}]\n"));
    cluster.wait_for("users of its own are refused, not forgotten", || {
        let told = cluster.kubectl(&["describe", "pod", "own"]).ok();
        (told.contains("FailedCreatePodSandBox") && told.contains("hostUsers: false needs overlayfs"))
            .then_some(())
    });
    cluster.kubectl(&["delete", "pod", "own", "--grace-period=1"]).ok();
    let log = std::fs::read_to_string(cluster.dir.join("run/agent.log")).expect("the agent's log");
    assert_eq!(log.matches("overlayfs cannot be mounted").count(), 1, "said once: {log}");
    cluster.kubectl(&["delete", "pod", "copied", "--grace-period=1"]).ok();
    let snapshots = cluster.dir.join("state/images/snapshots");
    cluster.wait_for("the copies are gone", || {
        std::fs::read_dir(&snapshots).expect("listed").next().is_none().then_some(())
    });
    drop(registry);
    cluster.down();
}

fn init_containers_run_in_order(cluster: &Cluster) {
    cluster.apply(&pod(
        "ordered",
        "  restartPolicy: Never
  volumes: [{name: v, emptyDir: {}}]
  initContainers:
  - {name: one, image: busybox, command: [sh, -c, 'echo one >> /v/order'], volumeMounts: [{name: v, mountPath: /v}]}
  - {name: two, image: busybox, command: [sh, -c, 'echo two >> /v/order'], volumeMounts: [{name: v, mountPath: /v}]}
  containers:
  - {name: main, image: busybox, command: [sh, -c, 'cat /v/order; echo done > /dev/termination-log; exit 4'], volumeMounts: [{name: v, mountPath: /v}]}
",
    ));
    let ended = cluster.wait_for("the pod has failed", || {
        Some(cluster.get("pod", "ordered")).filter(|pod| pod["status"]["phase"] == "Failed")
    });
    let terminated = &status(&ended, 0)["state"]["terminated"];
    assert_eq!((&terminated["exitCode"], &terminated["reason"]), (&Value::from(4), &Value::from("Error")));
    assert_eq!(terminated["message"], "done\n");
    assert_eq!(cluster.kubectl(&["logs", "ordered"]).ok(), "one\ntwo\n");
}

fn a_failing_container_backs_off(cluster: &Cluster) {
    cluster.apply(&pod(
        "crash",
        "  containers: [{name: main, image: busybox, command: [sh, -c, 'echo try; exit 1']}]\n",
    ));
    let pod = cluster.wait_for("the pod is in CrashLoopBackOff", || {
        let pod = cluster.get("pod", "crash");
        (status(&pod, 0)["state"]["waiting"]["reason"] == "CrashLoopBackOff").then_some(pod)
    });
    assert_eq!(status(&pod, 0)["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(condition(&pod, "Ready"), "False");
    let shown = cluster.kubectl(&["get", "pod", "crash"]).ok();
    assert!(shown.contains("CrashLoopBackOff") || shown.contains("Error"), "{shown}");
    assert_eq!(cluster.kubectl(&["logs", "crash", "--previous"]).ok(), "try\n");
    cluster.kubectl(&["delete", "pod", "crash", "--grace-period=1"]).ok();
}

fn a_killed_container_restarts(cluster: &Cluster) {
    cluster.apply(&pod("web", "  containers: [{name: main, image: wherry.local/hello:latest}]\n"));
    let first = cluster.wait_ready("web");
    let id = status(&first, 0)["containerID"].clone();
    let pids = std::fs::read_dir(
        cluster.cgroup().join(format!("pod-{}", first["metadata"]["uid"].as_str().expect("uid"))),
    )
    .expect("cgroup");
    for entry in pids.flatten() {
        let procs = std::fs::read_to_string(entry.path().join("cgroup.procs")).unwrap_or_default();
        for pid in procs.lines().filter_map(|pid| pid.parse().ok()) {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
    let again = cluster.wait_for("web runs again", || {
        let pod = cluster.get("pod", "web");
        (status(&pod, 0)["containerID"] != id && condition(&pod, "Ready") == "True").then_some(pod)
    });
    assert_eq!(status(&again, 0)["restartCount"], 1);
    assert_eq!(status(&again, 0)["lastState"]["terminated"]["exitCode"], 137);
    cluster.kubectl(&["delete", "pod", "web"]).ok();
}

fn containers_share_network_and_volumes(cluster: &Cluster) {
    cluster.apply(&pod(
        "pair",
        "  volumes:
  - {name: shared, emptyDir: {medium: Memory}}
  - {name: config, configMap: {name: pair-config}}
  containers:
  - name: server
    image: busybox
    command: [sh, -c, 'hostname > /shared/name; exec httpd -f -p 8000 -h /shared']
    volumeMounts: [{name: shared, mountPath: /shared}]
    readinessProbe: {tcpSocket: {port: 8000}, periodSeconds: 1}
  - name: client
    image: busybox
    command: [sh, -c, 'while :; do sleep 3600; done']
    volumeMounts: [{name: config, mountPath: /config, readOnly: true}]
    livenessProbe: {exec: {command: [test, -e, /config/key]}, periodSeconds: 1}
",
    ));
    cluster.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: pair-config}\ndata: {key: one}\n");
    cluster.wait_ready("pair");
    let fetched = cluster
        .kubectl(&["exec", "pair", "-c", "client", "--", "wget", "-qO-", "http://127.0.0.1:8000/name"])
        .ok();
    assert_eq!(fetched, "pair\n");
    cluster.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: pair-config}\ndata: {key: two}\n");
    cluster.wait_for("the mounted ConfigMap follows", || {
        let text = cluster.kubectl(&["exec", "pair", "-c", "client", "--", "cat", "/config/key"]).stdout;
        (text == "two").then_some(())
    });
    let refused =
        cluster.kubectl(&["exec", "pair", "-c", "client", "--", "sh", "-c", "echo x > /config/key"]);
    assert!(!refused.success(), "a ConfigMap volume is read-only");
    cluster.kubectl(&["delete", "pod", "pair", "--grace-period=1"]).ok();
}

#[test]
fn what_cannot_run_says_why() {
    let cluster = Cluster::start(Options { enforce_limits: true, ..Options::default() });
    cluster.apply(&pod("misnamed", "  containers: [{name: main, image: 'UPPER/case'}]\n"));
    cluster.apply(&pod("absent", "  containers: [{name: main, image: '127.0.0.1:1/no/such:image'}]\n"));
    cluster.apply(&pod(
        "homeless",
        "  nodeSelector: {disk: ssd}\n  containers: [{name: main, image: wherry.local/hello}]\n",
    ));
    cluster.apply(&pod(
        "greedy",
        "  containers: [{name: main, image: wherry.local/hello, resources: {requests: {cpu: 4k}}}]\n",
    ));
    let waiting = |name: &str| status(&cluster.get("pod", name), 0)["state"]["waiting"]["reason"].clone();
    cluster
        .wait_for("the image name is refused", || (waiting("misnamed") == "InvalidImageName").then_some(()));
    cluster.wait_for("the pull backs off", || (waiting("absent") == "ImagePullBackOff").then_some(()));
    for (name, message) in [
        ("homeless", "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector"),
        ("greedy", "0/1 nodes are available: 1 Insufficient cpu"),
    ] {
        cluster.wait_for(message, || {
            let pod = cluster.get("pod", name);
            let told = cluster.kubectl(&["describe", "pod", name]).ok();
            (pod["status"]["phase"] == "Pending"
                && told.contains("FailedScheduling")
                && told.contains(message))
            .then_some(())
        });
    }
    let root = tests::leaks::cgroup_root().join("cgroup.controllers");
    let enforced =
        std::fs::read_to_string(root).expect("cgroup2").split_whitespace().any(|name| name == "memory");
    if !enforced {
        cluster.apply(&pod(
            "limited",
            "  containers: [{name: main, image: wherry.local/hello, resources: {limits: {memory: 64Mi}}}]\n",
        ));
        let pod = cluster.wait_for("a limit that cannot be enforced is refused", || {
            Some(cluster.get("pod", "limited")).filter(|pod| pod["status"]["phase"] == "Failed")
        });
        let message = pod["status"]["message"].as_str().unwrap_or_default();
        assert!(message.contains("memory"), "the message names the controller: {message}");
    }
    cluster.down();
}
