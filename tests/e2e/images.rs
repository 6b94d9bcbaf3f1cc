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
