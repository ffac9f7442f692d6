//! What a service runs when it has started, before it is stopped, and after files of it were copied.

use crate::scene::{Live, Scene};

/// A service with hooks, and one that comes after it; both keep what is said in a volume.
fn file(second: &str, stopping: &str) -> String {
    format!(
        "services:
  web:
    image: bb
    command: [sleep, '100000']
    environment: {{A: of the file}}
    volumes: ['log:/log']
    post_start:
      - command: sh -c 'umask 0; chmod 777 /log; echo first by $$(id -u) >> /log/said'
      - command: [sh, -c, '{second}']
        user: '1000:1001'
        working_dir: /tmp
        environment: [B=of the hook, C]
        privileged: true
    pre_stop: [{{command: [sh, -c, '{stopping}']}}]
  after:
    image: bb
    command: [sh, -c, 'cat /log/said > /log/seen; exec sleep 100000']
    volumes: ['log:/log']
    depends_on: [web]
    stop_grace_period: 0s
volumes: {{log: }}
"
    )
}

const SECOND: &str = r#"echo "$$A, $$B, $$(id -u):$$(id -g) in $$(pwd)" >> /log/said"#;

const STARTED: &str = "first by 0\nof the file, of the hook, 1000:1001 in /tmp\n";

fn said(scene: &Scene, file: &str) -> String {
    String::from_utf8_lossy(&scene.exec("after-1", &format!("cat /log/{file}")).stdout).into_owned()
}

/// Fails when a hook is left out, comes too late, twice or in other surroundings, or is run where nothing starts or stops.
#[test]
fn hooks_are_run_at_each_start_and_stop() {
    let Some(scene) = Scene::open("hooks") else { return };
    scene.write(&file(SECOND, "echo stopping >> /log/said"));
    let up = scene.ok(&["up", "-d"]);
    let warned = up.err.matches("privileged").count();
    assert!(warned == 1 && up.err.contains("post_start[1].privileged: ignored"), "{up:?}");
    assert_eq!(said(&scene, "seen"), STARTED, "who depends on it comes after its hooks");
    scene.ok(&["up", "-d"]);
    scene.ok(&["start"]);
    scene.ok(&["pause", "web"]);
    scene.ok(&["unpause", "web"]);
    assert_eq!(said(&scene, "said"), STARTED, "nothing has started");
    scene.ok(&["restart", "web"]);
    assert_eq!(said(&scene, "said"), format!("{STARTED}stopping\n{STARTED}"));
    scene.ok(&["stop", "-t", "0", "web"]);
    scene.ok(&["stop", "web"]);
    scene.ok(&["start", "web"]);
    assert_eq!(said(&scene, "said"), format!("{STARTED}stopping\n{STARTED}{STARTED}"), "force asks nobody");
    let run = scene.ok(&["run", "--rm", "--no-deps", "web", "cat", "/log/said"]);
    assert_eq!(run.out.matches("first").count(), 3, "{run:?}");
    // A project that nobody has the files of any more stops in the same way.
    scene.ok(&["stop", "web"]);
    assert!(said(&scene, "said").ends_with(&format!("{STARTED}stopping\n")));
    scene.ok(&["down", "-v"]);
    assert!(scene.is_gone());
}

/// Fails when a hook that fails is passed over, when nothing tells which and why, or when nothing gets past it.
#[test]
fn a_hook_that_fails_fails_the_command() {
    let Some(scene) = Scene::open("hooksfail") else { return };
    scene.write(&file("echo no; echo not so >&2; exit 3", "exit 4"));
    let up = scene.run(&["up", "-d"]);
    assert_eq!(up.code, Some(1), "{up:?}");
    let line = "its post_start command \"sh\" has ended with exit code 3: not so";
    assert!(up.err.contains("web-1") && up.err.contains(line), "{up:?}");
    assert!(scene.exec("web-1", "true").status.success(), "it has started");
    assert!(!scene.instances().contains(&"after-1 Running".to_owned()), "{:?}", scene.instances());
    let down = scene.run(&["down"]);
    assert_eq!(down.code, Some(1), "{down:?}");
    assert!(down.err.contains("its pre_stop command \"sh\" has ended with exit code 4"), "{down:?}");
    assert!(scene.exec("web-1", "true").status.success(), "it runs on");
    scene.write(&file(SECOND, "/no/such/program"));
    scene.ok(&["up", "-d"]);
    let down = scene.run(&["down"]);
    assert!(down.code == Some(1) && down.err.contains("exit code 127"), "{down:?}");
    scene.ok(&["down", "-t", "0", "-v"]);
    assert!(scene.is_gone());
}

/// Fails when what `sync+exec` names is not run after a copy, or stops the watching when it fails.
#[test]
fn a_copy_is_followed_by_its_program() {
    let Some(scene) = Scene::open("syncexec") else { return };
    std::fs::create_dir(scene.dir().join("src")).unwrap();
    let of = |exec: &str| {
        format!(
            "services:
  web:
    image: bb
    command: [sleep, '100000']
    stop_grace_period: 0s
    develop: {{watch: [{{action: sync+exec, path: ./src, target: /srv{exec}}}]}}
"
        )
    };
    scene.write(&of(""));
    let none = scene.run(&["watch"]);
    assert!(none.code == Some(2) && none.err.contains("develop.watch[0].exec: is missing"), "{none:?}");
    scene.write(&of(", exec: {command: sh -c 'cp /srv/a /srv/b && grep -q well /srv/a', working_dir: /srv}"));
    let mut live = Live::start(&mut scene.command(&["watch"]));
    live.until("and runs sh");
    std::fs::write(scene.dir().join("src/a"), "ill").unwrap();
    live.until("has ended with exit code 1");
    std::fs::write(scene.dir().join("src/a"), "well").unwrap();
    portway_testkit::wait_for("the second copy", || {
        (scene.exec("web-1", "cat /srv/b").stdout == b"well").then_some(())
    })
    .unwrap();
    live.signal("INT");
    let (code, said) = live.end();
    assert_eq!(code, Some(130), "{said}");
}
