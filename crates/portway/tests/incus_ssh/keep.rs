//! Sessions that stay when their connection goes.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portway_testkit::{Server, wait_for};

use crate::scene::Scene;
use crate::tty::Tty;

/// Login of bob's session of that name.
fn login(scene: &Scene, name: &str) -> String {
    format!("keep={name},bob@{}", scene.container.name())
}

/// What a command of a login says, and its status.
fn said(scene: &Scene, login: &str, options: &[&str], words: &str) -> (String, Option<i32>) {
    let output = scene.talk(scene.client(options).args([&Scene::at(login), words]), b"").unwrap();
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8(text).unwrap(), output.status.code())
}

/// Waits until nothing of any session is left in the container.
pub(crate) fn nothing_is_left(scene: &Scene) {
    let left = "ls -d /tmp/portway-* /run/portway-* 2>/dev/null; for exe in /proc/[0-9]*/exe; do readlink $exe; done | \
                grep portway-guest; grep -c portway /proc/net/unix; true";
    let mut last = String::new();
    let is_clean = || {
        last = scene.container.sh(left).unwrap();
        (last.trim() == "0").then_some(())
    };
    assert!(wait_for("the end of all of it", is_clean).is_ok(), "left: {last}");
}

/// Logs in, says something in the shell, and gives that shell's pid.
pub(crate) fn begin(scene: &Scene, login: &str) -> (Tty, String) {
    let mut tty = Tty::open(scene, login, 80, 24);
    tty.keys("PS1='> '; kept=yes; echo \"pid=<$$>\"\r");
    tty.until("a pid", |tty| tty.lines().iter().any(|line| line.starts_with("pid=<")));
    let line = tty.lines().into_iter().find(|line| line.starts_with("pid=<")).unwrap();
    let pid = line.trim_start_matches("pid=<").trim_end_matches('>').to_owned();
    (tty, pid)
}

/// Fails when a session goes with its connection, another one is shown, its end is not told, or anything is left of it.
#[test]
fn a_session_is_there_again() {
    let Some(scene) = Scene::start(Server::Incus6, "keep").unwrap() else { return };
    let login = login(&scene, "work");
    let (first, pid) = begin(&scene, &login);
    first.kill();
    let mut again = Tty::open(&scene, &login, 80, 24);
    // What was there is there.
    again.shows(&format!("pid=<{pid}>"));
    again.keys("echo \"and $kept <$$> $PORTWAY_SESSION $(tty) $SSH_TTY\"\r");
    again.shows(&format!("and yes <{pid}> work /dev/pts/"));
    let line = again.lines().into_iter().find(|line| line.starts_with("and yes")).unwrap();
    let names: Vec<_> = line.split(' ').rev().take(2).collect();
    assert_eq!(names[0], names[1], "the variable names the terminal");
    let (listed, status) = said(&scene, &login, &[], "list");
    assert!(listed.starts_with(&format!("work\tpid {pid}, 80x24, 1 viewer, for ")), "{listed}");
    assert_eq!((listed.lines().count(), status), (1, Some(0)));
    again.keys("exit 7\r");
    assert_eq!(again.end(), Some(7), "{:?}", again.lines());
    nothing_is_left(&scene);
    let (listed, _) = said(&scene, &login, &[], "list");
    assert_eq!(listed, "no session is kept\n");
    let kept = |line: &serde_json::Value| {
        (line["event"] == "started").then(|| (line["what"].clone(), line["keep"].clone()))
    };
    let lines: Vec<_> = scene.audit().unwrap().iter().filter_map(kept).collect();
    assert_eq!(lines[0], ("shell".into(), "work".into()));
    assert_eq!(lines[2], ("list-sessions".into(), "work".into()));
}

/// Fails when two viewers see two things, one has the other's size for its own, or only one hears of the end.
#[test]
fn several_look_at_one_session() {
    let Some(scene) = Scene::start(Server::Incus6, "several").unwrap() else { return };
    let login = login(&scene, "both");
    let (mut one, pid) = begin(&scene, &login);
    let mut two = Tty::open(&scene, &login, 100, 30);
    two.shows(&format!("pid=<{pid}>"));
    two.keys("stty size\r");
    two.shows("30 100");
    one.shows("30 100");
    one.keys("stty size; echo by-$kept\r");
    one.shows("24 80");
    two.shows("by-yes");
    two.resize(70, 20);
    two.keys("stty size\r");
    two.shows("20 70");
    one.shows("20 70");
    // What a program asks of its terminal is answered once.
    two.settle();
    let (before, asks) = (two.said.len(), b"\x1b[6n");
    one.keys("printf '\\033[6n'; sleep 1; echo; echo ask''ed\r");
    one.shows("asked");
    two.shows("asked");
    assert!(one.said.windows(4).any(|bytes| bytes == asks), "who has typed last is asked");
    assert!(!two.said[before..].windows(4).any(|bytes| bytes == asks), "and nobody else");
    two.keys("exit 3\r");
    assert_eq!((one.end(), two.end()), (Some(3), Some(3)));
    nothing_is_left(&scene);
}

/// Fails when two that come first at the same time have a session each.
#[test]
fn who_comes_first_at_the_same_time_comes_to_the_same() {
    let Some(scene) = Scene::start(Server::Incus6, "race").unwrap() else { return };
    let login = login(&scene, "race");
    let mut all: Vec<_> = (0..5).map(|_| Tty::open(&scene, &login, 80, 24)).collect();
    all[0].keys("echo \"one <$$> shell\"\r");
    for tty in &mut all {
        tty.until("the shell", |tty| tty.lines().iter().any(|line| line.starts_with("one <")));
    }
    let (listed, _) = said(&scene, &login, &[], "list");
    assert!(listed.contains("5 viewers") && listed.lines().count() == 1, "{listed}");
    let (killed, status) = said(&scene, &login, &[], "kill");
    assert_eq!((killed.as_str(), status), ("", Some(0)));
    for tty in &mut all {
        assert!(tty.end().is_some_and(|status| status != 0));
    }
    assert_eq!(said(&scene, &login, &[], "kill").1, Some(1));
    nothing_is_left(&scene);
}

/// Fails when a program waits for somebody to look, what it wrote meanwhile is lost beyond a bound, or a viewer that takes
/// nothing holds it up.
#[test]
fn nobody_needs_to_look() {
    let Some(scene) = Scene::start(Server::Incus6, "unseen").unwrap() else { return };
    let login = login(&scene, "unseen");
    let (mut first, _) = begin(&scene, &login);
    first.keys(
        "sleep 1; yes $(seq 1 25) | head -c 20000000; seq 1 3000; echo all-$kept; touch /tmp/writ''ten\r",
    );
    first.shows("touch");
    first.kill();
    let is_written =
        || scene.container.sh("ls /tmp/written 2>/dev/null; true").unwrap().contains("written").then_some(());
    wait_for("20 MB", is_written).unwrap();
    let mut again = Tty::open(&scene, &login, 80, 24);
    again.shows("all-yes");
    let numbers: Vec<u32> = again.all().lines().filter_map(|line| line.parse().ok()).collect();
    let expected: Vec<u32> = (3001 - u32::try_from(numbers.len()).unwrap()..=3000).collect();
    assert!(numbers.len() > 1900 && numbers == expected, "{} lines", numbers.len());
    // Somebody looks and takes nothing.
    scene.container.sh("rm /tmp/written").unwrap();
    again.keys("yes $(seq 1 25) | head -c 20000000; echo more-$kept; touch /tmp/writ''ten\r");
    wait_for("20 MB more", is_written).unwrap();
    again.shows("more-yes");
    again.keys("echo on-$kept; exit\r");
    again.until("the last words", |tty| tty.all().contains("on-yes"));
    assert_eq!(again.end(), Some(0));
    nothing_is_left(&scene);
}

/// A full-screen program, the gateway and the connection's process killed, and another window: what is shown is what the
/// program shows when it is asked to draw everything anew.
fn a_screen_is_intact(scene: &mut Scene, login: &str) {
    let (mut first, pid) = begin(scene, login);
    scene.container.sh("seq 1 100 | sed 's/$/ is a line of the file/' >/tmp/file").unwrap();
    first.keys("vi /tmp/file\r");
    first.shows("10 is a line of the file");
    first.keys("14jwwi here \u{1b}");
    first.shows("15 is  here a line");
    first.settle();
    let (seen, cursor) = (first.lines(), first.cursor());
    for session in scene.sessions() {
        kill(Pid::from_raw(session), Signal::SIGKILL).unwrap();
    }
    scene.stop(Signal::SIGKILL).unwrap();
    first.kill();
    scene.launch().unwrap();
    // Before the program draws anything: its size is as it was.
    let mut same = Tty::open(scene, login, 80, 24);
    same.shows("15 is  here a line");
    same.settle();
    assert_eq!((same.lines(), same.cursor(), same.is_alternate()), (seen, cursor, true));
    same.kill();
    let mut other = Tty::open(scene, login, 100, 30);
    other.shows("28 is a line of the file");
    other.settle();
    let shown = (other.lines(), other.cursor());
    other.keys("\u{c}");
    other.settle();
    assert_eq!(shown, (other.lines(), other.cursor()));
    other.keys(":q!\r");
    other.until("the shell's screen", |tty| !tty.is_alternate());
    other.shows(&format!("pid=<{pid}>"));
    other.keys("exit 5\r");
    assert_eq!(other.end(), Some(5));
    nothing_is_left(scene);
}

/// Fails when a kill of the gateway and of the session ends what stays, or what is shown after it is something else.
#[test]
fn a_screen_is_intact_after_a_kill() {
    let Some(mut scene) = Scene::start(Server::Incus6, "screen").unwrap() else { return };
    let login = login(&scene, "vi");
    a_screen_is_intact(&mut scene, &login);
}

/// Fails when an instance elsewhere has no sessions that stay.
#[test]
fn a_screen_is_intact_elsewhere() {
    let Some(mut scene) = Scene::start(Server::Incus7, "screens").unwrap() else { return };
    let _trusted = crate::remotes::elsewhere(&scene);
    let login = format!("keep=far,r1:bob@{}", scene.container.name());
    a_screen_is_intact(&mut scene, &login);
}

/// Fails when a viewer goes with the gateway that is replaced, or the next gateway knows nothing of the session.
#[test]
fn an_upgrade_is_not_noticed() {
    let Some(mut scene) = Scene::start(Server::Incus6, "upgrade").unwrap() else { return };
    let login = login(&scene, "up");
    let (mut first, pid) = begin(&scene, &login);
    scene.replace().unwrap();
    first.keys("echo still-$kept\r");
    first.shows("still-yes");
    let mut second = Tty::open(&scene, &login, 80, 24);
    second.shows(&format!("pid=<{pid}>"));
    second.shows("still-yes");
    second.keys("exit 4\r");
    assert_eq!((first.end(), second.end()), (Some(4), Some(4)));
}

/// Fails when another user of the instance, or of the gateway, comes to a session; or one that is in the way of its folder
/// is trusted.
#[test]
fn a_session_is_its_users() {
    let Some(scene) = Scene::start(Server::Incus6, "own").unwrap() else { return };
    let name = scene.container.name().to_owned();
    let login = login(&scene, "own");
    scene.container.sh("echo 'alice:x:1001:1001::/:/bin/sh' >>/etc/passwd").unwrap();
    let (mut first, pid) = begin(&scene, &login);
    assert_eq!(scene.container.sh("stat -c '%U %a' /tmp/portway-1000").unwrap(), "bob 700\n");
    let looks = scene
        .container
        .sh("su alice -s /bin/sh -c 'ls /tmp/portway-1000; mv /tmp/portway-1000 /tmp/x' 2>&1; true");
    assert!(!looks.unwrap().contains("own.sock"));
    let (listed, _) = said(&scene, &format!("keep=own,alice@{name}"), &[], "list");
    assert_eq!(listed, "no session is kept\n");
    let (listed, _) = said(&scene, &format!("keep=own,{name}"), &[], "list");
    assert_eq!(listed, "no session is kept\n", "root has his own");
    first.keys("exit\r");
    first.end();
    // Somebody was first.
    scene.container.sh("mkdir -p -m 1777 /dev/shm").unwrap();
    scene
        .container
        .sh("su alice -s /bin/sh -c 'mkdir -m 777 /tmp/portway-1000; ln -s /tmp /dev/shm/portway-1000'")
        .unwrap();
    scene.container.sh("chown root /home/bob").unwrap();
    let mut refused = Tty::open(&scene, &login, 80, 24);
    refused.shows("portway: /tmp/portway-1000 is not a folder of this user alone");
    assert_eq!(refused.end(), Some(1));
    // In his own home he is first.
    scene.container.sh("chown bob /home/bob").unwrap();
    let (mut at_home, _) = begin(&scene, &login);
    let sockets = "ls /home/bob/.local/state/portway/$(hostname)";
    assert_eq!(scene.container.sh(sockets).unwrap(), "own.sock\n");
    at_home.keys("exit 3\r");
    assert_eq!(at_home.end(), Some(3));
    assert_eq!(scene.container.sh("ls /home/bob/.local/state").unwrap(), "");
    scene.container.sh("rm /dev/shm/portway-1000").unwrap();
    let (mut elsewhere, other) = begin(&scene, &login);
    assert_ne!(other, pid);
    assert_eq!(
        scene.container.sh("ls /tmp/portway-1000 /dev/shm/portway-1000").unwrap().matches("own.sock").count(),
        1
    );
    elsewhere.keys("exit 2\r");
    assert_eq!(elsewhere.end(), Some(2));
    assert_eq!(scene.container.sh("ls -d /dev/shm/portway-1000 2>/dev/null; true").unwrap(), "");
}

/// What is no shell on a terminal: said in a line, or run as by any login.
///
/// Fails when it is silently something else.
#[test]
fn what_does_not_stay_is_as_always() {
    let Some(scene) = Scene::start(Server::Incus6, "plain").unwrap() else { return };
    let login = login(&scene, "plain");
    let (text, status) = said(&scene, &login, &["-T"], "");
    let needs = "portway: a session that stays needs a terminal, which this one has not (ssh -t)\n";
    assert_eq!((text.as_str(), status), (needs, Some(1)));
    assert_eq!(said(&scene, &login, &[], "id -un; exit 6"), ("bob\n".to_owned(), Some(6)));
    let (text, status) =
        said(&scene, &format!("keep={},bob@{}", "x".repeat(65), scene.container.name()), &[], "id");
    assert!(status == Some(1) && text.contains("more than 64 bytes"), "{text}");
    // Sixteen, and no more.
    let all: Vec<_> = (0..16).map(|n| begin(&scene, &self::login(&scene, &format!("s{n}"))).0).collect();
    let mut more = Tty::open(&scene, &login, 80, 24);
    more.shows("portway: 16 sessions are kept, and no more may be");
    assert_eq!(more.end(), Some(1));
    // A holder that was killed makes place.
    let kill = "for dir in /proc/[0-9]*; do if tr '\\0' ' ' <$dir/cmdline | grep -q 'hold s[3] '; then \
                kill -9 ${dir#/proc/} && echo killed; fi; done 2>/dev/null";
    assert_eq!(scene.container.sh(kill).unwrap(), "killed\n");
    drop(all);
    let (mut new, _) = begin(&scene, &login);
    new.keys("exit 0\r");
    assert_eq!(new.end(), Some(0));
    // A key that forces a command has that command, which ends with its connection.
    let key = fs::read_to_string(scene.path("key.pub")).unwrap();
    fs::write(scene.path("home/.ssh/authorized_keys"), format!("command=\"echo forced; tty\" {key}"))
        .unwrap();
    let mut forced = Tty::open(&scene, &login, 80, 24);
    forced.shows("forced");
    assert_eq!(forced.end(), Some(0));
}

/// Fails when a login to an instance that is frozen waits without an end.
#[test]
fn a_frozen_instance_is_told() {
    let Some(scene) = Scene::start(Server::Incus6, "frost").unwrap() else { return };
    let login = login(&scene, "cold");
    let (first, pid) = begin(&scene, &login);
    scene.container.change_state("freeze").unwrap();
    first.kill();
    let mut again = Tty::open(&scene, &login, 80, 24);
    again.shows("is frozen");
    assert_eq!(again.end(), Some(3));
    scene.container.change_state("unfreeze").unwrap();
    let mut again = Tty::open(&scene, &login, 80, 24);
    again.shows(&format!("pid=<{pid}>"));
    again.keys("exit 9\r");
    assert_eq!(again.end(), Some(9));
    nothing_is_left(&scene);
}
