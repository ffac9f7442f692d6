//! Clients that are programs: OpenSSH of two ages, dropbear, PuTTY.

use std::path::PathBuf;
use std::process::Command;

use portway_testkit::{Image, client};

use crate::scene::Scene;
use crate::{run, scene_of};

/// What every one of them is asked to do: bytes as they are, both outputs, an end of input, a status.
fn is_served(scene: &Scene, who: &str, command: impl Fn(&str) -> Command) {
    let text = run(scene, &mut command(r#"printf "a\nb\tc""#));
    assert_eq!(text, "a\nb\tc", "{who}");
    let lines = "cat <<'X'\none 'two' \"three\" $HOME\n\nX\necho \"$#\"";
    assert_eq!(run(scene, &mut command(lines)), "one 'two' \"three\" $HOME\n\n0\n", "{who}");
    let input: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let output = scene.talk(&mut command("cat; echo over >&2; exit 42"), &input).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(42), "{who}: {said} {}", scene.log());
    assert!(output.stdout == input && said.ends_with("over\n"), "{who}: {} {said}", output.stdout.len());
}

/// Fails when OpenSSH's newer client does not agree on the key exchange that outlives quantum computers, or is served
/// otherwise than the older one.
#[test]
fn openssh_is_served() {
    let Some(scene) = scene_of(Image::Busybox, "openssh") else { return };
    let at = Scene::at(scene.container.name());
    let newer = |words: &str| {
        let mut command = client("ssh");
        command.args(scene.options("key")).args(["-p", &scene.port.to_string(), &at, words]);
        command
    };
    is_served(&scene, "OpenSSH 10", newer);
    is_served(&scene, "OpenSSH of this machine", |words| {
        let mut command = scene.client(&[]);
        command.args([&at, words]);
        command
    });
    // The first word about what is logged counts.
    let mut verbose = client("ssh");
    verbose.arg("-v").args(scene.options("key")).args(["-p", &scene.port.to_string(), &at, "true"]);
    let output = scene.talk(&mut verbose, b"").unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("kex: algorithm: mlkem768x25519-sha256"), "{said}");
}

/// Fails when a small client that knows little is not understood.
#[test]
fn dropbear_is_served() {
    let Some(scene) = scene_of(Image::Busybox, "dropbear") else { return };
    let key = scene.path("key.dropbear");
    run(&scene, client("dropbearconvert").args(["openssh", "dropbear"]).arg(scene.path("key")).arg(&key));
    is_served(&scene, "dropbear", |words| {
        let mut command = client("dbclient");
        command.env("HOME", scene.path(".")).args(["-y", "-i"]).arg(&key);
        command.args(["-p", &scene.port.to_string(), "-l", scene.container.name(), "127.0.0.1", words]);
        command
    });
}

/// PuTTY asks for what no standard knows (`winadj`, `simple`) and waits for an answer.
///
/// Fails when it gets none.
#[test]
fn putty_is_served() {
    let Some(scene) = scene_of(Image::Busybox, "putty") else { return };
    let (key, print) = (putty_key(&scene), host_key_print(&scene));
    is_served(&scene, "plink", |words| {
        let mut command = client("plink");
        command.env("HOME", scene.path(".")).args(["-ssh", "-batch", "-hostkey", &print, "-i"]).arg(&key);
        command.args(["-P", &scene.port.to_string(), "-l", scene.container.name(), "127.0.0.1", words]);
        command
    });
}

/// The key as PuTTY wants it.
pub(crate) fn putty_key(scene: &Scene) -> PathBuf {
    let key = scene.path("key.ppk");
    std::fs::write(scene.path("none"), "").unwrap();
    let mut convert = client("puttygen");
    convert.arg(scene.path("key")).args(["-O", "private", "--new-passphrase"]).arg(scene.path("none"));
    run(scene, convert.arg("-o").arg(&key));
    key
}

/// What PuTTY is told of the gateway's key.
pub(crate) fn host_key_print(scene: &Scene) -> String {
    let mut scan = client("ssh-keyscan");
    let scanned = run(scene, scan.args(["-t", "ed25519", "-p", &scene.port.to_string(), "127.0.0.1"]));
    let line = scanned.lines().find(|line| line.contains("ssh-ed25519")).unwrap();
    std::fs::write(scene.path("scanned"), line).unwrap();
    let print = run(scene, client("ssh-keygen").arg("-lf").arg(scene.path("scanned")));
    print.split_whitespace().nth(1).unwrap().to_owned()
}
