//! Compiles the one file in C that has to run before Rust's own start does.

fn main() {
    let source = "src/standard_descriptors.c";
    println!("cargo::rerun-if-changed={source}");
    // Nobody calls it: without this the linker would leave it out.
    cc::Build::new()
        .file(source)
        .link_lib_modifier("+whole-archive")
        .compile("standard_descriptors");
}
