//! Escapes that need a race: paths are exchanged, over and over, while containers are made.

use crate::bundle::{Bundle, shell};
use nix::{
    fcntl::{AT_FDCWD, RenameFlags, renameat2},
    sys::stat::{Mode, SFlag, makedev, mknod},
};
use serde_json::json;
use std::{
    fs::{self, Permissions},
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
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

/// CVE-2021-30465: a mount target exchanged for a symlink between the check and the mount. On a runtime with the flaw the hostile volume comes to lie over
/// a directory of the host, from which the next volume is taken: its links lead wherever the attacker likes.
#[test]
fn a_mount_target_exchanged_for_a_symlink() {
    let Some(bundle) = shell("cat /next/*; :") else { return };
    let outside = outside(&bundle);
    fs::create_dir(outside.join("next")).expect("made");
    fs::create_dir(bundle.dir.join("secrets")).expect("made");
    fs::write(bundle.dir.join("secrets/secret"), "the host's secret\n").expect("written");
    let shared = bundle.dir.join("shared");
    fs::create_dir_all(shared.join("target")).expect("made");
    escape(&outside, &shared.join("other"));
    fs::create_dir(bundle.dir.join("volume")).expect("made");
    symlink(bundle.dir.join("secrets"), bundle.dir.join("volume/next")).expect("linked");
    let bind = |source: &str, destination: &str| json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind"]});
    let bundle = bundle
        .also("/mounts", bind("shared", "/data"))
        .also("/mounts", bind("volume", "/data/target"))
        .also("/mounts", bind("outside/next", "/next"));
    let mut made = 0;
    let _race = Exchange::start(shared.join("target"), shared.join("other"));
    for _ in 0..2 * ROUNDS {
        let answer = bundle.run();
        assert!(!answer.out.contains("secret"), "{answer:?}");
        made += usize::from(answer.code == 0);
    }
    assert!(made > 0, "no container was made");
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
    let mut made = 0;
    {
        let _race = Exchange::start(shared.join("dir"), shared.join("other"));
        for round in 0..ROUNDS {
            bundle.config["mounts"][last]["destination"] = json!(format!("/data/dir/{round}/deep/er"));
            made += usize::from(bundle.run().code == 0);
        }
        // The same for the file to bind a file on.
        fs::write(bundle.dir.join("file"), "").expect("written");
        for round in 0..ROUNDS {
            let destination = format!("/data/dir/file-{round}");
            bundle.config["mounts"][last] =
                json!({"destination": destination, "type": "bind", "source": "file", "options": ["bind"]});
            made += usize::from(bundle.run().code == 0);
        }
    }
    assert!(made > 0, "no container was made");
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
    // A real one, or the container would not be made.
    mknod(&dev.join("null"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3)).expect("made");
    symlink(format!("/../../../../../../..{}", secret.display()), dev.join("other")).expect("linked");
    let mut bundle = bundle.with("/linux/maskedPaths", json!(["/proc/keys", "/proc/timer_list"]));
    bundle.config["mounts"][1] =
        json!({"destination": "/dev", "type": "bind", "source": "dev", "options": ["rbind"]});
    let mut masked = 0;
    let _race = Exchange::start(dev.join("null"), dev.join("other"));
    for _ in 0..2 * ROUNDS {
        let answer = bundle.run();
        assert!(!answer.out.contains("secret"), "{answer:?}");
        masked += usize::from(answer.code == 0);
    }
    assert!(masked > 0, "no container was made");
}

/// CVE-2025-52565: the terminal's name below /dev/pts looked up for /dev/console, when it is another directory's.
#[test]
fn a_terminal_exchanged_for_a_symlink() {
    let script = "[ -c /dev/console ] && echo terminal >>/seen || cat /dev/console >>/seen";
    let Some(bundle) = shell(script) else { return };
    let secret = bundle.dir.join("secret");
    fs::write(&secret, "the host's secret\n").expect("written");
    let dev = bundle.dir.join("dev");
    fs::create_dir_all(dev.join("pts")).expect("made");
    fs::create_dir_all(dev.join("other")).expect("made");
    symlink(format!("/../../../../../../..{}", secret.display()), dev.join("other/0")).expect("linked");
    let mut bundle = bundle.with("/process/terminal", json!(true));
    bundle.config["mounts"][1] =
        json!({"destination": "/dev", "type": "bind", "source": "dev", "options": ["rbind"]});
    let listener = UnixListener::bind(bundle.dir.join("console.sock")).expect("bound");
    bundle.write();
    {
        let _race = Exchange::start(dev.join("pts"), dev.join("other"));
        for _ in 0..2 * ROUNDS {
            drop(bundle.runtime(&["run", "--console-socket", "console.sock", "{id}"]));
        }
    }
    drop(listener);
    let seen = fs::read_to_string(bundle.root().join("seen")).expect("at least one container was made");
    assert!(seen.lines().all(|line| line == "terminal"), "{seen}");
}

/// A device node in a volume exchanged for a symlink after it was made, so that its mode is changed somewhere else.
#[test]
fn a_node_exchanged_for_a_symlink() {
    let Some(mut bundle) = shell("true") else { return };
    let victim = bundle.dir.join("victim");
    fs::write(&victim, "").expect("written");
    fs::set_permissions(&victim, Permissions::from_mode(0o600)).expect("set");
    let dev = bundle.dir.join("dev");
    fs::create_dir(&dev).expect("made");
    bundle.config["mounts"][1] =
        json!({"destination": "/dev", "type": "bind", "source": "dev", "options": ["rbind"]});
    bundle.write();
    let (null, link) = (dev.join("null"), bundle.dir.join("link"));
    symlink(&victim, &link).expect("linked");
    let attack = std::thread::spawn(move || {
        while fs::symlink_metadata(&null).is_err() {
            std::thread::yield_now();
        }
        fs::rename(&link, &null).expect("exchanged");
    });
    drop(bundle.slowed("chmod,fchmodat,?fchmodat2,chown,lchown,fchownat", &["run", "{id}"]));
    attack.join().expect("the node was made");
    assert_eq!(fs::metadata(&victim).expect("there").permissions().mode() & 0o777, 0o600);
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
    let mut made = 0;
    {
        let _race = Exchange::start(bundle.root().join("dev"), bundle.root().join("other"));
        (0..ROUNDS).for_each(|_| made += usize::from(bundle.run().code == 0));
    }
    assert!(made > 0, "no container was made");
    expect_empty(&outside);
}
