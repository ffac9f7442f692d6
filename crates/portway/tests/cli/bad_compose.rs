//! Small faults of Compose files: each is one line that says where and what, and the same exit code.

use std::fs;
use std::os::unix::fs::symlink;

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

/// Fails when a file of the machine is repeated in what is said about a project that names it, or what is wrong with a file
/// of the project is not said.
#[test]
fn what_stands_outside_the_project_is_not_repeated() {
    let place = Place::new();
    let (shop, outside) = (place.path().join("shop"), place.path().join("shadow"));
    fs::create_dir(&shop).unwrap();
    symlink(&outside, shop.join("link")).unwrap();
    let run = |arguments: &[&str], project: &str, other: &str| {
        fs::write(shop.join("compose.yaml"), project).unwrap();
        fs::write(&outside, other).unwrap();
        let arguments = [&["compose", "-p", "p"], arguments, &["config", "-q"]].concat();
        let output = place.command(&arguments).current_dir(&shop).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let out = outside.display().to_string();
    for (project, other) in [
        ("include: [OUT]", "root:$6$secret$hash:19000:0:99999\nbin:*:1\n"),
        ("include: [link]", "root:$6$secret$hash:19000:0:99999\nbin:*:1\n"),
        ("include: [OUT]", "secret: a\n"),
        ("include: [OUT]", "services: {a: {image: x, ports: [secret]}}\n"),
        ("include: [OUT]", "'secret\n"),
        ("include: [{path: other.yaml, env_file: OUT}]", "the secret=1\n"),
        ("services: {a: {extends: {file: OUT, service: b}}}", "services: {b: {secret: 1}}\n"),
        ("services: {a: {image: x, env_file: OUT}}", "root:${6}$secret$hash:19000:0:99999\n"),
        ("services: {a: {image: x, env_file: link}}", "A='secret\n"),
        ("services: {a: {image: x, label_file: OUT}}", "the secret=1\n"),
    ] {
        fs::write(shop.join("other.yaml"), "services: {b: {image: x}}").unwrap();
        let (code, said) = run(&[], &project.replace("OUT", &out), other);
        let about = format!("{project}: {other}: {code:?}: {said}");
        assert!(code != Some(0) && !said.contains("secret") && !said.contains("hash"), "{about}");
        let names = said.contains(&out) || said.contains(&shop.join("link").display().to_string());
        assert!(names && said.lines().count() == 2, "{about}");
    }
    // A name that has no value would be told in a warning.
    let env = "services: {a: {image: x, env_file: OUT}}".replace("OUT", &out);
    for other in ["A=${secret}\n", "root:$6$secret$hash:19000:0:99999\n"] {
        let (code, said) = run(&[], &env, other);
        assert!(code == Some(0) && said.contains("a variable is not set"), "{said}");
        assert!(!said.contains("secret") && !said.contains("hash"), "{said}");
    }
    // Whoever names the file means to read it.
    let (_, said) = run(&["-f", &out], "", "secret: a\n");
    assert!(said.contains("secret"), "{said}");
    let (_, said) = run(&[], "secret: a\n", "");
    assert!(said.contains("secret"), "{said}");
}
