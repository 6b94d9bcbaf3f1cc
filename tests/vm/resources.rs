//! The runtime's own limits where cgroup v2 has its controllers, and its scopes where systemd is there: each by the kernel's file or systemd's word.

use serde_json::{Value, json};
use std::time::Duration;
use tests::guest::Guest;

const LONG: Duration = Duration::from_secs(120);

/// A bundle on the guest's own `/usr`; `one` is its container's name.
fn bundle(guest: &Guest, script: &str, changes: &[(&str, Value)]) {
    let mut config = json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["/bin/sh", "-c", script], "env": ["PATH=/bin"]},
        "mounts": [
            {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]},
            {"destination": "/proc", "type": "proc", "source": "proc"},
        ],
        "linux": {
            "cgroupsPath": "/oci/one",
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "network"}, {"type": "cgroup"}],
        },
    });
    for (pointer, value) in changes {
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        config.pointer_mut(parent).expect("the object is there")[name] = value.clone();
    }
    let made =
        "mkdir -p /b/rootfs/usr /b/rootfs/proc; for l in bin lib lib64; do ln -sfn usr/$l /b/rootfs/$l; done";
    guest.run(&format!("{made}; cat > /b/config.json <<'EOF'\n{config}\nEOF\n")).ok();
}

fn runtime(words: &str) -> String {
    format!(
        "cd /b; /opt/wherry/wherry-runtime {words} < /dev/null > /b/out 2>&1; code=$?; cat /b/out; exit $code"
    )
}

#[track_caller]
fn says(guest: &Guest, words: &str) -> String {
    guest.run(&runtime(words)).ok()
}

#[track_caller]
fn refuses(guest: &Guest, words: &str, why: &str) {
    let ended = guest.run(&runtime(words));
    assert!(!ended.success() && ended.to_string().contains(why), "{why:?}: {ended}");
}

/// What the file of the container's cgroup says.
#[track_caller]
fn file(guest: &Guest, dir: &str, name: &str) -> String {
    guest.run(&format!("cat /sys/fs/cgroup{dir}/{name}")).ok().trim_end().to_owned()
}

#[track_caller]
fn expect_files(guest: &Guest, dir: &str, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        assert_eq!(file(guest, dir, name), *value, "{name}");
    }
}

#[test]
fn every_resource_is_in_force() {
    tests::require_root();
    Guest::with(None, |guest| {
        written(guest);
        updated(guest);
        told_of_memory(guest);
        raised_limits(guest);
        systemd(guest);
    });
}

fn written(guest: &Guest) {
    let disk = guest.run("cat /sys/block/vda/dev").ok();
    let (major, minor) = disk.trim().split_once(':').expect("two numbers");
    let device = |rate: u64| json!([{"major": major.parse::<u64>().expect("a number"), "minor": minor.parse::<u64>().expect("a number"), "rate": rate}]);
    let resources = json!({
        "cpu": {"shares": 2048, "quota": 50000, "period": 200_000, "burst": 10000, "cpus": "0", "mems": "0"},
        "memory": {"limit": 64 << 20, "reservation": 32 << 20, "swap": 128 << 20},
        "pids": {"limit": 50},
        "blockIO": {"throttleReadBpsDevice": device(1 << 20), "throttleWriteIOPSDevice": device(100)},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}],
        "unified": {"memory.high": "50331648", "cgroup.max.depth": "3"},
    });
    bundle(guest, "sleep 1000", &[("/linux/resources", resources)]);
    says(guest, "run -d one");
    let io = format!("{}:{} rbps=1048576 wbps=max riops=max wiops=100", major, minor);
    let files = [
        ("cpu.weight", "174"),
        ("cpu.max", "50000 200000"),
        ("cpu.max.burst", "10000"),
        ("cpuset.cpus", "0"),
        ("cpuset.mems", "0"),
        ("memory.max", "67108864"),
        ("memory.low", "33554432"),
        ("memory.swap.max", "67108864"),
        ("memory.high", "50331648"),
        ("cgroup.max.depth", "3"),
        ("pids.max", "50"),
        ("io.max", &io),
        ("hugetlb.2MB.max", "4194304"),
        ("hugetlb.2MB.rsvd.max", "4194304"),
    ];
    expect_files(guest, "/oci/one", &files);
    let stats: Value = serde_json::from_str(&says(guest, "events --stats one")).expect("JSON");
    assert_eq!(
        (&stats["data"]["memory"]["usage"]["limit"], &stats["data"]["pids"]["limit"]),
        (&json!(67_108_864), &json!(50))
    );
    assert!(stats["data"]["memory"]["usage"]["usage"].as_u64().expect("a number") > 0);
}

/// What an update does not name stays as it is, and what only holds together is taken in whatever order.
fn updated(guest: &Guest) {
    says(guest, "update --cpu-period 100000 one");
    assert_eq!(file(guest, "/oci/one", "cpu.max"), "50000 100000");
    says(guest, "update --cpu-quota 8000 --cpu-burst 4000 one");
    expect_files(guest, "/oci/one", &[("cpu.max", "8000 100000"), ("cpu.max.burst", "4000")]);
    says(guest, "update --cpu-quota -1 one");
    assert_eq!(file(guest, "/oci/one", "cpu.max"), "max 100000");
    says(guest, "update --cpu-idle 1 --cpu-share 1024 one");
    assert_eq!(file(guest, "/oci/one", "cpu.idle"), "1");
    says(guest, "update --cpu-idle 0 --cpu-share 1024 one");
    expect_files(guest, "/oci/one", &[("cpu.idle", "0"), ("cpu.weight", "100")]);
    says(guest, "update --cpuset-cpus 0-1 --pids-limit 60 one");
    expect_files(guest, "/oci/one", &[("cpuset.cpus", "0-1"), ("pids.max", "60")]);
    says(guest, "update --memory-swap 256m one");
    assert_eq!(file(guest, "/oci/one", "memory.swap.max"), (192 << 20).to_string());
    let check = r#"echo '{"memory": {"limit": 4096, "checkBeforeUpdate": true}}' > /b/check.json"#;
    guest.run(check).ok();
    refuses(guest, "update -r check.json one", "linux.resources.memory.limit: 4096");
    assert_eq!(file(guest, "/oci/one", "memory.max"), "67108864");
    says(guest, "update --memory 32m --memory-reservation 16m one");
    expect_files(guest, "/oci/one", &[("memory.max", "33554432"), ("memory.low", "16777216")]);
    says(guest, "update --memory -1 one");
    expect_files(guest, "/oci/one", &[("memory.max", "max"), ("memory.swap.max", "max")]);
    guest.run(r#"echo '{"pids": {"limit": 70}}' > /b/pids.json"#).ok();
    guest.run("cd /b; /opt/wherry/wherry-runtime update -r - one < pids.json").ok();
    assert_eq!(file(guest, "/oci/one", "pids.max"), "70");
    // A weight that the kernel has no scheduler for is an error, never as if it were in force.
    let weight = guest.run("cat /sys/fs/cgroup/oci/one/io.weight 2>/dev/null || true").ok();
    if weight.is_empty() {
        refuses(guest, "update --blkio-weight 500 one", "linux.resources.blockIO.weight");
    } else {
        says(guest, "update --blkio-weight 500 one");
        assert_eq!(file(guest, "/oci/one", "io.weight"), "default 4950");
    }
    refuses(guest, "update --cpuset-cpus 77 one", "linux.resources.cpu.cpus");
    // A paused container is deleted all the same.
    says(guest, "pause one");
    says(guest, "delete --force one");
    assert_eq!(
        guest.run("ls -d /sys/fs/cgroup/oci/one /run/wherry/runtime/one 2>/dev/null || true").ok(),
        ""
    );
}

fn told_of_memory(guest: &Guest) {
    let limits = json!({"memory": {"limit": 24 << 20, "swap": 24 << 20}});
    bundle(guest, "tail /dev/zero", &[("/linux/resources", limits)]);
    says(guest, "create one");
    let told = "cd /b; (/opt/wherry/wherry-runtime events --interval 1h one > events 2>&1 &) < /dev/null; \
                until pgrep -fx '/opt/wherry/wherry-runtime events .*' > /dev/null; do sleep 0.1; done";
    guest.run(told).ok();
    says(guest, "start one");
    guest.wait_for("it is told", LONG, r#"grep '{"id":"one","type":"oom"}' /b/events"#);
    guest.wait_for(
        "and ends with the container",
        LONG,
        "! pgrep -fx '/opt/wherry/wherry-runtime events .*' > /dev/null",
    );
    says(guest, "delete one");
}

/// Root of the host may raise a limit, also of a process in a user namespace.
fn raised_limits(guest: &Guest) {
    let most: u64 = guest.run("ulimit -Hn").ok().trim().parse().expect("a number");
    let more = json!([{"type": "RLIMIT_NOFILE", "soft": most + 5, "hard": most + 5}]);
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let namespaces = json!([{"type": "pid"}, {"type": "mount"}, {"type": "user"}, {"type": "cgroup"}]);
    let changes = [
        ("/process/rlimits", more),
        ("/linux/namespaces", namespaces),
        ("/linux/uidMappings", map.clone()),
        ("/linux/gidMappings", map),
    ];
    bundle(guest, "ulimit -Hn; sleep 1000", &changes);
    let own = "sysctl -q fs.nr_open=2000000; chown -h 100000:100000 /b/rootfs /b/rootfs/*";
    guest.run(own).ok();
    says(guest, "run -d one");
    let limit = format!("{}\n", most + 5);
    assert_eq!(guest.run("cat /b/out").ok(), limit);
    assert_eq!(says(guest, "exec one sh -c 'ulimit -Hn'"), limit);
    says(guest, "delete --force one");
}

fn systemd(guest: &Guest) {
    let resources = json!({
        "cpu": {"shares": 1024, "quota": 50000, "period": 100_000, "cpus": "0"}, "memory": {"limit": 64 << 20},
        "pids": {"limit": 50}, "unified": {"memory.high": "50331648"},
    });
    let annotations = json!({"org.systemd.property.TimeoutStopUSec": "uint64 5000000", "org.systemd.property.CollectMode": "'inactive-or-failed'"});
    let path = json!("oci-a.slice:test:one");
    bundle(
        guest,
        "sleep 1000",
        &[("/linux/resources", resources), ("/linux/cgroupsPath", path), ("/annotations", annotations)],
    );
    says(guest, "--systemd-cgroup run -d one");
    let dir = "/oci.slice/oci-a.slice/test-one.scope";
    expect_files(
        guest,
        dir,
        &[("cpu.weight", "100"), ("cpu.max", "50000 100000"), ("memory.max", "67108864"), ("pids.max", "50")],
    );
    assert_eq!(says(guest, "exec one cat /proc/self/cgroup"), "0::/\n");
    let shown = |property: &str| {
        guest.run(&format!("systemctl show --value -p {property} test-one.scope")).ok().trim().to_owned()
    };
    for (property, value) in [
        ("Delegate", "yes"),
        ("CPUWeight", "100"),
        ("CPUQuotaPerSecUSec", "500ms"),
        ("MemoryMax", "67108864"),
        ("TasksMax", "50"),
        ("AllowedCPUs", "0"),
        ("MemoryHigh", "50331648"),
        ("TimeoutStopUSec", "5s"),
        ("Description", "container one"),
    ] {
        assert_eq!(shown(property), value, "{property}");
    }
    // systemd is told of what changes, or would put the old value back.
    says(guest, "update --memory 32m --pids-limit 40 one");
    guest.run("systemctl daemon-reload").ok();
    expect_files(
        guest,
        dir,
        &[
            ("memory.max", "33554432"),
            ("pids.max", "40"),
            ("cpu.max", "50000 100000"),
            ("cpuset.cpus", "0"),
            ("memory.high", "50331648"),
        ],
    );
    assert_eq!((shown("MemoryMax"), shown("TasksMax")), ("33554432".to_owned(), "40".to_owned()));
    // Another container's scope is not taken over.
    refuses(guest, "--systemd-cgroup run -d two", "is not empty");
    assert!(says(guest, "state one").contains("\"running\""));
    says(guest, "delete --force one");
    guest.wait_for(
        "the scope is gone",
        LONG,
        "! systemctl list-units --all --no-legend | grep test-one.scope",
    );
    assert_eq!(
        guest.run("ls -d /sys/fs/cgroup/oci.slice/oci-a.slice/test-one.scope 2>/dev/null || true").ok(),
        ""
    );
}
