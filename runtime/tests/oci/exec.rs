//! Further processes in a running container.

use crate::bundle::{Bundle, shell};
use serde_json::json;
use std::fs;

fn running() -> Option<Bundle> {
    let bundle = shell("touch /ready; sleep 1000")?.with("/process/env", json!(["PATH=/bin", "FROM=config"]));
    Some(up(bundle))
}

fn up(bundle: Bundle) -> Bundle {
    bundle.up();
    bundle.wait_for("it runs", || bundle.root().join("ready").exists());
    bundle
}

#[test]
fn it_is_like_the_containers_own_process() {
    let Some(bundle) = running() else { return };
    let script = "for n in pid mnt net uts ipc cgroup; do [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] || echo $n; done
        echo $FROM; grep -h Cap /proc/1/status >/a; grep -h Cap /proc/self/status >/b; busybox cmp /a /b && echo same
        grep -E 'NoNewPrivs|Seccomp:' /proc/self/status; ls /proc/self/fd | busybox wc -l; grep ^0: /proc/self/cgroup";
    let out = bundle.exec(&["/bin/sh", "-c", script]).expect_ok();
    assert_eq!(out, "config\nsame\nNoNewPrivs:\t1\nSeccomp:\t2\n4\n0::/\n");
}

#[test]
fn its_end_is_the_commands_end() {
    let Some(bundle) = running() else { return };
    bundle.exec(&["sh", "-c", "exit 9"]).expect_err(9, "");
    bundle.exec(&["sh", "-c", "kill -15 $$"]).expect_err(128 + 15, "");
    bundle.exec(&["no-such-program"]).expect_err(255, "executable file not found in $PATH");
    bundle.exec(&["/ready"]).expect_err(255, "/ready");
}

#[test]
fn flags_change_the_process() {
    let Some(bundle) = running() else { return };
    let words = [
        "-e",
        "MORE=1",
        "-e",
        "FROM=flag",
        "--cap",
        "CAP_NET_RAW",
        "--cwd",
        "/proc",
        "-u",
        "1000:1001",
        "-g",
        "5",
        "{id}",
    ];
    let script = "echo $FROM $MORE; pwd; id -u; id -G; grep -E 'CapEff|CapBnd' /proc/self/status";
    let out = bundle.runtime(&[&["exec"], &words[..], &["sh", "-c", script]].concat()).expect_ok();
    assert_eq!(out, "flag 1\n/proc\n1000\n1001 5\nCapEff:\t0000000000000000\nCapBnd:\t0000000008002021\n");
}

#[test]
fn a_process_json_without_privileges_gets_the_containers() {
    let Some(bundle) = running() else { return };
    let process = json!({"cwd": "/", "user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", "grep -E 'CapBnd|NoNew' /proc/self/status"],
        "env": ["PATH=/bin"]});
    fs::write(bundle.dir.join("process.json"), process.to_string()).expect("written");
    let out = bundle.runtime(&["exec", "--process", "process.json", "{id}"]).expect_ok();
    assert_eq!(out, "CapBnd:\t0000000008000021\nNoNewPrivs:\t1\n");
}

#[test]
fn a_detached_one_ends_with_its_container() {
    let Some(bundle) = running() else { return };
    bundle.runtime(&["exec", "-d", "--pid-file", "pid", "{id}", "sleep", "1000"]).expect_ok();
    let pid = fs::read_to_string(bundle.dir.join("pid")).expect("written");
    let procs = fs::read_to_string(bundle.cgroup().join("cgroup.procs")).expect("read");
    assert!(procs.lines().any(|line| line == pid), "{pid} in {procs}");
    bundle.runtime(&["delete", "-f", "{id}"]).expect_ok();
    bundle.expect_gone();
}

#[test]
fn a_stopped_or_absent_container_is_refused() {
    let Some(bundle) = running() else { return };
    bundle.runtime(&["kill", "{id}", "9"]).expect_ok();
    bundle.wait_for("it stops", || bundle.status() == "stopped");
    bundle.exec(&["sh"]).expect_err(255, "container not running");
    bundle.runtime(&["delete", "{id}"]).expect_ok();
    bundle.exec(&["sh"]).expect_err(255, "does not exist");
}

#[test]
fn privileges_can_be_given_up() {
    let Some(bundle) = shell("touch /ready; sleep 1000") else { return };
    let bundle =
        up(bundle.with("/process/noNewPrivileges", json!(false)).with("/linux/seccomp", json!(null)));
    let status = ["grep", "NoNewPrivs", "/proc/self/status"];
    assert_eq!(bundle.exec(&status).expect_ok(), "NoNewPrivs:\t0\n");
    let words = [&["exec", "--no-new-privs", "{id}"], &status[..]].concat();
    assert_eq!(bundle.runtime(&words).expect_ok(), "NoNewPrivs:\t1\n");
}

#[test]
fn a_process_json_is_checked_like_config_json() {
    let Some(bundle) = running() else { return };
    let process = |field: &str, value: serde_json::Value| {
        let mut process =
            json!({"cwd": "/", "user": {"uid": 0, "gid": 0}, "args": ["pwd"], "env": ["PATH=/bin"]});
        process[field] = value;
        fs::write(bundle.dir.join("process.json"), process.to_string()).expect("written");
        bundle.runtime(&["exec", "-p", "process.json", "{id}"])
    };
    process("strange", json!(1)).expect_ok();
    process("args", json!([])).expect_err(255, "process.args: is empty");
    process("cwd", json!("tmp")).expect_err(255, "process.cwd: is not absolute");
    process("user", json!({"uid": "root", "gid": 0})).expect_err(255, "process.json: user.uid: invalid type");
    process("user", json!({"uid": -1, "gid": 0}))
        .expect_err(255, "process.json: user.uid: invalid value: integer `-1`");
    if !runtime::lsm::apparmor_enabled() {
        process("apparmorProfile", json!("x")).expect_err(255, "process.apparmorProfile");
        bundle
            .runtime(&["exec", "--apparmor", "x", "{id}", "true"])
            .expect_err(255, "process.apparmorProfile");
    }
    if !runtime::lsm::selinux_enabled() {
        bundle
            .runtime(&["exec", "--process-label", "x", "{id}", "true"])
            .expect_err(255, "process.selinuxLabel");
    }
    bundle.runtime(&["exec", "{id}"]).expect_err(255, "name a command");
    bundle.runtime(&["exec", "--cap", "CAP_NO", "{id}", "true"]).expect_err(255, "CAP_NO");
}

#[test]
fn a_paused_container_is_waited_for_only_when_asked() {
    let Some(bundle) = running() else { return };
    bundle.runtime(&["pause", "{id}"]).expect_ok();
    bundle.exec(&["pwd"]).expect_err(255, "cannot exec in a paused container");
    bundle.runtime(&["resume", "{id}"]).expect_ok();
    bundle.exec(&["pwd"]).expect_ok();
}

/// Gives the container's cgroup a controlled one below it, with the first process in it, as systemd in a container does.
fn controlled_cgroup(bundle: &Bundle) -> bool {
    let controllers = fs::read_to_string(bundle.cgroup().join("cgroup.controllers")).expect("read");
    let Some(controller) = controllers.split_whitespace().next() else {
        eprintln!("skipped: no controller in cgroup v2");
        return false;
    };
    let inner = bundle.cgroup().join("init.scope");
    fs::create_dir(&inner).expect("made");
    fs::write(inner.join("cgroup.procs"), bundle.state()["pid"].to_string()).expect("moved");
    fs::write(bundle.cgroup().join("cgroup.subtree_control"), format!("+{controller}")).expect("enabled");
    true
}

#[test]
fn it_is_beside_the_first_process_where_the_container_has_cgroups_of_its_own() {
    let Some(bundle) = shell("touch /ready; exec sleep 1000") else { return };
    let bundle = up(bundle);
    if !controlled_cgroup(&bundle) {
        return;
    }
    // The namespace's root is what the container's cgroup was when it was made.
    assert_eq!(bundle.exec(&["grep", "^0:", "/proc/self/cgroup"]).expect_ok(), "0::/init.scope\n");
    fs::create_dir(bundle.cgroup().join("other")).expect("made");
    let words = ["exec", "--cgroup", "other", "{id}", "grep", "^0:", "/proc/self/cgroup"];
    assert_eq!(bundle.runtime(&words).expect_ok(), "0::/other\n");
    for (wrong, why) in [("none", "none"), ("../..", "below the container's own")] {
        bundle.runtime(&["exec", "--cgroup", wrong, "{id}", "true"]).expect_err(255, why);
    }
}

#[test]
fn namespaces_that_are_shared_with_the_host_need_no_rights() {
    let Some(bundle) = shell("touch /ready; sleep 1000") else { return };
    let mut bundle = bundle.with_users(100_000);
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().expect("a list");
    namespaces.retain(|namespace| {
        !["network", "ipc", "uts", "cgroup"].contains(&namespace["type"].as_str().expect("text"))
    });
    bundle.config.as_object_mut().expect("an object").remove("hostname");
    // A new sysfs needs a network namespace.
    bundle.config["mounts"].as_array_mut().expect("a list").retain(|mount| mount["destination"] != "/sys");
    let bundle = up(bundle);
    assert_eq!(bundle.exec(&["id", "-u"]).expect_ok(), "0\n");
}

#[test]
fn the_cpus_of_an_exec_are_its_own() {
    let Some(bundle) = running() else { return };
    let process = json!({"cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"], "execCPUAffinity": {"initial": "0", "final": "0"},
        "args": ["grep", "Cpus_allowed_list", "/proc/self/status"]});
    fs::write(bundle.dir.join("process.json"), process.to_string()).expect("written");
    assert_eq!(
        bundle.runtime(&["exec", "-p", "process.json", "{id}"]).expect_ok(),
        "Cpus_allowed_list:\t0\n"
    );
}

#[test]
fn what_becomes_of_the_bundle_later_changes_nothing() {
    let Some(bundle) = running() else { return };
    let confinement = ["sh", "-c", "grep -E '^(Uid|Cap|NoNew|Seccomp:)' /proc/self/status; env; pwd"];
    let before = bundle.exec(&confinement).expect_ok();
    assert!(before.contains("Seccomp:\t2"), "{before}");
    let path = bundle.dir.join("config.json");
    let mut looser = bundle.config.clone();
    looser["process"]["env"] = json!(["PATH=/bin", "LOOSE=1"]);
    looser["process"]["noNewPrivileges"] = json!(false);
    looser["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_ADMIN"]);
    looser["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
    // In place, as an editor may do it.
    for text in [looser.to_string(), "no JSON".to_owned()] {
        fs::write(&path, text).expect("written");
        assert_eq!(bundle.exec(&confinement).expect_ok(), before);
    }
    fs::remove_file(&path).expect("removed");
    assert_eq!(bundle.exec(&confinement).expect_ok(), before);
}
