//! Connections from the instance to the client: `-R`, as OpenSSH's client asks for them.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use portway_testkit::{Ports, Server, wait_for};
use serde_json::Value;

use crate::forwards::Client;
use crate::scene::{Scene, Victim};

/// A service beside the client, which answers with the port it has and what it is told.
pub(crate) fn service(scene: &Scene) -> u16 {
    let listener = scene.bed.netns().enter(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap().unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                stream.write_all(port.to_string().as_bytes())?;
                io::copy(&mut stream.try_clone()?, &mut stream)?;
                stream.shutdown(Shutdown::Write)
            });
        }
    });
    port
}

/// Connects to a port of the container, from within.
pub(crate) fn dial(scene: &Scene, address: impl Into<IpAddr>, port: u16) -> io::Result<TcpStream> {
    let address = SocketAddr::new(address.into(), port);
    let netns = scene.container.netns().unwrap();
    let stream = netns.enter(|| TcpStream::connect(address)).unwrap()?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream)
}

/// What is answered there to a word; waits until somebody listens.
pub(crate) fn asked(scene: &Scene, address: impl Into<IpAddr> + Copy, port: u16) -> String {
    let mut stream = wait_for("the listener", || dial(scene, address, port).ok()).unwrap();
    stream.write_all(b" hears").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said
}

pub(crate) fn is_closed(scene: &Scene, address: impl Into<IpAddr>, port: u16) -> bool {
    dial(scene, address, port).is_err()
}

/// Ends of `-R` in the audit log.
fn noted(scene: &Scene, of: impl Fn(&Value) -> bool) -> Value {
    let found = || scene.audit().unwrap().into_iter().find(|line| line["event"] == "forwarded" && of(line));
    wait_for("a line of the audit log", found).unwrap()
}

/// Fails when somebody listens where nobody asked for it, or not where somebody did, a source is lost, or what a client has
/// taken back, or left, stays.
#[test]
fn listeners_are_where_they_were_asked_for() {
    let Some(scene) = Scene::start(Server::Incus6, "back").unwrap() else { return };
    let name = scene.container.name();
    let own = scene.container.address(false).unwrap();
    let to = service(&scene);
    let told = format!("{to} hears");
    let options: Vec<String> =
        ["5001", "localhost:5002", "*:5003", "127.0.0.1:5004", "[::1]:5005", "0.0.0.0:5006"]
            .into_iter()
            .flat_map(|at| ["-R".to_owned(), format!("{at}:127.0.0.1:{to}")])
            .collect();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let client = Client::start(&scene, name, &options);
    let (v4, v6) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
    for (address, port) in [
        (v4, 5001),
        (v6, 5001),
        (v4, 5002),
        (v6, 5002),
        (v4, 5003),
        (v6, 5003),
        (own, 5003),
        (v4, 5004),
        (v6, 5005),
        (own, 5006),
    ] {
        assert_eq!(asked(&scene, address, port), told, "{address} {port} {}", scene.log());
    }
    for (address, port) in [(own, 5001), (own, 5002), (v6, 5004), (own, 5004), (v4, 5005), (v6, 5006)] {
        assert!(is_closed(&scene, address, port), "{address} {port}");
    }
    let line = noted(&scene, |line| line["way"] == "remote" && line["target"] == ":5003");
    assert_eq!((&line["end"], &line["bytes_out"]), (&"closed".into(), &6.into()));
    assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    // Another client cannot have one of them, of whichever family.
    for at in ["5001", "[::1]:5002", "127.0.0.1:5003"] {
        let mut other = Client::start(&scene, name, &["-R", &format!("{at}:127.0.0.1:{to}")]);
        assert_eq!(other.0.wait().unwrap().code(), Some(255), "{at}");
    }
    assert_eq!(asked(&scene, v4, 5001), told);
    drop(client);
    wait_for("nobody listens", || (5001..5007).all(|port| is_closed(&scene, v4, port)).then_some(()))
        .unwrap();
    assert!(is_closed(&scene, v6, 5005));
    noted(&scene, |line| line["way"] == "listen" && line["target"] == ":5003" && line["end"] == "closed");
}

/// A port of the instance's choice is told, is what later connections say, and can be taken back; a low one is root's.
#[test]
fn a_port_is_told_and_taken_back() {
    let Some(scene) = Scene::start(Server::Incus7, "port").unwrap() else { return };
    let name = scene.container.name();
    let to = service(&scene);
    let path = format!("ControlPath={}", scene.path("cm").display());
    let _master = Client::start(&scene, name, &["-o", "ControlMaster=yes", "-o", &path]);
    wait_for("the master", || scene.path("cm").exists().then_some(())).unwrap();
    let control = |words: &[&str]| {
        let mut client = scene.client(&["-o", "ControlMaster=no", "-o", &path]);
        let output = scene.talk(client.args(words).arg(Scene::at(name)), b"").unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let forward = format!("0:127.0.0.1:{to}");
    let (is_good, port) = control(&["-O", "forward", "-R", &forward]);
    assert!(is_good, "{}", scene.log());
    let port: u16 = port.parse().unwrap();
    assert_eq!(asked(&scene, Ipv4Addr::LOCALHOST, port), format!("{to} hears"));
    // OpenSSH's client knows such a port by what was asked for, and says nothing of what it does not know.
    control(&["-O", "cancel", "-R", &forward]);
    wait_for("nobody listens", || is_closed(&scene, Ipv4Addr::LOCALHOST, port).then_some(())).unwrap();
    let low = |login: &str| {
        let mut client = Client::start(&scene, login, &["-R", &format!("99:127.0.0.1:{to}")]);
        let is_open = || match client.0.try_wait().unwrap() {
            Some(status) => Some(status.code()),
            None => (!is_closed(&scene, Ipv4Addr::LOCALHOST, 99)).then_some(None),
        };
        wait_for("the port, or its refusal", is_open).unwrap()
    };
    assert_eq!(low(name), None, "root may");
    wait_for("nobody listens", || is_closed(&scene, Ipv4Addr::LOCALHOST, 99).then_some(())).unwrap();
    scene.container.sh("echo 1024 >/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    assert_eq!(low(&format!("bob@{name}")), Some(255), "bob may not");
}

/// Fails when a unix socket is open to others, one of somebody else is removed, or ours stays, however its client ends.
#[test]
fn sockets_and_ports_go_however_it_ends() {
    let Some(mut scene) = Scene::start(Server::Incus6, "gone").unwrap() else { return };
    let name = scene.container.name().to_owned();
    let to = service(&scene);
    let ports = Ports::claim(scene.bed.netns()).unwrap();
    let back = ports.one().unwrap();
    let (unix, tcp) = (format!("/tmp/s:127.0.0.1:{to}"), format!("5001:127.0.0.1:{to}"));
    let options = ["-R", unix.as_str(), "-R", tcp.as_str()];
    let is_there = |scene: &Scene| scene.container.sh("test -S /tmp/s").is_ok();
    for victim in Victim::EACH {
        let mut client = Client::start(&scene, &name, &options);
        wait_for("the listeners", || {
            (is_there(&scene) && !is_closed(&scene, Ipv4Addr::LOCALHOST, 5001)).then_some(())
        })
        .unwrap();
        assert_eq!(scene.container.sh("stat -c %a /tmp/s").unwrap().trim(), "600");
        if victim == Victim::Client {
            // Through the socket, and back into the container by another forward.
            let through = Client::start(&scene, &name, &["-L", &format!("{back}:/tmp/s")]);
            let stream = wait_for("the way back", || {
                scene.bed.netns().enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, back))).unwrap().ok()
            });
            let mut stream = stream.unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut said = String::new();
            stream.read_to_string(&mut said).unwrap();
            assert_eq!(said, to.to_string(), "{}", scene.log());
            drop(through);
            let mut other = Client::start(&scene, &name, &["-R", &unix]);
            assert_eq!(other.0.wait().unwrap().code(), Some(255), "it is another's");
        }
        scene.kill(victim, &mut client.0).unwrap();
        let gone = || (!is_there(&scene) && is_closed(&scene, Ipv4Addr::LOCALHOST, 5001)).then_some(());
        assert!(wait_for("nothing is left", gone).is_ok(), "of {victim:?}: {}", scene.log());
        scene.recover().unwrap();
    }
}

/// Fails when a key or the policy is not asked where somebody listens.
#[test]
fn keys_and_policy_say_where_from() {
    let Some(scene) = Scene::start(Server::Incus6, "listens").unwrap() else { return };
    let name = scene.container.name();
    let to = service(&scene);
    let authorized = |options: &str| {
        let key = std::fs::read_to_string(scene.path("key.pub")).unwrap();
        std::fs::write(scene.path("home/.ssh/authorized_keys"), format!("{options} {key}")).unwrap();
    };
    let listens = |at: &str, port: u16| {
        let mut client = Client::start(&scene, name, &["-R", &format!("{at}:127.0.0.1:{to}")]);
        let is_open = || match client.0.try_wait().unwrap() {
            Some(_) => Some(false),
            None => (!is_closed(&scene, Ipv4Addr::LOCALHOST, port)).then_some(true),
        };
        wait_for("the port, or its refusal", is_open).unwrap()
    };
    authorized("permitlisten=\"localhost:5001\",permitlisten=\"5002\"");
    assert!(listens("5001", 5001) && listens("*:5002", 5002));
    assert!(!listens("*:5001", 5001) && !listens("5003", 5003) && !listens("0", 5003));
    for option in ["restrict", "no-port-forwarding"] {
        authorized(option);
        assert!(!listens("5001", 5001), "{option}");
    }
    authorized("restrict,port-forwarding");
    assert!(listens("5004", 5004));
    noted(&scene, |line| {
        line["way"] == "listen" && line["target"] == "localhost:5003" && line["end"] == "refused"
    });
}
