//! Images that are built.

use portway_testkit::{Server, wait_for};

use crate::scene::Scene;
use crate::yard::{printed, with_buildah};

const DOCKERFILE: &str = "FROM scratch
COPY bin /bin
COPY passwd /etc/passwd
ARG WHO=nobody
ENV PATH=/bin GREETING=hello
WORKDIR /srv
RUN [\"/bin/sh\", \"-c\", \"echo $WHO > who\"]
USER app
CMD [\"/bin/sh\", \"-c\", \"exec sleep 100000\"]
";

fn file(who: &str) -> String {
    format!(
        "services:
  app:
    build: {{context: ., args: {{WHO: {who}}}}}
    environment: {{OWN: mine}}
    stop_grace_period: 0s
  worker:
    build: {{context: ., args: {{WHO: {who}}}}}
    image: shop/worker:1
    command: [/bin/sh, -c, 'exec sleep 50000']
    stop_grace_period: 0s
"
    )
}

/// What runs in an instance: each program with its variables, whose it is, and where it began.
///
/// Waits for what is looked for: a service is up before its program has begun.
fn runs(scene: &Scene, instance: &str, wanted: &[&str]) {
    let words = "for p in /proc/[0-9]*; do cat $p/cmdline $p/environ | tr '\\0' ' '; stat -c %u $p; readlink $p/cwd; done; \
                 cat /srv/who";
    let has_all = || {
        let told = printed(scene, instance, words);
        wanted.iter().all(|word| told.contains(word)).then_some(())
    };
    wait_for(&format!("{wanted:?} in {instance}"), has_all).unwrap();
}

/// A project that is up for the first time, its images built.
///
/// Fails when what runs is not what the image says.
fn built(server: Server) -> Option<Scene> {
    let scene = with_buildah(server, "built")?;
    scene.put("Dockerfile", DOCKERFILE);
    scene.put("passwd", "root:x:0:0::/:/bin/sh\napp:x:1234:1234::/srv:/bin/sh\n");
    scene.write(&file("alice"));
    let without = scene.run(&["up", "-d", "--no-build"]);
    assert!(without.code == Some(1) && without.err.contains("is not built"), "{without:?}");
    let up = scene.ok(&["up", "-d"]);
    assert!(up.err.contains("-app  built\n") && up.err.contains("shop/worker:1  built\n"), "{up:?}");
    runs(&scene, "app-1", &["sleep 100000", "GREETING=hello", "OWN=mine", " 1234\n/srv\n", "alice"]);
    runs(&scene, "worker-1", &["sleep 50000"]);
    assert_eq!(scene.images().len(), 2);
    Some(scene)
}

/// Fails when an image that has not changed makes an instance anew, one that has does not, or one that nobody names is left.
#[test]
fn a_service_is_built_and_built_again() {
    let Some(scene) = built(Server::Incus6) else { return };
    let uuids = |scene: &Scene| {
        ["app-1", "worker-1"].map(|name| scene.instance(name).unwrap()["config"]["volatile.uuid"].clone())
    };
    let before = uuids(&scene);
    let again = scene.ok(&["up", "-d"]);
    assert_eq!((again.out.as_str(), again.err.as_str()), ("", ""), "nothing is built again");
    scene.ok(&["up", "-d", "--build"]);
    assert_eq!(uuids(&scene), before, "what is built of the same is the same");

    scene.write(&file("bob"));
    scene.ok(&["build", "-q", "app"]);
    assert_eq!(scene.images().len(), 2, "the one before is gone");
    scene.ok(&["up", "-d"]);
    let after = uuids(&scene);
    assert!(after[0] != before[0] && after[1] == before[1], "{before:?} {after:?}");
    runs(&scene, "app-1", &["bob"]);
    let argued = scene.ok(&["build", "--build-arg", "WHO=carol", "app"]);
    assert!(argued.err.contains("building"), "{argued:?}");
    scene.ok(&["up", "-d"]);
    runs(&scene, "app-1", &["carol"]);

    let dry = scene.ok(&["down", "--rmi", "all", "--dry-run"]);
    assert!(dry.out.contains("remove image shop/worker:1\n"), "{dry:?}");
    scene.ok(&["down", "--rmi", "local"]);
    let left: Vec<_> =
        scene.images().iter().map(|image| image["properties"]["description"].clone()).collect();
    assert_eq!(left, ["shop/worker:1"]);
    scene.ok(&["down", "--rmi", "all"]);
    assert!(scene.images().is_empty());
}

/// Fails when a server that runs images of registries runs one that was built here in another way.
#[test]
fn the_same_where_images_of_registries_run() {
    let Some(scene) = built(Server::Incus7) else { return };
    let again = scene.ok(&["up", "-d"]);
    assert_eq!((again.out.as_str(), again.err.as_str()), ("", ""));
}

/// Fails when something is made of a build that has failed, or when a file reads beyond its folder unasked.
#[test]
fn a_build_that_cannot_be_had_is_told() {
    let Some(scene) = with_buildah(Server::Incus6, "faults") else { return };
    let is_refused = |file: &str, code: i32, words: &str| {
        scene.write(file);
        let said = scene.run(&["up", "-d"]);
        assert!(said.code == Some(code) && said.err.contains(words), "{words}: {said:?}");
        assert!(scene.bed.incus().find(&format!("/1.0/projects/{}", scene.name)).unwrap().is_none());
    };
    let inline =
        |text: &str| format!("services: {{app: {{build: {{context: ., dockerfile_inline: {text:?}}}}}}}\n");
    let failing = "FROM scratch\nCOPY bin /bin\nRUN [\"/bin/sh\", \"-c\", \"exit 7\"]\n";
    is_refused(&inline(failing), 1, "buildah could not build");
    is_refused(&inline("FROM scratch\nCOPY bin /bin\n"), 2, "its image says nothing of what runs in it");
    scene.write(&inline("FROM scratch\nCOPY bin /bin\nCMD [\"/bin/sleep\", \"1\"]\n"));
    scene.ok(&["build"]);
    std::fs::create_dir(scene.home().join("other")).unwrap();
    is_refused("services: {app: {build: ../other}}\n", 1, "privileges that were not granted");
    is_refused("services: {app: {build: {context: ., privileged: true}}}\n", 2, "a build has no privileges");
    is_refused("services: {app: {build: './$$(x)'}}\n", 2, "is neither a path nor an address");
    is_refused("services: {app: {image: x, pull_policy: build}}\n", 2, "nothing says how it is built");
    // The shell is nobody's.
    let odd = "; touch hit; `touch hit` #";
    scene.put(&format!("{odd}/Dockerfile"), "FROM scratch\nCOPY Dockerfile /\nCMD [\"/x\"]\n");
    scene.write(&format!("services: {{app: {{build: {:?}}}}}\n", format!("./{odd}")));
    let built = scene.run(&["build"]);
    assert!(!scene.dir().join("hit").exists() && built.code == Some(0), "{built:?}");
}

/// Fails when a missing builder is found out after something was made.
#[test]
fn without_a_builder_nothing_is_made() {
    let Some(scene) = Scene::on(Server::Incus6, "none") else { return };
    scene.write("services: {app: {build: .}}\n");
    scene.put("Dockerfile", "FROM scratch\n");
    for (args, words) in [
        (&["up", "-d"][..], "is not built: images are built by buildah, podman or docker"),
        (&["build"], "none of them is here"),
        (&["build", "--builder", "podman"], "podman is not installed here"),
    ] {
        let said = scene.end(scene.command(args).env("PATH", scene.home()));
        assert!(said.code == Some(1) && said.err.contains(words), "{said:?}");
    }
    assert!(scene.bed.incus().find(&format!("/1.0/projects/{}", scene.name)).unwrap().is_none());
    scene.write("services: {app: {image: bb}}\n");
    let nothing = scene.ok(&["build"]);
    assert!(nothing.err.contains("no service has `build`"), "{nothing:?}");
    let missing = scene.run(&["build", "nobody"]);
    assert_eq!(missing.code, Some(4), "{missing:?}");
}

/// The flags are the builder's: it bounds the memory of what it runs, and hands out a socket of the caller's agent.
///
/// Fails when one of them does not reach it, or a wrong one passes.
#[test]
fn flags_of_a_build_reach_the_builder() {
    let Some(mut scene) = with_buildah(Server::Incus6, "flags") else { return };
    scene.put("passwd", "root:x:0:0::/:/bin/sh\n");
    scene.put(
        "Dockerfile",
        "FROM scratch
COPY bin /bin
COPY passwd /etc/passwd
RUN --mount=type=ssh,id=work [\"/bin/sh\", \"-c\", \"[ -S ${SSH_AUTH_SOCK:-/none} ] && echo agent > /agent\"]
CMD [\"/bin/sleep\", \"100000\"]
",
    );
    scene.write("services: {app: {build: ., stop_grace_period: 0s}}");
    let without = scene.run(&["build"]);
    assert_eq!(without.code, Some(1), "{without:?}");
    let wrong = scene.run(&["build", "-m", "much"]);
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    assert!(wrong.err.contains("much"), "{wrong:?}");
    let socket = scene.home().join("agent.sock");
    let _agent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    scene.variables.push(("SSH_AUTH_SOCK", socket.clone()));
    scene.ok(&["build", "-m", "512m", "--ssh", &format!("work={}", socket.display())]);
    scene.ok(&["up", "-d"]);
    assert_eq!(printed(&scene, "app-1", "cat /agent"), "agent\n");
}
