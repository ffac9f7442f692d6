//! The bed's daemon: started in the bed's namespace, found again by anybody, ended with all that
//! it started.
//!
//! It runs in a mount namespace of its own, which gives it a `/sys` that shows the bed's network
//! (bridges are set up through it) with the machine's cgroups kept in it (pause, limits and figures
//! need them), and the bed's own range of ids whatever `/etc/subuid` says.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::{Place, Server, packages, root, say};
use crate::{Api, run};

/// How long a new daemon may take to answer; 0.5 s where nothing else runs.
const START: Duration = Duration::from_secs(60);

/// How long an old daemon may take to answer here; its callers have been patient already.
const ANSWER: Duration = Duration::from_secs(2);

/// How long its parts may take to end when told to.
const END: Duration = Duration::from_secs(10);

const ENTER: &str = "\
#!/bin/sh
# Becomes the program in its arguments, in this mount namespace made fit for it.
set -e
own=$(dirname \"$0\")
mount --make-rprivate /
mkdir -p \"$own/cgroup\"
mount --rbind /sys/fs/cgroup \"$own/cgroup\"
mount -t sysfs sysfs /sys
mount --rbind \"$own/cgroup\" /sys/fs/cgroup
for file in subuid subgid; do
	[ -e /etc/$file ] || : > /etc/$file
	mount --bind \"$own/$file\" /etc/$file
done
exec \"$@\"
";

/// The same in another root: the state folder and our own have the same paths there as outside, so
/// that pids, paths and the socket mean the same to the daemon and to everybody else.
const ENTER_ROOT: &str = "\
#!/bin/sh
# $1: the root, $2: the state folder; becomes the program in the other arguments.
set -e
own=$(dirname \"$0\") root=$1 dir=$2
shift 2
mount --make-rprivate /
mount --bind \"$root\" \"$root\"
cd \"$root\"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mkdir -p run/lock old \".$dir\" \".$own\"
mount --rbind \"$dir\" \".$dir\"
mount --bind \"$own\" \".$own\"
for file in subuid subgid; do
	mount --bind \"$own/$file\" etc/$file
done
pivot_root . old
umount -l /old
cd /
exec \"$@\"
";

/// Whether the daemon answers, and lives in the bed's namespace.
pub(super) fn is_healthy(place: &Place, patience: Duration) -> bool {
    let answer = Api::new(&place.socket()).call("GET", "/1.0", None, patience);
    let Ok(answer) = answer else { return false };
    let Some(pid) = answer.body["metadata"]["environment"]["server_pid"].as_i64() else { return false };
    let inode = |path: &Path| fs::metadata(path).map(|meta| meta.ino()).ok();
    let its = inode(Path::new(&format!("/proc/{pid}/ns/net")));
    its.is_some() && its == inode(&place.netns_path())
}

/// Starts the daemon, or finds it healthy. One that is not is ended first; containers of it that
/// still run are taken over by the new one.
pub(super) fn start(place: &Place) -> Result<()> {
    if is_healthy(place, ANSWER) {
        return Ok(());
    }
    let stale = processes(place, Part::Daemon);
    if !stale.is_empty() {
        say("ending a daemon that does not answer");
        end(&stale, Signal::SIGKILL);
        wait_for_end(place, &[Part::Daemon], END);
    }
    // Containers in a namespace that is gone are of no use.
    if !processes(place, Part::Monitor).is_empty() && !shares_netns(place) {
        end_containers(place);
    }
    end(&processes(place, Part::Helper), Signal::SIGKILL);
    write_own_files(place)?;
    let mut child = spawn(place)?;
    let begin = Instant::now();
    while !is_healthy(place, ANSWER) {
        if let Some(status) = child.try_wait().context("cannot watch the daemon")? {
            bail!("the daemon ended with {status}: {}", last_lines(place));
        }
        if begin.elapsed() > START {
            end(&processes(place, Part::Daemon), Signal::SIGKILL);
            bail!("the daemon does not answer: {}", last_lines(place));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Ends the daemon alone; containers run on.
pub(super) fn stop(place: &Place) {
    end(&processes(place, Part::Daemon), Signal::SIGTERM);
    wait_for_end(place, &[Part::Daemon], END);
    kill(place);
}

/// The same without asking it.
pub(super) fn kill(place: &Place) {
    end(&processes(place, Part::Daemon), Signal::SIGKILL);
    wait_for_end(place, &[Part::Daemon], END);
}

/// Ends everything that belongs to the bed and removes its files and its namespace. Goes on after
/// a failure and reports the first one.
pub(super) fn remove(place: &Place) -> Result<()> {
    let _ = fs::remove_file(place.own_dir.join("stamp"));
    let containers = container_names(place);
    // The daemon is alive meanwhile: the monitors call it when their containers stop.
    end_containers(place);
    end(&processes(place, Part::Daemon), Signal::SIGTERM);
    wait_for_end(place, &[Part::Daemon], END);
    for part in [Part::Daemon, Part::Monitor, Part::Helper] {
        end(&processes(place, part), Signal::SIGKILL);
    }
    wait_for_end(place, &[Part::Daemon, Part::Monitor, Part::Helper], END);
    containers.iter().for_each(|name| remove_cgroups(name));
    let mut results = Vec::new();
    if place.netns_path().exists() {
        // What is left in the bed's own namespace is the bed's: nobody uses it.
        let pids = run(Command::new("ip").args(["netns", "pids", place.netns])).unwrap_or_default();
        end(&pids.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>(), Signal::SIGKILL);
        results.push(run(Command::new("ip").args(["netns", "del", place.netns])).map(|_| ()));
    }
    for dir in [&place.dir, &place.own_dir] {
        if dir.exists() {
            let removed = fs::remove_dir_all(dir);
            results.push(removed.with_context(|| format!("cannot remove {}", dir.display())));
        }
    }
    // Only when no other bed is in it.
    if let Some(parent) = place.dir.parent() {
        let _ = fs::remove_dir(parent);
    }
    results.into_iter().collect()
}

/// What a process of the bed is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The Incus daemon.
    Daemon,
    /// LXC's monitor, one per running container, and the parent of its init.
    Monitor,
    /// dnsmasq, proxies and other forks of the daemon.
    Helper,
}

/// Processes of one sort. A process is the bed's when its command line or environment names the
/// bed's folder; what is no part of Incus (clients, tests) is left out by its program.
fn processes(place: &Place, part: Part) -> Vec<i32> {
    let Ok(all) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| part_of(place, *pid) == Some(part)).collect()
}

fn part_of(place: &Place, pid: i32) -> Option<Part> {
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let command = read("cmdline");
    let text = String::from_utf8_lossy(&command).replace('\0', " ");
    if let Some(rest) = text.strip_prefix("[lxc monitor] ") {
        return rest.starts_with(&format!("{}/containers ", place.dir.display())).then_some(Part::Monitor);
    }
    let mut words = text.split(' ');
    let program = words.next().and_then(|word| word.rsplit('/').next()).unwrap_or_default();
    match program {
        "dnsmasq" => text.contains(&format!("{}/networks/", place.dir.display())).then_some(Part::Helper),
        program if program == place.server.program() => {
            let mark = format!("{}={}", place.server.dir_variable(), place.dir.display());
            let is_ours = read("environ").split(|byte| *byte == 0).any(|var| var == mark.as_bytes());
            let is_daemon = words.next().is_none_or(|word| word.starts_with('-') || word.is_empty());
            is_ours.then_some(if is_daemon { Part::Daemon } else { Part::Helper })
        }
        _ => None,
    }
}

/// Whether the monitors that run are in the bed's namespace as it is.
fn shares_netns(place: &Place) -> bool {
    let Ok(ours) = fs::metadata(place.netns_path()) else { return false };
    let of = |pid: &i32| fs::metadata(format!("/proc/{pid}/ns/net")).map(|meta| meta.ino());
    processes(place, Part::Monitor).iter().all(|pid| of(pid).is_ok_and(|ino| ino == ours.ino()))
}

/// Kills the containers by their inits; the monitors tidy up and end.
fn end_containers(place: &Place) {
    for monitor in processes(place, Part::Monitor) {
        let children = fs::read_to_string(format!("/proc/{monitor}/task/{monitor}/children"));
        let inits: Vec<i32> =
            children.unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        end(&inits, Signal::SIGKILL);
    }
    wait_for_end(place, &[Part::Monitor], END);
    end(&processes(place, Part::Monitor), Signal::SIGKILL);
}

/// Names as LXC knows them: `project_name` outside of the default project.
fn container_names(place: &Place) -> Vec<String> {
    let Ok(entries) = fs::read_dir(place.dir.join("containers")) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

/// Removes what a monitor that was killed left in the cgroup trees, of either version. A cgroup with
/// a process in it belongs to another server's container of that name.
fn remove_cgroups(container: &str) {
    let root = Path::new("/sys/fs/cgroup");
    let controllers = fs::read_dir(root).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    for tree in controllers.chain([root.to_owned()]) {
        for part in ["payload", "monitor"] {
            let cgroup = tree.join(format!("lxc.{part}.{container}"));
            if cgroup.is_dir() && is_empty(&cgroup) {
                remove_tree(&cgroup);
            }
        }
    }
}

fn subfolders(cgroup: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cgroup).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect()
}

fn is_empty(cgroup: &Path) -> bool {
    fs::read_to_string(cgroup.join("cgroup.procs")).is_ok_and(|pids| pids.is_empty())
        && subfolders(cgroup).iter().all(|path| is_empty(path))
}

fn remove_tree(cgroup: &Path) {
    subfolders(cgroup).iter().for_each(|path| remove_tree(path));
    // A cgroup's files go with it; what is busy stays.
    let _ = fs::remove_dir(cgroup);
}

fn end(pids: &[i32], signal: Signal) {
    for pid in pids {
        // Gone already is as good.
        let _ = nix::sys::signal::kill(Pid::from_raw(*pid), signal);
    }
}

fn wait_for_end(place: &Place, parts: &[Part], limit: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < limit && parts.iter().any(|part| !processes(place, *part).is_empty()) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn write_own_files(place: &Place) -> Result<()> {
    let write = |name: &str, text: &str, mode: u32| {
        let path = place.own_dir.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            .with_context(|| format!("cannot chmod {}", path.display()))
    };
    let range = format!("root:{}:{}\n", place.ids.0, place.ids.1);
    write("enter", if place.server == Server::Incus6 { ENTER } else { ENTER_ROOT }, 0o755)?;
    write("subuid", &range, 0o644)?;
    write("subgid", &range, 0o644)
}

fn spawn(place: &Place) -> Result<Child> {
    let output = File::create(place.own_dir.join("daemon.out")).context("cannot make the output file")?;
    // A session of its own: no terminal and no test runner takes it along when it ends.
    let mut command = Command::new("setsid");
    command.arg("nsenter").arg(format!("--net={}", place.netns_path().display()));
    command.args(["unshare", "--mount"]).arg(place.own_dir.join("enter"));
    match place.server {
        Server::Incus6 => command.arg(packages::incusd().context("incusd is not installed")?),
        Server::Incus7 => command.arg(root::PATH).arg(&place.dir).arg("/usr/libexec/incus/incusd"),
        Server::Lxd => command.arg(root::PATH).arg(&place.dir).arg("/usr/bin/lxd"),
    };
    command.args(["--group", "root", "--logfile"]).arg(place.log());
    command.env_clear().env("PATH", packages::PATH).env("HOME", "/root").env("LC_ALL", "C.UTF-8");
    command.env(place.server.dir_variable(), &place.dir);
    command.current_dir("/").stdin(Stdio::null());
    command.stdout(output.try_clone()?).stderr(output);
    command.spawn().context("cannot start the daemon")
}

/// The end of what the daemon said, for a message.
fn last_lines(place: &Place) -> String {
    let mut lines = Vec::new();
    for path in [place.own_dir.join("daemon.out"), place.log()] {
        let text = fs::read_to_string(path).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        lines.extend(all[all.len().saturating_sub(5)..].iter().map(|line| (*line).to_owned()));
    }
    lines.join("; ")
}
