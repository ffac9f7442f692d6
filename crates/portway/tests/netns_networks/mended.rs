//! What a review of networks has found: what runs is not ended for what could not, what is wanted is not lost on the way,
//! and what a daemon leaves in the middle the next one takes up.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portway_testkit::{process, wait_for};

use crate::PORTWAY;
use crate::bed::{Bed, answers, network, network_when, pid, reload, running, says};

const ONE: &str = "ingress = [\"tcp:80:127.0.0.1:8080\"]";
const TWO: &str = "ingress = [\"tcp:80:127.0.0.1:8080\", \"tcp:82:127.0.0.1:8080\"]";

fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// Fails when: SIGHUP or another build ends a network for one that cannot start, be it for a port of root's, for its
/// folder or for its record, or one that is mended is not taken.
#[test]
fn nothing_is_ended_for_what_cannot_start() {
    let bed = Bed::new();
    let mut daemon = bed.daemon(&bed.home(ONE));
    let _other = bed.other();
    let first = pid(&running(&daemon));
    let mut stream = bed.call(8000);
    let stays = |daemon: &portway_testkit::Daemon, word: &str| {
        let shown = network_when(daemon, word, |it| it["error"].as_str().is_some_and(|it| it.contains(word)));
        assert_eq!((pid(&shown), &shown["state"]), (first, &"running".into()), "{shown}");
        assert!(shown["error"].as_str().unwrap().starts_with("it runs as before: "), "{shown}");
    };
    // Port 22 of this host is no ordinary user's.
    reload(&daemon, &bed.home(&format!("{ONE}\negress = [\"tcp:127.0.0.1:22:10.77.0.2:22\"]\ndrain = 3")));
    stays(&daemon, "ports below 1024 need a privilege");
    let folder = daemon.dir().join("mesh/home");
    chown(&folder, Some(1234), Some(1234)).unwrap();
    // Where it is recorded there is no room, or it cannot be written.
    let draft = daemon.dir().join("mesh-home.json.new");
    fs::create_dir(&draft).unwrap();
    reload(&daemon, &bed.home(&format!("{ONE}\ndrain = 3")));
    stays(&daemon, "it cannot be recorded");
    fs::remove_dir(&draft).unwrap();
    stays(&daemon, "it belongs to uid 1234");
    // The next build finds the same.
    let copy = bed.dir.path().join("portway");
    fs::copy(PORTWAY, &copy).unwrap();
    daemon.kill().unwrap();
    daemon.replace_program(&copy);
    daemon.launch().unwrap();
    stays(&daemon, "it belongs to uid 1234");
    assert!(answers(&mut stream));
    // It is tried again without being asked for.
    chown(&folder, Some(65_534), Some(65_534)).unwrap();
    let shown = network_when(&daemon, "another one", |it| it["state"] == "running" && pid(it) != first);
    assert!(shown["error"].is_null(), "{shown}");
}

/// Fails when: what is wanted while a network starts is lost, a rule that was added by hand and stood in the file comes back
/// once it was taken out, or rules of one network become those of the next of its name.
#[test]
fn rules_are_those_that_are_wanted() {
    let bed = Bed::new();
    let daemon = bed.daemon("");
    reload(&daemon, &bed.home(ONE));
    let first = wait_for("its process", || network(&daemon, "home").filter(|it| it["pid"].is_i64())).unwrap();
    let first = pid(&first);
    // It starts, or has just started, and says nothing of what it is told.
    send(first, Signal::SIGSTOP);
    reload(&daemon, &bed.home(TWO));
    wait_for("the file is read", || (daemon.log().matches("settings read again").count() > 1).then_some(()))
        .unwrap();
    send(first, Signal::SIGCONT);
    let rules =
        |count: u64| network_when(&daemon, "its rules", |it| it["rules"] == count && it["error"].is_null());
    assert_eq!(pid(&rules(2)), first);
    reload(&daemon, &bed.home(ONE));
    rules(1);
    says(&daemon, &["mesh", "rule", "add", "--ingress", "tcp:82:127.0.0.1:8080"]);
    says(&daemon, &["mesh", "rule", "add", "--ingress", "tcp:83:127.0.0.1:8080"]);
    rules(3);
    let kept = daemon.dir().join("mesh/home/rules.json");
    assert!(fs::read_to_string(&kept).unwrap().contains("tcp:82"));
    reload(&daemon, &bed.home(TWO));
    wait_for("it is the file's", || (!fs::read_to_string(&kept).unwrap().contains("tcp:82")).then_some(()))
        .unwrap();
    reload(&daemon, &bed.home(&format!("{ONE}\ndrain = 3")));
    let second = network_when(&daemon, "another one", |it| it["rules"] == 2 && pid(it) != first);
    // With another key it is another network: what was opened by hand in the first is not opened in it.
    bed.genconf();
    daemon.reload().unwrap();
    network_when(&daemon, "a third", |it| it["rules"] == 1 && pid(it) != pid(&second));
    assert!(daemon.log().contains("was added to another network"), "{}", daemon.log());
    assert!(fs::read_to_string(&kept).unwrap().contains("tcp:83"));
}

/// Fails when: a network that is given another name runs twice with one key, cuts its connections, or is not taken up when
/// they have ended; a daemon that comes meanwhile cuts them, or one that was not recorded keeps its name for ever.
#[test]
fn what_is_left_in_the_middle_is_taken_up() {
    let bed = Bed::new();
    let drains = format!("{ONE}\ndrain = 60");
    let mut daemon = bed.daemon(&bed.home(&drains));
    let _other = bed.other();
    let first = pid(&running(&daemon));
    let mut stream = bed.call(8000);
    reload(&daemon, &bed.home(&drains).replace("mesh.home", "mesh.new"));
    let waits = || {
        let shown = network(&daemon, "new").filter(|it| it["error"].is_string())?;
        Some(shown["error"].as_str().unwrap().to_owned())
    };
    assert_eq!(
        wait_for("it waits", waits).unwrap(),
        "mesh.home has the same key: it waits until that has ended"
    );
    network_when(&daemon, "it is ending", |it| it["state"] == "ending");
    for _ in 0..2 {
        daemon.kill().unwrap();
        daemon.launch().unwrap();
        network_when(&daemon, "it is ending", |it| it["state"] == "ending");
    }
    assert!(answers(&mut stream), "{}", daemon.log());
    assert!(process::is_alive(first));
    drop(stream);
    let is_new = || network(&daemon, "new").filter(|it| it["state"] == "running");
    let second = pid(&wait_for("the new name", is_new).unwrap());
    assert!(!process::is_alive(first));
    daemon.kill().unwrap();
    fs::remove_file(daemon.dir().join("mesh-new.json")).unwrap();
    daemon.launch().unwrap();
    let third = wait_for("another one", || network(&daemon, "new").filter(|it| it["state"] == "running"));
    assert_ne!(pid(&third.unwrap()), second);
    assert!(!process::is_alive(second));
}

/// Fails when: the daemon believes a file that another user can change, or a network uses the folder of an organization.
#[test]
fn files_of_others_are_not_used() {
    let bed = Bed::new();
    chown(bed.path("a.toml"), Some(1234), None).unwrap();
    let daemon = bed.daemon(&bed.home(ONE));
    let failed = |word: &str| {
        let is = |it: &serde_json::Value| it["error"].as_str().is_some_and(|it| it.contains(word));
        assert_eq!(network_when(&daemon, word, is)["state"], "failed");
    };
    failed("belongs to uid 1234");
    chown(bed.path("a.toml"), Some(0), None).unwrap();
    let folder = daemon.dir().join("mesh/home");
    fs::create_dir_all(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(folder.join("member.json"), "{}").unwrap();
    daemon.reload().unwrap();
    failed("would use the folder of organization home");
    fs::remove_file(folder.join("member.json")).unwrap();
    fs::write(folder.join("rules.json"), "{").unwrap();
    daemon.reload().unwrap();
    // The file is named as everybody finds it, though the network is in its folder.
    failed(&folder.join("rules.json").display().to_string());
    fs::remove_file(folder.join("rules.json")).unwrap();
    daemon.reload().unwrap();
    running(&daemon);
}

/// Fails when: a network that lives and does not answer stays so.
#[test]
#[ignore = "it takes more than half a minute until it is given up"]
fn one_that_hangs_is_started_again() {
    let bed = Bed::new();
    let daemon = bed.daemon(&bed.home(ONE));
    let first = pid(&running(&daemon));
    send(first, Signal::SIGSTOP);
    let begun = Instant::now();
    while process::is_alive(first) {
        assert!(begun.elapsed() < Duration::from_secs(120), "{}", daemon.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    let shown = network_when(&daemon, "another one", |it| it["state"] == "running" && pid(it) != first);
    assert_eq!(shown["restarts"], 1);
    assert!(daemon.log().contains("it does not answer, and is started again"), "{}", daemon.log());
}
