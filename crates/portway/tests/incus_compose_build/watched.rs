//! Images that are built anew when a file changes.

use std::process::{Command, Stdio};

use portway_testkit::{Server, wait_for};

use crate::yard::with_buildah;

const DOCKERFILE: &str = "FROM scratch
COPY bin /bin
COPY content /content
CMD [\"/bin/sh\", \"-c\", \"exec sleep 100000\"]
";

const FILE: &str = "services:
  app:
    build: .
    stop_grace_period: 0s
    develop: {watch: [{action: rebuild, path: content}]}
";

/// Fails when a change makes no new image, when a build that fails costs the service, or when the next one is not tried.
#[test]
fn what_changes_is_built_anew() {
    let Some(scene) = with_buildah(Server::Incus6, "watched") else { return };
    scene.put("Dockerfile", DOCKERFILE);
    scene.put("content", "one");
    scene.write(FILE);
    // It may be away at any moment.
    let content = || {
        let words = ["exec", "--project", &scene.name, "app-1", "--", "/bin/cat", "/content"];
        String::from_utf8_lossy(&scene.bed.client_output(&words).unwrap().stdout).into_owned()
    };
    let until = |wanted: &str| wait_for(wanted, || (content() == wanted).then_some(())).unwrap();
    let log = std::fs::File::create(scene.dir().join("said")).unwrap();
    let mut watch = scene.command(&["watch", "--quiet"]);
    let mut watch = watch.stdout(Stdio::null()).stderr(log).spawn().unwrap();
    until("one");
    let said = || std::fs::read_to_string(scene.dir().join("said")).unwrap();
    wait_for("the beginning", || said().contains("builds anew").then_some(())).unwrap();
    scene.put("content", "two");
    until("two");
    let uuid = || scene.instance("app-1").unwrap()["config"]["volatile.uuid"].clone();
    let before = uuid();
    scene.put("Dockerfile", "FROM scratch\nCOPY nothing /\n");
    scene.put("content", "three");
    wait_for("its failure", || said().contains("app is not made anew: ").then_some(())).unwrap();
    assert_eq!((uuid(), content().as_str()), (before, "two"));
    scene.put("Dockerfile", DOCKERFILE);
    scene.put("content", "four");
    until("four");
    let pid = watch.id().to_string();
    assert!(Command::new("kill").args(["-s", "INT", &pid]).status().unwrap().success());
    assert_eq!(watch.wait().unwrap().code(), Some(130), "{}", said());
}
