//! What the kernel's overlayfs makes of our layers. Needs root.

mod archives;

use archives::{archive, save};
use nix::mount::{MsFlags, mount};
use rootfs::{ImageStore, Registries};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

#[test]
fn layers_whiteouts_and_equal_layers_mount() {
    let dir = tempfile::tempdir().expect("directory");
    let state = dir.path().join("state");
    let store = ImageStore::open(&state, Registries::default()).expect("open");
    let passwd = b"web:x:33:34::/:/bin/sh\n";
    let base = archive(&[
        ("etc/", b""),
        ("etc/passwd", passwd),
        ("gone", b"x"),
        ("old/", b""),
        ("old/x", b"x"),
        ("kept/", b""),
        ("kept/low", b"low"),
    ]);
    let change = archive(&[
        (".wh.gone", b""),
        ("old/", b""),
        ("old/.wh..wh..opq", b""),
        ("old/y", b"y"),
        ("kept/", b""),
        ("kept/up", b"up"),
    ]);
    let nothing = archive(&[]);
    save(&dir.path().join("app.tar"), "app:1", &[base.clone(), nothing.clone(), change, nothing]);
    let image = store.import(&dir.path().join("app.tar"), None).expect("imported").remove(0);
    assert_eq!((image.lower.len(), image.look_up(&image.config.user).expect("known").uid), (3, 33));

    save(
        &dir.path().join("hidden.tar"),
        "hidden:1",
        &[base, archive(&[("etc/", b""), ("etc/.wh.passwd", b"")])],
    );
    let hidden = store.import(&dir.path().join("hidden.tar"), None).expect("imported").remove(0);
    assert!(hidden.look_up("web").is_err(), "a whiteout hides the file of the layer below");
    save(&dir.path().join("scratch.tar"), "scratch:1", &[]);
    let scratch = store.import(&dir.path().join("scratch.tar"), None).expect("imported").remove(0);

    for (image, container, expected) in [
        (&image, "one", "./etc/passwd ./kept/low ./kept/up ./old/y"),
        (&hidden, "two", "./gone ./kept/low ./old/x"),
        (&scratch, "three", ""),
    ] {
        let snapshot = store.prepare(image, container).expect("prepared");
        let overlay = snapshot.overlay.expect("this host mounts overlays");
        let lower: Vec<String> = overlay.lower.iter().map(|path| path.display().to_string()).collect();
        let (upper, work, root) = (overlay.upper.display(), overlay.work.display(), snapshot.root.display());
        let script = format!(
            "mount -t overlay overlay -o lowerdir={},upperdir={upper},workdir={work} {root} && cd {root} && find . -type f | sort && : > written",
            lower.join(":")
        );
        // In a mount namespace of its own, which takes the mount away again.
        let output =
            Command::new("unshare").args(["--mount", "sh", "-c", &script]).output().expect("unshare runs");
        let seen = String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(seen, expected, "{container}");
        assert!(overlay.upper.join("written").exists());
        store.discard(container).expect("discarded");
    }
    assert_eq!(store.snapshots().expect("listed"), Vec::<String>::new());
}

/// An archive with what a copy may lose: owners, special modes, times of nanoseconds, attributes, links, devices.
fn odd_archive() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add =
        |kind: tar::EntryType, name: &str, link: &str, mode: u32, pax: &[(&str, &[u8])], content: &[u8]| {
            let mut header = tar::Header::new_ustar();
            builder.append_pax_extensions(pax.iter().copied()).expect("appended");
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_uid(1234);
            header.set_gid(4321);
            header.set_mtime(1_000_000_000);
            header.set_size(content.len() as u64);
            if kind == tar::EntryType::Char {
                header.set_device_major(1).and_then(|()| header.set_device_minor(3)).expect("ustar");
            }
            if !link.is_empty() {
                header.set_link_name(link).expect("short");
            }
            builder.append_data(&mut header, name, content).expect("appended");
        };
    // cap_net_raw=ep, version 2.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    use tar::EntryType as Kind;
    add(Kind::Directory, "./", "", 0o751, &[], b"");
    add(Kind::Directory, "bin/", "", 0o1777, &[("mtime", b"1000000001.123456789")], b"");
    add(
        Kind::Regular,
        "bin/suid",
        "",
        0o6755,
        &[("mtime", b"999.5"), ("SCHILY.xattr.user.note", b"kept")],
        b"program",
    );
    add(
        Kind::Regular,
        "bin/capable",
        "",
        0o755,
        &[("SCHILY.xattr.security.capability", &capability)],
        b"program",
    );
    add(Kind::Link, "bin/again", "bin/suid", 0o755, &[], b"");
    add(Kind::Symlink, "bin/link", "/outside", 0o777, &[], b"");
    add(Kind::Char, "null", "", 0o666, &[], b"");
    add(Kind::Fifo, "fifo", "", 0o600, &[], b"");
    builder.into_inner().expect("finished")
}

/// All that can be seen of a tree: kinds, modes, owners, times, link counts, targets, sums, attributes.
fn look(at: &Path) -> String {
    let script = "find . -printf '%p %y %m %U %G %T@ %n %l\\n' | sed 's/^\\(.* d .*\\) [0-9]* $/\\1/' | sort; \
        find . -type f -exec sha256sum {} + | sort; find . -type c -exec stat -c '%n %t %T' {} +";
    let output = Command::new("sh").args(["-ec", script]).current_dir(at).output().expect("sh runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let attributes = ["bin/suid", "bin/capable"].map(|file| {
        let file = at.join(file);
        ["user.note", "security.capability"].map(|name| xattr::get(&file, name).expect("readable"))
    });
    format!("{}{attributes:?}", String::from_utf8(output.stdout).expect("text"))
}

#[test]
fn a_copy_is_what_the_overlay_shows() {
    let dir = tempfile::tempdir().expect("directory");
    let here = dir.path().to_path_buf();
    // In a thread, so that the mounts are its own.
    std::thread::spawn(move || copy_and_compare(&here)).join().expect("no panic");
}

/// Whiteouts of a file and a directory, an opaque directory, and [`odd_archive`].
fn save_odd_image(path: &Path) {
    let base = archive(&[
        ("gone", b"x"),
        ("old/", b""),
        ("old/x", b"x"),
        ("back/", b""),
        ("back/low", b"low"),
        ("bin/", b""),
        ("bin/low", b""),
    ]);
    let change = archive(&[
        (".wh.gone", b""),
        ("old/", b""),
        ("old/.wh..wh..opq", b""),
        ("old/y", b"y"),
        (".wh.back", b""),
        ("back/", b""),
        ("back/up", b"up"),
    ]);
    save(path, "app:1", &[base, change, odd_archive()]);
}

fn mount_overlay(lower: &[PathBuf], upper: &Path, work: &Path, at: &Path) {
    let lower: Vec<String> = lower.iter().map(|path| path.display().to_string()).collect();
    let data =
        format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), upper.display(), work.display());
    mount(Some("overlay"), at, Some("overlay"), MsFlags::empty(), Some(data.as_str())).expect("mounted");
}

fn copy_and_compare(dir: &Path) {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("needs root");
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).expect("private");
    for part in ["lower", "upper", "work", "over"] {
        fs::create_dir(dir.join(part)).expect("made");
    }
    // An overlay takes no overlay as its upper layer.
    mount_overlay(&[dir.join("lower")], &dir.join("upper"), &dir.join("work"), &dir.join("over"));
    save_odd_image(&dir.join("app.tar"));
    let plain = ImageStore::open(&dir.join("plain"), Registries::default()).expect("open");
    assert_eq!(plain.overlay_refused(), None);
    let image = plain.import(&dir.join("app.tar"), None).expect("imported").remove(0);
    let snapshot = plain.prepare(&image, "one").expect("prepared");
    let layers = snapshot.overlay.expect("mounts");
    mount_overlay(&layers.lower, &layers.upper, &layers.work, &snapshot.root);
    let expected = look(&snapshot.root);
    assert!(
        expected.contains("./back/up")
            && !expected.contains("./back/low")
            && expected.contains("107, 101, 112, 116")
    );

    let store = ImageStore::open(&dir.join("over/state"), Registries::default()).expect("open");
    let why = store.overlay_refused().expect("an overlay on an overlay is refused");
    assert!(why.contains("Invalid argument"), "{why}");
    let image = store.import(&dir.join("app.tar"), None).expect("imported").remove(0);
    // What an agent that was killed left half made is made again.
    let half = dir.join("over/state/snapshots/one/copy");
    fs::create_dir_all(half.join("stale")).expect("made");
    let copied = store.prepare(&image, "one").expect("prepared");
    assert_eq!(copied.overlay, None);
    // The root directory's own times are those of the overlay's upper directory there, of the image here.
    let rest = |text: &str| {
        text.lines().filter(|line| !line.starts_with(". d ")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(rest(&look(&copied.root)), rest(&expected));
    fs::write(copied.root.join("bin/suid"), "changed").expect("written");
    assert_eq!(store.prepare(&image, "one").expect("again"), copied);
    assert_eq!(
        fs::read(copied.root.join("bin/again")).expect("read"),
        b"changed",
        "a copy stays, and its links"
    );
    let second = store.prepare(&image, "two").expect("prepared");
    assert_eq!(
        fs::read(second.root.join("bin/suid")).expect("read"),
        b"program",
        "writes stay out of the layers"
    );
    for container in ["one", "two"] {
        store.discard(container).expect("discarded");
    }
    assert_eq!(store.snapshots().expect("listed"), Vec::<String>::new());
}
