//! Services on images of a registry below Portway's first process: what they are run as, what they say, how they end and
//! when they are started again.

use portway_testkit::{OciImage, wait_for};

use crate::registry::Shop;
use crate::scene::Live;

/// Says what it was given, and how it is asked to end.
const TELLS: OciImage<'_> = OciImage {
    user: "5:7",
    entrypoint: &[
        "/bin/sh",
        "-c",
        "echo \"$0|$1|$WORD|$(id -u):$(id -g)|$(pwd)\"; echo \"$LINES\"; sleep 0.3; echo oops >&2; sleep 0.3; trap 'echo int; exit 3' INT; \
         trap 'echo usr1' USR1; echo ready; while :; do sleep 0.05; done",
        "it's",
    ],
    command: &["a  \"b\""],
    environment: &["WORD=from the image", "PATH=/bin:/sbin:/usr/bin"],
    working_dir: "/srv/new",
    archive: None,
};

/// A shell that runs what a service says.
const SHELL: OciImage<'_> = OciImage {
    user: "0:0",
    entrypoint: &["/bin/sh", "-c"],
    command: &["exit 9"],
    environment: &["PATH=/bin:/sbin:/usr/bin"],
    working_dir: "/",
    archive: None,
};

/// Lines of a file in an instance, which may be stopped.
fn lines_of(shop: &Shop, instance: &str, path: &str) -> Vec<String> {
    let from = format!("{instance}{path}");
    let scene = &shop.scene;
    let pulled = scene.bed.client_output(&["file", "pull", "--project", &scene.name, &from, "-"]).unwrap();
    String::from_utf8(pulled.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Waits until all that was said ends like this, and gives it.
fn said(shop: &Shop, end: &str) -> String {
    let logs = || {
        let said = shop.scene.ok(&["logs", "--no-log-prefix"]).out;
        said.ends_with(end).then_some(said)
    };
    wait_for("its words", logs).unwrap()
}

/// Fails when a word, a variable, a user, a folder or a signal of the image's reaches its program as another, when `up`
/// again writes, or when what a file says takes more than a restart.
#[test]
fn a_program_runs_as_its_image_says() {
    let Some(shop) = Shop::open("words") else { return };
    shop.registry.push("app:1", &TELLS);
    let file = |more: &str| {
        shop.write(&format!(
            "services: {{app: {{image: 'REGISTRY/app:1', environment: {{LINES: \"one\\ntwo\"}}, stop_signal: SIGINT{more}}}}}"
        ));
    };
    file("");
    shop.scene.ok(&["up", "-d"]);
    assert_eq!(said(&shop, "ready\n"), "it's|a  \"b\"|from the image|5:7|/srv/new\none\ntwo\noops\nready\n");
    let first = shop.said("app-1", "tr '\\0' ' ' </proc/1/cmdline; stat -c %u /proc/1");
    assert_eq!(first, "/.portway/init service /.portway 0\n");
    assert_eq!(shop.scene.ok(&["exec", "app", "sh", "-c", "id -u; id -g; pwd"]).out, "5\n7\n/srv/new\n");

    let again = shop.scene.events("app-1", || {
        let again = shop.scene.ok(&["up", "-d"]);
        assert_eq!((again.out.as_str(), again.err.as_str()), ("", ""));
    });
    assert_eq!(again, ["instance-updated app-1"], "no more than the mark");
    shop.scene.ok(&["kill", "-s", "USR1"]);
    assert!(said(&shop, "usr1\n").ends_with("ready\nusr1\n"));
    shop.scene.ok(&["stop"]);
    assert_eq!(shop.scene.waited("app"), (Some(3), "3\n".to_owned()));
    let ps = shop.scene.ok(&["ps", "-a"]).out;
    assert!(ps.contains("exited (3)"), "{ps}");

    let uuid = |shop: &Shop| shop.scene.instance("app-1").unwrap()["config"]["volatile.uuid"].clone();
    let before = uuid(&shop);
    file(", user: bob, working_dir: /tmp");
    shop.scene.ok(&["up", "-d"]);
    let lines = said(&shop, "ready\n");
    let own = shop.said("app-1", "id -u bob; id -g bob").replace('\n', " ");
    let (uid, gid) = own.trim().split_once(' ').unwrap();
    assert!(lines.contains(&format!("it's|a  \"b\"|from the image|{uid}:{gid}|/tmp\n")), "{lines}");
    // What is no longer said is the image's again.
    file("");
    shop.scene.ok(&["up", "-d"]);
    wait_for("the image's own", || {
        (said(&shop, "ready\n").matches("|5:7|/srv/new").count() == 2).then_some(())
    })
    .unwrap();
    assert_eq!(uuid(&shop), before, "it was not made anew");
}

/// Fails when the end of a program is not told, or it is started again otherwise than the file says.
#[test]
fn ends_are_told_and_mended() {
    let Some(shop) = Shop::open("ends") else { return };
    shop.registry.push("shell:1", &SHELL);
    shop.write(
        "services:
  job: {image: 'REGISTRY/shell:1', restart: 'on-failure:2', command: ['echo run >>/runs; exit 4']}
  own: {image: 'REGISTRY/shell:1'}
  mends:
    image: REGISTRY/shell:1
    deploy: {restart_policy: {condition: on-failure, delay: 10ms}}
    command: ['echo run >>/runs; test $$(wc -l </runs) = 3']
  after:
    image: REGISTRY/shell:1
    command: [sleep 100000]
    depends_on: {mends: {condition: service_completed_successfully}}
    stop_grace_period: 0s
  always:
    image: REGISTRY/shell:1
    restart: unless-stopped
    command: ['echo run >>/runs; sleep 4242 & test $$(wc -l </runs) -lt 3 && exit 0; exec sleep 100000']
",
    );
    let up = shop.scene.ok(&["up", "-d"]);
    assert!(!up.err.contains("warning"), "{up:?}");
    assert_eq!(shop.scene.waited("job"), (Some(4), "4\n".to_owned()));
    assert_eq!(shop.scene.waited("own"), (Some(9), "9\n".to_owned()));
    assert_eq!(shop.scene.waited("mends"), (Some(0), "0\n".to_owned()));
    assert_eq!((lines_of(&shop, "job-1", "/runs").len(), lines_of(&shop, "mends-1", "/runs").len()), (3, 3));
    let pid = shop.scene.pid("always-1");
    wait_for("the third run", || (lines_of(&shop, "always-1", "/runs").len() == 3).then_some(())).unwrap();
    assert_eq!(shop.scene.pid("always-1"), pid, "in place");
    let left = || shop.scene.exec("always-1", "ps | grep -c '[s]leep 4242'").stdout == b"1\n";
    wait_for("what the runs before have left is gone", || left().then_some(())).unwrap();
    assert_eq!(
        shop.scene.instances(),
        ["after-1 Running", "always-1 Running", "job-1 Stopped", "mends-1 Stopped", "own-1 Stopped"]
    );
    shop.scene.ok(&["stop", "always"]);
    assert_eq!(shop.scene.waited("always"), (Some(143), "143\n".to_owned()));
    assert_eq!(lines_of(&shop, "always-1", "/runs").len(), 3, "a stop is no end to be mended");
}

/// Fails when a line is not its service's, or the command does not end with them and as the file says.
#[test]
fn the_foreground_ends_with_them() {
    let Some(shop) = Shop::open("fg") else { return };
    shop.registry.push("shell:1", &SHELL);
    shop.write(
        "services:
  one: {image: 'REGISTRY/shell:1', command: ['echo from one; echo and error >&2; exit 3']}
  two: {image: 'REGISTRY/shell:1', command: ['echo from two'], depends_on: [one]}
  rest: {image: 'REGISTRY/shell:1', command: ['exec sleep 100000'], stop_grace_period: 0s, profiles: [more]}
",
    );
    let up = shop.scene.ok(&["up"]);
    for line in ["one-1  | from one\n", "one-1  | and error\n", "two-1  | from two\n"] {
        assert!(up.out.contains(line), "{up:?}");
    }
    assert!(up.err.contains("one-1 has ended with exit code 3\n"), "{up:?}");
    let from = shop.scene.run(&["--profile", "more", "up", "--exit-code-from", "one"]);
    assert_eq!(from.code, Some(3), "{from:?}");
    let failure = shop.scene.run(&["--profile", "more", "up", "--abort-on-container-failure", "rest", "one"]);
    assert_eq!(failure.code, Some(3), "{failure:?}");
    let first = shop.scene.run(&["--profile", "more", "up", "--abort-on-container-exit", "rest", "one"]);
    assert_eq!(first.code, Some(3), "{first:?}");
    assert_eq!(shop.scene.instances(), ["one-1 Stopped", "rest-1 Stopped", "two-1 Stopped"]);
}

/// Fails when lines come only at the end, without their times, or twice.
#[test]
fn lines_come_as_they_are_said() {
    let Some(shop) = Shop::open("lines") else { return };
    shop.registry.push("shell:1", &SHELL);
    shop.write(
        "services: {web: {image: 'REGISTRY/shell:1', command: ['echo first; while ! test -e /go; do sleep 0.05; done; \
         echo second; exec sleep 100000'], stop_grace_period: 0s}}",
    );
    shop.scene.ok(&["up", "-d"]);
    assert_eq!(said(&shop, "first\n"), "first\n");
    let mut live = Live::start(&mut shop.scene.command(&["logs", "-f", "-t", "--no-log-prefix"]));
    live.until("Z first\n");
    assert!(!live.has("second"));
    shop.said("web-1", "touch /go");
    live.until("Z second\n");
    shop.scene.ok(&["stop"]);
    let (code, all) = live.end();
    assert_eq!((code, all.lines().count()), (Some(0), 2), "{all}");
    let time = all.split(' ').next().unwrap();
    assert!(time.len() == 30 && time.starts_with("20"), "{all}");
}

/// Fails when a program that has to be the first process is made another's child, or cannot be stopped.
#[test]
fn an_init_is_the_first_process() {
    let Some(shop) = Shop::open("init") else { return };
    let image = OciImage {
        user: "0:0",
        entrypoint: &["/sbin/init"],
        environment: &["WORD=image"],
        ..OciImage::default()
    };
    shop.registry.push("init:1", &image);
    shop.write("services: {web: {image: 'REGISTRY/init:1'}}");
    shop.scene.ok(&["up", "-d"]);
    let first = || {
        let name =
            shop.said("web-1", "tr '\\0' ' ' </proc/1/cmdline; tr '\\0' '\\n' </proc/1/environ | grep WORD");
        (name == "/bin/sh /sbin/init WORD=image\n").then_some(())
    };
    wait_for("the image's init", first).unwrap();
    let again = shop.scene.ok(&["up", "-d"]);
    assert_eq!((again.out.as_str(), again.err.as_str()), ("", ""));
    shop.scene.ok(&["stop", "-t", "30"]);
    let waited = shop.scene.run(&["wait", "web"]);
    assert!(waited.err.contains("exit code"), "{waited:?}");
}

/// Fails when a service that Portway's first process cannot run is not run, or its end is taken for a known one.
#[test]
fn where_ours_cannot_be_the_server_runs_it() {
    let Some(shop) = Shop::open("bare") else { return };
    shop.registry.push("shell:1", &SHELL);
    let file = |more: &str| {
        shop.write(&format!(
            "x-incus: {{restricted: 'true'}}
services: {{web: {{image: 'REGISTRY/shell:1', command: [exec sleep 4711], stop_grace_period: 0s{more}}}}}
"
        ));
    };
    file("");
    let up = shop.scene.ok(&["up", "-d", "--allow"]);
    assert!(
        up.err.contains("runs without Portway's first process") && up.err.contains("is restricted"),
        "{up:?}"
    );
    let runs =
        shop.said("web-1", "ps -o args | grep -c '^sleep 4711$'; ls /.portway 2>/dev/null || echo none");
    assert_eq!(runs, "1\nnone\n");
    shop.scene.ok(&["stop"]);
    let ps = shop.scene.ok(&["ps", "-a"]).out;
    assert!(ps.contains("stopped") && !ps.contains("exited"), "{ps}");
    assert_eq!(shop.scene.run(&["wait", "web"]).code, Some(1));
    file(", restart: on-failure");
    let up = shop.scene.ok(&["up", "-d", "--allow"]);
    assert!(up.err.contains("restart: ignored: nothing tells how it has ended"), "{up:?}");
}
