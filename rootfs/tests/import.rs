//! Imports from archives where the disk is full.

mod archives;

use archives::{archive, save};
use rootfs::{ImageStore, Registries};
use std::{error::Error, fs, process::Command};

/// In a mount namespace of its own, where the store is on a small disk.
#[test]
fn an_import_that_fills_the_disk_says_so_and_succeeds_once_there_is_space() {
    const INNER: &str = "WHERRY_TEST_SMALL_DISK";
    if std::env::var_os(INNER).is_none() {
        let mut inner = Command::new("unshare");
        inner.arg("--mount").arg(std::env::current_exe().expect("this program")).env(INNER, "1");
        inner.args(["--exact", "an_import_that_fills_the_disk_says_so_and_succeeds_once_there_is_space"]);
        assert!(inner.status().expect("started").success());
        return;
    }
    let (state, elsewhere) =
        (tempfile::tempdir().expect("directory"), tempfile::tempdir().expect("directory"));
    let mount = |options: &str| {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(state.path());
        assert!(mount.status().expect("started").success());
    };
    let (tar, content) = (elsewhere.path().join("app.tar"), vec![7; 6 << 20]);
    save(&tar, "app:1", &[archive(&[("small", b"x")]), archive(&[("f", &content)])]);
    mount("size=5m");
    let store = ImageStore::open(state.path(), Registries::default()).expect("open");
    let kept = |dir: &str| fs::read_dir(state.path().join(dir)).expect(dir).count();
    // Too small for the archive, then for the layers beside it.
    for size in ["size=5m", "size=9m"] {
        mount(&format!("remount,{size}"));
        let error = store.import(&tar, None).expect_err("no space");
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        assert!(cause.contains("No space left on device"), "{size}: {error}: {cause}");
        assert!(store.resolve(&"app:1".parse().expect("name")).is_none(), "{size}");
        assert_eq!((kept("staging"), kept("images")), (0, 1), "{size}: only the image that comes with it");
    }
    mount("remount,size=64m");
    // A layer that was whole before the disk was full may stay until the store is opened again.
    let store = ImageStore::open(state.path(), Registries::default()).expect("open again");
    assert_eq!(kept("layers"), 2, "hello and `empty`");
    let images = store.import(&tar, None).expect("imported");
    assert_eq!(fs::read(images[0].lower[0].join("f")).expect("there"), content);
}
