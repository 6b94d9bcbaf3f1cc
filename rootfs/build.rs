//! Builds the hello server, static, for the image that is part of the library.

use std::{env, path::PathBuf, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=hello/src");
    println!("cargo::rerun-if-changed=hello/Cargo.toml");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let status = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"))
        .args(["build", "--release", "--locked", "--package", "hello", "--target", &target, "--target-dir"])
        .arg(out.join("hello"))
        // The outer build's flags are for the outer build, and clippy is no compiler.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .status()
        .expect("cargo runs");
    assert!(status.success(), "building the hello server failed: {status}");
    println!(
        "cargo::rustc-env=HELLO_BINARY={}",
        out.join("hello").join(target).join("release/hello").display()
    );
}
