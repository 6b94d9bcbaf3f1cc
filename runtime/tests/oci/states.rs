//! Commands in a state that they do not fit, or with values that cannot be had: exit codes and words side by side with runc 1.1.5.
//!
//! Where ours differ, the reason stands beside the row.

use crate::bundle::{Bundle, shell};
use serde_json::json;
use std::{fs, os::unix::net::UnixListener};

/// States that a container can be brought to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Created,
    Running,
    Paused,
    Stopped,
}
use State::{Created, Paused, Running, Stopped};

/// What a command gives: its exit code, and words that are in its message.
type Row = (State, &'static [&'static str], i32, &'static str);

/// Where the state stays as it is.
const ROWS: &[Row] = &[
    (Running, &["delete", "{id}"], 1, "cannot delete container {id} that is not stopped: running"),
    (Paused, &["delete", "{id}"], 1, "cannot delete container {id} that is not stopped: paused"),
    (Running, &["start", "{id}"], 1, "cannot start an already running container"),
    (Paused, &["start", "{id}"], 1, "cannot start a container in the paused state"),
    (Stopped, &["start", "{id}"], 1, "cannot start a container that has stopped"),
    (Stopped, &["kill", "{id}"], 1, "container not running"),
    (Stopped, &["kill", "--all", "{id}"], 0, ""),
    (Running, &["kill", "{id}", "NOPE"], 1, "unknown signal \"NOPE\""),
    // runc lets the kernel say "invalid argument".
    (Running, &["kill", "{id}", "999"], 1, "unknown signal \"999\""),
    (Running, &["kill", "{id}", "0"], 0, ""),
    (Created, &["exec", "{id}", "sh", "-c", "exit 7"], 7, ""),
    (Running, &["exec", "{id}", "sh", "-c", "kill -9 $$"], 137, ""),
    (Stopped, &["exec", "{id}", "sh"], 255, "cannot exec in a stopped container"),
    (
        Paused,
        &["exec", "{id}", "sh"],
        255,
        "cannot exec in a paused container (use --ignore-paused to override)",
    ),
    (Running, &["exec", "{id}"], 255, "process args cannot be empty"),
    (Running, &["exec", "{id}", "no-such"], 255, "exec: \"no-such\": executable file not found in $PATH"),
    (Running, &["exec", "{id}", "/no/such"], 255, "No such file or directory"),
    (Running, &["exec", "{id}", "/data"], 255, "exec: \"/data\": EACCES: Permission denied"),
    (Running, &["exec", "{id}", "/bin"], 255, "exec: \"/bin\": EACCES: Permission denied"),
    (Running, &["exec", "--cwd", "tmp", "{id}", "sh"], 255, "runtime: process.cwd: is not absolute"),
    (Running, &["exec", "--cwd", "/data", "{id}", "sh"], 255, "process.cwd: /data"),
    (Running, &["exec", "--env", "NOVALUE", "{id}", "sh"], 255, "runtime: process.env[1]: is not NAME=value"),
    (Running, &["exec", "--process", "none.json", "{id}"], 255, "none.json: No such file or directory"),
    (Running, &["exec", "--process", "wrong.json", "{id}"], 255, "wrong.json: user.uid: invalid type"),
    (Running, &["exec", "--tty", "{id}", "sh"], 255, "no --console-socket is given"),
    (
        Running,
        &["exec", "--cap", "CAP_NOPE", "{id}", "sh", "-c", "exit 7"],
        7,
        "--cap \"CAP_NOPE\" is left out",
    ),
    (Running, &["create", "{id}"], 1, "container with given ID already exists"),
    (Stopped, &["run", "{id}"], 1, "container with given ID already exists"),
    (Paused, &["pause", "{id}"], 1, "container not running"),
    (Stopped, &["pause", "{id}"], 1, "container not running"),
    (Created, &["resume", "{id}"], 1, "container not paused"),
    (Running, &["resume", "{id}"], 1, "container not paused"),
    (Stopped, &["resume", "{id}"], 1, "container not paused"),
    (Stopped, &["ps", "{id}"], 0, ""),
    (Running, &["ps", "{id}", "-o", "comm"], 1, "couldn't find PID field in ps output"),
    (Running, &["ps", "{id}", "--nonsense"], 1, "ps: exit status: 1: error: unknown gnu long option"),
    (Stopped, &["update", "--pids-limit", "5", "{id}"], 1, "container not running"),
    (Running, &["update", "{id}"], 0, ""),
    (Running, &["update", "--resources", "none.json", "{id}"], 1, "none.json: No such file or directory"),
    (Stopped, &["events", "--stats", "{id}"], 1, "container with id {id} is not running"),
    (Created, &["events", "--stats", "{id}"], 0, ""),
    (Stopped, &["state", "{id}"], 0, ""),
];

/// In this state, with files that rows name.
fn brought_to(state: State) -> Option<Bundle> {
    let bundle = shell("sleep 1000")?;
    fs::write(bundle.root().join("data"), "no program").expect("written");
    let process = json!({"args": ["sh"], "cwd": "/", "user": {"uid": "root", "gid": 0}});
    fs::write(bundle.dir.join("wrong.json"), process.to_string()).expect("written");
    bundle.write();
    bundle.runtime(&["create", "{id}"]).expect_ok();
    if state != Created {
        bundle.runtime(&["start", "{id}"]).expect_ok();
    }
    if state == Paused {
        bundle.runtime(&["pause", "{id}"]).expect_ok();
    }
    if state == Stopped {
        bundle.runtime(&["kill", "{id}", "KILL"]).expect_ok();
        bundle.wait_for("it stops", || bundle.status() == "stopped");
    }
    Some(bundle)
}

#[test]
fn commands_that_do_not_fit_the_state_answer_as_runc_does_and_change_nothing() {
    for state in [Created, Running, Paused, Stopped] {
        let Some(bundle) = brought_to(state) else { return };
        for (_, words, code, message) in ROWS.iter().filter(|(of, ..)| *of == state) {
            let answer = bundle.runtime(words);
            assert_eq!(answer.code, *code, "{state:?} {words:?}: {answer:?}");
            let message = message.replace("{id}", &bundle.id);
            assert!(
                answer.err.contains(&message),
                "{state:?} {words:?}: {message:?} is not in {}",
                answer.err
            );
            assert_eq!(bundle.status(), format!("{state:?}").to_lowercase(), "after {words:?}");
        }
    }
}

#[test]
fn a_container_that_was_never_started_is_deleted() {
    let Some(bundle) = brought_to(Created) else { return };
    let pid = bundle.state()["pid"].to_string();
    bundle.runtime(&["delete", "{id}"]).expect_ok();
    bundle.expect_gone();
    let runs = fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"));
    assert!(!runs, "its first process is left");
    bundle.runtime(&["state", "{id}"]).expect_err(1, "container does not exist");
}

#[test]
fn whoever_cannot_be_told_of_a_process_is_an_error_before_it_is_made() {
    let cases: [(&[&str], &str); 3] = [
        (&["--pid-file", "/nowhere/pid"], "write /nowhere/pid: No such file or directory"),
        (&["--pidfd-socket", "/nowhere/socket"], "connect to the socket /nowhere/socket: No such file"),
        (&["--console-socket", "/nowhere/socket"], "connect to the socket /nowhere/socket: No such file"),
    ];
    for (flags, words) in cases {
        let Some(bundle) = shell("touch /ran; sleep 1000") else { return };
        let terminal = flags[0] == "--console-socket";
        let bundle = bundle.with("/process/terminal", json!(terminal));
        bundle.write();
        for command in [&["create"][..], &["run", "--detach"]] {
            bundle.runtime(&[command, flags, &["{id}"]].concat()).expect_err(1, words);
            bundle.expect_gone();
        }
        assert!(!bundle.root().join("ran").exists(), "{flags:?}");
        let Some(bundle) = brought_to(Running) else { return };
        let tty: &[&str] = if terminal { &["--tty"] } else { &[] };
        let words_of_exec = [&["exec", "--detach"], tty, flags, &["{id}", "touch", "/ran"]].concat();
        bundle.runtime(&words_of_exec).expect_err(255, words);
        assert!(!bundle.root().join("ran").exists(), "{flags:?}");
    }
}

#[test]
fn a_process_that_nobody_could_be_told_of_is_ended() {
    let Some(bundle) = brought_to(Running) else { return };
    // It is there, but nobody listens.
    drop(UnixListener::bind(bundle.dir.join("deaf")).expect("bound"));
    bundle
        .runtime(&["exec", "--detach", "--pidfd-socket", "deaf", "{id}", "sleep", "1000"])
        .expect_err(255, "connect to the socket deaf: Connection refused");
    let pids = || bundle.runtime(&["ps", "--format", "json", "{id}"]).expect_ok();
    assert_eq!(pids(), format!("[{}]\n", bundle.state()["pid"]));
}
