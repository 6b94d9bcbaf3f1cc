//! Archives that are hostile by their extension headers: PAX records, GNU long names, the maps of sparse files.

use crate::{
    Outcome::{Refused, Tree},
    archive::{Member, dir, file, record, symlink},
    corpus::Case,
};
use tar::EntryType as T;

pub fn pax_rows() -> Vec<Case> {
    let with = |key: &str, value: &[u8]| vec![file("f", "1").pax(key, value)];
    let raw = |content: &[u8]| vec![Member::new(T::XHeader, "pax").content(content), file("f", "1")];
    let global = |content: Vec<u8>| Member::new(T::XGlobalHeader, "pax").content(content);
    vec![
        ("PAX path with a NUL", with("path", b"a\0b"), Refused("PAX header path has a NUL")),
        (
            "PAX linkpath with a NUL",
            vec![symlink("s", "").pax("linkpath", b"a\0b")],
            Refused("PAX header linkpath has a NUL"),
        ),
        ("PAX attribute with a NUL in its name", with("SCHILY.xattr.user.a\0b", b"1"), Refused("has a NUL")),
        ("PAX path that is not UTF-8", with("path", b"\xff\xfe"), Tree(&["f \\xff\\xfe \"1\""])),
        ("PAX path that is empty", with("path", b""), Tree(&["f f \"1\""])),
        ("PAX path with a line feed and an equals sign", with("path", b"a\n=b"), Tree(&["f a\\n=b \"1\""])),
        ("PAX length too big", raw(b"99 path=x\n"), Refused("PAX header is malformed")),
        ("PAX length too small", raw(b"4 path=x\n"), Refused("PAX header is malformed")),
        ("PAX length of zero", raw(b"0 path=x\n"), Refused("PAX header is malformed")),
        ("PAX length that is negative", raw(b"-9 path=x\n"), Refused("\"-9\" is no number")),
        ("PAX length with a sign", raw(b"+10 path=x\n"), Refused("\"+10\" is no number")),
        (
            "PAX length over 64 bits",
            raw(b"99999999999999999999999 path=x\n"),
            Refused("\"99999999999999999999999\" is no number"),
        ),
        ("PAX record without a length", raw(b"path=x\n"), Refused("PAX header is malformed")),
        ("PAX record without an equals sign", raw(b"8 pathx\n"), Refused("PAX header is malformed")),
        ("PAX record without an end", raw(b"9 path=xx"), Refused("PAX header is malformed")),
        ("PAX size that is negative", with("size", b"-1"), Refused("\"-1\" is no number")),
        (
            "PAX size over 64 bits",
            with("size", b"18446744073709551616"),
            Refused("\"18446744073709551616\" is no number"),
        ),
        (
            "PAX size that is huge",
            with("size", b"18446744073709551615"),
            Refused("f: over the limit of 4000000 entries and 68719476736 bytes"),
        ),
        (
            "PAX size that is right",
            vec![file("f", "12").header(|h| h.set_size(0)).pax("size", "2"), file("g", "3")],
            Tree(&["f f \"12\"", "f g \"3\""]),
        ),
        (
            "PAX size that swallows a member",
            vec![file("f", "").pax("size", "1024"), file("g", "3")],
            Tree(&["f f 1024 bytes"]),
        ),
        (
            "PAX size of a directory",
            vec![dir("d").pax("size", "1024"), file("g", "3")],
            Tree(&["d d", "f g \"3\""]),
        ),
        ("PAX time with a fraction", with("mtime", b"1.123456789123"), Tree(&["f f \"1\""])),
        ("PAX time before 1970", with("mtime", b"-1.5"), Tree(&["f f \"1\""])),
        ("PAX time that is none", with("mtime", b"1.x"), Refused("\"x00000000\" is no number")),
        ("PAX time far away", with("mtime", b"9223372036854775807"), Tree(&["f f \"1\""])),
        ("PAX key twice", vec![file("f", "1").pax("path", "a").pax("path", "b")], Tree(&["f b \"1\""])),
        (
            "PAX header twice",
            vec![
                Member::new(T::XHeader, "pax").content(record("path", b"a")),
                file("f", "1").pax("uid", "1"),
            ],
            Tree(&["f f \"1\""]),
        ),
        (
            "PAX header for nothing",
            vec![file("f", "1"), Member::new(T::XHeader, "pax").content(record("path", b"a"))],
            Tree(&["f f \"1\""]),
        ),
        (
            "PAX header that is long",
            vec![file("f", "1").pax("comment", vec![b'x'; 2 << 20])],
            Refused("extension header of 2097169 bytes"),
        ),
        (
            "PAX attribute that is long",
            vec![file("f", "1").pax("SCHILY.xattr.user.a", vec![b'x'; 70_000])],
            Refused("f: cannot set attributes of it: Argument list too long"),
        ),
        (
            "PAX attribute of a long name",
            vec![file("f", "1").pax(&format!("SCHILY.xattr.user.{}", "x".repeat(300)), "1")],
            Refused("f: cannot set attributes of it: Numerical result out of range"),
        ),
        (
            "global header",
            vec![global(record("uid", b"7")), file("f", "1"), file("g", "2").pax("path", "h")],
            Tree(&["f f \"1\"", "f h \"2\""]),
        ),
        (
            "global header with a path",
            vec![global(record("path", b"../x")), file("f", "1")],
            Refused("../x: path climbs with `..`"),
        ),
        (
            "size in the header that is negative",
            vec![
                file("f", "1")
                    .header(|h| h.as_old_mut().size = *b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
            ],
            Refused("f: over the limit of 4000000 entries and 68719476736 bytes"),
        ),
        (
            "size in the header that is no number",
            vec![file("f", "1").header(|h| h.as_old_mut().size = *b"zzzzzzzzzzz\0")],
            Refused("numeric field was not a number: zzz"),
        ),
        (
            "long name of a terabyte",
            vec![Member::new(T::GNULongName, "l").header(|h| h.set_size(1 << 40))],
            Refused("extension header of 1099511627776 bytes"),
        ),
    ]
}

pub fn sparse_rows() -> Vec<Case> {
    let old = |size, regions: &[(u64, u64)], content: &str| {
        vec![Member::new(T::GNUSparse, "f").content(content).holes(size, regions), file("g", "2")]
    };
    let pax = |content: &str, records: &[(&str, &str)]| {
        let member = file("GNUSparseFile.0/f", content).pax("GNU.sparse.name", "f");
        vec![
            records
                .iter()
                .fold(member, |member, (key, value)| member.pax(&format!("GNU.sparse.{key}"), value)),
            file("g", "2"),
        ]
    };
    let block = |text: &str, content: &str| format!("{text}{}{content}", "\0".repeat(512 - text.len()));
    let many: Vec<(u64, u64)> = (0..30).map(|n| (n * 10, 1)).collect();
    vec![
        (
            "old sparse file",
            old(8, &[(1, 2), (5, 1)], "abc"),
            Tree(&["f f \"\\x00ab\\x00\\x00c\\x00\\x00\"", "f g \"2\""]),
        ),
        (
            "old sparse file of many parts",
            old(300, &many, "abcdefghijklmnopqrstuvwxyz0123"),
            Tree(&["f f 300 bytes", "f g \"2\""]),
        ),
        (
            "old sparse file of holes only",
            old(6, &[(6, 0)], ""),
            Tree(&["f f \"\\x00\\x00\\x00\\x00\\x00\\x00\"", "f g \"2\""]),
        ),
        ("old sparse file without parts", old(0, &[], ""), Tree(&["f f \"\"", "f g \"2\""])),
        (
            "old sparse map that overlaps",
            old(8, &[(1, 2), (2, 1)], "abc"),
            Refused("parts of a sparse file overlap or are out of order"),
        ),
        (
            "old sparse map out of order",
            old(8, &[(5, 1), (1, 2)], "abc"),
            Refused("parts of a sparse file overlap or are out of order"),
        ),
        (
            "old sparse map behind the end",
            old(3, &[(1, 3)], "abc"),
            Refused("a part of a sparse file lies behind its end"),
        ),
        (
            "old sparse map shorter than the content",
            old(8, &[(1, 2)], "abc"),
            Refused("a sparse file's parts are not as long as its content"),
        ),
        (
            "old sparse map longer than the content",
            old(8, &[(1, 4)], "abc"),
            Refused("a sparse file's parts are not as long as its content"),
        ),
        (
            "old sparse file that is huge",
            old(7 << 30, &[(0, 3)], "abc"),
            Tree(&["f f 7516192768 bytes", "f g \"2\""]),
        ),
        (
            "sparse 0.0",
            pax(
                "abc",
                &[
                    ("size", "8"),
                    ("numblocks", "2"),
                    ("offset", "1"),
                    ("numbytes", "2"),
                    ("offset", "5"),
                    ("numbytes", "1"),
                ],
            ),
            Tree(&["f f \"\\x00ab\\x00\\x00c\\x00\\x00\"", "f g \"2\""]),
        ),
        (
            "sparse 0.0 out of step",
            pax("abc", &[("size", "8"), ("offset", "1"), ("offset", "2")]),
            Refused("the map of a sparse file is malformed"),
        ),
        (
            "sparse 0.1",
            pax("abc", &[("size", "8"), ("map", "1,2,5,1")]),
            Tree(&["f f \"\\x00ab\\x00\\x00c\\x00\\x00\"", "f g \"2\""]),
        ),
        (
            "sparse 0.1, an odd map",
            pax("abc", &[("size", "8"), ("map", "1,2,5")]),
            Refused("the map of a sparse file is malformed"),
        ),
        (
            "sparse 0.1, no numbers",
            pax("abc", &[("size", "8"), ("map", "1,x")]),
            Refused("\"x\" is no number"),
        ),
        (
            "sparse 0.1, over 64 bits",
            pax("abc", &[("size", "8"), ("map", "18446744073709551615,1,18446744073709551615,2")]),
            Refused("a part of a sparse file lies behind its end"),
        ),
        (
            "sparse 1.0",
            pax(&block("2\n1\n2\n5\n1\n", "abc"), &[("major", "1"), ("minor", "0"), ("realsize", "8")]),
            Tree(&["f f \"\\x00ab\\x00\\x00c\\x00\\x00\"", "f g \"2\""]),
        ),
        (
            "sparse 1.0, too many parts",
            pax(&block("99999999\n", "abc"), &[("major", "1"), ("realsize", "8")]),
            Refused("a sparse file of too many parts"),
        ),
        (
            "sparse 1.0, an unfinished map",
            pax(&block("2\n1\n2\n", ""), &[("major", "1"), ("realsize", "8")]),
            Refused("failed to fill whole buffer"),
        ),
        (
            "sparse 1.0, no map",
            pax("", &[("major", "1"), ("realsize", "8")]),
            Refused("failed to fill whole buffer"),
        ),
        (
            "sparse 1.0, overlapping",
            pax(&block("2\n1\n2\n2\n1\n", "abc"), &[("major", "1"), ("realsize", "8")]),
            Refused("parts of a sparse file overlap or are out of order"),
        ),
        (
            "sparse of the future",
            pax("", &[("major", "2"), ("realsize", "8")]),
            Refused("a sparse file of an unknown format"),
        ),
        (
            "sparse bigger than the limit",
            pax("", &[("size", "99999999999999"), ("map", "0,0")]),
            Refused("f: over the limit of 4000000 entries and 68719476736 bytes"),
        ),
        (
            "sparse path that climbs",
            vec![file("f", "").pax("GNU.sparse.name", "../f").pax("GNU.sparse.map", "0,0")],
            Refused("../f: path climbs with `..`"),
        ),
    ]
}
