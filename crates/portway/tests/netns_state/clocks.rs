//! The wall clock jumps under the running processes.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use portway_testkit::faults::{figure, scale};
use portway_testkit::udp::{UdpClient, UdpEcho};
use portway_testkit::{Addr, Stream, check, is_root, run};
use tempfile::TempDir;

use crate::PORTWAY;
use crate::scene::Scene;

/// Ten years, seconds.
const DECADE: i64 = 315_360_000;

/// A wall clock of the processes of one daemon.
struct Clock {
    folder: TempDir,
    seconds: File,
}

impl Clock {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seconds");
        fs::write(&path, 0_i64.to_ne_bytes()).unwrap();
        let seconds = File::options().write(true).open(&path).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/netns_state/clock.c");
        let library = folder.path().join("clock.so");
        let define = format!("-DFILE_OF_SECONDS=\"{}\"", path.display());
        run(Command::new("cc").args(["-shared", "-fPIC", "-O1", &define, "-o"]).arg(&library).arg(source))
            .unwrap();
        fs::create_dir(folder.path().join("etc")).unwrap();
        fs::write(folder.path().join("etc/ld.so.preload"), format!("{}\n", library.display())).unwrap();
        Self { folder, seconds }
    }

    fn shift(&self, seconds: i64) {
        self.seconds.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    /// The program, whose processes all have this clock: they see another /etc, which has the linker load it.
    fn program(&self) -> PathBuf {
        let etc = self.folder.path().join("etc");
        let mount = format!("mount -t overlay -o lowerdir={}:/etc overlay /etc", etc.display());
        let path = self.folder.path().join("portway");
        let text = format!("exec unshare --mount sh -c '{mount} && exec {PORTWAY} \"$@\"' sh \"$@\"");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn is_in(&self, pid: i32) -> bool {
        let library = self.folder.path().join("clock.so");
        fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().contains(library.to_str().unwrap())
    }
}

/// What counts time in a worker: a flow, a call that nobody answers, a rate.
struct Timers {
    echo: UdpEcho,
    flow: UdpClient,
    pending: Stream,
}

impl Timers {
    fn start(scene: &Scene) -> Self {
        let silence =
            "table ip silence { chain c { type filter hook input priority 0; tcp dport 9 drop; }; }";
        scene.inside.network().nft(silence).unwrap();
        let add = |name: &str, keys: &[&str]| scene.daemon.add(&scene.instance(), name, keys).unwrap();
        add("flow", &["listen=udp:127.0.0.1:8100", "connect=udp:127.0.0.1:7", "udp.idle=10m"]);
        let slow = ["listen=tcp:127.0.0.1:8101", "connect=tcp:127.0.0.1:9", "connect.timeout=10m"];
        add("slow", &slow);
        let echo = UdpEcho::start(&scene.inside, ([127, 0, 0, 1], 7).into(), "").unwrap();
        let flow = UdpClient::connect(&scene.host, ([127, 0, 0, 1], 8100).into()).unwrap();
        let pending = check::dial(&scene.host, &Addr::tcp("127.0.0.1:8101")).unwrap();
        pending.set_timeout(Duration::from_millis(100)).unwrap();
        Self { echo, flow, pending }
    }

    /// The flow is the same one, and the call is still under way.
    fn go_on(&self) {
        let limit = Duration::from_secs(20);
        assert_eq!(
            self.flow.exchange(b"still there?", limit).unwrap().as_deref(),
            Some(&b"still there?"[..])
        );
        assert_eq!(self.echo.sources(), 1, "a new flow");
        let waited = (&self.pending).read(&mut [0]).unwrap_err();
        assert_eq!(waited.kind(), std::io::ErrorKind::WouldBlock, "{waited}");
    }
}

/// The wall clock of daemon, worker and keeper jumps by up to ten years, there and back: nothing ends that is there, and
/// nothing waits that comes. Devices are added and removed, and another daemon takes over, at any date.
///
/// Fails when: a timer of worker or daemon asks the wall clock.
#[test]
fn a_wall_clock_that_jumps_ends_nothing() {
    if !is_root() {
        return;
    }
    let clock = Clock::new();
    let Some(mut scene) = Scene::with(&clock.program()) else { return };
    let (traffic, timers) = (scene.traffic(), Timers::start(&scene));
    for pid in scene.daemon.processes() {
        assert!(clock.is_in(pid), "{pid} has the machine's clock");
    }
    let jumps = scale(6, 200);
    for jump in 0..jumps {
        clock.shift([DECADE, -DECADE, 3600, 0, -1, DECADE][jump % 6]);
        timers.go_on();
        traffic.goes_on();
        assert_eq!(scene.try_add(1).unwrap().status, 200);
        let since = scene.daemon.device("d1").unwrap()["since"].as_str().unwrap().to_owned();
        let used = scene.daemon.device("used").unwrap()["since"].as_str().unwrap().to_owned();
        assert_eq!(
            since[..3] == used[..3],
            !matches!(jump % 6, 0 | 1 | 5),
            "the clock did not jump: {since} {used}"
        );
        assert!(scene.try_remove(1).unwrap().status < 300);
        if jump % 3 == 0 {
            scene.daemon.kill().unwrap();
            scene.daemon.launch().unwrap();
            // What it shows of before it came is of its own time.
            clock.shift(0);
            scene.daemon.kill().unwrap();
            scene.daemon.launch().unwrap();
        }
        timers.go_on();
    }
    figure("R34", "jumps of the wall clock by up to ten years", jumps, "jumps");
    figure("R34", "connections, flows or calls that ended with one", 0, "");
    figure("R34", "connections meanwhile, none lost", traffic.end(), "connections");
}
