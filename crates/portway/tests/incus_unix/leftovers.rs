//! No socket file stays behind.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portway_testkit::{Addr, Behaviour, Rig, Service, check, process, wait_for};

use crate::PORTWAY;
use crate::side::{BOTH, Bind, LIMIT, Place, add};

/// An echo at the far end over tcp, and the key that leads to it.
fn echo(rig: &Rig, bind: Bind) -> (Service, String) {
    let (site, port) = match bind {
        Bind::Host => (rig.inside().unwrap(), 7000),
        Bind::Instance => (rig.host().clone(), rig.ports.one().unwrap()),
    };
    let address = format!("127.0.0.1:{port}");
    (Service::start(&site, &Addr::tcp(&address), Behaviour::Echo).unwrap(), format!("connect=tcp:{address}"))
}

fn name(bind: Bind) -> &'static str {
    if bind == Bind::Host { "host" } else { "instance" }
}

/// `/srv/s` of the container, as its storage has it when it is stopped.
fn stored(rig: &Rig) -> PathBuf {
    rig.container.rootfs().join("srv/s")
}

fn kill_hard(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    wait_for("a killed process is gone", || (!process::is_alive(pid)).then_some(())).unwrap();
}

/// After `device remove`, after a change of the path and after a change of the side, the old file is
/// gone when the command returns.
///
/// Fails when: `close` leaves the file, or looks for it on the side of the new options.
#[test]
fn after_remove_and_change() {
    let Some(rig) = Rig::start(PORTWAY, "remove").unwrap() else { return };
    let [on_host, inside] = BOTH.map(|bind| Place::listen(&rig, bind, "s"));
    let moved = Place::listen(&rig, Bind::Instance, "moved");
    add(&rig, "s", &[&on_host.pair("listen"), "connect=tcp::80"]).unwrap();
    assert!(on_host.is_socket());
    rig.device_ok("set", &["s", &inside.pair("listen"), "bind=instance"]).unwrap();
    assert!(!on_host.exists() && inside.is_socket());
    rig.device_ok("set", &["s", &moved.pair("listen")]).unwrap();
    assert!(!inside.exists() && moved.is_socket());
    rig.device_ok("remove", &["s"]).unwrap();
    assert!(!moved.exists());
    add(&rig, "s", &[&on_host.pair("listen"), "connect=tcp::80"]).unwrap();
    rig.device_ok("remove", &["s"]).unwrap();
    assert!(!on_host.exists());
}

/// After the end of the instance, asked for or forced: inside at once; on the host when nobody is
/// held any more, and by `remove` in the meantime.
///
/// Fails when: the folder's descriptor is not kept, and init's death hides the way to the file.
#[test]
fn after_the_instance_stops() {
    let Some(rig) = Rig::start(PORTWAY, "stop").unwrap() else { return };
    let [on_host, inside] = BOTH.map(|bind| Place::listen(&rig, bind, "s"));
    let held = Place::listen(&rig, Bind::Host, "held");
    add(&rig, "host", &[&on_host.pair("listen"), "connect=tcp::80", "hold=0"]).unwrap();
    add(&rig, "held", &[&held.pair("listen"), "connect=tcp::80", "hold=1h"]).unwrap();
    add(&rig, "instance", &[&inside.pair("listen"), "connect=tcp::80", "bind=instance"]).unwrap();
    for force in [false, true] {
        assert!(stored(&rig).symlink_metadata().is_ok());
        if force {
            rig.container.kill().unwrap()
        } else {
            rig.container.stop().unwrap()
        }
        wait_for("the file inside is gone", || stored(&rig).symlink_metadata().err()).unwrap();
        on_host.wait_until_gone();
        assert!(held.is_socket(), "clients wait behind it");
        rig.container.start().unwrap();
        for device in ["host", "held", "instance"] {
            rig.daemon.wait_for_state(device, "active").unwrap();
        }
        assert!(on_host.is_socket());
    }
    rig.container.kill().unwrap();
    rig.daemon.wait_for_state("held", "waiting").unwrap();
    rig.device_ok("remove", &["held", "instance", "host"]).unwrap();
    assert!(!held.exists() && !on_host.exists() && stored(&rig).symlink_metadata().is_err());
}

/// After kill -9 of the worker the same file serves on with a new worker, and after a restart of the
/// instance and a removal nothing is left.
///
/// Fails when: the worker has the only descriptor of the listener, or a new one is bound beside the old.
#[test]
fn after_kill_of_the_worker_and_restart() {
    let Some(rig) = Rig::start(PORTWAY, "kill").unwrap() else { return };
    for bind in BOTH {
        let place = Place::listen(&rig, bind, "s");
        let (service, connect) = echo(&rig, bind);
        add(&rig, name(bind), &[&place.pair("listen"), &connect, bind.key()]).unwrap();
        let worker = || rig.daemon.device(name(bind)).unwrap()["worker_pid"].as_i64();
        let before = worker().unwrap();
        kill_hard(i32::try_from(before).unwrap());
        wait_for("another worker", || worker().filter(|now| *now != before)).unwrap();
        place.wait_until_served();
        drop(service);
        rig.container.restart_by_force().unwrap();
        rig.daemon.wait_for_state(name(bind), "active").unwrap();
        // The container's own files are behind its new init.
        let place = Place::listen(&rig, bind, "s");
        let _service = bind.is_host().then(|| echo(&rig, bind));
        assert!(place.is_socket());
        rig.device_ok("remove", &[name(bind)]).unwrap();
        assert!(!place.exists(), "{}", place.key.display());
    }
}

/// After kill -9 of daemon, workers and keeper together the next daemon takes the dead file for its
/// own, serves, and removes it with the device.
///
/// Fails when: the probe takes a dead socket for a live one.
#[test]
fn after_kill_of_everything() {
    let Some(mut rig) = Rig::start(PORTWAY, "killall").unwrap() else { return };
    let places = BOTH.map(|bind| Place::listen(&rig, bind, "s"));
    let services = BOTH.map(|bind| echo(&rig, bind));
    for ((bind, place), (_, connect)) in BOTH.into_iter().zip(&places).zip(&services) {
        add(&rig, name(bind), &[&place.pair("listen"), connect, bind.key()]).unwrap();
    }
    let (workers, keepers) = (rig.daemon.workers(), rig.daemon.keepers());
    assert!(!workers.is_empty() && keepers.len() == 1);
    rig.daemon.kill().unwrap();
    workers.into_iter().chain(keepers).for_each(kill_hard);
    assert!(places.iter().all(Place::is_socket), "nobody was there to remove them");
    rig.daemon.launch().unwrap();
    for place in &places {
        place.wait_until_served();
    }
    rig.device_ok("remove", &["host", "instance"]).unwrap();
    assert!(places.iter().all(|place| !place.exists()));
}

/// After `portway daemon --purge`: no file, no worker, no keeper, whether or not a client is there.
///
/// Fails when: purge kills workers and forgets their files.
#[test]
fn after_purge() {
    let Some(mut rig) = Rig::start(PORTWAY, "purge").unwrap() else { return };
    let places = BOTH.map(|bind| Place::listen(&rig, bind, "s"));
    let services = BOTH.map(|bind| echo(&rig, bind));
    for ((bind, place), (_, connect)) in BOTH.into_iter().zip(&places).zip(&services) {
        add(&rig, name(bind), &[&place.pair("listen"), connect, bind.key()]).unwrap();
    }
    let clients = places.each_ref().map(Place::dial);
    // Another daemon's things are not ended under its feet.
    let refused = rig.daemon.cli(&["daemon", "--purge"]).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", String::from_utf8_lossy(&refused.stderr));
    assert!(rig.daemon.terminate().unwrap().success());
    assert!(places.iter().all(Place::is_socket), "SIGTERM of the daemon leaves everything in place");
    places.iter().for_each(Place::wait_until_served);
    let purged = rig.daemon.cli(&["daemon", "--purge"]).unwrap();
    assert!(purged.status.success(), "{}", String::from_utf8_lossy(&purged.stderr));
    assert!(places.iter().all(|place| !place.exists()));
    assert!(rig.daemon.workers().is_empty() && rig.daemon.keepers().is_empty());
    for client in &clients {
        assert!(check::read_all(client).unwrap_or_default().is_empty());
    }
    let left: Vec<_> = fs::read_dir(rig.daemon.dir().join("workers")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// `portway proxy` for the container, killed on drop.
struct Foreground(Child);

impl Foreground {
    /// Starts it and waits for the word `ready`.
    fn start(rig: &Rig, keys: &[&str]) -> Self {
        let mut command = rig.daemon.command();
        command.arg("proxy").arg(rig.container.name()).args(keys);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut foreground = Self(rig.bed().netns().spawn(&mut command).unwrap());
        let mut line = String::new();
        BufReader::new(foreground.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        foreground
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }

    fn end(mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        self.0.wait().unwrap().code()
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// After SIGTERM or Ctrl-C of `portway proxy` nothing is left; after kill -9 the next one starts all
/// the same, at the same path.
///
/// Fails when: `shut_down` ends before it has closed the listeners.
#[test]
fn after_a_device_in_the_foreground() {
    let Some(rig) = Rig::start(PORTWAY, "proxy").unwrap() else { return };
    for bind in BOTH {
        let place = Place::listen(&rig, bind, "s");
        let (_service, connect) = echo(&rig, bind);
        let keys = [&*place.pair("listen"), &*connect, bind.key()];
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let proxy = Foreground::start(&rig, &keys);
            place.wait_until_served();
            assert_eq!(proxy.end(signal), Some(0));
            assert!(!place.exists(), "{signal} {bind:?}");
        }
        let proxy = Foreground::start(&rig, &keys);
        assert_eq!(proxy.end(Signal::SIGKILL), None);
        assert!(place.is_socket(), "nobody was there to remove it");
        let proxy = Foreground::start(&rig, &keys);
        place.wait_until_served();
        assert_eq!(proxy.end(Signal::SIGTERM), Some(0));
        assert!(!place.exists());
    }
}

/// SIGTERM closes the door at once and lets who is inside finish: the file is gone, or refuses,
/// while an open connection goes on; with its end the process ends.
///
/// Fails when: the listener stays open here while the worker drains, so that clients wait in vain.
#[test]
fn the_foreground_drains() {
    let Some(rig) = Rig::start(PORTWAY, "drain").unwrap() else { return };
    for bind in BOTH {
        let place = Place::listen(&rig, bind, "s");
        let (_service, connect) = echo(&rig, bind);
        let proxy = Foreground::start(&rig, &[&*place.pair("listen"), &*connect, bind.key()]);
        let open = place.dial();
        let (mut reader, writer) = (&open, &open);
        let mut say = |text: &[u8]| {
            let mut writer = writer;
            std::io::Write::write_all(&mut writer, text).unwrap();
            let mut answer = vec![0; text.len()];
            std::io::Read::read_exact(&mut reader, &mut answer).unwrap();
            assert_eq!(answer, text);
        };
        say(b"before");
        proxy.signal(Signal::SIGTERM);
        let dial = || place.site.run(|| Addr::unix(&place.path).connect(LIMIT)).unwrap();
        wait_for("new clients are refused", || dial().err()).unwrap();
        say(b"after");
        drop(open);
        let mut proxy = proxy;
        assert_eq!(proxy.0.wait().unwrap().code(), Some(0));
        assert!(!place.exists());
    }
}
