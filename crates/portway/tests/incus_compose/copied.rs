//! Files between services and here, and what is told of services.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::{Command, Stdio};

use crate::scene::{Live, Said, Scene};

const WEB: &str = "services:\n  web: {image: bb, command: [sleep, '100000'], stop_grace_period: 0s}\n";

/// Fails when something is lost on the way, or an instance's link leads a copy out of its folder.
#[test]
fn files_go_in_and_out() {
    let Some(scene) = Scene::open("cp") else { return };
    scene.write(WEB);
    scene.ok(&["up", "-d"]);
    let dir = scene.dir();
    let tree = dir.join("tree");
    fs::create_dir_all(tree.join("below")).unwrap();
    let long: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(tree.join("below/long"), &long).unwrap();
    fs::write(tree.join("run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(tree.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("below/long", tree.join("link")).unwrap();

    scene.ok(&["cp", "tree", "web:/opt"]);
    let there =
        scene.exec("web-1", "stat -c %a:%u /opt/run; readlink /opt/link; cmp /opt/link /opt/below/long");
    assert!(there.status.success(), "{there:?}");
    assert_eq!(String::from_utf8(there.stdout).unwrap(), "755:0\nbelow/long\n");
    scene.ok(&["cp", "web:/opt", "back"]);
    assert_eq!(fs::read(dir.join("back/below/long")).unwrap(), long);
    assert_eq!(fs::read_link(dir.join("back/link")).unwrap().to_str(), Some("below/long"));
    assert_eq!(fs::metadata(dir.join("back/run")).unwrap().permissions().mode() & 0o777, 0o755);
    // Into a folder that is there, under its own name; and a stopped one has files too.
    scene.ok(&["stop"]);
    scene.ok(&["cp", "web:/opt/run", "back/below"]);
    assert!(dir.join("back/below/run").is_file());
    assert_eq!(scene.run(&["cp", "web:/none", "x"]).code, Some(4));
    assert_eq!(scene.run(&["cp", "none", "web:/x"]).code, Some(4));
    assert_eq!(scene.run(&["cp", "web:/a", "web:/b"]).code, Some(2));

    // A link where a copy goes is not followed.
    let outside = dir.join("outside");
    fs::write(&outside, "mine").unwrap();
    fs::remove_file(dir.join("back/run")).unwrap();
    symlink(&outside, dir.join("back/run")).unwrap();
    let led = scene.run(&["cp", "web:/opt/.", "back"]);
    assert!(led.code == Some(1) && led.err.contains("is a link here"), "{led:?}");
    assert_eq!(fs::read_to_string(&outside).unwrap(), "mine");
}

/// Fails when an archive is none to tar, or one that leads out of its folder is taken.
#[test]
fn archives_go_in_and_out() {
    let Some(scene) = Scene::open("tar") else { return };
    scene.write(WEB);
    scene.ok(&["create"]);
    let dir = scene.dir();
    let long = "n".repeat(95);
    fs::create_dir_all(dir.join(format!("in/{long}"))).unwrap();
    fs::create_dir(dir.join("empty")).unwrap();
    scene.ok(&["cp", "empty", "web:/mnt"]);
    fs::write(dir.join(format!("in/{long}/file")), "text\n").unwrap();
    symlink("file", dir.join(format!("in/{long}/link"))).unwrap();
    let tar = |args: &[&str]| {
        let made = Command::new("tar").current_dir(dir).args(args).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        made.stdout
    };
    let give = |archive: &[u8]| {
        let mut command = scene.command(&["cp", "-", "web:/mnt"]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // It may be refused before its end.
        let _refused = child.stdin.take().unwrap().write_all(archive);
        Said::of(child.wait_with_output().unwrap())
    };
    for format in ["--format=gnu", "--format=pax", "--format=ustar"] {
        let said = give(&tar(&["-c", format, "-C", "in", "."]));
        assert_eq!(said.code, Some(0), "{format}: {said:?}");
        let archive = scene.command(&["cp", "web:/mnt", "-"]).output().unwrap();
        fs::write(dir.join("out.tar"), archive.stdout).unwrap();
        let _ = fs::remove_dir_all(dir.join("out"));
        fs::create_dir(dir.join("out")).unwrap();
        tar(&["-x", "-f", "out.tar", "-C", "out"]);
        assert_eq!(fs::read_to_string(dir.join(format!("out/mnt/{long}/link"))).unwrap(), "text\n");
    }
    fs::write(dir.join("evil"), "x").unwrap();
    let climbs = tar(&["-c", "--transform=s,^,../,", "-P", "evil"]);
    let refused = give(&climbs);
    assert!(refused.code == Some(1) && refused.err.contains("leads out"), "{refused:?}");
    assert_eq!(give(b"no archive at all").code, Some(1));
}

/// Fails when an event is another project's, or called otherwise than docker compose calls it.
#[test]
fn events_are_told() {
    let Some(scene) = Scene::open("events") else { return };
    scene.write(WEB);
    scene.ok(&["up", "-d"]);
    let mut events = Live::start(&mut scene.command(&["events", "--json"]));
    // Nothing says that it listens.
    for _ in 0..100 {
        scene.ok(&["kill"]);
        scene.ok(&["start"]);
        if events.has("\"action\":\"stop\"") {
            break;
        }
    }
    events.until("\"action\":\"start\"");
    scene.ok(&["down"]);
    events.until("\"action\":\"destroy\"");
    let line = events.said().lines().last().unwrap().to_owned();
    let event: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&event["service"], &event["attributes"]["name"]), (&"web".into(), &"web-1".into()), "{line}");
    events.signal("KILL");
}
