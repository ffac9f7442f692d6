//! Sockets that the guest listens at for the gateway.

#![expect(clippy::unwrap_used, reason = "a helper fails its test")]

#[expect(dead_code, reason = "other tests need more of it")]
mod client;

use std::fs;
use std::path::Path;

use client::{Client, sh};
use portway_proto::guest::{Frame, Place, SOCKETS, Socket};
use portway_testkit::wait_for;
use rustix::process::{Pid, Signal};

/// Listens at `s` of a folder; the process that removes the file, once it is ready to.
fn listen(client: &mut Client, listener: u32, dir: &Path) -> u32 {
    let at = Place::Unix(dir.join("s").into_os_string().into_encoded_bytes());
    client.heard.entry(listener).or_default();
    client.sockets.clear();
    client.send(&Frame::Socket(Socket::Listen { listener, at }));
    while client.sockets.is_empty() {
        assert!(client.listen(), "the guest is gone");
    }
    assert_eq!(client.sockets, [Socket::Listening { listener, port: 0 }]);
    let guest = client.guest.id();
    let ready = || {
        let children = fs::read_to_string(format!("/proc/{guest}/task/{guest}/children")).ok()?;
        children.split_whitespace().find(|child| has_folder(child, dir))?.parse().ok()
    };
    wait_for("a janitor", ready).unwrap()
}

/// Whether a process has taken a folder from where it was given it.
fn has_folder(pid: &str, dir: &Path) -> bool {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    fds.filter(|fd| fd.file_name() != "1").any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == dir))
}

/// Fails when whoever stops that process holds up everything.
#[test]
fn a_listener_ends_without_its_janitor() {
    let dir = tempfile::tempdir().unwrap();
    let mut client = Client::new();
    let janitor = listen(&mut client, SOCKETS, dir.path());
    let pid = Pid::from_raw(janitor.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    client.send(&Frame::Close { channel: SOCKETS });
    client.until(SOCKETS, |heard| heard.closed);
    assert!(!dir.path().join("s").exists() && !Path::new(&format!("/proc/{janitor}")).exists());
    assert_eq!(client.run(sh(1, "echo goes on"), b"").out, b"goes on\n");
}

/// Fails when the file stays where this program is killed, or one of that name goes where the folder was.
#[test]
fn a_socket_goes_with_a_guest_that_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let (before, after) = (dir.path().join("before"), dir.path().join("after"));
    fs::create_dir(&before).unwrap();
    let mut client = Client::new();
    listen(&mut client, SOCKETS, &before);
    fs::rename(&before, &after).unwrap();
    fs::create_dir(&before).unwrap();
    fs::hard_link(after.join("s"), before.join("s")).unwrap();
    client.guest.kill().unwrap();
    wait_for("its end", || (!after.join("s").exists()).then_some(())).unwrap();
    assert!(before.join("s").exists());
}
