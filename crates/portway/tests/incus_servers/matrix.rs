//! What a device does, on every server.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use portway_testkit::udp::{UdpClient, UdpEcho};
use portway_testkit::{
    Addr, ContainerSpec, DaemonSpec, Load, OciImage, Outcome, Pace, Ports, Rig, Server, Site, Watch, check,
    process, wait_for,
};

use crate::PORTWAY;
use crate::talk::{add_web, heard, local, say_at, say_in, wait_until_heard};

portway_testkit::on_every_server!(
    every_socket_type_on_both_sides,
    a_restart_refuses_nobody,
    stop_and_start,
    frozen_and_thawed,
    two_projects,
    a_privileged_container,
    ids_of_its_own,
);

fn rig(server: Server, name: &str, spec: &ContainerSpec) -> Option<Rig> {
    Rig::on(server, DaemonSpec::new(PORTWAY), name, spec).unwrap()
}

fn with_config(key: &str, value: &str) -> ContainerSpec {
    let config = BTreeMap::from([(key.to_owned(), value.to_owned())]);
    ContainerSpec { config, ..ContainerSpec::default() }
}

/// tcp, udp and unix, listening on the host and in the container; the daemon is restarted without a
/// device's noticing.
///
/// Fails when: the daemon asks one server about another's instances.
fn every_socket_type_on_both_sides(server: Server) {
    let Some(mut rig) = rig(server, "types", &ContainerSpec::default()) else { return };
    let (host, inside) = (rig.host().clone(), rig.inside().unwrap());
    let (tcp, udp, back) = (rig.ports.one().unwrap(), rig.ports.one().unwrap(), rig.ports.one().unwrap());
    let _in_tcp = say_at(&inside, &local(80), "tcp inside");
    let _in_unix = say_at(&inside, &Addr::unix(inside.path(Path::new("/srv/s"))), "unix inside");
    let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let _in_udp = UdpEcho::start(&inside, at(53), "udp inside").unwrap();
    let _on_tcp = say_at(&host, &local(back), "tcp outside");
    let _on_udp = UdpEcho::start(&host, at(back), "udp outside").unwrap();
    let _on_unix = say_at(&host, &Addr::unix(rig.path("s")), "unix outside");
    fs::set_permissions(rig.path("s"), fs::Permissions::from_mode(0o777)).unwrap();
    let front = format!("unix:{}", rig.path("front").display());
    let outside = format!("unix:{}", rig.path("s").display());
    let devices = [
        ("t", "host", format!("tcp:127.0.0.1:{tcp}"), "tcp:127.0.0.1:80".to_owned()),
        ("u", "host", format!("udp:127.0.0.1:{udp}"), "udp:127.0.0.1:53".to_owned()),
        ("x", "host", front, "unix:/srv/s".to_owned()),
        ("it", "instance", "tcp:127.0.0.1:8080".to_owned(), format!("tcp:127.0.0.1:{back}")),
        ("iu", "instance", "udp:127.0.0.1:8053".to_owned(), format!("udp:127.0.0.1:{back}")),
        ("ix", "instance", "unix:/srv/back".to_owned(), outside),
    ];
    for (name, bind, listen, connect) in &devices {
        let keys = [format!("listen={listen}"), format!("connect={connect}"), format!("bind={bind}")];
        rig.add(name, &[&keys[0], &keys[1], &keys[2]]).unwrap();
    }
    let datagram = |site, port, text: &[u8]| {
        let client = UdpClient::connect(site, at(port)).unwrap();
        wait_for("an answer", || client.exchange(text, Duration::from_secs(1)).ok()?).unwrap()
    };
    let read = |site, addr: &Addr| check::read_all(&check::dial(site, addr).unwrap()).unwrap();
    for _ in 0..2 {
        assert_eq!(heard(&host, tcp).as_deref(), Some("tcp inside"));
        assert_eq!(datagram(&host, udp, b" hello"), b"udp inside hello");
        assert_eq!(read(&host, &Addr::unix(rig.path("front"))), b"unix inside");
        assert_eq!(heard(&inside, 8080).as_deref(), Some("tcp outside"));
        assert_eq!(datagram(&inside, 8053, b" hello"), b"udp outside hello");
        assert_eq!(read(&inside, &Addr::unix(inside.path(Path::new("/srv/back")))), b"unix outside");
        let workers = rig.daemon.workers();
        rig.daemon.kill().unwrap();
        rig.daemon.launch().unwrap();
        for (name, ..) in &devices {
            rig.daemon.wait_for_state(name, "active").unwrap();
        }
        assert!(rig.daemon.workers().iter().all(|pid| workers.contains(pid)), "a worker was not adopted");
    }
    let provider = if server == Server::Lxd { "lxd" } else { "incus" };
    let instance = rig.daemon.device("t").unwrap()["instance"].as_str().unwrap().to_owned();
    assert_eq!(instance, format!("{provider}:default/{}", rig.container.name()));
    for (name, ..) in &devices {
        rig.device_ok("remove", &[name]).unwrap();
    }
    assert!(!rig.path("front").exists() && !inside.path(Path::new("/srv/back")).exists());
}

/// A restart under a load of 200 connections a second: whoever comes while the container is down
/// waits and is served.
///
/// Fails when: its init's death is not seen, or the new run is not found.
fn a_restart_refuses_nobody(server: Server) {
    let spec = ContainerSpec::booting("serve echo tcp:0.0.0.0:7");
    let Some(rig) = rig(server, "hold", &spec) else { return };
    let port = rig.ports.one().unwrap();
    rig.add("web", &[&format!("listen=tcp:127.0.0.1:{port}"), "connect=tcp:127.0.0.1:7"]).unwrap();
    let addr = local(port);
    wait_for("the service", || check::echo(&check::dial(rig.host(), &addr).ok()?, 10, 1).ok()).unwrap();
    let load = Load::new(&addr, Pace::PerSecond(200)).limit(Duration::from_secs(60));
    let load = load.start(rig.host()).unwrap();
    load.wait_for_ok(50).unwrap();
    let watch = Watch::pid(rig.container.pid().unwrap()).unwrap();
    let asked = Instant::now();
    let died = std::thread::scope(|scope| {
        let death = scope.spawn(|| watch.wait(Duration::from_secs(60)));
        rig.container.restart().unwrap();
        death.join().unwrap().unwrap()
    });
    load.wait_for_ok(100).unwrap();
    let cut = (load.at(asked), load.at(died));
    let report = load.stop().unwrap();
    let wrong = report.unexplained(&[cut]);
    assert!(wrong.records.is_empty(), "{:?} in {report}", wrong.records);
    assert_eq!(report.count(Outcome::Refused), 0, "{report}");
}

/// A stopped container is waited for, and said to be stopped; a started one is served.
fn stop_and_start(server: Server) {
    let Some(rig) = rig(server, "stop", &ContainerSpec::default()) else { return };
    let port = add_web(&rig, &["hold=0"]);
    for text in ["first", "second"] {
        let service = say_in(&rig.container, 80, text);
        rig.daemon.wait_for_state("web", "active").unwrap();
        wait_until_heard(rig.host(), port, text);
        drop(service);
        if text == "first" { rig.container.stop() } else { rig.container.kill() }.unwrap();
        crate::talk::wait_for_reason(&rig.daemon, "web", "the instance is stopped");
        let closed = || heard(rig.host(), port).is_none().then_some(());
        wait_for("a closed port", closed).unwrap();
        if text == "first" {
            rig.container.start().unwrap();
        }
    }
}

/// A frozen container is a running one: clients of it wait, and are served when it thaws.
///
/// Fails when: the server's word for it is taken for "stopped".
fn frozen_and_thawed(server: Server) {
    let spec = ContainerSpec::booting("serve echo tcp:0.0.0.0:7");
    let Some(rig) = rig(server, "frozen", &spec) else { return };
    let port = rig.ports.one().unwrap();
    rig.add("web", &[&format!("listen=tcp:127.0.0.1:{port}"), "connect=tcp:127.0.0.1:7"]).unwrap();
    let addr = local(port);
    wait_for("the service", || check::echo(&check::dial(rig.host(), &addr).ok()?, 10, 1).ok()).unwrap();
    let before = rig.daemon.workers();
    rig.container.change_state("freeze").unwrap();
    let waiting = check::dial(rig.host(), &addr).unwrap();
    let output = rig.device("set", &["web", "connect.timeout=20s"]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(rig.daemon.device("web").unwrap()["state"], "active");
    rig.container.change_state("unfreeze").unwrap();
    check::echo(&waiting, 1000, 2).unwrap();
    assert_eq!(rig.daemon.workers(), before, "the same run");
}

/// Two containers of one name in two projects.
fn two_projects(server: Server) {
    let Some(bed) = portway_testkit::bed_of(server) else { return };
    let projects = [bed.project("blue").unwrap(), bed.project("red").unwrap()];
    let daemon = DaemonSpec::new(PORTWAY).on(bed).start().unwrap();
    let ports = Ports::claim(bed.netns()).unwrap();
    let host = Site::netns(bed.netns());
    let name = format!("c-{}", std::process::id());
    // On one bridge the server refuses a second one of that name.
    let containers = projects.each_ref().map(|project| {
        let spec = ContainerSpec::default().in_project(project.name()).with_macvlan();
        bed.launch_exactly(&name, &spec).unwrap()
    });
    let mut served = Vec::new();
    for container in &containers {
        let port = ports.one().unwrap();
        let full = bed.reference(&format!("{}/{name}", container.project()));
        let listen = format!("listen=tcp:127.0.0.1:{port}");
        daemon.add(&full, "web", &[&listen, "connect=tcp:127.0.0.1:80"]).unwrap();
        served.push((port, say_in(container, 80, container.project())));
    }
    for (container, (port, _)) in containers.iter().zip(&served) {
        wait_until_heard(&host, *port, container.project());
    }
    containers[0].kill().unwrap();
    assert_eq!(heard(&host, served[1].0).as_deref(), Some(containers[1].project()));
}

/// A privileged container, whose ids are the host's: sockets in its files are reached from outside by
/// users that may, and made inside with the owner that was asked for.
///
/// Fails when: its root is used as the relay's user.
fn a_privileged_container(server: Server) {
    let Some(rig) = rig(server, "priv", &with_config("security.privileged", "true")) else { return };
    let inside = rig.inside().unwrap();
    let path = inside.path(Path::new("/srv/s"));
    let _service = say_at(&inside, &Addr::unix(&path), "privileged");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    let port = rig.ports.one().unwrap();
    rig.add("out", &[&format!("listen=tcp:127.0.0.1:{port}"), "connect=unix:/srv/s"]).unwrap();
    wait_until_heard(rig.host(), port, "privileged");
    for worker in rig.daemon.workers() {
        let owner = fs::metadata(format!("/proc/{worker}")).unwrap();
        assert_ne!(owner.uid(), 0, "the relay is root of the host");
    }
    let keys = ["bind=instance", "listen=unix:/srv/in", "connect=tcp::80", "uid=1000", "gid=29", "mode=0660"];
    rig.add("in", &keys).unwrap();
    let made = fs::symlink_metadata(inside.path(Path::new("/srv/in"))).unwrap();
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o777), (1000, 29, 0o660));
}

/// A container with a range of ids of its own: owners are counted from its first id.
///
/// Fails when: ids are counted from the server's first one.
fn ids_of_its_own(server: Server) {
    let Some(rig) = rig(server, "ids", &with_config("security.idmap.isolated", "true")) else { return };
    let (first, _) = process::root_ids(rig.container.pid().unwrap()).unwrap();
    let Some(plain) = portway_testkit::bed_of(server) else { return };
    let other = plain.container("plain").unwrap();
    assert_ne!(process::root_ids(other.pid().unwrap()).unwrap().0, first, "the server gave it no range");
    let inside = rig.inside().unwrap();
    let _service = say_at(&inside, &Addr::unix(inside.path(Path::new("/srv/s"))), "isolated");
    let port = rig.ports.one().unwrap();
    rig.add("out", &[&format!("listen=tcp:127.0.0.1:{port}"), "connect=unix:/srv/s"]).unwrap();
    wait_until_heard(rig.host(), port, "isolated");
    let keys = ["bind=instance", "listen=unix:/srv/in", "connect=tcp::80", "uid=1000", "gid=29"];
    rig.add("in", &keys).unwrap();
    // As the host's own ids: the folder of the process shows files through its id map.
    let made = fs::symlink_metadata(inside.path(Path::new("/srv/in"))).unwrap();
    assert_eq!((made.uid(), made.gid()), (first + 1000, first + 29));
    let output =
        rig.device("add", &["no", "bind=instance", "listen=unix:/srv/no", "connect=tcp::80", "uid=70000"]);
    crate::talk::says(&output.unwrap(), 1, "uid 70000 is outside the id map of the instance");
}

/// A container inside a container: a process with namespaces below those of the outer one, by its pid.
///
/// Fails when: its ids are taken for those of the outer container, or its root for the outer one's.
#[test]
fn a_container_in_a_container() {
    let Some(rig) = rig(Server::Incus6, "nest", &with_config("security.nesting", "true")) else { return };
    let outer = rig.container.pid().unwrap().to_string();
    let script = "ip link set lo up && mount -t tmpfs none /srv && echo there && exec sleep 1000";
    let mut command = Command::new("nsenter");
    command.args([
        "--target", &outer, "--user", "--net", "--mount", "--pid", "--", "unshare", "-U", "-r", "-n", "-m",
    ]);
    command.args(["sh", "-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut inner = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(inner.stdout.take().unwrap()).read_line(&mut line).unwrap();
    // To be in another pid namespace takes a child.
    let outside = inner.id();
    let child = fs::read_to_string(format!("/proc/{outside}/task/{outside}/children")).unwrap();
    let pid: i32 = child.trim().parse().unwrap_or_default();
    let served = std::panic::catch_unwind(|| {
        assert_eq!(line, "there\n");
        let site = Site::of_init(pid).unwrap();
        let _inside = say_at(&site, &local(80), "the inner one");
        let _outside = say_in(&rig.container, 80, "the outer one");
        let port = rig.ports.one().unwrap();
        let name = format!("pid:{pid}");
        let listen = format!("listen=tcp:127.0.0.1:{port}");
        rig.daemon.add(&name, "web", &[&listen, "connect=tcp:127.0.0.1:80"]).unwrap();
        wait_until_heard(rig.host(), port, "the inner one");
        let keys = ["bind=instance", "listen=unix:/srv/in", "connect=tcp::80"];
        rig.daemon.add(&name, "in", &keys).unwrap();
        let made = fs::symlink_metadata(site.path(Path::new("/srv/in"))).unwrap();
        assert_eq!((made.uid(), made.gid()), process::root_ids(pid).unwrap());
        assert!(!rig.inside().unwrap().path(Path::new("/srv/in")).exists(), "made in the outer one");
        let output =
            rig.daemon.cli(&["device", "add", &name, "no", "uid=7", "mode=0600", keys[0], keys[1], keys[2]]);
        crate::talk::says(&output.unwrap(), 1, "uid 7 is outside the id map of the instance");
    });
    inner.kill().unwrap();
    inner.wait().unwrap();
    if let Err(panic) = served {
        std::panic::resume_unwind(panic);
    }
}

/// A container whose first process is not root, as that of an application image: paths are still the
/// container's, and its users are asked for by their ids.
///
/// Fails when: the first process' user is taken for root of the container.
#[test]
fn a_first_process_that_is_not_root() {
    let init = "lxc.init.cmd = /bin/serve echo unix:/tmp/s\nlxc.init.uid = 1000\nlxc.init.gid = 1000";
    let Some(rig) = rig(Server::Incus7, "app", &with_config("raw.lxc", init)) else { return };
    let pid = rig.container.pid().unwrap();
    let (root, _) = process::root_ids(pid).unwrap();
    assert_eq!(fs::metadata(format!("/proc/{pid}")).unwrap().uid(), root + 1000);
    let port = rig.ports.one().unwrap();
    let listen = format!("listen=tcp:127.0.0.1:{port}");
    rig.add("out", &[&listen, "connect=unix:/tmp/s", "security.uid=1000"]).unwrap();
    let serves = || check::echo(&check::dial(rig.host(), &local(port)).ok()?, 1000, 1).ok();
    wait_for("the service", serves).unwrap();
    let keys = ["bind=instance", "listen=unix:/tmp/in", "connect=tcp::80", "uid=1000", "mode=0600"];
    rig.add("in", &keys).unwrap();
    let made = fs::symlink_metadata(rig.inside().unwrap().path(Path::new("/tmp/in"))).unwrap();
    assert_eq!((made.uid(), made.mode() & 0o777), (root + 1000, 0o600));
    rig.container.kill().unwrap();
    rig.daemon.wait_for_state("out", "waiting").unwrap();
    rig.container.start().unwrap();
    wait_for("the service", serves).unwrap();
}

/// An application container from an OCI image, as its registry has it: no init, a first process that is not
/// root. Ports and sockets of both sides, and again after a stop and a start.
///
/// Fails when: an instance is looked for by what a system container has, or its first process is taken for root.
#[test]
fn an_application_container() {
    let Some(bed) = portway_testkit::bed_of(Server::Incus7) else { return };
    let entrypoint =
        ["/bin/serve", "echo", "tcp:127.0.0.1:7", "echo", "udp:127.0.0.1:7", "echo", "unix:/tmp/s"];
    let container = bed
        .launch_oci("oci", &OciImage { user: "1000:1000", entrypoint: &entrypoint, ..OciImage::default() })
        .unwrap();
    assert_eq!(container.read().unwrap()["config"]["volatile.container.oci"], "true");
    let daemon = DaemonSpec::new(PORTWAY).on(bed).start().unwrap();
    let (ports, host) = (Ports::claim(bed.netns()).unwrap(), Site::netns(bed.netns()));
    let [tcp, udp, unix, back] = [(); 4].map(|()| ports.one().unwrap());
    let _outside = say_at(&host, &local(back), "outside");
    let to_host = format!("connect=tcp:127.0.0.1:{back}");
    let at = |kind: &str, port: u16| format!("listen={kind}:127.0.0.1:{port}");
    let devices: [(&str, Vec<String>); 5] = [
        ("tcp", vec![at("tcp", tcp), "connect=tcp:127.0.0.1:7".into()]),
        ("udp", vec![at("udp", udp), "connect=udp:127.0.0.1:7".into()]),
        ("unix", vec![at("tcp", unix), "connect=unix:/tmp/s".into(), "security.uid=1000".into()]),
        ("in-tcp", vec!["bind=instance".into(), at("tcp", 8080), to_host.clone()]),
        (
            "in-unix",
            vec![
                "bind=instance".into(),
                "listen=unix:/tmp/in".into(),
                to_host,
                "uid=1000".into(),
                "mode=0666".into(),
            ],
        ),
    ];
    for (name, keys) in &devices {
        daemon.add(container.name(), name, &keys.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    }
    for round in 0..2 {
        for (name, _) in &devices {
            daemon.wait_for_state(name, "active").unwrap();
        }
        let pid = container.pid().unwrap();
        let (root, _) = process::root_ids(pid).unwrap();
        assert_eq!(fs::metadata(format!("/proc/{pid}")).unwrap().uid(), root + 1000);
        for port in [tcp, unix] {
            let serves = || check::echo(&check::dial(&host, &local(port)).ok()?, 1000, 1).ok();
            wait_for("the service", serves).unwrap();
        }
        let client = UdpClient::connect(&host, SocketAddr::from(([127, 0, 0, 1], udp))).unwrap();
        let answer = || client.exchange(b"hello", Duration::from_secs(1)).ok()?;
        assert_eq!(wait_for("an answer", answer).unwrap(), b"hello");
        let inside = container.site().unwrap();
        assert_eq!(heard(&inside, 8080).as_deref(), Some("outside"));
        let socket = inside.path(Path::new("/tmp/in"));
        assert_eq!(fs::symlink_metadata(&socket).unwrap().uid(), root + 1000);
        assert_eq!(
            check::read_all(&check::dial(&inside, &Addr::unix(&socket)).unwrap()).unwrap(),
            b"outside"
        );
        if round == 0 {
            container.kill().unwrap();
            daemon.wait_for_state("tcp", "waiting").unwrap();
            container.change_state("start").unwrap();
        }
    }
}
