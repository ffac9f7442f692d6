//! What changes in a folder, and what becomes of it in instances.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use portway_testkit::wait_for;

use crate::scene::{Live, Scene};

/// A service that only is there, with this under `develop.watch`.
fn file(rules: &str) -> String {
    format!(
        "services:
  web:
    image: bb
    command: [sh, -c, 'echo begun; exec sleep 100000']
    stop_grace_period: 0s
    develop: {{watch: [{rules}]}}
  rest: {{image: bb, command: [sleep, '100000'], stop_grace_period: 0s}}
"
    )
}

/// Waits until a script in the instance says this.
fn until(scene: &Scene, script: &str, wanted: &str) {
    let mut last = String::new();
    let said = || {
        last = String::from_utf8_lossy(&scene.exec("web-1", script).stdout).into_owned();
        (last == wanted).then_some(())
    };
    if let Err(error) = wait_for(script, said) {
        panic!("{error}: {last:?} and not {wanted:?}");
    }
}

fn watch(scene: &Scene, args: &[&str]) -> Live {
    let mut live = Live::start(&mut scene.command(args));
    live.until("watching ");
    live
}

/// Fails when a path out of the project's folder is watched without leave, or leave has to be given each time, or for one
/// path counts for another.
#[test]
fn a_path_elsewhere_is_asked_for_once() {
    let Some(scene) = Scene::open("asks") else { return };
    for name in ["one", "two"] {
        fs::create_dir(scene.home().join(name)).unwrap();
    }
    let rule = |name: &str| file(&format!("{{action: sync, path: ../{name}, target: /srv/app}}"));
    scene.write(&rule("one"));
    let refused = scene.run(&["watch"]);
    assert!(refused.code == Some(1) && refused.err.contains("copy what changes in"), "{refused:?}");
    assert!(scene.instances().is_empty());
    let ended = |live: Live| {
        live.signal("INT");
        live.end()
    };
    ended(watch(&scene, &["watch", "--allow"]));
    for args in [&["watch"][..], &["watch", "--no-up"]] {
        ended(watch(&scene, args));
    }
    scene.ok(&["up", "-d"]);
    let live = watch(&scene, &["watch"]);
    fs::write(scene.home().join("one/new"), "new").unwrap();
    until(&scene, "cat /srv/app/new", "new");
    ended(live);
    scene.write(&rule("two"));
    let refused = scene.run(&["watch"]);
    assert!(refused.code == Some(1) && refused.err.contains("/two to /srv/app"), "{refused:?}");
}

/// Fails when a change is not copied, a removal is not, what is ignored is, or anything outside of the target is written.
#[test]
fn changes_are_copied_and_nothing_else() {
    let Some(scene) = Scene::open("sync") else { return };
    let at = |name: &str| -> PathBuf { scene.dir().join("src").join(name) };
    fs::create_dir_all(at("lib")).unwrap();
    fs::create_dir_all(at("out")).unwrap();
    fs::write(at("old"), "old").unwrap();
    let rules = "{action: sync, path: ./src, target: /srv/app, ignore: ['*.log', build/]}";
    scene.write(&file(rules));
    let mut live = watch(&scene, &["watch"]);
    assert_eq!(scene.instances(), ["rest-1 Running", "web-1 Running"]);
    fs::write(at("lib/one"), "1").unwrap();
    fs::write(at("a.log"), "no").unwrap();
    fs::create_dir_all(at("build/deep")).unwrap();
    fs::write(at("build/deep/x"), "no").unwrap();
    fs::create_dir_all(at("new/deep")).unwrap();
    fs::write(at("new/deep/two"), "2").unwrap();
    symlink("/etc/passwd", at("link")).unwrap();
    let list = "cd /srv/app && find . ! -type d | sort | tr '\\n' ' '";
    until(&scene, list, "./lib/one ./link ./new/deep/two ");
    until(&scene, "cat /srv/app/lib/one; readlink /srv/app/link", "1/etc/passwd\n");
    // In place of one another: a file, a folder, a link; and a file that is renamed over another as editors do.
    fs::remove_file(at("link")).unwrap();
    fs::create_dir(at("link")).unwrap();
    fs::write(at("link/in"), "in").unwrap();
    fs::write(at("lib/.tmp"), "renamed").unwrap();
    fs::rename(at("lib/.tmp"), at("lib/one")).unwrap();
    fs::remove_dir_all(at("new")).unwrap();
    until(&scene, list, "./lib/one ./link/in ");
    until(&scene, "cat /srv/app/lib/one", "renamed");
    // Somebody inside puts links where folders and files are expected: they are not followed.
    until(
        &scene,
        "mkdir -p /away && rm -rf /srv/app/lib /srv/app/out && ln -s /away /srv/app/lib && ln -s /away/f /srv/app/f",
        "",
    );
    fs::write(at("lib/one"), "stray").unwrap();
    fs::write(at("f"), "mine").unwrap();
    live.until("/srv/app/lib is no folder inside");
    until(&scene, "cat /srv/app/f; test -L /srv/app/f || ls /away", "mine");
    live.signal("INT");
    let (code, said) = live.end();
    assert_eq!(code, Some(130), "{said}");
    assert!(!said.contains("panicked") && scene.instances().len() == 2, "{said}");
}

/// Fails when an instance that was away does not get its files, or when a flood loses any, or takes for ever.
#[test]
fn what_cannot_be_done_at_once_is_done_later() {
    let Some(scene) = Scene::open("syncaway") else { return };
    let at = |name: &str| scene.dir().join("src").join(name);
    fs::create_dir_all(at("many")).unwrap();
    scene.write(&file("{action: sync, path: src, target: /app}"));
    scene.ok(&["up", "-d"]);
    let mut live = watch(&scene, &["watch", "--no-up", "web"]);
    scene.ok(&["stop", "web"]);
    fs::write(at("late"), "late").unwrap();
    live.until("web does not get its files yet");
    scene.ok(&["start", "web"]);
    until(&scene, "cat /app/late", "late");
    for number in 0..3000 {
        fs::write(at(&format!("many/{number}")), "x").unwrap();
        if number % 2 == 1 {
            fs::remove_file(at(&format!("many/{}", number - 1))).unwrap();
        }
    }
    until(&scene, "ls /app/many | wc -l", "1500\n");
    fs::remove_dir_all(at("many")).unwrap();
    until(&scene, "ls /app", "late\n");
    // The folder itself goes, and comes again.
    fs::rename(at(""), scene.dir().join("other")).unwrap();
    until(&scene, "ls /app", "");
    fs::rename(scene.dir().join("other"), at("")).unwrap();
    until(&scene, "ls /app", "late\n");
    live.signal("TERM");
    assert_eq!(live.end().0, Some(130));
}

/// Fails when a restart is left out, or made for what only is copied; or when `up --watch` loses a service that is restarted.
#[test]
fn a_service_is_restarted_and_stays_attended() {
    let Some(scene) = Scene::open("syncup") else { return };
    let at = |name: &str| scene.dir().join(name);
    fs::create_dir(at("src")).unwrap();
    fs::write(at("conf"), "1").unwrap();
    scene.write(&file(
        "{action: sync, path: src, target: /app}, {action: sync+restart, path: conf, target: /etc/conf}",
    ));
    let mut live = watch(&scene, &["up", "--watch"]);
    live.until("web-1   | begun");
    let pid = scene.pid("web-1");
    fs::write(at("src/x"), "x").unwrap();
    until(&scene, "cat /app/x", "x");
    assert_eq!(scene.pid("web-1"), pid);
    fs::write(at("conf"), "2").unwrap();
    live.until("web: restarted");
    assert_ne!(scene.pid("web-1"), pid);
    until(&scene, "cat /etc/conf", "2");
    wait_for("what it says after its restart", || (live.count("web-1   | begun") == 2).then_some(()))
        .unwrap();
    live.signal("INT");
    let (code, said) = live.end();
    assert_eq!(code, Some(130), "{said}");
    assert_eq!(scene.instances(), ["rest-1 Stopped", "web-1 Stopped"]);
}

/// Fails when what makes no sense is found late, or a folder elsewhere is read without a word.
#[test]
fn what_cannot_be_watched_is_refused() {
    let Some(scene) = Scene::open("syncbad") else { return };
    let refused = |rules: &str, args: &[&str], code: i32, what: &str| {
        scene.write(&file(rules));
        let said = scene.run(args);
        assert!(said.code == Some(code) && said.err.contains(what), "{rules}: {said:?}");
        assert!(scene.is_gone(), "{rules}");
    };
    refused("", &["watch"], 2, "no service has anything to watch");
    let good = "{action: sync, path: ., target: /app}";
    refused(good, &["watch", "rest"], 2, "service rest has nothing to watch");
    refused(good, &["watch", "wep"], 4, "there is no service `wep`");
    refused("{action: sync, path: nowhere, target: /app}", &["watch"], 4, "develop.watch[0].path");
    refused("{action: sync, path: ., target: app}", &["watch"], 2, "`app` is no path inside");
    refused("{action: sync, path: ., target: /a/../..}", &["up", "--watch"], 2, "leads out");
    refused("{action: rebuild, path: .}", &["watch"], 2, "there is no `build`");
    refused("{action: sync, path: /usr/share/misc, target: /app}", &["watch"], 1, "privileges");
    refused(good, &["up", "--watch", "-d"], 2, "--detach");
}
