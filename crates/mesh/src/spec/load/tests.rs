//! Files of this system.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::super::memory::{Memory, with_keys};
use super::*;

const TEXT: &str =
    "[Interface]\nPrivateKey = <KEY>\nAddress = 10.0.0.1\nListenPort = 1\n[Peer]\nPublicKey = <PEER>\n";

fn on_disk(text: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wg0.conf");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    (dir, path)
}

fn load(path: &Path) -> Result<Spec, SpecError> {
    Spec::load(&Request { config: Some(path), ..Request::default() }, &Here)
}

#[test]
fn a_file_of_its_owner_is_read_whatever_its_beginning() {
    for text in [with_keys(TEXT), format!("\u{feff}{}", with_keys(TEXT))] {
        for mode in [0o600, 0o640] {
            let (_dir, path) = on_disk(text.as_bytes(), mode);
            assert_eq!(load(&path).unwrap().network.peers.len(), 1);
        }
    }
}

#[test]
fn a_secret_that_others_can_read_is_refused() {
    let (_dir, path) = on_disk(with_keys(TEXT).as_bytes(), 0o644);
    let error = load(&path).unwrap_err();
    let wanted = format!("{} has a secret in it and can be read by others (mode 0644)", path.display());
    assert_eq!(error.to_string(), wanted);
    assert!(error.hint().unwrap().starts_with("chmod go-rw "));
    assert!(!error.is_malformed());
}

#[test]
fn a_file_without_a_secret_may_be_read_by_all() {
    let text = "private_key_file = \"key\"\naddresses = [\"10.0.0.1\"]\n";
    let memory = Memory::default().file("m.toml", text).open("m.toml").file("key", "<KEY>");
    assert!(memory.load("m.toml").is_ok());
    let message = memory.open("key").load("m.toml").unwrap_err().to_string();
    assert_eq!(message, "key has a secret in it and can be read by others (mode 0644)");
    let psk = format!("{text}[[peers]]\npublic_key = \"<PEER>\"\npreshared_key = \"<SHARED>\"\n");
    let memory = Memory::default().file("m.toml", &psk).open("m.toml").file("key", "<KEY>");
    assert!(matches!(memory.load("m.toml"), Err(SpecError::Readable { .. })));
}

#[test]
fn what_is_no_text_is_refused() {
    let cases: [(&[u8], &str); 3] = [
        (b"[Interface]\n\xff", ":2:1: a byte that is not UTF-8"),
        (b"[Interface]\nA\0", ":2:2: a NUL byte"),
        (b"\xff\xfe[\0", ":1:1: a byte order mark"),
    ];
    for (text, message) in cases {
        let (_dir, path) = on_disk(text, 0o600);
        assert_eq!(load(&path).unwrap_err().to_string(), format!("{}{message}", path.display()));
    }
    let (_dir, path) = on_disk(&vec![b'#'; 1024 * 1024 + 1], 0o600);
    assert!(load(&path).unwrap_err().is_malformed());
    assert!(load(Path::new("/dev/zero")).unwrap_err().is_malformed());
}

/// Fails when: the time to read grows with the square of what is in a file.
#[test]
fn the_longest_file_is_read_in_time() {
    let many = |count: u32, line: &dyn Fn(u32) -> String| (0..count).map(line).collect::<String>();
    let blocks = many(40_000, &|n| format!("{},", std::net::Ipv4Addr::from(0x0a00_0000 + n)));
    let text = format!("{TEXT}AllowedIPs = {blocks}\n");
    let start = std::time::Instant::now();
    let memory = Memory::default().file("w.conf", &text);
    assert_eq!(memory.load("w.conf").unwrap().network.peers[0].allowed_ips.len(), 40_000);
    let rules = many(20_000, &|n| format!("\"tcp:{}:127.0.0.1:{}\",", n + 1, n + 1));
    let text = format!("private_key = \"<KEY>\"\naddresses = [\"10.0.0.1\"]\ningress = [{rules}]");
    let memory = Memory::default().file("m.toml", &text);
    assert_eq!(memory.load("m.toml").unwrap().rules.iter().count(), 20_000);
    assert!(start.elapsed() < std::time::Duration::from_secs(10), "{:?}", start.elapsed());
}
