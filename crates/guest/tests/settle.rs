//! The program's own file: checked, removed, and nothing else.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use sha2::{Digest as _, Sha256};

const GUEST: &str = env!("CARGO_BIN_EXE_portway-guest");

fn hash() -> String {
    let digest = Sha256::digest(fs::read(GUEST).expect("it is built"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A copy in a folder of its own, both with the name given.
fn copy(dir: &Path, name: &str) -> PathBuf {
    let folder = dir.join(name);
    fs::create_dir(&folder).expect("a folder can be made");
    let file = folder.join(name);
    fs::copy(GUEST, &file).expect("it can be copied");
    file
}

fn serve(program: &Path, hash: &str) -> Output {
    let mut command = Command::new(program);
    command.args(["serve", hash]).stdin(Stdio::null()).output().expect("it starts")
}

/// Fails when: a name stays, or one goes that is not the gateway's.
#[test]
fn only_a_name_of_the_gateways_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let ours = copy(dir.path(), ".portway-guest-1");
    assert!(serve(&ours, &hash()).status.success());
    assert!(!dir.path().join(".portway-guest-1").exists());
    let other = copy(dir.path(), "portway-guest");
    assert!(serve(&other, &hash()).status.success());
    assert!(other.exists());
    // A folder that holds something else stays.
    let ours = copy(dir.path(), ".portway-guest-2");
    fs::write(ours.with_file_name("theirs"), "").unwrap();
    assert!(serve(&ours, &hash()).status.success());
    assert!(!ours.exists() && ours.with_file_name("theirs").exists());
}

/// Fails when: a file that is not what was sent serves, or stays.
#[test]
fn a_damaged_file_does_not_serve() {
    let dir = tempfile::tempdir().unwrap();
    let ours = copy(dir.path(), ".portway-guest-1");
    let mut file = fs::OpenOptions::new().append(true).open(&ours).unwrap();
    file.write_all(b"x").unwrap();
    drop(file);
    let output = serve(&ours, &hash());
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(3), &b""[..]));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not what was sent"));
    assert!(!ours.exists());
}

#[test]
fn it_runs_from_memory_that_nobody_changes() {
    let mut command = Command::new(GUEST);
    let mut guest =
        command.arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut hello = [0; 47];
    guest.stdout.take().unwrap().read_exact(&mut hello).unwrap();
    assert_eq!(hello[15..].iter().map(|byte| format!("{byte:02x}")).collect::<String>(), hash());
    let own = PathBuf::from(format!("/proc/{}/exe", guest.id()));
    assert!(fs::read_link(&own).unwrap().starts_with("/memfd:portway-guest (deleted)"));
    let file = fs::File::open(&own).unwrap();
    let seals = rustix::fs::fcntl_get_seals(&file).unwrap();
    assert!(seals.contains(rustix::fs::SealFlags::WRITE | rustix::fs::SealFlags::SEAL));
    drop(guest.stdin.take());
    assert!(guest.wait().unwrap().success());
}

#[test]
fn anything_else_is_a_wrong_call() {
    let hash = hash();
    for args in [&[][..], &["serve", "a"], &["serve", &hash, "b"], &["serving", "zz"], &["--help"]] {
        let output = Command::new(GUEST).args(args).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}
