//! Paths that are rarely seen, and a folder that is never what it was a moment ago.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use portway_testkit::{Addr, Behaviour, Rig, Service, check};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;

use crate::PORTWAY;
use crate::side::{BOTH, LIMIT, Place, add};

/// Longest path of a unix socket, bytes (unix(7): 108 with the final NUL).
const LONGEST: usize = 107;

/// A place of one side whose path ends in `name` and is as long as can be.
fn long(rig: &Rig, on_host: bool, name: &str) -> Place {
    let base = if on_host { rig.folder().to_owned() } else { PathBuf::from("/srv") };
    let taken = base.as_os_str().len() + name.len() + 2;
    let folder = base.join("d".repeat(LONGEST - taken));
    let key = folder.join(name);
    assert_eq!(key.as_os_str().len(), LONGEST);
    if on_host {
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        return Place { path: key.clone(), key, site: rig.host().clone() };
    }
    let site = rig.inside().unwrap();
    rig.container.sh(&format!("mkdir -p -m 755 {}", folder.display())).unwrap();
    // The test's own way there would be too long.
    let short = rig.path(&format!("to-{name}"));
    symlink(site.path(&folder), &short).unwrap();
    Place { path: short.join(name), key, site }
}

/// A service of a path, without its file when it ends.
struct Served<'a>(Option<Service>, &'a Path);

impl<'a> Served<'a> {
    fn start(place: &'a Place) -> Self {
        let service = Service::start(&place.site, &Addr::unix(&place.path), Behaviour::AnswerAtEnd).unwrap();
        fs::set_permissions(&place.path, fs::Permissions::from_mode(0o777)).unwrap();
        Self(Some(service), &place.path)
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        drop(self.0.take());
        let _ = fs::remove_file(self.1);
    }
}

/// Spaces, colons, letters beyond ASCII, and the longest path there is: listened at and dialled, on both sides,
/// and the file is gone with the device.
///
/// Fails when: a path is cut at a sign that means something elsewhere, or a byte is needed for more than the
/// final NUL.
#[test]
fn every_path_that_can_be_is_served() {
    let Some(rig) = Rig::start(PORTWAY, "paths").unwrap() else { return };
    for bind in BOTH {
        for name in ["a b", " c", "d:e:f", "tcp:127.0.0.1:80", "g,h=i", "@j", "ü ß", "longest"] {
            let (front, back) = (format!("{name}.l"), format!("{name}.c"));
            let (listen, connect) = if name == "longest" {
                (long(&rig, bind.is_host(), "l"), long(&rig, !bind.is_host(), "c"))
            } else {
                (Place::listen(&rig, bind, &front), Place::connect(&rig, bind, &back))
            };
            let _service = Served::start(&connect);
            let keys = [&*listen.pair("listen"), &connect.pair("connect"), bind.key(), "mode=0666"];
            add(&rig, "s", &keys).unwrap();
            check::half_close(&listen.dial(), 10_000, 1).unwrap();
            let shown = rig.daemon.device("s").unwrap();
            assert_eq!(shown["listen"], format!("unix:{}", listen.key.display()), "{bind:?}");
            rig.device_ok("remove", &["s"]).unwrap();
            assert!(!listen.exists(), "{}", listen.key.display());
        }
    }
}

/// Rounds of the race below: a device is made anew and two clients come in each.
const ROUNDS: u32 = 150;

/// Takes turns between a folder and a link at one path, as fast as it goes, until told to stop.
struct Swapping<'a> {
    stop: &'a AtomicBool,
}

impl Drop for Swapping<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// A container swaps the folder of its sockets for a link that leads to a folder of the host's, all the time,
/// while a device that listens there is added and removed and another dials there: no socket is ever made in
/// that folder, and the service in it is never called.
///
/// Fails when: a path inside is looked at first and opened afterwards, or opened below the host's root.
#[test]
fn a_folder_that_is_swapped_for_a_link_leads_nowhere() {
    let Some(rig) = Rig::start(PORTWAY, "swap").unwrap() else { return };
    let outside = rig.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o777)).unwrap();
    let trap =
        Service::start(rig.host(), &Addr::unix(outside.join("s")), Behaviour::Say("outside".into())).unwrap();
    fs::set_permissions(outside.join("s"), fs::Permissions::from_mode(0o777)).unwrap();
    rig.container.sh(&format!("mkdir -m 777 /d && ln -s {} /e", outside.display())).unwrap();
    let inside = rig.inside().unwrap();
    let (folder, link) = (inside.path(Path::new("/d")), inside.path(Path::new("/e")));
    let service = Addr::unix(folder.join("s"));
    let _service = Service::start(&inside, &service, Behaviour::Say("inside".into())).unwrap();
    let port = rig.ports.one().unwrap();
    let listen = format!("listen=tcp:127.0.0.1:{port}");
    add(&rig, "out", &[&listen, "connect=unix:/d/s", "hold=0"]).unwrap();

    let (stop, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut made, mut served) = (0, 0);
    std::thread::scope(|scope| {
        let swapping = Swapping { stop: &stop };
        scope.spawn(|| {
            let swap = || {
                while !stop.load(Ordering::SeqCst) {
                    renameat_with(CWD, &folder, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                    swaps.fetch_add(1, Ordering::SeqCst);
                    std::thread::yield_now();
                }
            };
            inside.run(swap).unwrap();
        });
        for _ in 0..ROUNDS {
            made += u32::from(made_anew(&rig));
            served += u32::from((0..2).any(|_| is_served(&rig, port)));
            let there: Vec<_> = fs::read_dir(&outside).unwrap().map(|one| one.unwrap().file_name()).collect();
            assert_eq!(there, ["s"], "a socket outside the container");
        }
        drop(swapping);
    });
    println!("{} swaps, {made} of {ROUNDS} devices made, {served} rounds served", swaps.into_inner());
    assert_eq!(trap.accepted(), 0, "a dial outside the container");
    // Every other look finds the folder.
    assert!(made > 0 && served > 0, "{made} {served}");
    if fs::symlink_metadata(&folder).unwrap().is_symlink() {
        renameat_with(CWD, &folder, CWD, &link, RenameFlags::EXCHANGE).unwrap();
    }
    assert!(is_served(&rig, port));
}

/// Adds and removes the device that listens in the folder; whether it listened.
fn made_anew(rig: &Rig) -> bool {
    let instance = format!("incus:default/{}", rig.container.name());
    let call = |method: &str, target: &str, body: Option<&serde_json::Value>| {
        let answer = rig.daemon.api().call(method, target, body, LIMIT).unwrap();
        assert_eq!(answer.status, 200, "{method}: {}", answer.body);
        answer.body
    };
    let keys = json!({"bind": "instance", "listen": "unix:/d/in", "connect": "tcp:127.0.0.1:9"});
    let wanted = json!({"instance": instance, "name": "in", "keys": keys});
    let added = call("POST", "/1.0/devices", Some(&wanted));
    let device = format!("/1.0/devices/{}/in", instance.replace(':', "%3A").replace('/', "%2F"));
    call("DELETE", &device, None);
    added["state"] == "active"
}

fn is_served(rig: &Rig, port: u16) -> bool {
    let addr = Addr::tcp(&format!("127.0.0.1:{port}"));
    // A reset may come before the call returns.
    let Ok(stream) = rig.host().run(|| addr.connect(Duration::from_secs(10))).unwrap() else { return false };
    stream.set_timeout(LIMIT).unwrap();
    let said = check::read_all(&stream).unwrap_or_default();
    assert_ne!(said, b"outside");
    said == b"inside"
}
