//! Escapes that need a race: paths are exchanged, over and over, while containers are made.

use crate::bundle::{Bundle, shell};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde_json::json;
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

const ROUNDS: usize = 25;

/// Exchanges two paths until it is dropped.
struct Exchange {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Exchange {
    fn start(a: PathBuf, b: PathBuf) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&count));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                renameat2(AT_FDCWD, &a, AT_FDCWD, &b, RenameFlags::RENAME_EXCHANGE).expect("exchanged");
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { stop, count, thread: Some(thread) }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("running").join().expect("no exchange fails");
        assert!(self.count.load(Ordering::Relaxed) > ROUNDS, "there was no race");
    }
}

/// A directory of the host that nothing may reach.
fn outside(bundle: &Bundle) -> PathBuf {
    let outside = bundle.dir.join("outside");
    fs::create_dir(&outside).expect("made");
    outside
}

/// A symlink whose target, read by the host, is `outside`.
fn escape(outside: &Path, at: &Path) {
    symlink(format!("/../../../../../../../..{}", outside.display()), at).expect("linked");
}

fn expect_empty(dir: &Path) {
    let names: Vec<_> = fs::read_dir(dir).expect("read").map(|entry| entry.expect("read").path()).collect();
    assert!(names.is_empty(), "{names:?}");
}

/// CVE-2021-30465: a mount target exchanged for a symlink between the check and the mount; on a runtime with the flaw the volume is mounted over the
/// directory outside, and the file that the container writes into the volume appears there.
#[test]
fn a_mount_target_exchanged_for_a_symlink() {
    let Some(bundle) = shell("touch /data/target/here 2>/dev/null; :") else { return };
    let outside = outside(&bundle);
    let shared = bundle.dir.join("shared");
    fs::create_dir_all(shared.join("target")).expect("made");
    escape(&outside, &shared.join("other"));
    fs::create_dir(bundle.dir.join("volume")).expect("made");
    let bundle = bundle
        .also(
            "/mounts",
            json!({"destination": "/data", "type": "bind", "source": "shared", "options": ["rbind"]}),
        )
        .also(
            "/mounts",
            json!({"destination": "/data/target", "type": "bind", "source": "volume", "options": ["rbind"]}),
        );
    {
        let _race = Exchange::start(shared.join("target"), shared.join("other"));
        // A round may fail; none may reach outside.
        (0..ROUNDS).for_each(|_| drop(bundle.run()));
    }
    expect_empty(&outside);
    bundle.expect_gone();
}

/// CVE-2024-45310: directories for a mount point, made behind a symlink that was a directory when it was looked at.
#[test]
fn directories_made_behind_an_exchanged_symlink() {
    let Some(bundle) = shell("true") else { return };
    let outside = outside(&bundle);
    let shared = bundle.dir.join("shared");
    fs::create_dir_all(shared.join("dir")).expect("made");
    escape(&outside, &shared.join("other"));
    let mut bundle = bundle.also(
        "/mounts",
        json!({"destination": "/data", "type": "bind", "source": "shared", "options": ["rbind"]}),
    );
    let last = bundle.config["mounts"].as_array().expect("a list").len();
    bundle = bundle.also("/mounts", json!({"destination": "/data/dir/x", "type": "tmpfs"}));
    {
        let _race = Exchange::start(shared.join("dir"), shared.join("other"));
        for round in 0..ROUNDS {
            bundle.config["mounts"][last]["destination"] = json!(format!("/data/dir/{round}/deep/er"));
            drop(bundle.run());
        }
    }
    expect_empty(&outside);
    bundle.expect_gone();
}

/// CVE-2025-31133: the container's /dev/null exchanged for a symlink while paths are masked with it, so that what it leads to is bound in their place.
#[test]
fn the_null_device_exchanged_while_masking() {
    let Some(bundle) = shell("cat /proc/keys /proc/timer_list; :") else { return };
    let secret = bundle.dir.join("secret");
    fs::write(&secret, "the host's secret\n").expect("written");
    let dev = bundle.dir.join("dev");
    fs::create_dir(&dev).expect("made");
    fs::write(dev.join("null"), "").expect("written");
    symlink(format!("/../../../../../../..{}", secret.display()), dev.join("other")).expect("linked");
    let mut bundle = bundle.with("/linux/maskedPaths", json!(["/proc/keys", "/proc/timer_list"]));
    bundle.config["mounts"][1] =
        json!({"destination": "/dev", "type": "bind", "source": "dev", "options": ["rbind"]});
    let _race = Exchange::start(dev.join("null"), dev.join("other"));
    for _ in 0..ROUNDS {
        let answer = bundle.run();
        assert!(!answer.out.contains("secret"), "{answer:?}");
    }
}

/// CVE-2025-52565: /dev/console bound from a path under /dev/pts that was exchanged; here the source is a descriptor.
#[test]
fn the_console_is_never_looked_up() {
    let Some(bundle) = shell("true") else { return };
    let secret = bundle.dir.join("secret");
    fs::write(&secret, "the host's secret\n").expect("written");
    // An image with a symlink where the console is mounted: the terminal lands inside, the host's file stays as it is.
    let dev = bundle.root().join("dev");
    fs::create_dir_all(&dev).expect("made");
    symlink(format!("/../../../../../..{}", secret.display()), dev.join("console")).expect("linked");
    let mut bundle = bundle.with("/process/terminal", json!(true));
    bundle.config["mounts"].as_array_mut().expect("a list").retain(|mount| mount["destination"] != "/dev");
    let socket = bundle.dir.join("console.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
    bundle.write();
    let answer = bundle.runtime(&["create", "--console-socket", "console.sock", "{id}"]);
    drop(listener);
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read");
    assert!(!mounts.contains("secret"), "{mounts}");
    assert_eq!(fs::read_to_string(&secret).expect("read"), "the host's secret\n", "{answer:?}");
}

/// CVE-2025-52881: writes to /proc redirected by a procfs that is none. Sysctls are written only to what is a procfs; labels and the OOM score through the
/// host's own.
#[test]
fn writes_to_proc_are_not_redirected() {
    for fake in ["/proc", "/proc/sys", "/proc/sys/net", "/proc/self/attr"] {
        let Some(bundle) = shell("true") else { return };
        let source = bundle.dir.join("fake");
        fs::create_dir_all(source.join("sys/net/ipv4")).expect("made");
        fs::create_dir_all(source.join("net/ipv4")).expect("made");
        fs::create_dir_all(source.join("ipv4")).expect("made");
        let victim = bundle.dir.join("victim");
        fs::write(&victim, "untouched").expect("written");
        for below in ["sys/net/ipv4", "net/ipv4", "ipv4"] {
            symlink(format!("/../../../../../..{}", victim.display()), source.join(below).join("ip_forward"))
                .expect("linked");
        }
        let bundle = bundle
            .also(
                "/mounts",
                json!({"destination": fake, "type": "bind", "source": "fake", "options": ["rbind"]}),
            )
            .with("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}))
            .with("/process/oomScoreAdj", json!(500));
        let answer = bundle.run();
        assert_eq!(fs::read_to_string(&victim).expect("read"), "untouched", "{fake}: {answer:?}");
        if fake != "/proc/self/attr" {
            assert_eq!(answer.code, 1, "{fake}: {answer:?}");
        }
        bundle.expect_gone();
    }
}

/// CVE-2026-41579, CVE-2026-47766: /dev of the image leads outside; nodes and links are not made there.
#[test]
fn devices_are_not_made_behind_an_exchanged_dev() {
    let Some(bundle) = shell("true") else { return };
    let outside = outside(&bundle);
    fs::create_dir(bundle.root().join("dev")).expect("made");
    escape(&outside, &bundle.root().join("other"));
    let mut bundle = bundle;
    bundle.config["mounts"]
        .as_array_mut()
        .expect("a list")
        .retain(|mount| !mount["destination"].as_str().expect("text").starts_with("/dev"));
    {
        let _race = Exchange::start(bundle.root().join("dev"), bundle.root().join("other"));
        (0..ROUNDS).for_each(|_| drop(bundle.run()));
    }
    expect_empty(&outside);
}
