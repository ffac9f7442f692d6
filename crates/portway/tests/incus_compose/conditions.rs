//! What services wait for, and what becomes of those that wait in vain.

use crate::scene::Scene;

fn file(code: u8) -> String {
    format!(
        "services:
  job: {{image: bb, command: [sh, -c, 'exit {code}']}}
  after:
    image: bb
    command: [sleep, '100000']
    depends_on: {{job: {{condition: service_completed_successfully}}}}
    stop_grace_period: 0s
  alone: {{image: bb, command: [sleep, '100000'], stop_grace_period: 0s}}
"
    )
}

/// Fails when a failure takes more than those that depend on it, or is taken for a success.
#[test]
fn a_job_that_fails_holds_up_who_needs_it_and_nobody_else() {
    let Some(scene) = Scene::open("job") else { return };
    scene.write(&file(3));
    let up = scene.run(&["up", "-d"]);
    assert_eq!(up.code, Some(1));
    assert!(up.err.contains("job-1 has ended with exit code 3"), "{up:?}");
    assert_eq!(scene.instances(), ["after-1 Stopped", "alone-1 Running", "job-1 Stopped"]);
    assert_eq!(scene.waited("job"), (Some(3), "3\n".to_owned()));
    let alone = scene.pid("alone-1");
    scene.write(&file(0));
    scene.ok(&["up", "-d"]);
    assert_eq!(scene.instances(), ["after-1 Running", "alone-1 Running", "job-1 Stopped"]);
    assert_eq!(scene.pid("alone-1"), alone);
}

/// Fails when what is unhealthy is waited for without end, or counts as healthy.
#[test]
fn who_is_unhealthy_is_given_up() {
    let Some(scene) = Scene::open("sick") else { return };
    scene.write(
        "services:
  sick:
    image: bb
    command: [sleep, '100000']
    healthcheck: {test: [CMD, 'false'], interval: 100ms, retries: 3}
    stop_grace_period: 0s
  after:
    image: bb
    command: [sleep, '100000']
    depends_on: {sick: {condition: service_healthy}}
    stop_grace_period: 0s
",
    );
    let up = scene.run(&["up", "-d"]);
    assert_eq!(up.code, Some(1));
    assert!(up.err.contains("sick-1 is unhealthy"), "{up:?}");
    assert_eq!(scene.instances(), ["after-1 Stopped", "sick-1 Running"]);
}

/// Fails when a test of health runs as somebody else than the service: another user, groups, folder or variables.
#[test]
fn health_is_asked_for_as_the_services_user() {
    let Some(scene) = Scene::open("tested") else { return };
    scene.write(
        r#"services:
  web:
    image: bb
    user: bob
    group_add: ["4711"]
    working_dir: /srv
    environment: {LINES: "one\ntwo"}
    command: [sleep, '100000']
    healthcheck:
      test: id -un >/tmp/who && id -G >>/tmp/who && echo "$$HOME $$(pwd) $$LINES" >>/tmp/who
      interval: 100ms
    stop_grace_period: 0s
"#,
    );
    scene.ok(&["up", "-d", "--wait"]);
    let said = scene.exec("web-1", "cat /tmp/who");
    let said = String::from_utf8(said.stdout).unwrap();
    assert_eq!(said, "bob\n1000 29 4711\n/home/bob /srv one\ntwo\n");
}
