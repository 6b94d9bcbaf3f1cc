//! create, start, state, kill, delete, list, pause: in order, out of order, and after failures.

use crate::bundle::shell;
use serde_json::{Value, json};
use std::fs;

#[test]
fn a_container_lives_through_its_states() {
    let Some(bundle) = shell("trap 'exit 3' TERM; while :; do sleep 1; done") else { return };
    bundle.write();
    bundle.runtime(&["create", "--pid-file", "pid", "{id}"]).expect_ok();
    assert_eq!(bundle.status(), "created");
    let pid = fs::read_to_string(bundle.dir.join("pid")).expect("written");
    let procs = fs::read_to_string(bundle.cgroup().join("cgroup.procs")).expect("read");
    assert_eq!(procs.trim(), pid, "the first process is in the container's cgroup");
    bundle.runtime(&["create", "{id}"]).expect_err(1, "already exists");
    bundle.runtime(&["start", "{id}"]).expect_ok();
    bundle.runtime(&["start", "{id}"]).expect_err(1, "cannot start an already running container");
    assert_eq!(bundle.status(), "running");
    let listed: Value =
        serde_json::from_str(&bundle.runtime(&["list", "-f", "json"]).expect_ok()).expect("JSON");
    assert_eq!(listed[0]["id"], json!(bundle.id));
    bundle.runtime(&["pause", "{id}"]).expect_ok();
    assert_eq!(bundle.status(), "paused");
    bundle.runtime(&["resume", "{id}"]).expect_ok();
    bundle.runtime(&["kill", "{id}", "KILL"]).expect_ok();
    bundle.wait_for("it stops", || bundle.status() == "stopped");
    bundle.runtime(&["kill", "{id}"]).expect_err(1, "container not running");
    bundle.runtime(&["delete", "{id}"]).expect_ok();
    bundle.expect_gone();
    bundle.runtime(&["state", "{id}"]).expect_err(1, "does not exist");
}

#[test]
fn a_start_that_is_killed_half_way_has_started_it() {
    let Some(bundle) = shell("touch /ready; sleep 1000") else { return };
    bundle.write();
    bundle.runtime(&["create", "{id}"]).expect_ok();
    // As `start` does, and no more: its file stays.
    let socket = bundle.state_root().join(&bundle.id).join("start.sock");
    assert_eq!(bundle.status(), "created");
    assert_eq!(bundle.status(), "created", "to look does not start it");
    drop(std::os::unix::net::UnixStream::connect(&socket).expect("it listens"));
    bundle.wait_for("the program runs", || bundle.root().join("ready").exists());
    assert!(socket.exists());
    assert_eq!(bundle.status(), "running");
    bundle.runtime(&["start", "{id}"]).expect_err(1, "cannot start an already running container");
    bundle.runtime(&["delete", "{id}"]).expect_err(1, "that is not stopped: running");
    bundle.runtime(&["kill", "{id}", "KILL"]).expect_ok();
    bundle.wait_for("it stops", || bundle.status() == "stopped");
    bundle.runtime(&["delete", "{id}"]).expect_ok();
    bundle.expect_gone();
}

#[test]
fn run_ends_as_its_program_ends() {
    let cases = [
        (json!(["/bin/sh", "-c", "exit 7"]), 7, ""),
        (json!(["/bin/sh", "-c", "kill -9 $$ & wait"]), 0, ""),
        (json!(["no-such-program"]), 1, "executable file not found in $PATH"),
        (json!(["/no/such"]), 1, "/no/such"),
        (json!(["/data"]), 1, "/data"),
    ];
    for (args, code, words) in cases {
        let Some(bundle) = shell("") else { return };
        fs::write(bundle.root().join("data"), "no program").expect("written");
        let bundle = bundle.with("/process/args", args);
        bundle.run().expect_err(code, words);
        bundle.expect_gone();
    }
}

#[test]
fn whatever_fails_leaves_nothing() {
    let cases = [
        ("/root/path", json!("nowhere"), "nowhere"),
        ("/process/cwd", json!("/bin/sh"), "process.cwd"),
        ("/process/args", json!([]), "process.args"),
        ("/hostname", json!("x".repeat(65)), "hostname"),
        ("/linux/sysctl", json!({"no.such": "1"}), "no.such"),
        ("/linux/namespaces/4", json!({"type": "network", "path": "/nowhere"}), "/nowhere"),
        ("/linux/seccomp/defaultAction", json!("SCMP_ACT_NOTIFY"), "NOTIFY"),
        ("/process/apparmorProfile", json!("x"), "process.apparmorProfile"),
    ];
    let mounts = [
        (json!({"destination": "/x", "type": "nofs"}), "nofs"),
        (json!({"destination": "/x", "type": "bind", "source": "/nowhere", "options": ["bind"]}), "/nowhere"),
        (json!({"destination": "/x", "type": "tmpfs", "options": ["size=wrong"]}), "/x"),
    ];
    for (pointer, value, words) in cases {
        let Some(bundle) = shell("true") else { return };
        let bundle = bundle.with(pointer, value);
        bundle.run().expect_err(1, words);
        bundle.expect_gone();
    }
    for (value, words) in mounts {
        let Some(bundle) = shell("true") else { return };
        let bundle = bundle.also("/mounts", value);
        bundle.run().expect_err(1, words);
        bundle.expect_gone();
    }
}

#[test]
fn force_deletes_what_runs_with_its_children() {
    let Some(bundle) = shell("sleep 1000 & sleep 1000 & touch /ready; wait") else { return };
    bundle.up();
    bundle.wait_for("it is ready", || bundle.root().join("ready").exists());
    let pids = bundle.runtime(&["ps", "--format", "json", "{id}"]).expect_ok();
    let pids: Vec<i32> = serde_json::from_str(&pids).expect("JSON");
    assert_eq!(pids.len(), 3);
    bundle.runtime(&["pause", "{id}"]).expect_ok();
    bundle.runtime(&["delete", "--force", "{id}"]).expect_ok();
    bundle.expect_gone();
    // At most zombies, until whoever inherited them looks.
    let runs =
        |pid: &i32| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"));
    assert!(!pids.iter().any(runs), "{pids:?}");
    bundle.runtime(&["delete", "--force", "{id}"]).expect_ok();
    bundle.runtime(&["delete", "{id}"]).expect_err(1, "does not exist");
}

#[test]
fn a_state_directory_from_a_crash_is_deleted() {
    let Some(bundle) = shell("true") else { return };
    let dir = bundle.state_root().join(&bundle.id);
    for text in [None, Some("")] {
        fs::create_dir_all(&dir).expect("made");
        if let Some(text) = text {
            fs::write(dir.join("state.json.new"), text).expect("written");
        }
        assert_eq!(bundle.status(), "creating");
        bundle.runtime(&["delete", "{id}"]).expect_ok();
        bundle.expect_gone();
    }
}

#[test]
fn a_runtime_killed_at_any_moment_leaves_what_delete_removes() {
    let Some(bundle) = shell("sleep 1000") else { return };
    bundle.write();
    // Stopped after ever more system calls, until creating it succeeds.
    for calls in (1..).step_by(23) {
        let traced = std::process::Command::new("strace")
            .args(["-o", "/dev/null", "-e"])
            .arg(format!("inject=all:signal=SIGKILL:when={calls}"))
            .args(bundle.command(&["create", "{id}"]).get_args().skip(3))
            .current_dir(&bundle.dir)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status();
        let status = traced.expect("strace is needed");
        bundle.runtime(&["delete", "--force", "{id}"]).expect_ok();
        bundle.expect_gone();
        if status.success() {
            assert!(calls > 1, "nothing was injected");
            break;
        }
        assert!(calls < 5000, "creating a container takes too many system calls");
    }
}

#[test]
fn the_config_that_spec_writes_runs() {
    let Some(bundle) = shell("true") else { return };
    bundle.runtime(&["spec"]).expect_ok();
    bundle.runtime(&["spec"]).expect_err(1, "config.json");
    let path = bundle.dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
    config["process"]["args"] = json!(["sh", "-c", "hostname; mount | grep -c /sys/fs/cgroup"]);
    config["process"]["env"] = json!(["PATH=/bin"]);
    config["linux"]["cgroupsPath"] = bundle.config["linux"]["cgroupsPath"].clone();
    for dir in ["proc", "dev", "sys"] {
        fs::create_dir(bundle.root().join(dir)).expect("made");
    }
    fs::write(&path, config.to_string()).expect("written");
    bundle.runtime(&["run", "--no-pivot", "{id}"]).expect_err(1, "--no-pivot");
    assert_eq!(bundle.runtime(&["run", "{id}"]).expect_ok(), "wherry\n1\n");
    let features: Value = serde_json::from_str(&bundle.runtime(&["features"]).expect_ok()).expect("JSON");
    assert_eq!(features["linux"]["cgroup"]["v2"], json!(true));
}

#[test]
fn a_terminal_is_handed_over_and_is_the_console() {
    use std::{io::Read, os::unix::net::UnixListener};
    let Some(bundle) = shell("tty; stat -c %t:%T /dev/console >/tty-numbers; stty size") else { return };
    let bundle = bundle
        .with("/process/terminal", json!(true))
        .with("/process/consoleSize", json!({"height": 33, "width": 111}));
    bundle.write();
    bundle.runtime(&["create", "{id}"]).expect_err(1, "no --console-socket");
    let listener = UnixListener::bind(bundle.dir.join("console")).expect("listens");
    bundle.runtime(&["create", "--console-socket", "console", "{id}"]).expect_ok();
    let (stream, _) = listener.accept().expect("connected");
    let mut terminal = receive(&stream);
    bundle.runtime(&["start", "{id}"]).expect_ok();
    bundle.wait_for("it ends", || bundle.status() == "stopped");
    let mut text = [0; 512];
    let mut seen = String::new();
    // The other end is closed: what is left can be read, then it is an error.
    while let Ok(len @ 1..) = terminal.read(&mut text) {
        seen.push_str(&String::from_utf8_lossy(&text[..len]));
    }
    assert_eq!(seen, "/dev/pts/0\r\n33 111\r\n");
}

/// The descriptor that comes over `stream`.
fn receive(stream: &std::os::unix::net::UnixStream) -> fs::File {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut byte = [0; 64];
    let mut control = nix::cmsg_space!(i32);
    let mut slices = [std::io::IoSliceMut::new(&mut byte)];
    let fd = std::os::fd::AsRawFd::as_raw_fd(stream);
    let message = recvmsg::<()>(fd, &mut slices, Some(&mut control), MsgFlags::empty()).expect("received");
    let received = message.cmsgs().expect("whole").find_map(|message| match message {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    runtime_sys::process::own_received(received.expect("a descriptor")).into()
}

#[test]
fn what_cannot_be_killed_is_a_clear_error_in_time() {
    let Some(bundle) = shell("sleep 1000") else { return };
    bundle.up();
    // A task that the old freezer holds is as deaf as one that waits for a device: not even SIGKILL ends it.
    let freezer = std::path::Path::new("/sys/fs/cgroup/freezer");
    if !freezer.join("cgroup.procs").exists() {
        eprintln!("skipped: no freezer of cgroup v1");
        return;
    }
    let group = freezer.join(&bundle.id);
    fs::create_dir(&group).expect("made");
    let pid = bundle.state()["pid"].to_string();
    fs::write(group.join("cgroup.procs"), &pid).expect("moved");
    fs::write(group.join("freezer.state"), "FROZEN").expect("frozen");
    let frozen =
        || fs::read_to_string(group.join("freezer.state")).is_ok_and(|state| state.trim() == "FROZEN");
    bundle.wait_for("it is frozen", frozen);
    let answer = bundle.runtime(&["delete", "--force", "{id}"]);
    fs::write(group.join("freezer.state"), "THAWED").expect("thawed");
    let words = format!("kill process {pid}: it does not end, not even by SIGKILL; it may wait for a device");
    answer.expect_err(1, &words);
    bundle.wait_for("it ends", || bundle.status() == "stopped");
    bundle.runtime(&["delete", "{id}"]).expect_ok();
    bundle.expect_gone();
    bundle.wait_for("the group is empty", || fs::remove_dir(&group).is_ok());
}
