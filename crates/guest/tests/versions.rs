//! Sessions that stay whose holder is of a later build than who comes to it: an older gateway, or one beside it.

#![expect(clippy::unwrap_used, reason = "a helper fails its test")]

use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;

use portway_proto::guest::{HELD_VERSION, Held, Inbox};
use portway_testkit::is_root;
use rustix::process::Uid;

/// A version that is not there yet.
const LATER: u16 = HELD_VERSION + 8;

/// A user of its own, whose folder for sessions goes with it.
struct User {
    uid: u32,
    /// A copy of the program that he may run.
    program: tempfile::TempDir,
}

impl User {
    /// `None`: only root can be somebody else.
    fn new(uid: u32) -> Option<Self> {
        if !is_root() {
            return None;
        }
        let program = tempfile::Builder::new().prefix("pwg").tempdir_in("/tmp").unwrap();
        fs::set_permissions(program.path(), Permissions::from_mode(0o755)).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_portway-guest"), program.path().join("guest")).unwrap();
        let user = Self { uid, program };
        let _none = fs::remove_dir_all(user.folder());
        Some(user)
    }

    fn folder(&self) -> PathBuf {
        Path::new("/tmp").join(format!("portway-{}", self.uid))
    }

    fn run(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.program.path().join("guest"));
        command.args(words).env_clear().env("SHELL", "/bin/cat").env("HOME", "/").current_dir("/");
        command
            .uid(self.uid)
            .gid(self.uid)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// What a call says on both outputs, and its status.
    fn said(&self, words: &[&str]) -> (String, Option<i32>) {
        let mut child = self.run(words).spawn().unwrap();
        // Whose input ends leaves.
        let _open = child.stdin.take();
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        (String::from_utf8([stdout, stderr].concat()).unwrap(), status.code())
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _none = fs::remove_dir_all(self.folder());
    }
}

fn say(stream: &mut UnixStream, frame: &Held<'_>) {
    let mut bytes = Vec::new();
    frame.write(&mut bytes).unwrap();
    stream.write_all(&bytes).unwrap();
}

/// The first frame that comes, as text.
fn heard(stream: &mut UnixStream) -> String {
    let mut inbox = Inbox::default();
    loop {
        let count = stream.read(inbox.room()).unwrap();
        assert!(count > 0, "it has gone");
        inbox.filled(count);
        if let Some(frame) = inbox.next().unwrap() {
            return format!("{:?}", Held::read(frame).unwrap());
        }
    }
}

/// A holder of a later build says which version it speaks.
///
/// Fails when who comes to it is not told, or waits.
#[test]
fn a_later_holder_is_told_to_be_one() {
    let Some(user) = User::new(64_801) else { return };
    fs::create_dir(user.folder()).unwrap();
    fs::set_permissions(user.folder(), Permissions::from_mode(0o700)).unwrap();
    chown(user.folder(), Some(user.uid), Some(user.uid)).unwrap();
    let (path, uid) = (user.folder().join("later.sock"), user.uid);
    let (ready, is_ready) = mpsc::sync_channel(1);
    thread::spawn(move || {
        // Of this thread alone: who comes looks whose socket it is.
        rustix::thread::set_thread_res_uid(None, Some(Uid::from_raw(uid)), None).unwrap();
        let listener = UnixListener::bind(path).unwrap();
        ready.send(()).unwrap();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // What is said first has a version in every one of them.
            if heard(&mut stream).contains(&format!("version: {HELD_VERSION}")) {
                say(&mut stream, &Held::Other { version: LATER });
            }
        }
    });
    is_ready.recv().unwrap();
    let told = "session later was begun by another version of the gateway";
    let (text, status) = user.said(&["attach", "later", "-"]);
    assert!(text.contains(told) && text.contains(&format!("({LATER})")), "{text:?}");
    assert_eq!(status, Some(1));
    assert_eq!(user.said(&["sessions"]), (format!("later\tof another version, {LATER}\n"), Some(0)));
    assert_eq!(user.said(&["told"]), (format!("{}\tlater\tother\t{LATER}\n", user.uid), Some(0)));
}
