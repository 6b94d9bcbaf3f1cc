//! A virtual machine with Debian, systemd and unified cgroup v2, run by an ordinary user in QEMU.

use crate::{
    binaries, cache, clock,
    command::{self, Ended},
    root,
};
use nix::{
    sys::wait::{Id, WaitPidFlag, WaitStatus, waitid},
    unistd::Pid,
};
use std::{
    fs::{self, File},
    io::BufRead,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// The user that builds and runs guests; `make test` adds it.
const USER: &str = "wherry-vm";
/// Emulated, a Debian guest takes 10 to 20 s.
const BOOT: Duration = Duration::from_secs(180);
const MEMORY_MIB: u32 = 2048;
const CONSOLE_LINES: usize = 60;
const EMULATOR_FAULT: &str = "Oops: int3";
const ATTEMPTS: u32 = 3;
/// ssh(1): "255 if an error occurred"; of the command itself it would be unusual.
const SSH_FAILED: i32 = 255;
static STARTED: AtomicU32 = AtomicU32::new(0);

/// A running guest; gone when dropped.
pub struct Guest {
    qemu: Child,
    dir: PathBuf,
    port: u16,
}

impl Guest {
    /// Runs `test` in a new guest that has `files` (a directory) at `/mnt`, and in another one when the emulator has made the guest's kernel panic.
    ///
    /// A kernel patches its own code (static keys, for one when a cgroup controller is turned on) by way of a breakpoint. QEMU's
    /// emulation with a thread per processor now and then keeps a translation with the breakpoint in it, and the kernel
    /// panics: `Oops: int3`. One thread for all processors, or one processor, would take three times as long.
    pub fn with(files: Option<&Path>, test: impl Fn(&Self)) {
        for _ in 0..ATTEMPTS {
            let guest = Self::launch(files);
            let run = || {
                guest.wait_booted(files.is_some());
                test(&guest);
            };
            let Err(panic) = panic::catch_unwind(AssertUnwindSafe(run)) else { return };
            if !guest.console().contains(EMULATOR_FAULT) {
                panic::resume_unwind(panic);
            }
            eprintln!("the emulator made the guest's kernel panic; once more, in a new guest");
        }
        panic!("the emulator made the kernels of {ATTEMPTS} guests panic");
    }

    /// Builds the image where it is not cached, and starts QEMU with our binaries and `files` as disks.
    fn launch(files: Option<&Path>) -> Self {
        let image = image();
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let dir = cache().join(format!("guest-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).expect("created");
        disk(&stage_binaries(&dir), &dir.join("bin.ext4"));
        let mut disks = vec![image.join("disk.ext4"), dir.join("bin.ext4")];
        if let Some(files) = files {
            disk(files, &dir.join("files.ext4"));
            disks.push(dir.join("files.ext4"));
        }
        give_to_user(&dir);
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|socket| socket.local_addr())
            .expect("a free port")
            .port();
        let qemu = as_user("qemu-system-x86_64")
            .args(qemu_words(&image, &disks, &dir, port))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(dir.join("qemu.log")).expect("created"))
            .spawn()
            .expect("qemu-system-x86_64 starts");
        Self { qemu, dir, port }
    }

    fn wait_booted(&self, with_files: bool) {
        let up = clock::poll(BOOT, || {
            assert!(self.runs(), "the guest has ended: {}", self.last_words());
            // QEMU accepts before the guest listens: only a banner means sshd is there.
            let stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
            let mut banner = String::new();
            std::io::BufReader::new(stream).read_line(&mut banner).ok()?;
            (banner.starts_with("SSH-") && self.run("true").success()).then_some(())
        });
        assert!(up.is_some(), "no sshd after {} s: {}", BOOT.as_secs(), self.last_words());
        self.run("mkdir -p /opt/wherry && mount -o ro /dev/vdb /opt/wherry").ok();
        if with_files {
            self.run("mount -o ro /dev/vdc /mnt").ok();
        }
    }

    /// Runs a shell command as root in the guest; panics with the end of its console when the guest has ended.
    #[track_caller]
    pub fn run(&self, script: &str) -> Ended {
        let ended = command::run(self.ssh().args(["root@127.0.0.1", script]), "");
        let ends = || (!self.runs()).then_some(());
        if ended.status.code() == Some(SSH_FAILED) && clock::poll(Duration::from_secs(1), ends).is_some() {
            panic!("the guest has ended: {}\n{ended}", self.last_words());
        }
        ended
    }

    fn runs(&self) -> bool {
        let pid = Pid::from_raw(self.qemu.id().cast_signed());
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(pid), flags).is_ok_and(|status| status == WaitStatus::StillAlive)
    }

    /// What the kernel and QEMU have said.
    fn console(&self) -> String {
        ["console.log", "qemu.log"]
            .map(|name| fs::read(self.dir.join(name)).unwrap_or_default())
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .concat()
    }

    fn last_words(&self) -> String {
        let text = self.console();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
    }

    fn ssh(&self) -> Command {
        let mut ssh = Command::new("ssh");
        let control = format!("ControlPath={}", self.dir.join("ssh").display());
        let options = [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "ConnectTimeout=20",
            "ControlMaster=auto",
            "ControlPersist=60",
            &control,
        ];
        ssh.args(options.iter().flat_map(|option| ["-o", option]));
        ssh.arg("-i").arg(self.dir.join("key")).args(["-p", &self.port.to_string()]);
        ssh
    }

    /// Looks until the command succeeds; its stdout.
    #[track_caller]
    pub fn wait_for(&self, what: &str, limit: Duration, script: &str) -> String {
        let mut last = String::new();
        let found = clock::poll(limit, || {
            let ended = self.run(script);
            last = ended.to_string();
            ended.success().then_some(ended.stdout)
        });
        found.unwrap_or_else(|| panic!("waited {} s in vain: {what}: {last}", limit.as_secs()))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // The shared connection of `run`; without it there is none to end.
        let _ = self.ssh().args(["-O", "exit", "root@127.0.0.1"]).output();
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn qemu_words(image: &Path, disks: &[PathBuf], dir: &Path, port: u16) -> Vec<String> {
    let accelerator = if kvm_usable() { "kvm" } else { "tcg" };
    let mut words: Vec<String> =
        ["-display", "none", "-no-reboot", "-monitor", "none", "-cpu", "max", "-smp", "2"]
            .map(str::to_owned)
            .to_vec();
    let pairs = [
        ("-machine", format!("q35,accel={accelerator}")),
        ("-m", MEMORY_MIB.to_string()),
        ("-serial", format!("file:{}", dir.join("console.log").display())),
        ("-kernel", image.join("vmlinuz").display().to_string()),
        ("-initrd", image.join("initrd").display().to_string()),
        (
            "-append",
            "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=0 mitigations=off oops=panic panic=-1"
                .to_owned(),
        ),
        ("-netdev", format!("user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22")),
        ("-device", "virtio-net-pci,netdev=net0".to_owned()),
    ];
    words.extend(pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
    for (index, disk) in disks.iter().enumerate() {
        let drive = format!("file={},format=raw,if=none,id=disk{index},snapshot=on", disk.display());
        words.extend([
            "-drive".to_owned(),
            drive,
            "-device".to_owned(),
            format!("virtio-blk-pci,drive=disk{index}"),
        ]);
    }
    words
}

fn kvm_usable() -> bool {
    let words =
        ["-machine", "q35,accel=kvm", "-display", "none", "-S", "-monitor", "stdio", "-serial", "none"];
    let mut qemu = as_user("qemu-system-x86_64");
    command::run(qemu.args(words), "quit\n").success()
}

/// The guest image, built once by an ordinary user and kept.
fn image() -> PathBuf {
    let (out, script) = (cache().join("guest-image"), cache().join("guest-image.sh"));
    fs::create_dir_all(&out).expect("created");
    fs::copy(root().join("tests/vm/image.sh"), &script).expect("copied");
    give_to_user(&out);
    let ended = command::run(as_user("bash").arg(script).arg(&out).env("TMPDIR", "/tmp"), "");
    assert!(ended.success(), "building the guest image: {ended}");
    out
}

/// The program itself is the child, so that killing it ends it; it also ends with this process.
fn as_user(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    let user = [format!("--reuid={USER}"), format!("--regid={USER}")];
    command.args(user).args(["--init-groups", "--pdeathsig=KILL", "--", program]);
    command.env("HOME", format!("/home/{USER}")).env("USER", USER);
    command
}

fn give_to_user(dir: &Path) {
    command::run(Command::new("chown").arg("-R").arg(USER).arg(dir), "").ok();
}

/// A directory with our programs, units and examples, for the guest's second disk.
fn stage_binaries(dir: &Path) -> PathBuf {
    let stage = dir.join("stage");
    fs::create_dir_all(stage.join("examples")).expect("created");
    fs::copy(cache().join("guest-image/key"), dir.join("key")).expect("copied");
    fs::set_permissions(dir.join("key"), fs::Permissions::from_mode(0o600)).expect("changed");
    for from in [binaries(), root().join("ctl/units"), root().join("examples")] {
        let to = if from.ends_with("examples") { stage.join("examples") } else { stage.clone() };
        for entry in fs::read_dir(&from).expect("listed").flatten().filter(|entry| entry.path().is_file()) {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
    }
    stage
}

/// An ext4 image of a directory, made without root's help.
fn disk(from: &Path, to: &Path) {
    let size = command::run(Command::new("du").args(["-sm"]).arg(from), "").ok();
    let mib: u64 =
        size.split_whitespace().next().and_then(|mib| mib.parse().ok()).expect("du prints a number");
    let mut mke2fs = Command::new("mke2fs");
    mke2fs
        .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d"])
        .arg(from)
        .arg(to)
        .arg(format!("{}M", mib * 5 / 4 + 16));
    command::run(&mut mke2fs, "").ok();
}
