//! Processes as instances: `pid:N` is the network namespace and the root folder of one process, for as
//! long as that very process lives.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use portway_testkit::{Addr, Daemon, DaemonSpec, Netns, Site, check, is_root, process, wait_for};

use crate::PORTWAY;
use crate::stand::{daemon, heard, local, say, says};

/// A process with a network namespace and a `/srv` of its own; killed on drop.
struct Subject(Child);

impl Subject {
    fn start() -> Self {
        Self::spawn(
            Command::new("unshare")
                .args(["--net", "--mount", "sh", "-c"])
                .arg("ip link set lo up && mount -t tmpfs none /srv && echo there && exec sleep 1000"),
        )
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "there\n");
        Self(child)
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    /// `pid:N`.
    fn name(&self) -> String {
        format!("pid:{}", self.0.id())
    }

    fn site(&self) -> Site {
        Site::of_init(self.pid()).unwrap()
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ports and sockets of both sides, and a restart of the daemon that nobody notices.
///
/// Fails when: paths are resolved from the daemon's own root, or an adopted worker is not taken for one
/// of the process.
#[test]
fn a_process_is_served_in_its_namespace_and_root() {
    if is_root() {
        let (daemon, host) = daemon();
        is_served(daemon, &host);
    }
}

/// The same where `/proc` shows a process to its own user and to root alone (`hidepid=2`), for the daemon and
/// all that it starts.
///
/// Fails when: a worker looks for its process in `/proc`, or the daemon gives up the right to see others'.
#[test]
fn a_process_is_served_where_processes_are_hidden() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("portway");
    let mount = "mount -t proc -o hidepid=2 proc /proc";
    // In a mount namespace of its own; the pid stays the same.
    let text =
        format!("#!/bin/sh\nexec unshare --mount sh -c '{mount} && exec \"$0\" \"$@\"' {PORTWAY} \"$@\"\n");
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let netns = Netns::new().unwrap();
    let daemon = DaemonSpec::new(&program).within(&netns).start().unwrap();
    let mounts = fs::read_to_string(format!("/proc/{}/mounts", daemon.pid().unwrap())).unwrap();
    let hides = |line: &str| line.starts_with("proc /proc ") && line.contains("hidepid=");
    assert!(mounts.lines().any(hides), "{mounts}");
    is_served(daemon, &Site::netns(&netns));
}

fn is_served(mut daemon: Daemon, host: &Site) {
    let subject = Subject::start();
    let inside = subject.site();
    let _tcp = say(&inside, &local(80), "by port");
    let _unix = say(&inside, &Addr::unix(inside.path(Path::new("/srv/s"))), "by path");
    let _back = say(host, &local(5000), "by the host");
    let name = subject.name();
    daemon.add(&name, "port", &["listen=tcp:127.0.0.1:8080", "connect=tcp:127.0.0.1:80"]).unwrap();
    // The folder is root's own: only root of the process may connect there.
    let path = ["listen=tcp:127.0.0.1:8081", "connect=unix:/srv/s", "security.uid=0"];
    daemon.add(&name, "path", &path).unwrap();
    let keys = ["bind=instance", "listen=unix:/srv/back", "connect=tcp:127.0.0.1:5000"];
    daemon.add(&name, "back", &keys).unwrap();
    assert_eq!(heard(host, 8080).as_deref(), Some("by port"));
    assert_eq!(heard(host, 8081).as_deref(), Some("by path"));
    let back = inside.path(Path::new("/srv/back"));
    let stream = check::dial(&inside, &Addr::unix(&back)).unwrap();
    assert_eq!(check::read_all(&stream).unwrap(), b"by the host");
    assert!(!Path::new("/srv/back").exists(), "made on the host");

    let workers = daemon.workers();
    daemon.kill().unwrap();
    daemon.launch().unwrap();
    for device in ["port", "path", "back"] {
        daemon.wait_for_state(device, "active").unwrap();
    }
    assert_eq!(daemon.workers().len(), workers.len());
    assert!(daemon.workers().iter().all(|pid| workers.contains(pid)), "a worker was not adopted");
    assert_eq!(heard(host, 8080).as_deref(), Some("by port"));
}

/// The end of the process is the end of its devices: they have failed, at once, and say why; nobody is
/// held; and they stay so over a restart of the daemon.
///
/// Fails when: a dead process is waited for as a stopped instance is.
#[test]
fn the_end_of_the_process_is_the_end_of_its_devices() {
    if !is_root() {
        return;
    }
    let (mut daemon, host) = daemon();
    let mut subject = Subject::start();
    let service = say(&subject.site(), &local(80), "here");
    let name = subject.name();
    daemon.add(&name, "web", &["listen=tcp:127.0.0.1:8080", "connect=tcp:127.0.0.1:80"]).unwrap();
    assert_eq!(heard(&host, 8080).as_deref(), Some("here"));
    drop(service);
    subject.kill();
    for _ in 0..2 {
        daemon.wait_for_state("web", "failed").unwrap();
        let reason = daemon.device("web").unwrap()["reason"].as_str().unwrap().to_owned();
        assert_eq!(reason, format!("process {} has ended", subject.pid()));
        let refused = || host.run(|| local(8080).connect(Duration::from_secs(5))).unwrap().is_err();
        wait_for("a closed port", || refused().then_some(())).unwrap();
        daemon.terminate().unwrap();
        daemon.launch().unwrap();
    }
    let output = daemon.cli(&["device", "remove", &name, "web"]).unwrap();
    assert!(output.status.success());
}

/// Another process that gets the number gets nothing, unless the device follows the number or is given
/// to it by `device adopt`.
///
/// Fails when: the start time is not looked at.
#[test]
fn a_pid_that_is_used_again() {
    if !is_root() {
        return;
    }
    let (daemon, host) = daemon();
    let mut found = None;
    for _ in 0..20 {
        let mut first = Subject::start();
        let name = first.name();
        for (device, port, follow) in [("bound", 8080, "follow=uuid"), ("any", 8081, "follow=name")] {
            let listen = format!("listen=tcp:127.0.0.1:{port}");
            daemon.add(&name, device, &[&listen, "connect=tcp:127.0.0.1:80", follow]).unwrap();
        }
        first.kill();
        daemon.wait_for_state("bound", "failed").unwrap();
        if let Some(second) = again(first.pid()) {
            found = Some(second);
            break;
        }
        // Something else has the number; the next one, then.
        for device in ["bound", "any"] {
            assert!(daemon.cli(&["device", "remove", &name, device]).unwrap().status.success());
        }
    }
    let second = found.expect("a process of a given number");
    let _service = say(&second.site(), &local(80), "the second");
    daemon.wait_for_state("any", "active").unwrap();
    wait_for("the second", || heard(&host, 8081).filter(|text| text == "the second")).unwrap();
    daemon.wait_for_state("bound", "failed").unwrap();
    assert!(host.run(|| local(8080).connect(Duration::from_secs(5))).unwrap().is_err());
    let output = daemon.cli(&["device", "adopt", &second.name()]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    daemon.wait_for_state("bound", "active").unwrap();
    wait_for("the second", || heard(&host, 8080).filter(|text| text == "the second")).unwrap();
}

/// A subject with this number; `None` when others are quicker.
fn again(pid: i32) -> Option<Subject> {
    for _ in 0..200 {
        // The kernel counts on from here (proc_sys_kernel(5)).
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
        let subject = Subject::start();
        if subject.pid() == pid {
            return Some(subject);
        }
        if process::is_alive(pid) {
            return None;
        }
    }
    None
}

/// No such process: exit code 4, nothing stored. A thread is no process, nor is a zombie.
#[test]
fn what_is_no_process() {
    if !is_root() {
        return;
    }
    let (daemon, _host) = daemon();
    let add = |name: &str| {
        daemon.cli(&["device", "add", name, "web", "listen=tcp:127.0.0.1:8080", "connect=tcp::80"]).unwrap()
    };
    says(&add("pid:4194304"), 4, "there is no process 4194304");
    for malformed in ["pid:0", "pid:-1", "pid:07x", "pid:4194305", "pid:self"] {
        says(&add(malformed), 2, "error: instance");
    }
    let (sender, tid) = std::sync::mpsc::sync_channel(1);
    let (done, wait) = std::sync::mpsc::sync_channel::<()>(1);
    let thread = std::thread::spawn(move || {
        let link = fs::read_link("/proc/thread-self").unwrap();
        sender.send(link.file_name().unwrap().to_string_lossy().into_owned()).unwrap();
        let _ = wait.recv();
    });
    let tid = tid.recv().unwrap();
    says(&add(&format!("pid:{tid}")), 4, &format!("there is no process {tid}"));
    drop(done);
    thread.join().unwrap();
    let mut zombie = Command::new("true").spawn().unwrap();
    let pid = zombie.id();
    wait_for("a zombie", || (!process::is_alive(i32::try_from(pid).ok()?)).then_some(())).unwrap();
    says(&add(&format!("pid:{pid}")), 4, "there is no process");
    zombie.wait().unwrap();
    assert!(daemon.devices().unwrap().is_empty() && daemon.workers().is_empty());
}

/// A service that nobody answers for: the first client that finds none is told of at once, those after it by one line
/// with their number, and the command serves on as soon as there is a service.
///
/// Fails when: failures are told one by one, or only in `device show`, which there is none of.
#[test]
fn a_service_that_is_not_there_in_the_foreground() {
    if !is_root() {
        return;
    }
    let netns = Netns::new().unwrap();
    let host = Site::netns(&netns);
    let mut command = Command::new(PORTWAY);
    command.args(["proxy", "listen=tcp:127.0.0.1:8080", "connect=tcp:127.0.0.1:80", "hold=0"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = netns.spawn(&mut command).unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(heard(&host, 8080).filter(|text| !text.is_empty()), None);
    assert_eq!(said.next().unwrap(), "1 failed dial: cannot connect to tcp:127.0.0.1:80: connection refused");
    for _ in 0..50 {
        assert_eq!(heard(&host, 8080).filter(|text| !text.is_empty()), None);
    }
    let told: u32 = std::iter::from_fn(|| said.next())
        .map(|line| line.split(' ').next().unwrap().parse::<u32>().unwrap())
        .scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        })
        .inspect(|sum| assert!(*sum <= 50))
        .find(|sum| *sum == 50)
        .unwrap();
    assert_eq!(told, 50);
    let _service = say(&host, &local(80), "here");
    assert_eq!(heard(&host, 8080).as_deref(), Some("here"));
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(said.next(), None, "one line for all");
}

/// `portway proxy pid:N` ends with its process; without privilege it is told that it may not.
///
/// Fails when: the command goes on for a process that cannot come back.
#[test]
fn in_the_foreground() {
    if !is_root() {
        return;
    }
    let netns = Netns::new().unwrap();
    let mut subject = Subject::start();
    let _service = say(&subject.site(), &local(80), "here");
    let mut command = Command::new(PORTWAY);
    command.args(["proxy", &subject.name(), "listen=tcp:127.0.0.1:8080", "connect=tcp:127.0.0.1:80"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = netns.spawn(&mut command).unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    assert_eq!(heard(&Site::netns(&netns), 8080).as_deref(), Some("here"));
    subject.kill();
    let output = child.wait_with_output().unwrap();
    says(&output, 1, &format!("process {} has ended", subject.pid()));

    // A copy that `nobody` can reach.
    let folder = tempfile::Builder::new().prefix("pw").tempdir_in("/tmp").unwrap();
    let program = folder.path().join("portway");
    fs::copy(PORTWAY, &program).unwrap();
    for path in [folder.path(), &program] {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(program);
    command.args(["proxy", "pid:1", "listen=tcp:127.0.0.1:8081", "connect=tcp::80"]).current_dir("/");
    says(&command.stdin(Stdio::null()).output().unwrap(), 1, "not permitted to look at process 1");
}
