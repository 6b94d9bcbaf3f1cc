//! Archives that are hostile by what their members say.

use crate::{
    Outcome::{self, Refused, Tree},
    Row,
    archive::{Member, archive, dir, file, hard, long, symlink},
    records,
};
use tar::EntryType as T;

pub type Case = (&'static str, Vec<Member>, Outcome);

/// `outside`: an absolute path where nothing may change.
pub fn rows(outside: &str) -> Vec<Row> {
    let cases = [
        path_rows(outside),
        link_rows(outside),
        whiteout_rows(outside),
        kind_rows(),
        records::sparse_rows(),
        records::pax_rows(),
        name_rows(),
        twice_rows(),
    ];
    let cases = cases.into_iter().flatten();
    cases.map(|(name, members, outcome)| Row::new(name, archive(members), outcome)).collect()
}

fn path_rows(outside: &str) -> Vec<Case> {
    let climbs = "path climbs with `..`";
    vec![
        ("absolute path", vec![file("/etc/x", "1")], Tree(&["d etc", "f etc/x \"1\""])),
        ("several slashes and dots", vec![file("//.//a/./b", "1")], Tree(&["d a", "f a/b \"1\""])),
        ("`..`", vec![file("../outside/victim", "1")], Refused(climbs)),
        ("`..` alone", vec![dir("..")], Refused(climbs)),
        ("`..` at the end", vec![dir("a/..")], Refused(climbs)),
        ("`..` that stays inside", vec![file("a/../b", "1")], Refused(climbs)),
        ("`..` after an absolute start", vec![file("/../outside/victim", "1")], Refused(climbs)),
        ("`..` in a PAX path", vec![file("x", "1").pax("path", "../outside/victim")], Refused(climbs)),
        (
            "`..` in a GNU long name",
            vec![long(T::GNULongName, "../outside/victim"), file("x", "1")],
            Refused(climbs),
        ),
        ("`..` in a directory's name", vec![dir("../outside/new/")], Refused(climbs)),
        ("absolute PAX path", vec![file("x", "1").pax("path", "/y")], Tree(&["f y \"1\""])),
        ("the root as a file", vec![file("/", "1")], Refused("numeric field was not a number")),
        ("no name", vec![file("", "1"), file("a", "2")], Tree(&["f a \"2\""])),
        ("the root as a symlink", vec![symlink(".", outside), file("a", "2")], Tree(&["f a \"2\""])),
        ("dots that are a name", vec![file("...", "1")], Tree(&["f ... \"1\""])),
    ]
}

fn link_rows(outside: &str) -> Vec<Case> {
    let out = || symlink("s", outside);
    vec![
        (
            "file through a symlink out",
            vec![out(), file("s/victim", "1")],
            Refused("s/victim: cannot reach it: No such file or directory"),
        ),
        (
            "file through a relative symlink out",
            vec![symlink("s", "../outside"), file("s/victim", "1")],
            Refused("s/victim: cannot reach it: No such file or directory"),
        ),
        (
            "file through a chain of symlinks",
            vec![symlink("t", "../.."), symlink("s", "t/.."), file("s/a", "1")],
            Tree(&["f a \"1\"", "l s -> t/..", "l t -> ../.."]),
        ),
        (
            "file through a symlink to itself",
            vec![symlink("s", "s"), file("s/a", "1")],
            Refused("s/a: cannot reach it: Too many levels of symbolic links"),
        ),
        (
            "file onto a symlink out",
            vec![symlink("s", format!("{outside}/victim")), file("s", "1")],
            Tree(&["f s \"1\""]),
        ),
        (
            "directory onto a symlink out",
            vec![out(), dir("s"), file("s/victim", "1")],
            Tree(&["d s", "f s/victim \"1\""]),
        ),
        (
            "symlink out, swapped after a directory",
            vec![dir("s"), out(), file("s/victim", "1")],
            Refused("s/victim: cannot reach it: No such file or directory"),
        ),
        (
            "symlink through a symlink out",
            vec![out(), symlink("s/victim", "x")],
            Refused("s/victim: cannot reach it: No such file or directory"),
        ),
        (
            "directory through a symlink out",
            vec![out(), dir("s/new").header(|h| h.set_uid(7))],
            Refused("s/new: cannot reach it: No such file or directory"),
        ),
        (
            "device through a symlink out",
            vec![out(), Member::new(T::Fifo, "s/victim")],
            Refused("s/victim: cannot reach it: No such file or directory"),
        ),
        (
            "symlink with a long target",
            vec![long(T::GNULongLink, vec![b'x'; 5000]), symlink("s", "")],
            Refused("s: cannot make symlink it: File name too long"),
        ),
        (
            "symlink to nothing",
            vec![symlink("s", "")],
            Refused("s: cannot make symlink it: No such file or directory"),
        ),
        (
            "symlink out by PAX",
            vec![symlink("s", "a").pax("linkpath", outside), file("s/victim", "1")],
            Refused("s/victim: cannot reach it: No such file or directory"),
        ),
        ("hard link out by `..`", vec![hard("h", "../outside/victim")], Refused("h: path climbs with `..`")),
        (
            "hard link out by PAX",
            vec![hard("h", "a").pax("linkpath", "../outside/victim")],
            Refused("h: path climbs with `..`"),
        ),
        (
            "hard link out by GNU long link",
            vec![long(T::GNULongLink, "../outside/victim"), hard("h", "")],
            Refused("h: path climbs with `..`"),
        ),
        (
            "hard link to an absolute path",
            vec![hard("h", format!("{outside}/victim"))],
            Refused("h: cannot make hard link it: No such file or directory"),
        ),
        (
            "hard link through a symlink out",
            vec![out(), hard("h", "s/victim"), file("h", "1")],
            Refused("h: cannot make hard link it: No such file or directory"),
        ),
        (
            "hard link through a symlink inside",
            vec![file("d/f", "1"), symlink("s", "d"), hard("h", "s/f")],
            Tree(&["d d", "f d/f \"1\" links=2", "f h \"1\" links=2", "l s -> d"]),
        ),
        (
            "hard link to a symlink, then written",
            vec![symlink("s", format!("{outside}/victim")), hard("h", "s"), file("h", "1")],
            Tree(&["f h \"1\"", "l s -> OUTSIDE/victim"]),
        ),
        (
            "hard link to a device",
            vec![
                Member::new(T::Char, "c")
                    .header(|h| (h.set_device_major(1), h.set_device_minor(3)).1.expect("a field")),
                hard("h", "c"),
            ],
            Tree(&["c c 1:3 links=2", "c h 1:3 links=2"]),
        ),
        (
            "hard link to a directory",
            vec![dir("d"), hard("h", "d")],
            Refused("make hard link h: Operation not permitted"),
        ),
        ("hard link to the root", vec![hard("h", "/")], Refused("h: hard link to the root directory")),
        (
            "hard link to itself",
            vec![file("h", "1"), hard("h", "h")],
            Refused("h: cannot make hard link it: No such file or directory"),
        ),
        (
            "hard link with a size",
            vec![file("f", "1"), hard("h", "f").header(|h| h.set_size(1 << 30)), file("g", "2")],
            Tree(&["f f \"1\" links=2", "f g \"2\"", "f h \"1\" links=2"]),
        ),
        (
            "hard link, one name written again",
            vec![file("f", "1"), hard("h", "f"), file("h", "2")],
            Tree(&["f f \"1\"", "f h \"2\""]),
        ),
    ]
}

fn whiteout_rows(outside: &str) -> Vec<Case> {
    let out = || symlink("s", outside);
    vec![
        ("whiteout of `..`", vec![file("d/.wh...", "")], Refused("d/.wh...: whiteout of no name")),
        ("whiteout of `.`", vec![file("d/.wh..", "")], Refused("d/.wh..: whiteout of no name")),
        ("whiteout of no name", vec![file("d/.wh.", "")], Refused("d/.wh.: whiteout of no name")),
        (
            "whiteout after `..`",
            vec![file("../outside/.wh.victim", "")],
            Refused("../outside/.wh.victim: path climbs with `..`"),
        ),
        (
            "whiteout through a symlink out",
            vec![out(), file("s/.wh.victim", "")],
            Refused("s/.wh.victim: cannot reach it: No such file or directory"),
        ),
        ("whiteout of a symlink out", vec![out(), file(".wh.s", "")], Tree(&["l s -> OUTSIDE"])),
        (
            "opaque mark through a symlink out",
            vec![out(), file("s/.wh..wh..opq", "")],
            Refused("s/.wh..wh..opq: cannot reach it: No such file or directory"),
        ),
        ("opaque mark on the root", vec![file(".wh..wh..opq", "")], Tree(&[])),
        (
            "whiteout that is a directory",
            vec![dir(".wh.x/"), file(".wh.x/f", "1")],
            Tree(&["c x 0:0", "d .wh.x", "f .wh.x/f \"1\""]),
        ),
        ("whiteout that is a symlink", vec![symlink(".wh.x", outside)], Tree(&["c x 0:0"])),
        (
            "whiteout with content",
            vec![file(".wh.x", "12345"), file("f", "1")],
            Tree(&["c x 0:0", "f f \"1\""]),
        ),
        ("whiteout with a slash in it", vec![file(".wh.x/y", "1")], Tree(&["d .wh.x", "f .wh.x/y \"1\""])),
        (
            "file below what is whited out",
            vec![file(".wh.d", ""), file("d/f", "1")],
            Refused("d/f: cannot reach it: Not a directory"),
        ),
        ("aufs' own names", vec![file(".wh..wh.aufs", ""), dir(".wh..wh.orph/")], Tree(&[])),
        (
            "overlayfs' own mark",
            vec![
                Member::new(T::Char, "x")
                    .header(|h| (h.set_device_major(0), h.set_device_minor(0)).1.expect("a field")),
            ],
            Tree(&["c x 0:0"]),
        ),
        (
            "overlayfs' own attributes",
            vec![
                dir("d")
                    .pax("SCHILY.xattr.trusted.overlay.opaque", "y")
                    .pax("SCHILY.xattr.trusted.overlay.redirect", "/etc"),
            ],
            Tree(&["d d"]),
        ),
    ]
}

fn kind_rows() -> Vec<Case> {
    let device = |kind, name| {
        Member::new(kind, name).header(|h| (h.set_device_major(8), h.set_device_minor(1)).1.expect("a field"))
    };
    vec![
        (
            "devices are made and not opened",
            vec![device(T::Char, "c"), device(T::Block, "b"), Member::new(T::Fifo, "p"), file("p", "1")],
            Tree(&["b b 8:1", "c c 8:1", "f p \"1\""]),
        ),
        (
            "device with a content",
            vec![device(T::Char, "c").header(|h| h.set_size(512)), file("f", "1")],
            Tree(&["c c 8:1", "f f \"1\""]),
        ),
        (
            "file through a device",
            vec![device(T::Char, "c"), file("c/f", "1")],
            Refused("c/f: cannot reach it: Not a directory"),
        ),
        (
            "setuid and setgid are kept",
            vec![
                file("f", "1").header(|h| {
                    h.set_mode(0o6755);
                    h.set_uid(5)
                }),
                dir("d").header(|h| h.set_mode(0o1777)),
            ],
            Tree(&["d d mode=1777", "f f \"1\" mode=6755"]),
        ),
        (
            "bits of the mode that are none",
            vec![file("f", "1").header(|h| h.set_mode(0o104_755))],
            Tree(&["f f \"1\" mode=4755"]),
        ),
        (
            "an unknown type",
            vec![Member::new(T::new(b'Z'), "f")],
            Refused("entries of type 'Z' are not supported"),
        ),
        (
            "a volume label",
            vec![Member::new(T::new(b'V'), "f")],
            Refused("entries of type 'V' are not supported"),
        ),
        (
            "an owner over 32 bits",
            vec![file("f", "1").header(|h| h.set_uid(1 << 40))],
            Refused("an owner does not fit 32 bits"),
        ),
        (
            "an owner over 32 bits by PAX",
            vec![file("f", "1").pax("uid", "4294967296")],
            Refused("\"4294967296\" is no number"),
        ),
        (
            "the owner that stands for none",
            vec![file("f", "1").pax("uid", "4294967295")],
            Refused("an owner does not fit 32 bits"),
        ),
        (
            "file where a directory is needed",
            vec![file("a", "1"), file("a/b", "2")],
            Refused("a/b: cannot reach it: Not a directory"),
        ),
    ]
}

fn name_rows() -> Vec<Case> {
    let long_name = |bytes| vec![long(T::GNULongName, vec![b'n'; bytes]), file("x", "1")];
    let deep = |parts| vec![long(T::GNULongName, vec!["d"; parts].join("/")), file("x", "1")];
    vec![
        ("a name of 255 bytes", long_name(255), Tree(&["f nnn...255 bytes \"1\""])),
        ("a name of 256 bytes", long_name(256), Refused("cannot look at it: File name too long")),
        ("a name of 5000 bytes", long_name(5000), Refused("cannot look at it: File name too long")),
        ("a path of 5000 bytes", deep(2500), Refused("cannot reach it: File name too long")),
        (
            "a name of 256 bytes by PAX",
            vec![file("x", "1").pax("path", vec![b'n'; 256])],
            Refused("cannot look at it: File name too long"),
        ),
        ("a name that is not UTF-8", vec![file(b"\xff\x80", "1")], Tree(&["f \\xff\\x80 \"1\""])),
        (
            "names that differ in case",
            vec![file("a", "1"), file("A", "2"), dir("D"), dir("d")],
            Tree(&["d D", "d d", "f A \"2\"", "f a \"1\""]),
        ),
        ("a name of control characters", vec![file("\x1b[31m\n", "1")], Tree(&["f \\x1b[31m\\n \"1\""])),
        ("a backslash is no separator", vec![file("..\\outside", "1")], Tree(&["f ..\\\\outside \"1\""])),
    ]
}

fn twice_rows() -> Vec<Case> {
    vec![
        ("file twice", vec![file("a", "1"), file("a", "22")], Tree(&["f a \"22\""])),
        (
            "directory, file, directory",
            vec![dir("a"), file("a/b", "1"), file("a", "2"), dir("a"), file("a/c", "3")],
            Tree(&["d a", "f a/c \"3\""]),
        ),
        ("directory twice", vec![dir("a"), file("a/b", "1"), dir("a")], Tree(&["d a", "f a/b \"1\""])),
        (
            "symlink, then a directory",
            vec![dir("d"), symlink("s", "d"), dir("s"), file("s/x", "1")],
            Tree(&["d d", "d s", "f s/x \"1\""]),
        ),
        (
            "file, then a symlink",
            vec![file("a", "1"), symlink("a", "b"), file("b", "2")],
            Tree(&["f b \"2\"", "l a -> b"]),
        ),
    ]
}
