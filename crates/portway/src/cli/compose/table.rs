//! The page of commands and flags: those of docker compose 2.26 and of incus-compose 1.2 beside the ones that are here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::process::Command as Process;

use clap::{Arg, Command};
use portway_testkit::{require, testbed};

/// A command and its flags; without a name those that stand before one.
type Row = (&'static str, &'static str);

/// As `docker compose --help` and the help of its commands have them, but for `--dry-run`, which all have.
const DOCKER: &[Row] = &[
    (
        "",
        "--ansi --compatibility --dry-run --env-file -f,--file --parallel --profile --progress --project-directory -p,--project-name",
    ),
    ("attach", "--detach-keys --index --no-stdin --sig-proxy"),
    (
        "build",
        "--build-arg --builder -m,--memory --no-cache --pull --push -q,--quiet --ssh --with-dependencies",
    ),
    (
        "config",
        "--format --hash --images --no-consistency --no-interpolate --no-normalize --no-path-resolution -o,--output --profiles -q,--quiet --resolve-image-digests --services --variables --volumes",
    ),
    ("cp", "-a,--archive -L,--follow-link --index"),
    (
        "create",
        "--build --force-recreate --no-build --no-recreate --pull --quiet-pull --remove-orphans --scale",
    ),
    ("down", "--remove-orphans --rmi -t,--timeout -v,--volumes"),
    ("events", "--json"),
    ("exec", "-d,--detach -e,--env --index -T,--no-TTY --privileged -u,--user -w,--workdir"),
    ("images", "--format -q,--quiet"),
    ("kill", "--remove-orphans -s,--signal"),
    ("logs", "-f,--follow --index --no-color --no-log-prefix --since -n,--tail -t,--timestamps --until"),
    ("ls", "-a,--all --filter --format -q,--quiet"),
    ("pause", ""),
    ("port", "--index --protocol"),
    ("ps", "-a,--all --filter --format --no-trunc --orphans -q,--quiet --services --status"),
    ("pull", "--ignore-buildable --ignore-pull-failures --include-deps --policy -q,--quiet"),
    ("push", "--ignore-push-failures --include-deps -q,--quiet"),
    ("restart", "--no-deps -t,--timeout"),
    ("rm", "-f,--force -s,--stop -v,--volumes"),
    (
        "run",
        "--build --cap-add --cap-drop -d,--detach --entrypoint -e,--env -i,--interactive -l,--label --name -T,--no-TTY --no-deps -p,--publish --quiet-pull --remove-orphans --rm -P,--service-ports --use-aliases -u,--user -v,--volume -w,--workdir",
    ),
    ("scale", "--no-deps"),
    ("start", ""),
    ("stats", "-a,--all --format --no-stream --no-trunc"),
    ("stop", "-t,--timeout"),
    ("top", ""),
    ("unpause", ""),
    (
        "up",
        "--abort-on-container-exit --always-recreate-deps --attach --attach-dependencies --build -d,--detach --exit-code-from --force-recreate --no-attach --no-build --no-color --no-deps --no-log-prefix --no-recreate --no-start --pull --quiet-pull --remove-orphans -V,--renew-anon-volumes --scale -t,--timeout --timestamps --wait --wait-timeout -w,--watch",
    ),
    ("version", "-f,--format --short"),
    ("wait", "--down-project"),
    ("watch", "--no-up --quiet"),
];

/// As the manual of incus-compose has them.
const INCUS: &[Row] = &[
    (
        "",
        "--remote -f,--file -p,--project-name -P,--project-directory --profile --env-file -E,--os-env --image-cache --storage-pool --workers --ansi --debug --trace",
    ),
    (
        "up",
        "-d,--detach --recreate --no-start --timeout --dependency-timeout --scale --pull --build --no-build --builder --no-deps --no-healthd --external-healthd --healthd-image --healthd-binary --healthd-incus --healthd-network --healthd-scope",
    ),
    (
        "down",
        "--project --volumes --rmi --images --timeout --no-deps --no-networks --scale --no-healthd --external-healthd",
    ),
    ("start", "--timeout --with-deps"),
    ("stop", "--timeout --with-deps"),
    ("restart", "--timeout --with-deps"),
    ("ps", "-a,--all -q,--quiet --services --format --with-deps"),
    ("list", "--format --no-healthd"),
    ("logs", "-f,--follow"),
    (
        "exec",
        "-d,--detach --dry-run -e,--env --index -T,--no-tty --privileged -u,--user -g,--group -w,--workdir",
    ),
    (
        "config",
        "--format --services --volumes --networks --profiles --images --environment --variables -q,--quiet -o,--output",
    ),
    (
        "pull",
        "--policy --ignore-buildable --ignore-pull-failures --include-deps --with-deps --no-healthd --healthd-image",
    ),
    ("build", "--no-cache --pull --builder"),
    ("incus", ""),
    ("healthd", ""),
    ("version", ""),
    ("self-update", "--draft --pre-release"),
];

/// What is not here, and will not be: command, flag, why. Without a command it is any of them.
const REASONS: &[(&str, &str, &str)] = &[
    ("self-update", "", "packages are updated by whoever installs them"),
    ("self-update", "--draft", "packages are updated by whoever installs them"),
    ("self-update", "--pre-release", "packages are updated by whoever installs them"),
    ("run", "--use-aliases", "the name of a service leads to its replicas"),
    ("up", "--renew-anon-volumes", "volumes without a name stay with their instance; `rm -v` removes them"),
    ("exec", "--privileged", "a program has what the instance has"),
    ("config", "--no-consistency", "what does not fit together is never printed"),
    ("config", "--no-normalize", "there is one form"),
    ("config", "--no-path-resolution", "there is one form"),
];

/// Where a command or a flag is had.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Line {
    /// Its short form, if any.
    short: Option<char>,
    docker: bool,
    incus: bool,
    ours: Option<String>,
}

/// By command, then by flag; the flag without a name is the command itself.
type Table = BTreeMap<String, BTreeMap<String, Line>>;

fn words(row: &str) -> impl Iterator<Item = (Option<char>, &str)> {
    row.split_whitespace().map(|word| match word.split_once(',') {
        Some((short, long)) => (short.chars().nth(1), long),
        None => (None, word),
    })
}

fn enter(table: &mut Table, rows: &[Row], mark: fn(&mut Line)) {
    for (command, flags) in rows {
        let lines = table.entry((*command).to_owned()).or_default();
        mark(lines.entry(String::new()).or_default());
        for (short, long) in words(flags) {
            let line = lines.entry(long.to_owned()).or_default();
            line.short = line.short.or(short);
            mark(line);
        }
    }
}

/// What our help says of a flag.
fn said(arg: &Arg) -> String {
    if arg.is_hide_set() { "taken, without effect".to_owned() } else { "yes".to_owned() }
}

fn enter_ours(table: &mut Table, command: &Command, name: &str) {
    let lines = table.entry(name.to_owned()).or_default();
    lines.entry(String::new()).or_default().ours = Some("yes".to_owned());
    for arg in command.get_arguments().filter(|arg| !arg.is_positional()) {
        let Some(long) = arg.get_long().filter(|long| !matches!(*long, "help" | "version")) else { continue };
        let line = lines.entry(format!("--{long}")).or_default();
        line.short = line.short.or(arg.get_short());
        line.ours = Some(said(arg));
        for alias in arg.get_all_aliases().unwrap_or_default() {
            let line = lines.entry(format!("--{alias}")).or_default();
            line.ours = Some(format!("as `--{long}`"));
        }
    }
}

fn compose() -> Command {
    let mut all = crate::cli::command();
    all.build();
    all.find_subcommand("compose").expect("it is a command").clone()
}

fn table() -> Table {
    let mut table = Table::new();
    enter(&mut table, DOCKER, |line| line.docker = true);
    enter(&mut table, INCUS, |line| line.incus = true);
    let compose = compose();
    enter_ours(&mut table, &compose, "");
    for command in compose.get_subcommands().filter(|command| command.get_name() != "help") {
        enter_ours(&mut table, command, command.get_name());
        for alias in command.get_all_aliases() {
            let own = table.entry(alias.to_owned()).or_default().entry(String::new()).or_default();
            own.ours = Some(format!("as `{}`", command.get_name()));
        }
    }
    behind_the_command(&mut table);
    table
}

/// What stands before the command elsewhere, and behind it here.
fn behind_the_command(table: &mut Table) {
    let behind: BTreeSet<String> = table
        .iter()
        .filter(|(command, _)| !command.is_empty())
        .flat_map(|(_, lines)| lines.iter().filter(|(_, line)| line.ours.is_some()))
        .map(|(flag, _)| flag.clone())
        .collect();
    for (flag, line) in table.get_mut("").into_iter().flatten() {
        if line.ours.is_none() && behind.contains(flag) {
            line.ours = Some("behind the command".to_owned());
        }
    }
}

fn cell(has: bool) -> &'static str {
    if has { "yes" } else { "" }
}

/// The table for the manual.
fn markdown(table: &Table) -> String {
    let mut text =
        "| command | flag | docker compose | incus-compose | here |\n|---|---|---|---|---|\n".to_owned();
    for (command, lines) in table {
        for (flag, line) in lines {
            if command.is_empty() && flag.is_empty() {
                continue;
            }
            let reason = REASONS.iter().find(|(of, name, _)| of == command && name == flag);
            let here = match (&line.ours, reason) {
                (Some(said), _) => said.clone(),
                (None, Some((_, _, why))) => format!("no: {why}"),
                (None, None) => "no".to_owned(),
            };
            let flag = match line.short {
                _ if flag.is_empty() => String::new(),
                Some(short) => format!("`-{short}`, `{flag}`"),
                None => format!("`{flag}`"),
            };
            let command = if command.is_empty() { String::new() } else { format!("`{command}`") };
            let (docker, incus) = (cell(line.docker), cell(line.incus));
            let _infallible = writeln!(text, "| {command} | {flag} | {docker} | {incus} | {here} |");
        }
    }
    text
}

/// Whether somebody has a command or flag.
type Has = fn(&Line) -> bool;

/// How many commands and flags of the one and of the other are here.
fn summary(table: &Table) -> String {
    let mut text = "| | commands | here | flags | here |\n|---|---|---|---|---|\n".to_owned();
    let columns: [(&str, Has); 2] =
        [("docker compose 2.26", |line| line.docker), ("incus-compose 1.2", |line| line.incus)];
    for (name, has) in columns {
        let (mut counts, mut here) = ([0; 2], [0; 2]);
        for (command, lines) in table {
            for (flag, line) in lines.iter().filter(|(_, line)| has(line)) {
                if command.is_empty() && flag.is_empty() {
                    continue;
                }
                let kind = usize::from(!flag.is_empty());
                counts[kind] += 1;
                here[kind] += usize::from(line.ours.is_some());
            }
        }
        let _infallible =
            writeln!(text, "| {name} | {} | {} | {} | {} |", counts[0], here[0], counts[1], here[1]);
    }
    text
}

/// Fails when the page is not what the arguments are. With `INSTA_UPDATE=always` it is written.
#[test]
fn the_manual_has_the_commands_and_flags() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/compose-commands.md");
    let page = fs::read_to_string(path).expect("the page is there");
    let (head, _) = page.split_once("| | commands |").expect("it has a table");
    let table = table();
    let wanted = format!("{head}{}\n{}", summary(&table), markdown(&table));
    if std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
        fs::write(path, &wanted).expect("it can be written");
    }
    assert!(
        page == wanted,
        "docs/compose-commands.md is not what the arguments are: run this test with INSTA_UPDATE=always"
    );
}

/// Fails when a reason is given for what is here, or for what nobody has.
#[test]
fn reasons_are_for_what_is_not_here() {
    let table = table();
    for (command, flag, why) in REASONS {
        let line = table.get(*command).and_then(|lines| lines.get(*flag));
        let line = line.unwrap_or_else(|| panic!("{command} {flag} is nobody's"));
        assert!(line.ours.is_none(), "{command} {flag} is here, and not {why}");
    }
}

/// Flags of a help text.
fn listed(help: &str) -> BTreeSet<String> {
    let options = help.split("\nOptions:\n").nth(1).unwrap_or_default();
    let options = options.split("\nCommands:").next().unwrap_or_default();
    let flag = |line: &str| {
        let line = line.strip_prefix("  ")?.trim_start();
        let (short, rest) = match line.split_once(", --") {
            Some((short, rest)) if short.len() == 2 => (format!("{short},"), rest),
            _ => (String::new(), line.strip_prefix("--")?),
        };
        let long: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '-').collect();
        Some(format!("{short}--{long}"))
    };
    let indented = |line: &&str| line.len() - line.trim_start().len() <= 6;
    options.lines().filter(indented).filter_map(flag).collect()
}

/// Fails when what is said of docker compose is not what its help says.
#[test]
fn the_other_side_is_what_its_help_says() {
    let oracle = match testbed::compose_oracle() {
        Ok(oracle) => oracle,
        Err(error) => return require(&format!("no oracle: {error:#}")),
    };
    for (command, flags) in DOCKER {
        let mut help = Process::new(&oracle);
        help.args(Some(*command).filter(|command| !command.is_empty())).arg("--help");
        let output = help.env_clear().env("HOME", "/nonexistent").output().expect("it can be run");
        let mut theirs = listed(&String::from_utf8_lossy(&output.stdout));
        if !command.is_empty() {
            assert!(theirs.remove("--dry-run"), "{command}");
        }
        let known: BTreeSet<String> = flags.split_whitespace().map(str::to_owned).collect();
        assert_eq!(theirs, known, "{command}");
    }
    let output = Process::new(&oracle).arg("--help").env_clear().output().expect("it can be run");
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    let commands = help.split("\nCommands:\n").nth(1).and_then(|rest| rest.split("\n\n").next());
    let names = commands.into_iter().flat_map(str::lines).filter_map(|line| line.split_whitespace().next());
    let known = DOCKER.iter().map(|(command, _)| *command).filter(|command| !command.is_empty());
    assert_eq!(names.collect::<Vec<_>>(), known.collect::<Vec<_>>());
}
