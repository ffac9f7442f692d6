//! The commands, one after the other, and what they refuse.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::place::Place;

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

/// Fails when: a command of the whole way does not do what it says, or `wg` does not take what is exported.
#[test]
fn from_an_organization_to_a_file_of_wg_quick() {
    let mut place = Place::new();
    place.start(&[]);
    let made = place.run(
        "registrar",
        &["mesh", "org", "create", "acme", "--reserve", "10.77.0.0/24", "--format", "json"],
    );
    assert_eq!(json(&made)[0]["network"], "10.77.0.0/16");
    let token = place.token(&["--uses", "2", "--tag", "db", "--expires", "1h"]);
    let url = place.url();
    let join = |host: &str, more: &[&str]| {
        let all =
            [&["mesh", "join", &url, "--key", &token, "--name", host, "--format", "json"][..], more].concat();
        json(&place.run(host, &all))
    };
    let one = join("one", &["--request-ip", "10.77.3.4", "--endpoint", "192.0.2.1:51820"]);
    assert_eq!((&one["ip4"], &one["organization"]), (&"10.77.3.4".into(), &"acme".into()));
    let two = join("two", &[]);
    assert_eq!(two["devices"], 2);
    assert_eq!(join("two", &[])["ip4"], two["ip4"]);
    let third = ["mesh", "join", &url, "--key", &token, "--name", "three"];
    assert_eq!(place.refused("three", &third), "error: the key to join with is used up\n[exit 1]");
    let devices =
        json(&place.run("registrar", &["mesh", "device", "list", "--org", "acme", "--format", "json"]));
    let mut names: Vec<&str> =
        devices.as_array().unwrap().iter().map(|device| device["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["one", "two"]);
    assert!(devices.as_array().unwrap().iter().all(|device| device["tags"][0] == "db"));
    // Two has heard of one when it joined; one joins again to hear of two.
    let exported = place.run("two", &["mesh", "export", "--org", "acme", "--wg-quick"]);
    let file = place.path().join("exported.conf");
    let to_file = ["mesh", "export", "--org", "acme", "--wg-quick", "--output", file.to_str().unwrap()];
    place.run("two", &to_file);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), exported);
    let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(place.refused("two", &to_file).contains("is there, and nothing is overwritten"));
    let renamed = ["mesh", "join", &url, "--key", &token, "--name", "three"];
    let said = "error: this device has joined acme as two, not as three\n\
                hint: a name stays; another one needs a new key pair\n[exit 1]";
    assert_eq!(place.refused("two", &renamed), said);
    assert!(exported.contains("AllowedIPs = 10.77.3.4/32, fd"), "{exported}");
    assert!(exported.contains("Endpoint = 192.0.2.1:51820\nPersistentKeepalive = 25\n"), "{exported}");
    join("one", &["--endpoint", "192.0.2.1:51820"]);
    let back = place.run("one", &["mesh", "export", "--org", "acme", "--wg-quick"]);
    assert!(back.contains("ListenPort = 51820\n") && back.contains(two["key"].as_str().unwrap()), "{back}");
    accepted_by_wg(&place, &exported);
    accepted_by_wg(&place, &back);
    // And by ourselves.
    let path = place.path().join("acme.conf");
    std::fs::write(&path, &exported).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let checked =
        place.run("two", &["mesh", "check", "--config", path.to_str().unwrap(), "--format", "json"]);
    assert_eq!(json(&checked)["peers"][0]["public_key"], one["key"]);
    place.run("registrar", &["mesh", "device", "revoke", "two", "--org", "acme"]);
    let again = ["mesh", "join", &url, "--key", &token, "--name", "two"];
    let revoked = "error: this device was revoked: it can join again with a new key pair only\n[exit 1]";
    assert_eq!(place.refused("two", &again), revoked);
    let keys = json(&place.run("registrar", &["mesh", "key", "list", "--org", "acme", "--format", "json"]));
    assert_eq!((&keys[0]["uses_left"], &keys[0]["token"]), (&0.into(), &serde_json::Value::Null));
    place.run("registrar", &["mesh", "key", "revoke", keys[0]["id"].as_str().unwrap(), "--org", "acme"]);
}

/// `wg setconf` on an interface of wireguard-go, in a network namespace of its own.
fn accepted_by_wg(place: &Place, exported: &str) {
    if !portway_testkit::is_root() {
        return;
    }
    // `wg` takes what wg-quick does not keep for itself.
    let own = |line: &&str| !line.starts_with("Address") && !line.starts_with("MTU");
    let plain: String = exported.lines().filter(own).map(|line| format!("{line}\n")).collect();
    let path = place.path().join("wg.conf");
    std::fs::write(&path, plain).unwrap();
    let script =
        "set -e; wireguard-go pwtest0; wg setconf pwtest0 \"$1\"; wg show pwtest0 peers; ip link del pwtest0";
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "sh", "-c", script, "sh"]).arg(&path).env("LOG_LEVEL", "silent");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let peers = exported.matches("[Peer]").count();
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), peers, "{said}");
}

#[test]
fn what_is_malformed_is_said_so_before_anything_is_done() {
    let mut place = Place::new();
    let nobody = place.refused("registrar", &["mesh", "org", "list"]);
    assert!(nobody.starts_with("error: the registrar at ") && nobody.ends_with("[exit 3]"), "{nobody}");
    place.start(&[]);
    let cases: &[(&[&str], &str)] = &[
        (
            &["mesh", "org", "create", "A b"],
            "error: name: it has other characters than a-z, 0-9 and hyphens\n[exit 2]",
        ),
        (
            &["mesh", "org", "create", "x", "--network", "10.0.0.0/30"],
            "error: the network is an IPv4 block from /8 to /29\n[exit 2]",
        ),
        (&["mesh", "key", "create", "--org", "none"], "error: there is no organization none\n[exit 4]"),
        (
            &["mesh", "key", "create", "--org", "../x"],
            "error: --org: it has other characters than a-z, 0-9 and hyphens\n[exit 2]",
        ),
        (
            &["mesh", "key", "create", "--org", "x", "--uses", "0"],
            "error: --uses 0 is neither a number from 1 to 4294967295 nor any\n[exit 2]",
        ),
        (
            &["mesh", "device", "revoke", "x", "--org", "none"],
            "error: there is no organization none\n[exit 4]",
        ),
        (
            &["mesh", "registrar", "--store", "etcd://"],
            "error: --store: a member of the store has no address, expected etcd://HOST:PORT,HOST:PORT or etcds:// for TLS\n[exit 2]",
        ),
        (&["mesh", "registrar", "--store", "etcds://a"], "error: --store etcds:// needs --etcd-ca\n[exit 2]"),
        (
            &["mesh", "export", "--org", "acme", "--wg-quick"],
            "error: this device has not joined organization acme\nhint: portway mesh join URL --key TOKEN\n[exit 4]",
        ),
        (
            &["mesh", "join", "http://x", "--key", "y"],
            "error: registrar http://x: expected https://HOST or https://HOST:PORT\n[exit 2]",
        ),
        (
            &["mesh", "join", "https://x", "--key", "y"],
            "error: --key: a token begins with portway1_\n[exit 2]",
        ),
    ];
    for (arguments, expected) in cases {
        assert_eq!(place.refused("registrar", arguments), *expected, "{arguments:?}");
    }
    // Nothing was left by what was refused.
    assert!(!place.path().join("registrar/mesh").exists());
    let second = place.refused("registrar", &["mesh", "registrar", "--listen", "127.0.0.1:0"]);
    assert!(second.contains("registrar.redb") && second.ends_with("[exit 1]"), "{second}");
}

#[test]
fn a_token_is_read_from_standard_input() {
    let mut place = Place::new();
    place.start(&[]);
    place.run("registrar", &["mesh", "org", "create", "acme"]);
    let token = place.token(&[]);
    let mut command = place.command("one", &["mesh", "join", &place.url(), "--key", "-", "--name", "one"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{token}\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with("one of acme: 10.77.") && said.ends_with("devices: 1\n"), "{said}");
}

/// Fails when: what `openssl` reads of the registrar's certificate is not a certificate with its own signature.
#[test]
fn the_certificate_is_one() {
    let mut place = Place::new();
    place.start(&[]);
    let listen = place.listen.unwrap().to_string();
    let script = "openssl s_client -connect \"$1\" </dev/null 2>/dev/null | openssl x509 -outform PEM > \"$2\" && \
        openssl verify -CAfile \"$2\" -check_ss_sig \"$2\" && openssl x509 -in \"$2\" -noout -text";
    let path = place.path().join("cert.pem");
    let output = Command::new("sh").args(["-c", script, "sh", &listen]).arg(&path).output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(": OK") && said.contains("ED25519") && said.contains("Version: 3"), "{said}");
}
