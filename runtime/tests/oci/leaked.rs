//! What the runtime, or its caller, has open, and what of it a container reaches (CVE-2024-21626, CVE-2016-9962).

use crate::bundle::{Answer, Bundle, shell};
use serde_json::json;
use std::{fs, os::unix::fs::PermissionsExt, path::Path};

/// Descriptors that the runtime may have open; 9 is the caller's, who forgot to close it.
const DESCRIPTORS: std::ops::RangeInclusive<u32> = 3..=12;

/// A command whose caller has left a descriptor of the host's root open.
fn careless(bundle: &Bundle, words: &[&str]) -> Answer {
    let around = ["sh", "-c", "exec 9</; exec \"$@\"", "sh"];
    bundle.answer(bundle.command_under(&around, Path::new(crate::bundle::RUNTIME), words))
}

/// `path` of the host, as seen from a descriptor of any of its directories.
fn through(fd: u32, path: &Path) -> String {
    format!("/proc/self/fd/{fd}/../../../../../../../../../..{}", path.display())
}

/// A host's program that prints its arguments, and where a container finds it in vain.
fn program(bundle: &Bundle) -> std::path::PathBuf {
    let program = bundle.dir.join("outside/echo");
    fs::create_dir(bundle.dir.join("outside")).expect("made");
    fs::copy(bundle.root().join("bin/busybox"), &program).expect("copied");
    program
}

/// Every field in which a path leads through a descriptor, in `run` and in `exec`.
fn each(attack: impl Fn(&mut Bundle, u32)) {
    for fd in DESCRIPTORS {
        let Some(mut bundle) = shell("sleep 1000") else { return };
        bundle.up();
        attack(&mut bundle, fd);
        let process = bundle.config["process"].to_string();
        fs::write(bundle.dir.join("process.json"), process).expect("written");
        let answer = careless(&bundle, &["exec", "--process", "process.json", "{id}"]);
        expect_inside(&bundle, &format!("exec {fd}"), &answer);
        bundle.runtime(&["delete", "--force", "{id}"]).expect_ok();
        bundle.write();
        let answer = careless(&bundle, &["run", "{id}"]);
        expect_inside(&bundle, &format!("run {fd}"), &answer);
    }
}

fn expect_inside(bundle: &Bundle, what: &str, answer: &Answer) {
    assert!(!answer.out.contains("escaped"), "{what}: {answer:?}");
    assert!(!bundle.dir.join("outside/made").exists(), "{what}: {answer:?}");
}

#[test]
fn a_descriptor_is_no_working_directory() {
    each(|bundle, fd| {
        let secret = bundle.dir.join("outside/secret");
        let _ = fs::create_dir(bundle.dir.join("outside"));
        fs::write(&secret, "escaped").expect("written");
        bundle.config["process"]["cwd"] = json!(through(fd, secret.parent().expect("a directory")));
        bundle.config["process"]["args"] = json!(["/bin/cat", "secret"]);
    });
}

/// What is not there is made, as the container's root.
#[test]
fn no_working_directory_is_made_outside() {
    each(|bundle, fd| {
        let _ = fs::create_dir(bundle.dir.join("outside"));
        bundle.config["process"]["cwd"] = json!(through(fd, &bundle.dir.join("outside/made")));
        bundle.config["process"]["args"] = json!(["/bin/cat", "/proc/self/status"]);
    });
}

#[test]
fn a_program_of_the_host_is_not_run() {
    each(|bundle, fd| {
        let program = program(bundle);
        bundle.config["process"]["args"] = json!([through(fd, &program), "escaped"]);
    });
    each(|bundle, fd| {
        let program = program(bundle);
        bundle.config["process"]["args"] = json!(["echo", "escaped"]);
        let path = format!("PATH={}", through(fd, program.parent().expect("a directory")));
        bundle.config["process"]["env"] = json!([path]);
    });
}

/// The kernel looks an interpreter up before it closes what is to be closed on exec.
#[test]
fn an_interpreter_of_the_host_is_not_run() {
    each(|bundle, fd| {
        let (program, script) = (program(bundle), bundle.root().join("script"));
        fs::write(&script, format!("#!{} escaped\n", through(fd, &program))).expect("written");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("set");
        bundle.config["process"]["args"] = json!(["/script"]);
    });
}

#[test]
fn no_descriptor_is_inherited() {
    let Some(bundle) = shell("ls -l /proc/self/fd") else { return };
    bundle.write();
    // Its own standard streams, and what it lists.
    let answer = careless(&bundle, &["run", "{id}"]);
    let lines = answer.out.lines().filter(|line| !line.starts_with("total"));
    assert_eq!(lines.count(), 4, "{answer:?}");
}

/// CVE-2016-9962: a process of an exec that has joined the container and still has the host's root, which whoever may trace it reads; in a user
/// namespace that is every root.
#[test]
fn a_joining_process_cannot_be_looked_into() {
    let script = "for n in $(busybox seq 400); do for p in /proc/[0-9]*; do cat $p/root$SECRET; done; done 2>/dev/null";
    let Some(bundle) = shell(&format!("while [ ! -e /stop ]; do {script}; done")) else { return };
    let secret = bundle.dir.join("secret");
    fs::write(&secret, "escaped\n").expect("written");
    let map = json!([{"containerID": 0, "hostID": 200_000, "size": 65_536}]);
    let capabilities = json!(["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"]);
    let mut bundle = bundle
        .also("/linux/namespaces", json!({"type": "user"}))
        .with("/linux/uidMappings", map.clone())
        .with("/linux/gidMappings", map)
        .with("/process/env", json!(["PATH=/bin", format!("SECRET={}", secret.display())]));
    for set in ["bounding", "effective", "permitted"] {
        bundle.config["process"]["capabilities"][set] = capabilities.clone();
    }
    bundle.config["linux"].as_object_mut().expect("an object").remove("seccomp");
    std::os::unix::fs::chown(bundle.root(), Some(200_000), Some(200_000)).expect("chown");
    bundle.write();
    let mut create = bundle.command(&["create", "{id}"]);
    let (out, err) = (bundle.dir.join("seen"), bundle.dir.join("seen-err"));
    create.stdout(fs::File::create(&out).expect("made")).stderr(fs::File::create(&err).expect("made"));
    assert!(create.status().expect("runs").success(), "{:?}", fs::read_to_string(&err));
    bundle.runtime(&["start", "{id}"]).expect_ok();
    for _ in 0..5 {
        bundle.slowed("setns", &["exec", "{id}", "/bin/cat", "/proc/self/status"]).expect_ok();
    }
    assert_eq!(fs::read_to_string(&out).expect("read"), "");
}
