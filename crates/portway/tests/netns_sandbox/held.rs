//! Each process of the scene, asked through /proc.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use portway_testkit::wait_for;

use crate::scene::Scene;

/// The kind of a process, by its command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Daemon,
    Gateway,
    Network,
    Worker,
    Keeper,
    Session,
    /// The network's relay worker, and its stack: they have a user namespace or no root to hide files with.
    NetworkWorker,
    Stack,
}

impl Kind {
    /// It has a list of calls, and nothing of what others have.
    fn is_confined(self) -> bool {
        !matches!(self, Kind::Daemon | Kind::Gateway | Kind::Network)
    }

    fn is_root(self) -> bool {
        matches!(self, Kind::Daemon | Kind::Gateway)
    }

    /// Its own filter, and one of each that it was started by.
    fn filters(self) -> &'static str {
        match self {
            Kind::Daemon => "1",
            Kind::Gateway | Kind::Network | Kind::Worker | Kind::Keeper => "2",
            Kind::Session | Kind::NetworkWorker | Kind::Stack => "3",
        }
    }

    /// Its root folder is an empty one.
    fn sees_no_file(self) -> bool {
        matches!(self, Kind::Worker | Kind::Keeper | Kind::Session)
    }
}

/// A process, and what /proc says of it.
struct Process {
    pid: i32,
    kind: Kind,
    status: String,
}

impl Process {
    fn look(pid: i32) -> Option<Process> {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let kind = match (words.get(1)?.as_ref(), words.get(2).map(AsRef::as_ref)) {
            ("daemon", _) => Kind::Daemon,
            ("ssh", Some("serve")) => Kind::Gateway,
            ("ssh", Some("session")) => Kind::Session,
            ("mesh-network", _) => Kind::Network,
            ("mesh-stack", _) => Kind::Stack,
            ("keeper", _) => Kind::Keeper,
            ("worker", _) if parent(&status).is_some_and(|of| is_network(&of)) => Kind::NetworkWorker,
            ("worker", _) => Kind::Worker,
            other => panic!("a process that nobody knows: {other:?}"),
        };
        Some(Process { pid, kind, status })
    }

    fn file(&self, name: &str) -> String {
        let path = format!("/proc/{}/{name}", self.pid);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn field(&self, name: &str) -> &str {
        let line = self.status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name}")).trim()
    }

    /// Soft and hard limit, in the words of /proc/PID/limits.
    fn limit(&self, name: &str) -> Vec<String> {
        let limits = self.file("limits");
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().take(2).map(str::to_owned).collect()
    }

    fn namespace(&self, name: &str) -> String {
        fs::read_link(format!("/proc/{}/ns/{name}", self.pid)).unwrap().display().to_string()
    }

    /// Number, target and flags of each descriptor.
    fn descriptors(&self) -> Vec<(i32, String, u32)> {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.pid)).unwrap();
        let described = entries.filter_map(|entry| {
            let entry = entry.unwrap();
            let number: i32 = entry.file_name().to_str()?.parse().ok()?;
            // One that was closed meanwhile.
            let target = fs::read_link(entry.path()).ok()?.display().to_string();
            let information = fs::read_to_string(format!("/proc/{}/fdinfo/{number}", self.pid)).ok()?;
            let flags = information.lines().find_map(|line| line.strip_prefix("flags:"))?;
            Some((number, target, u32::from_str_radix(flags.trim(), 8).ok()?))
        });
        described.collect()
    }
}

fn parent(status: &str) -> Option<String> {
    Some(status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().to_owned())
}

fn is_network(pid: &str) -> bool {
    fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| line.split(|byte| *byte == 0).nth(1) == Some(b"mesh-network"))
}

/// All processes of the scene, once those that are to be there are.
fn processes(scene: &Scene) -> Vec<Process> {
    let whole = BTreeMap::from([
        (Kind::Daemon, 1),
        (Kind::Gateway, 1),
        (Kind::Network, 1),
        // That of the host's side for the instance, its sibling, and the one that dials the host's socket.
        (Kind::Worker, 3),
        (Kind::Keeper, 1),
        (Kind::Session, 1),
        (Kind::NetworkWorker, 1),
        (Kind::Stack, 1),
    ]);
    let found = wait_for("every process", || {
        let all: Vec<_> = scene.daemon.processes().into_iter().filter_map(Process::look).collect();
        let mut counts = BTreeMap::new();
        all.iter().for_each(|process| *counts.entry(process.kind).or_insert(0) += 1);
        // One that has just started has given up nothing yet. Its filter is the last thing.
        let is_settled = |process: &Process| process.field("Seccomp_filters") == process.kind.filters();
        (counts == whole && all.iter().all(is_settled)).then_some(all)
    });
    found.unwrap_or_else(|error| {
        let all = scene.daemon.processes().into_iter().filter_map(Process::look);
        let kinds: Vec<_> =
            all.map(|process| (process.kind, process.field("Seccomp_filters").to_owned())).collect();
        panic!("{error}: {kinds:?}\n{}", scene.daemon.log())
    })
}

const NONE: &str = "0000000000000000";

/// Nothing of this is about what a process is for.
fn has_given_up_what_all_do(process: &Process) {
    let who = format!("{:?} {}", process.kind, process.pid);
    assert_eq!(process.field("NoNewPrivs"), "1", "{who}");
    assert_eq!(process.field("Seccomp"), "2", "{who}");
    assert_eq!(process.limit("Max core file size"), ["0", "0"], "{who}");
    let ids: Vec<_> = process.field("Uid").split_whitespace().collect();
    assert!(ids.iter().all(|id| (*id == "0") == process.kind.is_root()), "{who}: {ids:?}");
    // What is not dumpable belongs to root in /proc (proc(5)).
    let owner = fs::metadata(format!("/proc/{}/environ", process.pid)).unwrap().uid();
    assert_eq!(owner, 0, "{who} can be traced by others of its user");
    if !process.kind.is_root() {
        assert_eq!(process.field("Groups"), "", "{who}");
    }
    if process.kind != Kind::Daemon {
        assert_eq!(process.field("Umask"), "0077", "{who}");
        let stat = process.file("stat");
        // tty_nr is the seventh field, the fifth behind the name in brackets.
        let behind = stat.rsplit_once(") ").unwrap().1;
        assert_eq!(behind.split(' ').nth(4), Some("0"), "{who} has a terminal");
    }
}

fn has_few_rights(process: &Process) {
    let who = format!("{:?} {}", process.kind, process.pid);
    let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|set| process.field(set));
    match process.kind {
        // Those of ARCHITECTURE.md, and no others in any set.
        Kind::Daemon => {
            assert_eq!(sets, [NONE, "00000000002815ef", "00000000002815ef", "00000000002815ef", NONE])
        }
        Kind::Gateway => {
            assert_eq!(sets, [NONE, "00000000002805e4", "00000000002805e4", "00000000002805e4", NONE])
        }
        // Raw sockets and low ports, of its own user namespace.
        Kind::Stack => {
            assert_eq!(sets, [NONE, "0000000000002400", "0000000000002400", "0000000000002400", NONE])
        }
        _ => assert_eq!(sets, [NONE; 5], "{who}"),
    }
    if !process.kind.is_confined() {
        return;
    }
    assert_eq!(process.limit("Max processes"), ["0", "0"], "{who}");
    if process.kind != Kind::Session {
        assert_eq!(process.limit("Max locked memory"), ["0", "0"], "{who}");
    }
    assert_eq!(process.file("environ"), "", "{who}");
    assert!(process.field("Threads").parse::<u32>().unwrap() <= 2, "{who}");
}

/// It sees no file, and lives in the namespaces that are its own.
fn sees_nothing(process: &Process, scene: &Scene) {
    let who = format!("{:?} {}", process.kind, process.pid);
    if process.kind.sees_no_file() {
        let root = fs::read_dir(format!("/proc/{}/root", process.pid)).unwrap();
        let names: Vec<_> = root.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["proc"], "{who}");
        let mounts = process.file("mountinfo");
        let points: BTreeSet<_> = mounts.lines().map(|line| line.split(' ').nth(4).unwrap()).collect();
        assert_eq!(points, BTreeSet::from(["/", "/proc"]), "{who}");
        assert!(mounts.lines().all(|line| line.contains("nosuid,nodev,noexec")), "{who}: {mounts}");
        let cwd = fs::read_link(format!("/proc/{}/cwd", process.pid)).unwrap();
        assert_eq!(cwd, Path::new("/"), "{who}");
    }
    let host = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display().to_string();
    for name in ["pid", "ipc", "uts", "cgroup"] {
        assert_eq!(process.namespace(name), host(name), "{who}: {name}");
    }
    assert_eq!(process.namespace("user") != host("user"), process.kind == Kind::Stack, "{who}");
    assert_eq!(process.namespace("mnt") != host("mnt"), process.kind.sees_no_file(), "{who}");
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let net = |path: &Path| format!("net:[{}]", inode(path));
    let (outside, inside) = (net(&scene.host.path()), net(&scene.instance.path()));
    let own = process.namespace("net");
    match process.kind {
        Kind::Worker => assert!(own == outside || own == inside, "{who}"),
        Kind::Stack => assert!(own != outside && own != inside, "{who}"),
        _ => assert_eq!(own, outside, "{who}"),
    }
}

/// `O_PATH` of the architectures that there are tests on.
const PATH_ONLY: u32 = 0o10_000_000;

/// Each descriptor is one of the kinds that this process is handed or makes.
fn holds_what_it_was_given(process: &Process, scene: &Scene) {
    if !process.kind.is_confined() {
        return;
    }
    let kinds: &[&str] = match process.kind {
        Kind::Worker | Kind::NetworkWorker => &[
            "socket:",
            "pipe:",
            "anon_inode:[eventpoll]",
            "anon_inode:[timerfd]",
            "anon_inode:[eventfd]",
            "anon_inode:[pidfd]",
            "pidfd:",
            "/memfd:portway-counters",
        ],
        Kind::Session => &["socket:", "pipe:", "anon_inode:[eventpoll]", "anon_inode:[eventfd]"],
        _ => &["socket:"],
    };
    let log = scene.daemon.dir().with_file_name("log").display().to_string();
    let target = scene.target_dir().display().to_string();
    let mut folders = BTreeSet::new();
    for (number, to, flags) in process.descriptors() {
        let who = format!("{:?} {}: descriptor {number} is {to}, {flags:o}", process.kind, process.pid);
        match number {
            0 => assert_eq!(to, "/dev/null", "{who}"),
            1 | 2 => assert_eq!(to, log, "{who}"),
            _ if kinds.iter().any(|kind| to.starts_with(kind)) => {}
            // The folder of the unix target, to look up one name in: a mount of its own, so that nothing is above it.
            _ if process.kind == Kind::Worker && to == "/" => {
                let folder = format!("/proc/{}/fd/{number}", process.pid);
                let inode = |path: &str| fs::metadata(path).unwrap().ino();
                assert_eq!(flags & PATH_ONLY, PATH_ONLY, "{who}");
                assert_eq!(inode(&folder), inode(&target), "{who}");
                assert_eq!(inode(&format!("{folder}/..")), inode(&target), "{who}");
                folders.insert(number);
            }
            _ => panic!("{who}"),
        }
    }
    let dials_it = process.kind == Kind::Worker
        && process.namespace("net") == format!("net:[{}]", fs::metadata(scene.host.path()).unwrap().ino());
    assert_eq!(folders.len(), usize::from(dials_it), "{:?} {}", process.kind, process.pid);
}

fn look_at_all(scene: &Scene) -> BTreeMap<Kind, Vec<i32>> {
    let mut pids: BTreeMap<Kind, Vec<i32>> = BTreeMap::new();
    for process in processes(scene) {
        has_given_up_what_all_do(&process);
        has_few_rights(&process);
        sees_nothing(&process, scene);
        holds_what_it_was_given(&process, scene);
        pids.entry(process.kind).or_default().push(process.pid);
    }
    pids
}

/// A daemon with a worker for an instance, its sibling, one that dials a unix socket of the host, a gateway with a
/// client that has not said who it is, and a network: each of them is looked at, and again when a daemon that was killed
/// is followed by another, which takes over all that it finds.
///
/// Fails when: a step of anybody's sandbox is left out, a process has a descriptor that it was not given, or one that is
/// taken over has more than before.
#[test]
fn every_process_has_given_up_what_it_does_not_need() {
    let Some(mut scene) = Scene::start() else { return };
    scene.use_devices();
    let before = look_at_all(&scene);
    scene.follow();
    scene.use_devices();
    let after = look_at_all(&scene);
    for (kind, pids) in &before {
        assert_eq!(after.get(kind) == Some(pids), *kind != Kind::Daemon, "{kind:?}: {before:?} {after:?}");
    }
}
