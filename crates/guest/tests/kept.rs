//! The holder of a session that is kept, by what is said at its socket.

#![expect(clippy::unwrap_used, reason = "a helper fails its test")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use portway_proto::guest::{HELD_VERSION, Held, Inbox, Size};
use portway_testkit::wait_for;

/// A holder of a shell, killed on drop, and the home that its socket is in.
struct Holder {
    process: Child,
    dir: tempfile::TempDir,
}

impl Holder {
    fn start() -> Self {
        let dir = home();
        let listener = UnixListener::bind(below(&dir).join("w.sock")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_portway-guest"));
        command.args(["hold", "w", "-"]).env("SHELL", "/bin/sh").env("HOME", "/");
        command.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::null());
        Self { process: command.spawn().unwrap(), dir }
    }

    fn path(&self) -> PathBuf {
        below(&self.dir).join("w.sock")
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    fn says(&self, frame: &Held<'_>) -> UnixStream {
        let mut stream = self.connect();
        let mut bytes = Vec::new();
        frame.write(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
        stream
    }

    /// A viewer that sees the shell.
    fn attach(&self) -> UnixStream {
        let size = Size { columns: 80, rows: 24, width: 0, height: 0 };
        let mut stream = self.says(&Held::Attach { version: HELD_VERSION, size });
        assert!(answer(&mut stream).is_some_and(|said| said.starts_with("State")));
        stream
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// A home with a folder for sockets.
fn home() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let private = fs::Permissions::from_mode(0o700);
    fs::create_dir_all(below(&dir)).unwrap();
    fs::set_permissions(below(&dir), private).unwrap();
    dir
}

fn below(home: &tempfile::TempDir) -> PathBuf {
    let host = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    home.path().join(".local/state/portway").join(host)
}

/// What the program says of the sessions of that home.
fn asked(home: &tempfile::TempDir, words: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portway-guest"));
    command.args(words).env("HOME", home.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// The first thing that comes; `None` when the holder hangs up.
fn answer(stream: &mut UnixStream) -> Option<String> {
    let mut inbox = Inbox::default();
    loop {
        if let Some(frame) = inbox.next().unwrap() {
            return Some(format!("{:?}", Held::read(frame).unwrap()));
        }
        match stream.read(inbox.room()).unwrap() {
            0 => return None,
            count => inbox.filled(count),
        }
    }
}

/// Fails when a viewer of a later version cannot end what it cannot show.
#[test]
fn every_version_can_end_it() {
    let mut holder = Holder::start();
    let _viewer = holder.attach();
    let version = HELD_VERSION + 1;
    let size = Size::default();
    let other = format!("Other {{ version: {HELD_VERSION} }}");
    assert_eq!(answer(&mut holder.says(&Held::Attach { version, size })), Some(other.clone()));
    assert_eq!(answer(&mut holder.says(&Held::Ask { version })), Some(other));
    let _killer = holder.says(&Held::Kill { version });
    let ended = wait_for("its end", || holder.process.try_wait().unwrap()).unwrap();
    assert!(ended.success() && !holder.path().exists(), "{ended}");
}

/// Fails when as many viewers as may be, or those who say nothing, keep out who asks, or stay for ever.
#[test]
fn who_asks_is_heard_beside_all_viewers() {
    let holder = Holder::start();
    let _viewers: Vec<_> = (0..16).map(|_| holder.attach()).collect();
    let size = Size::default();
    let mut more = holder.says(&Held::Attach { version: HELD_VERSION, size });
    assert_eq!(answer(&mut more), None, "sixteen are enough");
    let mut mute: Vec<_> = (0..15).map(|_| holder.connect()).collect();
    let said = answer(&mut holder.says(&Held::Ask { version: HELD_VERSION })).unwrap();
    assert!(said.contains("viewers: 16"), "{said}");
    assert!(mute.iter_mut().all(|stream| answer(stream).is_none()), "they go after a while");
    let _asker = holder.says(&Held::Kill { version: HELD_VERSION });
    wait_for("its end", || (!holder.path().exists()).then_some(())).unwrap();
}

/// Fails when a holder that says nothing keeps its name for ever, or what is no holder is killed in its place.
#[test]
fn a_holder_that_hangs_can_be_ended() {
    let mut holder = Holder::start();
    let mut viewer = holder.attach();
    let pid = rustix::process::Pid::from_child(&holder.process);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    // Of this one nobody but the test listens.
    let other = home();
    let _listener = UnixListener::bind(below(&other).join("w.sock")).unwrap();
    let (killed, left) = (asked(&holder.dir, &["end", "w"]), asked(&other, &["end", "w"]));
    let (killed, left) = (killed.wait_with_output().unwrap(), left.wait_with_output().unwrap());
    assert!(killed.status.success() && !below(&holder.dir).exists(), "{killed:?}");
    assert_eq!(holder.process.wait().unwrap().signal(), Some(9));
    viewer.read_to_end(&mut Vec::new()).unwrap();
    let said = String::from_utf8(left.stderr).unwrap();
    assert!(said.contains("session w does not end"), "{said}");
    assert!(below(&other).join("w.sock").exists());
}
