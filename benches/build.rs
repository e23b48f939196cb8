//! Links the bare programs so that they begin with their own first instruction: `first`, and no start-up object of the C library's,
//! which one target's linker leaves out when told and the other's drops as nobody refers to it.

fn main() {
    for bare in ["true", "pause", "now"] {
        for argument in ["-nostartfiles", "-Wl,--entry=first"] {
            println!("cargo::rustc-link-arg-bin={bare}={argument}");
        }
    }
    println!("cargo::rerun-if-changed=build.rs");
}
