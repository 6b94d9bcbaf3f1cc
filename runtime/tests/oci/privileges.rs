//! Capabilities, groups and ids that a container must not get.

use crate::bundle::{Answer, Bundle, RUNTIME, shell};
use nix::{
    fcntl::{OFlag, open, openat},
    sys::stat::{Mode, mkdirat},
};
use serde_json::json;
use std::path::Path;

const STATUS: [&str; 2] = ["cat", "/proc/self/status"];

/// A command of a caller with more than is good: an inheritable and ambient capability, and further groups.
fn generous(bundle: &Bundle, words: &[&str]) -> Answer {
    let around =
        ["setpriv", "--inh-caps", "+kill,+net_raw", "--ambient-caps", "+kill,+net_raw", "--groups", "4,27"];
    bundle.answer(bundle.command_under(&around, Path::new(RUNTIME), words))
}

fn set(answer: &Answer, name: &str) -> u64 {
    let line =
        answer.out.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{answer:?}"));
    u64::from_str_radix(line.trim(), 16).expect("hexadecimal")
}

/// CVE-2022-29162, CVE-2022-27650: inheritable capabilities nobody asked for, on exec and run, with more given by `--cap` or held by the caller.
#[test]
fn nothing_is_inheritable() {
    let Some(bundle) = shell("sleep 1000") else { return };
    bundle.up();
    for more in [&[][..], &["--cap", "CAP_KILL"], &["--cap", "net_raw"]] {
        let answer = generous(&bundle, &[&["exec"], more, &["{id}"], &STATUS].concat());
        assert_eq!((set(&answer, "CapInh:"), set(&answer, "CapAmb:")), (0, 0), "{answer:?}");
    }
    let Some(bundle) = shell("cat /proc/self/status") else { return };
    bundle.write();
    let answer = generous(&bundle, &["run", "{id}"]);
    assert_eq!((set(&answer, "CapInh:"), set(&answer, "CapAmb:")), (0, 0), "{answer:?}");
}

/// A capability that config.json makes inheritable, but not ambient, and that is ambient in the caller.
#[test]
fn nothing_of_the_callers_is_ambient() {
    let Some(bundle) = shell("cat /proc/self/status; id -G") else { return };
    let bundle = bundle.with("/process/capabilities/inheritable", json!(["CAP_KILL"]));
    bundle.write();
    let answer = generous(&bundle, &["run", "{id}"]);
    assert_eq!((set(&answer, "CapInh:"), set(&answer, "CapAmb:")), (1 << 5, 0), "{answer:?}");
    assert!(answer.out.ends_with("\n0\n"), "the caller's groups are not the container's: {answer:?}");
}

/// CVE-2026-30892: a user string taken for another user, root above all.
#[test]
fn a_user_is_the_one_that_is_named() {
    let Some(bundle) = shell("sleep 1000") else { return };
    let bundle = bundle.with("/process/user", json!({"uid": 0, "gid": 7}));
    bundle.up();
    let ids = |user: &str| bundle.runtime(&["exec", "--user", user, "{id}", "sh", "-c", "id -u; id -g"]);
    for (user, expected) in
        [("1", "1\n7\n"), ("1000", "1000\n7\n"), ("1:2", "1\n2\n"), ("0:0", "0\n0\n"), ("010", "10\n7\n")]
    {
        assert_eq!(ids(user).expect_ok(), expected, "{user:?}");
    }
    for user in [
        "",
        ":",
        "root",
        "-1",
        "-0",
        "+0",
        "0x0",
        "1000:",
        ":5",
        "1:-1",
        "1:+0",
        "1:0x0",
        "1:root",
        " 1",
        "1 ",
        "1,2",
        "1.0",
        "1e3",
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "1:4294967295",
        "1:4294967296",
        "1000:1000:0",
        "0\n",
    ] {
        let answer = ids(user);
        assert!(answer.code != 0 && answer.out.is_empty(), "{user:?}: {answer:?}");
    }
}

/// A container that can make cgroups nests them deeper than any path is long.
#[test]
fn cgroups_nested_too_deep_for_a_path_are_removed() {
    let Some(bundle) = shell("sleep 1000") else { return };
    bundle.up();
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let mut dir = open(&bundle.cgroup(), flags, Mode::empty()).expect("opened");
    for _ in 0..3000 {
        mkdirat(&dir, "x", Mode::S_IRWXU).expect("made");
        dir = openat(&dir, "x", flags, Mode::empty()).expect("opened");
    }
    drop(dir);
    bundle.runtime(&["delete", "--force", "{id}"]).expect_ok();
    bundle.expect_gone();
}

/// The terminal of whoever runs a container is not the container's: it could put words into its mouth (TIOCSTI, CVE-2016-2568 and others).
#[test]
fn the_callers_terminal_is_out_of_reach() {
    let Some(bundle) = shell("(: </dev/tty) 2>/dev/null && echo reached >/seen || echo none >/seen") else {
        return;
    };
    bundle.write();
    let command = bundle.command(&["run", "{id}"]);
    let words: Vec<String> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    // script(1) gives its command a terminal that controls it; timeout(1) in the foreground leaves it that.
    let line = format!("timeout --foreground {}", words.join(" "));
    let mut script = std::process::Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).current_dir(&bundle.dir).stdin(std::process::Stdio::null());
    bundle.answer(script).expect_ok();
    assert_eq!(std::fs::read_to_string(bundle.root().join("seen")).expect("it ran"), "none\n");
}

/// What every program in Rust ignores, a program of the container does not.
#[test]
fn sigpipe_ends_a_program() {
    let Some(bundle) = shell("cat /proc/self/status") else { return };
    let answer = bundle.run();
    assert_eq!((set(&answer, "SigIgn:") & 1 << 12, set(&answer, "SigBlk:")), (0, 0), "{answer:?}");
}

/// A device that config.json does not list cannot be opened, even where it can be made.
#[test]
fn other_devices_are_out_of_reach() {
    let script = "mknod /dev/x c 10 237 && : </dev/null && echo null; cat /dev/x 2>&1";
    let denied = "open '/dev/x': Operation not permitted";
    let Some(bundle) = shell(script) else { return };
    let answer = bundle.run();
    assert!(answer.out.starts_with("null\n") && answer.out.contains(denied), "{answer:?}");
    let Some(bundle) = shell(script) else { return };
    let rule = json!({"allow": true, "type": "c", "major": 10, "minor": 237, "access": "rw"});
    let resources = json!({"devices": [{"allow": false, "access": "rwm"}, rule]});
    let answer = bundle.with("/linux/resources", resources).run();
    assert!(answer.out.starts_with("null\n") && !answer.out.contains(denied), "{answer:?}");
}

/// A container whose cgroup has somebody else's processes would kill them when it is deleted.
#[test]
fn processes_of_another_are_not_killed() {
    let (Some(first), Some(second)) = (shell("sleep 1000"), shell("true")) else { return };
    first.up();
    let other = first.config["linux"]["cgroupsPath"].clone();
    let own = second.config["linux"]["cgroupsPath"].clone();
    let mut second = second.with("/linux/cgroupsPath", other);
    second.run().expect_err(1, "linux.cgroupsPath");
    second.runtime(&["delete", "--force", "{id}"]).expect_ok();
    assert_eq!(first.status(), "running");
    second.config["linux"]["cgroupsPath"] = own;
}

#[test]
fn capabilities_that_are_not_known_are_left_out() {
    let Some(bundle) = shell("grep CapBnd /proc/self/status") else { return };
    let bundle = bundle.with("/process/capabilities", json!({"bounding": ["CAP_KILL", "CAP_NOPE"]}));
    let answer = bundle.run();
    let warned = "process.capabilities.bounding.CAP_NOPE is ignored";
    assert!(answer.code == 0 && answer.err.contains(warned), "{answer:?}");
    assert!(answer.out.ends_with("0000000000000020\n"), "{answer:?}");
}

/// A keyring with a name could be one that another container has made and lets others search.
#[test]
fn the_session_keyring_has_no_name() {
    let Some(bundle) = shell("cat /proc/keys") else { return };
    let bundle = bundle.with("/linux/maskedPaths", json!([]));
    let keys = bundle.run().expect_ok();
    assert!(keys.contains(" _ses: ") && !keys.contains(&format!("_ses.{}", bundle.id)), "{keys}");
}

#[test]
fn capabilities_that_cannot_be_granted_are_named() {
    let Some(bundle) = shell("grep -E 'Cap(Bnd|Prm|Eff)' /proc/self/status") else { return };
    let asked = json!(["CAP_KILL", "CAP_LEASE", "CAP_NET_RAW"]);
    let bundle = bundle.with(
        "/process/capabilities",
        json!({"bounding": asked, "permitted": asked, "effective": asked, "ambient": ["CAP_KILL"]}),
    );
    bundle.write();
    let run =
        |around: &[&str]| bundle.answer(bundle.command_under(around, Path::new(RUNTIME), &["run", "{id}"]));
    let ambient =
        "process.capabilities: ambient CAP_KILL are left out: they are not both permitted and inheritable";
    let all = run(&[]);
    assert!(all.err.contains(ambient) && all.err.lines().count() == 1, "{}", all.err);
    let fewer = run(&["setpriv", "--bounding-set=-lease,-net_raw"]);
    let missing =
        "process.capabilities: CAP_LEASE, CAP_NET_RAW are left out: this process does not have them itself";
    assert!(fewer.err.contains(missing), "{}", fewer.err);
    assert_eq!(fewer.expect_ok().matches("0000000000000020").count(), 3, "CAP_KILL is there");
}
