//! The program as the first process of a container: an instance that is a service and nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use portway_testkit::{Bed, Container, ContainerSpec, Server, bed_of, is_root, wait_for};
use serde_json::json;

#[test]
fn incus6_runs_a_service() {
    a_service(Server::Incus6);
}

#[test]
fn incus7_runs_a_service() {
    a_service(Server::Incus7);
}

/// A stopped container whose first process the program is, and what the program is told.
fn scene(server: Server, script: &str) -> Option<(&'static Bed, Container<'static>)> {
    let bed = if is_root() { bed_of(server)? } else { return None };
    let config = [("raw.lxc", format!("lxc.init.cmd = {DIR}/init service {DIR}"))];
    let config = config.map(|(key, value)| (key.to_owned(), value)).into_iter().collect::<BTreeMap<_, _>>();
    let container =
        bed.launch("service", &ContainerSpec { config, stopped: true, ..ContainerSpec::default() });
    let container = container.expect("a container");
    // As `portway_proto::service` has it.
    let spec = format!("arg=sh\0arg=-c\0arg={script}\0user=bob\0cwd=/home/bob\0");
    let program = portway_guestbin::program(std::env::consts::ARCH).expect("there is one");
    let dir = container.rootfs().join(DIR.trim_start_matches('/'));
    fs::create_dir(&dir).expect("a folder");
    for (name, mode, bytes) in [("init", 0o755, program), ("service", 0o600, spec.as_bytes())] {
        fs::write(dir.join(name), bytes).expect("a file");
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).expect("its mode");
    }
    Some((bed, container))
}

/// Folder of what is ours inside.
const DIR: &str = "/.portway";

fn kept(container: &Container<'_>, name: &str) -> Vec<u8> {
    fs::read(container.rootfs().join(DIR.trim_start_matches('/')).join(name)).unwrap_or_default()
}

/// What it has said: after the time and the letter of the output.
fn lines(container: &Container<'_>) -> Vec<String> {
    let log = String::from_utf8_lossy(&kept(container, "log.0")).into_owned();
    log.lines().filter_map(|line| line.splitn(3, ' ').nth(2)).map(str::to_owned).collect()
}

fn state(container: &Container<'_>) -> String {
    String::from_utf8_lossy(&kept(container, "state")).into_owned()
}

fn wait_stopped(container: &Container<'_>) {
    let stopped = || container.read().is_ok_and(|read| read["status"] == json!("Stopped")).then_some(());
    wait_for("the end", stopped).expect("it stops");
}

/// Fails when a status is lost, an orphan stays a zombie, the server's stop is not heard, or a user's service cannot
/// take a low port.
fn a_service(server: Server) {
    let script = "id -un; pwd; (sh -c 'sleep 0.1 & echo $!' & wait); nc -l -p 80 >/dev/null & echo ready; \
                  trap 'echo term; exit 5' TERM; while :; do sleep 0.05; done";
    let Some((bed, container)) = scene(server, script) else { return };
    container.start().expect("it starts");
    let said = || Some(lines(&container)).filter(|lines| lines.iter().any(|line| line == "ready"));
    let said = wait_for("the service", said).expect("it speaks");
    assert_eq!(said[..2], ["bob", "/home/bob"]);
    assert!(state(&container).starts_with("running "));
    let listens = || container.sh("netstat -ltn").ok().filter(|text| text.contains(":80 "));
    wait_for("port 80", listens).expect("a user may take it");
    // The child of a child that has gone is the first process's to reap.
    let zombies = || {
        let all = container.sh("for p in /proc/[0-9]*; do cat $p/stat; done").ok()?;
        (!all.lines().any(|line| line.contains(") Z "))).then_some(())
    };
    wait_for("no zombies", zombies).expect("they are reaped");
    let stop = json!({"action": "stop", "timeout": 30});
    let target = format!("/1.0/instances/{}/state", container.name());
    bed.incus().change("PUT", &target, Some(&stop)).expect("it hears the stop");
    assert!(state(&container).starts_with("exited 5 "));
    assert!(lines(&container).iter().any(|line| line == "term"));

    // The instance ends with its service, of itself; what was said before stays.
    container.start().expect("it starts");
    wait_for("the service", || {
        (lines(&container).iter().filter(|line| *line == "ready").count() == 2).then_some(())
    })
    .expect("it speaks");
    container.sh("kill -KILL $(cat /proc/1/task/1/children | cut -d' ' -f1)").expect("it is killed");
    wait_stopped(&container);
    assert!(state(&container).starts_with("exited 137 "));
}
