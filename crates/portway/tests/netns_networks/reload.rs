//! What SIGHUP makes of a changed file.

use std::fs;

use portway_testkit::wait_for;

use crate::bed::{Bed, answers, network, network_when, pid, reload, running, says};

const ONE: &str = "ingress = [\"tcp:80:127.0.0.1:8080\"]";
const TWO: &str = "ingress = [\"tcp:80:127.0.0.1:8080\", \"tcp:81:127.0.0.1:8080\"]";
const OTHER: &str = "ingress = [\"tcp:81:127.0.0.1:8080\"]";

/// Fails when: a rule of the file does not come or go while connections live on, what was added by hand goes with it or
/// does not outlive a restart, or a rule that cannot be served changes anything.
#[test]
fn rules_come_and_go_with_the_file() {
    let bed = Bed::new();
    let daemon = bed.daemon(&bed.home(ONE));
    let _other = bed.other();
    let first = pid(&running(&daemon));
    let mut stream = bed.call(8000);
    says(&daemon, &["mesh", "rule", "add", "--ingress", "tcp:82:127.0.0.1:8080"]);
    let rules = |count: u64| {
        let shown = network_when(&daemon, "its rules", |it| it["rules"] == count && it["error"].is_null());
        assert_eq!((pid(&shown), &shown["restarts"]), (first, &0.into()));
    };
    reload(&daemon, &bed.home(TWO));
    rules(3);
    assert!(answers(&mut bed.call(8001)));
    assert!(answers(&mut stream));
    // Port 22 of this host is no ordinary user's.
    let bad = format!("{TWO}\negress = [\"tcp:127.0.0.1:22:10.77.0.2:22\"]");
    reload(&daemon, &bed.home(&bad));
    let shown = network_when(&daemon, "what is wrong", |it| it["error"].is_string());
    let why = shown["error"].as_str().unwrap();
    assert!(why.starts_with("it runs as before: ") && why.contains("22"), "{why}");
    assert_eq!((&shown["state"], &shown["rules"]), (&"running".into(), &3.into()));
    reload(&daemon, &bed.home(OTHER));
    rules(2);
    // The rule of this connection has gone, and the connection has its time.
    assert!(answers(&mut stream));
    let kept = fs::read_to_string(daemon.dir().join("mesh/home/rules.json")).unwrap();
    assert!(kept.contains("tcp:82") && !kept.contains("tcp:81"), "{kept}");
    // The file wins: what is taken out by hand comes again, and what it had goes though it was added by hand too.
    let listed = says(&daemon, &["mesh", "rule", "list", "--name", "home"]);
    let id = listed.lines().find(|line| line.contains("tcp:81")).unwrap().split(' ').next().unwrap();
    says(&daemon, &["mesh", "rule", "remove", id]);
    rules(1);
    reload(&daemon, &bed.home(OTHER));
    rules(2);
    reload(&daemon, &bed.home(""));
    rules(1);
}

/// Fails when: another key is not taken, a file with an error ends what runs or keeps another network from running, or a
/// file that is mended is not looked at again.
#[test]
fn a_changed_key_starts_it_anew_and_an_error_is_its_own() {
    let bed = Bed::new();
    fs::write(bed.dir.path().join("bad.toml"), "adresses = []\n").unwrap();
    let config = format!("{}[mesh.bad]\nconfig = \"{}\"\n", bed.home(ONE), bed.path("bad.toml"));
    let daemon = bed.daemon(&config);
    let other = bed.other();
    let first = pid(&running(&daemon));
    assert!(answers(&mut bed.call(8000)));
    let bad =
        wait_for("what is wrong", || network(&daemon, "bad").filter(|it| it["state"] == "failed")).unwrap();
    let why = bad["error"].as_str().unwrap();
    assert!(why.contains("bad.toml:1:1: ") && why.contains("adresses"), "{why}");
    assert_eq!(daemon.log().matches("network does not run").count(), 1, "{}", daemon.log());
    // What runs goes on when its file cannot be used any more.
    let good = fs::read(bed.dir.path().join("a.toml")).unwrap();
    fs::write(bed.dir.path().join("a.toml"), "private_key = 7\n").unwrap();
    daemon.reload().unwrap();
    let shown = network_when(&daemon, "what is wrong", |it| it["error"].is_string());
    assert_eq!((pid(&shown), &shown["state"]), (first, &"running".into()));
    assert!(shown["error"].as_str().unwrap().contains("a.toml:1:"), "{shown}");
    assert!(answers(&mut bed.call(8000)));
    fs::write(bed.dir.path().join("a.toml"), good).unwrap();
    daemon.reload().unwrap();
    assert_eq!(pid(&network_when(&daemon, "no fault", |it| it["error"].is_null())), first);
    drop(other);
    bed.genconf();
    let _other = bed.other();
    daemon.reload().unwrap();
    let shown = network_when(&daemon, "another process", |it| it["state"] == "running" && pid(it) != first);
    assert!(shown["error"].is_null());
    assert!(answers(&mut bed.call(8000)));
    // A file of settings with an error changes nothing at all.
    reload(&daemon, "[mesh.home]\nconfig = \"relative\"\n");
    let log =
        wait_for("a word", || daemon.log().contains("settings not usable").then(|| daemon.log())).unwrap();
    assert!(log.contains("portway.toml:2:10: mesh.home.config relative is not an absolute path"), "{log}");
    assert_eq!(pid(&running(&daemon)), pid(&shown));
}
