//! What the kernel's overlayfs makes of our layers. Needs root.

mod archives;

use archives::{archive, save};
use rootfs::{ImageStore, Registries};
use std::process::Command;

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
        let lower: Vec<String> = snapshot.lower.iter().map(|path| path.display().to_string()).collect();
        let (upper, work, root) =
            (snapshot.upper.display(), snapshot.work.display(), snapshot.root.display());
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
        assert!(snapshot.upper.join("written").exists());
        store.discard(container).expect("discarded");
    }
    assert_eq!(store.snapshots().expect("listed"), Vec::<String>::new());
}
