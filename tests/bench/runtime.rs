//! Containers from the command line: our runtime, the kernel's floor and crun, in turn.
//!
//! Runs in a mount namespace of its own, with cgroup v2 where crun looks for it and state on a tmpfs as /run is on other hosts; crun as released
//! starts nothing beside cgroup v1, and without CAP_SYS_RESOURCE no container that lists devices, so none is listed.

use crate::median;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::resource::{UsageWho, getrusage},
};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tests::clock;

const RUNS: usize = 60;

/// `bench runtime`, in a namespace made by [`table`].
pub fn measure() {
    let none: Option<&str> = None;
    let group = Path::new("/sys/fs/cgroup");
    if !group.join("cgroup.controllers").exists() {
        umount2(group, MntFlags::MNT_DETACH).expect("unmounted in this namespace");
        mount(Some("none"), group, Some("cgroup2"), MsFlags::empty(), none).expect("cgroup2 mounted");
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    let state = dir.path().join("state");
    fs::create_dir(&state).expect("made");
    mount(Some("none"), &state, Some("tmpfs"), MsFlags::empty(), none).expect("tmpfs mounted");
    bundle(dir.path());
    let mut contenders = contenders(dir.path(), &state);
    contenders.retain(|contender| Command::new(&contender.words[0]).arg("--version").output().is_ok());
    println!(
        "| | run | create + start + delete | peak RSS | system calls of a run | size |\n|---|---|---|---|---|---|"
    );
    let times = interleaved(&contenders);
    for (contender, (mut run, mut life)) in contenders.iter().zip(times) {
        let life = if life.is_empty() { "—".to_owned() } else { format!("{:.2} ms", median(&mut life)) };
        println!(
            "| {} | {:.2} ms | {life} | {:.1} MB | {} | {:.1} MB |",
            contender.name,
            median(&mut run),
            rss(contender) / 1e3,
            calls(contender),
            size(&contender.words[0]),
        );
    }
    umount2(&state, MntFlags::MNT_DETACH).expect("unmounted");
}

/// One way to make a container; `words` end before the command.
struct Contender {
    name: String,
    words: Vec<String>,
    run: Vec<String>,
    whole_life: bool,
}

impl Contender {
    fn command(&self, more: &[String]) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

fn contenders(dir: &Path, state: &Path) -> Vec<Contender> {
    let text = |path: PathBuf| path.display().to_string();
    let floor = text(tests::binaries().join("floor"));
    let of = |name: &str, program: String| Contender {
        name: name.to_owned(),
        words: vec![program.clone(), "--root".to_owned(), text(state.join(name))],
        run: ["run", "-b", &text(dir.to_path_buf()), &format!("bench-{name}")].map(str::to_owned).to_vec(),
        whole_life: true,
    };
    let version = Command::new("crun").arg("--version").output();
    let version =
        version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let mut crun = of("crun", "crun".to_owned());
    crun.name = format!("crun {}", version.split_whitespace().nth(2).unwrap_or_default());
    let mut ours = of("wherry-runtime", text(tests::binaries().join("wherry-runtime")));
    ours.name = "wherry-runtime".to_owned();
    let floor = Contender {
        name: "floor (the kernel's part)".to_owned(),
        words: vec![floor],
        run: [text(dir.join("rootfs")), "/sys/fs/cgroup/bench-floor".to_owned(), "/bin/true".to_owned()]
            .to_vec(),
        whole_life: false,
    };
    vec![floor, ours, crun]
}

/// A container that does nothing, with what docker sends along: seven mounts, masks, a filter for three architectures.
fn bundle(dir: &Path) {
    let bin = dir.join("rootfs/bin");
    for name in ["bin", "dev", "proc", "sys"] {
        fs::create_dir_all(dir.join("rootfs").join(name)).expect("made");
    }
    fs::copy("/bin/busybox", bin.join("busybox"))
        .or_else(|_| fs::copy("/mnt/busybox", bin.join("busybox")))
        .expect("busybox");
    symlink("busybox", bin.join("true")).expect("linked");
    let spec = Command::new(tests::binaries().join("wherry-runtime")).args(["spec", "-b"]).arg(dir).status();
    assert!(spec.expect("runs").success());
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
    // The newest that crun 1.8 knows.
    config["ociVersion"] = json!("1.0.2");
    config["process"]["args"] = json!(["/bin/true"]);
    config["process"]["rlimits"] = json!([]);
    config["linux"].as_object_mut().expect("an object").remove("resources");
    config["linux"]["seccomp"]["architectures"] =
        json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]);
    fs::write(path, config.to_string()).expect("written");
}

fn timed(commands: &mut [Command]) -> f64 {
    let start = clock::now();
    for command in commands {
        let status = command.status().expect("runs");
        assert!(status.success(), "{command:?}: {status}");
    }
    start.elapsed().as_secs_f64() * 1e3
}

/// Milliseconds of each run, and of each whole life.
fn interleaved(contenders: &[Contender]) -> Vec<(Vec<f64>, Vec<f64>)> {
    let mut times: Vec<(Vec<f64>, Vec<f64>)> = contenders.iter().map(|_| Default::default()).collect();
    for _ in 0..RUNS {
        for (contender, (run, life)) in contenders.iter().zip(&mut times) {
            run.push(timed(&mut [contender.command(&contender.run)]));
            if contender.whole_life {
                let id = contender.run[3].clone();
                let mut create = contender.run.clone();
                create[0] = "create".to_owned();
                let simple = |name: &str| contender.command(&[name.to_owned(), id.clone()]);
                let mut force = contender.command(&["delete".to_owned(), "--force".to_owned(), id.clone()]);
                force.stderr(Stdio::null());
                life.push(timed(&mut [contender.command(&create), simple("start"), force]));
            }
        }
    }
    times
}

/// Peak resident KiB of one run, by a process between whose only child it is.
fn rss(contender: &Contender) -> f64 {
    let exe = std::env::current_exe().expect("this program");
    let output =
        Command::new(exe).arg("rss").args(&contender.words).args(&contender.run).output().expect("runs");
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or(0.0)
}

/// `bench rss COMMAND...`
pub fn print_rss(words: &[String]) {
    let status = Command::new(&words[0]).args(&words[1..]).stdout(Stdio::null()).status().expect("runs");
    assert!(status.success());
    println!("{}", getrusage(UsageWho::RUSAGE_CHILDREN).expect("usage").max_rss());
}

fn calls(contender: &Contender) -> String {
    let counted = Command::new("strace")
        .args(["-f", "-c", "-o", "/dev/stdout"])
        .args(&contender.words)
        .args(&contender.run)
        .stderr(Stdio::null())
        .output();
    let text = counted.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let total = text.lines().find(|line| line.ends_with("total"));
    total.and_then(|line| line.split_whitespace().nth(3)).unwrap_or("—").to_owned()
}

/// MB of the program's file.
fn size(program: &str) -> f64 {
    let path =
        if program.contains('/') { PathBuf::from(program) } else { Path::new("/usr/bin").join(program) };
    fs::metadata(path).map_or(0.0, |file| file.len() as f64 / 1e6)
}

/// Prints the table for this host.
pub fn table() {
    let exe = std::env::current_exe().expect("this program");
    let status =
        Command::new("unshare").args(["-m", "--propagation", "private"]).arg(exe).arg("runtime").status();
    assert!(status.expect("unshare runs").success());
}
