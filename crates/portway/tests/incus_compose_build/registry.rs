//! Images that go to a registry and come from there.

use std::fs;

use portway_testkit::{Registry, Server};

use crate::scene::Scene;

/// Has the builder trust the registry, as an operator would.
fn trust(scene: &Scene, registry: &Registry) {
    let conf = scene.home().join(".config/containers");
    let certs = conf.join("certs.d").join(registry.authority());
    fs::create_dir_all(&certs).unwrap();
    fs::copy(registry.certificate(), certs.join("ca.crt")).unwrap();
    let policy = "{\"default\": [{\"type\": \"insecureAcceptAnything\"}]}";
    fs::write(conf.join("policy.json"), policy).unwrap();
}

const DOCKERFILE: &str = "FROM scratch
COPY bin who /bin/
ENV PATH=/bin
CMD [\"/bin/sh\", \"-c\", \"exec sleep 100000\"]
";

/// Fails when what is sent is not what the server gets, or when a newer image of the same name is not fetched or not
/// taken.
#[test]
fn what_is_sent_is_fetched_again() {
    let Some(scene) = Scene::with_builder(Server::Incus7, "regist") else { return };
    let registry = scene.bed.registry().unwrap();
    trust(&scene, &registry);
    scene.add_busybox();
    scene.write("Dockerfile", DOCKERFILE);
    let image = format!("{}/shop/app:1", registry.authority());
    let built =
        format!("services: {{app: {{build: ., image: '{image}'}}, own: {{build: ., pull_policy: build}}}}\n");
    let fetched = format!("services: {{app: {{image: '{image}', stop_grace_period: 0s}}}}\n");
    let send = |who: &str| {
        scene.write("who", who);
        scene.write("compose.yaml", &built);
        let said = scene.ok(&["build", "-q", "app"]);
        assert_eq!(said.err, "", "nothing is said");
        let said = scene.ok(&["push"]);
        assert!(
            said.err.contains("/shop/app:1  sent\n") && said.err.contains("-own is not sent"),
            "{said:?}"
        );
        scene.write("compose.yaml", &fetched);
    };
    send("alice");
    let said = scene.ok(&["pull"]);
    assert!(said.err.contains("/shop/app:1  fetched\n"), "{said:?}");
    let said = scene.ok(&["pull", "--policy", "missing"]);
    assert!(said.err.contains("/shop/app:1  there\n"), "{said:?}");
    scene.ok(&["up", "-d"]);
    let who = |scene: &Scene| scene.exec("app-1", "cat /bin/who");
    assert_eq!(who(&scene), "alice");

    send("bob");
    let again = scene.ok(&["up", "-d"]);
    assert_eq!(again.err, "", "nobody has asked for a newer one");
    scene.ok(&["up", "-d", "--pull", "always"]);
    assert_eq!(who(&scene), "bob");

    drop(registry);
    let gone = scene.run(&["pull"]);
    assert!(gone.code == Some(1) && gone.err.contains("/shop/app:1: "), "{gone:?}");
    let gone = scene.ok(&["pull", "--ignore-pull-failures"]);
    assert!(gone.err.contains("warning: image "), "{gone:?}");
    scene.ok(&["up", "-d", "--pull", "never"]);
    let removed = scene.ok(&["down", "--rmi", "all"]);
    let images = removed.err.lines().filter(|line| line.starts_with("image ") && line.ends_with("  removed"));
    assert_eq!(images.count(), 3, "what was built, and both that were fetched: {removed:?}");
}
