//! Three registrars on one etcd, of which one is killed while devices join, again and again; and etcd once.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::place::Place;

const REPLICAS: [&str; 3] = ["registrar", "second", "third"];

/// A process that is killed when it is dropped, without a chance to put anything in order.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// etcd with one member, on the ports it had before.
fn etcd(place: &Place, ports: (u16, u16)) -> Killed {
    let [client, peer] = [ports.0, ports.1].map(|port| format!("http://127.0.0.1:{port}"));
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(place.path().join("etcd"));
    command.args(["--name", "n", "--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("n={peer}")]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let running = Killed(command.spawn().unwrap());
    let listens = || TcpStream::connect(("127.0.0.1", ports.0)).ok();
    portway_testkit::wait_for("etcd", listens).unwrap();
    running
}

fn registrar(place: &Place, name: &str, listen: SocketAddr, store: &str) -> (Killed, SocketAddr) {
    let listen = listen.to_string();
    let mut command = place.command(name, &["mesh", "registrar", "--listen", &listen, "--store", store]);
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let listen = line.trim().strip_prefix("ready ").unwrap().parse().unwrap();
    (Killed(child), listen)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Fails when: a device that was told that it is a member is none afterwards, one is there twice, two have one address, or
/// the key was used more or less often than devices have joined, whichever registrar did it.
#[test]
fn one_of_three_registrars_is_killed_while_devices_join() {
    const DEVICES: usize = 24;
    if Command::new("etcd").arg("--version").stdout(Stdio::null()).status().is_err() {
        return portway_testkit::require("no etcd (package etcd-server)");
    }
    let place = Place::new();
    let ports = (free_port(), free_port());
    let store = format!("etcd://127.0.0.1:{}", ports.0);
    let mut running_etcd = Some(etcd(&place, ports));
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    let mut replicas = vec![registrar(&place, REPLICAS[0], any, &store)];
    place.run(REPLICAS[0], &["mesh", "org", "create", "acme", "--network", "10.77.0.0/24"]);
    for name in &REPLICAS[1..] {
        let (from, to) = (place.path().join(REPLICAS[0]), place.path().join(name));
        std::fs::create_dir_all(&to).unwrap();
        std::fs::copy(from.join("registrar-keys.json"), to.join("registrar-keys.json")).unwrap();
        replicas.push(registrar(&place, name, any, &store));
    }
    let token = place.token(&["--uses", "100"]);
    let mut waiting: Vec<String> = (0..DEVICES).map(|number| format!("d{number}")).collect();
    let mut rounds = 0;
    while !waiting.is_empty() {
        assert!(rounds < 60, "{} have not joined", waiting.len());
        let urls: Vec<String> = replicas.iter().map(|(_, listen)| format!("https://{listen}")).collect();
        let several: Vec<_> = waiting.iter().rev().take(6).cloned().collect();
        let spawn = |(number, name): (usize, &String)| {
            let url = &urls[number % urls.len()];
            let words = ["mesh", "join", url, "--key", &token, "--name", name];
            (name.clone(), place.command(name, &words).spawn().unwrap())
        };
        let joining: Vec<_> = several.iter().enumerate().map(spawn).collect();
        // From before the first connection to after the last commit.
        std::thread::sleep(Duration::from_millis(10 + 15 * (rounds % 10)));
        let killed = usize::try_from(rounds % 4).unwrap();
        let listen = replicas.get(killed).map(|(_, listen)| *listen);
        match listen {
            Some(_) => replicas[killed].0.0.kill().unwrap(),
            None => drop(running_etcd.take()),
        }
        for (name, child) in joining {
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            match output.status.code() {
                Some(0) => waiting.retain(|other| *other != name),
                code => assert_eq!(code, Some(3), "{said}"),
            }
        }
        match listen {
            Some(listen) => {
                replicas[killed].0.0.wait().unwrap();
                replicas[killed] = registrar(&place, REPLICAS[killed], listen, &store);
            }
            None => running_etcd = Some(etcd(&place, ports)),
        }
        rounds += 1;
    }
    let list = |words: &[&str]| -> serde_json::Value {
        serde_json::from_str(&place.run(REPLICAS[0], words)).unwrap()
    };
    let devices = list(&["mesh", "device", "list", "--org", "acme", "--format", "json"]);
    let devices = devices.as_array().unwrap();
    assert_eq!(devices.len(), DEVICES);
    for what in ["name", "key", "ip4", "ip6"] {
        let all: BTreeSet<&str> = devices.iter().map(|device| device[what].as_str().unwrap()).collect();
        assert_eq!(all.len(), DEVICES, "{what}");
    }
    let keys = list(&["mesh", "key", "list", "--org", "acme", "--format", "json"]);
    assert_eq!(keys[0]["uses_left"], 100 - DEVICES);
    println!("{rounds} rounds");
    drop((running_etcd, replicas));
}
