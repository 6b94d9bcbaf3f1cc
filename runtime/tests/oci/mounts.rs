//! Mount options and propagation, each by what the kernel says of the mount.

use crate::bundle::{Answer, Bundle, shell};
use serde_json::{Value, json};
use std::{fs, process::Command};

/// Runs a script in a mount namespace of its own, so that its mounts go whatever happens; `$RUN` in it is `run` of the bundle.
fn in_own_mounts(bundle: &Bundle, script: &str) -> Answer {
    bundle.write();
    let run = bundle.command(&["run", "{id}"]);
    let words: Vec<String> =
        run.get_args().map(|word| format!("'{}'", word.to_str().expect("UTF-8"))).collect();
    let script = script.replace("$RUN", &format!("timeout {}", words.join(" ")));
    let output = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-ec", &script])
        .current_dir(&bundle.dir)
        .output();
    output.expect("unshare runs").into()
}

/// With a directory beside the root to mount in the container.
fn with_volume(script: &str) -> Option<Bundle> {
    let bundle = shell(script)?;
    fs::create_dir(bundle.dir.join("volume")).expect("made");
    Some(bundle)
}

fn bind(bundle: Bundle, target: &str, options: Value) -> Bundle {
    bundle.also(
        "/mounts",
        json!({"destination": target, "type": "bind", "source": "volume", "options": options}),
    )
}

/// May mount.
fn privileged(bundle: Bundle) -> Bundle {
    let all = json!(["CAP_SYS_ADMIN"]);
    bundle
        .with("/process/capabilities", json!({"bounding": all, "permitted": all, "effective": all}))
        .with("/linux/seccomp", Value::Null)
}

#[test]
fn every_attribute_is_in_force_or_off() {
    let on = ["ro", "nosuid", "nodev", "noexec", "nosymfollow", "noatime", "nodiratime"];
    // Word, the same for the mounts below, and what clears it.
    let clears = ["rw", "suid", "dev", "exec", "symfollow", "relatime", "diratime"];
    let Some(bundle) = with_volume("grep ' /data' /proc/self/mountinfo") else { return };
    let bundle =
        on.iter().fold(bundle, |bundle, word| bind(bundle, &format!("/data/{word}"), json!(["bind", word])));
    let bundle = on.iter().fold(bundle, |bundle, word| {
        bind(bundle, &format!("/data/r{word}"), json!(["bind", format!("r{word}")]))
    });
    let bundle = on.iter().zip(clears).fold(bundle, |bundle, (word, clear)| {
        bind(bundle, &format!("/data/{clear}"), json!(["bind", word, clear]))
    });
    let out = bundle.run().expect_ok();
    let flags = |target: &str| {
        let line = out.lines().find(|line| line.split(' ').nth(4) == Some(&format!("/data/{target}")));
        let flags = line.unwrap_or_else(|| panic!("{target} in {out}")).split(' ').nth(5).expect("flags");
        flags.split(',').map(str::to_owned).collect::<Vec<_>>()
    };
    for (word, clear) in on.into_iter().zip(clears) {
        assert!(flags(word).contains(&word.to_owned()), "{word}: {out}");
        assert!(flags(&format!("r{word}")).contains(&word.to_owned()), "r{word}: {out}");
        assert!(!flags(clear).contains(&word.to_owned()), "{clear}: {out}");
    }
}

#[test]
fn recursion_is_each_words_own() {
    // Propagation for the mounts below takes no other word with it, nor does one attribute another.
    for (options, expected) in [
        (json!(["rbind", "ro", "rprivate"]), "ro,relatime|rw,relatime"),
        (json!(["rbind", "ro", "rnosuid"]), "ro,nosuid,relatime|rw,nosuid,relatime"),
        (json!(["rbind", "rro"]), "ro,relatime|ro,relatime"),
    ] {
        let Some(bundle) = with_volume("awk '$5 ~ \"^/data\" {print $6}' /proc/self/mountinfo") else {
            return;
        };
        let bundle = bind(bundle, "/data", options.clone());
        let out = in_own_mounts(
            &bundle,
            "mount -t tmpfs none volume; mkdir volume/below; mount -t tmpfs none volume/below; $RUN",
        );
        assert_eq!(out.expect_ok().lines().collect::<Vec<_>>().join("|"), expected, "{options}");
    }
}

#[test]
fn a_mount_is_mounted_again_with_other_options() {
    let Some(bundle) = shell("touch /data/x || echo read-only; grep ' /data ' /proc/mounts") else { return };
    let mount = |options: Value| json!({"destination": "/data", "type": "tmpfs", "source": "none", "options": options});
    let bundle = bundle
        .also("/mounts", mount(json!(["size=64k"])))
        .also("/mounts", mount(json!(["remount", "ro", "size=128k"])));
    let out = bundle.run().expect_ok();
    assert!(out.starts_with("read-only\n") && out.contains("size=128k"), "{out}");
}

/// The optional fields of the mount at `target` in mountinfo, without numbers: `shared`, `master`, `unbindable`.
const PROPAGATION: &str = "awk '$5 == \"TARGET\" {for (i = 7; $i != \"-\"; i++) print $i}' /proc/self/mountinfo | busybox sed s/:.*// | busybox sort | busybox xargs";

#[test]
fn propagation_of_a_mount_is_set() {
    for (word, expected) in [
        ("shared", "shared"),
        ("rshared", "shared"),
        ("slave", "master"),
        ("rslave", "master"),
        ("private", ""),
        ("rprivate", ""),
        ("unbindable", "unbindable"),
        ("runbindable", "unbindable"),
    ] {
        let Some(bundle) = with_volume(&PROPAGATION.replace("TARGET", "/data")) else { return };
        let bundle =
            bind(bundle, "/data", json!(["rbind", word])).with("/linux/rootfsPropagation", json!("rshared"));
        let bundle = if word.ends_with("shared") {
            bundle
        } else {
            bundle.with("/linux/rootfsPropagation", json!("rprivate"))
        };
        // A slave needs a master: with a private root, all of the host is cut off.
        let bundle =
            if word.ends_with("slave") { bundle.with("/linux/rootfsPropagation", json!("")) } else { bundle };
        let out = in_own_mounts(&bundle, "mount -t tmpfs none volume; mount --make-rshared /; $RUN");
        assert_eq!(out.expect_ok().trim(), expected, "{word}");
    }
}

#[test]
fn propagation_of_the_root_is_set_and_nothing_reaches_the_host() {
    for (word, expected) in [
        ("", "master"),
        ("slave", "master"),
        ("rslave", "master"),
        ("private", ""),
        ("rprivate", ""),
        ("shared", "shared"),
        ("rshared", "shared"),
        ("unbindable", "unbindable"),
        ("runbindable", "unbindable"),
    ] {
        let Some(bundle) = shell(&PROPAGATION.replace("TARGET", "/")) else { return };
        let bundle = bundle.with("/linux/rootfsPropagation", json!(word));
        let id = bundle.id.clone();
        let script = format!("mount --make-rshared /; $RUN; ! grep {id} /proc/self/mountinfo");
        assert_eq!(in_own_mounts(&bundle, &script).expect_ok().trim(), expected, "{word:?}");
    }
}

#[test]
fn a_mount_made_in_a_shared_volume_reaches_the_host() {
    let Some(bundle) = with_volume("mkdir /data/new && mount -t tmpfs none /data/new") else { return };
    let bundle = bind(privileged(bundle), "/data", json!(["rbind", "rshared"]))
        .with("/linux/rootfsPropagation", json!("rshared"));
    let script = "mount -t tmpfs none volume; mount --make-rshared volume; $RUN; grep -c volume/new /proc/self/mountinfo";
    assert_eq!(in_own_mounts(&bundle, script).expect_ok().trim(), "1");
}

#[test]
fn a_mount_made_on_the_host_reaches_a_slave_volume() {
    let script = "touch /data/ready; while ! [ -e /data/new/file ]; do sleep 0.02; done; echo seen";
    let Some(bundle) = with_volume(script) else { return };
    let bundle =
        bind(bundle, "/data", json!(["rbind", "rslave"])).with("/linux/rootfsPropagation", json!("rslave"));
    let script = "mount -t tmpfs none volume; mkdir volume/new; mount --make-rshared volume; $RUN & \
                  while ! [ -e volume/ready ]; do sleep 0.02; done; mount -t tmpfs none volume/new; touch volume/new/file; wait $!";
    assert_eq!(in_own_mounts(&bundle, script).expect_ok().trim(), "seen");
}

#[test]
fn what_an_option_cannot_do_fails_before_anything_is_made() {
    let cases = [
        (
            json!({"destination": "/data", "type": "bind", "source": "volume", "options": ["bind", "tmpcopyup"]}),
            "\"tmpcopyup\"",
        ),
        (json!({"destination": "/data", "type": "tmpfs", "options": ["idmap"]}), "\"idmap\""),
        (
            json!({"destination": "/data", "type": "bind", "source": "volume", "options": ["bind", "idmap"]}),
            "\"idmap\"",
        ),
    ];
    for (mount, words) in cases {
        let Some(bundle) = with_volume("true") else { return };
        let bundle = bundle.also("/mounts", mount);
        bundle.run().expect_err(1, words);
        assert!(!bundle.state_root().exists(), "{words}: nothing was made");
    }
}

#[test]
fn the_hosts_cgroups_are_shown_where_no_new_mount_is_allowed() {
    let Some(bundle) = shell("ls /sys/fs/cgroup/cgroup.procs") else { return };
    let mut bundle = bundle.with_users(100_000).also(
        "/mounts",
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"]}),
    );
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().expect("a list");
    namespaces.retain(|namespace| namespace["type"] != "cgroup");
    assert_eq!(bundle.run().expect_ok(), "/sys/fs/cgroup/cgroup.procs\n");
}

#[test]
fn mapped_owners_reach_the_mounts_below_only_when_asked() {
    for (option, owners) in [("idmap", "3007 7"), ("ridmap", "3007 3007")] {
        let Some(bundle) = with_volume("busybox stat -c %u /data/file /data/below/file | busybox xargs")
        else {
            return;
        };
        let map = json!([{"containerID": 0, "hostID": 3000, "size": 100}]);
        let bundle = bundle.also(
            "/mounts",
            json!({"destination": "/data", "type": "bind", "source": "volume", "options": ["rbind", option], "uidMappings": map, "gidMappings": map}),
        );
        let script = "mount -t tmpfs none volume; mkdir volume/below; mount -t tmpfs none volume/below; \
                      touch volume/file volume/below/file; chown 7 volume/file volume/below/file; $RUN";
        assert_eq!(in_own_mounts(&bundle, script).expect_ok().trim(), owners, "{option}");
    }
}
