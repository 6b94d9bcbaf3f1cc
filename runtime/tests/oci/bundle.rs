//! One container under test: its bundle, its state directory, and the commands on it. Dropping it checks that nothing is left.

use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

pub const RUNTIME: &str = env!("CARGO_BIN_EXE_wherry-runtime");
const BUSYBOX: [&str; 3] = ["/bin/busybox", "/usr/bin/busybox", "/usr/lib/busybox/bin/busybox"];
/// No command of a test takes longer.
const SECONDS_MAX: &str = "30";

pub struct Bundle {
    pub id: String,
    pub dir: PathBuf,
    pub config: Value,
}

/// The bundle of a container that runs `script` in a shell; `None` where containers cannot be made.
pub fn shell(script: &str) -> Option<Bundle> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let busybox = BUSYBOX.iter().find(|path| Path::new(path).exists());
    let lacks = if !nix::unistd::geteuid().is_root() {
        Some("root is needed")
    } else if busybox.is_none() {
        Some("a static busybox is needed (Debian: busybox-static)")
    } else {
        None
    };
    if let Some(why) = lacks {
        assert!(std::env::var_os("REQUIRE_PRIVILEGED").is_none(), "{why}");
        eprintln!("skipped: {why}");
        return None;
    }
    let id = format!("oci-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let dir = std::env::temp_dir().join(&id);
    let bin = dir.join("rootfs/bin");
    fs::create_dir_all(&bin).expect("bundle made");
    fs::copy(busybox.expect("checked"), bin.join("busybox")).expect("busybox copied");
    for applet in
        ["sh", "cat", "sleep", "id", "ls", "mount", "mkdir", "hostname", "grep", "ps", "kill", "env"]
    {
        symlink("busybox", bin.join(applet)).expect("linked");
    }
    for applet in [
        "stat", "touch", "chroot", "unshare", "tty", "stty", "readlink", "mknod", "dd", "pwd", "uname", "awk",
    ] {
        symlink("busybox", bin.join(applet)).expect("linked");
    }
    let bundle = Bundle { config: config(&id, script), id, dir };
    Some(bundle)
}

fn config(id: &str, script: &str) -> Value {
    let capabilities = json!(["CAP_KILL", "CAP_CHOWN", "CAP_MKNOD"]);
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "inside",
        "process": {
            "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["/bin/sh", "-c", script], "env": ["PATH=/bin"],
            "noNewPrivileges": true,
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "cgroupsPath": format!("/{id}/container"),
            "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}, {"type": "cgroup"},
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/acpi", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger"],
            "seccomp": runtime_spec::seccomp::default_profile(&[]),
        },
    })
}

impl Bundle {
    /// Sets a value of config.json by its JSON pointer; the object around it must be there.
    pub fn with(mut self, pointer: &str, value: Value) -> Self {
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        let around = self.config.pointer_mut(parent).expect("the object is there");
        match name.parse::<usize>() {
            Ok(index) => around[index] = value,
            Err(_) => around[name] = value,
        }
        self
    }

    /// Adds to a list of config.json.
    pub fn also(mut self, pointer: &str, value: Value) -> Self {
        let list = self.config.pointer_mut(pointer).and_then(Value::as_array_mut);
        list.expect("the list is there").push(value);
        self
    }

    pub fn root(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    pub fn state_root(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub fn write(&self) {
        fs::write(self.dir.join("config.json"), self.config.to_string()).expect("config.json written");
    }

    /// A command of the runtime; `{id}` in its words is the container.
    pub fn command(&self, words: &[&str]) -> Command {
        self.command_under(&[], Path::new(RUNTIME), words)
    }

    /// A command of `runtime`, run by another program: `around` is that program and its arguments.
    pub fn command_under(&self, around: &[&str], runtime: &Path, words: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-k", "5", SECONDS_MAX]).args(around);
        command.arg(runtime).arg("--root").arg(self.state_root());
        command.args(words.iter().map(|word| word.replace("{id}", &self.id)));
        command.current_dir(&self.dir).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end. The container's first process may outlive it, so its output goes to a file, not to a pipe.
    pub fn runtime(&self, words: &[&str]) -> Answer {
        self.answer(self.command(words))
    }

    /// As [`Self::runtime`], with each of the system calls `calls` (as strace names them) entered late: what races with it wins.
    pub fn slowed(&self, calls: &str, words: &[&str]) -> Answer {
        let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:delay_enter=30000"));
        let trace = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
        self.answer(self.command_under(&trace, Path::new(RUNTIME), words))
    }

    pub fn answer(&self, mut command: Command) -> Answer {
        let (out, err) = (self.dir.join("stdout"), self.dir.join("stderr"));
        let open = |path: &Path| fs::File::create(path).expect("output file made");
        let status = command.stdout(open(&out)).stderr(open(&err)).status().expect("the runtime runs");
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).expect("output read")).into_owned();
        Answer { code: status.code().unwrap_or(-1), out: read(&out), err: read(&err) }
    }

    /// `run`: from config.json to the container's end.
    pub fn run(&self) -> Answer {
        self.write();
        self.runtime(&["run", "{id}"])
    }

    /// `create` and `start`.
    pub fn up(&self) {
        self.write();
        self.runtime(&["create", "{id}"]).expect_ok();
        self.runtime(&["start", "{id}"]).expect_ok();
    }

    pub fn exec(&self, words: &[&str]) -> Answer {
        self.runtime(&[&["exec", "{id}"], words].concat())
    }

    pub fn state(&self) -> Value {
        serde_json::from_str(&self.runtime(&["state", "{id}"]).expect_ok()).expect("JSON")
    }

    pub fn status(&self) -> String {
        self.state()["status"].as_str().expect("a status").to_owned()
    }

    pub fn cgroup(&self) -> PathBuf {
        let path = self.config.pointer("/linux/cgroupsPath").and_then(Value::as_str).expect("a path");
        let root = runtime::cgroup::mount_point().expect("cgroup v2 is mounted");
        let below = Path::new(path).strip_prefix(&root).unwrap_or(Path::new(path.trim_start_matches('/')));
        root.join(below)
    }

    /// Waits until `holds`; what it is waiting for is in the message.
    pub fn wait_for(&self, what: &str, holds: impl FnMut() -> bool) {
        assert!(runtime::clock::retry(std::time::Duration::from_secs(10), holds), "{what}");
    }

    /// Nothing is left of the container outside its bundle.
    pub fn expect_gone(&self) {
        assert!(!self.cgroup().exists(), "the cgroup is left");
        assert!(!self.state_root().join(&self.id).exists(), "the state is left");
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read");
        assert!(!mounts.contains(&self.id), "a mount is left");
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let left = self.runtime(&["delete", "--force", "{id}"]);
        let parent = runtime::cgroup::mount_point().expect("cgroup v2 is mounted").join(&self.id);
        runtime::cgroup::Cgroup::at(parent).remove().expect("the test's own cgroup is removed");
        if std::thread::panicking() {
            eprintln!("the bundle is kept in {}", self.dir.display());
            return;
        }
        assert_eq!(left.code, 0, "{}", left.err);
        self.expect_gone();
        fs::remove_dir_all(&self.dir).expect("bundle removed");
    }
}

/// What a command gave.
#[derive(Debug)]
pub struct Answer {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Answer {
    pub fn expect_ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }

    /// Failed with this exit code and these words.
    pub fn expect_err(self, code: i32, words: &str) {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        assert!(self.err.contains(words), "{:?} is not in {}", words, self.err);
    }
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }
}
