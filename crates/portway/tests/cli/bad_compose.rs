//! Small faults of Compose files: each is one line that says where and what, and the same exit code.

use std::fs;

use crate::support::Place;

/// What a service says, and what is said of it.
const SERVICES: &[(&str, &str)] = &[
    ("ports: ['80:80:80:80']", "services.web.ports[0]: `80:80:80:80`: 80:80 is no address"),
    ("ports: ['70000:1']", "70000 is no host port"),
    ("ports: ['1:70000']", "70000 is no container port"),
    ("ports: ['-1:80']", "-1 is no host port"),
    ("ports: ['90-80:80']", "90-80 is no host port"),
    ("ports: ['80-90:80-85']", "are ranges of different lengths"),
    ("ports: ['80/icmp']", "the protocol icmp is none of tcp, udp, sctp"),
    ("ports: [{target: '80:80'}]", "services.web.ports[0].target: `80:80` is not a whole number"),
    ("mem_limit: 1e99g", "`1e99g` is no size"),
    ("mem_limit: lots", "`lots` is no size"),
    ("cap_add: 5", "services.web.cap_add: must be a list, not a whole number"),
    ("image: y", "image: the key is there already, in line 3"),
    ("depends_on: [nobody]", "depends on `nobody`, which is not there"),
    ("depends_on: [web]", "in a ring: web -> web"),
    ("extends: {service: nobody}", "there is no service nobody in this file"),
    ("hostname: '${'", "malformed interpolation"),
    ("hostname: '${A:?must be said}'", "the variable A must be set: must be said"),
    ("restart: [no]", "services.web.restart: must be a text, not a list"),
    ("healthcheck: {test: x, interval: soon}", "`soon` is no duration"),
    ("networks: [nobody]", "there is no network `nobody`"),
    ("secrets: [nobody]", "there is no secret `nobody`"),
    ("strange: 1", "there is no such key"),
];

/// Whole files, what is said of each, and the exit code.
const FILES: &[(&str, &str, i32)] = &[
    ("services:\n\tweb: {image: x}\n", "tabs", 2),
    ("services: {web: {image: x}}\nservices: {}\n", "the key is there already", 2),
    ("include: ['oci://x/y']\nservices: {}\n", "not from addresses", 4),
    ("include: ['https://x/y.yaml']\nservices: {}\n", "not from addresses", 4),
    ("services: {web: {extends: {file: 'https://x/y.yaml', service: a}}}\n", "not from addresses", 4),
    ("services: {web: {}}\n", "has neither `image` nor `build`", 2),
    ("services: []\n", "services: must be a mapping", 2),
    ("services: {'a b': {image: x}}\n", "a name has letters, digits", 2),
    ("", "the Compose file is empty", 2),
];

/// Fails when a fault is taken, or is not said in one line with its place.
#[test]
fn every_small_fault_is_a_line_with_its_place() {
    let mut faults = String::new();
    let mut check = |text: &str, words: &str, code: i32| {
        let place = Place::new();
        let file = place.path().join("compose.yaml");
        fs::write(&file, text).unwrap();
        let output =
            place.command(&["compose", "-p", "p", "config", "-q"]).current_dir(place.path()).output();
        let output = output.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<&str> = said.lines().filter(|line| !line.starts_with("warning: ")).collect();
        let errors = lines.iter().filter(|line| line.starts_with("error: ")).count();
        let hints = lines.iter().filter(|line| line.starts_with("hint: ")).count();
        let has_place = text.is_empty() || said.contains(&format!("{}:", file.display()));
        if output.status.code() != Some(code)
            || !said.contains(words)
            || (errors, lines.len() - hints) != (1, 1)
            || !has_place
            || !output.stdout.is_empty()
        {
            faults.push_str(&format!("{text:?}: {:?}: {said}", output.status.code()));
        }
    };
    for (service, words) in SERVICES {
        check(&format!("services:\n  web:\n    image: x\n    {service}\n"), words, 2);
    }
    for (text, words, code) in FILES {
        check(text, words, *code);
    }
    assert!(faults.is_empty(), "{faults}");
}
