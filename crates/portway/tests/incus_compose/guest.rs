//! Commands in system images: what they are run as, how they end, when they are started again, and how an instance is
//! replaced.

use portway_testkit::wait_for;
use serde_json::json;

use crate::scene::Scene;

/// Lines of a file in an instance, which may be stopped.
fn lines_of(scene: &Scene, instance: &str, path: &str) -> Vec<String> {
    let from = format!("{instance}{path}");
    let pulled = scene.bed.client_output(&["file", "pull", "--project", &scene.name, &from, "-"]).unwrap();
    String::from_utf8(pulled.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Fails when a word, a variable, a user or a signal reaches the program as another, or its status nobody; when another
/// version of the first process stops what runs, or is never put in place.
#[test]
fn a_command_runs_as_the_file_says() {
    let Some(scene) = Scene::open("words") else { return };
    scene.write(
        r#"services:
  web:
    image: bb
    user: bob:audio
    working_dir: /srv/a b
    stop_signal: SIGINT
    environment: {LINES: "one\ntwo", EMPTY: '', PLAIN: plain}
    entrypoint: [sh, -c]
    command:
      - |
        trap 'exit 3' INT
        id -un; id -gn; pwd
        echo "$$LINES" $${EMPTY+empty} $$PLAIN "$$@"
        echo ready
        while :; do sleep 0.05; done
      - name
      - "it's  *"
"#,
    );
    scene.ok(&["up", "-d"]);
    let logs = || {
        let said = scene.ok(&["logs", "--no-log-prefix"]).out;
        said.ends_with("ready\n").then_some(said)
    };
    let said = wait_for("its words", logs).unwrap();
    assert_eq!(said, "bob\naudio\n/srv/a b\none\ntwo empty plain it's  *\nready\n");
    assert_eq!(
        scene.ok(&["exec", "web", "sh", "-c", "id -un; pwd; echo $LINES"]).out,
        "bob\n/srv/a b\none two\n"
    );

    let label = |scene: &Scene| scene.instance("web-1").unwrap()["config"]["user.portway.guest"].clone();
    let (pid, new) = (scene.pid("web-1"), label(&scene));
    let target = format!("/1.0/instances/web-1?project={}", scene.name);
    let old = json!({"config": {"user.portway.guest": "old"}});
    scene.bed.incus().change("PATCH", &target, Some(&old)).unwrap();
    assert_eq!(scene.ok(&["up", "-d"]).err, "");
    assert_eq!((scene.pid("web-1"), label(&scene)), (pid, json!("old")));
    scene.ok(&["stop"]);
    assert_eq!(scene.waited("web"), (Some(3), "3\n".to_owned()));
    let ps = scene.ok(&["ps", "-a"]).out;
    assert!(ps.contains("exited (3)"), "{ps}");
    let ps: serde_json::Value =
        serde_json::from_str(&scene.ok(&["ps", "-a", "--format", "json"]).out).unwrap();
    assert_eq!(ps[0]["exit_code"], 3, "{ps}");
    scene.ok(&["up", "-d"]);
    assert_eq!(label(&scene), new);
}

/// Fails when a program is started again that has ended as it should, or not that has not; when the server does it too, or
/// what a run has started stays.
#[test]
fn who_fails_is_started_again() {
    let Some(scene) = Scene::open("again") else { return };
    scene.write(
        "services:
  job:
    image: bb
    restart: on-failure:2
    command: [sh, -c, 'echo run >>/runs; exit 4']
  mends:
    image: bb
    deploy: {restart_policy: {condition: on-failure, delay: 10ms}}
    command: [sh, -c, 'echo run >>/runs; test $$(wc -l </runs) = 3']
  after:
    image: bb
    command: [sleep, '100000']
    depends_on: {mends: {condition: service_completed_successfully}}
    stop_grace_period: 0s
  always:
    image: bb
    restart: unless-stopped
    command: [sh, -c, 'echo run >>/runs; sleep 4242 & test $$(wc -l </runs) -lt 3 && exit 0; exec sleep 100000']
",
    );
    scene.ok(&["up", "-d"]);
    assert_eq!(scene.waited("job"), (Some(4), "4\n".to_owned()));
    assert_eq!(lines_of(&scene, "job-1", "/runs").len(), 3);
    assert_eq!(lines_of(&scene, "mends-1", "/runs").len(), 3);
    assert_eq!(scene.waited("mends"), (Some(0), "0\n".to_owned()));
    let pid = scene.pid("always-1");
    wait_for("the third run", || (lines_of(&scene, "always-1", "/runs").len() == 3).then_some(())).unwrap();
    assert_eq!(scene.pid("always-1"), pid, "in place");
    let left = || scene.exec("always-1", "ps | grep -c '[s]leep 4242'").stdout == b"1\n";
    wait_for("what the runs before have left is gone", || left().then_some(())).unwrap();
    assert_eq!(
        scene.instances(),
        ["after-1 Running", "always-1 Running", "job-1 Stopped", "mends-1 Stopped"]
    );
    scene.ok(&["stop", "always"]);
    assert_eq!(scene.waited("always"), (Some(143), "143\n".to_owned()));
    assert_eq!(lines_of(&scene, "always-1", "/runs").len(), 3, "a stop is no end to be mended");
}

/// Fails when a service is down because its successor cannot be made, or loses its address or its name to it.
#[test]
fn what_cannot_be_made_costs_nobody_the_one_that_is_there() {
    let Some(scene) = Scene::open("replace") else { return };
    let file = |more: &str| {
        format!(
            "services:
  web: {{image: bb, command: [sleep, '100000'], stop_grace_period: 0s{more}}}
volumes: {{data: {{}}}}
"
        )
    };
    scene.write(&file(""));
    scene.ok(&["up", "-d"]);
    let (pid, before) = (scene.pid("web-1"), scene.instance("web-1").unwrap());
    scene.write(&file(", volumes: ['data:/data'], x-incus: {limits.cpu: many}"));
    let failed = scene.run(&["up", "-d"]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert_eq!((scene.pid("web-1"), scene.instances()), (pid, vec!["web-1 Running".to_owned()]));
    scene.write(&file(", volumes: ['data:/data']"));
    scene.ok(&["up", "-d"]);
    let after = scene.instance("web-1").unwrap();
    assert_eq!(scene.instances(), ["web-1 Running"]);
    assert_eq!(after["devices"]["eth0"], before["devices"]["eth0"]);
    let config = after["config"].as_object().unwrap();
    assert!(config["user.portway.name"] == "web-1" && !config.contains_key("user.portway.beside"), "{after}");
    assert_ne!(config["volatile.uuid"], before["config"]["volatile.uuid"], "it was made anew");
    assert!(scene.exec("web-1", "mount | grep ' /data '").status.success());
    assert_eq!(scene.ok(&["up", "-d"]).err, "");
}
