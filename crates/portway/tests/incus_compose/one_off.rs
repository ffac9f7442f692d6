//! Programs in instances of their own, and signals to those of services.

use std::io::Write as _;
use std::process::Stdio;

use portway_testkit::wait_for;

use crate::scene::{Live, Said, Scene};

fn file(port: u16) -> String {
    format!(
        "services:
  web:
    image: bb
    command: [sleep, '100000']
    environment: {{A: of the file}}
    ports: ['127.0.0.1:{port}:80']
    depends_on: [db]
    stop_grace_period: 0s
  db: {{image: bb, command: [sleep, '100000'], stop_grace_period: 0s}}
"
    )
}

/// Fails when input, output or the exit status are not the program's, when a replica is made, or when anything stays.
#[test]
fn a_program_has_an_instance_of_its_own() {
    let Some(scene) = Scene::open("run") else { return };
    let port = scene.free_port();
    scene.write(&file(port));
    assert_eq!(scene.run(&["run", "wep", "true"]).code, Some(4));
    let script = "cat; echo \"$A and $B\" >&2; exit 7";
    let mut command = scene.command(&["run", "--rm", "-e", "B=a $HOME", "web", "sh", "-c", script]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"typed").unwrap();
    let run = Said::of(child.wait_with_output().unwrap());
    assert_eq!((run.code, run.out.as_str()), (Some(7), "typed"), "{run:?}");
    assert!(run.err.contains("of the file and a $HOME\n"), "{run:?}");
    assert_eq!(scene.instances(), ["db-1 Running"]);

    scene.ok(&["run", "--name", "kept", "-p", &format!("127.0.0.1:{port}:80"), "-w", "/tmp", "web", "pwd"]);
    let kept = scene.instance("kept").unwrap();
    assert_eq!(kept["config"]["user.portway.one-off"], "web", "{kept}");
    assert!(kept["devices"].to_string().contains(&port.to_string()), "{kept}");
    let up = scene.ok(&["up", "-d", "--remove-orphans"]);
    assert_eq!(scene.instances(), ["db-1 Running", "kept Stopped", "web-1 Running"], "{up:?}");
    let running = scene.ok(&["run", "-d", "--rm", "--no-deps", "web", "sh", "-c", "sleep 100000"]).out;
    let running = running.trim_end();
    assert!(scene.instances().contains(&format!("{running} Running")), "{:?}", scene.instances());
    scene.ok(&["ps"]);
    scene.bed.client_output(&["stop", "--force", "--project", &scene.name, running]).unwrap();
    wait_for("its removal", || scene.instance(running).is_none().then_some(())).unwrap();
    scene.ok(&["down"]);
    assert!(scene.is_gone());
}

/// Fails when a signal to the command ends it and not the service, or the exit code is not the service's.
#[test]
fn attached_to_a_service() {
    let Some(scene) = Scene::open("attach") else { return };
    let script = "trap \"exit 6\" TERM; touch /ready; while :; do sleep 0.1; done";
    scene.write(&format!("services:\n  web: {{image: bb, command: [sh, -c, '{script}']}}\n"));
    scene.ok(&["up", "-d"]);
    let is_ready = || scene.exec("web-1", "test -e /ready").status.success().then_some(());
    wait_for("the service", is_ready).unwrap();
    let mut left = Live::start(&mut scene.command(&["attach", "--sig-proxy=false", "web"]));
    left.until("attached to web-1");
    left.signal("INT");
    assert_eq!(left.end().0, Some(0));
    assert_eq!(scene.instances(), ["web-1 Running"]);
    let mut attached = Live::start(&mut scene.command(&["attach", "web"]));
    attached.until("attached to web-1");
    attached.signal("TERM");
    assert_eq!(attached.end().0, Some(6));
    assert_eq!(scene.run(&["attach", "web"]).code, Some(1), "it does not run");
}

/// Fails when a signal is another one inside, one that is none is sent, or lines are told only at the end.
#[test]
fn a_signal_reaches_the_program() {
    let Some(scene) = Scene::open("kill") else { return };
    let script =
        "trap \"echo heard\" USR1; trap \"echo bye; exit 5\" HUP; echo ready; while :; do sleep 0.1; done";
    scene.write(&format!("services:\n  web: {{image: bb, command: [sh, -c, '{script}']}}\n"));
    let mut up = Live::start(&mut scene.command(&["up", "--exit-code-from", "web"]));
    up.until("web-1  | ready");
    assert_eq!(scene.run(&["kill", "-s", "NONE", "web"]).code, Some(2));
    scene.ok(&["kill", "-s", "usr1", "web"]);
    up.until("web-1  | heard");
    scene.ok(&["kill", "--signal", "1"]);
    let (code, said) = up.end();
    assert!(code == Some(5) && said.contains("web-1  | bye"), "{said}");
}
