use std::time::{Duration, Instant};

use super::*;

fn read(form: Form, text: &str) -> Result<Vec<Entry>, String> {
    let meaning = Meaning { provider: Provider::Incus, project: Some("dev".parse().unwrap()) };
    parse(Path::new("f"), text.as_bytes().to_vec(), form, &meaning).map_err(|error| error.to_string())
}

fn keys(entry: &Entry) -> String {
    let keys = entry.spec.to_keys();
    keys.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn values_are_text_as_written() {
    let yaml = "devices:\n\
        - {instance: c1, name: web, listen: \"tcp::8080\", connect: \"tcp:127.0.0.1:80\", v6only: yes}\n\
        - instance: netns:blue\n  name: db\n  listen: unix:/run/db.sock\n  connect: tcp::5432\n  mode: 0660\n  uid: 0\n\
        - instance: web/c2\n  name: dns\n  listen: udp:127.0.0.1:53\n  connect: udp::53\n  udp.max_flows: 100\n  udp.idle: 5\n";
    let entries = read(Form::Yaml, yaml).unwrap();
    let names: Vec<String> = entries.iter().map(|entry| entry.key.to_string()).collect();
    assert_eq!(names, ["incus:dev/c1/web", "netns:blue/db", "incus:web/c2/dns"]);
    let toml = "[[devices]]\ninstance='c1'\nname='web'\nlisten='tcp::8080'\nconnect='tcp:127.0.0.1:80'\nv6only=true\n\
        [[devices]]\ninstance='netns:blue'\nname='db'\nlisten='unix:/run/db.sock'\nconnect='tcp::5432'\nmode='0660'\nuid=0\n\
        [[devices]]\ninstance='web/c2'\nname='dns'\nlisten='udp:127.0.0.1:53'\nconnect='udp::53'\n'udp.max_flows'=100\n'udp.idle'=5\n";
    let same = read(Form::Toml, toml).unwrap();
    for (one, other) in entries.iter().zip(&same) {
        assert_eq!((&one.key, &one.spec), (&other.key, &other.spec));
    }
    assert_eq!(keys(&entries[1]), "connect=tcp:127.0.0.1:5432 listen=unix:/run/db.sock mode=0660 uid=0");
    assert_eq!(read(Form::Yaml, "devices: []").unwrap(), []);
    assert_eq!(read(Form::Yaml, "{\"devices\": []}").unwrap(), []);
}

#[test]
fn every_error_has_its_place() {
    let device = "- instance: c1\n  name: web\n  listen: tcp::80\n  connect: tcp::80\n";
    let with = |more: &str| format!("devices:\n{device}{more}");
    let mut said = Vec::new();
    for yaml in [
        String::new(),
        "# nothing\n".to_owned(),
        "device: []\n".to_owned(),
        "devices: {}\n".to_owned(),
        "devices: [c1]\n".to_owned(),
        "devices:\n- instance: c1\n".to_owned(),
        "devices:\n- {instance: c1, name: web, listen: \"tcp::70000\", connect: \"tcp::80\"}\n".to_owned(),
        with("  lisen: x\n"),
        with("  listen: tcp::81\n"),
        with("  hold: -1s\n"),
        with("  hold: 1e308\n"),
        with("  hold: [1s]\n"),
        with("  hold:\n"),
        with(device),
        with("- instance: netns:blue\n  name: other\n  listen: tcp:127.0.0.1:70-90\n  connect: tcp::80\n"),
        "devices:\n- instance: foo:c1\n  name: web\n  listen: tcp::80\n  connect: tcp::80\n".to_owned(),
        "devices:\n- instance: c1\n  name: a b\n  listen: tcp::80\n  connect: tcp::80\n".to_owned(),
        "devices:\n\t- a\n".to_owned(),
        "devices: *gone\n".to_owned(),
        "a: &a [*a]\ndevices: []\n".to_owned(),
        "devices: []\n---\ndevices: []\n".to_owned(),
    ] {
        said.push(format!("yaml {}", read(Form::Yaml, &yaml).unwrap_err()));
    }
    for toml in [
        "",
        "devices = 3\n",
        "[[devices]]\ninstance='c1'\n",
        "[[devices]]\ninstance='c1'\nname='web'\nlisten='tcp::80'\nconnect='tcp::80'\nmode=432\n",
        "[[devices]]\ninstance='c1'\nname='web'\nlisten='tcp::80'\nconnect='tcp::80'\nhold=-5\n",
        "[[devices]]\ninstance='c1'\nname='web'\nlisten='tcp::80'\nconnect='tcp::80'\nudp.idle='5s'\n",
        "[[devices]]\ninstance='c1'\nname='web'\nlisten='tcp::80'\nconnect='tcp::0'\n",
    ] {
        said.push(format!("toml {}", read(Form::Toml, toml).unwrap_err()));
    }
    insta::assert_snapshot!(said.join("\n"));
}

/// Addresses that meet, and those that only look so. Thousands are compared at once.
///
/// Fails when: places, protocols or families are not told apart, or each is compared with each.
#[test]
fn two_devices_at_one_address_are_both_named() {
    let file = |lines: &[(&str, &str)]| {
        let device = |(name, keys): &(&str, &str)| format!("- {{instance: c1, name: {name}, {keys}}}\n");
        format!("devices:\n{}", lines.iter().map(device).collect::<String>())
    };
    let tcp = |host: &str| format!("listen: \"tcp:{host}:80\", connect: \"tcp::80\"");
    let inside = |keys: &str| format!("{keys}, bind: instance");
    for (one, other, meet) in [
        (tcp("0.0.0.0"), tcp("127.0.0.1"), true),
        (tcp("[::]"), tcp("10.0.0.1"), true),
        (tcp("[::]"), tcp("0.0.0.0"), true),
        (tcp("[::]") + ", v6only: true", tcp("0.0.0.0"), false),
        (tcp("0.0.0.0"), tcp("[::1]"), false),
        (tcp("127.0.0.1"), tcp("127.0.0.2"), false),
        (tcp("127.0.0.1"), inside(&tcp("127.0.0.1")), false),
        (inside(&tcp("127.0.0.1")), inside(&tcp("0.0.0.0")), true),
        (tcp("127.0.0.1"), tcp("127.0.0.1").replace("tcp", "udp"), false),
        (
            "listen: unix:/a, connect: unix:/b".into(),
            "listen: unixgram:/a, connect: unixgram:/b".into(),
            true,
        ),
        ("listen: unix:/a, connect: unix:/b".into(), "listen: unix:/b, connect: unix:/c".into(), false),
    ] {
        let text =
            file(&[("first", &one), ("free", "listen: \"tcp::9\", connect: \"tcp::9\""), ("second", &other)]);
        match read(Form::Yaml, &text) {
            Ok(_) => assert!(!meet, "{text}"),
            Err(said) => {
                assert!(meet && said.starts_with("f:4:3: incus:dev/c1/second listens at "), "{text} {said}");
                assert!(said.contains(", and incus:dev/c1/first in line 2 at "), "{said}");
            }
        }
    }
    let many = |port: usize| {
        format!("- {{instance: c1, name: d{port}, listen: \"tcp::{port}\", connect: \"tcp::80\"}}\n")
    };
    let text = format!("devices:\n{}", (1..=20_000).map(many).collect::<String>());
    let begin = Instant::now();
    assert_eq!(read(Form::Yaml, &text).unwrap().len(), 20_000);
    println!("20,000 devices read in {:?}", begin.elapsed());
    // A fraction of a second; a stall is the fault.
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

/// Catalogue: alias bombs, deep nesting, a hundred megabytes of one line.
#[test]
fn bombs_are_refused_at_once() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let before = format!("*a{}, ", level - 1).repeat(9);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", before.trim_end_matches(", ")));
    }
    bomb.push_str("devices: *a9\n");
    let deep = |open: &str, close: &str| format!("devices: {}{}", open.repeat(10_000), close.repeat(10_000));
    let begin = Instant::now();
    for (form, text) in [
        (Form::Yaml, bomb),
        (Form::Yaml, deep("[", "]")),
        (Form::Yaml, deep("{a: ", "}")),
        (Form::Yaml, "- ".repeat(10_000)),
        (Form::Toml, format!("devices = {}{}", "[".repeat(10_000), "]".repeat(10_000))),
        (Form::Toml, format!("devices = {}1{}", "{a=".repeat(10_000), "}".repeat(10_000))),
    ] {
        let error = read(form, &text).unwrap_err();
        assert!(error.len() < 300 && error.starts_with("f:1:") || error.starts_with("f:"), "{error:.400}");
    }
    // Milliseconds each; a stall is the fault.
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}
