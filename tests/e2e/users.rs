//! Pods with `hostUsers: false`: whose users they are, on the host and inside, and that what they need works all the same.

use crate::pods::{pod, status};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
};
use tests::{Cluster, Options, images::Registry};

const SLEEP: &str = "'while :; do sleep 3600; done'";

/// First of the host's ids that the pod's process has, and how many there are.
fn range(cluster: &Cluster, name: &str) -> (u32, u32) {
    let map = cluster
        .kubectl(&["exec", name, "-c", "main", "--", "cat", "/proc/self/uid_map", "/proc/self/gid_map"])
        .ok();
    let numbers: Vec<u32> = map.split_whitespace().map(|number| number.parse().expect("a number")).collect();
    assert_eq!((numbers[0], &numbers[..3]), (0, &numbers[3..]), "users and groups are alike: {map}");
    (numbers[1], numbers[2])
}

/// The pod's processes, by their pids on the host.
fn processes(cluster: &Cluster, name: &str) -> Vec<i32> {
    let uid = cluster.get("pod", name)["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let groups =
        fs::read_dir(cluster.cgroup().join(format!("pod-{uid}"))).expect("the pod's cgroup").flatten();
    let texts = groups.filter_map(|group| fs::read_to_string(group.path().join("cgroup.procs")).ok());
    texts.flat_map(|text| text.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Owners on the host of the pod's processes.
fn owners(cluster: &Cluster, name: &str) -> BTreeSet<u32> {
    let owner = |pid: i32| Some(fs::metadata(format!("/proc/{pid}")).ok()?.uid());
    processes(cluster, name).into_iter().filter_map(owner).collect()
}

fn sh(cluster: &Cluster, name: &str, script: &str) -> String {
    cluster.kubectl(&["exec", name, "-c", "main", "--", "sh", "-c", script]).ok()
}

#[test]
fn pods_have_users_of_their_own() {
    let cluster = Cluster::start(Options { registries: Registry::mirror_config(), ..Options::default() });
    let registry = Registry::start(&cluster.netns);
    volumes_belong_to_the_pod(&cluster);
    ranges_are_kept_and_apart(&cluster);
    drop(registry);
    cluster.down();
}

/// A pod with every kind of volume, among them the directory `host` of the host.
fn with_volumes(host: &Path) -> String {
    pod("own", &format!(
            "  hostUsers: false
  hostname: inside
  securityContext: {{fsGroup: 2000, supplementalGroups: [3000], sysctls: [{{name: net.ipv4.ip_unprivileged_port_start, value: '1000'}}, {{name: kernel.shm_rmid_forced, value: '1'}}]}}
  volumes:
  - {{name: disk, emptyDir: {{}}}}
  - {{name: memory, emptyDir: {{medium: Memory}}}}
  - {{name: secret, secret: {{secretName: s, defaultMode: 0400}}}}
  - {{name: config, configMap: {{name: c}}}}
  - {{name: host, hostPath: {{path: {}}}}}
  - name: all
    projected:
      sources:
      - {{secret: {{name: s}}}}
      - {{downwardAPI: {{items: [{{path: name, fieldRef: {{fieldPath: metadata.name}}}}]}}}}
  containers:
  - name: main
    image: busybox
    command: [sh, -c, 'echo to stdout >/dev/stdout; echo over > /dev/termination-log; echo made > /disk/by-root; while :; do sleep 3600; done']
    volumeMounts: [{{name: disk, mountPath: /disk}}, {{name: memory, mountPath: /memory}}, {{name: secret, mountPath: /secret}}, {{name: config, mountPath: /config}}, {{name: host, mountPath: /host}}, {{name: all, mountPath: /all}}]
    readinessProbe: {{exec: {{command: [test, -e, /disk/by-root]}}, periodSeconds: 1}}
    livenessProbe: {{tcpSocket: {{port: 8000}}, periodSeconds: 1}}
  - name: other
    image: busybox
    securityContext: {{runAsUser: 1000, runAsGroup: 1001}}
    command: [sh, -c, 'echo by 1000 > /disk/by-user; exec httpd -f -p 8000']
    volumeMounts: [{{name: disk, mountPath: /disk}}]
",
            host.display()
        ))
}

fn volumes_belong_to_the_pod(cluster: &Cluster) {
    let shared = cluster.dir.join("shared");
    fs::create_dir_all(shared.join("root")).expect("made");
    fs::write(shared.join("root/own"), "of root\n").expect("written");
    fs::write(shared.join("secret"), "of a user who is none of the pod's\n").expect("written");
    fs::set_permissions(shared.join("secret"), fs::Permissions::from_mode(0o600)).expect("needs root");
    chown(shared.join("secret"), Some(70_000), Some(70_000)).expect("needs root");
    cluster.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {key: hidden}\n");
    cluster.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {key: shown}\n");
    cluster.apply(&with_volumes(&shared));
    cluster.wait_ready("own");
    let (first, count) = range(cluster, "own");
    assert!(first >= 1 << 20 && count == 65536, "{first} {count}");
    assert_eq!(owners(cluster, "own"), BTreeSet::from([first, first + 1000]));
    for (script, expected) in [
        (
            "stat -c '%u:%g' /disk/by-root /disk/by-user /host/root/own /secret/..data/key /etc/hosts",
            "0:2000\n1000:2000\n0:0\n0:2000\n0:0\n",
        ),
        ("cat /secret/key /config/key /all/key /all/name", "hiddenshownhiddenown"),
        (
            "id -G; hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced",
            "0 2000 3000\ninside\n1000\n1\n",
        ),
        ("grep -c inside /etc/hosts; grep -c nameserver /etc/resolv.conf", "1\n1\n"),
        (
            "touch /memory/x && stat -c %u /memory/x; echo x >/dev/null; ls /sys/class/net; ls /dev/mqueue",
            "0\neth0\nlo\n",
        ),
        ("chown 7:8 /disk/by-root && stat -c %u:%g /disk/by-root", "7:8\n"),
        // Root of the pod has no power over users who are none of the pod's.
        (
            "cat /host/secret 2>&1; chmod 666 /host/secret 2>&1; mknod /disk/null c 1 3 2>&1; :",
            "cat: can't open '/host/secret': Permission denied\nchmod: /host/secret: Value too large for defined data type\nmknod: /disk/null: Operation not permitted\n",
        ),
    ] {
        assert_eq!(sh(cluster, "own", script), expected, "{script}");
    }
    assert_eq!(
        fs::read_to_string(shared.join("secret")).expect("read"),
        "of a user who is none of the pod's\n"
    );
    assert_eq!(cluster.kubectl(&["logs", "own", "-c", "main"]).ok(), "to stdout\n");
    let copy = cluster.dir.join("copied");
    cluster.kubectl(&["cp", "-c", "main", "own:/disk/by-root", &copy.display().to_string()]).ok();
    assert_eq!(fs::read_to_string(&copy).expect("copied"), "made\n");
    cluster.kubectl(&["delete", "pod", "own", "--grace-period=1"]).ok();
}

fn ranges_are_kept_and_apart(cluster: &Cluster) {
    for name in ["one", "two"] {
        let shared = name == "two";
        cluster.apply(&pod(
            name,
            &format!("  hostUsers: false\n  shareProcessNamespace: {shared}\n  containers: [{{name: main, image: busybox, command: [sh, -c, {SLEEP}]}}]\n"),
        ));
    }
    for name in ["one", "two"] {
        cluster.wait_ready(name);
    }
    let (one, two) = (range(cluster, "one").0, range(cluster, "two").0);
    assert!(one.abs_diff(two) >= 65536, "{one} and {two} share ids");
    cluster.kill_daemon("agent");
    cluster.up().ok();
    cluster.wait_for("the new agent has the pods", || {
        cluster.kubectl(&["exec", "one", "--", "true"]).success().then_some(())
    });
    assert_eq!((range(cluster, "one").0, range(cluster, "two").0), (one, two));
    let outside = "ls /proc/1/root; ls /proc/1/fd; cat /proc/1/environ";
    let seen = cluster.kubectl(&["exec", "two", "--", "sh", "-c", outside]);
    assert_eq!(seen.stdout, "", "the first of the pod's pids gives nothing of the host's");
    // A run that the new agent starts has the same users.
    for pid in processes(cluster, "two") {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    cluster.wait_for("the container runs again", || {
        (status(&cluster.get("pod", "two"), 0)["restartCount"] == 1).then_some(())
    });
    cluster.wait_ready("two");
    assert_eq!((range(cluster, "two").0, owners(cluster, "two")), (two, BTreeSet::from([two])));
    cluster.apply(&pod(
        "clock",
        &format!("  hostUsers: false\n  volumes: [{{name: clock, hostPath: {{path: /proc/uptime}}}}]\n  containers: [{{name: main, image: busybox, command: [sh, -c, {SLEEP}], volumeMounts: [{{name: clock, mountPath: /x}}]}}]\n"),
    ));
    cluster.wait_for("a volume that cannot be shifted is named", || {
        let told = cluster.kubectl(&["describe", "pod", "clock"]).ok();
        (told.contains("FailedMount")
            && told.contains("volume \"clock\"")
            && told.contains("lies on proc, which takes no idmapped mounts"))
        .then_some(())
    });
    for name in ["one", "two", "clock"] {
        cluster.kubectl(&["delete", "pod", name, "--grace-period=1"]).ok();
    }
}
