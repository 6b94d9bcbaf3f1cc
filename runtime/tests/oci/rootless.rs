//! Containers of an ordinary user: no capability on the host, one id mapped.

use crate::bundle::{Answer, Bundle, shell};
use serde_json::json;
use std::{fs, os::unix::fs::PermissionsExt, process::Command};

const UID: u32 = 4321;

/// A bundle that belongs to the user, with a copy of the runtime that the user can reach.
fn ordinary(script: &str) -> Option<Bundle> {
    let bundle = shell(script)?;
    let one = json!([{"containerID": 0, "hostID": UID, "size": 1}]);
    let bundle = bundle
        .also("/linux/namespaces", json!({"type": "user"}))
        .with("/linux/uidMappings", one.clone())
        .with("/linux/gidMappings", one);
    write(&bundle);
    fs::copy(env!("CARGO_BIN_EXE_wherry-runtime"), bundle.dir.join("runtime")).expect("copied");
    fs::set_permissions(bundle.dir.join("runtime"), fs::Permissions::from_mode(0o755)).expect("set");
    let status = Command::new("chown").args(["-R", "-h", &format!("{UID}:{UID}")]).arg(&bundle.dir).status();
    assert!(status.expect("chown runs").success());
    Some(bundle)
}

/// Without the cgroup of root's tests.
fn write(bundle: &Bundle) {
    let mut config = bundle.config.clone();
    config["linux"].as_object_mut().expect("an object").remove("cgroupsPath");
    fs::write(bundle.dir.join("config.json"), config.to_string()).expect("written");
}

fn as_user(bundle: &Bundle, words: &[&str]) -> Answer {
    let (out, err) = (bundle.dir.join("user-out"), bundle.dir.join("user-err"));
    let open = |path| fs::File::create(path).expect("output file made");
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid",
        &UID.to_string(),
        "--regid",
        &UID.to_string(),
        "--clear-groups",
        "timeout",
        "30",
    ]);
    command.arg(bundle.dir.join("runtime")).arg("--root").arg(bundle.dir.join("user-state"));
    command.args(words.iter().map(|word| word.replace("{id}", &bundle.id))).current_dir(&bundle.dir);
    command.stdin(std::process::Stdio::null()).stdout(open(&out)).stderr(open(&err));
    let status = command.status().expect("setpriv runs");
    let read = |path| String::from_utf8_lossy(&fs::read(path).expect("output read")).into_owned();
    Answer { code: status.code().unwrap_or(-1), out: read(&out), err: read(&err) }
}

#[test]
fn an_ordinary_user_runs_a_container() {
    let Some(bundle) = ordinary("id -u; hostname; cat /proc/self/uid_map; exit 7") else { return };
    let answer = as_user(&bundle, &["run", "{id}"]);
    assert_eq!(answer.code, 7, "{answer:?}");
    let words: Vec<&str> = answer.out.split_whitespace().collect();
    assert_eq!(words, ["0", "inside", "0", &UID.to_string(), "1"]);
    assert_eq!(fs::read_dir(bundle.dir.join("user-state")).expect("read").count(), 0, "nothing is left");
}

#[test]
fn an_ordinary_user_has_the_whole_life_of_one() {
    let Some(bundle) = ordinary("sleep 1000") else { return };
    as_user(&bundle, &["create", "{id}"]).expect_ok();
    as_user(&bundle, &["start", "{id}"]).expect_ok();
    let out = as_user(&bundle, &["exec", "{id}", "sh", "-c", "id -u; hostname"]).expect_ok();
    assert_eq!(out, "0\ninside\n");
    let out = as_user(&bundle, &["ps", "--format", "json", "{id}"]).expect_ok();
    assert_eq!(out.split(',').count(), 1, "{out}");
    as_user(&bundle, &["delete", "{id}"]).expect_err(1, "running");
    as_user(&bundle, &["kill", "--all", "{id}", "KILL"]).expect_ok();
    bundle.wait_for("it stops", || as_user(&bundle, &["state", "{id}"]).out.contains("\"stopped\""));
    as_user(&bundle, &["delete", "{id}"]).expect_ok();
    as_user(&bundle, &["state", "{id}"]).expect_err(1, "does not exist");
}

#[test]
fn limits_that_a_user_may_not_set_are_an_error() {
    let Some(bundle) = ordinary("true") else { return };
    let bundle = bundle.with("/linux/resources", json!({"pids": {"limit": 5}}));
    write(&bundle);
    as_user(&bundle, &["run", "{id}"]).expect_err(1, "linux.resources");
    assert!(!bundle.dir.join("user-state").join(&bundle.id).exists());
}
