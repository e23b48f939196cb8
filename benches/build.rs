//! Links the bare programs without a start-up object: they bring their own first instruction.

fn main() {
    println!("cargo::rustc-link-arg-bin=true=-nostartfiles");
    println!("cargo::rerun-if-changed=build.rs");
}
