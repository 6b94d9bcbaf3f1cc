//! `ctl image` as a user has it, beside pods that use images.

use std::{fs, path::Path, process::Command};
use tests::{Cluster, Options, command::Ended, images::archives};

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: user}\nspec:\n  containers:\n  - name: c\n    image: kept:1\n    imagePullPolicy: Never\n    command: [sleep, inf]\n";

#[track_caller]
fn image(cluster: &Cluster, words: &[&str]) -> Ended {
    let run_dir = cluster.dir.join("run");
    let at = ["image", "--run-dir", run_dir.to_str().expect("UTF-8")];
    cluster.ctl(&[&at, words].concat())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn images_go_out_and_come_back() {
    let cluster = Cluster::start(Options::default());
    let busybox = archives().join("busybox.tar");
    image(&cluster, &["import", text(&busybox), "--name", "kept:1"]).ok();
    cluster.apply(POD);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/user", "--timeout=60s"]).ok();

    let file = cluster.dir.join("out.tar");
    image(&cluster, &["export", "kept:1", text(&file), "--format", "docker"]).ok();
    let packed = cluster.dir.join("out.tar.gz");
    let script = format!("gzip -c {} > {}", file.display(), packed.display());
    assert!(Command::new("sh").args(["-c", &script]).status().expect("sh runs").success());
    let ctl = tests::binaries().join("ctl");
    let script = format!(
        "{} image --run-dir {}/run import - --name again:1 < {}",
        ctl.display(),
        cluster.dir.display(),
        packed.display()
    );
    let piped = Command::new("sh").args(["-c", &script]).output().expect("sh runs");
    assert!(piped.status.success(), "{}", String::from_utf8_lossy(&piped.stderr));
    let before: serde_json::Value =
        serde_json::from_str(&image(&cluster, &["inspect", "kept:1"]).ok()).expect("JSON");
    let after: serde_json::Value =
        serde_json::from_str(&image(&cluster, &["inspect", "again:1"]).ok()).expect("JSON");
    assert_eq!(before["config"]["config"], after["config"]["config"]);
    assert_eq!(before["usedBy"], serde_json::json!(["pod default/user"]));
    assert!(before["lastUsed"].is_string() && after["lastUsed"].is_null(), "{before:#} {after:#}");
    assert_eq!(before["layers"].as_array().map(Vec::len), after["layers"].as_array().map(Vec::len));

    let refused = image(&cluster, &["rm", "kept:1"]);
    assert!(refused.code() == 1 && refused.stderr.contains("pod default/user"), "{refused}");
    let nothing = image(&cluster, &["export", "none:1", text(&cluster.dir.join("none.tar"))]);
    assert!(nothing.code() == 1 && nothing.stderr.contains("none:1: not found"), "{nothing}");
    let left = fs::read_dir(&cluster.dir).expect("listed").flatten();
    assert!(left.map(|entry| entry.file_name()).all(|name| !name.to_string_lossy().starts_with(".tmp")));
    assert_eq!(image(&cluster, &["prune"]).ok(), "freed 0 B\n");
    let pruned = image(&cluster, &["prune", "--all"]).ok();
    assert!(
        pruned.contains("removed docker.io/library/again:1 sha256:") && !pruned.contains("kept"),
        "{pruned}"
    );
    let digests = image(&cluster, &["ls", "-q"]).ok();
    assert!(digests.lines().count() == 2 && digests.contains(before["digest"].as_str().expect("text")));
    assert!(image(&cluster, &["ls", "-o", "json"]).ok().contains("docker.io/library/kept:1"));
    cluster.kubectl(&["delete", "pod", "user", "--now"]).ok();
    cluster.down();
}

/// No disk is ever as empty as the thresholds ask, so all goes that may, and an Event says that it was not enough.
#[test]
fn an_unused_image_goes_when_the_disk_is_full_and_one_in_use_stays() {
    let cluster = Cluster::start(Options::default());
    let busybox = archives().join("busybox.tar");
    image(&cluster, &["import", text(&busybox), "--name", "kept:1"]).ok();
    cluster.apply(POD);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/user", "--timeout=60s"]).ok();
    // Of other digests than the one it is made from.
    let file = cluster.dir.join("unused.tar");
    image(&cluster, &["export", "kept:1", text(&file), "--format", "docker"]).ok();
    image(&cluster, &["import", text(&file), "--name", "unused:1"]).ok();
    assert_eq!(image(&cluster, &["ls", "-q"]).ok().lines().count(), 3);

    assert!(cluster.kill_daemon("agent"));
    let refused = cluster.up_with(&["--image-gc-high-threshold=10", "--image-gc-low-threshold=10"]);
    assert!(refused.stderr.contains("--image-gc-low-threshold 10 must be lower than"), "{refused}");
    let flags = ["--image-gc-high-threshold=1", "--image-gc-low-threshold=0", "--image-gc-minimum-age=0"];
    cluster.up_with(&[&flags[..], &["--image-gc-period=1"]].concat()).ok();
    let listed = || image(&cluster, &["ls", "-o", "json"]).ok();
    let left =
        cluster.wait_for("the unused image to go", || Some(listed()).filter(|all| !all.contains("unused:1")));
    assert!(left.contains("docker.io/library/kept:1"), "{left}");
    let event = cluster.wait_for("an Event of the node", || {
        cluster.list("events", "").into_iter().find(|event| event["reason"] == "FreeDiskSpaceFailed")
    });
    let message = event["message"].as_str().unwrap_or_default();
    assert!(message.starts_with("Failed to garbage collect required amount of images."), "{event:#}");
    assert_eq!((&event["type"], &event["involvedObject"]["kind"]), (&"Warning".into(), &"Node".into()));
    let log = fs::read_to_string(cluster.dir.join("run/agent.log")).expect("a log");
    let line = log.lines().find(|line| line.contains("unused image removed: the disk is full"));
    assert!(line.is_some_and(|line| line.contains("docker.io/library/unused:1")), "{log}");
    cluster.kubectl(&["get", "pod", "user"]).ok();
    cluster.kubectl(&["delete", "pod", "user", "--now"]).ok();
    cluster.down();
}
