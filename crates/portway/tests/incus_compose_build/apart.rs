//! What keeps builds apart: from each other, from everybody on this machine, and from the builder's own settings.

use std::fs;

use portway_testkit::Server;

use crate::scene::{Live, Scene};
use crate::yard::{printed, with, with_buildah};

const DOCKERFILE: &str = "FROM scratch
COPY bin /bin
ARG WHO
ENV PATH=/bin
RUN [\"/bin/sh\", \"-c\", \"sleep 1; echo $WHO > who\"]
CMD [\"/bin/sh\", \"-c\", \"exec sleep 100000\"]
";

fn file(image: &str, who: &str) -> String {
    format!(
        "services:\n  app:\n    build: {{context: ., args: {{WHO: {who}}}}}\n    image: '{image}'\n    stop_grace_period: 0s\n"
    )
}

/// Another project whose builder has the same store.
fn beside(first: &Scene, name: &str) -> Scene {
    let mut second = with_buildah(Server::Incus6, name).unwrap();
    second.variables.clone_from(&first.variables);
    second.put("Dockerfile", DOCKERFILE);
    second
}

/// Fails when one of two projects that call their images alike gets what was built for the other.
#[test]
fn two_builds_of_one_name_are_two_images() {
    let Some(alice) = with_buildah(Server::Incus6, "alice") else { return };
    alice.put("Dockerfile", DOCKERFILE);
    let bob = beside(&alice, "bob");
    for (scene, who) in [(&alice, "alice"), (&bob, "bob")] {
        scene.write(&file("shop/app:1", who));
    }
    let builds = [&alice, &bob].map(|scene| Live::start(&mut scene.command(&["build"])));
    for build in builds {
        let (code, said) = build.end();
        assert_eq!(code, Some(0), "{said}");
    }
    for (scene, who) in [(&alice, "alice\n"), (&bob, "bob\n")] {
        scene.ok(&["up", "-d"]);
        assert_eq!(printed(scene, "app-1", "cat /who"), who);
    }
}

/// Fails when a build that changes nothing but times makes an instance anew, or sends the server a second image.
fn times_do_not_count(builder: &str) {
    let Some(scene) = with(builder, Server::Incus6, builder) else { return };
    scene.put("Dockerfile", DOCKERFILE);
    scene.write(&file("shop/app:1", "alice"));
    scene.ok(&["up", "-d", "--builder", builder]);
    let print = |scene: &Scene| scene.images()[0]["fingerprint"].clone();
    let id = |scene: &Scene| scene.images()[0]["properties"]["portway.id"].clone();
    let (pid, before, built) = (scene.pid("app-1"), print(&scene), id(&scene));
    let quiet = scene.ok(&["build", "-q", "--no-cache", "--builder", builder]);
    assert_eq!(quiet.err, "", "nothing is said");
    assert_ne!(id(&scene), built, "it was built");
    assert_eq!((print(&scene), scene.images().len()), (before.clone(), 1));
    scene.ok(&["up", "-d"]);
    assert_eq!(scene.pid("app-1"), pid);
    scene.write(&file("shop/app:1", "bob"));
    scene.ok(&["up", "-d", "--build", "--builder", builder]);
    assert_ne!(print(&scene), before);
    assert_eq!(printed(&scene, "app-1", "cat /who"), "bob\n");
    scene.put("Dockerfile", "FROM scratch\nCOPY nothing /\n");
    let failed = scene.run(&["build", "-q", "--builder", builder]);
    let says_why =
        failed.err.contains("nothing") && failed.err.contains(&format!("error: {builder} could not build"));
    assert!(failed.code == Some(1) && says_why, "{failed:?}");
}

#[test]
fn what_differs_by_its_times_only_is_the_same() {
    times_do_not_count("buildah");
}

#[test]
fn what_differs_by_its_times_only_is_the_same_with_podman() {
    times_do_not_count("podman");
}

/// All command lines of this machine.
fn command_lines() -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines = processes.filter_map(|one| fs::read(one.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).into_owned()).collect()
}

/// Fails when the value of a build argument or of a secret stands in the command line of any process, or does not reach
/// the build.
#[test]
fn values_stand_in_no_command_line() {
    let Some(scene) = with_buildah(Server::Incus6, "hidden") else { return };
    // In two parts here, so that this program's own lines do not have it.
    let value = format!("open-{}-{}", "sesame", std::process::id());
    scene.put(".env", &format!("WORD={value}\nPASS={value}-too\n"));
    scene.put(
        "Dockerfile",
        "FROM scratch
COPY bin /bin
ARG WORD
ENV PATH=/bin
RUN --mount=type=secret,id=pass [\"/bin/sh\", \"-c\", \"sleep 2; echo $WORD > word; cat /run/secrets/pass > pass\"]
CMD [\"/bin/sh\", \"-c\", \"exec sleep 100000\"]
",
    );
    scene.write(
        "services:
  app: {build: {context: ., args: {WORD: $WORD}, secrets: [pass]}, stop_grace_period: 0s}
secrets: {pass: {environment: PASS}}
",
    );
    let mut build = Live::start(&mut scene.command(&["build"]));
    let mut looks = 0;
    while !build.has("  built\n") {
        let lines = command_lines();
        let shown = lines.iter().find(|line| line.contains(&value));
        assert!(shown.is_none(), "{shown:?}");
        looks += usize::from(lines.iter().any(|line| line.contains("--build-arg=WORD\0")));
        assert!(!build.has("could not"), "{}", build.said());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(looks > 0, "the builder was never seen");
    scene.ok(&["up", "-d"]);
    assert_eq!(printed(&scene, "app-1", "cat /word /pass"), format!("{value}\n{value}-too"));
}

/// Fails when a file sets a variable that the builder obeys, or when the build does not get one of that name.
#[test]
fn the_builder_is_not_set_by_a_file() {
    let Some(scene) = with_buildah(Server::Incus6, "obeyed") else { return };
    // In the builder's environment each of these would end the build, or be complained of.
    scene.write(
        "services:
  app:
    stop_grace_period: 0s
    build:
      context: .
      dockerfile_inline: |
        FROM scratch
        COPY bin /bin
        ARG LD_PRELOAD
        ARG BUILDAH_ISOLATION
        ARG ENV=none
        ENV SEEN=$$ENV-$$BUILDAH_ISOLATION-$$LD_PRELOAD
        CMD [\"/bin/sh\", \"-c\", \"exec sleep 100000\"]
      args: {LD_PRELOAD: /nowhere.so, BUILDAH_ISOLATION: none-such, ENV: prod, PATH: /nowhere, https_proxy: 'http://127.0.0.1:9'}
",
    );
    let built = scene.run(&["build"]);
    assert!(built.code == Some(0) && !built.err.contains("preloaded"), "{built:?}");
    scene.ok(&["up", "-d"]);
    assert_eq!(printed(&scene, "app-1", "echo $SEEN"), "prod-none-such-/nowhere.so\n");
    let unset = "services: {app: {build: {context: ., dockerfile_inline: FROM scratch, secrets: [s]}}}\n\
                 secrets: {s: {environment: NOBODY}}\n";
    scene.write(unset);
    let refused = scene.run(&["build"]);
    assert!(refused.code == Some(1) && refused.err.contains("the variable NOBODY is not set"), "{refused:?}");
}
