//! Tells the linker where `wherry-runtime` begins, see `runtime_sys::start`, and which of its functions belong together.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=order.ld");
    let dir = std::env::var("CARGO_MANIFEST_DIR").expect("set by cargo");
    println!("cargo:rustc-link-arg-bin=wherry-runtime=-Wl,-T,{dir}/order.ld");
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        println!("cargo:rustc-link-arg-bin=wherry-runtime=-Wl,--entry=wherry_start");
    }
}
