//! What a process in a container sees and may do.

use crate::bundle::shell;
use serde_json::json;
use std::fs;

fn field<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {text}")).trim()
}

#[test]
fn every_namespace_is_its_own() {
    let script = "for ns in pid mnt ipc uts net cgroup; do readlink /proc/self/ns/$ns; done; echo pid=$$; hostname; cat /proc/self/cgroup";
    let Some(bundle) = shell(script) else { return };
    let out = bundle.run().expect_ok();
    for name in ["pid", "mnt", "ipc", "uts", "net", "cgroup"] {
        let ours = fs::read_link(format!("/proc/self/ns/{name}")).expect("read");
        assert!(!out.contains(&*ours.to_string_lossy()), "{name} is shared: {out}");
    }
    assert!(out.contains("pid=1\ninside\n"), "{out}");
    assert!(out.lines().any(|line| line == "0::/"), "the cgroup is the root of its namespace: {out}");
}

#[test]
fn a_namespace_is_joined_by_path() {
    let Some(bundle) = shell("readlink /proc/self/ns/net; hostname") else { return };
    let own = fs::read_link("/proc/self/ns/net").expect("read").to_string_lossy().into_owned();
    let path = format!("/proc/{}/ns/net", std::process::id());
    let bundle = bundle.with("/linux/namespaces/4", json!({"type": "network", "path": path}));
    assert_eq!(bundle.run().expect_ok(), format!("{own}\ninside\n"));
}

#[test]
fn loopback_is_up_in_a_new_network_namespace() {
    let Some(bundle) = shell("cat /sys/class/net/lo/flags /proc/net/fib_trie") else { return };
    let out = bundle.run().expect_ok();
    assert!(out.starts_with("0x9\n") && out.contains("127.0.0.1"), "{out}");
}

#[test]
fn ids_in_a_user_namespace_are_mapped() {
    let Some(bundle) = shell("id -u; cat /proc/self/uid_map; touch /made && stat -c %u /made") else {
        return;
    };
    let map = json!([{"containerID": 0, "hostID": 200_000, "size": 65_536}]);
    let bundle = bundle
        .also("/linux/namespaces", json!({"type": "user"}))
        .with("/linux/uidMappings", map.clone())
        .with("/linux/gidMappings", map);
    std::os::unix::fs::chown(bundle.root(), Some(200_000), Some(200_000)).expect("chown");
    let out = bundle.run().expect_ok();
    let words: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "200000", "65536", "0"]);
    let made = fs::metadata(bundle.root().join("made")).expect("made");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 200_000);
}

#[test]
fn user_groups_and_umask_are_those_asked_for() {
    let Some(bundle) = shell("id -u; id -g; id -G; umask; pwd") else { return };
    let user = json!({"uid": 1000, "gid": 1001, "additionalGids": [7, 8], "umask": 0o27});
    let bundle = bundle.with("/process/user", user).with("/process/cwd", json!("/bin"));
    assert_eq!(bundle.run().expect_ok(), "1000\n1001\n1001 7 8\n0027\n/bin\n");
}

#[test]
fn all_five_capability_sets_are_set_also_for_an_ordinary_user() {
    let Some(bundle) = shell("cat /proc/self/status") else { return };
    let (kill, both) = (json!(["CAP_KILL"]), json!(["CAP_KILL", "CAP_CHOWN"]));
    let bundle = bundle.with("/process/user", json!({"uid": 1000, "gid": 1000})).with(
        "/process/capabilities",
        json!({"bounding": both, "permitted": both, "effective": kill, "inheritable": kill, "ambient": kill}),
    );
    let out = bundle.run().expect_ok();
    // An exec by an ordinary user keeps what is ambient.
    for (set, expected) in
        [("CapBnd:", 0x21), ("CapInh:", 0x20), ("CapPrm:", 0x20), ("CapEff:", 0x20), ("CapAmb:", 0x20)]
    {
        assert_eq!(u64::from_str_radix(field(&out, set), 16), Ok(expected), "{set}");
    }
    assert_eq!(field(&out, "NoNewPrivs:"), "1");
}

#[test]
fn no_capabilities_listed_are_no_capabilities() {
    let Some(bundle) = shell("cat /proc/self/status") else { return };
    let out = bundle.with("/process/capabilities", serde_json::Value::Null).run().expect_ok();
    for set in ["CapBnd:", "CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(&out, set), "0000000000000000", "{set}");
    }
}

#[test]
fn masked_and_read_only_paths_hold() {
    let script = "cat /proc/kcore /proc/keys | wc -c; ls /sys/firmware | wc -l
        echo x >/proc/sys/kernel/hostname || echo refused; echo b >/proc/sysrq-trigger || echo refused
        echo x >/sys/kernel/profiling || echo refused; mount -o remount,rw /proc/sys || echo refused";
    let Some(bundle) = shell(&script.replace("wc ", "busybox wc ")) else { return };
    assert_eq!(bundle.run().expect_ok(), "0\n0\nrefused\nrefused\nrefused\nrefused\n");
}

#[test]
fn a_read_only_root_is_read_only() {
    let Some(bundle) = shell("touch /x || echo refused; touch /dev/x && echo dev") else { return };
    assert_eq!(bundle.with("/root/readonly", json!(true)).run().expect_ok(), "refused\ndev\n");
}

#[test]
fn default_devices_are_there_and_no_others() {
    let script = "cd /dev; stat -c '%n %t:%T %a' null zero full random urandom tty; readlink fd; readlink ptmx; ls | busybox wc -l
        echo x >/dev/null && dd if=/dev/zero bs=4 count=1 2>/dev/null | busybox wc -c";
    let Some(bundle) = shell(script) else { return };
    let nodes = "null 1:3 666\nzero 1:5 666\nfull 1:7 666\nrandom 1:8 666\nurandom 1:9 666\ntty 5:0 666\n";
    assert_eq!(bundle.run().expect_ok(), format!("{nodes}/proc/self/fd\npts/ptmx\n12\n4\n"));
}

#[test]
fn the_seccomp_profile_is_in_force() {
    let script = "grep Seccomp: /proc/self/status; unshare -U true 2>&1; mount -t tmpfs x /bin 2>&1; chroot / true 2>&1";
    let Some(bundle) = shell(script) else { return };
    // With every capability, only the filter can refuse.
    let all = json!(["CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SETUID"]);
    let capabilities = json!({"bounding": all, "permitted": all, "effective": all});
    let out = bundle.with("/process/capabilities", capabilities).run();
    assert!(out.out.starts_with("Seccomp:\t2\n"), "{out:?}");
    for call in [
        "unshare(0x10000000): Operation not permitted",
        "mount: permission denied",
        "chroot: can't change root",
    ] {
        assert!(out.out.contains(call), "{call}: {out:?}");
    }
}

#[test]
fn rlimits_sysctls_and_oom_score_are_set() {
    let script = "ulimit -n; ulimit -Hn; cat /proc/sys/net/ipv4/ip_forward /proc/self/oom_score_adj";
    let Some(bundle) = shell(script) else { return };
    let bundle = bundle
        .with("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]))
        .with("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}))
        .with("/process/oomScoreAdj", json!(500));
    assert_eq!(bundle.run().expect_ok(), "100\n200\n1\n500\n");
}

#[test]
fn volumes_and_temporary_filesystems_are_mounted() {
    let script = "cat /data/file; touch /data/x || echo read-only; grep ' /tmp ' /proc/mounts";
    let Some(bundle) = shell(script) else { return };
    fs::create_dir(bundle.dir.join("volume")).expect("made");
    fs::write(bundle.dir.join("volume/file"), "from the volume\n").expect("written");
    let bundle = bundle
        .also(
            "/mounts",
            json!({"destination": "/data", "type": "bind", "source": "volume", "options": ["rbind", "ro"]}),
        )
        .also("/mounts", json!({"destination": "/tmp", "type": "tmpfs", "options": ["size=128k", "nodev"]}));
    let out = bundle.run().expect_ok();
    assert!(out.starts_with("from the volume\nread-only\n") && out.contains("size=128k"), "{out}");
}

#[test]
fn a_limit_that_cannot_be_enforced_names_its_controller() {
    let Some(bundle) = shell("true") else { return };
    let root = runtime::cgroup::mount_point().expect("mounted");
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).expect("read");
    let bundle = bundle.with("/linux/resources", json!({"memory": {"limit": 64 << 20}}));
    if controllers.split_whitespace().any(|name| name == "memory") {
        bundle.run().expect_ok();
    } else {
        bundle.run().expect_err(1, "controller memory is not available");
        bundle.expect_gone();
    }
}
