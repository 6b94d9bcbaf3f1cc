//! One cluster of real daemons on this host.

use crate::{
    binaries, clock,
    command::{self, Ended},
    leaks,
    netns::Netns,
};
use serde_json::Value;
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// Longest wait for a state that should come soon.
pub const SOON: Duration = Duration::from_secs(60);
/// The node's address inside its namespace.
pub const NODE_IP: &str = "192.0.2.10";
static STARTED: AtomicU32 = AtomicU32::new(0);

/// How a cluster differs from the usual.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Content of registries.toml.
    pub registries: String,
    /// Leave out `--allow-unenforced-limits`.
    pub enforce_limits: bool,
    /// Everything of the cluster lies on an overlay mount, on which overlayfs lays no other.
    pub on_overlay: bool,
}

/// A one-node cluster in a namespace of its own.
pub struct Cluster {
    pub dir: PathBuf,
    pub netns: Netns,
    cgroup_parent: String,
    options: Options,
}

impl Cluster {
    /// `ctl up`; returns when the node is Ready.
    pub fn start(options: Options) -> Self {
        crate::require_root();
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let id = format!("wherry-{}-{number}", std::process::id());
        let dir = tempfile::Builder::new().prefix(&id).tempdir().expect("temporary directory").keep();
        if options.on_overlay {
            mount_overlay(&dir);
        }
        fs::write(dir.join("registries.toml"), &options.registries).expect("written");
        let netns = Netns::create(&id, &format!("{NODE_IP}/24"));
        let cluster = Self { dir, netns, cgroup_parent: id, options };
        cluster.up().ok();
        cluster
    }

    /// `ctl up` with this cluster's flags; starts what does not run.
    pub fn up(&self) -> Ended {
        self.up_with(&[])
    }

    /// The same with more flags, for the daemons that do not run.
    pub fn up_with(&self, flags: &[&str]) -> Ended {
        let dir = self.dir.display();
        let mut words = vec![
            "up".to_owned(),
            "--no-systemd".to_owned(),
            format!("--run-dir={dir}/run"),
            format!("--state-dir={dir}/state"),
            format!("--log-dir={dir}/logs"),
            format!("--kubeconfig={dir}/kubeconfig"),
            format!("--registries={dir}/registries.toml"),
            format!("--cgroup-parent={}", self.cgroup_parent),
            "--listen=127.0.0.1:6443".to_owned(),
            "--node-name=node-1".to_owned(),
        ];
        words.extend((!self.options.enforce_limits).then(|| "--allow-unenforced-limits".to_owned()));
        words.extend(flags.iter().map(|flag| (*flag).to_owned()));
        command::run(self.netns.command(binaries().join("ctl")).args(words), "")
    }

    /// `ctl down --purge`, and the proof that nothing is left.
    pub fn down(self) {
        command::run(self.netns.command(binaries().join("ctl")).args(self.down_words()), "").ok();
        let mut leaks = leaks::find(&self.dir, &self.netns, &self.cgroup_parent);
        leaks.retain(|leak| !self.options.on_overlay || *leak != format!("mount {}", self.dir.display()));
        assert!(leaks.is_empty(), "left behind:\n  {}", leaks.join("\n  "));
    }

    fn down_words(&self) -> Vec<String> {
        let dir = self.dir.display();
        let words = ["down", "--no-systemd", "--purge", "--grace=1"].map(str::to_owned);
        let paths = [("run", "run"), ("state", "state"), ("log", "logs")];
        words.into_iter().chain(paths.map(|(flag, name)| format!("--{flag}-dir={dir}/{name}"))).collect()
    }

    /// Runs our own command line against the cluster.
    #[track_caller]
    pub fn ctl(&self, words: &[&str]) -> Ended {
        self.ctl_with(words, "")
    }

    #[track_caller]
    pub fn ctl_with(&self, words: &[&str], stdin: &str) -> Ended {
        let mut command = self.netns.command(binaries().join("ctl"));
        command::run(command.args(words).env("KUBECONFIG", self.dir.join("kubeconfig")), stdin)
    }

    /// Runs the real kubectl against the cluster.
    #[track_caller]
    pub fn kubectl(&self, words: &[&str]) -> Ended {
        self.kubectl_with(words, "")
    }

    #[track_caller]
    pub fn kubectl_with(&self, words: &[&str], stdin: &str) -> Ended {
        let mut command = self.netns.command(crate::images::kubectl());
        command.args(words).env("KUBECONFIG", self.dir.join("kubeconfig")).env("HOME", &self.dir);
        command::run(&mut command, stdin)
    }

    /// Applies a manifest given as text.
    #[track_caller]
    pub fn apply(&self, manifest: &str) {
        self.kubectl_with(&["apply", "-f", "-"], manifest).ok();
    }

    /// Applies a file of `examples/`.
    #[track_caller]
    pub fn apply_example(&self, name: &str) {
        let path = crate::root().join("examples").join(name);
        self.kubectl(&["apply", "-f", path.to_str().expect("UTF-8")]).ok();
    }

    /// Applies the one object of a kind out of a file of `examples/`.
    #[track_caller]
    pub fn apply_example_object(&self, name: &str, kind: &str) {
        let text = fs::read_to_string(crate::root().join("examples").join(name)).expect("an example");
        let wanted = format!("kind: {kind}");
        let object = text.split("\n---\n").find(|part| part.lines().any(|line| line == wanted));
        self.apply(object.unwrap_or_else(|| panic!("no {kind} in {name}")));
    }

    /// An object as JSON; `Null` when it is not there.
    pub fn get(&self, kind: &str, name: &str) -> Value {
        self.get_in("default", kind, name)
    }

    pub fn get_in(&self, namespace: &str, kind: &str, name: &str) -> Value {
        let ended = self.ctl(&["get", kind, name, "-o", "json", "-n", namespace]);
        if ended.success() { serde_json::from_str(&ended.stdout).expect("JSON") } else { Value::Null }
    }

    /// Objects of a kind that have a label.
    pub fn list(&self, kind: &str, selector: &str) -> Vec<Value> {
        let ended = self.ctl(&["get", kind, "-l", selector, "-o", "json"]);
        let list: Value = serde_json::from_str(&ended.stdout).unwrap_or(Value::Null);
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// Looks until `found` gives something; panics after [`SOON`], saying what was awaited and what there is.
    #[track_caller]
    pub fn wait_for<T>(&self, what: &str, found: impl FnMut() -> Option<T>) -> T {
        self.wait_within(SOON, what, found)
    }

    #[track_caller]
    pub fn wait_within<T>(&self, limit: Duration, what: &str, found: impl FnMut() -> Option<T>) -> T {
        clock::poll(limit, found).unwrap_or_else(|| {
            let pods = self.ctl(&["get", "pods", "-A", "-o", "wide"]);
            let events = self.ctl(&["get", "events", "-A"]);
            panic!(
                "waited {} s in vain: {what}\n{}{}{}",
                limit.as_secs(),
                pods.stdout,
                pods.stderr,
                events.stdout
            )
        })
    }

    /// Waits until the pod is Ready; gives it back.
    #[track_caller]
    pub fn wait_ready(&self, pod: &str) -> Value {
        self.wait_for(&format!("pod {pod} is ready"), || {
            Some(self.get("pod", pod)).filter(|pod| condition(pod, "Ready") == "True")
        })
    }

    /// The address of a port on the node.
    pub fn node_port(&self, port: u16) -> SocketAddr {
        format!("{NODE_IP}:{port}").parse().expect("an address")
    }

    /// pid of a daemon, if it runs.
    pub fn daemon(&self, name: &str) -> Option<i32> {
        let record = fs::read(self.dir.join("run").join(format!("{name}.pid"))).ok()?;
        let record: Value = serde_json::from_slice(&record).ok()?;
        let pid = i32::try_from(record["pid"].as_i64()?).ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        (!stat.contains(") Z ")).then_some(pid)
    }

    /// SIGKILL to a daemon, at once and without warning; true if it ran.
    pub fn kill_daemon(&self, name: &str) -> bool {
        let Some(pid) = self.daemon(name) else { return false };
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).is_ok()
    }

    pub fn cgroup(&self) -> PathBuf {
        leaks::cgroup_root().join(&self.cgroup_parent)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("logs and state of the cluster were kept in {}", self.dir.display());
            for name in ["scheduler", "netd", "agent"] {
                eprintln!(
                    "--- the end of {name}.log\n{}",
                    tail(&self.dir.join("run").join(format!("{name}.log")))
                );
            }
            let copy = self.dir.join("logs-kept");
            let _ = Command::new("cp").arg("-r").arg(self.dir.join("run")).arg(copy).output();
        }
        let _ = Command::new("nsenter")
            .arg(format!("--net={}", self.netns.path().display()))
            .arg(binaries().join("ctl"))
            .args(self.down_words())
            .output();
        if !std::thread::panicking() {
            if self.options.on_overlay {
                let _ = Command::new("umount").arg(&self.dir).status();
                let _ = fs::remove_dir_all(self.dir.with_extension("layers"));
            }
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Mounts an overlay on `dir`; its layers are beside it.
fn mount_overlay(dir: &Path) {
    let layers = dir.with_extension("layers");
    let part = |name: &str| {
        let part = layers.join(name);
        fs::create_dir_all(&part).expect("made");
        part.display().to_string()
    };
    let options = format!("lowerdir={},upperdir={},workdir={}", part("lower"), part("upper"), part("work"));
    command::run(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(dir), "").ok();
}

fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// `True`, `False`, `Unknown` or nothing: a condition of an object's status.
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|condition| condition["type"] == kind);
    found.and_then(|condition| condition["status"].as_str()).unwrap_or_default()
}
