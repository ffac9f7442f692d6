//! Containers whose ids are mapped otherwise: privileged ones, ones with a map of their own.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use portway_testkit::{
    Addr, Behaviour, ContainerSpec, DaemonSpec, Rig, Server, Service, bed_of, check, process,
};

use crate::PORTWAY;
use crate::side::{BOTH, Bind, LIMIT, Place, add, unix};

fn start(name: &str, key: &str) -> Option<Rig> {
    let config = [(key.to_owned(), "true".to_owned())].into();
    let spec = ContainerSpec { config, ..ContainerSpec::default() };
    Rig::launch(DaemonSpec::new(PORTWAY), name, &spec).unwrap()
}

/// A socket inside with an owner of the container's, reached from inside; and a socket of the container,
/// reached from the host, which sees the relay as `peer`. Bytes and half-close both ways.
fn carries(rig: &Rig, peer: (u32, u32)) {
    let (root_uid, root_gid) = process::root_ids(rig.container.pid().unwrap()).unwrap();
    for bind in BOTH {
        let (listen, connect) = (Place::listen(rig, bind, "listen"), Place::connect(rig, bind, "connect"));
        let target = connect.serve();
        let keys = [
            &*listen.pair("listen"),
            &*connect.pair("connect"),
            bind.key(),
            "uid=1000",
            "gid=29",
            "mode=0666",
        ];
        add(rig, "s", &keys).unwrap();
        let meta = fs::symlink_metadata(&listen.path).unwrap();
        let base = if bind.is_host() { (0, 0) } else { (root_uid, root_gid) };
        assert_eq!((meta.uid(), meta.gid()), (base.0 + 1000, base.1 + 29), "{bind:?}");
        let client = listen.dial();
        let service = target.accept_within(LIMIT).unwrap();
        let seen = getsockopt(unix(&service), PeerCredentials).unwrap();
        assert_ne!(seen.uid(), 0, "the relay is the host's root");
        if bind.is_host() {
            assert_eq!((seen.uid(), seen.gid()), peer);
        }
        drop((client, service, target));
        fs::remove_file(&connect.path).unwrap();
        let _service =
            Service::start(&connect.site, &Addr::unix(&connect.path), Behaviour::AnswerAtEnd).unwrap();
        // The service belongs to the container's root; the relay of another user needs to be let in.
        fs::set_permissions(&connect.path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        check::half_close(&listen.dial(), 100_000, 1).unwrap();
        rig.device_ok("remove", &["s"]).unwrap();
        assert!(!listen.exists());
        fs::remove_file(&connect.path).unwrap();
    }
}

/// A privileged container: its root is the host's, and the relay is not.
///
/// Fails when: the container's root is taken for the relay's user whatever it is on the host.
#[test]
fn a_privileged_container() {
    let Some(rig) = start("privileged", "security.privileged") else { return };
    assert_eq!(process::root_ids(rig.container.pid().unwrap()).unwrap(), (0, 0));
    let known = nix::unistd::User::from_name("portway").unwrap();
    let ids = known.map_or((65_534, 65_534), |user| (user.uid.as_raw(), user.gid.as_raw()));
    carries(&rig, ids);
    // Bound by the container, and nothing of it is left when it is gone.
    let place = Place::listen(&rig, Bind::Instance, "s");
    add(&rig, "s", &[&place.pair("listen"), "connect=tcp::80", "bind=instance"]).unwrap();
    rig.container.kill().unwrap();
    let stored = rig.container.rootfs().join("srv/s");
    portway_testkit::wait_for("the file is gone", || stored.symlink_metadata().err()).unwrap();
}

/// A container with a map of its own: owners and the relay's user are ids of that map.
///
/// Fails when: ids are added to the first map that was seen.
#[test]
fn a_map_of_its_own() {
    let Some(rig) = start("isolated", "security.idmap.isolated") else { return };
    let ids = process::root_ids(rig.container.pid().unwrap()).unwrap();
    let other = rig.bed().container("shared").unwrap();
    assert_ne!(process::root_ids(other.pid().unwrap()).unwrap(), ids, "the map is shared");
    carries(&rig, ids);
}

portway_testkit::on_every_server!(an_id_of_the_hosts_in_the_map);

/// A map with an id of the host's in it (`raw.idmap`): user 1000 inside is that one, its neighbours are of the
/// container's own range. Owners of files, the relay's user and what the container sees agree.
///
/// Fails when: ids are added to the first id of a map instead of looked up in it.
fn an_id_of_the_hosts_in_the_map(server: Server) {
    const ID: u32 = 47_000;
    let Some(bed) = bed_of(server) else { return };
    bed.permit_id(ID).unwrap();
    let config = [("raw.idmap".to_owned(), format!("both {ID} 1000"))].into();
    let spec = ContainerSpec { config, ..ContainerSpec::default() };
    let Some(rig) = Rig::on(server, DaemonSpec::new(PORTWAY), "rawmap", &spec).unwrap() else { return };
    let (root, _) = process::root_ids(rig.container.pid().unwrap()).unwrap();
    let place = Place::listen(&rig, Bind::Instance, "s");
    for (uid, gid, seen) in [(1000, 29, (ID, root + 29)), (1001, 1000, (root + 1001, ID))] {
        let owner = [format!("uid={uid}"), format!("gid={gid}")];
        let listen = place.pair("listen");
        add(&rig, "s", &[&*listen, "connect=tcp::80", "bind=instance", &owner[0], &owner[1]]).unwrap();
        let meta = fs::symlink_metadata(&place.path).unwrap();
        assert_eq!((meta.uid(), meta.gid()), seen);
        let inside = rig.container.sh("stat -c '%u %g' /srv/s").unwrap();
        assert_eq!(inside.trim(), format!("{uid} {gid}"));
        rig.device_ok("remove", &["s"]).unwrap();
    }
    let (listen, connect) = (Place::listen(&rig, Bind::Host, "l"), Place::connect(&rig, Bind::Host, "c"));
    let target = connect.serve();
    for (uid, seen) in [(1000, ID), (999, root + 999), (0, root)] {
        let user = format!("security.uid={uid}");
        add(&rig, "s", &[&*listen.pair("listen"), &connect.pair("connect"), &user]).unwrap();
        let _client = listen.dial();
        let service = target.accept_within(LIMIT).unwrap();
        assert_eq!(getsockopt(unix(&service), PeerCredentials).unwrap().uid(), seen);
        rig.device_ok("remove", &["s"]).unwrap();
    }
}
