//! Fields of config.json, each by what a process inside sees of it.

use crate::bundle::{Bundle, shell};
use nix::{
    cmsg_space,
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
};
use serde_json::{Value, json};
use std::{
    fs,
    io::IoSliceMut,
    os::{
        fd::{AsRawFd, RawFd},
        unix::{fs::MetadataExt, net::UnixListener},
    },
    process::Command,
};

#[test]
fn a_time_namespace_has_clocks_of_its_own() {
    let Some(bundle) = shell("cat /proc/self/timens_offsets; cat /proc/uptime") else { return };
    let offsets = json!({"boottime": {"secs": 7_000_000}, "monotonic": {"secs": 5, "nanosecs": 7}});
    let bundle =
        bundle.also("/linux/namespaces", json!({"type": "time"})).with("/linux/timeOffsets", offsets);
    let out = bundle.run().expect_ok();
    let words: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(words[..6], ["monotonic", "5", "7", "boottime", "7000000", "0"]);
    assert!(words[6].parse::<f64>().expect("uptime") > 7_000_000.0, "{out}");
}

#[test]
fn an_exec_is_in_the_time_namespace_too() {
    let Some(bundle) = shell("sleep 1000") else { return };
    let bundle = bundle
        .also("/linux/namespaces", json!({"type": "time"}))
        .with("/linux/timeOffsets", json!({"boottime": {"secs": 7_000_000}}));
    bundle.up();
    let out = bundle.exec(&["cat", "/proc/uptime"]).expect_ok();
    assert!(out.split(' ').next().expect("a number").parse::<f64>().expect("uptime") > 7_000_000.0, "{out}");
}

#[test]
fn scheduler_io_priority_and_personality_are_taken_on() {
    // proc_pid_stat(5): 19 nice, 41 policy.
    let Some(bundle) = shell("uname -m; awk '{print $19, $41}' /proc/self/stat; dmesg -n 1 2>/dev/null; :")
    else {
        return;
    };
    let bundle = bundle
        .with("/linux/personality", json!({"domain": "LINUX32"}))
        .with("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 7}))
        .with("/process/ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0}));
    assert_eq!(bundle.run().expect_ok(), "i686\n7 3\n");
}

#[test]
fn owners_are_shifted_by_an_idmapped_mount() {
    for (users, owner) in [(false, "3007"), (true, "7")] {
        let Some(bundle) = shell("stat -c %u /data/file") else { return };
        fs::create_dir(bundle.dir.join("volume")).expect("made");
        let file = bundle.dir.join("volume/file");
        fs::write(&file, "").expect("written");
        std::os::unix::fs::chown(&file, Some(7), Some(7)).expect("chowned");
        let to_3000 = json!([{"containerID": 0, "hostID": 3000, "size": 100}]);
        let mut mount = json!({"destination": "/data", "type": "bind", "source": "volume", "options": ["rbind", "idmap"]});
        let mut bundle = if users {
            // The container's own map: what is 7 on disk is 7 inside.
            bundle.with_users(3000)
        } else {
            mount["uidMappings"] = to_3000.clone();
            mount["gidMappings"] = to_3000;
            bundle
        };
        bundle = bundle.also("/mounts", mount);
        assert_eq!(bundle.run().expect_ok().trim(), owner, "users {users}");
        assert_eq!(fs::metadata(&file).expect("there").uid(), 7, "on disk nothing changes");
    }
}

#[test]
fn a_mapping_that_cannot_be_is_refused_by_name() {
    let Some(bundle) = shell("true") else { return };
    let mount = json!({"destination": "/data", "type": "tmpfs", "options": ["idmap"]});
    let bundle = bundle.also("/mounts", mount);
    bundle.run().expect_err(1, "mounts: /data: option \"idmap\"");
    bundle.expect_gone();
}

#[test]
fn a_tmpfs_starts_with_what_the_image_has() {
    let Some(bundle) =
        shell("cat /seed/deep/file; stat -c '%a %u' /seed/deep/file; readlink /seed/link; : > /seed/new")
    else {
        return;
    };
    let seed = bundle.root().join("seed");
    fs::create_dir_all(seed.join("deep")).expect("made");
    fs::write(seed.join("deep/file"), "from the image\n").expect("written");
    fs::set_permissions(seed.join("deep/file"), std::os::unix::fs::PermissionsExt::from_mode(0o4755))
        .expect("set");
    std::os::unix::fs::chown(seed.join("deep/file"), Some(7), Some(7)).expect("chowned");
    fs::set_permissions(seed.join("deep/file"), std::os::unix::fs::PermissionsExt::from_mode(0o4755))
        .expect("set");
    std::os::unix::fs::symlink("/etc/shadow", seed.join("link")).expect("linked");
    let bundle = bundle
        .also("/mounts", json!({"destination": "/seed", "type": "tmpfs", "options": ["tmpcopyup", "nodev"]}));
    assert_eq!(bundle.run().expect_ok(), "from the image\n4755 7\n/etc/shadow\n");
    assert!(!seed.join("new").exists(), "the image is not written to");
}

#[test]
fn recursive_attributes_reach_the_mounts_below() {
    for (option, writable) in [("ro", true), ("rro", false)] {
        let Some(bundle) = shell("touch /data/below/file && echo written; :") else { return };
        let below = bundle.dir.join("volume/below");
        fs::create_dir_all(&below).expect("made");
        let below = below.to_str().expect("UTF-8").to_owned();
        let bundle = bundle.also(
            "/mounts",
            json!({"destination": "/data", "type": "bind", "source": "volume", "options": ["rbind", option]}),
        );
        bundle.write();
        // In a mount namespace of its own, so that the mount goes whatever happens.
        let run = bundle.command(&["run", "{id}"]);
        let words: Vec<String> =
            run.get_args().map(|word| format!("'{}'", word.to_str().expect("UTF-8"))).collect();
        let script = format!("mount -t tmpfs none {below} && timeout {}", words.join(" "));
        let output = Command::new("unshare")
            .args(["-m", "sh", "-c", &script])
            .current_dir(&bundle.dir)
            .output()
            .expect("runs");
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(out == "written\n", writable, "{option}: {output:?}");
    }
}

/// Resources of the one controller that cgroup v2 has on hosts beside v1, too; the others are tested in guests.
#[test]
fn limits_are_written_updated_and_reported() {
    let Some(bundle) = shell("sleep 1000") else { return };
    let controllers = runtime::cgroup::mount_point().expect("cgroup v2").join("cgroup.controllers");
    if !fs::read_to_string(controllers).expect("read").contains("hugetlb") {
        eprintln!("skipped: no hugetlb controller in cgroup v2");
        return;
    }
    let limits = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}]});
    let bundle = bundle.with("/linux/resources", limits);
    bundle.up();
    let limit = || fs::read_to_string(bundle.cgroup().join("hugetlb.2MB.max")).expect("read");
    assert_eq!(limit(), "4194304\n");
    fs::write(bundle.dir.join("new.json"), r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 2097152}]}"#)
        .expect("written");
    bundle.runtime(&["update", "--resources", "new.json", "{id}"]).expect_ok();
    assert_eq!(limit(), "2097152\n");
    let stats: Value =
        serde_json::from_str(&bundle.runtime(&["events", "--stats", "{id}"]).expect_ok()).expect("JSON");
    assert_eq!(stats["type"], "stats");
    assert_eq!(stats["data"]["hugetlb"]["2MB"]["usage"], 0);
    assert!(stats["data"]["cpu"]["usage"]["total"].as_u64().expect("a number") > 0);
    bundle.runtime(&["kill", "{id}", "KILL"]).expect_ok();
    bundle.wait_for("it ends", || bundle.status() == "stopped");
    bundle.runtime(&["update", "--pids-limit", "5", "{id}"]).expect_err(1, "container not running");
}

#[test]
fn a_supervisor_is_given_the_listener_and_the_state() {
    let Some(bundle) = shell("mkdir /made; echo $?") else { return };
    let path = bundle.dir.join("supervisor.sock");
    let listener = UnixListener::bind(&path).expect("bound");
    let rule = json!({"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"});
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "for you", "syscalls": [rule],
    });
    let bundle =
        bundle.with("/linux/seccomp", profile).with("/annotations", json!({"org.example.key": "value"}));
    let supervisor = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("the runtime connects");
        let (mut buffer, mut control) = ([0; 8192], cmsg_space!(RawFd));
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty());
        let message = message.expect("received");
        let fds = message.cmsgs().expect("control").find_map(|part| match part {
            ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
            _ => None,
        });
        let len = message.bytes;
        let kind = fs::read_link(format!("/proc/self/fd/{}", fds.expect("a descriptor"))).expect("open");
        nix::unistd::close(fds.expect("a descriptor")).expect("closed");
        (serde_json::from_slice::<Value>(&buffer[..len]).expect("JSON"), kind)
    });
    // A listener that is gone fails the calls with ENOSYS.
    let answer = bundle.run();
    let (state, kind) = supervisor.join().expect("told");
    assert!(answer.out.ends_with("1\n") && answer.err.contains("not implemented"), "{answer:?}");
    assert_eq!(kind.to_str(), Some("anon_inode:seccomp notify"));
    assert_eq!((state["metadata"].as_str(), state["fds"][0].as_str()), (Some("for you"), Some("seccompFd")));
    assert!(state["pid"].as_i64().expect("a pid") > 1);
    assert_eq!(state["pid"], state["state"]["pid"], "both as the supervisor sees them");
    assert_eq!(state["state"]["annotations"], json!({"org.example.key": "value"}));
    assert_eq!(state["state"]["id"], bundle.id.as_str());
}

#[test]
fn namespaces_are_joined_by_path() {
    let Some(first) = shell("sleep 1000") else { return };
    let first = first.with_users(100_000);
    first.up();
    let pid = first.state()["pid"].as_i64().expect("a pid");
    let Some(second) = shell("cat /proc/self/uid_map; readlink /proc/self/ns/net") else { return };
    let mut second = second.with_users(100_000);
    let paths = [("user", "user"), ("net", "network"), ("ipc", "ipc"), ("pid", "pid")];
    for namespace in second.config["linux"]["namespaces"].as_array_mut().expect("a list") {
        if let Some((file, _)) = paths.iter().find(|(_, kind)| namespace["type"] == *kind) {
            namespace["path"] = json!(format!("/proc/{pid}/ns/{file}"));
        }
    }
    let linux = second.config["linux"].as_object_mut().expect("an object");
    linux.remove("uidMappings");
    linux.remove("gidMappings");
    let out = second.run().expect_ok();
    assert_eq!(out.split_whitespace().collect::<Vec<_>>()[..3], ["0", "100000", "65536"]);
    let net = fs::read_link(format!("/proc/{pid}/ns/net")).expect("read");
    assert!(out.contains(net.to_str().expect("UTF-8")), "{out}");
}

/// Every kind, by what `ns` of the other container's process leads to.
#[test]
fn each_namespace_is_joined_by_path() {
    let Some(first) = shell("touch /ready; sleep 1000") else { return };
    let first = first.also("/linux/namespaces", json!({"type": "time"}));
    first.up();
    first.wait_for("it runs", || first.root().join("ready").exists());
    let pid = first.state()["pid"].as_i64().expect("a pid");
    for (kind, name) in [
        ("network", "net"),
        ("ipc", "ipc"),
        ("uts", "uts"),
        ("cgroup", "cgroup"),
        ("time", "time"),
        ("pid", "pid"),
    ] {
        let Some(mut second) = shell(&format!("readlink /proc/self/ns/{name}")) else { return };
        let path = format!("/proc/{pid}/ns/{name}");
        let theirs = fs::read_link(&path).expect("read");
        let namespaces = second.config["linux"]["namespaces"].as_array_mut().expect("a list");
        namespaces.retain(|namespace| namespace["type"] != kind);
        namespaces.push(json!({"type": kind, "path": path}));
        assert_eq!(second.run().expect_ok().trim(), theirs.to_str().expect("UTF-8"), "{kind}");
    }
}

#[test]
fn a_mount_namespace_is_joined_by_path() {
    let Some(bundle) = shell("readlink /proc/self/ns/mnt; ls /bin/busybox") else { return };
    let mut holder = Command::new("unshare");
    holder
        .args(["-m", "--propagation", "private", "sh", "-c", "touch $0; exec sleep 1000"])
        .arg(bundle.dir.join("held"));
    let mut holder = holder.spawn().expect("unshare runs");
    bundle.wait_for("the namespace is there", || bundle.dir.join("held").exists());
    let path = format!("/proc/{}/ns/mnt", holder.id());
    let theirs = fs::read_link(&path).expect("read");
    let out = bundle.with("/linux/namespaces/1", json!({"type": "mount", "path": path})).run().expect_ok();
    holder.kill().expect("killed");
    holder.wait().expect("waited");
    assert_eq!(out, format!("{}\n/bin/busybox\n", theirs.display()));
}

#[test]
fn a_limit_of_locked_memory_never_fails_a_container() {
    let Some(bundle) = shell("ulimit -l; ulimit -Hl") else { return };
    let most = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_MEMLOCK).expect("read").1;
    let huge = json!([{"type": "RLIMIT_MEMLOCK", "soft": 1u64 << 50, "hard": 1u64 << 50}]);
    let bundle = bundle.with("/process/rlimits", huge);
    let answer = bundle.run();
    let raised =
        caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_RESOURCE).expect("read");
    let kib = if raised || most > 1 << 50 { 1 << 40 } else { most >> 10 };
    assert_eq!(answer.out, format!("{kib}\n{kib}\n"), "{answer:?}");
    assert_eq!(answer.err.contains("warning: process.rlimits: RLIMIT_MEMLOCK"), kib != 1 << 40, "{answer:?}");
}

/// Each kind, by the line that the kernel has for it; proc_pid_limits(5).
#[test]
fn every_limit_is_set() {
    use nix::sys::resource::{Resource, getrlimit};
    let kinds = [
        ("CPU", Resource::RLIMIT_CPU, "Max cpu time"),
        ("FSIZE", Resource::RLIMIT_FSIZE, "Max file size"),
        ("DATA", Resource::RLIMIT_DATA, "Max data size"),
        ("STACK", Resource::RLIMIT_STACK, "Max stack size"),
        ("CORE", Resource::RLIMIT_CORE, "Max core file size"),
        ("RSS", Resource::RLIMIT_RSS, "Max resident set"),
        ("NPROC", Resource::RLIMIT_NPROC, "Max processes"),
        ("NOFILE", Resource::RLIMIT_NOFILE, "Max open files"),
        ("MEMLOCK", Resource::RLIMIT_MEMLOCK, "Max locked memory"),
        ("AS", Resource::RLIMIT_AS, "Max address space"),
        ("LOCKS", Resource::RLIMIT_LOCKS, "Max file locks"),
        ("SIGPENDING", Resource::RLIMIT_SIGPENDING, "Max pending signals"),
        ("MSGQUEUE", Resource::RLIMIT_MSGQUEUE, "Max msgqueue size"),
        ("NICE", Resource::RLIMIT_NICE, "Max nice priority"),
        ("RTPRIO", Resource::RLIMIT_RTPRIO, "Max realtime priority"),
        ("RTTIME", Resource::RLIMIT_RTTIME, "Max realtime timeout"),
    ];
    // As much as may be had, less one to tell it from what was; what has no limit gets one that hurts nobody.
    let limit = |resource| match getrlimit(resource).expect("read").1 {
        u64::MAX => 1 << 40,
        most => most.saturating_sub(1),
    };
    let Some(bundle) = shell("cat /proc/self/limits") else { return };
    let listed: Vec<Value> = kinds
        .iter()
        .map(|&(kind, resource, _)| json!({"type": format!("RLIMIT_{kind}"), "soft": limit(resource), "hard": limit(resource)}))
        .collect();
    let out = bundle.with("/process/rlimits", json!(listed)).run().expect_ok();
    for (kind, resource, line) in kinds {
        let shown =
            out.lines().find_map(|shown| shown.strip_prefix(line)).unwrap_or_else(|| panic!("{line}: {out}"));
        let value = limit(resource).to_string();
        assert_eq!(shown.split_whitespace().take(2).collect::<Vec<_>>(), [&value, &value], "{kind}");
    }
}

#[test]
fn a_score_that_may_not_be_had_is_refused_by_name() {
    let Some(bundle) = shell("cat /proc/self/oom_score_adj") else { return };
    let bundle = bundle.with("/process/oomScoreAdj", json!(-500));
    if caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_RESOURCE).expect("read") {
        assert_eq!(bundle.run().expect_ok(), "-500\n");
    } else {
        bundle.run().expect_err(1, "process.oomScoreAdj: -500");
        bundle.expect_gone();
    }
}

#[test]
fn listed_devices_are_made() {
    let devices = json!([
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o600, "uid": 7, "gid": 8},
        {"path": "/dev/deep/pipe", "type": "p", "fileMode": 0o640},
        {"path": "/dev/disk", "type": "b", "major": 7, "minor": 99},
    ]);
    let script = "cd /dev; stat -c '%n %F %t:%T %a %u:%g' fuse deep/pipe disk";
    let Some(bundle) = shell(script) else { return };
    let out = bundle.with("/linux/devices", devices).run().expect_ok();
    let expected = [
        "fuse character special file a:e5 600 7:8",
        "deep/pipe fifo 0:0 640 0:0",
        "disk block special file 7:63 666 0:0",
    ];
    assert_eq!(out.lines().collect::<Vec<_>>(), expected);
    // In a user namespace, the host's own are bound.
    let Some(bundle) = shell("stat -c '%n %t:%T' /dev/fuse") else { return };
    let fuse = json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]);
    if std::path::Path::new("/dev/fuse").exists() {
        assert_eq!(
            bundle.with_users(100_000).with("/linux/devices", fuse).run().expect_ok(),
            "/dev/fuse a:e5\n"
        );
    }
}

#[test]
fn annotations_are_in_the_state() {
    let Some(bundle) = shell("sleep 1000") else { return };
    let bundle = bundle.with("/annotations", json!({"org.example.key": "value"}));
    bundle.up();
    let state = bundle.state();
    assert_eq!(state["annotations"], json!({"org.example.key": "value"}));
    assert_eq!((&state["bundle"], &state["rootfs"]), (&json!(bundle.dir), &json!(bundle.root())));
    assert_eq!((&state["ociVersion"], &state["owner"]), (&json!("1.3.0"), &json!("root")));
    assert!(state["created"].as_str().expect("text").ends_with('Z'), "{state}");
}

#[test]
fn raising_another_limit_is_refused_by_name() {
    let Some(bundle) = shell("ulimit -Hn") else { return };
    let most = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).expect("read").1;
    let more = json!([{"type": "RLIMIT_NOFILE", "soft": most + 1, "hard": most + 1}]);
    let bundle = bundle.with("/process/rlimits", more);
    if caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_RESOURCE).expect("read") {
        assert_eq!(bundle.run().expect_ok(), format!("{}\n", most + 1));
    } else {
        let words = format!(
            "process.rlimits: RLIMIT_NOFILE soft {0} hard {0}: raising a hard limit needs CAP_SYS_RESOURCE",
            most + 1
        );
        bundle.run().expect_err(1, &words);
        bundle.expect_gone();
    }
}

#[test]
fn labels_that_nobody_enforces_are_refused() {
    for (field, value) in [
        ("/process/apparmorProfile", "docker-default"),
        ("/process/selinuxLabel", "system_u:system_r:container_t:s0"),
        ("/linux/mountLabel", "system_u:object_r:container_file_t:s0"),
    ] {
        let Some(bundle) = shell("true") else { return };
        let bundle = bundle.with(field, json!(value));
        let enforced = if field.contains("apparmor") {
            runtime::lsm::apparmor_enabled()
        } else {
            runtime::lsm::selinux_enabled()
        };
        if !enforced {
            bundle.run().expect_err(1, &field[1..].replace('/', "."));
            bundle.expect_gone();
        }
    }
}

impl Bundle {
    /// In a user namespace whose root is `first` on the host.
    pub fn with_users(self, first: u32) -> Self {
        let map = json!([{"containerID": 0, "hostID": first, "size": 65536}]);
        let copy = |path: &std::path::Path| {
            // The image belongs to the container's root.
            let _ = Command::new("chown").args(["-R", "-h", &first.to_string()]).arg(path).status();
        };
        copy(&self.root());
        self.also("/linux/namespaces", json!({"type": "user"}))
            .with("/linux/uidMappings", map.clone())
            .with("/linux/gidMappings", map)
    }
}
