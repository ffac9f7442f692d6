//! The daemon is killed while it changes the table.

use std::net::UdpSocket;
use std::process::Stdio;
use std::time::Duration;

use portway_testkit::wait_for;

use crate::scene::{Scene, seen_on};

/// What a table holds, in no order: elements are listed as their hashes come.
fn elements(scene: &Scene) -> Vec<String> {
    let table = scene.tables();
    let mut found: Vec<String> = table
        .split([',', '\n', '{', '}'])
        .map(str::trim)
        .filter(|text| text.contains(" : ") && !text.starts_with("type "))
        .map(str::to_owned)
        .collect();
    found.sort();
    found
}

/// One change of the device: the verb, and the keys that it takes.
struct Step {
    verb: &'static str,
    keys: Vec<String>,
}

impl Step {
    /// An addition, a change of the target, a change of the ports, a removal.
    fn all(port: u16) -> [Step; 4] {
        let step = |verb, keys: &[String]| Step { verb, keys: keys.to_vec() };
        [
            step("add", &[listen(port, 4), connect(7, 4), "nat=true".into()]),
            step("set", &[connect(9, 4)]),
            step("set", &[listen(port, 5), connect(7, 5)]),
            step("remove", &[]),
        ]
    }

    fn words(&self) -> Vec<&str> {
        std::iter::once("web").chain(self.keys.iter().map(String::as_str)).collect()
    }

    fn make(&self, scene: &Scene) {
        scene.rig.device_ok(self.verb, &self.words()).unwrap();
    }

    /// Begins it, and kills the daemon a moment later.
    fn cut_off(&self, scene: &mut Scene, pause: u64) {
        let mut command = scene.rig.daemon.command();
        command.args(["device", self.verb, &scene.rig.reference()]).args(self.words());
        let mut changing = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(pause));
        scene.rig.daemon.kill().unwrap();
        changing.wait().unwrap();
    }
}

fn listen(port: u16, more: u16) -> String {
    format!("listen=udp:0.0.0.0:{port},{}-{}", port + 1, port + more)
}

fn connect(to: u16, more: u16) -> String {
    format!("connect=udp:0.0.0.0:{to},{}-{}", to + 100, to + 99 + more)
}

/// What the table should hold for what is stored, of the states that the steps leave.
fn stored<'s>(scene: &Scene, port: u16, states: &'s [Vec<String>]) -> &'s Vec<String> {
    let devices = scene.rig.daemon.devices().unwrap();
    let Some(keys) = devices.first().map(|device| &device["keys"]) else { return &states[3] };
    let is = |text: String| {
        let (key, value) = text.split_once('=').unwrap();
        keys[key] == value
    };
    match (is(connect(9, 4)), is(listen(port, 4))) {
        (true, _) => &states[1],
        (false, true) => &states[0],
        (false, false) => &states[2],
    }
}

/// Killed at any moment of an addition, of a change of target or ports, and of a removal: the table has what
/// it had or what it should, never some of both. The next daemon makes of it what is stored, and a datagram
/// client that never stops asking is with the service that is published, or with nobody.
///
/// Fails when: a change is more than one transaction, a table without devices is not looked for at the start,
/// connections are not swept there, or the listeners of a change that was not stored are kept.
#[test]
fn killed_at_any_moment_the_table_is_old_or_new() {
    let Some(mut scene) = Scene::start("natcrash") else { return };
    scene.serve();
    let port = scene.rig.ports.run(6).unwrap();
    let steps = Step::all(port);
    let left = steps.iter().map(|step| {
        step.make(&scene);
        elements(&scene)
    });
    let states: Vec<Vec<String>> = left.collect();
    assert_eq!(states[3], Vec::<String>::new());
    assert_ne!(states[0], states[1]);
    let client = scene.client.run(|| UdpSocket::bind(("0.0.0.0", 0))).unwrap().unwrap();
    let target = std::net::SocketAddr::new(scene.hosts[0], port);
    for (pause, number) in
        [0, 2, 4, 6, 9, 13].iter().flat_map(|pause| (0..4).map(move |number| (*pause, number)))
    {
        let (step, old, new) = (&steps[number], &states[(number + 3) % 4], &states[number]);
        let what = format!("{} killed after {pause} ms", step.verb);
        let _ = client.send_to(b"who", target);
        step.cut_off(&mut scene, pause);
        let found = elements(&scene);
        assert!(found == *old || found == *new, "{what}: {found:?}");
        scene.rig.daemon.launch().unwrap();
        let right = || (elements(&scene) == *stored(&scene, port, &states)).then_some(());
        wait_for(&format!("what is stored, {what}"), right).unwrap();
        if stored(&scene, port, &states) != new {
            step.make(&scene);
        }
        assert_eq!(elements(&scene), *new, "{what}");
        // What was answered before.
        client.set_nonblocking(true).unwrap();
        while client.recv_from(&mut [0; 64]).is_ok() {}
        client.set_nonblocking(false).unwrap();
        // At 9 nobody answers, and without a device nobody is asked. To wait for nothing takes long.
        match number {
            0 | 2 => {
                let led = || (seen_on(&client, target) == Some(scene.clients[0])).then_some(());
                wait_for("the service", led).unwrap();
            }
            // The next daemon may still be looking for connections that are to be forgotten.
            _ if pause == 6 => {
                let alone = || seen_on(&client, target).is_none().then_some(());
                wait_for(&format!("nobody to answer, {what}"), alone).unwrap();
            }
            _ => {}
        }
    }
    wait_for("the end of the table", || scene.tables().is_empty().then_some(())).unwrap();
}
