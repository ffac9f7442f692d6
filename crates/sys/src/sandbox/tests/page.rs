//! docs/sandbox.md, written from the tables that the program uses.
//!
//! The page differs: `PORTWAY_WRITE_DOCS=1 cargo nextest run -p portway-sys -E 'test(the_page)'` writes it anew.

use std::fmt::Write as _;

use super::super::seccomp::{Allowed, When, denied};
use super::*;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/sandbox.md");

const HEAD: &str = "\
# What each process gives up

This page is written by a test from the tables in the program; another one makes each call that is not in them, with
every number there is, in a process of each kind. [security.md](security.md) says what it is for, and
[units.md](units.md) what systemd takes away besides.

| process | is |
|---|---|
| worker | `portway worker`: relays for the devices of an instance, or for a network of the mesh |
| session | `portway ssh session`: speaks SSH, one for each connection |
| tunnel | `portway ssh tunnel`: speaks TLS with a server elsewhere |
| keeper | `portway keeper`: holds duplicates of listeners |
| stack | `mesh-stack` with smoltcp |
| inside | `mesh-stack` with the kernel's stack: root of a user namespace of its own, and nobody outside of it |

## For good, before the first byte from outside

";

const REST: &str = "\
| environment | empty | empty | empty | empty | one fixed setting of the C library | empty |
| descriptors | those it was given | the same | the same | the same | the same | the same |
| umask, terminal | 0077, none | the same | the same | the same | the same | the same |

Landlock is as much as the kernel has: files with Linux 5.13, ports with 6.7, signals and sockets without a path with
6.12. `portway doctor` says which version there is. A worker dials, so tcp ports and sockets without a path stay open to
it. Where a daemon is not root of the host, the empty root folder is left out when the kernel refuses it.

A kernel that has them lets `uprobe` and `uretprobe` by every filter: it puts them itself into programs that are traced. They do
nothing for anybody else.

## System calls

Any other ends the process, in all its threads (SIGSYS). So does one with other arguments; they are counted from 0. `-`: not in the list.

";

const DENIED: &str = "
## Refused to those that start others

The daemon, the gateway, `portway proxy` and the networks of the mesh start processes, and a filter stays with all that
they start; programs of the operator and modules of the host's resolver are among it. So they have no list of what may
pass, but these calls are refused to them and to all that they start (EPERM), whatever the arguments. No exec of
theirs gains a privilege, nobody of the same user can look into them, and they leave no core.

| call | reaches | refused to |
|---|---|---|
";

/// Names of the values that arguments are compared with.
fn value_name(call: &str, value: u32) -> &'static str {
    match (call, value) {
        ("socket" | "socketpair", 1) => "AF_UNIX",
        ("socket", 2) => "AF_INET",
        ("socket", 10) => "AF_INET6",
        ("ioctl", 0x541b) => "FIONREAD",
        ("ioctl", 0x5411) => "SIOCOUTQ",
        ("ioctl", 0x5421) => "FIONBIO",
        ("fcntl", 1) => "F_GETFD",
        ("fcntl", 2) => "F_SETFD",
        ("fcntl", 3) => "F_GETFL",
        ("fcntl", 4) => "F_SETFL",
        ("fcntl", 1030) => "F_DUPFD_CLOEXEC",
        ("fcntl", 1031) => "F_SETPIPE_SZ",
        ("fcntl", 1032) => "F_GETPIPE_SZ",
        ("openat", 0xffff_ff9c) => "AT_FDCWD",
        ("sched_setattr", 0) => "itself",
        _ => panic!("{call}: {value:#x} has no name here"),
    }
}

fn condition(call: &str, when: When) -> String {
    match when {
        When::Always => "any".to_owned(),
        When::OneOf(at, values) => {
            let names: Vec<_> = values.iter().map(|value| value_name(call, *value)).collect();
            format!("{at}: {}", names.join(", "))
        }
        When::Without(at, bits) if call.starts_with('m') => {
            assert_eq!(bits, libc::PROT_EXEC.cast_unsigned());
            format!("{at}: without PROT_EXEC")
        }
        When::Without(at, _) => format!("{at}: neither writes, creates, appends nor truncates"),
        When::OwnPid(at) => format!("{at}: its own pid"),
        When::Both(one, two) => format!("{}; {}", condition(call, *one), condition(call, *two)),
    }
}

fn row(text: &mut String, cells: impl IntoIterator<Item = String>) {
    let cells: Vec<_> = cells.into_iter().collect();
    writeln!(text, "| {} |", cells.join(" | ")).unwrap();
}

/// One row for each role, `of` saying what stands in it.
fn given_up(text: &mut String, what: &str, of: impl Fn(Role) -> &'static str) {
    row(text, std::iter::once(what.to_owned()).chain(Role::ALL.map(|role| of(role).to_owned())));
}

fn head(text: &mut String, first: &str, last: &[&str]) {
    let names = Role::ALL.map(|role| role.name().to_owned());
    let cells: Vec<_> = std::iter::once(first.to_owned())
        .chain(names)
        .chain(last.iter().map(|cell| (*cell).to_owned()))
        .collect();
    let count = cells.len();
    row(text, cells);
    writeln!(text, "|{}", "---|".repeat(count)).unwrap();
}

fn sandbox(text: &mut String) {
    head(text, "", &[]);
    given_up(text, "files of the host", |role| match role {
        Role::Inside => "what its user sees",
        Role::Stack => "none, where it may hide them",
        _ => "none but /proc of processes",
    });
    given_up(text, "capabilities", |role| {
        let kept = role::keeps(role);
        if kept.is_empty() {
            return "none, nor in the bounding set";
        }
        assert_eq!(kept, CapabilitySet::NET_RAW | CapabilitySet::NET_BIND_SERVICE);
        "`NET_RAW`, `NET_BIND_SERVICE` of its own namespace"
    });
    for what in ["no_new_privs", "not dumpable", "no core, no process and no thread more (limits)"] {
        given_up(text, what, |_| "yes");
    }
    given_up(text, "locked memory", |role| if role == Role::Session { "its keys" } else { "none (limit)" });
    given_up(text, "Landlock: files", |_| "reads below /proc");
    given_up(text, "Landlock: tcp", |role| match role::dials(role) {
        Calls::Out => "binds nothing",
        Calls::Nobody => "neither binds nor dials",
        Calls::Inside => "all of its own namespace",
    });
    given_up(text, "Landlock: signals", |_| "to itself");
    given_up(text, "Landlock: unix sockets without a path", |role| match role::dials(role) {
        Calls::Out => "all",
        Calls::Nobody | Calls::Inside => "its own",
    });
    text.push_str(REST);
}

/// The page as the program has it.
fn page() -> String {
    let mut text = HEAD.to_owned();
    sandbox(&mut text);
    head(&mut text, "call", &["arguments", "for"]);
    let mut calls: Vec<&Allowed> = Vec::new();
    for call in Role::ALL.iter().flat_map(|role| role.calls()) {
        if !calls.contains(&call) {
            calls.push(call);
        }
    }
    calls.sort_by_key(|call| call.name);
    for call in calls {
        let has = |role: Role| if role.calls().any(|other| other == call) { "yes" } else { "-" };
        let last = [condition(call.name, call.when), call.why.to_owned()];
        let first = std::iter::once(format!("`{}`", call.name));
        row(&mut text, first.chain(Role::ALL.map(|role| has(role).to_owned())).chain(last));
    }
    text.push_str(DENIED);
    let all: Vec<_> = denied(Denies::Root).collect();
    for (reaches, calls) in denied(Denies::Network) {
        let whom = if all.iter().any(|(other, _)| *other == reaches) { "all of them" } else { "networks" };
        let names: Vec<_> = calls.iter().map(|call| format!("`{}`", call.name)).collect();
        row(&mut text, [names.join(" "), reaches.to_owned(), whom.to_owned()]);
    }
    text
}

/// Fails when: the page says another thing than the program does. On x86-64 alone: others lack a few of the calls.
#[test]
#[cfg(target_arch = "x86_64")]
fn the_page_says_what_is_done() {
    let page = page();
    if std::env::var_os("PORTWAY_WRITE_DOCS").is_some() {
        fs::write(PAGE, &page).unwrap();
    }
    let there = fs::read_to_string(PAGE).unwrap_or_default();
    assert!(there == page, "docs/sandbox.md differs; write it anew with PORTWAY_WRITE_DOCS=1");
}
