//! Virtual machines: the relay stands on the host and dials the address the server has assigned.
//!
//! ```text
//!  client ──> 127.0.0.1:8080 ──> worker (host's namespace) ──> 10.77.0.5:80, "the machine"
//! ```
//! The machine is a process and an address of the host's namespace; the server is a recording.

use std::process::{Child, Command, Stdio};

use portway_testkit::{Addr, Service, is_root, wait_for};

use crate::recorded::Stage;
use crate::talk::{heard, say_at, says, wait_for_reason, wait_until_heard};

/// The emulator's process, as far as anybody can see it.
struct Emulator(Child);

impl Emulator {
    fn start() -> Self {
        Self(Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A machine that runs and has a lease, and its service.
fn machine() -> (Stage, Emulator, Service) {
    let (stage, emulator) = (Stage::start(), Emulator::start());
    stage.set_pid(emulator.pid());
    let service = service(&stage, "10.77.0.5", "the machine");
    (stage, emulator, service)
}

/// A service at port 80 of an address, which the host gets.
fn service(stage: &Stage, address: &str, text: &str) -> Service {
    stage.host.network().ip(&format!("addr add {address}/32 dev lo")).unwrap();
    say_at(&stage.host, &Addr::tcp(&format!("{address}:80")), text)
}

const WEB: [&str; 2] = ["listen=tcp:127.0.0.1:8080", "connect=tcp:127.0.0.1:80"];

/// A tcp device of a machine: served at its lease, followed when the lease changes, adopted by the next
/// daemon, held when the emulator ends, and served again by the next run.
///
/// Fails when: the worker is put into the emulator's namespace, or the lease is read once.
#[test]
fn is_dialled_at_its_lease_wherever_that_goes() {
    if !is_root() {
        return;
    }
    let (mut stage, mut emulator, _service) = machine();
    stage.daemon.add("v1", "web", &WEB).unwrap();
    assert_eq!(heard(&stage.host, 8080).as_deref(), Some("the machine"));
    let device = stage.daemon.device("web").unwrap();
    assert_eq!((&device["state"], &device["connect"]), (&"active".into(), &"tcp:127.0.0.1:80".into()));

    let workers = stage.daemon.workers();
    stage.daemon.kill().unwrap();
    stage.daemon.launch().unwrap();
    stage.daemon.wait_for_state("web", "active").unwrap();
    assert_eq!(stage.daemon.workers(), workers, "not adopted");

    let _moved = service(&stage, "10.77.0.6", "after the move");
    stage.lease(&["10.77.0.6"]);
    wait_until_heard(&stage.host, 8080, "after the move");
    stage.set_pid(0);
    emulator.kill();
    wait_for_reason(&stage.daemon, "web", "the instance is stopped");
    let next = Emulator::start();
    stage.set_pid(next.pid());
    wait_until_heard(&stage.host, 8080, "after the move");
}

/// An address that is loopback, the bridge's, another instance's, link-local, multicast or of no network
/// of the server's is never dialled, though a lease says so; the device waits for one that may be.
///
/// Fails when: any lease is believed, or what the guest reports in the state.
#[test]
fn is_never_dialled_anywhere_else() {
    if !is_root() {
        return;
    }
    let (stage, _emulator, _service) = machine();
    stage.change("/1.0/networks/br0/leases", |leases| {
        leases.as_array_mut().unwrap().retain(|lease| lease["hostname"] != "v1");
    });
    let mut traps = Vec::new();
    let trap = |address: &str| {
        Addr::tcp(&if address.contains(':') { format!("[{address}]:80") } else { format!("{address}:80") })
    };
    for address in ["127.0.0.1", "10.77.0.1", "10.77.0.9", "169.254.169.254", "192.0.2.7"] {
        if address != "127.0.0.1" {
            stage.host.network().ip(&format!("addr add {address}/32 dev lo")).unwrap();
        }
        traps.push(say_at(&stage.host, &trap(address), "a trap"));
    }
    traps.push(say_at(&stage.host, &trap("::1"), "a trap"));
    let output =
        stage.daemon.cli(&[&["device", "add", "v1", "web"][..], &WEB, &["hold=0"]].concat()).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    wait_for_reason(&stage.daemon, "web", "the server has not assigned it an address");
    for address in [
        "127.0.0.1",
        "::1",
        "10.77.0.1",
        "10.77.0.9",
        "169.254.169.254",
        "192.0.2.7",
        "224.0.0.1",
        "0.0.0.0",
        "x",
    ] {
        stage.lease(&[address]);
        // What the guest's agent may report.
        stage.change("/1.0/instances/v1/state", |state| {
            state["network"]["eth0"]["addresses"][0]["address"] = address.into();
        });
    }
    stage.lease(&["10.77.0.1", "127.0.0.1", "10.77.0.9", "10.77.0.5"]);
    stage.daemon.wait_for_state("web", "active").unwrap();
    wait_until_heard(&stage.host, 8080, "the machine");
    // And one that it loses again is not dialled any more.
    stage.lease(&["169.254.169.254"]);
    wait_for_reason(&stage.daemon, "web", "the server has not assigned it an address");
    assert_eq!(heard(&stage.host, 8080), None);
    assert_eq!(traps.iter().map(Service::accepted).sum::<u64>(), 0, "a trap was dialled");
}

/// What a machine cannot have is refused with the reason, whether it runs or not, and nothing is left.
///
/// Fails when: `bind=instance` opens the socket on the host.
#[test]
fn cannot_have_everything() {
    if !is_root() {
        return;
    }
    let (stage, emulator, _service) = machine();
    let add = |keys: &[&str]| stage.daemon.cli(&[&["device", "add", "v1", "no"], keys].concat()).unwrap();
    let refuses = |keys: &[&str], text: &str| says(&add(keys), 1, text);
    for _ in 0..2 {
        let bind = ["bind=instance", "listen=tcp:127.0.0.1:81", "connect=tcp:127.0.0.1:82"];
        refuses(&bind, "bind=instance needs a container");
        let bind = ["bind=instance", "listen=unix:/run/portway-no", "connect=tcp:127.0.0.1:82"];
        refuses(&bind, "bind=instance needs a container");
        refuses(&["listen=tcp:127.0.0.1:81", "connect=unix:/run/s"], "over its network only");
        stage.set_pid(0);
    }
    stage.set_pid(emulator.pid());
    refuses(&["listen=tcp:127.0.0.1:81", "connect=tcp:192.0.2.1:80"], "192.0.2.1 is not an address");
    refuses(&["listen=tcp:127.0.0.1:81", "connect=tcp:[::1]:80"], "no IPv6 address");
    assert!(stage.daemon.devices().unwrap().is_empty() && stage.daemon.workers().is_empty());
    assert!(!std::path::Path::new("/run/portway-no").exists());
    stage.daemon.add("v1", "by-address", &["listen=tcp:127.0.0.1:82", "connect=tcp:10.77.0.5:80"]).unwrap();
    wait_for("the machine", || heard(&stage.host, 82)).unwrap();
}
