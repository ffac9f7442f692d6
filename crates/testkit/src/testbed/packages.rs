//! The programs a bed needs, and how they get onto the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::say;
use super::sources::{self, SourceFile};
use crate::run;

/// A program and the Debian package it comes in.
const PROGRAMS: [(&str, &str); 13] = [
    ("incus", "incus-client"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("dnsmasq", "dnsmasq-base"),
    ("busybox", "busybox-static"),
    ("newuidmap", "uidmap"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("setsid", "util-linux"),
    ("tar", "tar"),
    ("gzip", "gzip"),
    ("cc", "gcc"),
    ("debootstrap", "debootstrap"),
];

/// Where packages put the Incus daemon: Debian and Ubuntu, then others.
const INCUSD: [&str; 4] =
    ["/usr/libexec/incus/incusd", "/usr/bin/incusd", "/usr/sbin/incusd", "/opt/incus/bin/incusd"];

/// `PATH` for what we start; a CI shell may lack the sbin folders.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The Incus daemon's program.
pub(super) fn incusd() -> Option<PathBuf> {
    INCUSD.iter().map(PathBuf::from).find(|path| path.is_file())
}

/// The statically linked busybox.
pub(super) fn busybox() -> Option<PathBuf> {
    find("busybox").filter(|path| is_static(path))
}

/// Installs what is missing.
pub(super) fn install() -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    if find("apt-get").is_none() {
        bail!("these Debian packages, or what they hold, are missing: {}", missing.join(" "));
    }
    say(&format!("installing {}", missing.join(" ")));
    // A third party's broken entry must not stop us: what matters is whether the install works.
    let updated = apt(&["update", "-q"]);
    if missing.contains(&"incus-base") && !has_candidate("incus-base") {
        add_backports()?;
        apt(&["update", "-q"])?;
    }
    let policy = NoServices::forbid()?;
    let mut args = vec!["install", "-y", "-q", "--no-install-recommends"];
    args.extend(&missing);
    let installed = apt(&args);
    drop(policy);
    match (installed, updated) {
        (Ok(()), _) => {}
        (Err(error), Ok(())) => return Err(error),
        (Err(error), Err(update)) => return Err(error.context(format!("{update:#}"))),
    }
    let still = self::missing();
    if !still.is_empty() {
        bail!("still missing after the installation: {}", still.join(" "));
    }
    Ok(())
}

/// Packages whose program is not there.
fn missing() -> Vec<&'static str> {
    let mut missing = Vec::new();
    if incusd().is_none() {
        missing.push("incus-base");
    }
    for (program, package) in PROGRAMS {
        let there = match program {
            "busybox" => busybox().is_some(),
            _ => find(program).is_some(),
        };
        if !there && !missing.contains(&package) {
            missing.push(package);
        }
    }
    if !has_static_libc() {
        missing.push("libc6-dev");
    }
    missing
}

/// Whether programs can be linked statically: the C library's archive is where `cc` looks.
fn has_static_libc() -> bool {
    let dirs = [
        format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH),
        "/usr/lib".to_owned(),
        "/usr/lib64".to_owned(),
    ];
    dirs.iter().any(|dir| Path::new(dir).join("libc.a").is_file())
}

fn find(program: &str) -> Option<PathBuf> {
    PATH.split(':').map(|dir| Path::new(dir).join(program)).find(|path| path.is_file())
}

/// Whether an ELF file has no interpreter: its program headers lie in the first kilobyte and the
/// loader's name follows them, so a dynamic program shows it there.
fn is_static(path: &Path) -> bool {
    let Ok(image) = fs::read(path) else { return false };
    let head = &image[..image.len().min(4096)];
    image.starts_with(b"\x7fELF")
        && !head.windows(8).any(|bytes| bytes == b"ld-linux" || bytes == b"/ld-musl")
}

fn has_candidate(package: &str) -> bool {
    let shown = Command::new("apt-cache").env("LC_ALL", "C").args(["policy", package]).output();
    shown.is_ok_and(|out| {
        let text = String::from_utf8_lossy(&out.stdout);
        text.lines().any(|line| line.trim().starts_with("Candidate: ") && !line.contains("(none)"))
    })
}

/// What this machine's release is called.
fn codename() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let name = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let name = name.map(|name| name.trim_matches('"').to_owned()).filter(|name| !name.is_empty());
    name.context("/etc/os-release has no VERSION_CODENAME")
}

/// The mirror this machine takes its packages from.
pub(super) fn mirror() -> Result<String> {
    let codename = codename()?;
    sources::mirror(&source_files()?, &codename)
        .with_context(|| format!("no apt entry for {codename} to take the mirror from"))
}

/// An apt entry for another release from the mirror the machine uses.
pub(super) fn entry_of(suite: &str) -> Result<sources::Addition> {
    let codename = codename()?;
    sources::derive(&source_files()?, &codename, suite)
        .with_context(|| format!("no apt entry for {codename} to take the mirror from"))
}

/// Makes the backports of this release known, from the mirror the machine uses.
fn add_backports() -> Result<()> {
    let codename = codename()?;
    let suite = format!("{codename}-backports");
    let files = source_files()?;
    if sources::knows(&files, &suite) {
        return Ok(());
    }
    let addition = sources::derive(&files, &codename, &suite)
        .with_context(|| format!("no apt entry for {codename} to take the mirror from"))?;
    let path = format!("/etc/apt/sources.list.d/portway-testbed.{}", addition.ending);
    say(&format!("adding {suite} in {path}"));
    fs::write(&path, addition.text).with_context(|| format!("cannot write {path}"))
}

fn source_files() -> Result<Vec<SourceFile>> {
    let mut paths = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(dir) = fs::read_dir("/etc/apt/sources.list.d") {
        for entry in dir {
            paths.push(entry.context("cannot list /etc/apt/sources.list.d")?.path());
        }
    }
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        let is_deb822 = match path.extension().and_then(|ending| ending.to_str()) {
            Some("sources") => true,
            Some("list") => false,
            _ => continue,
        };
        // The old single file is absent on new installations.
        if let Ok(text) = fs::read_to_string(&path) {
            files.push(SourceFile { is_deb822, text });
        }
    }
    Ok(files)
}

fn apt(args: &[&str]) -> Result<()> {
    // Another apt may be at work on a machine that has just started.
    let mut command = Command::new("apt-get");
    command.args(["-o", "DPkg::Lock::Timeout=300"]).args(args);
    command.env("DEBIAN_FRONTEND", "noninteractive").env("PATH", PATH).stdin(Stdio::null());
    run(&mut command).map(|_| ())
}

/// While it lives, installed packages start no services: `policy-rc.d` exits with 101, "action
/// forbidden" (Debian policy, 9.3.3.1). A policy that is there is left alone.
#[derive(Debug)]
pub struct NoServices {
    ours: bool,
}

impl NoServices {
    const PATH: &str = "/usr/sbin/policy-rc.d";

    /// From here on.
    ///
    /// # Errors
    /// When the policy cannot be written.
    pub fn forbid() -> Result<Self> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(Self::PATH);
        let Ok(mut file) = file else { return Ok(Self { ours: false }) };
        file.write_all(b"#!/bin/sh\nexit 101\n").context("cannot write policy-rc.d")?;
        Ok(Self { ours: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            // Left behind it would keep services down for ever; there is nobody to tell, though.
            let _ = fs::remove_file(Self::PATH);
        }
    }
}
