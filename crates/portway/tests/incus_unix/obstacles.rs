//! What a container may do to the folder of a socket: mounts in mounts, no room, no writing, another file
//! or a link in its place. The device says what is wrong and is there again when it is mended; nothing
//! leads out of the container.

use std::fs;

use portway_testkit::{Addr, Behaviour, Rig, Service, check, wait_for};

use crate::PORTWAY;
use crate::side::{Bind, Place, add};

/// An echo on the host, and the key that leads to it.
fn echo(rig: &Rig) -> (Service, String) {
    let address = format!("127.0.0.1:{}", rig.ports.one().unwrap());
    let service = Service::start(rig.host(), &Addr::tcp(&address), Behaviour::Echo).unwrap();
    (service, format!("connect=tcp:{address}"))
}

/// A path inside, as the test sees it.
fn inside(rig: &Rig, path: &str) -> Place {
    let site = rig.inside().unwrap();
    Place { key: path.into(), path: site.path(path.as_ref()), site }
}

/// Waits until the device is not active and its reason has this text.
fn wait_for_reason(rig: &Rig, text: &str) {
    wait_for(&format!("the reason `{text}`"), || {
        let device = rig.daemon.device("s").ok()?;
        let reason = device["reason"].as_str().unwrap_or_default();
        (device["state"] != "active" && reason.contains(text)).then_some(())
    })
    .unwrap();
}

/// A tmpfs on `/run` and another in it: the socket is where programs of the container look, is made again
/// when a third hides it, and nothing is left below.
///
/// Fails when: the path is resolved in the root file system instead of what is mounted on it.
#[test]
fn mounts_in_mounts() {
    let Some(rig) = Rig::start(PORTWAY, "nested").unwrap() else { return };
    let (_service, connect) = echo(&rig);
    let mount = "mount -t tmpfs tmpfs /run && mkdir -p /run/user/1000 && mount -t tmpfs tmpfs /run/user/1000";
    rig.container.sh(mount).unwrap();
    let place = inside(&rig, "/run/user/1000/s");
    add(&rig, "s", &[&place.pair("listen"), &connect, "bind=instance", "uid=1000", "mode=0666"]).unwrap();
    assert_eq!(rig.container.sh("stat -c '%u %F' /run/user/1000/s").unwrap().trim(), "1000 socket");
    assert!(!rig.container.rootfs().join("run/user/1000/s").exists());
    let open = place.dial();
    rig.container.sh("mount -t tmpfs tmpfs /run/user/1000").unwrap();
    place.wait_until_served();
    rig.container.sh("umount -l /run/user/1000").unwrap();
    place.wait_until_served();
    check::echo(&open, 10_000, 1).unwrap();
    rig.device_ok("remove", &["s"]).unwrap();
    assert_eq!(rig.container.sh("ls /run/user/1000").unwrap(), "");
}

/// A file system that takes no new file, because it may not be written or is full: `add` says so and leaves
/// nothing; a device that worked is degraded with the kernel's word, and serves when it is mended.
///
/// Fails when: a failed bind inside is taken for a folder that will come, or is not tried again.
#[test]
fn no_room_and_no_writing() {
    let Some(rig) = Rig::start(PORTWAY, "noroom").unwrap() else { return };
    let (_service, connect) = echo(&rig);
    rig.container.sh("mkdir /d").unwrap();
    let place = inside(&rig, "/d/s");
    let keys = [&*place.pair("listen"), &connect, "bind=instance"];
    for (options, said) in [("ro", "Read-only file system"), ("nr_inodes=1", "No space left on device")] {
        let (spoil, mend) = (format!("mount -t tmpfs -o {options} tmpfs /d"), "umount -l /d");
        rig.container.sh(&spoil).unwrap();
        let output = rig.device("add", &[&["s"][..], &keys].concat()).unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(said), "{error}");
        assert!(rig.daemon.devices().unwrap().is_empty());
        assert!(rig.daemon.workers().is_empty());
        rig.container.sh(mend).unwrap();
        add(&rig, "s", &keys).unwrap();
        let open = place.dial();
        rig.container.sh(&spoil).unwrap();
        wait_for_reason(&rig, said);
        assert_eq!(rig.daemon.device("s").unwrap()["state"], "degraded");
        rig.container.sh(mend).unwrap();
        rig.daemon.wait_for_state("s", "active").unwrap();
        place.wait_until_served();
        check::echo(&open, 10_000, 1).unwrap();
        rig.device_ok("remove", &["s"]).unwrap();
    }
}

/// In place of the folder a file, then links: to another folder, to nothing, in a circle, and to a path
/// that only the host has. A link is followed inside the container; what leads nowhere is waited for.
///
/// Fails when: a path is resolved outside the container's root, or a folder that became a file is given up.
#[test]
fn a_file_or_a_link_in_place_of_the_folder() {
    let Some(rig) = Rig::start(PORTWAY, "inplace").unwrap() else { return };
    let (_service, connect) = echo(&rig);
    rig.container.sh("mkdir /d /real").unwrap();
    let place = inside(&rig, "/d/s");
    add(&rig, "s", &[&place.pair("listen"), &connect, "bind=instance"]).unwrap();
    rig.container.sh("rm -r /d && echo file >/d").unwrap();
    rig.daemon.wait_for_state("s", "waiting").unwrap();
    wait_for_reason(&rig, "the folder of /d/s does not exist in the instance");
    assert_eq!(rig.container.sh("cat /d").unwrap().trim(), "file");
    rig.container.sh("rm /d && ln -s /real /d").unwrap();
    rig.daemon.wait_for_state("s", "active").unwrap();
    inside(&rig, "/real/s").wait_until_served();

    // A folder of the host that everybody may write, and that the container does not have.
    let host = rig.path("host");
    fs::create_dir(&host).unwrap();
    fs::set_permissions(&host, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    rig.container.sh(&format!("rm /d && ln -s {} /d", host.display())).unwrap();
    wait_for_reason(&rig, "does not exist in the instance");
    assert_eq!(fs::read_dir(&host).unwrap().count(), 0, "a socket outside the container");
    assert_eq!(rig.container.sh("ls /real").unwrap(), "", "the old socket is left");

    rig.container.sh("rm /d && ln -s d /d").unwrap();
    wait_for_reason(&rig, "Too many levels of symbolic links");
    rig.container.sh("rm /d && mkdir /d").unwrap();
    rig.daemon.wait_for_state("s", "active").unwrap();
    place.wait_until_served();
}

/// The folder of the service inside is hidden by a mount, replaced by a link, and comes back: each client
/// is served by what its path leads to at that moment, or sees the end; open connections go on.
///
/// Fails when: the folder of a target inside is held by descriptor.
#[test]
fn the_services_folder_changes() {
    let Some(rig) = Rig::start(PORTWAY, "target").unwrap() else { return };
    rig.container.sh("mkdir /t /other && chmod 777 /t /other").unwrap();
    let listen = Place::listen(&rig, Bind::Host, "listen");
    let (target, other) = (inside(&rig, "/t/s"), inside(&rig, "/other/s"));
    let say = |place: &Place, word: &str| {
        let said = Behaviour::Say(word.to_owned());
        Service::start(&place.site, &Addr::unix(&place.path), said).unwrap()
    };
    let _here = say(&target, "here");
    let _there = say(&other, "there");
    add(&rig, "s", &[&listen.pair("listen"), &target.pair("connect"), "hold=0"]).unwrap();
    let heard = || String::from_utf8(check::read_all(&listen.dial()).unwrap_or_default()).unwrap();
    assert_eq!(heard(), "here");
    rig.container.sh("mount -t tmpfs tmpfs /t").unwrap();
    assert_eq!(heard(), "");
    rig.container.sh("umount -l /t").unwrap();
    assert_eq!(heard(), "here");
    rig.container.sh("mv /t /away && ln -s /other /t").unwrap();
    assert_eq!(heard(), "there");
    rig.container.sh("rm /t").unwrap();
    assert_eq!(heard(), "");
    rig.container.sh("mv /away /t").unwrap();
    assert_eq!(heard(), "here");
}
