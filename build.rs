//! Compiles the C file that runs before Rust's runtime, and says how to link a release.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    let source = "src/standard_descriptors.c";
    println!("cargo::rerun-if-changed={source}");
    // No Rust code calls it: without this the linker would leave it out.
    cc::Build::new()
        .file(source)
        .link_lib_modifier("+whole-archive")
        .compile("standard_descriptors");
    if variable("PROFILE") == "release" && uses_rust_lld() {
        put_used_functions_together();
        link_unwinder();
    }
}

/// Whether the linker is the one that comes with Rust, as it is by default on x86-64 since Rust 1.90. GNU ld takes many
/// minutes for the script, others may not know it.
fn uses_rust_lld() -> bool {
    println!("cargo::rerun-if-env-changed=CARGO_ENCODED_RUSTFLAGS");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let flags = variable("CARGO_ENCODED_RUSTFLAGS");
    let is_chosen = ["-fuse-ld", "linker", "sanitizer"];
    if variable("TARGET") != "x86_64-unknown-linux-gnu"
        || !variable("RUSTC_LINKER").is_empty()
        || is_chosen.iter().any(|flag| flags.contains(flag))
    {
        return false;
    }
    let ask = |question: &[&str]| {
        let answer = Command::new(variable("RUSTC")).args(question).output();
        answer.map_or(String::new(), |answer| {
            String::from_utf8_lossy(&answer.stdout).trim().to_owned()
        })
    };
    let sysroot = ask(&["--print", "sysroot"]);
    let wrapper = format!(
        "{sysroot}/lib/rustlib/{}/bin/gcc-ld/ld.lld",
        variable("HOST")
    );
    // A distribution's compiler may have another default.
    if sysroot == "/usr" {
        return false;
    }
    let version = ask(&["--version"]);
    let minor = version.split('.').nth(1).and_then(|n| n.parse().ok());
    Path::new(&wrapper).exists() && minor.is_some_and(|minor: u32| minor >= 90)
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

/// Linux maps code in pieces of 64 KiB: functions that are not used must not lie between the others.
fn put_used_functions_together() {
    let script = "scripts/used-functions.ld";
    println!("cargo::rerun-if-changed={script}");
    let directory = variable("CARGO_MANIFEST_DIR");
    println!("cargo::rustc-link-arg-bins=-Wl,-T,{directory}/{script}");
    // And functions that are not expected to run.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,keep-text-section-prefix");
}

/// Takes the functions that a panic message's backtrace needs from GCC's static library, if there is one: to load the shared
/// one takes each start 0.1 ms.
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
