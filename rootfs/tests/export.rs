//! Import, export and import again: the same tree, also through skopeo. Needs root.

mod archives;

use archives::save;
use rootfs::{Format, ImageStore, Registries};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};
use tar::{Builder, EntryType, Header};

const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// What an upper layer can hold: every kind of file, whiteouts, attributes, long and odd names.
fn odd_layer() -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    let mut add = |kind: EntryType, path: &str, link: &str, content: &[u8], pax: &[(&str, &[u8])]| {
        if !pax.is_empty() {
            builder.append_pax_extensions(pax.iter().copied()).expect("appended");
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o6751);
        header.set_uid(1000);
        header.set_gid(2000);
        header.set_mtime(77);
        header.set_size(content.len() as u64);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(5).expect("a device");
            header.set_device_minor(1).expect("a device");
        }
        if link.is_empty() {
            builder.append_data(&mut header, path, content).expect("appended");
        } else {
            builder.append_link(&mut header, path, link).expect("appended");
        }
    };
    let long = format!("d/{}", "n".repeat(200));
    add(EntryType::Directory, "d/", "", b"", &[("mtime", b"-1.25")]);
    add(
        EntryType::Regular,
        "d/file",
        "",
        b"text",
        &[
            ("mtime", b"12.000000005"),
            ("uid", b"3000000"),
            ("SCHILY.xattr.security.capability", CAPABILITY),
            ("SCHILY.xattr.user.note", b"\xff\n\0"),
        ],
    );
    add(EntryType::Link, "d/hard", "d/file", b"", &[]);
    add(EntryType::Symlink, "d/link", "/nowhere/é", b"", &[]);
    add(EntryType::Symlink, "d/long-link", &"t/".repeat(120), b"", &[]);
    add(EntryType::Regular, &long, "", b"long", &[]);
    add(EntryType::Regular, "d/é\u{1F6A3}", "", &[7; 5000], &[]);
    add(EntryType::Char, "d/char", "", b"", &[]);
    add(EntryType::Block, "d/block", "", b"", &[]);
    add(EntryType::Fifo, "d/fifo", "", b"", &[]);
    add(EntryType::Regular, ".wh.gone", "", b"", &[]);
    add(EntryType::Directory, "opaque/", "", b"", &[]);
    add(EntryType::Regular, "opaque/.wh..wh..opq", "", b"", &[]);
    builder.into_inner().expect("finished")
}

/// Everything about a tree but its inode numbers, by path.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(
        root: &Path,
        path: &Path,
        seen: &mut BTreeMap<u64, PathBuf>,
        tree: &mut BTreeMap<PathBuf, String>,
    ) {
        let meta = path.symlink_metadata().expect("there");
        let short = path.strip_prefix(root).expect("below").to_owned();
        let first = seen.entry(meta.ino()).or_insert_with(|| short.clone()).clone();
        let content = if meta.is_file() { fs::read(path).expect("readable") } else { Vec::new() };
        let link = fs::read_link(path).ok();
        let mut attributes = BTreeMap::new();
        if meta.is_file() || meta.is_dir() {
            for name in xattr::list(path).expect("listed") {
                attributes.insert(name.clone(), xattr::get(path, &name).expect("readable"));
            }
        }
        let size = if meta.is_dir() { 0 } else { meta.size() };
        // A whiteout has a name and nothing else.
        let whiteout = meta.mode() & 0o170_000 == 0o020_000 && meta.rdev() == 0;
        let mtime = if whiteout { (0, 0) } else { (meta.mtime(), meta.mtime_nsec()) };
        let facts = format!(
            "{:o} {}:{} {}.{} {size} {:x} same as {} -> {link:?} {attributes:?} {content:?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            mtime.0,
            mtime.1,
            meta.rdev(),
            first.display()
        );
        tree.insert(short, facts);
        if meta.is_dir() {
            let mut names: Vec<_> = fs::read_dir(path).expect("listed").flatten().map(|e| e.path()).collect();
            names.sort();
            names.iter().for_each(|name| walk(root, name, seen, tree));
        }
    }
    let mut facts = BTreeMap::new();
    walk(root, root, &mut BTreeMap::new(), &mut facts);
    facts
}

fn export(store: &ImageStore, name: &str, format: Format) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.export(name, format, &mut bytes).expect("exported");
    bytes
}

#[track_caller]
fn skopeo(words: &[&str]) -> String {
    let output = Command::new("skopeo").arg("--insecure-policy").args(words).output().expect("skopeo runs");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn what_is_exported_comes_back_the_same() {
    let dir = tempfile::tempdir().expect("directory");
    let store = ImageStore::open(&dir.path().join("state"), Registries::default()).expect("opens");
    let base = archives::archive(&[("gone", b"x"), ("opaque/", b""), ("opaque/x", b"x")]);
    let source = dir.path().join("app.tar");
    save(&source, "app:1", &[base.clone(), odd_layer(), base]);
    let first = store.import(&source, None).expect("imported").remove(0);
    let trees: Vec<_> = first.lower.iter().map(|path| tree(path)).collect();
    assert!(trees.iter().any(|tree| tree.len() == 13), "every member is there");

    for (format, kind) in [(Format::Oci, "oci-archive"), (Format::Docker, "docker-archive")] {
        let bytes = export(&store, "app:1", format);
        assert!(bytes == export(&store, "app:1", format), "{kind}: two exports are the same bytes");
        let path = dir.path().join(format!("{kind}.tar"));
        fs::write(&path, &bytes).expect("written");
        let source = format!("{kind}:{}", path.display());
        let seen = skopeo(&["inspect", "--config", &source]);
        assert!(seen.contains("\"User\":\"web\"") || seen.contains("\"User\": \"web\""), "{seen}");
        let layout = dir.path().join(kind);
        // Unpacks no layer, but checks each digest.
        skopeo(&["copy", &source, &format!("oci:{}:again", layout.display())]);

        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&bytes).expect("packed");
        let gzip = packed.finish().expect("packed");
        let zstd = zstd::encode_all(bytes.as_slice(), 1).expect("packed");
        let given = Path::new("standard input");
        // A store of its own, where no layer is known yet.
        for (way, bytes) in [("plain", &bytes), ("gzip", &gzip), ("zstd", &zstd)] {
            let state = dir.path().join(format!("{kind}-{way}"));
            let other = ImageStore::open(&state, Registries::default()).expect("opens");
            let again =
                other.import_stream(bytes.as_slice(), given, Some("b:2")).expect("imported").remove(0);
            assert_eq!(again.names, ["docker.io/library/b:2"]);
            assert_eq!(again.lower.iter().map(|path| tree(path)).collect::<Vec<_>>(), trees, "{kind} {way}");
            let cut = other.import_stream(&bytes[..bytes.len() / 2], given, Some("c:1"));
            assert!(cut.is_err() && other.resolve(&"c:1".parse().expect("a name")).is_none(), "{way}");
            let staged = fs::read_dir(state.join("staging")).expect("listed").count();
            assert_eq!(staged, 0, "nothing is left of a failed import");
        }
        let copied = ImageStore::open(&dir.path().join(format!("{kind}-copied")), Registries::default());
        let copied =
            copied.expect("opens").import(&layout, Some("d:1")).expect("what skopeo wrote").remove(0);
        assert_eq!(copied.lower.iter().map(|path| tree(path)).collect::<Vec<_>>(), trees, "{kind} by skopeo");
    }
    let details = store.inspect(&first.digest[..20]).expect("by the beginning of its digest");
    assert_eq!((details.layers.len(), details.last_used_s, &details.image), (3, None, &first));
    assert!(store.export("none:1", Format::Oci, std::io::sink()).is_err());
}

/// An agent may be killed at any write: what it leaves is put right when the store is opened.
#[test]
fn a_store_is_repaired_after_a_crash_at_any_point() {
    let dir = tempfile::tempdir().expect("directory");
    let state = dir.path().join("state");
    let store = ImageStore::open(&state, Registries::default()).expect("opens");
    let keep = dir.path().join("keep.tar");
    save(&keep, "keep:1", &[archives::archive(&[("kept", b"x")])]);
    let image = store.import(&keep, None).expect("imported").remove(0);
    assert!(store.mark_used(&image.digest, 5).expect("marked"));
    drop(store);
    let clean = tree_names(&state);
    // A half import, a layer without an image, half a record, and a mark of an image that is gone.
    fs::create_dir_all(state.join("staging/1-1/blobs")).expect("made");
    fs::create_dir_all(state.join("layers").join("a".repeat(64)).join("etc")).expect("made");
    File::create(state.join("images").join(format!("{}.json", "b".repeat(64)))).expect("made");
    File::create(state.join("used").join("c".repeat(64))).expect("made");
    let store = ImageStore::open(&state, Registries::default()).expect("repairs");
    assert_eq!(store.last_used_s(&image.digest), Some(5));
    drop(store);
    assert_eq!(tree_names(&state), clean);
}

fn tree_names(root: &Path) -> Vec<PathBuf> {
    tree(root).into_keys().collect()
}
