//! Published ways out of a container, each tried for real; on a runtime with the flaw each would succeed.

use crate::bundle::shell;
use serde_json::json;
use std::{fs, os::unix::fs::symlink};

/// CVE-2019-5736: a container that runs the runtime again, as `/proc/self/exe`, finds it and writes to it.
#[test]
fn the_runtime_cannot_be_written_through_proc() {
    let Some(bundle) = shell("true") else { return };
    bundle.write();
    bundle.runtime(&["create", "{id}"]).expect_ok();
    let pid = bundle.state()["pid"].as_i64().expect("a pid");
    // Without care it would be ETXTBSY, which ends when nobody runs it any more.
    let exe = fs::File::options().write(true).truncate(true).open(format!("/proc/{pid}/exe"));
    assert_eq!(exe.expect_err("read-only").kind(), std::io::ErrorKind::ReadOnlyFilesystem);
}
/// CVE-2019-16884, CVE-2019-19921: a directory in place of /proc swallows masks and privileged writes.
#[test]
fn a_false_proc_is_refused() {
    let Some(bundle) = shell("true") else { return };
    fs::create_dir_all(bundle.dir.join("fake/self")).expect("made");
    fs::create_dir_all(bundle.dir.join("fake/sys/kernel")).expect("made");
    let bundle = bundle.also(
        "/mounts",
        json!({"destination": "/proc", "type": "bind", "source": "fake", "options": ["bind"]}),
    );
    bundle.run().expect_err(1, "/proc");
    bundle.expect_gone();
}

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

/// CVE-2021-30465: a mount target that is a symlink out of the root.
#[test]
fn a_mount_target_stays_inside() {
    let Some(bundle) = shell("cat /data/file /outside/file") else { return };
    let outside = bundle.dir.join("outside");
    fs::create_dir(&outside).expect("made");
    fs::create_dir(bundle.dir.join("volume")).expect("made");
    fs::write(bundle.dir.join("volume/file"), "volume\n").expect("written");
    fs::create_dir(bundle.root().join("outside")).expect("made");
    symlink("/../../../outside", bundle.root().join("data")).expect("linked");
    let bundle = bundle.also(
        "/mounts",
        json!({"destination": "/data", "type": "bind", "source": "volume", "options": ["bind"]}),
    );
    assert_eq!(bundle.run().expect_ok(), "volume\nvolume\n");
    assert_eq!(fs::read_dir(&outside).expect("read").count(), 0);
}

/// CVE-2024-45310: directories for a mount made behind a symlink, outside the root.
#[test]
fn no_directory_is_made_outside() {
    let Some(bundle) = shell("true") else { return };
    let outside = bundle.dir.join("made-outside");
    symlink(format!("/../../../../../../../..{}", outside.display()), bundle.root().join("link"))
        .expect("linked");
    let bundle = bundle.also("/mounts", json!({"destination": "/link/deep", "type": "tmpfs"}));
    let _ = bundle.run();
    assert!(!outside.exists());
    bundle.expect_gone();
}

/// CVE-2022-29162: inheritable capabilities nobody asked for, on exec.
#[test]
fn nothing_is_inheritable() {
    let Some(bundle) = shell("sleep 1000") else { return };
    bundle.up();
    let out = bundle.exec(&["grep", "CapInh", "/proc/self/status"]).expect_ok();
    assert_eq!(out, "CapInh:\t0000000000000000\n");
}

/// CVE-2024-21626: a descriptor of a host directory that is still open, as working directory.
#[test]
fn a_leaked_descriptor_is_no_working_directory() {
    for fd in 3..16 {
        let Some(bundle) = shell("cat ../../../../../../etc/hostname; pwd") else { return };
        let bundle = bundle.with("/process/cwd", json!(format!("/proc/self/fd/{fd}")));
        let answer = bundle.run();
        // What is refused is refused by name; what the root holds may be entered.
        assert!(answer.err.contains("process.cwd") || answer.out.ends_with("/\n"), "{fd}: {answer:?}");
        assert!(
            !std::path::Path::new("/etc/hostname").exists() || !answer.out.contains(&*hostname()),
            "{fd}: {answer:?}"
        );
    }
}

fn hostname() -> String {
    fs::read_to_string("/etc/hostname").unwrap_or_else(|_| "never printed".to_owned())
}

#[test]
fn no_descriptor_is_inherited() {
    let Some(bundle) = shell("ls -l /proc/self/fd") else { return };
    bundle.write();
    // The shell's own descriptor 9 is not close-on-exec.
    let out = std::process::Command::new("sh")
        .args(["-c", "exec 9</etc; exec \"$@\"", "sh"])
        .args(
            std::iter::once("timeout".into())
                .chain(bundle.command(&["run", "{id}"]).get_args().map(ToOwned::to_owned)),
        )
        .current_dir(&bundle.dir)
        .output()
        .expect("runs");
    let out = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(out.lines().filter(|line| !line.starts_with("total")).count(), 4, "{out}");
}

/// CVE-2025-31133: /dev/null swapped for a link, so that masking binds what it leads to.
#[test]
fn a_false_null_device_masks_nothing_else() {
    let Some(bundle) = shell("cat /proc/kcore; stat -c %F /proc/kcore") else { return };
    fs::create_dir_all(bundle.root().join("dev")).expect("made");
    symlink("/proc/sys/kernel/core_pattern", bundle.root().join("dev/null")).expect("linked");
    let mounts: Vec<_> = bundle.config["mounts"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|mount| !mount["destination"].as_str().expect("text").starts_with("/dev"))
        .cloned()
        .collect();
    let bundle = bundle.with("/mounts", json!(mounts));
    bundle.run().expect_err(1, "/dev/null");
    bundle.expect_gone();
}

/// CVE-2026-41579: /dev in the image leads elsewhere.
#[test]
fn dev_as_a_symlink_makes_nothing_outside() {
    let Some(bundle) = shell("true") else { return };
    let outside = bundle.dir.join("outside-dev");
    fs::create_dir(&outside).expect("made");
    symlink(format!("/../../../..{}", outside.display()), bundle.root().join("dev")).expect("linked");
    let _ = bundle.run();
    assert_eq!(fs::read_dir(&outside).expect("read").count(), 0);
}

/// A user string that is no number is refused, never taken for root (CVE-2026-30892).
#[test]
fn a_strange_user_is_refused() {
    let Some(bundle) = shell("sleep 1000") else { return };
    bundle.up();
    for user in ["", "root", "-1", "1000:", ":5", "4294967295", "4294967296", "1000:1000:0", "0x0", "+0"] {
        let answer = bundle.runtime(&["exec", "--user", user, "{id}", "id"]);
        assert_ne!(answer.code, 0, "{user:?}: {answer:?}");
    }
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
