//! Further processes in a running container.

use crate::bundle::{Bundle, shell};
use serde_json::json;
use std::fs;

fn running() -> Option<Bundle> {
    let bundle = shell("touch /ready; sleep 1000")?.with("/process/env", json!(["PATH=/bin", "FROM=config"]));
    bundle.up();
    bundle.wait_for("it runs", || bundle.root().join("ready").exists());
    Some(bundle)
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
    bundle.exec(&["no-such-program"]).expect_err(127, "executable file not found in $PATH");
    bundle.exec(&["/ready"]).expect_err(126, "/ready");
}

#[test]
fn flags_change_the_process() {
    let Some(bundle) = running() else { return };
    let words = ["-e", "MORE=1", "--cwd", "/proc", "-u", "1000:1001", "-g", "5", "{id}"];
    let script = "echo $FROM $MORE; pwd; id -u; id -G; grep CapEff /proc/self/status";
    let out = bundle.runtime(&[&["exec"], &words[..], &["sh", "-c", script]].concat()).expect_ok();
    assert_eq!(out, "config 1\n/proc\n1000\n1001 5\nCapEff:\t0000000000000000\n");
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
