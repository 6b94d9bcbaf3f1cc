//! Pulling an image: our agent, podman and containerd, in turn, from one docker-registry on loopback.
//!
//! Runs in namespaces of its own, each engine with directories of its own in the same file system, each with its overlay storage and
//! its defaults. Between two pulls the image is removed again and everything is written to disk, so that nobody pays for another.
//! The file system is ext4 with a journal, as servers have it, in a loop device: without a journal ext4 passes over the inodes that were
//! freed in the last seconds one by one, and then each pull paid for the removal before it.

use crate::{
    goals::{self, Goal},
    median, sample,
};
use std::{
    fs::{self, File},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use tests::{clock, cluster::SOON};

pub const ROUNDS: usize = 5;
/// How long ours may take, as a part of the time of each other engine.
const WANTED: f64 = 0.6;
/// What three engines hold at most, and room.
const DISK_BYTES: u64 = 16 << 30;
const REGISTRY: &str = "127.0.0.1:5000";
const IMAGE: &str = "127.0.0.1:5000/bench:latest";
/// What the image in the cache was made by; another text makes it anew.
const STAMP: &str = concat!(include_str!("sample.rs"), "1");

/// Prints the table for this host, from `rounds` pulls by each engine.
pub fn table(rounds: usize) {
    let exe = std::env::current_exe().expect("this program");
    let status = Command::new("unshare")
        // In a namespace of processes, so that the daemons end with this however it ends.
        .args([
            "--mount",
            "--net",
            "--propagation",
            "private",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .arg(exe)
        .arg("pulls-in-namespaces")
        .arg(rounds.to_string())
        .status();
    assert!(status.expect("unshare runs").success());
}

/// `bench pulls-in-namespaces ROUNDS`, in namespaces made by [`table`].
pub fn measure(rounds: usize) {
    run(Command::new("ip").args(["link", "set", "lo", "up"]));
    let cached = tests::cache().join("bench-image");
    if fs::read_to_string(cached.join("stamp")).ok().as_deref() != Some(STAMP) {
        make(&cached);
    }
    let dir =
        tempfile::Builder::new().prefix("wherry-bench-").tempdir_in("/var/tmp").expect("temporary directory");
    let disk = disk(dir.path());
    let _registry = registry(&cached, false);
    let engines = [ours(&disk.0), podman(&disk.0), containerd(&disk.0)];
    let mut times: Vec<Vec<f64>> = engines.iter().map(|_| Vec::new()).collect();
    for round in 0..=rounds {
        for (engine, times) in engines.iter().zip(&mut times) {
            nix::unistd::sync();
            let start = clock::now();
            engine.call(&engine.pull);
            let seconds = start.elapsed().as_secs_f64();
            engine.call(&engine.remove);
            // The first round warms the registry's page cache.
            if round > 0 {
                times.push(seconds);
            }
        }
    }
    println!("| | median | best |\n|---|---|---|");
    let medians: Vec<f64> = times.iter_mut().map(|times| median(times)).collect();
    for ((engine, times), middle) in engines.iter().zip(&times).zip(&medians) {
        println!("| {} | {middle:.2} s | {:.2} s |", engine.name, times[0]);
    }
    let others = engines.iter().zip(&medians).skip(1);
    let goals = others.map(|(engine, middle)| Goal {
        what: format!("ours ÷ {}", engine.name),
        measured: medians[0] / middle,
        at_most: WANTED,
    });
    goals::print(&goals.collect::<Vec<_>>());
}

/// A mounted file system, taken away when dropped.
struct Disk(PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        // What podman has mounted in it goes with it.
        let _ = Command::new("umount").args(["--recursive", "--lazy"]).arg(&self.0).status();
    }
}

/// Mounts a new file system below `dir`.
fn disk(dir: &Path) -> Disk {
    let (image, root) = (dir.join("disk.img"), dir.join("disk"));
    File::create(&image).and_then(|file| file.set_len(DISK_BYTES)).expect("a sparse file");
    fs::create_dir(&root).expect("made");
    // Everything that ext4 would initialize in the background is made now.
    let options = "lazy_itable_init=0,lazy_journal_init=0";
    run(Command::new("mkfs.ext4").args(["-q", "-i", "65536", "-E", options]).arg(&image));
    run(Command::new("mount").args(["-o", "loop"]).args([&image, &root]));
    Disk(root)
}

/// One way to pull; `remove` leaves nothing of the image.
struct Engine {
    name: String,
    words: Vec<String>,
    pull: Vec<String>,
    remove: Vec<String>,
    /// Its daemon, where it has one.
    _daemon: Option<Daemon>,
}

impl Engine {
    fn call(&self, more: &[String]) {
        run(Command::new(&self.words[0]).args(&self.words[1..]).args(more));
    }
}

/// A process that is stopped and waited for when dropped.
struct Daemon(Child);

impl Daemon {
    fn start(command: &mut Command, log: &Path) -> Self {
        let log = File::create(log).expect("created");
        let output = Stdio::from(log.try_clone().expect("duplicated"));
        Self(command.stdin(Stdio::null()).stdout(output).stderr(log).spawn().expect("a daemon starts"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

fn run(command: &mut Command) {
    tests::command::run(command, "").ok();
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Makes the image and a registry that has it, below `cached`.
fn make(cached: &Path) {
    let _ = fs::remove_dir_all(cached);
    let layout = cached.join("layout");
    fs::create_dir_all(&layout).expect("the test cache can be written");
    sample::write_layout(&layout);
    let registry = registry(cached, true);
    let copy = ["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"];
    run(Command::new("skopeo")
        .args(copy)
        .arg(format!("oci:{}:latest", layout.display()))
        .arg(format!("docker://{IMAGE}")));
    drop(registry);
    fs::remove_dir_all(&layout).expect("removed");
    fs::write(cached.join("stamp"), STAMP).expect("written");
}

fn registry(storage: &Path, writable: bool) -> Daemon {
    let script = tests::root().join("tests/images/registry.sh");
    let mut command = Command::new("sh");
    command.arg(script).arg(storage).arg(REGISTRY);
    if writable {
        command.env("WHERRY_REGISTRY_WRITABLE", "1");
    }
    let daemon = Daemon::start(&mut command, &storage.join("registry.log"));
    let up = clock::poll(SOON, || TcpStream::connect(REGISTRY).ok());
    up.expect("the registry listens");
    daemon
}

fn ours(dir: &Path) -> Engine {
    let (run_dir, bin) = (dir.join("run"), tests::binaries());
    let state = dir.join("state");
    let mut agent = Command::new(bin.join("wherry-agent"));
    agent
        .arg("--run-dir")
        .arg(&run_dir)
        .arg("--state-dir")
        .arg(&state)
        .arg("--log-dir")
        .arg(dir.join("logs"));
    agent.arg("--runtime").arg(bin.join("wherry-runtime")).args(["--node-ip=127.0.0.1", "--node-name=bench"]);
    agent.arg("--scheduler").arg(format!("unix:{}/none", dir.display())).arg("--netd").arg(dir.join("none"));
    agent.arg("--registries").arg(dir.join("none")).arg("--allow-unenforced-limits");
    let daemon = Daemon::start(&mut agent, &dir.join("agent.log"));
    clock::poll(SOON, || run_dir.join("agent.sock").exists().then_some(())).expect("the agent listens");
    Engine {
        name: "wherry (`ctl image pull`)".to_owned(),
        words: vec![bin.join("ctl").display().to_string(), "image".to_owned()],
        pull: words(&format!("pull --run-dir {} {IMAGE}", run_dir.display())),
        remove: words(&format!("rm --run-dir {} {IMAGE}", run_dir.display())),
        _daemon: Some(daemon),
    }
}

fn podman(dir: &Path) -> Engine {
    let (root, run_root) = (dir.join("podman"), dir.join("podman-run"));
    let version = tests::command::run(Command::new("podman").arg("--version"), "").ok();
    Engine {
        name: version.trim().replace("version ", ""),
        words: words(&format!(
            "podman --root {} --runroot {} --storage-driver overlay --events-backend none --cgroup-manager cgroupfs",
            root.display(),
            run_root.display()
        )),
        pull: words(&format!("pull --quiet --tls-verify=false {IMAGE}")),
        remove: words(&format!("rmi --force {IMAGE}")),
        _daemon: None,
    }
}

fn containerd(dir: &Path) -> Engine {
    let home = dir.join("containerd");
    fs::create_dir(&home).expect("made");
    let (at, config) = (home.display(), home.join("config.toml"));
    let text = format!(
        "version = 2\nroot = \"{at}/root\"\nstate = \"{at}/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
        [grpc]\naddress = \"{at}/sock\"\n[ttrpc]\naddress = \"{at}/ttrpc\"\n"
    );
    fs::write(&config, text).expect("written");
    let daemon = Daemon::start(Command::new("containerd").arg("--config").arg(&config), &home.join("log"));
    let sock = home.join("sock");
    let version = || {
        let asked = Command::new("ctr").arg("--address").arg(&sock).arg("version").output().ok()?;
        let text = String::from_utf8_lossy(&asked.stdout).into_owned();
        let server = text.split("Server:").nth(1)?;
        server.split_whitespace().nth(1).map(str::to_owned)
    };
    let version = clock::poll(SOON, version).expect("containerd answers");
    Engine {
        name: format!("containerd {version} (`ctr image pull`)"),
        words: words(&format!("ctr --address {at}/sock")),
        pull: words(&format!("image pull --plain-http --snapshotter overlayfs {IMAGE}")),
        remove: words(&format!("image rm --sync {IMAGE}")),
        _daemon: Some(daemon),
    }
}
