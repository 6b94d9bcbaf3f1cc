//! Containers from the command line: our runtime, the kernel's floor, crun, runc and youki, in turn, on this host and in a Debian guest.
//!
//! Runs in a mount namespace of its own, with cgroup v2 where crun looks for it and state on a tmpfs as /run is on other hosts; crun as released
//! starts nothing beside cgroup v1, and without CAP_SYS_RESOURCE no container that lists devices, so none is listed. The seccomp profile and the masks
//! are those that the installed podman sends along.

use crate::{
    goals::{self, Goal},
    median, order,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tests::{clock, guest::Guest};

const RUNS: usize = 60;
const OURS: &str = "wherry-runtime";
const FLOOR: &str = "floor (the kernel's part)";

/// The most that ours may take, as a part of another's time.
pub struct Wanted {
    run_of_floor: Option<f64>,
    run_of_crun: f64,
    life_of_crun: f64,
    rss_mb: Option<f64>,
}

pub const HOST: Wanted =
    Wanted { run_of_floor: Some(1.7), run_of_crun: 0.2, life_of_crun: 0.2, rss_mb: Some(2.0) };
pub const GUEST: Wanted = Wanted { run_of_floor: None, run_of_crun: 0.35, life_of_crun: 0.35, rss_mb: None };

/// `bench runtime`, in a namespace made by [`in_namespace`]; `bench runtime-in-guest`.
pub fn measure(wanted: &Wanted) {
    with_bundle(|dir| measure_in(dir, wanted));
}

/// `bench order MAP`, in a namespace made by [`in_namespace`].
pub fn order(map: &Path) {
    let runtime = tests::binaries().join("wherry-runtime");
    with_bundle(|dir| order::print(&runtime, map, dir));
}

/// Calls with a directory that has a bundle, and a tmpfs at `state`.
fn with_bundle(work: impl FnOnce(&Path)) {
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
    work(dir.path());
    umount2(&state, MntFlags::MNT_DETACH).expect("unmounted");
}

fn measure_in(dir: &Path, wanted: &Wanted) {
    let mut contenders = contenders(dir, &dir.join("state"));
    // One that is not installed, or that this host does not suit, is left out.
    contenders
        .retain(|contender| contender.command(&contender.run).status().is_ok_and(|ended| ended.success()));
    println!(
        "| | run | create + start + delete | peak RSS | system calls of a run | size |\n|---|---|---|---|---|---|"
    );
    let times = interleaved(&contenders);
    let rows: Vec<Row> =
        contenders.iter().zip(times).map(|(contender, times)| Row::new(contender, times)).collect();
    for row in &rows {
        let or_dash = |value: Option<f64>, unit: &str| {
            value.map_or_else(|| "—".to_owned(), |value| format!("{value:.2} {unit}"))
        };
        println!(
            "| {} | {:.2} ms | {} | {} | {} | {:.1} MB |",
            row.contender.name,
            row.run,
            or_dash(row.life, "ms"),
            or_dash(row.rss, "MB"),
            calls(row.contender),
            size(&row.contender.words[0]),
        );
    }
    goals::print(&goals(&rows, wanted));
}

/// Medians in ms; the peak in MB.
struct Row<'a> {
    contender: &'a Contender,
    run: f64,
    life: Option<f64>,
    rss: Option<f64>,
}

impl<'a> Row<'a> {
    fn new(contender: &'a Contender, (mut run, mut life): (Vec<f64>, Vec<f64>)) -> Self {
        let life = (!life.is_empty()).then(|| median(&mut life));
        Self { contender, run: median(&mut run), life, rss: rss(contender) }
    }
}

/// Those whose peer is installed here.
fn goals(rows: &[Row<'_>], wanted: &Wanted) -> Vec<Goal> {
    let named = |name: &str| rows.iter().find(|row| row.contender.name.starts_with(name));
    let goal = |what: &str, measured: Option<f64>, at_most: Option<f64>| {
        Some(Goal { what: what.to_owned(), measured: measured?, at_most: at_most? })
    };
    let (Some(ours), floor, crun) = (named(OURS), named(FLOOR), named("crun")) else { return Vec::new() };
    let run_of = |peer: Option<&Row<'_>>| peer.map(|peer| ours.run / peer.run);
    let life = crun.and_then(|crun| Some(ours.life? / crun.life?));
    [
        goal("run: ours ÷ floor", run_of(floor), wanted.run_of_floor),
        goal("run: ours ÷ crun", run_of(crun), Some(wanted.run_of_crun)),
        goal("create + start + delete: ours ÷ crun", life, Some(wanted.life_of_crun)),
        goal("peak RSS, MB", ours.rss, wanted.rss_mb),
    ]
    .into_iter()
    .flatten()
    .collect()
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
    let other = |program: String| {
        let version = Command::new(&program).arg("--version").output();
        let version =
            version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let name = Path::new(&program).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let number = version.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        let number = number.unwrap_or_default().to_owned();
        Contender { name: format!("{name} {number}"), ..of(&name, program) }
    };
    let mut ours = of("wherry-runtime", text(tests::binaries().join("wherry-runtime")));
    ours.name = OURS.to_owned();
    let floor = Contender {
        name: FLOOR.to_owned(),
        words: vec![floor],
        run: [text(dir.join("rootfs")), "/sys/fs/cgroup/bench-floor".to_owned(), "/bin/true".to_owned()]
            .to_vec(),
        whole_life: false,
    };
    let youki = text(tests::cache().join("bin/youki"));
    vec![floor, ours, other("crun".to_owned()), other("runc".to_owned()), other(youki)]
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
    for applet in ["true", "sleep"] {
        symlink("busybox", bin.join(applet)).expect("linked");
    }
    let spec = Command::new(tests::binaries().join("wherry-runtime")).args(["spec", "-b"]).arg(dir).status();
    assert!(spec.expect("runs").success());
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
    // The newest that crun 1.8 knows.
    config["ociVersion"] = json!("1.0.2");
    config["process"]["args"] = json!(["/bin/true"]);
    config["process"]["rlimits"] = json!([]);
    config["linux"].as_object_mut().expect("an object").remove("resources");
    let sent = sent_by_podman(dir);
    for field in ["seccomp", "maskedPaths", "readonlyPaths"] {
        config["linux"][field] = sent["linux"][field].clone();
    }
    fs::write(path, config.to_string()).expect("written");
}

/// Changes what the container of [`bundle`] runs.
pub fn set_program(dir: &Path, args: &[&str]) {
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
    config["process"]["args"] = json!(args);
    fs::write(path, config.to_string()).expect("written");
}

/// The config.json that podman hands to a runtime; this one keeps it and fails.
fn sent_by_podman(dir: &Path) -> Value {
    let own = dir.join("podman");
    fs::create_dir(&own).expect("made");
    let (kept, runtime) = (own.join("config.json"), own.join("runtime"));
    let script = format!(
        "#!/bin/sh\nwhile [ $# -gt 0 ]; do [ \"$1\" != --bundle ] || cp \"$2/config.json\" {}; shift; done\nexit 1\n",
        kept.display()
    );
    fs::write(&runtime, script).expect("written");
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).expect("made executable");
    let mut podman = Command::new("podman");
    for (flag, name) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
        podman.arg(flag).arg(own.join(name));
    }
    podman.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--runtime"]).arg(&runtime);
    podman.args(["run", "--rm", "--network", "none", "--rootfs"]).arg(dir.join("rootfs")).arg("/bin/true");
    let output = podman.output().expect("podman runs");
    let text = fs::read(&kept).unwrap_or_else(|_| {
        panic!("podman made no config.json: {}", String::from_utf8_lossy(&output.stderr))
    });
    serde_json::from_slice(&text).expect("JSON")
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

/// Peak resident memory of one run in MB, as time(1) has it: this program would add its own to what it starts (getrusage(2), vfork(2)).
fn rss(contender: &Contender) -> Option<f64> {
    let timed = Command::new("/usr/bin/time")
        .args(["-f", "%M"])
        .args(&contender.words)
        .args(&contender.run)
        .stdin(Stdio::null())
        .output();
    let text = String::from_utf8_lossy(&timed.ok()?.stderr).into_owned();
    let kib: f64 = text.lines().last()?.trim().parse().ok()?;
    Some(kib * 1024.0 / 1e6)
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

/// This program with `words`, in a mount namespace of its own.
pub fn in_namespace(words: &[&str]) {
    let exe = std::env::current_exe().expect("this program");
    let status =
        Command::new("unshare").args(["-m", "--propagation", "private"]).arg(exe).args(words).status();
    assert!(status.expect("unshare runs").success());
}

/// Prints the table for a Debian guest; emulated where the host has no KVM.
pub fn guest_table() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let exe = std::env::current_exe().expect("this program");
    for (from, name) in [(exe.as_path(), "bench"), (Path::new("/bin/busybox"), "busybox")] {
        fs::copy(from, dir.path().join(name)).expect("copied");
    }
    Guest::with(Some(dir.path()), |guest| {
        println!("{}", guest.run("WHERRY_BIN=/opt/wherry exec /mnt/bench runtime-in-guest").ok().trim_end());
    });
}
