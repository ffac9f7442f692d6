//! Owner and permissions of the socket file.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use portway_testkit::{Rig, process};
use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use crate::PORTWAY;
use crate::side::{BOTH, Bind, Place, add, with};

/// What the kernel tells of a folder.
struct Watch(OwnedFd);

impl Watch {
    fn of(folder: &Path) -> Self {
        let inotify = rustix::fs::inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        let flags = WatchFlags::CREATE | WatchFlags::ATTRIB | WatchFlags::MOVED_TO;
        rustix::fs::inotify::add_watch(&inotify, folder, flags).unwrap();
        Self(inotify)
    }

    /// What happened to `name` so far.
    fn seen(&self, name: &str) -> Vec<ReadFlags> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.0, &mut buffer);
        let mut seen = Vec::new();
        loop {
            match reader.next() {
                Ok(event) if event.file_name().is_some_and(|file| file.to_bytes() == name.as_bytes()) => {
                    seen.push(event.events());
                }
                Ok(_) => {}
                Err(Errno::AGAIN) => return seen,
                Err(error) => panic!("inotify: {error}"),
            }
        }
    }
}

/// Host ids of ids of the listening side.
fn host_ids(rig: &Rig, bind: Bind, (uid, gid): (u32, u32)) -> (u32, u32) {
    match bind {
        Bind::Host => (uid, gid),
        Bind::Instance => {
            let (root_uid, root_gid) = process::root_ids(rig.container.pid().unwrap()).unwrap();
            (root_uid + uid, root_gid + gid)
        }
    }
}

fn connects_as(place: &Place, uid: u32, gid: u32) -> Result<(), std::io::ErrorKind> {
    // Of one thread; a user other than 0 has no capabilities left.
    let connect = || {
        setfsgid(Gid::from_raw(gid));
        setfsuid(Uid::from_raw(uid));
        UnixStream::connect(&place.path)
    };
    place.site.network().enter(connect).unwrap().map(drop).map_err(|error| error.kind())
}

/// `uid`, `gid` and `mode` as asked, in ids of the listening side, from the moment the file exists:
/// nobody changes owner or mode after it was made. The permissions work, and the defaults are root and 0644.
///
/// Fails when: the file is made first and `chmod` and `chown` follow.
#[test]
fn as_asked_from_the_first_moment() {
    let Some(rig) = Rig::start(PORTWAY, "owner").unwrap() else { return };
    type Case<'a> = (&'a str, &'a [&'a str], (u32, u32), u32);
    let cases: [Case<'_>; 5] = [
        ("default", &[], (0, 0), 0o644),
        ("all", &["uid=1000", "gid=29", "mode=0660"], (1000, 29), 0o660),
        ("uid", &["uid=1000"], (1000, 0), 0o644),
        ("gid", &["gid=29", "mode=0600"], (0, 29), 0o600),
        ("open", &["mode=0777"], (0, 0), 0o777),
    ];
    for bind in BOTH {
        for (name, keys, ids, mode) in cases {
            let place = Place::listen(&rig, bind, name);
            let watch = Watch::of(place.path.parent().unwrap());
            let base = [place.pair("listen"), "connect=tcp::80".to_owned(), bind.key().to_owned()];
            add(&rig, name, &with(&base, keys)).unwrap();
            let meta = fs::symlink_metadata(&place.path).unwrap();
            let (uid, gid) = host_ids(&rig, bind, ids);
            assert_eq!((meta.uid(), meta.gid()), (uid, gid), "{name} {bind:?}");
            assert_eq!(meta.mode() & 0o7777, mode, "{name} {bind:?}");
            assert_eq!(watch.seen(name), [ReadFlags::CREATE], "{name} {bind:?}");
            rig.device_ok("remove", &[name]).unwrap();
        }
        let place = Place::listen(&rig, bind, "group");
        let keys = [&*place.pair("listen"), "connect=tcp::80", bind.key(), "uid=1000", "gid=29", "mode=0620"];
        add(&rig, "group", &keys).unwrap();
        let (bob, audio) = host_ids(&rig, bind, (1000, 29));
        let (other, _) = host_ids(&rig, bind, (1001, 0));
        assert_eq!(connects_as(&place, bob, bob), Ok(()));
        assert_eq!(connects_as(&place, other, audio), Ok(()));
        assert_eq!(connects_as(&place, other, other), Err(std::io::ErrorKind::PermissionDenied));
        rig.device_ok("remove", &["group"]).unwrap();
    }
}

/// Inside the container the file is where it should be, and belongs to the container's own users.
#[test]
fn the_container_sees_its_own_ids() {
    let Some(rig) = Rig::start(PORTWAY, "ids").unwrap() else { return };
    rig.container.sh("mkdir -m 700 /run/bob && chown bob:bob /run/bob").unwrap();
    let keys =
        ["bind=instance", "listen=unix:/run/bob/s", "connect=tcp::80", "uid=1000", "gid=29", "mode=0640"];
    add(&rig, "s", &keys).unwrap();
    let seen = rig.container.sh("stat -c '%u %g %a %F' /run/bob/s").unwrap();
    assert_eq!(seen.trim(), "1000 29 640 socket");
    rig.device_ok("remove", &["s"]).unwrap();
    assert_eq!(rig.container.sh("ls /run/bob").unwrap(), "");
}

/// An id that the container does not have is refused, for the file and for the relay, and nothing is
/// left: no file, no device, no worker.
///
/// Fails when: ids are not looked up in the map before the file is made.
#[test]
fn an_id_outside_the_map_is_refused() {
    let Some(rig) = Rig::start(PORTWAY, "map").unwrap() else { return };
    let place = Place::listen(&rig, Bind::Instance, "s");
    let (listen, host) = (place.pair("listen"), format!("listen=tcp:127.0.0.1:{}", rig.ports.one().unwrap()));
    let cases: [(&str, [&str; 4]); 4] = [
        ("uid 100000000", [&listen, "connect=tcp::80", "bind=instance", "uid=100000000"]),
        ("gid 4000000000", [&listen, "connect=tcp::80", "bind=instance", "gid=4000000000"]),
        ("security.uid 100000000", [&host, "connect=tcp::80", "bind=host", "security.uid=100000000"]),
        ("security.gid 4294967294", [&host, "connect=tcp::80", "bind=host", "security.gid=4294967294"]),
    ];
    for (what, keys) in cases {
        let output = rig.device("add", &[&["s"][..], &keys].concat()).unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{what}: {error}");
        assert!(error.contains(&format!("{what} is outside the id map of the instance")), "{what}: {error}");
        assert!(!place.exists(), "{what}");
        assert!(rig.daemon.devices().unwrap().is_empty());
        assert!(rig.daemon.workers().is_empty());
    }
    // The host's own ids are not mapped at all.
    let place = Place::listen(&rig, Bind::Host, "s");
    let keys = [&*place.pair("listen"), "connect=tcp::80", "uid=100000000", "gid=4000000000"];
    add(&rig, "s", &keys).unwrap();
    let meta = fs::symlink_metadata(&place.path).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (100_000_000, 4_000_000_000));
}
