//! Sets the executable's entry point to the one that moves it, where it launches containers itself, out of their reach
//! (`skiff_sys::self_exe`), and the order of its code.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=layout.ld");
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        println!("cargo:rustc-link-arg-bins=-Wl,--entry=skiff_client_entry,--wrap=pthread_getattr_np");
        println!("cargo:rustc-link-arg-bins=-T{}/layout.ld", env!("CARGO_MANIFEST_DIR"));
    }
}
