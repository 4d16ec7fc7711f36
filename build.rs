//! Compiles the C file that runs before Rust's runtime, and says how to link the programs.

use std::path::Path;
use std::process::{Command, Output};
use std::{env, fs, io};

fn main() {
    let source = "src/standard_descriptors.c";
    println!("cargo::rerun-if-changed={source}");
    // No Rust code calls it: without this the linker would leave it out.
    cc::Build::new()
        .file(source)
        .link_lib_modifier("+whole-archive")
        .compile("standard_descriptors");
    // Linux maps code in pieces of 64 KiB: functions that are not expected to run must not lie between the others.
    // LLD does it; GNU ld ignores the flag.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,keep-text-section-prefix");
    if variable("PROFILE") == "release" && is_rusts_lld_used() {
        put_used_functions_together();
        link_unwinder();
        pack_relocations();
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

/// Whether the compiler links with the LLD that comes with it, as on x86-64 by default since Rust 1.90. GNU ld takes many
/// minutes for the script, and others may not know it.
fn is_rusts_lld_used() -> bool {
    println!("cargo::rerun-if-env-changed=CARGO_ENCODED_RUSTFLAGS");
    let flags = variable("CARGO_ENCODED_RUSTFLAGS");
    // A linker that the user has chosen may replace it without a trace.
    if flags.contains("linker=") || !variable("RUSTC_LINKER").is_empty() {
        return false;
    }
    link_empty_program(&["--print", "link-args"]).is_ok_and(|linked| {
        let arguments = String::from_utf8_lossy(&linked.stdout);
        // The last one counts: the user may have added another.
        let last = arguments.rsplit_once("-fuse-ld=");
        last.is_some_and(|(_, linker)| linker.starts_with("lld\"")) && arguments.contains("gcc-ld")
    })
}

/// Compiles `OUT_DIR/empty` with the user's flags and `arguments`.
fn link_empty_program(arguments: &[&str]) -> io::Result<Output> {
    let directory = variable("OUT_DIR");
    let source = format!("{directory}/empty.rs");
    fs::write(&source, "fn main() {}")?;
    let flags = variable("CARGO_ENCODED_RUSTFLAGS");
    Command::new(variable("RUSTC"))
        .args([&source, "--target", &variable("TARGET")])
        .args(flags.split('\x1f').filter(|flag| !flag.is_empty()))
        .args(arguments)
        .args(["--out-dir", &directory])
        .output()
}

/// Lets the linker write down in 2 KB instead of 180 where addresses have to be adjusted at the start (`DT_RELR`), if this
/// machine's C library understands it: glibc does since 2.36, which the programs then need.
fn pack_relocations() {
    if variable("HOST") != variable("TARGET") {
        return;
    }
    let argument = "-Wl,-z,pack-relative-relocs";
    let linked = link_empty_program(&["-C", &format!("link-arg={argument}")]);
    if linked.is_ok_and(|linked| linked.status.success()) {
        let started = Command::new(format!("{}/empty", variable("OUT_DIR"))).status();
        if started.is_ok_and(|status| status.success()) {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
}

/// And those of usual runs must not lie between those of other ones.
fn put_used_functions_together() {
    let mangling = "symbol-mangling-version";
    if !variable("CARGO_ENCODED_RUSTFLAGS").contains(mangling) {
        // RUSTFLAGS, for example, replaces those of .cargo/config.toml.
        println!(
            "cargo::warning=the programs take 0.5 MB more memory than they need: the compiler's flags lack -C {mangling}=v0"
        );
    }
    let script = "scripts/used-functions.ld";
    println!("cargo::rerun-if-changed={script}");
    let file = format!("{}/{script}", variable("CARGO_MANIFEST_DIR"));
    for argument in ["-Xlinker", "-T", "-Xlinker", &file] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}

/// Takes the functions that a panic message's backtrace needs from GCC's static library, if there is one: to load the shared
/// one takes each start 0.1 ms. Because of the library of GCC 12 the programs need glibc 2.35.
fn link_unwinder() {
    let library = "libgcc_eh.a";
    let mut compiler = cc::Build::new().get_compiler().to_command();
    let answer = compiler.arg(format!("-print-file-name={library}")).output();
    let Ok(answer) = answer else { return };
    let text = String::from_utf8_lossy(&answer.stdout);
    let file = Path::new(text.trim());
    // The compiler repeats the name if it knows no such file.
    if let Some(directory) = file.parent().filter(|_| file.is_absolute()) {
        println!("cargo::rustc-link-search=native={}", directory.display());
        println!("cargo::rustc-link-lib=static=gcc_eh");
    }
}
