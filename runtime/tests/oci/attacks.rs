//! Published ways out of a container, each tried for real; on a runtime with the flaw each would succeed.

use crate::bundle::shell;
use serde_json::json;
use std::{fs, os::unix::fs::symlink};

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
    bundle.run().expect_err(1, "open the mount point /link/deep: No such file");
    assert!(!outside.exists());
    bundle.expect_gone();
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
    bundle.run().expect_err(1, "open the mount point /dev: No such file");
    assert_eq!(fs::read_dir(&outside).expect("read").count(), 0);
}
