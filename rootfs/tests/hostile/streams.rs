//! Layers that are hostile as streams of bytes: bombs, cuts, damage, what follows the end.

use crate::{
    Outcome::{Refused, Tree},
    Row,
    archive::{archive, file},
};
use rootfs::Limits;
use std::io::Write;

pub fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(plain).and_then(|()| packed.finish()).expect("packed")
}

pub fn zstd(plain: &[u8]) -> Vec<u8> {
    zstd::encode_all(plain, 3).expect("packed")
}

pub fn rows() -> Vec<Row> {
    let good = archive([file("a", vec![b'x'; 700]), file("b", "2")]);
    const TREE: crate::Outcome = Tree(&["f a 700 bytes", "f b \"2\""]);
    let damaged = |bytes: &[u8], at: usize| [&bytes[..at], &[bytes[at] ^ 0x55], &bytes[at + 1..]].concat();
    let (packed, packed_zstd) = (gzip(&good), zstd(&good));
    // A frame of one empty block whose window is 2 GiB.
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 1, 0, 0].to_vec();
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &packed_zstd].concat();
    let halves = good.split_at(1000);
    let mut rows = vec![
        Row::new("plain", good.clone(), TREE),
        Row::new("gzip", packed.clone(), TREE),
        Row::new("zstd", packed_zstd.clone(), TREE),
        Row::new("gzip in two members", [gzip(halves.0), gzip(halves.1)].concat(), TREE),
        Row::new("zstd in two frames", [zstd(halves.0), zstd(halves.1)].concat(), TREE),
        Row::new("zstd after a skippable frame", skippable, TREE),
        Row::new("plain, garbage after the end", [&good[..], &[7; 900]].concat(), TREE),
        Row::new(
            "plain, another archive after the end",
            [&good[..], &archive([file("c", "3")])].concat(),
            TREE,
        ),
        Row::new(
            "gzip, garbage after the end",
            [&packed[..], b"garbage, not a member"].concat(),
            Refused("invalid gzip header"),
        ),
        Row::new(
            "zstd, garbage after the end",
            [&packed_zstd[..], b"garbage"].concat(),
            Refused("Unknown frame descriptor"),
        ),
        Row::new("gzip, damaged", damaged(&packed, packed.len() / 2), Refused("header checksum is wrong")),
        Row::new(
            "zstd, damaged",
            damaged(&packed_zstd, packed_zstd.len() / 2),
            Refused("header checksum is wrong"),
        ),
        Row::new(
            "gzip, a wrong checksum at the end",
            damaged(&packed, packed.len() - 8),
            Refused("corrupt gzip stream does not have a matching checksum"),
        ),
        Row::new("gzip, only its header", packed[..10].to_vec(), Refused("incomplete deflate stream")),
        Row::new("zstd, a window of 2 GiB", window, Refused("Frame requires too much memory for decoding")),
        Row::new("nothing", vec![], Refused("stops before the end of the archive")),
        Row::new("text", b"hello".to_vec(), Refused("unexpected end of file")),
        Row::new(
            "xz",
            [b"\xfd7zXZ\0".as_slice(), &[0; 600]].concat(),
            Refused("numeric field was not a number"),
        ),
        Row::new("the end at once", vec![0; 1024], Tree(&[])),
        Row::new("gzip in gzip", gzip(&packed), Refused("unexpected end of file")),
    ];
    let blocks = (0..good.len() - 1024).step_by(512).chain([1, 511, 513, 700, 1025]).collect();
    let bytes = |packed: &[u8]| (1..packed.len()).collect::<Vec<_>>();
    for (name, layer, cuts) in [
        ("plain, cut", &good, blocks),
        ("gzip, cut", &packed, bytes(&packed)),
        ("zstd, cut", &packed_zstd, bytes(&packed_zstd)),
    ] {
        rows.extend(cuts.into_iter().map(|cut| Row::new(name, layer[..cut].to_vec(), Refused("layer: "))));
    }
    rows.extend(bombs());
    rows
}

fn bombs() -> Vec<Row> {
    let limited = |name, layer, text, limits| Row { name, layer, outcome: Refused(text), limits };
    let usual = Limits::default();
    let small = Limits { bytes_max: 1000, ..usual };
    let few = Limits { entries_max: 3, ..usual };
    let ratio = Limits { expansion_max: 100, expansion_free_bytes: 1 << 20, ..usual };
    let zeros = archive([file("z", vec![0; 4 << 20])]);
    let in_it = Limits { expansion_free_bytes: 8 << 20, ..ratio };
    let tree = Tree(&["f z 4194304 bytes"]);
    vec![
        limited(
            "a file over the limit",
            archive([file("a", vec![0; 1001])]),
            "unpacks to more than 2000 bytes",
            small,
        ),
        limited(
            "files over the limit together",
            archive([file("a", vec![0; 600]), file("b", vec![0; 600])]),
            "unpacks to more than 2000 bytes",
            small,
        ),
        limited(
            "a header over the limit",
            archive([file("a", "").header(|h| h.set_size(1 << 60))]),
            "a: over the limit of 4000000 entries and 68719476736 bytes",
            usual,
        ),
        limited(
            "entries over the limit",
            archive((0..4).map(|n| file(format!("{n}"), ""))),
            "3: over the limit of 3 entries and 68719476736 bytes",
            few,
        ),
        limited(
            "one entry again and again",
            archive((0..4).map(|_| file("a", ""))),
            "a: over the limit of 3 entries and 68719476736 bytes",
            few,
        ),
        limited("gzip that expands", gzip(&zeros), "unpacks to more than 100 times its size", ratio),
        limited("zstd that expands", zstd(&zeros), "unpacks to more than 100 times its size", ratio),
        limited(
            "gzip of zeros after the end",
            gzip(&vec![0; 4 << 20]),
            "unpacks to more than 100 times its size",
            ratio,
        ),
        Row { name: "expansion while it is small", layer: zstd(&zeros), outcome: tree, limits: in_it },
    ]
}
