//! Small files that stand for much: each ends in one line, with bounded memory and soon.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::Place;

/// Most address space of one run: a quarter of a gigabyte beyond what the program and its threads map.
const MAX_BYTES: u64 = 1 << 29;

/// An end that is later is a stall. Machines that run tests are slow, and some of these run for a second.
const SOON: Duration = Duration::from_secs(30);

/// Files of a project by their names.
type Files = Vec<(&'static str, String)>;

fn one(text: impl Into<String>) -> Files {
    vec![("compose.yaml", text.into())]
}

fn numbered(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).map(line).collect()
}

/// Aliases of aliases: nine levels of ten.
fn laughs() -> String {
    let level = |level: usize| match level {
        0 => format!("x-0: &a0 [{}]\n", "lol,".repeat(10)),
        n => format!("x-{n}: &a{n} [{}]\n", format!("*a{},", n - 1).repeat(10)),
    };
    format!("{}services: {{web: {{image: x}}}}\n", numbered(10, level))
}

/// Files that include the next one twice, from the first to the sixteenth.
fn doubling() -> Files {
    const NAMES: [&str; 16] = [
        "compose.yaml",
        "1.yaml",
        "2.yaml",
        "3.yaml",
        "4.yaml",
        "5.yaml",
        "6.yaml",
        "7.yaml",
        "8.yaml",
        "9.yaml",
        "10.yaml",
        "11.yaml",
        "12.yaml",
        "13.yaml",
        "14.yaml",
        "15.yaml",
    ];
    let file = |(at, name): (usize, &&'static str)| {
        let next = NAMES.get(at + 1).copied().unwrap_or("last.yaml");
        (*name, format!("include: [{next}, {next}]\nservices: {{s{at}: {{image: x}}}}\n"))
    };
    let last = ("last.yaml", "services: {}\n".to_owned());
    NAMES.iter().enumerate().map(file).chain([last]).collect()
}

/// A bomb, its files, what its line says, and the exit code.
type Bomb = (&'static str, Files, &'static str, i32);

/// Services that say `each`.
fn services(each: &str, count: usize) -> String {
    let all = numbered(count, |n| format!("  s{n}: {{image: x, {each}}}\n"));
    format!("services:\n{all}")
}

/// Of YAML.
fn documents() -> Vec<Bomb> {
    vec![
        ("aliases of aliases", one(laughs()), "more than 200000 values", 2),
        ("an anchor in itself", one("x-a: &a [*a]\nservices: {}\n"), "an alias stands inside", 2),
        ("a merge of itself", one("services: &a {web: {image: x}, <<: *a}\n"), "an alias stands inside", 2),
        ("deep brackets", one("[".repeat(10_000)), "compose.yaml:", 2),
        (
            "deep blocks",
            one(numbered(10_000, |n| format!("{}a:\n", " ".repeat(n.min(300))))),
            "compose.yaml:",
            2,
        ),
        ("too long", one("#".repeat((4 << 20) + 1)), "compose.yaml", 1),
        ("no text", one("services: {a: {image: \"\u{0}\"}}\n"), "compose.yaml:1:", 2),
    ]
}

/// Of variables.
fn variables() -> Vec<Bomb> {
    let large = || "x".repeat(3 << 20);
    vec![
        (
            "deep defaults",
            one(format!("services: {{a: {{image: \"{}\"}}}}\n", "${A:-".repeat(400_000))),
            "compose.yaml:1:",
            2,
        ),
        (
            "deep defaults that are closed",
            one(format!(
                "services: {{a: {{image: \"{}{}\"}}}}\n",
                "${A:-".repeat(400_000),
                "}".repeat(400_000)
            )),
            "nested more than 16 deep",
            2,
        ),
        (
            "many variables",
            one(format!("services: {{a: {{image: \"{}\"}}}}\n", numbered(400_000, |n| format!("$A{n}")))),
            "more than 20000 variables",
            2,
        ),
        (
            "a long variable many times",
            vec![
                ("compose.yaml", services("command: \"$A\"", 5_000)),
                (".env", format!("A={}\n", "x".repeat(1 << 19))),
            ],
            "interpolation makes more than 16 MiB",
            2,
        ),
        (
            "a long variable by its name",
            vec![
                ("compose.yaml", services("environment: [A]", 5_000)),
                (".env", format!("A='{}'\n", large())),
            ],
            "more than 1000000 values",
            2,
        ),
        (
            "a long variable that refers to itself",
            vec![
                ("compose.yaml", "services: {a: {image: \"$A39\"}}\n".to_owned()),
                (
                    ".env",
                    "A0=xxxxxxxxxx\n".to_owned()
                        + &numbered(39, |n| format!("A{}=${{A{n}}}${{A{n}}}\n", n + 1)),
                ),
            ],
            ".env:",
            2,
        ),
        (
            "a file of variables for each service",
            vec![
                ("compose.yaml", services("env_file: large.env", 5_000)),
                ("large.env", format!("A='{}'\n", large())),
            ],
            "more than 1000000 values",
            2,
        ),
    ]
}

/// Of bases and of files.
fn bases() -> Vec<Bomb> {
    vec![
        (
            "one base of many services",
            one(format!(
                "services:\n  base: {{image: x, labels: {{{}}}}}\n{}",
                numbered(2_000, |n| format!("l{n}: x, ")),
                numbered(2_000, |n| format!("  s{n}: {{extends: base}}\n"))
            )),
            "more than 1000000 values",
            2,
        ),
        (
            "a chain of bases",
            one(format!(
                "services:\n  s0: {{image: x}}\n{}",
                numbered(5_000, |n| format!("  s{}: {{extends: s{n}}}\n", n + 1))
            )),
            "extends",
            2,
        ),
        (
            "a base of itself",
            one("services: {a: {extends: b}, b: {extends: a}}\n"),
            "extends itself: a -> b -> a",
            2,
        ),
        (
            "a file that includes itself",
            one("include: [compose.yaml]\nservices: {a: {image: x}}\n"),
            "includes itself",
            2,
        ),
        (
            "two files that include each other",
            vec![
                ("compose.yaml", "include: [other.yaml]\n".to_owned()),
                ("other.yaml", "include: [compose.yaml]\n".to_owned()),
            ],
            "includes itself",
            2,
        ),
        ("files that double", doubling(), "1000 files", 2),
    ]
}

/// Of many.
fn numbers() -> Vec<Bomb> {
    vec![
        ("all ports of all services", one(services("ports: ['1-65535:1-65535']", 100)), "", 2),
        ("a device for a file", one("services: {a: {image: x, env_file: /dev/zero}}\n"), "/dev/zero", 1),
        (
            "a ring of many",
            one(format!(
                "services:\n{}  s2000: {{image: x, depends_on: [s0]}}\n",
                numbered(2_000, |n| format!("  s{n}: {{image: x, depends_on: [s{}]}}\n", n + 1))
            )),
            "depend",
            2,
        ),
    ]
}

/// The program with a bound on its memory.
fn run(place: &Place, arguments: &[&str]) -> String {
    let program = place.command(arguments);
    let mut command = Command::new("prlimit");
    command.arg(format!("--as={MAX_BYTES}")).arg("--").arg(program.get_program()).args(program.get_args());
    command.env_clear().envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.current_dir(place.path()).output().unwrap();
    place.seen(arguments, &output)
}

/// Fails when: a file takes memory or time without end, or what is wrong with it takes more than a line to say.
#[test]
fn what_would_grow_without_end_is_refused() {
    let mut faults = String::new();
    for (name, files, said, code) in [documents(), variables(), bases(), numbers()].concat() {
        let place = Place::new();
        for (file, text) in files {
            fs::write(place.path().join(file), text).unwrap();
        }
        let begin = Instant::now();
        let text = run(&place, &["compose", "-p", "p", "config", "-q"]);
        let took = begin.elapsed();
        let lines: Vec<&str> = text.lines().skip(1).filter(|line| !line.starts_with("warning: ")).collect();
        let right = text.contains(said)
            && text.ends_with(&format!("[exit {code}]\n"))
            && lines.iter().filter(|line| !line.starts_with("hint: ")).count() == 2
            && lines.iter().all(|line| line.len() < 500)
            && took < SOON;
        if !right {
            let short: String = text.chars().take(600).collect();
            writeln!(faults, "{name}: in {took:?}: {short}").unwrap();
        }
    }
    assert!(faults.is_empty(), "{faults}");
}

/// Fails when: a link of files is followed for ever.
#[test]
fn a_link_to_itself_is_no_file() {
    let place = Place::new();
    symlink("compose.yaml", place.path().join("compose.yaml")).unwrap();
    let text = run(&place, &["compose", "-f", "compose.yaml", "config"]);
    assert!(text.contains("compose.yaml") && text.ends_with("[exit 1]\n"), "{text}");
}
