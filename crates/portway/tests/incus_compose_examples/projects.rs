//! The projects, and what each answers.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use portway_testkit::{DaemonSpec, wait_for};

use crate::PORTWAY;
use crate::example::Example;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Fails when the web server starts before the database, or the database loses what it held.
#[test]
fn web_and_database() {
    let Some(example) = Example::open("web-db") else { return };
    keeps(&example);
}

/// The same with images of a registry.
#[test]
fn web_and_database_on_incus_7() {
    let images: [(&str, &[&str]); 2] = [("nginx", &["nginx"]), ("postgres", &["postgres"])];
    let Some(example) = Example::open_with_registry("web-db", &images) else { return };
    keeps(&example);
}

fn keeps(example: &Example) {
    example.scene.ok(&["up", "-d"]);
    assert_eq!(example.ask(LOCAL, ""), (200, "Welcome to nginx!\n".to_owned()));
    let psql = "psql -U postgres -Atc";
    example.sql(&format!("{psql} 'create table kept (n int); insert into kept values (7)'"));
    example.holds("web");
    example.scene.ok(&["down"]);
    example.scene.ok(&["up", "-d"]);
    assert_eq!(example.sql(&format!("{psql} 'select n from kept'")), "7\n");
    example.ends();
}

/// Fails when one of two protocols on one port is not published, or the file of the project is not inside.
#[test]
fn dns() {
    let Some(example) = Example::open("dns") else { return };
    example.scene.ok(&["up", "-d"]);
    let port = example.port.to_string();
    for by in ["-u", "-t"] {
        let asked = || {
            let mut drill = Command::new("drill");
            drill.args([by, "-p", &port, "printer.example", "@127.0.0.1"]);
            let said = example.scene.bed.netns().enter(|| drill.output()).unwrap().unwrap();
            let said = String::from_utf8(said.stdout).unwrap();
            said.contains("ANSWER SECTION").then_some(said)
        };
        let said = wait_for("an answer of the name server", asked).unwrap();
        assert!(said.contains("192.0.2.10"), "{by}: {said}");
    }
    example.holds("dns");
    example.ends();
}

/// Fails when a replica is not behind the name.
#[test]
fn scaled() {
    let Some(example) = Example::open("scaled") else { return };
    example.scene.ok(&["up", "-d"]);
    let mut answered = BTreeSet::new();
    wait_for("an answer of each", || {
        answered.insert(example.ask(LOCAL, ""));
        (answered.len() == 3).then_some(())
    })
    .unwrap();
    let names: BTreeSet<(u16, String)> = (1..=3).map(|n| (200, format!("web-{n}\n"))).collect();
    assert_eq!(answered, names);
    example.holds("front");
    example.scene.ok(&["up", "-d", "--scale", "web=1"]);
    assert_eq!(example.scene.instances(), ["front-1 Running", "web-1 Running"]);
    example.ends();
}

/// Fails when the override is not read, or a service that a profile had enabled goes with the next `up`.
#[test]
fn profiles() {
    let Some(example) = Example::open("profiles") else { return };
    example.scene.ok(&["up", "-d"]);
    assert_eq!(example.ask(LOCAL, ""), (200, "of the override\n".to_owned()));
    assert_eq!(example.scene.instances(), ["web-1 Running"]);
    example.scene.ok(&["--profile", "debug", "up", "-d"]);
    assert_eq!(example.scene.instances(), ["client-1 Running", "web-1 Running"]);
    let said = example.scene.exec("client-1", "wget -qO- http://web/");
    assert_eq!(String::from_utf8_lossy(&said.stdout), "of the override\n", "{said:?}");
    example.holds("web");
    example.ends();
}

/// With Portway's daemon. Fails when the service takes the relay for who calls.
#[test]
fn nat() {
    let Some(example) = Example::open("nat") else { return };
    let daemon = DaemonSpec::new(PORTWAY).on(example.scene.bed).start().unwrap();
    let example = example.with_daemon(&daemon.dir());
    example.scene.ok(&["up", "-d"]);
    let host = IpAddr::from([10, 191, 6, 1]);
    let (status, caller) = example.ask(host, "");
    assert_eq!(status, 200);
    assert_ne!(caller, "127.0.0.1\n");
    example.holds("other");
    example.ends();
    assert!(daemon.devices().unwrap().is_empty());
}

/// Fails when a secret is not inside, or everybody may read it.
#[test]
fn secrets() {
    let Some(example) = Example::open("secrets") else { return };
    example.scene.ok(&["up", "-d", "--wait"]);
    assert_eq!(example.ask(LOCAL, "").0, 401);
    // me:open
    let (status, body) = example.ask(LOCAL, "Authorization: Basic bWU6b3Blbg==\r\n");
    assert_eq!((status, body.as_str()), (200, "Welcome to nginx!\n"));
    let said = example.scene.exec("web-1", "stat -c '%u %a' /run/secrets/users");
    assert_eq!(String::from_utf8_lossy(&said.stdout), "101 400\n");
    let by = "psql -h db -U postgres -Atc 'select 1'";
    assert_eq!(example.sql(&format!("PGPASSWORD='only an example' {by}")), "1\n");
    let refused = example.scene.exec("db-1", &format!("PGPASSWORD=wrong {by}"));
    assert!(!refused.status.success(), "{refused:?}");
    example.holds("web");
    example.ends();
}
