//! The command line as callers of runc use it: flags, where they may stand, logs, descriptors and files that are handed on.

use crate::bundle::{Bundle, shell};
use serde_json::{Value, json};
use std::{
    fs,
    io::{IoSliceMut, Read},
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixListener,
    },
};

/// With a container that has done `before`, and goes on with `script`.
fn prepared(before: &str, script: &str) -> Option<Bundle> {
    let bundle = shell(&format!("{before}touch /ready; {script}"))?;
    bundle.up();
    bundle.wait_for("it runs", || bundle.root().join("ready").exists());
    Some(bundle)
}

fn running(script: &str) -> Option<Bundle> {
    prepared("", script)
}

const LOOP: &str = "while :; do sleep 0.1; done";

#[test]
fn the_version_is_as_docker_and_containerd_parse_it() {
    let Some(bundle) = shell("true") else { return };
    for flag in ["--version", "-v"] {
        let out = bundle.runtime(&[flag]).expect_ok();
        let expected = format!(
            "wherry-runtime version {}\nspec: {}\n",
            env!("CARGO_PKG_VERSION"),
            runtime_spec::OCI_VERSION
        );
        assert_eq!(out, expected, "{flag}");
    }
}

#[test]
fn flags_stand_before_and_after_the_id() {
    let Some(bundle) = prepared("trap 'echo hup >>/got' HUP; ", LOOP) else { return };
    let got = || fs::read_to_string(bundle.root().join("got")).unwrap_or_default();
    bundle.runtime(&["kill", "{id}", "HUP", "--all"]).expect_ok();
    bundle.wait_for("the first arrives", || got() == "hup\n");
    bundle.runtime(&["kill", "--all", "{id}", "SIGHUP"]).expect_ok();
    bundle.wait_for("the second arrives", || got() == "hup\nhup\n");
    // Of an exec, what follows the program is the program's.
    assert_eq!(
        bundle.runtime(&["exec", "{id}", "busybox", "echo", "-d", "--cwd", "/x"]).expect_ok(),
        "-d --cwd /x\n"
    );
    bundle.runtime(&["ps", "{id}", "-f", "json"]).expect_ok();
    assert_eq!(bundle.runtime(&["list", "-q"]).expect_ok(), format!("{}\n", bundle.id));
    bundle.runtime(&["delete", "{id}", "--force"]).expect_ok();
}

#[test]
fn flags_that_ask_for_nothing_more_are_taken() {
    let Some(bundle) = shell("echo out") else { return };
    bundle.write();
    let words = [
        "--debug",
        "--criu",
        "/usr/sbin/criu",
        "--rootless",
        "false",
        "--log-format",
        "json",
        "--log",
        "log.json",
        "run",
        "--no-subreaper",
        "{id}",
    ];
    assert_eq!(bundle.runtime(&words).expect_ok(), "out\n");
    let wrong = bundle.runtime(&["--rootless", "perhaps", "list"]);
    assert!(wrong.code != 0 && wrong.err.contains("perhaps"), "{wrong:?}");
}

#[test]
fn errors_and_warnings_are_lines_of_the_log() {
    let Some(bundle) = shell("true") else { return };
    let bundle = bundle.with("/linux/strange", json!({"x": 1})).with("/process/cwd", json!("/bin/sh"));
    bundle.write();
    bundle
        .runtime(&["--log", "log.json", "--log-format", "json", "run", "{id}"])
        .expect_err(1, "process.cwd");
    let text = fs::read_to_string(bundle.dir.join("log.json")).expect("read");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let [warning, error] = &lines[..] else { panic!("{text}") };
    assert_eq!((&warning["level"], &error["level"]), (&json!("warning"), &json!("error")));
    assert_eq!(warning["msg"], "config.json: unknown field linux.strange is ignored");
    assert!(error["msg"].as_str().expect("text").contains("process.cwd"), "{error}");
    assert!(error["time"].as_str().expect("text").ends_with('Z'), "RFC 3339: {error}");
    assert_eq!(error.as_object().expect("an object").len(), 3);
    bundle.runtime(&["--log", "log.text", "run", "{id}"]).expect_err(1, "process.cwd");
    let text = fs::read_to_string(bundle.dir.join("log.text")).expect("read");
    assert!(text.lines().all(|line| line.starts_with("time=\"20") && line.contains("\" level=")), "{text}");
}

#[test]
fn signals_have_numbers_and_names_real_time_ones_too() {
    let traps = "trap 'echo 37 >>/got' 37; trap 'echo usr1 >>/got' USR1; ";
    let Some(bundle) = prepared(traps, LOOP) else { return };
    let got = || fs::read_to_string(bundle.root().join("got")).unwrap_or_default();
    for (signal, expected) in [("37", "37\n"), ("SIGRTMIN+3", "37\n37\n"), ("usr1", "37\n37\nusr1\n")] {
        bundle.runtime(&["kill", "{id}", signal]).expect_ok();
        bundle.wait_for(signal, || got() == expected);
    }
    for wrong in ["SIGNONE", "65", "-1"] {
        let answer = bundle.runtime(&["kill", "{id}", "--", wrong]);
        assert!(answer.code == 1 && answer.err.contains("unknown signal"), "{wrong}: {answer:?}");
    }
}

#[test]
fn sigkill_ends_all_where_the_pid_namespace_is_shared() {
    let Some(mut bundle) = shell("sleep 1000 & touch /ready; wait") else { return };
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().expect("a list");
    namespaces.retain(|namespace| namespace["type"] != "pid");
    bundle.up();
    bundle.wait_for("it runs", || bundle.root().join("ready").exists());
    bundle.runtime(&["kill", "{id}", "KILL"]).expect_ok();
    bundle.wait_for("none is left", || {
        fs::read_to_string(bundle.cgroup().join("cgroup.events"))
            .is_ok_and(|text| text.contains("populated 0"))
    });
    bundle.runtime(&["delete", "{id}"]).expect_ok();
    bundle.expect_gone();
}

/// The descriptor that comes over a socket, and the bytes with it.
fn receive(listener: &UnixListener) -> (Vec<u8>, fs::File) {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let (stream, _) = listener.accept().expect("connected");
    let (mut bytes, mut control) = ([0; 64], nix::cmsg_space!(RawFd));
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty())
        .expect("received");
    let len = message.bytes;
    let fd = message.cmsgs().expect("whole").find_map(|part| match part {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    let file = runtime_sys::process::own_received(fd.expect("a descriptor")).into();
    (bytes[..len].to_vec(), file)
}

#[test]
fn a_pidfd_is_handed_over() {
    let Some(bundle) = shell("sleep 1000") else { return };
    bundle.write();
    let listener = UnixListener::bind(bundle.dir.join("pidfd")).expect("listens");
    let pid_behind = |file: &fs::File| -> String {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).expect("read");
        info.lines().find_map(|line| line.strip_prefix("Pid:")).expect("a pidfd").trim().to_owned()
    };
    bundle.runtime(&["create", "--pidfd-socket", "pidfd", "--pid-file", "pid", "{id}"]).expect_ok();
    let (name, pidfd) = receive(&listener);
    assert_eq!(name, b"pidfd");
    let pid = fs::read_to_string(bundle.dir.join("pid")).expect("written");
    assert_eq!(pid_behind(&pidfd), pid);
    bundle.runtime(&["start", "{id}"]).expect_ok();
    bundle
        .runtime(&["exec", "-d", "--pidfd-socket", "pidfd", "--pid-file", "pid", "{id}", "sleep", "1000"])
        .expect_ok();
    let (_, pidfd) = receive(&listener);
    assert_eq!(pid_behind(&pidfd), fs::read_to_string(bundle.dir.join("pid")).expect("written"));
}

/// Runs the runtime from a shell that opens descriptors first.
fn with_descriptors(bundle: &Bundle, before: &str, words: &str) -> crate::bundle::Answer {
    bundle.write();
    let command = bundle.command(&[]);
    let own: Vec<String> =
        command.get_args().skip(3).map(|word| format!("'{}'", word.to_str().expect("UTF-8"))).collect();
    let script = format!("{before} exec {} {words}", own.join(" ")).replace("{id}", &bundle.id);
    let output = std::process::Command::new("sh").args(["-c", &script]).current_dir(&bundle.dir).output();
    output.expect("sh runs").into()
}

#[test]
fn descriptors_are_preserved_as_many_as_asked_for() {
    let script = "cat <&3; cat <&4; busybox ls /proc/self/fd | busybox xargs";
    let Some(bundle) = shell(script) else { return };
    fs::write(bundle.dir.join("three"), "three\n").expect("written");
    fs::write(bundle.dir.join("four"), "four\n").expect("written");
    let out =
        with_descriptors(&bundle, "exec 3<three 4<four 5<four;", "run --preserve-fds 2 {id}").expect_ok();
    // The fifth is the directory that ls lists.
    assert_eq!(out, "three\nfour\n0 1 2 3 4 5\n");
    with_descriptors(&bundle, "exec 3<three 4<&- 5<&-;", "run --preserve-fds 2 {id}")
        .expect_err(1, "descriptor 4 is not open");
    bundle.expect_gone();
}

#[test]
fn listening_sockets_are_passed_on_as_systemd_does() {
    let Some(bundle) = shell("echo $LISTEN_FDS $LISTEN_PID; cat <&3; cat <&4") else { return };
    fs::write(bundle.dir.join("three"), "three\n").expect("written");
    fs::write(bundle.dir.join("four"), "four\n").expect("written");
    let before = "exec 3<three 4<four; export LISTEN_FDS=1 LISTEN_PID=$$;";
    assert_eq!(
        with_descriptors(&bundle, before, "run --preserve-fds 1 {id}").expect_ok(),
        "1 1\nthree\nfour\n"
    );
    let before = "exec 3<three; export LISTEN_FDS=1 LISTEN_PID=1;";
    let answer = with_descriptors(&bundle, before, "run {id}");
    assert!(answer.out.starts_with("\n"), "those of another process are not ours: {answer:?}");
}

#[test]
fn environment_is_completed_and_the_last_word_counts() {
    let Some(bundle) = running("sleep 1000") else { return };
    fs::create_dir(bundle.root().join("etc")).expect("made");
    fs::write(
        bundle.root().join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nuser:x:7:7::/home/user:/bin/sh\n",
    )
    .expect("written");
    let env = |words: &[&str]| {
        let words = [&["exec"], words, &["{id}", "busybox", "env"]].concat();
        let out = bundle.runtime(&words).expect_ok();
        let mut lines: Vec<String> = out.lines().map(str::to_owned).collect();
        lines.sort();
        lines.join(" ")
    };
    assert_eq!(env(&[]), "HOME=/root PATH=/bin");
    assert_eq!(env(&["-u", "7:7"]), "HOME=/home/user PATH=/bin");
    assert_eq!(env(&["-u", "8:8"]), "HOME=/ PATH=/bin");
    assert_eq!(
        env(&["-e", "HOME=/x", "-e", "PATH=/usr/bin:/bin", "-e", "A=1", "-e", "A=2"]),
        "A=2 HOME=/x PATH=/usr/bin:/bin"
    );
}

/// A terminal of the test's own that a command runs in, as from a user's shell.
struct Desk {
    master: fs::File,
    child: std::process::Child,
    seen: String,
}

impl Desk {
    fn run(bundle: &Bundle, words: &[&str]) -> Self {
        bundle.write();
        let pty = nix::pty::openpty(None, None).expect("a terminal");
        runtime_sys::process::set_window_size(std::os::fd::AsFd::as_fd(&pty.master), 90, 20).expect("sized");
        let inner = bundle.command(words);
        let mut command = std::process::Command::new("setsid");
        command
            .args(["--ctty", "--wait", "timeout", "--foreground"])
            .args(inner.get_args())
            .current_dir(&bundle.dir);
        let side = || pty.slave.try_clone().expect("cloned");
        command.stdin(side()).stdout(side()).stderr(side());
        let child = command.spawn().expect("setsid runs");
        Self { master: pty.master.into(), child, seen: String::new() }
    }

    fn wait_for(&mut self, text: &str) {
        let mut bytes = [0; 1024];
        while !self.seen.contains(text) {
            let len = self.master.read(&mut bytes).unwrap_or(0);
            assert!(len > 0, "{text:?} is not in {:?}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&bytes[..len]));
        }
    }

    fn type_in(&mut self, text: &str) {
        std::io::Write::write_all(&mut self.master, text.as_bytes()).expect("typed");
    }
}

#[test]
fn a_foreground_terminal_is_lent_to_the_container() {
    let Some(bundle) = running("sleep 1000") else { return };
    drop(bundle);
    // Without a trap the first process of a pid namespace is not interrupted, only a sleep that happens to run.
    let script = "tty; stty size; trap 'stty size; echo resized' WINCH; trap 'exit 130' INT; read line; echo got-$line; \
                  while :; do sleep 0.1; done";
    let Some(bundle) = shell(script) else { return };
    let bundle = bundle.with("/process/terminal", json!(true));
    let mut desk = Desk::run(&bundle, &["run", "{id}"]);
    desk.wait_for("/dev/pts/0\r\n20 90\r\n");
    desk.type_in("word\r");
    desk.wait_for("got-word\r\n");
    runtime_sys::process::set_window_size(std::os::fd::AsFd::as_fd(&desk.master), 101, 33).expect("resized");
    desk.wait_for("33 101\r\nresized\r\n");
    // What is typed is for the container: Ctrl-C is its terminal's to handle.
    desk.type_in("\x03");
    assert_eq!(desk.child.wait().expect("ends").code(), Some(130), "{}", desk.seen);
    bundle.expect_gone();
}

#[test]
fn an_exec_has_a_terminal_too() {
    let Some(bundle) = running("sleep 1000") else { return };
    let mut desk = Desk::run(&bundle, &["exec", "-t", "{id}", "sh", "-c", "tty; stty size; exit 5"]);
    desk.wait_for("/dev/pts/0\r\n20 90\r\n");
    assert_eq!(desk.child.wait().expect("ends").code(), Some(5), "{}", desk.seen);
    bundle.exec(&["-t", "sh"]).expect_err(255, "no --console-socket");
}

#[test]
fn signals_to_run_are_passed_on() {
    let script =
        "trap 'echo usr1 >>/got' USR1; trap 'exit 7' TERM; touch /ready; while :; do sleep 0.1; done";
    let Some(bundle) = shell(script) else { return };
    bundle.write();
    // Without timeout(1) between, which passes on only what ends it.
    let words = bundle.command(&["run", "{id}"]);
    let words: Vec<_> = words.get_args().skip(3).collect();
    let mut run = std::process::Command::new("timeout");
    run.args(["--signal", "KILL", "30", "sh", "-c", "echo $$ >runner; exec \"$@\"", "sh"])
        .args(words)
        .current_dir(&bundle.dir);
    let mut run = run.spawn().expect("runs");
    bundle.wait_for("it runs", || bundle.root().join("ready").exists());
    let runner = fs::read_to_string(bundle.dir.join("runner")).expect("written");
    let send = |signal| {
        let pid = nix::unistd::Pid::from_raw(runner.trim().parse().expect("a pid"));
        nix::sys::signal::kill(pid, signal).expect("sent");
    };
    send(nix::sys::signal::Signal::SIGUSR1);
    bundle.wait_for("it arrives", || {
        fs::read_to_string(bundle.root().join("got")).is_ok_and(|text| text == "usr1\n")
    });
    send(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(run.wait().expect("ends").code(), Some(7));
    bundle.expect_gone();
}

#[test]
fn a_state_that_cannot_be_read_is_a_warning_of_list() {
    let Some(bundle) = running("sleep 1000") else { return };
    let broken = bundle.state_root().join("broken");
    fs::create_dir(&broken).expect("made");
    fs::write(broken.join("state.json"), "{").expect("written");
    let answer = bundle.runtime(&["list", "-q"]);
    assert!(answer.code == 0 && answer.out == format!("{}\n", bundle.id), "{answer:?}");
    assert!(answer.err.contains("broken/state.json: EOF while parsing"), "{answer:?}");
    fs::remove_dir_all(broken).expect("removed");
}
