//! Containers of an ordinary user: no capability on the host, one id mapped.

use crate::bundle::{Answer, Bundle, shell};
use serde_json::json;
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::PathBuf,
    process::Command,
};

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
    ended(command, bundle)
}

fn ended(mut command: Command, bundle: &Bundle) -> Answer {
    let (out, err) = (bundle.dir.join("user-out"), bundle.dir.join("user-err"));
    let open = |path| fs::File::create(path).expect("output file made");
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

/// A cgroup given to the user, and a way to run something in it.
struct Delegated(PathBuf);

impl Delegated {
    fn new(bundle: &Bundle) -> Self {
        // Below the bundle's own parent, which is removed with it.
        let dir = bundle.cgroup().with_file_name("delegated");
        fs::create_dir_all(&dir).expect("made");
        fs::create_dir(dir.join("shell")).expect("made");
        for path in [
            dir.clone(),
            dir.join("cgroup.procs"),
            dir.join("cgroup.subtree_control"),
            dir.join("shell"),
            dir.join("shell/cgroup.procs"),
        ] {
            std::os::unix::fs::chown(path, Some(UID), Some(UID)).expect("chowned");
        }
        Self(dir)
    }

    /// From a shell that is in the delegated part before it becomes the user's.
    fn run(&self, bundle: &Bundle, words: &str) -> Answer {
        let mut command = Command::new("sh");
        let procs = self.0.join("shell/cgroup.procs");
        let script = format!(
            "echo $$ >{} && exec setpriv --reuid {UID} --regid {UID} --clear-groups timeout 30 ./runtime --root user-state {words}",
            procs.display()
        );
        command.args(["-c", &script.replace("{id}", &bundle.id)]).current_dir(&bundle.dir);
        ended(command, bundle)
    }
}

#[test]
fn a_delegated_cgroup_is_used() {
    let Some(bundle) = ordinary("sleep 1000") else { return };
    let delegated = Delegated::new(&bundle);
    let path = delegated.0.join("container");
    let mut config = bundle.config.clone();
    let below = path.strip_prefix(runtime::cgroup::mount_point().expect("cgroup v2")).expect("below");
    config["linux"]["cgroupsPath"] = json!(format!("/{}", below.display()));
    fs::write(bundle.dir.join("config.json"), config.to_string()).expect("written");
    delegated.run(&bundle, "run --detach --pid-file pid {id}").expect_ok();
    let pid = fs::read_to_string(bundle.dir.join("pid")).expect("written");
    assert_eq!(fs::read_to_string(path.join("cgroup.procs")).expect("read").trim(), pid);
    delegated.run(&bundle, "pause {id}").expect_ok();
    assert!(delegated.run(&bundle, "state {id}").out.contains("\"paused\""));
    delegated.run(&bundle, "resume {id}").expect_ok();
    let out = delegated.run(&bundle, "exec {id} grep ^0: /proc/self/cgroup").expect_ok();
    assert_eq!(out, "0::/\n");
    delegated.run(&bundle, "delete --force {id}").expect_ok();
    assert!(!path.exists(), "the cgroup is removed");
}

#[test]
fn without_a_path_the_cgroup_is_beside_the_callers() {
    let Some(bundle) = ordinary("sleep 1000") else { return };
    let delegated = Delegated::new(&bundle);
    delegated.run(&bundle, "run --detach --pid-file pid {id}").expect_ok();
    let own = delegated.0.join(format!("shell/wherry-runtime-{}", bundle.id));
    let pid = fs::read_to_string(bundle.dir.join("pid")).expect("written");
    assert_eq!(fs::read_to_string(own.join("cgroup.procs")).expect("read").trim(), pid);
    delegated.run(&bundle, "delete --force {id}").expect_ok();
    assert!(!own.exists(), "the cgroup is removed");
}

#[test]
fn several_ids_are_mapped_by_newuidmap() {
    // The programs look into /etc/subuid; a file of the test's own lies over it, in a mount namespace of its own.
    let Some(bundle) =
        ordinary("id -u; cat /proc/self/uid_map /proc/self/gid_map; touch /owned; busybox chown 7:8 /owned")
    else {
        return;
    };
    let map = json!([{"containerID": 0, "hostID": UID, "size": 1}, {"containerID": 1, "hostID": 300_000, "size": 1000}]);
    let bundle = bundle.with("/linux/uidMappings", map.clone()).with("/linux/gidMappings", map);
    let all = json!(["CAP_CHOWN"]);
    let bundle =
        bundle.with("/process/capabilities", json!({"bounding": all, "permitted": all, "effective": all}));
    write(&bundle);
    for file in ["subuid", "subgid"] {
        fs::write(bundle.dir.join(file), format!("{UID}:300000:1000\n")).expect("written");
    }
    fs::write(bundle.dir.join("passwd"), format!("tester:x:{UID}:{UID}::/:/bin/sh\n")).expect("written");
    let mut command = Command::new("unshare");
    let script = format!(
        "for f in subuid subgid passwd; do touch /etc/$f; mount --bind $f /etc/$f; done; exec setpriv --reuid {UID} --regid {UID} \
         --clear-groups timeout 30 ./runtime --root user-state run {}",
        bundle.id
    );
    command.args(["-m", "--propagation", "private", "sh", "-ec", &script]).current_dir(&bundle.dir);
    let out = ended(command, &bundle).expect_ok();
    let words: Vec<&str> = out.split_whitespace().collect();
    let own = UID.to_string();
    let map = ["0", &own, "1", "1", "300000", "1000"];
    assert_eq!(words, [&["0"], &map[..], &map].concat());
    let owned = fs::metadata(bundle.root().join("owned")).expect("made");
    assert_eq!((owned.uid(), owned.gid()), (300_006, 300_007));
}

#[test]
fn the_config_that_spec_writes_for_a_user_runs() {
    let Some(bundle) = ordinary("true") else { return };
    fs::remove_file(bundle.dir.join("config.json")).expect("removed");
    as_user(&bundle, &["spec", "--rootless"]).expect_ok();
    let path = bundle.dir.join("config.json");
    let mut config: serde_json::Value =
        serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
    config["process"]["args"] = json!(["sh", "-c", "id -u; hostname; touch /x || echo read-only"]);
    config["process"]["env"] = json!(["PATH=/bin"]);
    for dir in ["proc", "dev", "sys"] {
        fs::create_dir(bundle.root().join(dir)).expect("made");
    }
    fs::write(&path, config.to_string()).expect("written");
    assert_eq!(as_user(&bundle, &["run", "{id}"]).expect_ok(), "0\nwherry\nread-only\n");
}
