//! A server that takes requests and never answers, and edits of devices that are none of its.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Condvar, Mutex};

use portway_testkit::{DaemonSpec, Front, Manner, Netns, Script, require, wait_for};

use crate::PORTWAY;

/// Requests about the instance `c1` that wait for their answer, and whether they get one.
#[derive(Default)]
struct Waiting {
    state: Mutex<(usize, bool)>,
    turn: Condvar,
}

impl Waiting {
    /// Takes requests; nothing is answered before the end.
    fn script(self: &Arc<Self>) -> Script {
        let waiting = Arc::clone(self);
        Arc::new(move |target| {
            let mut state = waiting.state.lock().unwrap();
            state.0 += usize::from(target.contains("/c1"));
            while !state.1 {
                state = waiting.turn.wait(state).unwrap();
            }
            (404, String::new())
        })
    }

    fn count(&self) -> usize {
        self.state.lock().unwrap().0
    }

    fn release(&self) {
        self.state.lock().unwrap().1 = true;
        self.turn.notify_all();
    }
}

/// While an import and a new device wait for the server, a file is applied, and devices elsewhere are added,
/// changed and removed: all of it is done before either has given up.
///
/// Fails when: `import` or `add` asks the server with the edits locked, so that `apply` waits for them and
/// everybody else for it.
#[test]
fn a_server_that_never_answers_holds_up_nobody_elsewhere() {
    let (host, netns) = match (Netns::new(), Netns::new()) {
        (Ok(host), Ok(netns)) => (host, netns),
        (one, other) => return require(&format!("no namespaces: {:?} {:?}", one.err(), other.err())),
    };
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let waiting = Arc::new(Waiting::default());
    let manner = Manner::Script(waiting.script());
    let _front = Front::start(&socket, Path::new("/nonexistent"), manner).unwrap();
    let spec = DaemonSpec::new(PORTWAY).within(&host).env("INCUS_SOCKET", &socket.to_string_lossy());
    let daemon = spec.start().unwrap();
    let name = format!("netns:{}", netns.path().display());

    let begin = |args: &[&str]| {
        let before = waiting.count();
        let mut command = daemon.command();
        command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        wait_for("a request", || (waiting.count() > before).then_some(())).unwrap();
        child
    };
    let connect = "connect=tcp:127.0.0.1:7";
    let file = folder.path().join("devices.yaml");
    let line =
        format!("{{instance: \"{name}\", name: a, listen: \"tcp:127.0.0.1:8002\", connect: \"tcp::7\"}}");
    fs::write(&file, format!("devices: [{line}]")).unwrap();
    // A client of the server gives up after ten seconds; on a machine that is slower than that, once more.
    let mut hung = Vec::new();
    let mut attempt = || {
        let first = hung.len();
        hung.push(begin(&["device", "import", "incus:c1"]));
        hung.push(begin(&["device", "add", "incus:c1", "web", "listen=tcp:127.0.0.1:8001", connect]));
        for args in [
            &["apply", "-f", file.to_str().unwrap()] as &[&str],
            &["device", "add", &name, "b", "listen=tcp:127.0.0.1:8003", connect],
            &["device", "set", &name, "a", "hold=5s"],
            &["device", "remove", &name, "b"],
        ] {
            let output = daemon.cli(args).unwrap();
            assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        hung[first..].iter_mut().all(|child| child.try_wait().unwrap().is_none())
    };
    assert!((0..3).any(|_| attempt()), "they were waited for");
    waiting.release();
    for child in &mut hung {
        child.wait().unwrap();
    }
}
