//! Unpacks the layers named as arguments, or the one on standard input, and throws them away; a panic or a change outside the layer aborts.
//!
//! A refused layer is as good as any other. Needs root, for devices and owners; nothing of the layer is opened or run.
//!
//! ```sh
//! cargo build --release --manifest-path rootfs/fuzz/Cargo.toml --target-dir target
//! target/release/unpack-fuzz some.tar other.tar.gz                              # a plain run
//! mkdir seeds && tar -C /usr/share/doc/tar -cf seeds/tar .
//! afl-fuzz -n -i seeds -o found -- target/release/unpack-fuzz                   # AFL++; without -n when built by `cargo afl build`
//! ```
#![forbid(unsafe_code)]

use rootfs::{Limits, unpack_layer};
use std::{
    env,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Small, so that a run is short.
const LIMITS: Limits =
    Limits { bytes_max: 16 << 20, entries_max: 10_000, expansion_max: 1000, expansion_free_bytes: 16 << 20 };

fn main() -> io::Result<()> {
    let ground = env::temp_dir().join(format!("unpack-fuzz-{}", std::process::id()));
    let files: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    if files.is_empty() {
        return run(io::stdin().lock(), &ground, Path::new("standard input"));
    }
    for file in files {
        run(File::open(&file)?, &ground, &file)?;
    }
    Ok(())
}

fn run(layer: impl Read, ground: &Path, name: &Path) -> io::Result<()> {
    let (target, victim) = (ground.join("layer"), ground.join("victim"));
    fs::create_dir_all(&target)?;
    fs::write(&victim, "safe")?;
    let done = unpack_layer(layer, &target, LIMITS);
    assert_eq!(fs::read_to_string(&victim)?, "safe", "{}: a file outside was changed", name.display());
    assert_eq!(fs::read_dir(ground)?.count(), 2, "{}: a file was made outside", name.display());
    match done {
        Ok(unpacked) => println!("{}: sha256:{}", name.display(), unpacked.diff_id),
        Err(err) => println!("{}: refused: {err}", name.display()),
    }
    fs::remove_dir_all(ground)
}
