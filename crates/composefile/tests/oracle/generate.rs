//! Documents by chance, the same ones for the same seed.

use crate::pools::{ENVIRONMENT_NAMES, RIGHT, WRONG};
use crate::run::Case;

/// Numbers by chance: xorshift, seeded with a number that is mixed first.
struct Dice(u64);

impl Dice {
    fn new(seed: u64, number: u64) -> Dice {
        let mut dice = Dice((seed << 32 | number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            dice.next();
        }
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 11).expect("it is a 64-bit machine") % bound
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    fn pick<'p, T>(&mut self, pool: &'p [T]) -> &'p T {
        &pool[self.below(pool.len())]
    }
}

/// Keys of which a service may have one, or that depend on what the others say.
const EXCLUSIVE: &[&str] =
    &["network_mode", "networks", "scale", "deploy", "container_name", "image", "mem_limit", "cpus"];

/// Keys whose forms refer to the first two services.
const REFERRING: &[&str] = &["depends_on", "links", "volumes_from", "pid", "ipc", "network_mode"];

const RESOURCES: &str = "networks: {n: {}, m: {driver: bridge}}\nvolumes: {vol: {}, data: {driver: local}}\n\
secrets: {sec: {file: ./sec}, tok: {environment: A}}\nconfigs: {cfg: {content: hello}, cf2: {file: ./cf2}}\n";

/// The document of that number.
pub(crate) fn case(seed: u64, number: u64) -> Case {
    let dice = &mut Dice::new(seed, number);
    let mut files = vec![
        ("compose.yaml".to_owned(), format!("{}{RESOURCES}", services(dice, true))),
        ("x.env".to_owned(), "A=file\nX1=\"quoted $B\"\nX2='single $B'\nX3=plain # comment\n".to_owned()),
        ("y.env".to_owned(), "export A=later\nY1=${A}-${X1:-none}\nB=\n".to_owned()),
    ];
    if dice.one_in(2) {
        files.push(("compose.override.yaml".to_owned(), services(dice, false)));
    }
    if dice.one_in(2) {
        files.push((".env".to_owned(), "A=dot\nP=8080\nTAG=1.2\n".to_owned()));
    }
    let mut environment = Vec::new();
    for name in ENVIRONMENT_NAMES {
        if dice.one_in(3) {
            environment.push((name.to_owned(), ["", "shell", "7", "a b"][dice.below(4)].to_owned()));
        }
    }
    let profiles = if dice.one_in(4) { vec!["dev".to_owned()] } else { Vec::new() };
    Case { name: format!("generated {seed}/{number}"), files, profiles, environment }
}

/// `services:` with one to four of them; `whole` ones can stand alone.
fn services(dice: &mut Dice, whole: bool) -> String {
    let names = ["web", "db", "cache", "job"];
    // The forms of the pools refer to the first two.
    let count = if whole { 2 + dice.below(3) } else { 1 + dice.below(2) };
    let mut text = "services:\n".to_owned();
    for (at, name) in names.iter().take(count).enumerate() {
        text.push_str(&format!("  {name}:\n"));
        if whole {
            text.push_str(&format!("    image: \"{name}:${{TAG:-latest}}\"\n"));
        }
        let mut used: Vec<&str> = Vec::new();
        for _ in 0..=dice.below(5) {
            let (key, values) = if dice.one_in(200) { dice.pick(WRONG) } else { dice.pick(RIGHT) };
            let early = at < 2 && REFERRING.contains(key);
            if early
                || *key == "image"
                || used.contains(key)
                || EXCLUSIVE.contains(key) && used.iter().any(|key| EXCLUSIVE.contains(key))
            {
                continue;
            }
            used.push(key);
            let value = dice.pick(values);
            text.push_str(&format!("    {key}: {value}\n"));
        }
        if dice.one_in(2) && !used.contains(&"ports") {
            text.push_str(&format!("    ports: [{}]\n", ports(dice)));
            used.push("ports");
        }
        if dice.one_in(2) && !used.contains(&"environment") {
            text.push_str(&format!("    environment: {}\n", environment(dice)));
        }
        if whole && at > 0 && dice.one_in(4) && !used.contains(&"depends_on") {
            text.push_str(&format!("    depends_on: [{}]\n", names[dice.below(at)]));
        }
        if at > 0 && whole && dice.one_in(6) {
            text.push_str(&format!("    extends: {}\n", names[dice.below(at)]));
        }
        if used.is_empty() && !whole {
            text.push_str("    labels: [touched]\n");
        }
    }
    text
}

/// One to three published ports, most of them well formed.
fn ports(dice: &mut Dice) -> String {
    let number = |dice: &mut Dice| match dice.below(40) {
        0 if dice.one_in(16) => 0,
        1 if dice.one_in(16) => 65_536,
        n if n < 20 => 80 + dice.below(4),
        _ => 1 + dice.below(65_535),
    };
    let one = |dice: &mut Dice| {
        let container = number(dice);
        let length = if dice.one_in(4) { dice.below(4) } else { 0 };
        let range =
            |first: usize| if length > 0 { format!("{first}-{}", first + length) } else { first.to_string() };
        let host = match dice.below(6) {
            0 => String::new(),
            1 => ":".to_owned(),
            2 => format!("{}:", number(dice)),
            3 if length > 0 => format!("{}-{}:", 9000, 9001 + dice.below(3)),
            _ => {
                let first = number(dice);
                format!("{}:", range(first))
            }
        };
        let address = ["", "", "", "", "127.0.0.1:", "0.0.0.0:", "[::1]:", "10.0.0.1:"][dice.below(8)];
        let address = if host.is_empty() { "" } else { address };
        let protocol = ["", "", "", "/tcp", "/udp", "/UDP", "/sctp", "/udp"][dice.below(8)];
        format!("\"{address}{host}{}{protocol}\"", range(container))
    };
    (0..=dice.below(3)).map(|_| one(dice)).collect::<Vec<_>>().join(", ")
}

/// A mapping or a list.
fn environment(dice: &mut Dice) -> String {
    const VALUES: &[&str] = &[
        "1",
        "1.0",
        "true",
        "null",
        "\"\"",
        "\"a b\"",
        "0x1f",
        "010",
        "1e3",
        "\"${A}\"",
        "\"${B:-def}\"",
        "\"$$C\"",
        "\"${TAG-none}\"",
        "yes",
        "\"a=b\"",
        "\"${A:+alt}\"",
        "1_000",
        "~",
        "'#x'",
    ];
    const LINES: &[&str] = &[
        "K1=1",
        "K2",
        "A",
        "K3=",
        "\"K4=a b\"",
        "\"K5=${A}\"",
        "\"K1=again\"",
        "\"K6=$$x\"",
        "\"K7=a=b\"",
        "B",
        "\"K8=${B:-d}\"",
    ];
    if dice.one_in(2) {
        let lines: Vec<&str> = (0..dice.below(5)).map(|_| *dice.pick(LINES)).collect();
        return format!("[{}]", lines.join(", "));
    }
    let members: Vec<String> = (0..dice.below(5)).map(|at| format!("K{at}: {}", dice.pick(VALUES))).collect();
    format!("{{{}}}", members.join(", "))
}
