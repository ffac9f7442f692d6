//! Sessions that stay, kept by tmux of the instance: where it is there, where it can be installed, and where it cannot.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use nix::sys::signal::Signal;
use portway_testkit::{ContainerSpec, Image, Server, wait_for};
use serde_json::{Value, json};

use crate::keep::nothing_is_left;
use crate::scene::Scene;
use crate::tty::Tty;

/// A scene whose gateway keeps sessions by this program.
fn scene(name: &str, image: Image, program: &str) -> Option<Scene> {
    let spec = ContainerSpec { image, ..ContainerSpec::default() };
    let mut scene = Scene::start_with(Server::Incus6, name, &spec).unwrap()?;
    scene.stop(Signal::SIGTERM).unwrap();
    scene.arguments = vec!["--term-mux".to_owned(), program.to_owned()];
    scene.launch().unwrap();
    Some(scene)
}

fn command(scene: &Scene, login: &str, words: &str) -> (String, Option<i32>) {
    let output = scene.talk(scene.client(&[]).args([&Scene::at(login), words]), b"").unwrap();
    (String::from_utf8([output.stdout, output.stderr].concat()).unwrap(), output.status.code())
}

fn installed(scene: &Scene) -> Option<Value> {
    scene.audit().unwrap().into_iter().find(|line| line["event"] == "package-installed")
}

/// Has `apt-get` of the container install tmux from a folder, and nothing from anywhere else; and tmux is missing.
const REPOSITORY: &str = r#"
    mkdir -p /repo/pkg/DEBIAN /repo/pkg/usr/bin
    mv /usr/bin/tmux /repo/pkg/usr/bin/
    version=$(dpkg-query -W -f '${Version}' tmux)
    printf 'Package: tmux\nVersion: %s+again\nArchitecture: all\nMaintainer: none\nDescription: tmux\n' "$version" \
        >/repo/pkg/DEBIAN/control
    dpkg-deb --build /repo/pkg /repo/tmux.deb >/dev/null
    { dpkg-deb -f /repo/tmux.deb; echo 'Filename: ./tmux.deb'; echo "Size: $(stat -c %s /repo/tmux.deb)"
      echo "SHA256: $(sha256sum /repo/tmux.deb | cut -d ' ' -f 1)"; } >/repo/Packages
    dpkg --remove --force-depends tmux >/dev/null 2>&1
    rm -rf /etc/apt/sources.list.d/* /repo/pkg
    echo 'deb [trusted=yes] file:/repo ./' >/etc/apt/sources.list
    ! command -v tmux
"#;

/// tmux itself keeps a session: installed by Debian's own package manager, there again after a kill of the gateway and of
/// the connection, seen by two, and ended.
///
/// Fails when it is another session, another program keeps it, or the user is another.
#[test]
fn tmux_is_installed_and_keeps_a_session() {
    let Some(mut scene) = scene("tmux", Image::Debian, "tmux") else { return };
    scene.container.sh(REPOSITORY).unwrap();
    let name = scene.container.name().to_owned();
    scene.container.sh("id bob >/dev/null 2>&1 || useradd -m -s /bin/bash bob").unwrap();
    let login = format!("keep=work,bob@{name}");
    let mut tty = Tty::open(&scene, &login, 80, 24);
    tty.until("a prompt in tmux", |tty| tty.lines().last().is_some_and(|line| line.starts_with("[work]")));
    let said = String::from_utf8_lossy(&tty.said).into_owned();
    assert!(said.contains(&format!("portway: installing tmux in {name}")), "{said}");
    tty.keys("kept=yes; echo \"in <$TMUX> $(id -un) $(tmux display -p '#S')\" | sed s/,.*,/,/\r");
    tty.shows("in </tmp/tmux-1000/default,0> bob work");
    let line = installed(&scene).unwrap();
    assert_eq!((&line["package"], &line["failed"]), (&json!("tmux"), &Value::Null));
    scene.stop(Signal::SIGKILL).unwrap();
    for pid in scene.sessions() {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    tty.kill();
    scene.launch().unwrap();
    let mut one = Tty::open(&scene, &login, 80, 24);
    let mut two = Tty::open(&scene, &login, 80, 24);
    one.shows("bob work");
    two.shows("bob work");
    one.keys("echo still-$kept\r");
    two.shows("still-yes");
    let (listed, status) = command(&scene, &login, "list");
    assert_eq!((listed.as_str(), status), ("work\ttmux, 2 viewers\n", Some(0)));
    // Another name is another session, and of one whose name begins so nothing is seen.
    let mut other = Tty::open(&scene, &format!("keep=wor,bob@{name}"), 80, 24);
    other.until("its own", |tty| tty.lines().last().is_some_and(|line| line.starts_with("[wor]")));
    assert_eq!(command(&scene, &format!("keep=wor,bob@{name}"), "kill"), (String::new(), Some(0)));
    assert_eq!(other.end(), Some(0));
    let (text, status) = command(&scene, &format!("keep=wor,bob@{name}"), "kill");
    assert_eq!((text.as_str(), status), ("portway: there is no session wor\n", Some(1)));
    one.keys("exit\r");
    assert_eq!((one.end(), two.end()), (Some(0), Some(0)));
    // Its own files are its own, and of ours there are none.
    nothing_is_left(&scene);
}

/// Fails when a session is refused, or waited for, where the program cannot be had; or when it is not said.
#[test]
fn what_cannot_be_had_is_done_without() {
    let Some(scene) = scene("muxless", Image::Busybox, "screen") else { return };
    let name = scene.container.name().to_owned();
    let login = format!("keep=work,bob@{name}");
    let mut tty = Tty::open(&scene, &login, 80, 24);
    let line = "portway: screen: it is not in this instance; this session is kept without it";
    tty.until("the reason", |tty| String::from_utf8_lossy(&tty.said).contains(line));
    tty.keys("echo \"in $PORTWAY_SESSION $(id -un)\"\r");
    tty.shows("in work bob");
    let failed = wait_for("the audit", || installed(&scene)).unwrap()["failed"].clone();
    assert_eq!(failed, "its system has no package manager that is known here");
    tty.kill();
    let mut again = Tty::open(&scene, &login, 80, 24);
    again.shows("in work bob");
    again.keys("exit 5\r");
    assert_eq!(again.end(), Some(5));
    // One that fails says why, is not run for every login, and is asked nothing.
    let apk = "#!/bin/sh\necho \"$@\" >>/apk\nread line && echo asked >>/apk\necho no network >&2\necho fetching\nexit 7\n";
    let root = scene.container.rootfs();
    for (path, mode, text) in [("sbin/apk", 0o755, apk), ("etc/os-release", 0o644, "ID=alpine\n")] {
        let path = root.join(path);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut scene = scene;
    scene.stop(Signal::SIGTERM).unwrap();
    scene.launch().unwrap();
    for status in [6, 7] {
        let mut tty = Tty::open(&scene, &login, 80, 24);
        tty.until("the reason", |tty| String::from_utf8_lossy(&tty.said).contains(line));
        tty.keys(&format!("exit {status}\r"));
        assert_eq!(tty.end(), Some(status));
    }
    assert_eq!(scene.container.sh("cat /apk").unwrap(), "add --no-cache screen\n");
    let lines = scene.audit().unwrap();
    let failed: Vec<_> = lines.iter().filter(|line| line["event"] == "package-installed").collect();
    assert_eq!((failed.len(), &failed[1]["failed"]), (2, &json!("apk ends with status 7: no network")));
    assert!(scene.log().contains("it is not installed"), "{}", scene.log());
    nothing_is_left(&scene);
}
