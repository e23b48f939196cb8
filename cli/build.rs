//! Sets the order of the executable's code, and what std is not to ask the C library for (`skiff_sys::process`).

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=layout.ld");
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        println!(
            "cargo:rustc-link-arg-bins=-Wl,--wrap=pthread_getattr_np,--undefined=__wrap_pthread_getattr_np"
        );
        println!("cargo:rustc-link-arg-bins=-T{}/layout.ld", env!("CARGO_MANIFEST_DIR"));
    }
}
