//! Health after `up`: asked for by the daemon, and read by whoever wants to know.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use portway_testkit::{Daemon, DaemonSpec, Server, bed_of, wait_for};
use serde_json::Value;

use crate::PORTWAY;
use crate::scene::{Live, Scene};

/// A project with a daemon.
fn watched(name: &str) -> Option<(Daemon, Scene)> {
    let scene = Scene::open(name)?;
    let daemon = DaemonSpec::new(PORTWAY).on(scene.bed).start().unwrap();
    let scene = scene.with_daemon(&daemon.dir());
    Some((daemon, scene))
}

/// What the daemon says of an instance.
fn told(daemon: &Daemon, scene: &Scene, instance: &str) -> Option<Value> {
    let all = daemon.api().get("/1.0/health").unwrap();
    let end = format!(":{}/{instance}", scene.name);
    all.as_array().unwrap().iter().find(|one| one["instance"].as_str().unwrap().ends_with(&end)).cloned()
}

/// What Prometheus reads.
fn metrics(daemon: &Daemon) -> String {
    let mut stream = UnixStream::connect(daemon.api().socket()).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Waits until it says so.
fn until(daemon: &Daemon, scene: &Scene, instance: &str, state: &str) -> Value {
    wait_for(&format!("{instance} to be {state}"), || {
        told(daemon, scene, instance).filter(|one| one["state"] == state)
    })
    .unwrap()
}

/// Health in `ps`, as people and programs read it.
fn shown(scene: &Scene) -> (String, Option<String>) {
    let all: Value = serde_json::from_str(&scene.ok(&["ps", "-a", "--format", "json"]).out).unwrap();
    let health = all[0]["health"].as_str().map(str::to_owned);
    let line = scene.ok(&["ps", "-a"]).out;
    (line.lines().nth(1).unwrap_or_default().to_owned(), health)
}

/// Fails when health is not asked for after `up`, is read otherwise by one than by another, is written into the
/// instance, outlives the service, or is made up where no daemon tells.
#[test]
fn the_daemon_asks_on() {
    let Some((mut daemon, scene)) = watched("asked") else { return };
    scene.write(
        "services:
  web:
    image: bb
    command: [sleep, '100000']
    healthcheck: {test: 'echo looked; seq 5000; test -e /tmp/ok', interval: 100ms, retries: 2}
    stop_grace_period: 0s
",
    );
    let up = scene.ok(&["up", "-d"]);
    assert!(!up.err.contains("nobody asks"), "{up:?}");
    let ill = until(&daemon, &scene, "web-1", "unhealthy");
    assert_eq!((&ill["project"], &ill["service"]), (&scene.name.as_str().into(), &"web".into()));
    let output = ill["last"]["output"].as_str().unwrap();
    assert!(output.starts_with("looked\n1\n") && output.len() == 4096, "{}", output.len());
    let config = scene.instance("web-1").unwrap()["config"].clone();
    let mut events = Live::start(&mut scene.command(&["events"]));
    let mut json = Live::start(&mut scene.command(&["events", "--json", "web"]));
    // They listen once something has come.
    wait_for("the events", || {
        scene.exec("web-1", "touch /tmp/ok");
        until(&daemon, &scene, "web-1", "healthy");
        let heard = events.has("health_status: healthy web-1 (") && json.has("\"health_status: healthy\"");
        scene.exec("web-1", "rm /tmp/ok");
        until(&daemon, &scene, "web-1", "unhealthy");
        heard.then_some(())
    })
    .unwrap();
    let (line, word) = shown(&scene);
    assert!(line.contains("running (unhealthy)") && word.as_deref() == Some("unhealthy"), "{line}");
    scene.exec("web-1", "touch /tmp/ok");
    until(&daemon, &scene, "web-1", "healthy");
    let (line, word) = shown(&scene);
    assert!(line.contains("running (healthy)") && word.as_deref() == Some("healthy"), "{line}");
    let list = scene.ok(&["list"]).out;
    assert!(list.contains(" Healthy "), "{list}");
    let text = metrics(&daemon);
    let labels = format!("{{instance=\"incus:{0}/web-1\",project=\"{0}\",service=\"web\"}}", scene.name);
    for sample in ["portway_instance_healthy{} 1\n", "portway_health_tests_total{} "] {
        assert!(text.contains(&sample.replace("{}", &labels)), "{text}");
    }
    let tests = told(&daemon, &scene, "web-1").unwrap()["tests_total"].as_u64().unwrap();
    scene.ok(&["pause"]);
    let paused = until(&daemon, &scene, "web-1", "healthy");
    std::thread::sleep(Duration::from_secs(1));
    let later = told(&daemon, &scene, "web-1").unwrap();
    let more = later["tests_total"].as_u64().unwrap() - paused["tests_total"].as_u64().unwrap();
    assert!(more < 5, "{more} tests of one that is paused");
    scene.ok(&["unpause"]);
    wait_for("more tests", || {
        (told(&daemon, &scene, "web-1")?["tests_total"].as_u64()? > tests + 10).then_some(())
    })
    .unwrap();
    assert_eq!(scene.instance("web-1").unwrap()["config"], config, "nothing is written");

    daemon.kill().unwrap();
    let (line, word) = shown(&scene);
    assert!(line.contains("running (health unknown)") && word.as_deref() == Some("unknown"), "{line}");
    daemon.launch().unwrap();
    until(&daemon, &scene, "web-1", "healthy");
    scene.ok(&["restart", "-t", "0"]);
    until(&daemon, &scene, "web-1", "healthy");
    scene.ok(&["stop"]);
    wait_for("it to be forgotten", || told(&daemon, &scene, "web-1").is_none().then_some(())).unwrap();
    let (line, word) = shown(&scene);
    assert!(line.contains("exited") && word.is_none(), "{line}");
}

/// Fails when an up that leaves nobody to ask does not say so.
#[test]
fn without_a_daemon_up_says_that_nobody_asks() {
    let Some(scene) = Scene::open("alone") else { return };
    scene.write(
        "services: {web: {image: bb, command: [sleep, '100000'], stop_grace_period: 0s, healthcheck: {test: 'true'}}}",
    );
    let up = scene.ok(&["up", "-d"]);
    assert!(up.err.contains("nobody asks web for its health"), "{up:?}");
}

/// Fails when `ps` knows less after `up --wait` than `up` did, or a service that is not well in its start period is ill.
#[test]
fn what_was_waited_for_is_known() {
    let Some((daemon, scene)) = watched("waited") else { return };
    scene.write(
        "services:
  web:
    image: bb
    command: [sh, -c, 'rm -f /tmp/ready; sleep 2; touch /tmp/ready; exec sleep 100000']
    healthcheck:
      test: [CMD, test, -e, /tmp/ready]
      interval: 1h
      retries: 1
      start_period: 10m
      start_interval: 200ms
    stop_grace_period: 0s
",
    );
    let mut up = Live::start(&mut scene.command(&["up", "-d", "--wait"]));
    until(&daemon, &scene, "web-1", "starting");
    up.until("web-1");
    assert_eq!(up.end().0, Some(0));
    assert_eq!(shown(&scene).1.as_deref(), Some("healthy"));
    // One that is started anew has to be waited for again.
    scene.ok(&["up", "-d", "--wait", "--force-recreate"]);
    assert_eq!(shown(&scene).1.as_deref(), Some("healthy"));
    let mut front = Live::start(&mut scene.command(&["up", "-t", "0"]));
    front.until("attached to web-1");
    scene.ok(&["restart", "-t", "0"]);
    front.until("web-1 is healthy");
    front.signal("INT");
    front.end();
}

/// Processes that tests have started, in an instance.
fn left(scene: &Scene, instance: &str) -> usize {
    let count = scene.exec(instance, "ps -o args | grep -c '^sleep 4242$'");
    String::from_utf8(count.stdout).unwrap().trim().parse().unwrap()
}

/// A test that hears no signal, has children that do not either, and never ends.
///
/// Fails when: it is waited for without end, what it has started piles up, it holds up others, or who removes its
/// instance; or it outlives the daemon.
#[test]
fn what_hangs_leaves_nothing() {
    let Some((mut daemon, scene)) = watched("hangs") else { return };
    scene.write(
        r#"services:
  hangs:
    image: bb
    user: bob
    command: [sleep, '100000']
    healthcheck:
      test: trap '' TERM HUP INT; setsid sleep 4242 & sleep 4242 & while :; do sleep 4242; done
      interval: 100ms
      timeout: 300ms
      retries: 2
    stop_grace_period: 0s
  leaves:
    image: bb
    command: [sleep, '100000']
    healthcheck: {test: setsid sleep 4242 >/dev/null & true, interval: 100ms}
    stop_grace_period: 0s
  init:
    image: bb
    healthcheck: {test: [CMD, sleep, '4242'], interval: 100ms, timeout: 300ms, retries: 1}
    stop_grace_period: 0s
"#,
    );
    scene.ok(&["up", "-d"]);
    let hung = until(&daemon, &scene, "hangs-1", "unhealthy");
    assert_eq!(hung["last"]["status"], 124, "{hung}");
    assert!(hung["last"]["output"].as_str().unwrap().contains("not over after 300 ms"), "{hung}");
    assert_eq!(until(&daemon, &scene, "init-1", "unhealthy")["last"]["status"], Value::Null);
    until(&daemon, &scene, "leaves-1", "healthy");
    wait_for("ten tests", || {
        let many = |name: &str| Some(told(&daemon, &scene, name)?["tests_total"].as_u64()? >= 10);
        (many("hangs-1")? && many("leaves-1")?).then_some(())
    })
    .unwrap();
    // Those of the test that runs at present.
    for (instance, most) in [("hangs-1", 3), ("leaves-1", 1), ("init-1", 1)] {
        let count = left(&scene, instance);
        assert!(count <= most, "{instance}: {count}");
    }
    // In the midst of a test.
    wait_for("a test", || (left(&scene, "hangs-1") > 0).then_some(())).unwrap();
    daemon.kill().unwrap();
    wait_for("its end", || (left(&scene, "hangs-1") == 0).then_some(())).unwrap();
    daemon.launch().unwrap();
    until(&daemon, &scene, "hangs-1", "unhealthy");
    wait_for("a test", || (left(&scene, "hangs-1") > 0).then_some(())).unwrap();
    scene.ok(&["rm", "-s", "-f", "hangs"]);
    wait_for("it to be forgotten", || told(&daemon, &scene, "hangs-1").is_none().then_some(())).unwrap();
}

/// One daemon, two servers, two projects of one name for their services.
///
/// Fails when: one server's instance is taken for the other's, or what one of them says stands in for the other.
#[test]
fn two_servers_are_asked_apart() {
    let Some(scene) = Scene::open("twins") else { return };
    let Some(lxd) = bed_of(Server::Lxd) else { return };
    let socket = lxd.socket().to_string_lossy().into_owned();
    let daemon = DaemonSpec::new(PORTWAY).on(scene.bed).env("LXD_SOCKET", &socket).start().unwrap();
    let scene = scene.with_daemon(&daemon.dir());
    let other = Scene::on(Server::Lxd, "twins").unwrap().with_daemon(&daemon.dir());
    let file = |test: &str| {
        format!(
            "services: {{web: {{image: bb, command: [sleep, '100000'], stop_grace_period: 0s,
  healthcheck: {{test: [CMD, '{test}'], interval: 100ms, retries: 1}}}}}}"
        )
    };
    scene.write(&file("true"));
    other.write(&file("false"));
    scene.ok(&["up", "-d", "--proxy-engine", "incus"]);
    other.ok(&["up", "-d", "--proxy-engine", "incus"]);
    wait_for("both", || {
        let (here, there) = (shown(&scene).1, shown(&other).1);
        (here.as_deref() == Some("healthy") && there.as_deref() == Some("unhealthy")).then_some(())
    })
    .unwrap();
}
