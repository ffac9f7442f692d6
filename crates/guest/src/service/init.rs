//! A program that is an init itself: it has to be the first process, and so takes the place of this one.
//!
//! What it says is on the console, and nothing tells how it ends.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use portway_proto::service::{LOGS, Spec};

/// Those that Incus, too, makes the first process of an application container, and systemd.
const INITS: [&[u8]; 6] = [
    b"/init",
    b"/sbin/init",
    b"/s6-init",
    b"/usr/bin/init",
    b"/lib/systemd/systemd",
    b"/usr/lib/systemd/systemd",
];

/// Whether a program has to be the first process.
pub(super) fn is_one(program: &[u8]) -> bool {
    INITS.contains(&program)
}

/// Becomes it. Returns only when that cannot be, and says why.
pub(super) fn become_it(dir: &Path, spec: &Spec) -> String {
    let (who, env) = match super::surroundings(spec) {
        Ok(found) => found,
        Err(why) => return why,
    };
    // Where there is a log nobody looks for a console.
    for name in LOGS {
        let _none = fs::remove_file(dir.join(name));
    }
    let text = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
    let cwd = if spec.cwd.is_empty() { text(b"/") } else { text(&spec.cwd) };
    let _there = fs::create_dir_all(&cwd);
    let mut command = Command::new(text(&spec.args[0]));
    command.args(spec.args[1..].iter().map(|word| text(word))).current_dir(&cwd).env_clear();
    let pairs = env.iter().filter_map(|entry| {
        let at = entry.as_bytes().iter().position(|byte| *byte == b'=')?;
        Some((text(&entry.as_bytes()[..at]), text(&entry.as_bytes()[at + 1..])))
    });
    command.envs(pairs);
    if who.uid != 0 {
        command.uid(who.uid).gid(who.gid);
    }
    // Signals that are held back for this process go with it: a program begins with none held back.
    format!("{}: {}", String::from_utf8_lossy(&spec.args[0]), command.exec())
}
