//! Socket files that are deleted, hidden or late.

use std::fs;

use portway_testkit::{Addr, Behaviour, Rig, Service, check};

use crate::PORTWAY;
use crate::side::{BOTH, Bind, Place, add};

/// An echo at the far end, reached over tcp.
fn echo(rig: &Rig, bind: Bind) -> (Service, String) {
    let site = if bind == Bind::Host { rig.inside().unwrap() } else { rig.host().clone() };
    let port = if bind == Bind::Host { 7000 } else { rig.ports.one().unwrap() };
    let address = format!("127.0.0.1:{port}");
    (Service::start(&site, &Addr::tcp(&address), Behaviour::Echo).unwrap(), format!("connect=tcp:{address}"))
}

/// A deleted socket file comes back, on the host and inside; the connections that were open go on.
///
/// Fails when: `check_files` is not called, or the new listener cuts the device's connections.
#[test]
fn a_deleted_file_comes_back() {
    let Some(rig) = Rig::start(PORTWAY, "deleted").unwrap() else { return };
    for bind in BOTH {
        let place = Place::listen(&rig, bind, "s");
        let (_service, connect) = echo(&rig, bind);
        add(&rig, "s", &[&place.pair("listen"), &connect, bind.key(), "mode=0660"]).unwrap();
        let open = place.dial();
        fs::remove_file(&place.path).unwrap();
        place.wait_until_served();
        check::echo(&open, 100_000, 1).unwrap();
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::symlink_metadata(&place.path).unwrap());
        assert_eq!(mode & 0o7777, 0o660);
        rig.device_ok("remove", &["s"]).unwrap();
        assert!(!place.exists());
    }
}

/// A folder that is mounted over inside the container: the socket is made again where clients look,
/// the hidden file is removed, and it comes back when the mount goes.
///
/// Fails when: `check` looks at the folder that was opened when the socket was made.
#[test]
fn a_mount_over_the_folder() {
    let Some(rig) = Rig::start(PORTWAY, "mount").unwrap() else { return };
    let place = Place::listen(&rig, Bind::Instance, "s");
    let (_service, connect) = echo(&rig, Bind::Instance);
    add(&rig, "s", &[&place.pair("listen"), &connect, "bind=instance"]).unwrap();
    let open = place.dial();
    let hidden = rig.container.rootfs().join("srv/s");
    assert!(hidden.symlink_metadata().is_ok());
    rig.container.sh("mount -t tmpfs tmpfs /srv").unwrap();
    place.wait_until_served();
    assert!(hidden.symlink_metadata().is_err(), "the hidden file is left");
    rig.container.sh("umount -l /srv").unwrap();
    place.wait_until_served();
    check::echo(&open, 100_000, 1).unwrap();
    rig.device_ok("remove", &["s"]).unwrap();
    assert!(hidden.symlink_metadata().is_err());
}

/// A folder that is not there yet inside the container: the device waits, says so, and serves when
/// the folder comes; the same again when it is deleted with our socket in it.
///
/// Fails when: a missing folder inside the instance is an error of `add`.
#[test]
fn a_folder_that_comes_later() {
    let Some(rig) = Rig::start(PORTWAY, "late").unwrap() else { return };
    let (_service, connect) = echo(&rig, Bind::Instance);
    let said = rig.device_ok("add", &["s", "listen=unix:/run/later/s", &connect, "bind=instance"]).unwrap();
    assert!(said.contains("waiting: the folder of /run/later/s does not exist in the instance"), "{said}");
    for _ in 0..2 {
        rig.container.sh("mkdir /run/later").unwrap();
        rig.daemon.wait_for_state("s", "active").unwrap();
        let site = rig.inside().unwrap();
        let addr = Addr::unix(site.path("/run/later/s".as_ref()));
        check::echo(&check::dial(&site, &addr).unwrap(), 1_000, 1).unwrap();
        rig.container.sh("rm -r /run/later").unwrap();
        rig.daemon.wait_for_state("s", "waiting").unwrap();
    }
}
