//! `ctl` as a user has it: what it prints, where, and how it ends.

use tests::{Cluster, Options, binaries, command::run};

#[test]
fn every_command_on_one_cluster() {
    let cluster = Cluster::start(Options::default());
    assert_eq!(cluster.ctl(&["apply", "-f", "examples/none.yaml"]).code(), 1);
    let example = tests::root().join("examples/hello.yaml");
    let example = example.to_str().expect("UTF-8");
    assert_eq!(
        cluster.ctl(&["apply", "-f", example]).ok(),
        "deployment.apps/hello created\nservice/hello created\n"
    );
    assert_eq!(
        cluster.ctl(&["apply", "-f", example]).ok(),
        "deployment.apps/hello unchanged\nservice/hello unchanged\n"
    );
    assert!(cluster.ctl(&["rollout", "status", "deploy/hello"]).ok().contains("successfully rolled out"));
    let pods = cluster.ctl(&["get", "pods", "-l", "app=hello"]).ok();
    assert!(pods.starts_with("NAME ") && pods.matches("Running").count() == 2, "{pods}");
    assert!(cluster.ctl(&["get", "all", "-o", "wide"]).ok().contains("deployment/hello"));
    assert!(cluster.ctl(&["get", "deploy", "hello", "-o", "yaml"]).ok().contains("replicas: 2"));
    assert_eq!(cluster.ctl(&["get", "svc", "hello", "-o", "name"]).ok(), "service/hello\n");
    assert_eq!(
        cluster.ctl(&["scale", "deploy/hello", "--replicas=1"]).ok(),
        "deployment.apps/hello scaled\n"
    );
    cluster.ctl(&["rollout", "restart", "hello"]).ok();
    cluster.ctl(&["rollout", "status", "hello"]).ok();
    let history = cluster.ctl(&["rollout", "history", "hello"]).ok();
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    assert!(cluster.ctl(&["rollout", "undo", "hello"]).ok().contains("rolled back to revision 1"));
    cluster.ctl(&["rollout", "status", "hello"]).ok();
    assert!(cluster.ctl(&["describe", "deploy", "hello"]).ok().contains("ScalingReplicaSet"));
    assert!(
        cluster
            .ctl(&["image", "ls", "--run-dir", cluster.dir.join("run").to_str().expect("UTF-8")])
            .ok()
            .contains("wherry.local/hello")
    );
    assert!(cluster.ctl(&["version"]).ok().contains("Server: v1."));
    assert_eq!(
        cluster.ctl(&["delete", "-f", example]).ok(),
        "deployment.apps/hello deleted\nservice/hello deleted\n"
    );

    let err = cluster.ctl(&["get", "deploy", "none"]);
    assert_eq!((err.code(), err.stderr.as_str()), (1, "error: deployments.apps \"none\" not found\n"));
    let err = cluster.ctl(&["get", "pots"]);
    assert!(err.code() == 2 && err.stderr.contains("\"pots\""), "{err}");
    let err = cluster.ctl_with(&["apply", "-f", "-"], "kind: Pod");
    assert_eq!((err.code(), err.stderr.as_str()), (1, "error: standard input: apiVersion is missing\n"));
    cluster.down();
}

#[test]
fn without_a_cluster_the_next_step_is_said() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut command = std::process::Command::new(binaries().join("ctl"));
    let ended = run(command.args(["get", "pods"]).env("KUBECONFIG", dir.path().join("none")), "");
    assert!(
        ended.code() == 2 && ended.stderr.contains("`ctl up`") && ended.stderr.lines().count() == 1,
        "{ended}"
    );
    let mut command = std::process::Command::new(binaries().join("ctl"));
    let ended = run(command.args(["completion", "bash"]), "");
    assert!(ended.ok().contains("_ctl()"));
}
