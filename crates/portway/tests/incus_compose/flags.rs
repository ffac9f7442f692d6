//! Flags that select, limit, and clear away.

use crate::scene::Scene;

/// Two services that only are there.
const TWO: &str = "services:
  web: {image: bb, command: [sleep, '100000'], stop_grace_period: 0s, volumes: [/data], depends_on: [db]}
  db: {image: bb, command: [sleep, '100000'], stop_grace_period: 0s}
";

const ONE: &str = "services:
  db: {image: bb, command: [sleep, '100000'], stop_grace_period: 0s}
";

fn names(scene: &Scene, args: &[&str]) -> Vec<String> {
    scene.ok(args).out.lines().map(str::to_owned).collect()
}

/// Fails when a filter lets through what it is not about, or holds back what it is.
#[test]
fn lists_are_filtered() {
    let Some(scene) = Scene::open("filters") else { return };
    scene.write(TWO);
    scene.ok(&["create", "--quiet-pull"]);
    assert_eq!(names(&scene, &["ps", "-q", "--status", "created"]), ["db-1", "web-1"]);
    assert_eq!(names(&scene, &["ps", "-q", "--status", "exited"]), Vec::<String>::new());
    scene.ok(&["start", "--timeout", "60", "db"]);
    assert_eq!(names(&scene, &["ps", "-q", "--filter", "status=running"]), ["db-1"]);
    scene.ok(&["stop", "db"]);
    assert_eq!(names(&scene, &["ps", "-q", "--status", "exited", "--status", "paused"]), ["db-1"]);
    for wrong in ["status=gone", "name=db", ""] {
        assert_eq!(scene.run(&["ps", "--filter", wrong]).code, Some(2), "{wrong}");
    }
    assert_eq!(
        names(&scene, &["ls", "-a", "-q", "--filter", &format!("name={}", scene.name)]),
        std::slice::from_ref(&scene.name)
    );
    assert_eq!(names(&scene, &["ls", "-a", "-q", "--filter", "name=nobody-has-this"]), Vec::<String>::new());
    assert_eq!(scene.run(&["ls", "--filter", "status=x"]).code, Some(2));
    let rows = |args: &[&str]| scene.ok(args).out.lines().count();
    assert_eq!(
        (
            rows(&["stats", "--no-stream", "--format", "json"]),
            rows(&["stats", "-a", "--no-stream", "--format", "json"])
        ),
        (0, 2)
    );
    scene.write(ONE);
    assert_eq!(names(&scene, &["ps", "-a", "-q", "--orphans=false"]), ["db-1"]);
    assert_eq!(names(&scene, &["ps", "-a", "-q"]), ["db-1", "web-1"]);
}

/// Fails when a line that is later is shown, or when the wait for its time has no end.
#[test]
fn logs_have_an_end_in_time() {
    let Some(scene) = Scene::open("until") else { return };
    scene.write("services: {web: {image: bb, command: [sh, -c, 'echo one; sleep 2; echo two; sleep 100000'], stop_grace_period: 0s}}");
    scene.ok(&["up", "-d"]);
    let logs = |args: &[&str]| scene.ok(&[&["logs", "--no-log-prefix", "-t"], args].concat()).out;
    portway_testkit::wait_for("both lines", || logs(&[]).contains(" two\n").then_some(())).unwrap();
    let all = logs(&[]);
    let (first, _) = all.split_once(' ').unwrap();
    assert_eq!(logs(&["--until", first]), format!("{first} one\n"));
    assert_eq!(logs(&["--until", "1h"]), "");
    assert_eq!(logs(&["-f", "--until", first]), format!("{first} one\n"), "it ends");
    assert_eq!(scene.run(&["logs", "--until", "soon"]).code, Some(2));
}

/// Fails when what the files no longer name stays, or what they name goes; when a volume without a name stays with `-v`, or
/// goes without.
#[test]
fn what_is_left_over_goes_when_asked() {
    let Some(scene) = Scene::open("orphans") else { return };
    scene.write(TWO);
    scene.ok(&["up", "-d"]);
    scene.write(ONE);
    let told = "no longer in the files stay: web-1";
    assert!(scene.ok(&["up", "-d"]).err.contains(told));
    let mut ignores = scene.command(&["up", "-d"]);
    let ignored = crate::scene::Said::of(ignores.env("COMPOSE_IGNORE_ORPHANS", "true").output().unwrap());
    assert!(ignored.code == Some(0) && !ignored.err.contains("stay"), "{ignored:?}");
    scene.ok(&["kill", "-s", "WINCH", "--remove-orphans"]);
    assert_eq!(scene.instances(), ["db-1 Running"]);
    let volumes = || scene.all()["volumes"].as_array().map_or(0, Vec::len);
    assert_eq!(volumes(), 1);
    scene.write(TWO);
    scene.ok(&["up", "-d"]);
    scene.ok(&["rm", "-s", "web"]);
    assert_eq!(volumes(), 1);
    scene.ok(&["up", "-d"]);
    scene.ok(&["rm", "-s", "-v", "web"]);
    assert_eq!((volumes(), scene.instances()), (0, vec!["db-1 Running".to_owned()]));
    scene.ok(&["up", "-d"]);
    scene.write(ONE);
    scene.ok(&[
        "run",
        "--rm",
        "--no-deps",
        "--remove-orphans",
        "--cap-add",
        "NET_RAW",
        "-i=false",
        "db",
        "true",
    ]);
    assert_eq!(scene.instances(), ["db-1 Running"]);
}

/// Fails when a dependency stays as it is, or what was named is made anew; when a limit is not kept; when the end that was
/// waited for leaves anything.
#[test]
fn waiting_and_making_anew() {
    let Some(scene) = Scene::open("anew") else { return };
    scene.write(TWO);
    scene.ok(&["up", "-d"]);
    let uuid = |name: &str| scene.instance(name).unwrap()["config"]["volatile.uuid"].clone();
    let (web, db) = (uuid("web-1"), uuid("db-1"));
    scene.ok(&["up", "-d", "--always-recreate-deps", "web"]);
    assert!(uuid("db-1") != db && uuid("web-1") == web, "what was named has not changed");
    let group = scene.ok(&["exec", "-T", "-g", "audio", "db", "id", "-gn"]).out;
    assert_eq!(group, "audio\n");
    let dry = scene.ok(&["exec", "--dry-run", "-u", "0", "db", "rm", "-rf", "/"]).out;
    assert_eq!(dry, "run \"rm\" \"-rf\" \"/\" in db-1 as 0:0 from /\n");
    let healthd = scene.ok(&["up", "-d", "--no-healthd", "--healthd-image", "x"]);
    assert_eq!(healthd.err.matches("healthd have no effect").count(), 1, "{healthd:?}");
    scene.write("services:
  sick: {image: bb, command: [sleep, '100000'], stop_grace_period: 0s, healthcheck: {test: [CMD, 'false'], interval: 200ms, retries: 100000}}
  late: {image: bb, command: [sleep, '1'], depends_on: {sick: {condition: service_healthy}}}
  job: {image: bb, command: [sh, -c, 'sleep 1; exit 4']}
");
    let late = scene.run(&["up", "-d", "--remove-orphans", "--dependency-timeout", "1"]);
    assert!(late.code == Some(1) && late.err.contains("service sick: not so after 1 s"), "{late:?}");
    scene.ok(&["up", "-d", "job"]);
    let waited = scene.run(&["wait", "--down-project", "job"]);
    assert_eq!((waited.code, waited.out.as_str()), (Some(4), "4\n"), "{waited:?}");
    // Volumes stay, as with `down`.
    assert_eq!((scene.instances(), scene.networks().len()), (Vec::new(), 0));
}

/// Fails when a service is shown that does not want to be, or not shown although it is named.
#[test]
fn a_service_that_does_not_want_to_be_shown() {
    let Some(scene) = Scene::open("quiet") else { return };
    scene.write(
        "services:
  one: {image: bb, attach: false, command: [echo, from one]}
  two: {image: bb, command: [echo, from two]}
",
    );
    assert_eq!(scene.ok(&["--parallel", "2", "--compatibility", "up"]).out, "two-1  | from two\n");
    let named = scene.ok(&["up", "--attach", "one"]).out;
    assert_eq!(named, "one-1  | from one\n");
    assert_eq!(scene.run(&["--parallel", "0", "ps"]).code, Some(2));
}

/// Fails when more is done at a time than the variable says, a wrong one is taken for none, or progress goes elsewhere than it
/// is wanted.
#[test]
fn variables_of_docker_compose_are_heard() {
    let Some(scene) = Scene::open("heard") else { return };
    let service =
        |name: &str| format!("  {name}: {{image: bb, command: [sleep, '100000'], stop_grace_period: 0s}}\n");
    scene.write(&format!("services:\n{}", ["a", "b", "c", "d"].map(service).concat()));
    let up = |name: &str, value: &str| {
        let mut command = scene.command(&["--debug", "up", "-d", "--force-recreate"]);
        scene.end(command.env(name, value))
    };
    for wrong in ["0", "-2", "many"] {
        let said = up("COMPOSE_PARALLEL_LIMIT", wrong);
        assert!(said.code == Some(2) && said.err.contains("COMPOSE_PARALLEL_LIMIT is a number"), "{said:?}");
    }
    // A line when a step begins and one when it is done: one at a time they are of one step.
    let most = |said: &str| {
        let (mut open, mut most) = (std::collections::BTreeSet::new(), 0);
        for line in said.lines().filter(|line| line.starts_with("instance ")) {
            let name = line.split_whitespace().nth(1).unwrap().to_owned();
            if !open.remove(&name) {
                open.insert(name);
            }
            most = most.max(open.len());
        }
        most
    };
    let one = up("COMPOSE_PARALLEL_LIMIT", "1");
    assert_eq!((one.code, most(&one.err)), (Some(0), 1), "{one:?}");
    let any = up("COMPOSE_PARALLEL_LIMIT", "-1");
    assert!(any.code == Some(0) && most(&any.err) > 1, "{any:?}");

    let out = up("COMPOSE_STATUS_STDOUT", "1");
    assert!(out.code == Some(0) && out.out.contains("instance a-1") && out.err.is_empty(), "{out:?}");
    let err = up("COMPOSE_STATUS_STDOUT", "0");
    assert!(err.code == Some(0) && err.err.contains("instance a-1") && err.out.is_empty(), "{err:?}");
}

/// Fails when `start` waits longer than it may, or what is under way is told as begun.
#[test]
fn a_start_has_an_end_in_time() {
    let Some(scene) = Scene::open("late") else { return };
    scene.write(
        "services:
  db: {image: bb, command: [sleep, '100000'], stop_grace_period: 0s}
  job: {image: bb, command: [sleep, '100000'], stop_grace_period: 0s, depends_on: [db]}
",
    );
    scene.ok(&["create"]);
    let begin = std::time::Instant::now();
    let late = scene.run(&["start", "--timeout", "0"]);
    assert_eq!(late.code, Some(1), "{late:?}");
    assert!(late.err.contains("after 0 s"), "{late:?}");
    assert!(begin.elapsed() < std::time::Duration::from_secs(20), "{:?}", begin.elapsed());
    assert!(scene.instances().contains(&"job-1 Stopped".to_owned()), "{:?}", scene.instances());
    assert_eq!(scene.run(&["start", "--timeout", "soon"]).code, Some(2));
    scene.ok(&["start", "--timeout", "60"]);
    assert_eq!(scene.instances(), ["db-1 Running", "job-1 Running"]);
}
