//! Who gets in: users of the host by key, certificate, password and code, users of the instance where they may, and
//! what keys and policy leave of it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use portway_testkit::{Server, run, wait_for};

use crate::scene::Scene;

/// Hash of `correct horse`, SHA-512.
pub(crate) const EVE_HASH: &str =
    "$6$saltsalt$hRM5XZ86KXEw9UOmjigeVqFgULtFB2sgpC9lXQDfMib3Zgw7mEiUvBJI2EplzfAqxL5Vvwp2scFtv/uamSo5z0";

/// Ids that nobody has.
const ANN: u32 = 61_001;
const EVE: u32 = 61_002;

/// The gateway of `scene` has two users more: ann, who is in the group incus, and eve, who is not. Both have `key`.
pub(crate) fn people(scene: &Scene) -> Result<()> {
    let mut passwd = fs::read_to_string(scene.path("etc/passwd"))?;
    let mut shadow = "root:*:20000:0:99999:7:::\n".to_owned();
    for (name, uid) in [("ann", ANN), ("eve", EVE)] {
        let home = scene.path(name);
        fs::create_dir_all(home.join(".ssh"))?;
        passwd += &format!("{name}:x:{uid}:{uid}::{}:/bin/sh\n", home.display());
        shadow += &format!("{name}:{EVE_HASH}:20000:0:99999:7:::\n");
        let keys = home.join(".ssh/authorized_keys");
        fs::copy(scene.path("key.pub"), &keys)?;
        for path in [&home, &home.join(".ssh"), &keys] {
            chown(path, Some(uid), Some(uid))?;
        }
        fs::set_permissions(&home, fs::Permissions::from_mode(0o700))?;
    }
    let write = |name: &str, text: &str, mode| {
        fs::write(scene.path(name), text)?;
        fs::set_permissions(scene.path(name), fs::Permissions::from_mode(mode))
    };
    write("etc/passwd", &passwd, 0o644)?;
    write("etc/group", &format!("root:x:0:\nincus:x:61100:ann\nann:x:{ANN}:\neve:x:{EVE}:\n"), 0o644)?;
    write("etc/shadow", &shadow, 0o600)?;
    Ok(())
}

/// Starts the gateway of `scene` anew, with these flags and these files beside its settings.
pub(crate) fn again(scene: &mut Scene, flags: &[&'static str], files: &[(&str, &str)]) -> Result<()> {
    for (name, text) in files {
        fs::write(scene.path("p").join(name), text)?;
    }
    scene.arguments = flags.iter().map(|&flag| flag.to_owned()).collect();
    scene.stop(Signal::SIGTERM)?;
    scene.launch()
}

/// A client from an address that nobody has failed from before, with this to type where it is asked.
pub(crate) fn client(scene: &Scene, key: &str, typed: Option<&str>, options: &[&str]) -> Result<Command> {
    static SOURCES: AtomicU8 = AtomicU8::new(1);
    let source = format!("127.7.0.{}", SOURCES.fetch_add(1, Ordering::Relaxed));
    let mut client = scene.client_with(key, &["-b", &source]);
    if let Some(typed) = typed {
        let program = scene.path("askpass");
        fs::write(&program, format!("#!/bin/sh\necho '{typed}'\n"))?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700))?;
        // Of an option that stands there twice the first counts.
        let asked = scene.options(key).into_iter().map(|word| word.replace("BatchMode=yes", "BatchMode=no"));
        client = Command::new("ssh");
        client.args(asked).args(["-b", &source, "-p", &scene.port.to_string()]);
        client.args(["-o", "NumberOfPasswordPrompts=1"]);
        client.env("SSH_ASKPASS", &program).env("SSH_ASKPASS_REQUIRE", "force");
    }
    client.args(options);
    Ok(client)
}

pub(crate) fn talk(scene: &Scene, client: &mut Command, login: &str, words: &str) -> Result<Output> {
    scene.talk(client.args(["-l", login, "127.0.0.1", words]), b"")
}

/// Whether somebody gets in. Whoever does not is told no more than that.
pub(crate) fn enters(
    scene: &Scene,
    login: &str,
    key: &str,
    typed: Option<&str>,
    options: &[&str],
) -> Result<bool> {
    let output = talk(scene, &mut client(scene, key, typed, options)?, login, "echo in")?;
    let error = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        ensure!(output.stdout == b"in\n", "{output:?}");
        return Ok(true);
    }
    ensure!(output.status.code() == Some(255) && error.contains("Permission denied ("), "{login}: {error}");
    Ok(false)
}

/// Writes root's keys: these options before the key.
fn options_of_key(scene: &Scene, options: &str) -> Result<()> {
    let key = fs::read_to_string(scene.path("key.pub"))?;
    fs::write(scene.path("home/.ssh/authorized_keys"), format!("{options} {key}"))?;
    Ok(())
}

/// Why the last one was refused, once it stands in the log for the `count`th time.
pub(crate) fn last_reason(scene: &Scene, count: usize) -> Result<String> {
    let refused = || {
        let lines = scene.audit().ok()?;
        let lines: Vec<_> = lines.into_iter().filter(|line| line["event"] == "refused").collect();
        lines.get(count - 1).cloned()
    };
    let line = wait_for("the refusal", refused)?;
    Ok(line["reason"].as_str().context("a reason")?.to_owned())
}

/// Fails when: a user of the host outside the groups comes in, one within does not, or the name service is not asked.
#[test]
fn users_of_the_host_come_in_by_their_groups() {
    let Some(mut scene) = Scene::start(Server::Incus6, "groups").unwrap() else { return };
    people(&scene).unwrap();
    again(&mut scene, &[], &[]).unwrap();
    let c1 = scene.container.name().to_owned();
    assert!(enters(&scene, &format!("{c1}+ann"), "key", None, &[]).unwrap(), "{}", scene.log());
    let login =
        wait_for("the login", || scene.audit().ok()?.into_iter().find(|line| line["event"] == "login"));
    let login = login.unwrap();
    assert_eq!((login["person"].as_str(), login["proof"].as_str()), (Some("ann"), Some("publickey")));
    for (count, (user, reason)) in
        [("eve", "in none of the groups"), ("nobody-there", "no host user")].into_iter().enumerate()
    {
        assert!(!enters(&scene, &format!("{c1}+{user}"), "key", None, &[]).unwrap());
        assert!(last_reason(&scene, count + 1).unwrap().contains(reason), "{}", scene.log());
    }
    // Keys of the system, which are its users' too.
    fs::create_dir_all(scene.path("etc/ssh/authorized_keys.d")).unwrap();
    fs::copy(scene.path("other.pub"), scene.path("etc/ssh/authorized_keys.d/ann")).unwrap();
    again(&mut scene, &[], &[]).unwrap();
    assert!(enters(&scene, &format!("{c1}+ann"), "other", None, &[]).unwrap(), "{}", scene.log());
    // And what a program says, which is not root.
    let key = fs::read_to_string(scene.path("other.pub")).unwrap();
    let program = scene.path("etc/ssh/keys");
    file(&program, &format!("#!/bin/sh\n[ $(id -u) = 0 ] || [ $1 != root ] || echo '{}'\n", key.trim()))
        .unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(!enters(&scene, &c1, "other", None, &[]).unwrap());
    let auth = "authorized_keys_command = \"/etc/ssh/keys %u\"\nauthorized_keys_command_user = \"nobody\"\n";
    again(&mut scene, &[], &[("ssh-auth.toml", auth)]).unwrap();
    assert!(enters(&scene, &c1, "other", None, &[]).unwrap(), "{}", scene.log());
    assert!(!enters(&scene, &format!("{c1}+eve"), "other", None, &[]).unwrap());
}

/// Fails when: an option of a key is passed by, or a key with one that cannot be honoured comes in.
#[test]
fn options_of_keys_are_honoured() {
    let Some(scene) = Scene::start(Server::Incus6, "options").unwrap() else { return };
    let c1 = scene.container.name().to_owned();
    let cases = [
        ("from=\"127.0.0.0/8\"", true),
        ("from=\"10.0.0.0/8\"", false),
        ("from=\"*,!127.7.*\"", false),
        ("expiry-time=\"20200101\"", false),
        ("expiry-time=\"20990101Z\"", true),
        ("restrict", true),
        ("no-such-option", false),
        ("verify-required", false),
        ("cert-authority", false),
        ("command=\"x", false),
        ("no-port-forwarding,no-agent-forwarding,permitopen=\"127.0.0.1:80\"", true),
    ];
    for (options, expected) in cases {
        options_of_key(&scene, options).unwrap();
        assert_eq!(enters(&scene, &c1, "key", None, &[]).unwrap(), expected, "{options} {}", scene.log());
    }
    options_of_key(&scene, "restrict,command=\"echo forced $SSH_ORIGINAL_COMMAND; tty\"").unwrap();
    for options in [&[][..], &["-tt"]] {
        let output =
            talk(&scene, &mut client(&scene, "key", None, options).unwrap(), &c1, "rm -rf /").unwrap();
        let text = String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n");
        assert!(text.starts_with("forced rm -rf /\nnot a tty\n"), "{text} {}", scene.log());
    }
}

/// Signs `key` of the scene as certificate by the authority `ca`.
fn sign(scene: &Scene, words: &[&str]) -> Result<()> {
    run(Command::new("ssh-keygen")
        .args(["-q", "-s"])
        .arg(scene.path("ca"))
        .args(words)
        .arg(scene.path("key.pub")))?;
    Ok(())
}

/// Fails when: a certificate counts that is for another, out of its time, of another authority, revoked, or whose
/// options are not honoured.
#[test]
fn certificates_of_an_authority() {
    let Some(mut scene) = Scene::start(Server::Incus6, "certs").unwrap() else { return };
    people(&scene).unwrap();
    let c1 = scene.container.name().to_owned();
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(scene.path("ca")))
        .unwrap();
    let ca = fs::read_to_string(scene.path("ca.pub")).unwrap();
    let keys = scene.path("home/.ssh/authorized_keys");
    fs::write(&keys, format!("cert-authority,principals=\"ops,dev\" {ca}")).unwrap();
    let cases: [(&[&str], bool); 6] = [
        (&["-I", "a", "-n", "dev", "-z", "7"], true),
        (&["-I", "a", "-n", "root"], false),
        (&["-I", "a"], false),
        (&["-I", "a", "-n", "ops", "-V", "20200101:20200102"], false),
        (&["-I", "a", "-n", "ops", "-O", "source-address=10.0.0.0/8"], false),
        (&["-I", "a", "-n", "ops", "-h"], false),
    ];
    for (words, expected) in cases {
        sign(&scene, words).unwrap();
        let entered = enters(&scene, &c1, "key", None, &[]).unwrap();
        assert_eq!(entered, expected, "{words:?} {}", scene.log());
    }
    sign(&scene, &["-I", "a", "-n", "ops", "-O", "force-command=echo forced"]).unwrap();
    let output = talk(&scene, &mut client(&scene, "key", None, &[]).unwrap(), &c1, "echo in").unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "forced\n");
    // An authority for everybody, by the name of the user.
    fs::write(&keys, "").unwrap();
    let auth = "trusted_user_ca_keys = \"/etc/ssh/ca\"\nrevoked_keys = \"/etc/ssh/krl\"\n";
    fs::create_dir_all(scene.path("etc/ssh")).unwrap();
    file(&scene.path("etc/ssh/ca"), &ca).unwrap();
    file(&scene.path("ann/.ssh/authorized_keys"), "").unwrap();
    sign(&scene, &["-I", "b", "-n", "ann", "-z", "8"]).unwrap();
    // A list that is not there revokes everything.
    again(&mut scene, &[], &[("ssh-auth.toml", auth)]).unwrap();
    let ann = format!("{c1}+ann");
    assert!(!enters(&scene, &ann, "key", None, &[]).unwrap());
    let revoke = |serial: &str| {
        fs::write(scene.path("spec"), format!("serial: {serial}\n")).unwrap();
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-k", "-f"]).arg(scene.path("etc/ssh/krl")).arg("-s").arg(scene.path("ca.pub"));
        run(command.arg(scene.path("spec"))).unwrap();
    };
    revoke("7");
    assert!(enters(&scene, &ann, "key", None, &[]).unwrap(), "{}", scene.log());
    assert!(!enters(&scene, &c1, "key", None, &[]).unwrap(), "root is no principal of it");
    revoke("8");
    assert!(!enters(&scene, &ann, "key", None, &[]).unwrap(), "revoked");
    assert!(!enters(&scene, &format!("{c1}+eve"), "key", None, &[]).unwrap());
}

fn file(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}

/// Fails when: the policy is not asked, or not again once it has changed.
#[test]
fn the_policy_decides_for_each_program() {
    let Some(mut scene) = Scene::start(Server::Incus6, "policy").unwrap() else { return };
    people(&scene).unwrap();
    let c1 = scene.container.name().to_owned();
    let rule = |instances: &str, allow: &str| {
        format!("[[rule]]\nusers = [\"ann\"]\ninstances = [\"{instances}\"]\nallow = [\"{allow}\"]\n")
    };
    let policy = scene.path("p/ssh-policy.toml");
    again(&mut scene, &[], &[("ssh-policy.toml", &rule(&c1, "exec"))]).unwrap();
    let ann = format!("{c1}+ann");
    assert!(enters(&scene, &ann, "key", None, &[]).unwrap(), "{}", scene.log());
    assert!(!enters(&scene, &c1, "key", None, &[]).unwrap(), "root is in no rule");
    file(&policy, &rule(&c1, "shell")).unwrap();
    let output = talk(&scene, &mut client(&scene, "key", None, &[]).unwrap(), &ann, "echo in").unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && error.contains("exec is not allowed"), "{error}");
    file(&policy, &rule("another", "exec")).unwrap();
    assert!(!enters(&scene, &ann, "key", None, &[]).unwrap());
    // One that cannot be read allows nothing.
    file(&policy, "[[rule]]\nallow = [\"exce\"]\n").unwrap();
    assert!(!enters(&scene, &ann, "key", None, &[]).unwrap());
}
