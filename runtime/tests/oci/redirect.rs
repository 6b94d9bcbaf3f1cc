//! Privileged reads and writes of the runtime led elsewhere by what a container has on /proc, /sys and /dev.

use crate::bundle::{Bundle, RUNTIME, shell};
use serde_json::json;
use std::{fs, os::unix::fs::symlink, path::Path};

/// The image says that its volume is `/volume`, which is a link of its own to `to`; the volume is the directory `fake` of the bundle.
fn volume_over(bundle: Bundle, to: &str) -> Bundle {
    symlink(to, bundle.root().join("volume")).expect("linked");
    bundle.also(
        "/mounts",
        json!({"destination": "/volume", "type": "bind", "source": "fake", "options": ["rbind"]}),
    )
}

/// CVE-2019-16884, CVE-2019-19921: a volume over /proc swallows masks and privileged writes.
#[test]
fn a_volume_over_proc_is_refused() {
    let Some(bundle) = shell("true") else { return };
    fs::create_dir_all(bundle.dir.join("fake/self/attr")).expect("made");
    fs::create_dir_all(bundle.dir.join("fake/sys/kernel")).expect("made");
    let bundle = volume_over(bundle, "/proc");
    bundle.run().expect_err(1, "/proc");
    bundle.expect_gone();
}

/// The same with something that is on a procfs, but not all of it.
#[test]
fn a_part_of_procfs_is_no_procfs() {
    let Some(bundle) = shell("true") else { return };
    let part =
        json!({"destination": "/proc", "type": "bind", "source": "/proc/self/task", "options": ["bind"]});
    let bundle = bundle.also("/mounts", part);
    bundle.run().expect_err(1, "/proc");
    bundle.expect_gone();
}

/// CVE-2023-27561, CVE-2019-19921: /proc of the image is a link to where a volume is.
#[test]
fn proc_as_a_symlink_is_refused() {
    for name in ["proc", "sys"] {
        let Some(bundle) = shell("true") else { return };
        fs::create_dir(bundle.root().join("elsewhere")).expect("made");
        symlink("/elsewhere", bundle.root().join(name)).expect("linked");
        bundle.run().expect_err(1, &format!("/{name}"));
        bundle.expect_gone();
    }
}

/// CVE-2025-52881: a volume over a part of procfs holds a link to another file there, so that the file that is written is on a procfs indeed. On the
/// real thing it was /proc/sysrq-trigger.
#[test]
fn a_sysctl_is_not_written_to_another_file() {
    let link = "/proc/sys/kernel/shm_rmid_forced";
    for (over, at) in [
        ("/proc/sys/net", "ipv4/ip_forward"),
        ("/proc/sys/net/ipv4", "ip_forward"),
        ("/proc/sys/net", "ipv4"),
    ] {
        let Some(bundle) = shell(&format!("cat {link}")) else { return };
        let file = bundle.dir.join("fake").join(at);
        fs::create_dir_all(file.parent().expect("a directory")).expect("made");
        let link = if at == "ipv4" { "/proc/sys/kernel" } else { link };
        symlink(link, &file).expect("linked");
        symlink("shm_rmid_forced", bundle.dir.join("fake/x")).expect("linked");
        let name = if at == "ipv4" { "net.ipv4.shm_rmid_forced" } else { "net.ipv4.ip_forward" };
        let bundle = volume_over(bundle, over).with("/linux/sysctl", json!({name: "1"}));
        let answer = bundle.run();
        assert!(answer.out != "1\n", "{over}: {answer:?}");
        bundle.expect_gone();
    }
}

/// CVE-2025-52881: the same for the OOM score.
#[test]
fn an_oom_score_is_not_written_to_another_file() {
    let victim = "/proc/sys/kernel/shm_rmid_forced";
    for over in ["/proc/self", "/proc/thread-self", "/proc/1", "/proc/1/task/1"] {
        let Some(bundle) = shell(&format!("cat {victim}")) else { return };
        fs::create_dir(bundle.dir.join("fake")).expect("made");
        symlink(victim, bundle.dir.join("fake/oom_score_adj")).expect("linked");
        let bundle = volume_over(bundle, over)
            .with("/process/oomScoreAdj", json!(1))
            .with("/linux/readonlyPaths", json!([]));
        let answer = bundle.run();
        assert_eq!(answer.out, "0\n", "{over}: {answer:?}");
        bundle.expect_gone();
    }
}

/// CVE-2019-16884, CVE-2019-19921, CVE-2023-27561, CVE-2025-52881: the AppArmor profile written to a file that takes anything, so that the container
/// runs without. A host without AppArmor is made to look like one with it; its kernel then refuses the profile, unless the write went elsewhere.
#[test]
fn a_label_is_not_written_to_another_file() {
    let Some(bundle) = shell("true") else { return };
    if Path::new("/sys/module/apparmor").exists() {
        // The kernel itself would take a profile that is loaded; this one is not.
        assert!(
            !fs::read_to_string("/sys/kernel/security/apparmor/profiles")
                .is_ok_and(|text| text.contains("oci-test "))
        );
    }
    let pretend = "mount -t tmpfs none /sys/module && mkdir -p /sys/module/apparmor/parameters
        echo Y >/sys/module/apparmor/parameters/enabled && exec \"$@\"";
    for over in ["/proc/self/attr", "/proc/thread-self/attr", "/proc/1/attr", "/proc/1/task/1/attr"] {
        let Some(bundle) = shell("echo unconfined") else { return };
        fs::create_dir_all(bundle.dir.join("fake/apparmor")).expect("made");
        for name in ["exec", "apparmor/exec"] {
            fs::write(bundle.dir.join("fake").join(name), "").expect("written");
        }
        let bundle = volume_over(bundle, over).with("/process/apparmorProfile", json!("oci-test"));
        bundle.write();
        let around = ["unshare", "-m", "sh", "-c", pretend, "sh"];
        let answer = bundle.answer(bundle.command_under(&around, Path::new(RUNTIME), &["run", "{id}"]));
        answer.expect_err(1, "process.apparmorProfile");
        for name in ["exec", "apparmor/exec"] {
            assert_eq!(fs::read_to_string(bundle.dir.join("fake").join(name)).expect("read"), "", "{over}");
        }
    }
    drop(bundle);
}

/// A sysctl of the whole host, set from a container's config.json: whoever sets the core pattern runs programs on the host.
#[test]
fn a_sysctl_of_the_host_is_refused() {
    for name in ["kernel.core_pattern", "kernel/core_pattern", "net/../kernel/core_pattern"] {
        let Some(bundle) = shell("true") else { return };
        // As it is, so that no harm is done where it can be set.
        let now = fs::read_to_string("/proc/sys/kernel/core_pattern").expect("read");
        let bundle = bundle.with("/linux/sysctl", json!({name: now.trim_end()}));
        bundle.run().expect_err(1, "linux.sysctl");
        bundle.expect_gone();
    }
}

/// Without a network namespace of its own it would be the caller's, as it would in one that is joined and is the caller's.
#[test]
fn a_sysctl_needs_its_namespace() {
    let Some(mut bundle) = shell("true") else { return };
    let now = fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").expect("read");
    let own = format!("/proc/{}/ns/net", std::process::id());
    let bundle_joining = shell("true").expect("as before");
    bundle_joining
        .with("/linux/namespaces/4", json!({"type": "network", "path": own}))
        .with("/linux/sysctl", json!({"net.ipv4.ip_default_ttl": now.trim_end()}))
        .run()
        .expect_err(1, "linux.sysctl");
    bundle.config["linux"]["namespaces"]
        .as_array_mut()
        .expect("a list")
        .retain(|entry| entry["type"] != "network");
    let bundle = bundle.with("/linux/sysctl", json!({"net.ipv4.ip_default_ttl": now.trim_end()}));
    bundle.run().expect_err(1, "linux.sysctl");
}

/// A container that may mount has its own things on /proc and /dev/pts when an exec comes: CVE-2016-9962 and CVE-2025-52881, on exec.
#[test]
fn an_exec_uses_nothing_of_a_hostile_container() {
    let script = "mount -t tmpfs none /proc && mkdir -p /proc/self/attr /proc/thread-self/attr /proc/self/fd
        echo untouched >/proc/self/oom_score_adj; mkfifo /proc/self/setgroups
        mount -t tmpfs none /dev/pts && mkfifo /dev/pts/ptmx; touch /ready; sleep 1000";
    let Some(mut bundle) = shell(&script.replace("mkfifo", "busybox mkfifo")) else { return };
    let capabilities = json!(["CAP_SYS_ADMIN", "CAP_MKNOD"]);
    for set in ["bounding", "effective", "permitted"] {
        bundle.config["process"]["capabilities"][set] = capabilities.clone();
    }
    bundle.config["linux"].as_object_mut().expect("an object").remove("seccomp");
    bundle.up();
    bundle.wait_for("it is hostile", || bundle.root().join("ready").exists());
    let mut process = bundle.config["process"].clone();
    process["args"] = json!(["/bin/cat", "/proc/self/oom_score_adj"]);
    process["oomScoreAdj"] = json!(500);
    fs::write(bundle.dir.join("process.json"), process.to_string()).expect("written");
    assert_eq!(bundle.runtime(&["exec", "--process", "process.json", "{id}"]).expect_ok(), "untouched\n");
    let socket = std::os::unix::net::UnixListener::bind(bundle.dir.join("console.sock")).expect("bound");
    let tty = ["exec", "--tty", "--console-socket", "console.sock", "{id}", "id"];
    let answer = bundle.runtime(&tty);
    assert!(answer.code != 0 && answer.err.contains("/dev/pts"), "{answer:?}");
    drop(socket);
    process["args"] = json!(["/bin/sleep", "1000"]);
    fs::write(bundle.dir.join("process.json"), process.to_string()).expect("written");
    let words = ["exec", "--detach", "--pid-file", "pid", "--process", "process.json", "{id}"];
    bundle.runtime(&words).expect_ok();
    let pid = fs::read_to_string(bundle.dir.join("pid")).expect("written");
    let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", pid.trim())).expect("read");
    assert_eq!(score, "500\n");
}
