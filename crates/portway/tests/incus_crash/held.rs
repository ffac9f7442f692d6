//! The instance is down, or restarts, while our processes die.

use std::io::{Read as _, Write as _};

use portway_testkit::{
    Addr, Canary, ContainerSpec, Daemon, DaemonSpec, Rig, Stream, check, process, wait_for,
};

use crate::PORTWAY;
use crate::scene::{BOOT, Scene, kill_all};

/// The instance is held, and the daemon goes and comes meanwhile.
fn the_hold_goes_on(name: &str, end: fn(&mut Daemon)) {
    let Some(mut scene) = Scene::start(name) else { return };
    for _ in 0..2 {
        scene.cutting_until_death(|rig| rig.container.stop().unwrap());
        scene.rig.daemon.wait_until_tidy(0).unwrap();
        end(&mut scene.rig.daemon);
        let mut waiting = &check::dial(scene.rig.host(), &scene.addr).unwrap();
        waiting.write_all(b"long ago").unwrap();
        scene.rig.daemon.launch().unwrap();
        scene.rig.daemon.wait_for_state("web", "waiting").unwrap();
        scene.rig.container.start().unwrap();
        let mut answer = [0; 8];
        waiting.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"long ago");
        scene.go_on();
    }
    scene.end();
}

/// Fails when the next daemon takes a held listener for one to be closed (`Instance::recover_kept`
/// without its hold).
#[test]
fn a_daemon_killed_during_a_hold_refuses_nobody() {
    the_hold_goes_on("hkill", |daemon| daemon.kill().unwrap());
}

/// Fails when a daemon that ends refuses those who wait.
#[test]
fn a_daemon_restarted_during_a_hold_refuses_nobody() {
    the_hold_goes_on("hterm", |daemon| assert!(daemon.terminate().unwrap().success()));
}

fn restarted_without_a_daemon(name: &str, spec: &ContainerSpec) {
    let Some(mut scene) = Scene::with(name, spec) else { return };
    for round in 0..2 {
        let worker = scene.worker();
        scene.rig.daemon.kill().unwrap();
        let canary = Canary::put(&scene.rig.container).unwrap();
        scene.cutting_until_death(|rig| {
            if round == 0 { rig.container.restart() } else { rig.container.restart_by_force() }.unwrap();
        });
        // The worker ends by itself: nobody tells it.
        canary.wait().unwrap();
        assert_eq!(scene.rig.daemon.workers(), Vec::<i32>::new());
        scene.rig.daemon.launch().unwrap();
        scene.go_on();
        assert_ne!(scene.worker(), worker);
        let link = scene.rig.container.sh("ip -o link show eth0").unwrap();
        assert!(link.contains("UP"), "{link}");
    }
    scene.end();
}

/// Fails when a worker without a daemon does not watch init, and when the files it leaves behind are
/// taken for a worker (`record::recorded`).
#[test]
fn an_instance_restarted_while_the_daemon_is_dead_refuses_nobody() {
    restarted_without_a_daemon("alone", &ContainerSpec::booting(BOOT));
}

/// The same with a macvlan interface, whose address the next run cannot have before the former is gone.
#[test]
fn a_macvlan_instance_restarted_while_the_daemon_is_dead_refuses_nobody() {
    restarted_without_a_daemon("alonemv", &ContainerSpec::booting(BOOT).with_macvlan());
}

/// Clients that wait for the service of a started instance: more than a socket's buffer holds messages.
const WAITING: usize = 1500;

/// Clients wait in a worker for a service that has not started yet. Their instance is killed, then the
/// worker that starts next as well, with `disturb` in between; each is served in the end, with what it
/// had sent long before.
fn who_waited_is_served(name: &str, disturb: fn(&mut Rig)) {
    let boot = format!("while [ ! -e /srv/go ]; do sleep 0.05; done; {BOOT}");
    let spec = ContainerSpec::booting(&boot);
    let Some(mut rig) = Rig::launch(DaemonSpec::new(PORTWAY), name, &spec).unwrap() else { return };
    let port = rig.ports.one().unwrap();
    let keys = [&format!("listen=tcp:127.0.0.1:{port}")[..], "connect=tcp:127.0.0.1:7", "hold=2m"];
    rig.add("web", &keys).unwrap();
    // A device that is new refuses at once what its target refuses; the hold comes with a restart.
    rig.container.restart_by_force().unwrap();
    rig.daemon.wait_until_tidy(1).unwrap();
    let addr = Addr::tcp(&format!("127.0.0.1:{port}"));
    let clients: Vec<Stream> = (0..WAITING).map(|_| check::dial(rig.host(), &addr).unwrap()).collect();
    for mut client in &clients {
        client.write_all(b"long ago").unwrap();
    }
    let count = u64::try_from(WAITING).unwrap();
    let all_in = |rig: &Rig| {
        let mut last = 0;
        let all = wait_for("all clients in the worker", || {
            last = rig.daemon.device("web").ok()?["connections_now"].as_u64()?;
            (last >= count).then_some(())
        });
        assert!(all.is_ok(), "{last} of {count} clients in the worker");
    };
    all_in(&rig);
    rig.container.kill().unwrap();
    rig.daemon.wait_until_tidy(0).unwrap();
    wait_until_kept(&rig);
    disturb(&mut rig);
    rig.container.start().unwrap();
    all_in(&rig);
    rig.container.restart_by_force().unwrap();
    all_in(&rig);
    std::fs::write(rig.container.rootfs().join("srv/go"), "").unwrap();
    for (number, mut client) in clients.iter().enumerate() {
        let mut answer = [0; 8];
        let read = client.read_exact(&mut answer);
        assert!(read.is_ok() && &answer == b"long ago", "client {number}: {read:?}");
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(check::read_all(client).unwrap(), b"", "and no copy of it is left that keeps it open");
    }
    drop(clients);
    rig.daemon.wait_until_tidy(1).unwrap();
    rig.device_ok("remove", &["web"]).unwrap();
}

/// The keeper has as many descriptors as there are clients, and so has the clients.
fn wait_until_kept(rig: &Rig) {
    let kept = || {
        let keeper = rig.daemon.keepers().first().copied()?;
        (process::fd_count(keeper).ok()? >= WAITING).then_some(())
    };
    wait_for("the clients in the keeper", kept).unwrap();
}

/// Fails when a worker does not hand back those it has not dialled for (`Engine::hand_over_waiting`), or
/// only so many.
#[test]
fn clients_that_waited_in_a_worker_survive_the_instance() {
    who_waited_is_served("orphans", |_| {});
}

/// Fails when the keeper does not hold the clients that were handed back.
#[test]
fn clients_handed_back_survive_the_daemon_too() {
    who_waited_is_served("orphand", |rig| {
        rig.daemon.kill().unwrap();
        rig.daemon.launch().unwrap();
        assert!(rig.daemon.terminate().unwrap().success());
        rig.daemon.launch().unwrap();
    });
}

/// Fails when a new keeper is supplied with listeners only.
#[test]
fn clients_handed_back_survive_a_new_keeper_and_then_the_daemon() {
    who_waited_is_served("orphank", |rig| {
        let keepers = rig.daemon.keepers();
        kill_all(&keepers);
        rig.daemon.wait_until_tidy(0).unwrap();
        wait_until_kept(rig);
        rig.daemon.kill().unwrap();
        rig.daemon.launch().unwrap();
    });
}
