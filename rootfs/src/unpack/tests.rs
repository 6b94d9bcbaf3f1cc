use super::*;
use crate::whiteout::OPAQUE_XATTR;
use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
};
use tar::{EntryType, Header};

/// A member: kind, name, link target, content, PAX records.
type Row<'a> = (EntryType, &'a [u8], &'a [u8], &'a [u8], &'a [(&'a str, &'a [u8])]);

const NO_PAX: &[(&str, &[u8])] = &[];

fn block(kind: EntryType, name: &[u8], link: &[u8], content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    let fields = header.as_ustar_mut().expect("ustar");
    fields.name[..name.len()].copy_from_slice(name);
    fields.linkname[..link.len()].copy_from_slice(link);
    header.set_entry_type(kind);
    header.set_mode(0o6755);
    header.set_uid(1000);
    header.set_gid(2000);
    header.set_mtime(77);
    header.set_size(content.len() as u64);
    header.set_device_major(5).expect("a device field");
    header.set_device_minor(1).expect("a device field");
    header.set_cksum();
    let mut bytes = [header.as_bytes().as_slice(), content].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut content = Vec::new();
    for (key, value) in records {
        let body = key.len() + value.len() + 3;
        let length = (body..).find(|n| n.to_string().len() + body == *n).expect("a fixed point");
        content.extend([format!("{length} {key}=").as_bytes(), value, b"\n"].concat());
    }
    block(EntryType::XHeader, b"pax", b"", &content)
}

fn archive(rows: &[Row<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, name, link, content, records) in rows {
        if !records.is_empty() {
            bytes.extend(pax(records));
        }
        bytes.extend(block(*kind, name, link, content));
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn try_unpack(rows: &[Row<'_>], limits: Limits) -> (tempfile::TempDir, Result<(), ImageError>) {
    let dir = tempfile::tempdir().expect("directory");
    let bytes = archive(rows);
    let done = unpack(&mut Archive::new(bytes.as_slice()), dir.path(), limits);
    (dir, done)
}

fn unpacked(rows: &[Row<'_>]) -> tempfile::TempDir {
    let (dir, done) = try_unpack(rows, Limits::default());
    done.expect("a good archive");
    dir
}

use EntryType as T;

#[test]
fn entries_go_where_their_path_leads_at_that_time() {
    let dir = unpacked(&[
        (T::Directory, b"b/", b"", b"", NO_PAX),
        (T::Regular, b"a/one", b"", b"1", NO_PAX),
        // What the next entry's directory was is removed, and its name leads elsewhere.
        (T::Symlink, b"a", b"b", b"", NO_PAX),
        (T::Regular, b"a/two", b"", b"2", NO_PAX),
        (T::Regular, b"a/three", b"", b"3", NO_PAX),
        (T::Directory, b"a/", b"", b"", NO_PAX),
        (T::Regular, b"a/four", b"", b"4", NO_PAX),
    ]);
    let names = |of: &str| {
        let listed = fs::read_dir(dir.path().join(of)).expect("list");
        let mut names: Vec<_> = listed.map(|entry| entry.expect("entry").file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names("b"), ["three", "two"]);
    assert_eq!(names("a"), ["four"]);
    assert_eq!(names("."), ["a", "b"]);
}

#[test]
fn long_files_are_whole() {
    let content: Vec<u8> =
        (0..(WRITE_OUT_BYTES * 2 + WRITE_OUT_BYTES_MIN + 7)).map(|at| (at / 251) as u8).collect();
    let dir = unpacked(&[(T::Regular, b"long", b"", &content, NO_PAX)]);
    assert!(fs::read(dir.path().join("long")).expect("there") == content);
}

#[test]
fn metadata_and_kinds_are_kept() {
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let records: &[(&str, &[u8])] = &[
        ("mtime", b"12.5"),
        ("SCHILY.xattr.security.capability", capability),
        ("SCHILY.xattr.user.note", b"\xff\0"),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
    ];
    let dir = unpacked(&[
        (T::Directory, b"./", b"", b"", NO_PAX),
        (T::Directory, b"d/", b"", b"", NO_PAX),
        (T::Regular, b"/d/\xff\xfe", b"", b"text", records),
        (T::Char, b"d/console", b"", b"", NO_PAX),
        (T::Fifo, b"d/fifo", b"", b"", NO_PAX),
        (T::Symlink, b"d/link", b"/nowhere", b"", NO_PAX),
        (T::Link, b"hard", b"d/link", b"", NO_PAX),
    ]);
    let path = |name: &[u8]| dir.path().join(OsStr::from_bytes(name));
    let file = path(b"d/\xff\xfe");
    let meta = fs::metadata(&file).expect("there");
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o6755, 1000, 2000), "setuid survives chown");
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (12, 500_000_000));
    let attribute = |name: &str| xattr::get(&file, name).expect("readable");
    assert_eq!(attribute("security.capability").as_deref(), Some(capability));
    assert_eq!(attribute("user.note").as_deref(), Some(&b"\xff\0"[..]));
    assert_eq!((attribute("trusted.overlay.redirect"), attribute("user.overlay.opaque")), (None, None));
    assert_eq!(fs::metadata(path(b"d")).expect("there").mtime(), 77, "set after it was filled");
    assert_eq!(fs::metadata(dir.path()).expect("there").uid(), 1000, "the root has an entry too");
    let console = fs::metadata(path(b"d/console")).expect("there");
    assert!(console.file_type().is_char_device() && console.rdev() == makedev(5, 1));
    assert!(fs::metadata(path(b"d/fifo")).expect("there").file_type().is_fifo());
    let (link, hard) = (fs::symlink_metadata(path(b"d/link")), fs::symlink_metadata(path(b"hard")));
    assert_eq!(link.expect("there").ino(), hard.expect("there").ino(), "a hard link never follows");
}

#[test]
fn later_entries_replace_earlier_ones() {
    let dir = unpacked(&[
        (T::Regular, b"a", b"", b"1", NO_PAX),
        (T::Regular, b"a", b"", b"22", NO_PAX),
        (T::Directory, b"b/", b"", b"", NO_PAX),
        (T::Regular, b"b/c/d", b"", b"", NO_PAX),
        (T::Symlink, b"b", b"a", b"", NO_PAX),
        (T::Symlink, b"e", b"b", b"", NO_PAX),
        (T::Directory, b"e", b"", b"", NO_PAX),
    ]);
    assert_eq!(fs::read(dir.path().join("a")).expect("there"), b"22");
    assert_eq!(fs::read_link(dir.path().join("b")).expect("a link"), Path::new("a"));
    assert!(fs::symlink_metadata(dir.path().join("e")).expect("there").is_dir());
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    let dir = unpacked(&[
        (T::Regular, b".wh.gone", b"", b"", NO_PAX),
        (T::Regular, b"kept", b"", b"mine", NO_PAX),
        (T::Regular, b".wh.kept", b"", b"", NO_PAX),
        (T::Regular, b".wh.again", b"", b"", NO_PAX),
        (T::Directory, b"again/", b"", b"", NO_PAX),
        (T::Directory, b"mine/", b"", b"", NO_PAX),
        (T::Regular, b".wh.mine", b"", b"", NO_PAX),
        (T::Regular, b"deep/.wh..wh..opq", b"", b"", NO_PAX),
        (T::Regular, b".wh..wh.plnk", b"", b"", NO_PAX),
    ]);
    let gone = fs::symlink_metadata(dir.path().join("gone")).expect("a mark");
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert_eq!(fs::read(dir.path().join("kept")).expect("there"), b"mine");
    for name in ["again", "mine", "deep"] {
        let opaque = xattr::get(dir.path().join(name), OPAQUE_XATTR).expect("readable");
        assert_eq!(opaque.as_deref(), Some(&b"y"[..]), "{name}");
    }
    assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 5, "nothing else");
}

#[test]
fn attacks_are_refused_or_stay_inside() {
    let deep = [b'a'; 90];
    let long: &[(&str, &[u8])] = &[("path", &[b'n'; 300])];
    let refused: [(&str, &[Row<'_>]); 9] = [
        ("climbing name", &[(T::Regular, b"../x", b"", b"", NO_PAX)]),
        ("climbing in the middle", &[(T::Regular, b"a/../../x", b"", b"", NO_PAX)]),
        ("climbing by PAX", &[(T::Regular, b"x", b"", b"", &[("path", b"../x")])]),
        ("climbing hard link", &[(T::Link, b"h", b"../../etc/passwd", b"", NO_PAX)]),
        ("hard link to what is not there", &[(T::Link, b"h", b"/etc/passwd", b"", NO_PAX)]),
        (
            "hard link through a link out",
            &[(T::Symlink, b"s", b"/etc", b"", NO_PAX), (T::Link, b"h", b"s/passwd", b"", NO_PAX)],
        ),
        ("whiteout of the directory above", &[(T::Regular, b"d/.wh...", b"", b"", NO_PAX)]),
        ("whiteout of nothing", &[(T::Regular, b".wh.", b"", b"", NO_PAX)]),
        ("a name too long for a file", &[(T::Regular, b"x", b"", b"", long)]),
    ];
    for (name, rows) in refused {
        let (_dir, done) = try_unpack(rows, Limits::default());
        assert!(matches!(done, Err(ImageError::Malformed { .. })), "{name}: {done:?}");
    }
    let limits = Limits { bytes_max: 10, entries_max: 3, ..Limits::default() };
    let (_dir, big) = try_unpack(&[(T::Regular, b"x", b"", &deep, NO_PAX)], limits);
    let (_dir, many) =
        try_unpack(&[(T::Regular, b"x".as_slice(), b"".as_slice(), b"".as_slice(), NO_PAX); 4], limits);
    assert!(big.is_err() && many.is_err());
}

#[test]
fn writing_through_a_link_out_changes_nothing_outside() {
    let outside = tempfile::tempdir().expect("directory");
    fs::write(outside.path().join("victim"), "safe").expect("written");
    let target = outside.path().as_os_str().as_bytes();
    let attacks: [&[Row<'_>]; 5] = [
        &[(T::Symlink, b"s", target, b"", NO_PAX), (T::Regular, b"s/victim", b"", b"owned", NO_PAX)],
        &[(T::Symlink, b"s", target, b"", NO_PAX), (T::Regular, b"s/.wh.victim", b"", b"", NO_PAX)],
        &[(T::Symlink, b"s", target, b"", NO_PAX), (T::Regular, b"s/.wh..wh..opq", b"", b"", NO_PAX)],
        &[
            (T::Symlink, b"s", target, b"", NO_PAX),
            (T::Directory, b"s/", b"", b"", NO_PAX),
            (T::Regular, b"s/victim", b"", b"", NO_PAX),
        ],
        &[
            (T::Symlink, b"s", b"../../../../../../../../../..", b"", NO_PAX),
            (T::Directory, b"s/etc/wherry-attack", b"", b"", NO_PAX),
        ],
    ];
    for attack in attacks {
        let (_dir, done) = try_unpack(attack, Limits::default());
        drop(done);
        assert_eq!(fs::read_to_string(outside.path().join("victim")).expect("there"), "safe", "{attack:?}");
        assert_eq!(fs::metadata(outside.path()).expect("there").uid(), 0, "{attack:?}");
        assert_eq!(xattr::get(outside.path(), OPAQUE_XATTR).expect("readable"), None);
        assert!(!Path::new("/etc/wherry-attack").exists());
    }
}

proptest::proptest! {
    /// Whatever bytes come, unpacking ends, and what it makes is below the directory.
    #[test]
    fn any_bytes_end(mut bytes in proptest::collection::vec(proptest::arbitrary::any::<u8>(), 0..2048), at in 0..1536usize, value: u8) {
        let outer = tempfile::tempdir().expect("directory");
        let dir = outer.path().join("layer");
        fs::create_dir(&dir).expect("made");
        let _ = unpack(&mut Archive::new(bytes.as_slice()), &dir, Limits::default());
        bytes = archive(&[(T::Regular, b"a/b", b"", b"text", NO_PAX)]);
        bytes[at] = value;
        let _ = unpack(&mut Archive::new(bytes.as_slice()), &dir, Limits::default());
        proptest::prop_assert_eq!(fs::read_dir(outer.path()).expect("list").count(), 1);
    }
}
