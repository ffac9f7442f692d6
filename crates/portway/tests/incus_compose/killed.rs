//! Commands that were killed, and the next ones.

use std::process::Child;
use std::time::Duration;

use crate::scene::Scene;

mod away;
mod images;
mod jobs;
mod left;
mod moments;
mod once;
mod stand;
mod together;

/// Starts a command, which is killed by `when`.
fn kill(scene: &Scene, args: &[&str], when: impl FnOnce(&mut Child)) {
    let mut command = scene.command(args);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut child = scene.bed.netns().spawn(&mut command).unwrap();
    when(&mut child);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Fails when a network without its bridge stays as it is.
#[test]
fn killed_while_the_server_makes_a_network() {
    let Some(scene) = Scene::open("halved") else { return };
    scene.write("services: {web: {image: bb, command: [sleep, '100000'], stop_grace_period: 0s}}");
    let dry = scene.ok(&["up", "-d", "--dry-run"]).out;
    let network = dry.lines().find_map(|line| line.strip_prefix("create network ")).unwrap().to_owned();
    let target = format!("/1.0/networks/{network}");
    for delay_ms in [0, 2, 10, 40] {
        kill(&scene, &["up", "-d"], |child| {
            while scene.bed.incus().find(&target).unwrap().is_none() && child.try_wait().unwrap().is_none() {}
            std::thread::sleep(Duration::from_millis(delay_ms));
        });
        scene.ok(&["up", "-d"]);
        assert_eq!(scene.instances(), ["web-1 Running"]);
        let said = scene.exec("web-1", "ping -c 1 -w 5 web");
        assert!(said.status.success(), "{said:?}");
        scene.ok(&["down"]);
        assert!(scene.is_gone(), "{:#}", scene.all());
    }
}

/// Fails when a network that the server is at when the command dies is left half made or half removed.
#[test]
fn what_the_server_has_begun_it_ends() {
    let Some(stand) = stand::Stand::open("begun") else { return };
    stand.kill_within(&["up", "-d", "--parallel", "1"], "POST /1.0/networks?");
    let own = |wanted: usize| {
        portway_testkit::wait_for("the end of what was begun", || {
            let networks = stand.scene.networks();
            let is_whole = networks.iter().all(|one| one["status"] == "Created");
            (networks.len() == wanted && is_whole).then_some(())
        })
        .unwrap();
    };
    own(1);
    stand.up_is_well(1, &"up");
    own(2);
    stand.kill_within(&["down", "-v", "-t", "0", "--parallel", "1"], "DELETE /1.0/networks/");
    own(1);
    stand.down_is_well(&"down");
}
