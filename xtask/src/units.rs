//! What `systemd-analyze security` says of the shipped units, and why each line that it holds against them is so:
//! docs/units.md is written from both.
//!
//! The tool reads the files and asks no systemd. It weighs what a unit takes away, not what the program gives up itself.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use crate::workspace::Workspace;

/// The page, below the top folder.
const PAGE: &str = "docs/units.md";

/// The tool.
const ANALYZE: &str = "systemd-analyze";

/// Release of systemd that the page is written by: others weigh other lines.
const RELEASE: u32 = 252;

/// How much more another release may find.
const MARGIN: f64 = 0.5;

const HEAD: &str = "\
# Exposure of the units

What `systemd-analyze security` holds against the shipped units, by systemd 252, and why. `cargo xtask units` compares,
`cargo xtask units --write` writes this page anew. 0 would be a unit that can do nothing, 10 one that is kept from nothing. The tool
reads what a unit takes away; what the program gives up itself, before the first byte from outside, is in
[sandbox.md](sandbox.md) and not in the figure: whoever is on the other side of a port meets a process with none of this.

```text
systemd-analyze security --offline=true contrib/systemd/portway.service
systemd-analyze security --offline=true contrib/systemd/portway-ssh.service
```
";

/// A shipped unit, and the reasons for what is held against it.
struct Unit {
    name: &'static str,
    reasons: &'static [(&'static str, &'static str)],
}

const ADDRESSES: &str = "ports, control sockets and servers have them";
const ANYWHERE: &str = "a socket is published at any path of the host";
const ITS_WORK: &str = "its work needs it, and workers are started without it";

const UNITS: [Unit; 2] = [
    Unit {
        name: "portway.service",
        reasons: &[
            (
                "User=/DynamicUser=",
                "it enters network namespaces, opens ports for others and gives up ids for each worker",
            ),
            (
                "CapabilityBoundingSet=~CAP_SYS_ADMIN",
                "network namespaces of instances; private root folders of workers",
            ),
            (
                "CapabilityBoundingSet=~CAP_SYS_PTRACE",
                "the namespaces and the root of an instance's first process",
            ),
            ("CapabilityBoundingSet=~CAP_NET_ADMIN", "its own table of nf_tables, and connection tracking"),
            (
                "CapabilityBoundingSet=~CAP_SET(UID|GID|PCAP)",
                "each worker is another user, without a bounding set",
            ),
            (
                "CapabilityBoundingSet=~CAP_(CHOWN|FSETID|SETFCAP)",
                "a socket belongs to whom its device says; CAP_FSETID and CAP_SETFCAP are not there",
            ),
            (
                "CapabilityBoundingSet=~CAP_(DAC_*|FOWNER|IPC_OWNER)",
                "a socket is made in a folder of another user; CAP_IPC_OWNER is not there",
            ),
            (
                "CapabilityBoundingSet=~CAP_KILL",
                "workers of a daemon that has gone are ended by the next one",
            ),
            (
                "CapabilityBoundingSet=~CAP_NET_(BIND_SERVICE|BROADCAST|RAW)",
                "ports below 1024; the others are not there",
            ),
            ("RestrictAddressFamilies=~AF_(INET|INET6)", ADDRESSES),
            ("RestrictAddressFamilies=~AF_UNIX", ADDRESSES),
            ("RestrictAddressFamilies=~AF_NETLINK", "nf_tables and connection tracking"),
            (
                "RestrictAddressFamilies=~AF_PACKET",
                "networks of the mesh where there is no /dev/net/tun, in user namespaces of their own",
            ),
            ("RestrictNamespaces=~mnt", "workers and sessions hide the files of the host"),
            ("RestrictNamespaces=~net", "a worker lives in the network namespace that it dials from"),
            ("RestrictNamespaces=~user", "networks of the mesh have their stack in one"),
            ("RestrictSUIDSGID=", "it takes `openat2` away, by which a path of an instance cannot lead out"),
            ("SystemCallFilter=~@mount", "workers hide the files of the host"),
            (
                "SystemCallFilter=~@privileged",
                "users, owners and capabilities are changed; the program refuses much of it itself",
            ),
            ("SystemCallFilter=~@resources", "workers and sessions say when they run"),
            ("ProtectSystem=", ANYWHERE),
            ("ProtectHome=", ANYWHERE),
            ("PrivateTmp=", ANYWHERE),
            ("RootDirectory=/RootImage=", ANYWHERE),
            (
                "PrivateMounts=",
                "a view of the file system of its own would be that of all workers and networks, which outlive the daemon, and nobody could change it for them",
            ),
            (
                "ProtectControlGroups=",
                "it needs a view of the file system of its own; it has no use for control groups",
            ),
            (
                "ProtectKernelLogs=",
                "it needs a view of the file system of its own; `syslog` is refused by the program, and CAP_SYSLOG is not there",
            ),
            (
                "ProtectKernelModules=",
                "it needs a view of the file system of its own; calls for modules are refused, and CAP_SYS_MODULE is not there",
            ),
            (
                "ProtectKernelTunables=",
                "it needs a view of the file system of its own; the stack of a network sets one of its own namespace",
            ),
            (
                "ProtectProc=",
                "it needs a view of the file system of its own; instances are found by their processes",
            ),
            (
                "ProcSubset=",
                "it needs a view of the file system of its own; forwarding and bridges are looked up below /proc/sys",
            ),
            (
                "PrivateDevices=",
                "it needs a view of the file system of its own; DevicePolicy= leaves /dev/net/tun and what every program has",
            ),
            (
                "DeviceAllow=",
                "/dev/net/tun for networks of the mesh; the clock to be read comes with ProtectClock=",
            ),
            ("PrivateNetwork=", "it publishes ports of the host"),
            ("PrivateUsers=", "it works for users of the host"),
            ("IPAddressDeny=", "who may come is said for each device (`allow`, `deny`)"),
        ],
    },
    Unit {
        name: "portway-ssh.service",
        reasons: &[
            ("User=/DynamicUser=", "each connection becomes another user; keys are read in homes"),
            (
                "CapabilityBoundingSet=~CAP_SYS_ADMIN",
                "private root folders of sessions; network namespaces of containers",
            ),
            ("CapabilityBoundingSet=~CAP_SYS_PTRACE", "the network namespace of a container's first process"),
            (
                "CapabilityBoundingSet=~CAP_SET(UID|GID|PCAP)",
                "each connection is another user, without a bounding set",
            ),
            (
                "CapabilityBoundingSet=~CAP_(DAC_*|FOWNER|IPC_OWNER)",
                "keys are read in homes (CAP_DAC_READ_SEARCH); the others are not there",
            ),
            ("CapabilityBoundingSet=~CAP_KILL", "who asks for more than the table has is killed"),
            (
                "CapabilityBoundingSet=~CAP_NET_(BIND_SERVICE|BROADCAST|RAW)",
                "port 22, where that is its port; the others are not there",
            ),
            ("RestrictAddressFamilies=~AF_(INET|INET6)", ADDRESSES),
            ("RestrictAddressFamilies=~AF_UNIX", ADDRESSES),
            ("RestrictAddressFamilies=~AF_NETLINK", "the host's resolver asks for its addresses"),
            ("RestrictNamespaces=~mnt", "sessions hide the files of the host"),
            ("RestrictNamespaces=~net", "a helper is listened for in the namespace of its container"),
            ("SystemCallFilter=~@mount", "sessions hide the files of the host"),
            ("SystemCallFilter=~@privileged", ITS_WORK),
            ("SystemCallFilter=~@resources", "what somebody types goes before what others transfer"),
            (
                "ProtectSystem=",
                "/usr, /boot and /etc are read-only; the log and the recordings are where the operator says",
            ),
            ("ProtectHome=", "keys of people are read in their homes"),
            ("RootDirectory=/RootImage=", "users, groups and the operator's programs are the host's"),
            (
                "PrivateMounts=",
                "it has a view of the file system of its own by the other lines; the tool does not count that",
            ),
            ("ProcSubset=", "programs of the operator that are asked for keys may look below /proc/sys"),
            ("DeviceAllow=", "the clock to be read, with ProtectClock="),
            ("PrivateNetwork=", "it listens on a port of the host"),
            ("PrivateUsers=", "it works for users of the host"),
            ("IPAddressDeny=", "who may come is said by keys and policy"),
        ],
    },
];

/// One line of the tool.
#[derive(Debug, Deserialize)]
struct Line {
    set: Option<bool>,
    name: String,
    exposure: Option<String>,
}

/// What the tool says of a unit.
struct Judged {
    overall: f64,
    against: Vec<Line>,
}

/// Compares the page with the tool, or writes it.
///
/// # Errors
/// When the tool is not there, when the page differs, when a line has no reason or a reason no line.
pub(crate) fn check(workspace: &Workspace, write: bool) -> anyhow::Result<()> {
    let release = release()?;
    let path = workspace.root().join(PAGE);
    let dir = workspace.root().join("contrib/systemd");
    if release != RELEASE && !write {
        return compare_roughly(&fs::read_to_string(&path).context(PAGE)?, &dir, release);
    }
    ensure!(release == RELEASE, "the page is written by systemd {RELEASE}, and this is {release}");
    let mut page = HEAD.to_owned();
    for unit in &UNITS {
        describe(unit, &judge(&dir.join(unit.name))?, &mut page)?;
    }
    if write {
        return fs::write(&path, page).with_context(|| format!("cannot write {PAGE}"));
    }
    let there = fs::read_to_string(&path).with_context(|| format!("cannot read {PAGE}"))?;
    ensure!(there == page, "{PAGE} differs from what the tool says: cargo xtask units --write");
    println!("{PAGE} says what {ANALYZE} says");
    Ok(())
}

/// Another release has other lines: the figure must not be much above that of the page.
fn compare_roughly(page: &str, dir: &Path, release: u32) -> anyhow::Result<()> {
    for unit in &UNITS {
        let line = page.lines().find_map(|line| line.strip_prefix(&heading(unit.name)));
        let said: f64 = line.context("a unit is not in the page")?.trim().parse().context("a figure")?;
        let found = judge(&dir.join(unit.name))?.overall;
        ensure!(found <= said + MARGIN, "{}: {found} by systemd {release}, {said} in {PAGE}", unit.name);
        println!("{}: {found} by systemd {release}, {said} in {PAGE}", unit.name);
    }
    Ok(())
}

fn heading(unit: &str) -> String {
    format!("## {unit}: ")
}

fn describe(unit: &Unit, judged: &Judged, page: &mut String) -> anyhow::Result<()> {
    write!(
        page,
        "\n{}{:.1}\n\n| held against it | exposure | why it is so |\n|---|---|---|\n",
        heading(unit.name),
        judged.overall
    )?;
    for line in &judged.against {
        let reason = unit.reasons.iter().find(|(name, _)| *name == line.name);
        let Some((_, reason)) = reason else { bail!("{}: {} has no reason", unit.name, line.name) };
        let name = line.name.replace('|', "\\|");
        writeln!(page, "| `{name}` | {} | {reason} |", line.exposure.as_deref().unwrap_or("-"))?;
    }
    let is_held = |name: &str| judged.against.iter().any(|line| line.name == name);
    let idle = unit.reasons.iter().find(|(name, _)| !is_held(name));
    ensure!(idle.is_none(), "{}: {idle:?} is not held against it", unit.name);
    Ok(())
}

fn judge(unit: &Path) -> anyhow::Result<Judged> {
    let text = analyze(unit, &[])?;
    let overall = text.lines().find_map(|line| line.split_once("Overall exposure level for "));
    let figure = overall.and_then(|(_, rest)| rest.split_once(": ")?.1.split(' ').next()?.parse().ok());
    let lines: Vec<Line> = serde_json::from_str(&analyze(unit, &["--json=short"])?).context("its JSON")?;
    let mut against: Vec<Line> = lines.into_iter().filter(|line| line.set == Some(false)).collect();
    against.sort_by(|one, two| two.exposure.cmp(&one.exposure).then_with(|| one.name.cmp(&two.name)));
    Ok(Judged { overall: figure.context("no figure in what the tool says")?, against })
}

/// The tool ends with 1 where there is anything to be said.
fn analyze(unit: &Path, more: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(ANALYZE);
    command.args(["security", "--offline=true", "--no-pager", "--threshold=100"]).args(more).arg(unit);
    let output = command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {ANALYZE} (package systemd)"))?;
    ensure!(output.status.success(), "{ANALYZE}: {}", String::from_utf8_lossy(&output.stderr).trim());
    String::from_utf8(output.stdout).context("its output")
}

fn release() -> anyhow::Result<u32> {
    let output = Command::new(ANALYZE).arg("--version").stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {ANALYZE} (package systemd)"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let release = text.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    release.with_context(|| format!("no release in `{}`", text.trim()))
}
