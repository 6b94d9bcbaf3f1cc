//! Tells the linker where `wherry-runtime` begins; see `runtime_sys::start`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        println!("cargo:rustc-link-arg-bin=wherry-runtime=-Wl,--entry=wherry_start");
    }
}
