//! Passwords, one-time codes, chains, users of the instance, and nobody at all.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portway_sshgw::auth::totp::Totp;
use portway_testkit::Server;

use crate::auth::{EVE_HASH as HASH, again, client, enters, last_reason, people, talk};
use crate::scene::Scene;

/// That of `HASH`.
const PASSWORD: &str = "correct horse";

/// `12345678901234567890`, the secret of RFC 6238's appendix B.
const SECRET: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";

/// OpenSSH's client with passwords alone, and with a key first.
const BY_PASSWORD: &[&str] = &["-o", "PreferredAuthentications=password", "-o", "PubkeyAuthentication=no"];
const BY_CODE: &[&str] = &["-o", "PreferredAuthentications=publickey,keyboard-interactive"];

/// The code of the next half minute, once that is not one which could have been used when the gateway started.
fn next_code(started: u64) -> String {
    while now() / 30 <= started / 30 {
        std::thread::sleep(Duration::from_millis(100));
    }
    Totp::from_base32(SECRET).unwrap().shown(now() + 30).unwrap()
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Writes the instance's users: bob has the password, late's has expired, none has none.
fn users_inside(scene: &Scene) {
    let line = |name: &str, hash: &str, rest: &str| format!("{name}:{hash}:{rest}");
    let lines = [
        line("root", "*", "20000:0:99999:7:::"),
        line("bob", HASH, "20000:0:99999:7:::"),
        line("late", HASH, "15000:0:90:7:::"),
        line("gone", HASH, "20000:0:99999:7::15000:"),
        line("none", "", "20000:0:99999:7:::"),
    ];
    let passwd = "for n in late gone none; do grep -q ^$n: /etc/passwd || echo $n:x:1100:1100::/:/bin/sh >>/etc/passwd; done";
    scene.container.sh(&format!("{passwd}; echo '{}' >/etc/shadow", lines.join("\n"))).unwrap();
}

/// Fails when: a password counts that is wrong, locked, empty or expired, or that of another instance's user; when a user
/// of the instance is more than that; when what is there can be told from what is not.
#[test]
fn passwords_of_the_instance() {
    let Some(mut scene) = Scene::start(Server::Incus6, "passwords").unwrap() else { return };
    users_inside(&scene);
    let c1 = scene.container.name().to_owned();
    let bob = format!("bob@{c1}");
    // Not without its switch.
    assert!(!enters(&scene, &bob, "other", Some(PASSWORD), BY_PASSWORD).unwrap());
    again(&mut scene, &["--password-auth"], &[]).unwrap();
    assert!(enters(&scene, &bob, "other", Some(PASSWORD), BY_PASSWORD).unwrap(), "{}", scene.log());
    let login = scene.audit().unwrap().into_iter().rfind(|line| line["event"] == "login").unwrap();
    assert_eq!(login["person"].as_str(), Some(format!("instance:local/default/{c1}/bob").as_str()));
    assert_eq!((login["proof"].as_str(), login["key"].as_str()), (Some("password"), Some("")));
    let mut answers = Vec::new();
    let cases = [
        ("bob", "wrong horse", "wrong password"),
        ("late", PASSWORD, "password has expired"),
        ("gone", PASSWORD, "account has expired"),
        ("none", "", "no password"),
        ("root", PASSWORD, "locked"),
        ("nobody-there", PASSWORD, "wrong password"),
    ];
    let count =
        |scene: &Scene| scene.audit().unwrap().iter().filter(|line| line["event"] == "refused").count();
    let before = count(&scene);
    let places = cases.iter().map(|(user, typed, reason)| (format!("{user}@{c1}"), *typed, *reason));
    let absent = [("bob@no-such".to_owned(), PASSWORD, "wrong password")];
    for (index, (login, typed, reason)) in places.chain(absent).enumerate() {
        let mut client = client(&scene, "other", Some(typed), BY_PASSWORD).unwrap();
        let output = talk(&scene, &mut client, &login, "echo in").unwrap();
        assert_eq!(output.status.code(), Some(255), "{login} {}", scene.log());
        answers.push(String::from_utf8_lossy(&output.stderr).replace(&login, "LOGIN"));
        let said = last_reason(&scene, before + index + 1).unwrap();
        assert!(said.contains(reason), "{login}: {said}");
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
}

/// Fails when: a key of the instance counts without its switch, for another user there, or where others may write it.
#[test]
fn keys_of_the_instance() {
    let Some(mut scene) = Scene::start(Server::Incus6, "inside").unwrap() else { return };
    let c1 = scene.container.name().to_owned();
    let key = std::fs::read_to_string(scene.path("other.pub")).unwrap();
    let script = format!(
        "mkdir -p /home/bob/.ssh; echo '{}' >/home/bob/.ssh/authorized_keys; chown -R bob /home/bob; \
         chmod 755 /home/bob; chmod -R go-w /home/bob",
        key.trim()
    );
    scene.container.sh(&script).unwrap();
    let bob = format!("bob@{c1}");
    assert!(!enters(&scene, &bob, "other", None, &[]).unwrap());
    again(&mut scene, &["--instance-auth"], &[]).unwrap();
    assert!(enters(&scene, &bob, "other", None, &[]).unwrap(), "{}", scene.log());
    assert!(enters(&scene, &bob, "key", None, &[]).unwrap(), "the host's root as before");
    for login in [c1.as_str(), "bob@no-such", "no-such"] {
        assert!(!enters(&scene, login, "other", None, &[]).unwrap(), "{login}");
    }
    scene.container.sh("chmod 777 /home/bob/.ssh").unwrap();
    // What was read counts for a while; another gateway reads it anew.
    again(&mut scene, &["--instance-auth"], &[]).unwrap();
    assert!(!enters(&scene, &bob, "other", None, &[]).unwrap());
}

/// Fails when: a chain is entered by one of its steps, in another order, or by a code that was used.
#[test]
fn a_chain_of_a_key_and_a_code() {
    let Some(mut scene) = Scene::start(Server::Incus6, "chain").unwrap() else { return };
    people(&scene).unwrap();
    let c1 = scene.container.name().to_owned();
    let secrets = scene.path("p/ssh-totp");
    std::fs::create_dir(&secrets).unwrap();
    std::fs::write(secrets.join("root"), SECRET).unwrap();
    again(&mut scene, &["--auth-methods", "publickey,keyboard-interactive"], &[]).unwrap();
    let started = now();
    assert!(!enters(&scene, &c1, "key", None, BY_CODE).unwrap(), "the key alone");
    assert!(
        last_reason(&scene, 1).unwrap().contains("keyboard-interactive did not follow"),
        "{}",
        scene.log()
    );
    let only = ["-o", "PreferredAuthentications=keyboard-interactive"];
    let code = next_code(started);
    assert!(!enters(&scene, &c1, "key", Some(&code), &only).unwrap(), "the code alone");
    assert!(!enters(&scene, &c1, "other", Some(&code), BY_CODE).unwrap(), "another key");
    assert!(!enters(&scene, &c1, "key", Some("000000"), BY_CODE).unwrap(), "another code");
    let code = next_code(started);
    assert!(enters(&scene, &c1, "key", Some(&code), BY_CODE).unwrap(), "{}", scene.log());
    assert!(!enters(&scene, &c1, "key", Some(&code), BY_CODE).unwrap(), "a code twice");
    assert!(!enters(&scene, &format!("{c1}+ann"), "key", Some(&code), BY_CODE).unwrap(), "she has none");
}

/// Fails when: a password of the host is that of an instance, or the groups are passed by.
#[test]
fn passwords_of_the_host() {
    let Some(mut scene) = Scene::start(Server::Incus6, "hostpw").unwrap() else { return };
    people(&scene).unwrap();
    users_inside(&scene);
    let c1 = scene.container.name().to_owned();
    again(&mut scene, &["--password-auth"], &[("ssh-auth.toml", "host_passwords = true\n")]).unwrap();
    let ann = format!("bob@{c1}+ann");
    assert!(enters(&scene, &ann, "other", Some(PASSWORD), BY_PASSWORD).unwrap(), "{}", scene.log());
    assert!(!enters(&scene, &ann, "other", Some("wrong horse"), BY_PASSWORD).unwrap());
    assert!(!enters(&scene, &format!("{c1}+eve"), "other", Some(PASSWORD), BY_PASSWORD).unwrap());
    assert!(!enters(&scene, &format!("bob@{c1}"), "other", Some(PASSWORD), BY_PASSWORD).unwrap(), "root");
}

/// Fails when: any key is not enough where that was asked for, or is where it was not.
#[test]
fn nobody_need_prove_anything_on_loopback() {
    let Some(mut scene) = Scene::start(Server::Incus6, "noauth").unwrap() else { return };
    let c1 = scene.container.name().to_owned();
    assert!(!enters(&scene, &c1, "other", None, &[]).unwrap());
    again(&mut scene, &["--noauth"], &[]).unwrap();
    assert!(enters(&scene, &c1, "other", None, &[]).unwrap(), "{}", scene.log());
    assert!(!enters(&scene, "/shell", "other", None, &[]).unwrap());
    let login = scene.audit().unwrap().into_iter().rfind(|line| line["event"] == "login").unwrap();
    assert_eq!(login["proof"].as_str(), Some("none"));
}
