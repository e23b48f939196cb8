//! Links the bare programs without a start-up object: they bring their own first instruction.

fn main() {
    for bare in ["true", "pause", "now"] {
        println!("cargo::rustc-link-arg-bin={bare}=-nostartfiles");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
