//! Compiles the C file that runs before Rust's runtime, and has the linker keep rare code apart.

fn main() {
    let source = "src/standard_descriptors.c";
    println!("cargo::rerun-if-changed={source}");
    // No Rust code calls it: without this the linker would leave it out.
    cc::Build::new()
        .file(source)
        .link_lib_modifier("+whole-archive")
        .compile("standard_descriptors");
    // Linux maps code in pieces of 64 KiB: functions that are not expected to run must not lie between the others.
    // rust-lld does it; GNU ld ignores the flag.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,keep-text-section-prefix");
}
