//! Large files of every shape that a parser could be slow at: files of devices in both forms, settings.

use std::path::Path;
use std::time::{Duration, Instant};

use portway_config::Settings;
use portway_config::devices::{Form, Meaning, parse};
use portway_model::Provider;

/// Length of a text that is filled with one part; others have four times as much. What reads all of it once more for each
/// of its words or lines takes a minute and more.
const SIZE: usize = 1 << 20;

/// Longest time for one of them: 30 ms where nothing else runs. A stall is the fault.
const LIMIT: Duration = Duration::from_secs(10);

/// What a text of YAML is filled with, behind each of the beginnings.
const YAML: [&[&str]; 2] = [
    &["", "devices: ", "devices:\n- ", "devices: [", "devices: \"", "devices: '", "devices: |\n "],
    &[
        "[", "{", "{a: ", "- ", "? ", ": ", "\n", " ", "\t", "#\n", "a", "a ", "a:\n", "a: b\n", "'", "\"",
        "\\", "&a ", "*a ", "!a ", "%a\n", "---\n", "|\n", "- a\n", "[a, ", "[],", "{},", "\u{e4}", "\r\n",
        "0", "<<: ", "&a [*a, ", "- &a a\n",
    ],
];

/// The same of TOML.
const TOML: [&[&str]; 2] = [
    &[
        "",
        "devices = ",
        "devices = [",
        "devices = \"",
        "devices = '''",
        "[[devices]]\n",
        "[[devices]]\nlisten = ",
    ],
    &[
        "[",
        "[[",
        "[[devices]]\n",
        "[devices]\n",
        "a.",
        "a = 1\n",
        "{a=",
        "[a]\n",
        "\"",
        "'",
        "\\",
        "#\n",
        "\n",
        "1",
        "=",
        " ",
        "\t",
        "a",
        "a.a.a = 1\n",
        ",",
        "[],",
        "{},",
        "\u{e4}",
        "\r\n",
        "\\u0041",
        "'''",
    ],
];

/// Reads a text, which may be refused, in time.
fn in_time(what: &str, text: &str, read: impl Fn(&str)) {
    let begin = Instant::now();
    read(text);
    let took = begin.elapsed();
    assert!(took < LIMIT, "{what} took {took:?}");
}

fn devices(form: Form) -> impl Fn(&str) {
    let meaning = Meaning { provider: Provider::Incus, project: None };
    // Whether it is refused is not the question here.
    move |text| drop(parse(Path::new("f"), text.as_bytes().to_vec(), form, &meaning))
}

fn settings(text: &str) {
    drop(Settings::parse(Path::new("f"), text));
}

fn filled([heads, parts]: [&[&str]; 2], read: impl Fn(&str)) {
    for part in parts {
        let body = part.repeat(SIZE / part.len());
        for head in heads {
            in_time(&format!("{head:?} and {part:?}"), &format!("{head}{body}"), &read);
        }
    }
}

/// `head`, and lines with their numbers until it is long enough.
fn numbered(head: &str, line: impl Fn(usize) -> String) -> String {
    let mut text = head.to_owned();
    (0..)
        .map(line)
        .take_while(|line| {
            text.push_str(line);
            text.len() < 4 * SIZE
        })
        .for_each(drop);
    text
}

/// Catalogue: nothing in a file, however long and of whatever shape, makes a parser slow.
///
/// Fails when: a parser looks at all that it has read for each part of it, as for the line that the part is in.
#[test]
fn shapes_of_yaml() {
    filled(YAML, devices(Form::Yaml));
    let first = "devices:\n- instance: c1\n  name: a\n  connect: tcp::1\n  listen: tcp::1\n";
    let device = |n: usize, listen: String| {
        format!("- {{instance: c1, name: d{n}, listen: \"{listen}\", connect: \"tcp::1\"}}\n")
    };
    let ip = |n: usize| format!("10.{}.{}.{}", n >> 16, n >> 8 & 255, n & 255);
    let odd = (1..100).step_by(2).map(|port| port.to_string()).collect::<Vec<_>>().join(",");
    let stairs: String = (0..2000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    for (what, text) in [
        ("keys", numbered("", |n| format!("k{n}: v\n"))),
        ("keys of a device", numbered(first, |n| format!("  k{n}: v\n"))),
        ("anchors", numbered("devices:\n", |n| format!("- &a{n} x\n"))),
        ("stairs", stairs),
        (
            "ports",
            format!("devices:\n- instance: c1\n  name: a\n  listen: tcp::{}1\n", "1,".repeat(2 * SIZE)),
        ),
        ("paths", numbered("devices:\n", |n| device(n, format!("unix:/a{n}")))),
        ("a line of devices", numbered("devices: [", |n| format!("{{instance: c1, name: d{n}}}, "))),
        (
            "all ports of each address",
            numbered("devices:\n", |n| device(n, format!("tcp:{}:1-65535", ip(n)))),
        ),
        ("many ports of each address", numbered("devices:\n", |n| device(n, format!("tcp:{}:{odd}", ip(n))))),
    ] {
        in_time(what, &text, devices(Form::Yaml));
    }
}

/// The same.
#[test]
fn shapes_of_toml() {
    filled(TOML, devices(Form::Toml));
    filled(TOML, settings);
    for (what, text) in [
        ("keys", numbered("", |n| format!("k{n} = 1\n"))),
        ("tables", numbered("", |n| format!("[k{n}]\n"))),
        ("dotted keys", numbered("", |n| format!("a.k{n} = 1\n"))),
        ("tables in a table", numbered("", |n| format!("[a.b.k{n}]\n"))),
        ("lists of tables", numbered("", |n| format!("[[a]]\n[[a.b{n}]]\n"))),
        ("keys of a device", numbered("[[devices]]\n", |n| format!("k{n} = 1\n"))),
        (
            "a line of devices",
            numbered("devices = [", |n| format!("{{instance = 'c1', name = 'd{n}'}}, ")) + "]",
        ),
    ] {
        in_time(what, &text, devices(Form::Toml));
        in_time(what, &text, settings);
    }
}
