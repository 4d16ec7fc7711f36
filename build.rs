//! Compiles the C file that runs before Rust's runtime.

fn main() {
    let source = "src/standard_descriptors.c";
    println!("cargo::rerun-if-changed={source}");
    // No Rust code calls it: without this the linker would leave it out.
    cc::Build::new()
        .file(source)
        .link_lib_modifier("+whole-archive")
        .compile("standard_descriptors");
}
