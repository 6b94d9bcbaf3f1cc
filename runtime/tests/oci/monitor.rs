//! The monitor of a pod, driven over its socket as the agent does it.

use crate::bundle::{Bundle, shell};
use codec::{read_frame, write_frame};
use runtime_protocol::{
    Container, ContainerState, Create, Exec, Exit, FromMonitor, Ids, LOCK_FILE, MAGIC, Open, Overlay,
    Request, RequestBody, SANDBOX_FILE, SOCKET_FILE, Sandbox, StreamFrame, USERS_FILE, VERSIONS,
};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

/// A pod: the bundle of its only container, and a control connection to its monitor.
struct Pod {
    bundle: Bundle,
    control: UnixStream,
    tag: u64,
    /// The container's end, once it was told; it may come before the reply to what caused it.
    exit: Option<Exit>,
}

impl Pod {
    /// A monitor that has the container `script` created, its root an overlay.
    fn new(script: &str) -> Option<Self> {
        let namespaces = json!([{"type": "mount"}, {"type": "pid"}, {"type": "cgroup"}]);
        let (mut pod, create) = Self::monitor(shell(script)?, namespaces, |_| (), |_| ());
        pod.request(RequestBody::Create(Box::new(create))).expect("created");
        Some(pod)
    }

    /// A monitor without containers, and what asks it for the one of `bundle`; the upper layer is given to `fill` first.
    fn monitor(
        mut bundle: Bundle,
        namespaces: Value,
        shape: impl FnOnce(&mut Sandbox),
        fill: impl FnOnce(&Path),
    ) -> (Self, Create) {
        let dir = bundle.dir.join("pod");
        for name in ["pod", "upper", "work", "empty"] {
            fs::create_dir(bundle.dir.join(name)).expect("made");
        }
        fill(&bundle.dir.join("upper"));
        let root = bundle.dir.join("empty");
        bundle = bundle.with("/linux/namespaces", namespaces).with("/root/path", json!(root));
        let cgroup = bundle.cgroup();
        bundle = bundle.with("/linux/cgroupsPath", json!(cgroup.join("container")));
        bundle.config.as_object_mut().expect("an object").remove("hostname");
        bundle.write();
        let mut sandbox = Sandbox {
            pod: bundle.id.clone(),
            hostname: "the-pod".to_owned(),
            host_network: false,
            host_ipc: false,
            share_pid: false,
            sysctls: vec![("net.ipv4.ip_forward".to_owned(), "1".to_owned())],
            cgroup,
            limits: None,
            state_root: bundle.state_root(),
            users: None,
        };
        shape(&mut sandbox);
        fs::write(dir.join(SANDBOX_FILE), codec::to_bytes(&sandbox).expect("encodes")).expect("written");
        bundle.runtime(&["monitor", "--dir", "pod"]).expect_ok();
        let control = connect(&bundle, &Open::Control);
        let mut pod = Self { bundle, control, tag: 0, exit: None };
        assert!(matches!(pod.next(), FromMonitor::Snapshot { containers, .. } if containers.is_empty()));
        let overlay = Overlay {
            lower: vec![pod.bundle.root()],
            upper: pod.bundle.dir.join("upper"),
            work: pod.bundle.dir.join("work"),
        };
        let create = Create {
            container: pod.bundle.id.clone(),
            bundle: pod.bundle.dir.clone(),
            overlay: Some(overlay),
            log: pod.log(),
            log_bytes_max: 1 << 20,
            log_files: 2,
            stdin: false,
            stdin_once: false,
        };
        (pod, create)
    }

    fn log(&self) -> PathBuf {
        self.bundle.dir.join("0.log")
    }

    fn next(&mut self) -> FromMonitor {
        let frame = read_frame(&mut self.control).expect("the monitor speaks");
        if let FromMonitor::Changed(Container { state: ContainerState::Exited(exit), .. }) = &frame {
            self.exit = Some(exit.clone());
        }
        frame
    }

    /// Sends a request and waits for its reply.
    fn request(&mut self, body: RequestBody) -> Result<(), String> {
        self.tag += 1;
        write_frame(&mut self.control, &Request { tag: self.tag, body }).expect("sent");
        loop {
            if let FromMonitor::Reply { tag, result } = self.next() {
                assert_eq!(tag, self.tag);
                return result;
            }
        }
    }

    fn start(&mut self) -> Result<(), String> {
        self.request(RequestBody::Start { container: self.bundle.id.clone() })
    }

    /// Waits for the container's end.
    fn exit(&mut self) -> Exit {
        loop {
            if let Some(exit) = self.exit.clone() {
                return exit;
            }
            self.next();
        }
    }

    fn exec(&self, args: &[&str], input: &str) -> (String, StreamFrame) {
        let exec = Exec {
            container: self.bundle.id.clone(),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            tty: false,
            stdin: true,
        };
        let mut stream = connect(&self.bundle, &Open::Exec(exec));
        let frames =
            [StreamFrame::Data { channel: 0, bytes: input.into() }, StreamFrame::Close { channel: 0 }];
        for frame in frames {
            // A program that could not run has been told of already, and its connection closed.
            let _ = write_frame(&mut stream, &frame);
        }
        let mut out = String::new();
        loop {
            match read_frame(&mut stream).expect("the monitor speaks") {
                StreamFrame::Data { channel: 1, bytes } => out.push_str(&String::from_utf8_lossy(&bytes)),
                end @ (StreamFrame::Exit(_) | StreamFrame::Failed { .. }) => return (out, end),
                _ => {}
            }
        }
    }

    fn monitor_pid(&self) -> String {
        fs::read_to_string(self.bundle.dir.join("pod").join(LOCK_FILE)).expect("read")
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = std::process::Command::new("kill").args(["-9", &self.monitor_pid()]).status();
        }
    }
}

fn connect(bundle: &Bundle, open: &Open) -> UnixStream {
    let socket = bundle.dir.join("pod").join(SOCKET_FILE);
    let mut stream = UnixStream::connect(socket).expect("the monitor listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    codec::exchange(&mut stream, MAGIC, &VERSIONS).expect("greeted");
    write_frame(&mut stream, open).expect("sent");
    stream
}

#[test]
fn a_pod_runs_logs_and_leaves_nothing() {
    let script = "hostname; cat /proc/sys/net/ipv4/ip_forward; echo problem >&2; touch /written; printf partial; exit 3";
    let Some(mut pod) = Pod::new(script) else { return };
    pod.start().expect("started");
    let exit = pod.exit();
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (3, None, false));
    assert!(exit.started_ns > 0 && exit.finished_ns >= exit.started_ns);
    let log = fs::read_to_string(pod.log()).expect("read");
    let mut lines: Vec<&str> = log.lines().map(|line| line.split_once(' ').expect("a time").1).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["stderr F problem", "stdout F 1", "stdout F partial", "stdout F the-pod"]);
    assert!(pod.bundle.dir.join("upper/written").exists() && !pod.bundle.root().join("written").exists());
    // Somebody who comes later still hears of it.
    let mut late = connect(&pod.bundle, &Open::Control);
    let snapshot: FromMonitor = read_frame(&mut late).expect("the monitor speaks");
    assert!(matches!(&snapshot, FromMonitor::Snapshot { containers, .. }
        if matches!(containers[0].state, ContainerState::Exited(Exit { code: 3, .. }))));
    pod.request(RequestBody::Delete { container: pod.bundle.id.clone() }).expect("deleted");
    pod.request(RequestBody::Shutdown).expect("shut down");
    let pid = pod.bundle.dir.join("pod").join(SOCKET_FILE);
    pod.bundle.wait_for("the monitor ends", || !pid.exists());
    assert!(!pod.bundle.cgroup().parent().expect("the pod's").exists(), "the pod's cgroup is left");
}

/// What the image says is root's is root's in a user namespace, and what is written there is root's in the upper layer.
#[test]
fn layers_are_shifted_into_a_user_namespace() {
    let script = "stat -c '%n %u:%g %a' / /bin/busybox /own; busybox ls -A /opaque; busybox rm /gone; touch /written; \
        busybox chown 7:8 /written; busybox chown 9 /own; stat -c %u /written; cat /proc/self/uid_map";
    let Some(bundle) = shell(script) else { return };
    let (root, upper) = (bundle.root(), bundle.dir.join("upper"));
    fs::create_dir_all(root.join("opaque/hidden")).expect("made");
    for name in ["own", "gone"] {
        fs::write(root.join(name), name).expect("written");
    }
    std::os::unix::fs::chown(root.join("own"), Some(5), Some(6)).expect("needs root");
    let map = json!([{"containerID": 0, "hostID": 1_000_000, "size": 65536}]);
    let mut bundle = bundle.with("/linux/uidMappings", map.clone()).with("/linux/gidMappings", map);
    // The pod's network is the host's user namespace's, which allows no sysfs of it.
    bundle.config["mounts"].as_array_mut().expect("a list").retain(|mount| mount["type"] != "sysfs");
    let namespaces = json!([{"type": "mount"}, {"type": "pid"}, {"type": "cgroup"}, {"type": "user"}]);
    let (mut pod, create) = Pod::monitor(
        bundle,
        namespaces,
        |_| (),
        |upper| {
            fs::create_dir(upper.join("opaque")).expect("made");
            xattr::set(upper.join("opaque"), "trusted.overlay.opaque", b"y").expect("needs root");
        },
    );
    pod.request(RequestBody::Create(Box::new(create))).expect("created");
    pod.start().expect("started");
    assert_eq!(pod.exit().code, 0);
    let log = fs::read_to_string(pod.log()).expect("read");
    let lines: Vec<&str> = log.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    assert_eq!(lines[..4], ["/ 0:0 755", "/bin/busybox 0:0 755", "/own 5:6 644", "7"], "{log}");
    assert_eq!(lines[4].split_whitespace().collect::<Vec<_>>(), ["0", "1000000", "65536"]);
    let owner = |name: &str| fs::symlink_metadata(upper.join(name)).map(|file| (file.uid(), file.gid()));
    assert_eq!((owner("written").expect("there"), owner("own").expect("there")), ((7, 8), (9, 6)));
    assert!(fs::symlink_metadata(upper.join("gone")).expect("a whiteout").file_type().is_char_device());
    assert!(root.join("gone").exists(), "the layer keeps it");
    pod.request(RequestBody::Delete { container: pod.bundle.id.clone() }).expect("deleted");
    pod.request(RequestBody::Shutdown).expect("shut down");
}

/// A container of a pod with users of its own: a volume whose owners are shifted, and what only a user namespace allows.
fn with_users(script: &str) -> Option<Bundle> {
    let bundle = shell(script)?;
    fs::create_dir(bundle.dir.join("volume")).expect("made");
    fs::write(bundle.dir.join("volume/file"), "kept\n").expect("written");
    let map = json!([{"containerID": 0, "hostID": 3_000_000, "size": 65536}]);
    let capabilities = json!(["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
    let bundle = bundle
            .with("/linux/uidMappings", map.clone())
            .with("/linux/gidMappings", map)
            .with("/linux/seccomp", Value::Null)
            .with(
                "/process/capabilities",
                json!({"bounding": capabilities, "permitted": capabilities, "effective": capabilities}),
            )
            .also(
                "/mounts",
                json!({"destination": "/data", "type": "bind", "source": "volume", "options": ["rbind", "idmap"]}),
            )
            .also("/mounts", json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"}));
    Some(bundle)
}

/// The first process of shared pids gives the pod nothing of the host's, not even to one who may trace it.
fn expect_secluded(bundle: &Bundle, pid: &str) {
    let count = |name: &str| fs::read_dir(format!("/proc/{pid}/{name}")).expect("listed").count();
    bundle.wait_for("it lets go of what the monitor has open", || count("fd") == 0);
    assert_eq!(count("root"), 0, "its root is empty");
}

#[test]
fn containers_share_their_pids() {
    let Some(bundle) = shell("test $$ -gt 1 && exec sleep 1000") else { return };
    let namespaces = json!([{"type": "mount"}, {"type": "cgroup"}]);
    let (mut pod, create) = Pod::monitor(bundle, namespaces, |sandbox| sandbox.share_pid = true, |_| ());
    pod.request(RequestBody::Create(Box::new(create))).expect("created");
    pod.start().expect("started");
    let children =
        fs::read_to_string(format!("/proc/{0}/task/{0}/children", pod.monitor_pid())).expect("read");
    let first = children.split_whitespace().next().expect("the first of the pod's pids is the oldest");
    expect_secluded(&pod.bundle, first);
    let (out, _) = pod.exec(&["cat", "/proc/1/comm"], "");
    assert_eq!(out, "wherry-runtime\n");
    pod.request(RequestBody::Delete { container: pod.bundle.id.clone() }).expect("deleted");
    pod.request(RequestBody::Shutdown).expect("shut down");
}

/// All that the pod has is its own users': namespaces, sysctls, processes, and what shifted volumes hold.
#[test]
fn a_pod_has_a_user_namespace_of_its_own() {
    for shared in [false, true] {
        let script = "cat /proc/self/uid_map; hostname; cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax; \
            stat -c '%n %u:%g' /data/file /bin/busybox; touch /data/made; hostname other && hostname; \
            echo reopened >/dev/stdout; ls /sys/class/net; exec sleep 1000";
        let Some(bundle) = with_users(script) else { return };
        let users = bundle.dir.join("pod").join(USERS_FILE);
        let mut namespaces =
            vec![json!({"type": "mount"}), json!({"type": "cgroup"}), json!({"type": "user", "path": users})];
        namespaces.extend((!shared).then(|| json!({"type": "pid"})));
        let shape = |sandbox: &mut Sandbox| {
            sandbox.share_pid = shared;
            sandbox.users = Some(Ids { host: 3_000_000, count: 65536 });
            sandbox.sysctls.push(("kernel.msgmax".to_owned(), "9000".to_owned()));
        };
        let (mut pod, create) = Pod::monitor(bundle, json!(namespaces), shape, |_| ());
        pod.request(RequestBody::Create(Box::new(create))).expect("created");
        pod.start().expect("started");
        let log = pod.log();
        let text = || fs::read_to_string(&log).unwrap_or_default();
        pod.bundle.wait_for("all is said", || text().contains(" lo"));
        let log = text();
        let lines: Vec<String> = log
            .lines()
            .filter_map(|line| line.splitn(4, ' ').nth(3))
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        let expected = [
            "0 3000000 65536",
            "the-pod",
            "1",
            "9000",
            "/data/file 0:0",
            "/bin/busybox 0:0",
            "other",
            "reopened",
        ];
        assert_eq!(lines[..8], expected, "{log}");
        let made = fs::metadata(pod.bundle.dir.join("volume/made")).expect("made");
        assert_eq!((made.uid(), made.gid()), (0, 0));
        let procs = fs::read_to_string(pod.bundle.cgroup().join("cgroup.procs")).expect("read");
        let first = procs.split_whitespace().next().expect("a process");
        assert_eq!(fs::metadata(format!("/proc/{first}")).expect("runs").uid(), 3_000_000);
        let children =
            fs::read_to_string(format!("/proc/{0}/task/{0}/children", pod.monitor_pid())).expect("read");
        let others = children.split_whitespace().filter(|pid| *pid != first).collect::<Vec<_>>();
        assert_eq!(others.len(), usize::from(shared), "{children}");
        for pid in others {
            expect_secluded(&pod.bundle, pid);
        }
        let (out, end) = pod.exec(&["sh", "-c", "id -u; cat; echo again >/dev/stdout"], "in\n");
        assert_eq!(
            (out.as_str(), matches!(end, StreamFrame::Exit(Exit { code: 0, .. }))),
            ("0\nin\nagain\n", true)
        );
        pod.request(RequestBody::Delete { container: pod.bundle.id.clone() }).expect("deleted");
        pod.request(RequestBody::Shutdown).expect("shut down");
        let left = users;
        pod.bundle.wait_for("the monitor's files go", || left.symlink_metadata().is_err());
    }
}

/// A layer on a filesystem without idmapped mounts is named, and nothing is left.
#[test]
fn layers_that_cannot_be_shifted_are_named() {
    let Some(bundle) = shell("true") else { return };
    let map = json!([{"containerID": 0, "hostID": 1_000_000, "size": 65536}]);
    let bundle = bundle.with("/linux/uidMappings", map.clone()).with("/linux/gidMappings", map);
    let namespaces = json!([{"type": "mount"}, {"type": "pid"}, {"type": "cgroup"}, {"type": "user"}]);
    let (mut pod, mut create) = Pod::monitor(bundle, namespaces, |_| (), |_| ());
    create.overlay.as_mut().expect("set").lower = vec!["/proc/self/net".into()];
    let refused = pod.request(RequestBody::Create(Box::new(create))).expect_err("procfs cannot");
    assert!(refused.contains("/proc/self/net") && refused.contains("idmapped"), "{refused}");
    pod.request(RequestBody::Shutdown).expect("shut down");
}

#[test]
fn exec_passes_bytes_and_the_exit_code() {
    let Some(mut pod) = Pod::new("sleep 1000") else { return };
    pod.start().expect("started");
    let (out, end) = pod.exec(&["sh", "-c", "cat; hostname; exit 4"], "through stdin\n");
    assert_eq!(out, "through stdin\nthe-pod\n");
    assert!(matches!(end, StreamFrame::Exit(Exit { code: 4, .. })), "{end:?}");
    let (_, end) = pod.exec(&["no-such-program"], "");
    assert!(matches!(end, StreamFrame::Failed { code: 127, .. }), "{end:?}");
    let container = pod.bundle.id.clone();
    pod.request(RequestBody::Signal { container, signal: 9, all: false }).expect("killed");
    assert_eq!((pod.exit().code, pod.exit().signal), (137, Some(9)));
    assert!(matches!(pod.exec(&["true"], "").1, StreamFrame::Failed { .. }), "container not running");
    pod.request(RequestBody::Shutdown).expect("shut down");
}

#[test]
fn a_program_that_cannot_run_is_an_error_of_start() {
    let Some(mut pod) = Pod::new("true") else { return };
    let container = pod.bundle.id.clone();
    let create = |bundle: &Bundle| Create {
        container: format!("{}-b", bundle.id),
        bundle: bundle.dir.join("other"),
        overlay: None,
        log: bundle.dir.join("1.log"),
        log_bytes_max: 1 << 20,
        log_files: 2,
        stdin: false,
        stdin_once: false,
    };
    let other = create(&pod.bundle);
    fs::create_dir(&other.bundle).expect("made");
    let mut config = pod.bundle.config.clone();
    config["process"]["args"] = json!(["/no/such"]);
    config["root"]["path"] = json!(pod.bundle.root());
    config["linux"]["cgroupsPath"] = json!(pod.bundle.cgroup().parent().expect("the pod's").join("other"));
    fs::write(other.bundle.join("config.json"), config.to_string()).expect("written");
    let name = other.container.clone();
    pod.request(RequestBody::Create(Box::new(other))).expect("created");
    let err = pod.request(RequestBody::Start { container: name.clone() }).expect_err("cannot run");
    assert!(err.contains("/no/such"), "{err}");
    pod.request(RequestBody::Delete { container: name }).expect("deleted");
    let children = format!("/proc/{0}/task/{0}/children", pod.monitor_pid());
    let children = fs::read_to_string(&children).expect("read");
    assert_eq!(children.split_whitespace().count(), 1, "what failed is reaped: {children}");
    pod.request(RequestBody::Create(Box::new(Create {
        container: container.clone(),
        ..create(&pod.bundle)
    })))
    .expect_err("exists already");
    pod.request(RequestBody::Shutdown).expect("shut down");
}

/// Killing the monitor takes the pod's namespaces, not the possibility to clear up.
#[test]
fn a_killed_monitor_leaves_what_delete_removes() {
    let Some(mut pod) = Pod::new("sleep 1000") else { return };
    pod.start().expect("started");
    let killed =
        std::process::Command::new("kill").args(["-9", &pod.monitor_pid()]).status().expect("kill runs");
    assert!(killed.success());
    pod.bundle.runtime(&["delete", "--force", "{id}"]).expect_ok();
    let cgroup = pod.bundle.cgroup();
    runtime::cgroup::Cgroup::at(cgroup.parent().expect("the pod's")).remove().expect("removed");
}

/// What a pod asks for in its securityContext comes here as it is.
#[test]
fn a_pod_sets_nothing_for_the_whole_host() {
    let Some(bundle) = shell("true") else { return };
    bundle.write();
    fs::create_dir(bundle.dir.join("pod")).expect("made");
    let now =
        |name: &str| fs::read_to_string(format!("/proc/sys/{name}")).expect("read").trim_end().to_owned();
    for (name, file, host) in [
        ("kernel.core_pattern", "kernel/core_pattern", false),
        ("net/../kernel/core_pattern", "kernel/core_pattern", false),
        ("net.ipv4.ip_default_ttl", "net/ipv4/ip_default_ttl", true),
    ] {
        let sandbox = Sandbox {
            pod: bundle.id.clone(),
            hostname: "the-pod".to_owned(),
            host_network: host,
            host_ipc: false,
            share_pid: false,
            // As it is, so that no harm is done where it can be set.
            sysctls: vec![(name.to_owned(), now(file))],
            cgroup: bundle.cgroup(),
            limits: None,
            state_root: bundle.state_root(),
            users: None,
        };
        let text = codec::to_bytes(&sandbox).expect("encodes");
        fs::write(bundle.dir.join("pod").join(SANDBOX_FILE), text).expect("written");
        bundle.runtime(&["monitor", "--dir", "pod"]).expect_err(1, &format!("set sysctl {name}"));
    }
}
