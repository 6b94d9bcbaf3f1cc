//! Good layers, damaged at random: unpacking ends, keeps its limits and changes nothing outside.

use crate::{
    Ground,
    archive::{Member, archive, dir, file, hard, long, symlink},
    streams::{gzip, zstd},
    tree,
};
use proptest::prelude::*;
use rootfs::Limits;
use std::{fs, path::Path};
use tar::EntryType as T;

const BLOCK: usize = 512;
const LIMITS: Limits =
    Limits { bytes_max: 1 << 16, entries_max: 20, expansion_max: 1000, expansion_free_bytes: 1 << 20 };

/// Of every kind and extension one; some links lead to `outside`.
fn good(outside: &Path) -> Vec<u8> {
    let outside = outside.as_os_str().as_encoded_bytes();
    archive([
        dir("./"),
        dir("d").pax("mtime", "1.5").pax("SCHILY.xattr.user.a", "b"),
        file("d/f", vec![b'x'; 700]),
        symlink("s", outside),
        symlink("d/up", "../outside"),
        hard("h", "d/f"),
        long(T::GNULongName, vec![b'n'; 150]),
        file("n", "1"),
        Member::new(T::GNUSparse, "holes")
            .content("abc")
            .holes(900, &[(0, 1), (5, 1), (9, 1), (20, 0), (30, 0), (900, 0)]),
        file("x", "abc").pax("GNU.sparse.map", "1,2,700,1").pax("GNU.sparse.size", "800"),
        Member::new(T::Fifo, "d/p"),
        Member::new(T::Char, "c")
            .header(|h| (h.set_device_major(1), h.set_device_minor(3)).1.expect("a field")),
        file("d/.wh.gone", ""),
        file("e/.wh..wh..opq", ""),
        file("victim", "2"),
    ])
}

#[derive(Clone, Debug)]
enum Damage {
    Set(Vec<u8>),
    Insert(Vec<u8>),
    Cut,
    /// Bytes of a block, whose checksum is then made right.
    Header(Vec<u8>),
    /// A block takes the place of another.
    Copy(prop::sample::Index),
}

fn damage() -> impl Strategy<Value = (prop::sample::Index, Damage)> {
    // What means something to an archive, and anything.
    let telling = prop::sample::select(vec![
        "..",
        "../../outside/victim",
        "s/victim",
        "s",
        "/",
        "\0",
        "0",
        "2",
        "5",
        "S",
        "x",
        "g",
        "L",
        "77777777777",
        "-1",
        ".wh...",
        "\n99 path=s/victim\n",
    ]);
    let bytes = prop_oneof![
        telling.prop_map(|text| text.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 1..12)
    ];
    let damage = prop_oneof![
        2 => bytes.clone().prop_map(Damage::Set),
        1 => bytes.clone().prop_map(Damage::Insert),
        1 => Just(Damage::Cut),
        6 => bytes.prop_map(Damage::Header),
        2 => any::<prop::sample::Index>().prop_map(Damage::Copy),
    ];
    (any::<prop::sample::Index>(), damage)
}

fn apply(layer: &mut Vec<u8>, at: prop::sample::Index, damage: &Damage) {
    if layer.len() < BLOCK {
        return;
    }
    let at = at.index(layer.len());
    let block = at.min(layer.len() - BLOCK) / BLOCK * BLOCK;
    match damage {
        Damage::Set(bytes) => layer[at..].iter_mut().zip(bytes).for_each(|(old, new)| *old = *new),
        Damage::Insert(bytes) => drop(layer.splice(at..at, bytes.iter().copied())),
        Damage::Cut => layer.truncate(at),
        Damage::Header(bytes) => {
            layer[at.min(block + BLOCK)..block + BLOCK]
                .iter_mut()
                .zip(bytes)
                .for_each(|(old, new)| *old = *new);
            layer[block + 148..block + 156].fill(b' ');
            let sum: u32 = layer[block..block + BLOCK].iter().map(|&byte| u32::from(byte)).sum();
            layer[block + 148..block + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        Damage::Copy(from) => {
            let from = from.index(layer.len() / BLOCK) * BLOCK;
            layer.copy_within(from..from + BLOCK, block);
        }
    }
}

#[test]
fn the_layer_to_damage_is_good() {
    let ground = Ground::make();
    let (target, done) = ground.unpack(&good(&ground.outside()), LIMITS);
    assert_eq!((done, tree(&target).len()), (Ok(()), 13));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn damaged_layers_do_no_harm(damages in prop::collection::vec(damage(), 1..5), packed in 0..4, late: prop::sample::Index) {
        let ground = Ground::make();
        let mut layer = good(&ground.outside());
        for (at, damage) in &damages {
            apply(&mut layer, *at, damage);
        }
        match packed {
            0 => layer = gzip(&layer),
            1 => layer = zstd(&layer),
            _ => {}
        }
        if packed < 2 && damages.len() == 1 {
            let at = late.index(layer.len());
            layer[at] ^= 0x10;
        }
        let (target, _) = ground.unpack(&layer, LIMITS);
        let (mut bytes, mut files, mut waiting) = (0, 0, vec![target]);
        while let Some(dir) = waiting.pop() {
            for entry in fs::read_dir(dir).expect("list").flatten() {
                let meta = entry.metadata().expect("there");
                if meta.is_dir() {
                    waiting.push(entry.path());
                    continue;
                }
                files += 1;
                bytes += if meta.is_file() { meta.len() } else { 0 };
            }
        }
        // A hard link is a name more for bytes that are counted once.
        prop_assert!(files <= LIMITS.entries_max && bytes <= LIMITS.bytes_max * LIMITS.entries_max);
    }
}
