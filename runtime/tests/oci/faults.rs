//! The runtime killed, or refused by the kernel, at its system calls: whatever is left, `delete --force` removes.
//!
//! strace counts the calls of a clean run by name, then injects the fault at the first ones of each name and at a sample of the later ones.

use crate::bundle::{Bundle, shell};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Stdio},
};

/// Of each name the first calls are all tried, then every fifth.
const FIRST: usize = 3;
const STEP: usize = 5;

/// The exit code of the command; strace stays with the container that it leaves.
fn traced(bundle: &Bundle, options: &[&str], words: &[&str]) -> i32 {
    let run = bundle.command(words);
    let mut command = Command::new("timeout");
    // timeout(1)'s own arguments come first in `run`: -k 5 30 RUNTIME ...
    command
        .args(["-k", "5", "30", "strace", "-D", "-f", "-qq", "-o"])
        .arg(bundle.dir.join("trace"))
        .args(options);
    command.args(run.get_args().skip(3)).current_dir(&bundle.dir);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().expect("strace runs: `apt-get install strace`").code().unwrap_or(-1)
}

/// Names of calls, and how often the process that makes most of them makes each.
fn calls(trace: &Path) -> BTreeMap<String, usize> {
    let text = fs::read_to_string(trace).expect("trace read");
    let mut by_process: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for line in text.lines() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let Some((name, _)) = rest.trim_start().split_once('(') else { continue };
        if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            *by_process.entry((pid, name)).or_default() += 1;
        }
    }
    let mut calls = BTreeMap::new();
    for ((_, name), count) in by_process {
        let most = calls.entry(name.to_owned()).or_insert(0);
        *most = count.max(*most);
    }
    // They cannot fail, or never return, or are the shell's that never runs.
    for never in ["exit_group", "brk", "rt_sigreturn", "exit"] {
        calls.remove(never);
    }
    calls
}

/// Runs `words`, from the state that `before` makes, once for each fault; afterwards nothing may be left.
fn each(fault: &str, names: Option<&[&str]>, before: &[&[&str]], words: &[&str]) {
    let Some(bundle) = shell("sleep 1000") else { return };
    bundle.write();
    let prepare = || before.iter().for_each(|words| drop(bundle.runtime(words).expect_ok()));
    let clear = |what: &str| {
        let answer = bundle.runtime(&["delete", "--force", "{id}"]);
        assert_eq!(answer.code, 0, "{what}: {}", answer.err);
        bundle.expect_gone();
    };
    prepare();
    assert_eq!(traced(&bundle, &[], words), 0);
    let calls = calls(&bundle.dir.join("trace"));
    clear("without a fault");
    assert!(calls.len() > 10, "{calls:?}");
    let (mut tried, mut hit) = (0, 0);
    for (name, &count) in
        calls.iter().filter(|(name, _)| names.is_none_or(|names| names.contains(&name.as_str())))
    {
        for at in (1..=count).filter(|at| *at <= FIRST || at % STEP == 0) {
            prepare();
            let inject = format!("inject={name}:{fault}:when={at}");
            let code = traced(&bundle, &["-e", &format!("trace={name}"), "-e", &inject], words);
            if fault.starts_with("error") && code != 0 && before.is_empty() {
                // An error that is told leaves nothing by itself.
                let left = bundle.state_root().join(&bundle.id);
                assert!(
                    !left.exists() || name == "unlinkat" || name == "rmdir" || name == "openat",
                    "{inject}: {} is left",
                    left.display()
                );
            }
            clear(&inject);
            tried += 1;
            hit += usize::from(code != 0);
        }
    }
    // The first process's calls may come after the command has ended; but a fault that never shows is none.
    assert!(2 * hit > tried, "{hit} of {tried} faults were noticed");
    eprintln!("{fault} at {tried} calls of {words:?}");
}

#[test]
fn killed_at_any_call_of_create() {
    each("signal=KILL", None, &[], &["create", "{id}"]);
}

#[test]
fn killed_at_any_call_of_run() {
    each("signal=KILL", None, &[], &["run", "--detach", "{id}"]);
}

#[test]
fn killed_at_any_call_of_start() {
    each("signal=KILL", None, &[&["create", "{id}"]], &["start", "{id}"]);
}

#[test]
fn killed_at_any_call_of_kill_and_delete() {
    let up: &[&[&str]] = &[&["create", "{id}"], &["start", "{id}"]];
    each("signal=KILL", None, up, &["kill", "{id}", "KILL"]);
    each("signal=KILL", None, up, &["delete", "--force", "{id}"]);
}

#[test]
fn refused_by_the_kernel_at_any_call_of_create() {
    let names = [
        "open",
        "openat",
        "openat2",
        "mkdir",
        "mkdirat",
        "write",
        "rename",
        "clone3",
        "bpf",
        "socketpair",
        "bind",
        "listen",
        "mount",
        "open_tree",
        "move_mount",
        "fsopen",
        "fsconfig",
        "fsmount",
        "mount_setattr",
        "mknodat",
        "symlinkat",
        "sethostname",
        "pivot_root",
        "umount2",
        "chdir",
        "fchdir",
        "keyctl",
        "setsid",
        "ioctl",
        "sendmsg",
        "recvmsg",
    ];
    each("error=EIO", Some(&names), &[], &["create", "{id}"]);
}
