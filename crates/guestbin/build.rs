//! Builds the guest program, static, for the architecture this build is for.
//!
//! A cargo of its own with a target folder of its own (`guest` in that of this build): it waits for no lock that is held
//! while build scripts run, and every profile of this build shares what it made. It takes musl where rustup or the
//! distribution has that target's library, and the C library of the machine, linked statically, where not.
//! `PORTWAY_GUEST_TARGET` decides otherwise.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Architectures that a guest program is built for.
const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];

/// Largest program, bytes. It is sent into an instance at need.
const MUSL_MAX_BYTES: u64 = 1_400_000;
/// The same with glibc, which brings half a megabyte of tables along.
const GLIBC_MAX_BYTES: u64 = 1_850_000;

fn main() -> Result<(), Box<dyn Error>> {
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    let source = out_dir.join("program.rs");
    let crates = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("..");
    for name in ["guest", "proto", "sys", "model"] {
        println!("cargo::rerun-if-changed={}", crates.join(name).join("src").display());
        println!("cargo::rerun-if-changed={}", crates.join(name).join("Cargo.toml").display());
    }
    println!("cargo::rerun-if-changed={}", crates.join("../Cargo.toml").display());
    println!("cargo::rerun-if-changed={}", crates.join("../Cargo.lock").display());
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=PORTWAY_GUEST_TARGET");

    let architecture = env::var("CARGO_CFG_TARGET_ARCH")?;
    if !ARCHITECTURES.contains(&architecture.as_str()) {
        // The gateway says so to who needs it; everything else works.
        fs::write(source, "const PROGRAM: Option<(&str, &[u8])> = None;\n")?;
        return Ok(());
    }
    let target = choose_target(&architecture)?;
    let program = build(&target, &target_dir(&out_dir)?, &crates)?;
    check(&program, &target)?;
    let copy = out_dir.join("portway-guest");
    fs::copy(&program, &copy)?;
    let text = format!(
        "const PROGRAM: Option<(&str, &[u8])> = Some(({architecture:?}, include_bytes!({copy:?})));\n"
    );
    fs::write(source, text)?;
    Ok(())
}

/// The target with musl when its library is there, else that of this build.
fn choose_target(architecture: &str) -> Result<String, Box<dyn Error>> {
    if let Ok(target) = env::var("PORTWAY_GUEST_TARGET") {
        return Ok(target);
    }
    let musl = format!("{architecture}-unknown-linux-musl");
    let mut rustc = Command::new(env::var("RUSTC")?);
    let output = rustc.args(["--print", "target-libdir", "--target", &musl]).output()?;
    let library = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    let installed = fs::read_dir(library).is_ok_and(|mut files| files.next().is_some());
    if installed { Ok(musl) } else { Ok(env::var("TARGET")?) }
}

/// `guest` in the target folder of this build: beside the folders of its profiles, or of its target.
fn target_dir(out_dir: &Path) -> Result<PathBuf, Box<dyn Error>> {
    // TARGET_DIR/[TRIPLE/]PROFILE/build/PACKAGE-HASH/out
    let dir = out_dir.ancestors().nth(4).ok_or("OUT_DIR is not where cargo puts it")?;
    Ok(dir.join("guest"))
}

fn build(target: &str, dir: &Path, crates: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let mut cargo = Command::new(env::var("CARGO")?);
    cargo.args(["build", "--quiet", "--locked", "--profile", "guest", "--package", "portway-guest"]);
    cargo.args(["--target", target, "--target-dir"]).arg(dir).current_dir(crates);
    // What is meant for this build is not meant for that one: flags, wrappers (clippy's is no compiler), features.
    for name in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_BUILD_TARGET",
        "CARGO_TARGET_DIR",
    ] {
        cargo.env_remove(name);
    }
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_CFG_")
            || text.starts_with("CARGO_FEATURE_")
            || text.starts_with("CARGO_PROFILE_")
        {
            cargo.env_remove(name);
        }
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags(crates)?);
    let status = cargo.status()?;
    if !status.success() {
        return Err(format!("the guest program could not be built for {target}: {status}").into());
    }
    Ok(dir.join(target).join("guest/portway-guest"))
}

/// Static, and without a path of this machine in it: the same tree gives the same program everywhere.
fn flags(crates: &Path) -> Result<String, Box<dyn Error>> {
    let root = crates.join("..").canonicalize()?;
    let home = match env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo"),
    };
    let plain = |path: &Path, to: &str| format!("--remap-path-prefix={}={to}", path.display());
    let flags = ["-Ctarget-feature=+crt-static".to_owned(), plain(&root, "/portway"), plain(&home, "/cargo")];
    Ok(flags.join("\u{1f}"))
}

/// A program that needs a loader would not start in an instance without that one.
fn check(program: &Path, target: &str) -> Result<(), Box<dyn Error>> {
    let bytes = fs::read(program)?;
    if has_interpreter(&bytes).ok_or("the guest program is no 64-bit ELF file")? {
        return Err(format!("the guest program for {target} is not static").into());
    }
    let most = if target.ends_with("-musl") { MUSL_MAX_BYTES } else { GLIBC_MAX_BYTES };
    let size = u64::try_from(bytes.len())?;
    if size > most {
        return Err(format!("the guest program for {target} has {size} bytes, more than {most}").into());
    }
    Ok(())
}

/// Whether an ELF file (64 bits, little endian) has a PT_INTERP entry; `None` when it is none.
fn has_interpreter(file: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    if file.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let half = |at: usize| Some(u16::from_le_bytes(*file.get(at..)?.first_chunk()?));
    let first = usize::try_from(u64::from_le_bytes(*file.get(32..)?.first_chunk()?)).ok()?;
    let (size, count) = (usize::from(half(54)?), usize::from(half(56)?));
    for number in 0..count {
        let entry = file.get(first.checked_add(number * size)?..)?;
        if u32::from_le_bytes(*entry.first_chunk()?) == PT_INTERP {
            return Some(true);
        }
    }
    Some(false)
}
