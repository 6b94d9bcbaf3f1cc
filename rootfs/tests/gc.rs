//! Garbage collection where the disk really fills: on a small tmpfs. Needs root.

mod archives;

use archives::{archive, save};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use rootfs::{Collected, ImageStore, Policy, Registries};
use std::{fs, os::unix::fs::MetadataExt, path::Path, thread};

const MIB: usize = 1 << 20;
const POLICY: Policy = Policy { high_percent: 85, low_percent: 80, minimum_age_s: 120 };

/// Runs `test` with a tmpfs of so many bytes that only its thread sees.
fn on_small_disk(bytes: usize, test: impl FnOnce(&Path) + Send + 'static) {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().to_owned();
    let done = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("needs root");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private");
        let size = format!("size={bytes}");
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some(size.as_str())).expect("a tmpfs");
        test(&path);
    });
    done.join().expect("the test's thread");
}

/// Imports an image of a shared layer and one of its own; its digest.
fn import(store: &ImageStore, dir: &Path, name: &str, own_bytes: usize) -> String {
    let base = archive(&[("base", &vec![1; 4 * MIB])]);
    let own = archive(&[(name, &vec![2; own_bytes])]);
    let path = dir.join(name);
    save(&path, &format!("{name}:1"), &[base, own]);
    store.import(&path, None).expect("imported").remove(0).digest
}

fn names(collected: &Collected) -> Vec<&str> {
    collected.removed.iter().flat_map(|(_, names)| names).map(String::as_str).collect()
}

fn used_percent(store: &ImageStore) -> u64 {
    let disk = store.disk().expect("known");
    100 - disk.available_bytes * 100 / disk.capacity_bytes
}

#[test]
fn a_full_disk_is_emptied_of_the_least_recently_used() {
    let sources = tempfile::tempdir().expect("directory");
    on_small_disk(64 * MIB, move |state| {
        let store = ImageStore::open(state, Registries::default()).expect("opens");
        let [old, busy, recent, young] =
            ["old", "busy", "recent", "young"].map(|name| import(&store, sources.path(), name, 8 * MIB));
        let entries = fs::read_dir(state.join("images")).expect("listed").flatten();
        let came_s = entries.map(|entry| entry.metadata().expect("there").mtime() as u64).max().expect("one");
        let now_s = came_s + 1000;
        for (digest, used_s) in [(&busy, 1), (&old, 10), (&recent, 500), (&young, 995)] {
            assert!(store.mark_used(digest, came_s + used_s).expect("marked"));
        }
        let used = [busy.clone()];

        let below = store.collect(POLICY, &used, now_s).expect("collected");
        assert_eq!((below, used_percent(&store) < 85), (Collected::default(), true), "below the threshold");

        // The disk of the store fills by whatever else lies on it.
        fs::write(state.join("ballast"), vec![3; 18 * MIB]).expect("written");
        assert!(used_percent(&store) >= 85);
        let first = store.collect(POLICY, &used, now_s).expect("collected");
        assert_eq!(names(&first), ["docker.io/library/old:1"]);
        assert!(first.freed_bytes >= first.wanted_bytes && used_percent(&store) <= 80, "{first:?}");
        assert!((8 * MIB as u64..9 * MIB as u64).contains(&first.freed_bytes), "the shared layer stays");
        assert!(!store.mark_used(&old, now_s).expect("asked"), "it is gone");

        // A restart forgets nothing.
        let store = ImageStore::open(state, Registries::default()).expect("opens again");
        assert_eq!(store.last_used_s(&recent), Some(came_s + 500));
        fs::write(state.join("more"), vec![3; 14 * MIB]).expect("written");
        let second = store.collect(POLICY, &used, now_s).expect("collected");
        assert_eq!(names(&second), ["docker.io/library/recent:1"], "not the busy one, not the young one");
        assert!(second.freed_bytes < second.wanted_bytes, "and says that it is not enough: {second:?}");
        let left: Vec<String> = store.list().into_iter().flat_map(|image| image.names).collect();
        let kept = ["docker.io/library/busy:1", "docker.io/library/young:1", "wherry.local/hello:latest"];
        assert!(kept.iter().all(|name| left.iter().any(|have| have == name)), "{left:?}");

        fs::write(state.join("even more"), vec![3; 8 * MIB]).expect("written");
        let third = store.collect(POLICY, &[], now_s + 1000).expect("collected");
        assert_eq!(third.removed.len(), 2, "nothing uses the others any more");
        assert_eq!(fs::read_dir(state.join("used")).expect("listed").count(), 0);
        assert_eq!(
            fs::read_dir(state.join("layers")).expect("listed").count(),
            2,
            "the library's and the empty one"
        );
    });
}

#[test]
fn prune_takes_what_has_no_name_or_everything_unused() {
    let dir = tempfile::tempdir().expect("directory");
    let store = ImageStore::open(&dir.path().join("state"), Registries::default()).expect("opens");
    let sources = dir.path();
    let first = import(&store, sources, "app", MIB);
    let second = import(&store, sources, "app", 2 * MIB);
    let busy = import(&store, sources, "busy", MIB);
    let pruned = store.prune(false, std::slice::from_ref(&busy)).expect("pruned");
    assert_eq!(pruned.removed, [(first, vec![])], "its name is the second image's now");
    assert!((MIB as u64..2 * MIB as u64).contains(&pruned.freed_bytes));
    assert_eq!(store.prune(false, &[]).expect("pruned"), Collected::default());
    let pruned = store.prune(true, std::slice::from_ref(&busy)).expect("pruned");
    assert_eq!(pruned.removed, [(second, vec!["docker.io/library/app:1".to_owned()])]);
    assert_eq!(store.list().len(), 2, "the busy one, and the one that comes with the library");
}
