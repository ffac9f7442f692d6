//! Images that go to a registry and come from there.

use std::fs;

use portway_testkit::{Registry, Server};

use crate::scene::Scene;
use crate::yard::{printed, with_buildah};

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
    let Some(scene) = with_buildah(Server::Incus7, "regist") else { return };
    let registry = scene.bed.registry().unwrap();
    trust(&scene, &registry);
    scene.put("Dockerfile", DOCKERFILE);
    let image = format!("{}/shop/app:1", registry.authority());
    let built =
        format!("services: {{app: {{build: ., image: '{image}'}}, own: {{build: ., pull_policy: build}}}}\n");
    let fetched = format!("services: {{app: {{image: '{image}', stop_grace_period: 0s}}}}\n");
    let send = |who: &str| {
        scene.put("who", who);
        scene.write(&built);
        let said = scene.ok(&["build", "-q", "app"]);
        assert_eq!(said.err, "", "nothing is said");
        let said = scene.ok(&["push"]);
        assert!(
            said.err.contains("/shop/app:1  sent\n") && said.err.contains("-own is not sent"),
            "{said:?}"
        );
        scene.write(&fetched);
    };
    send("alice");
    let said = scene.ok(&["pull"]);
    assert!(said.err.contains("/shop/app:1  fetched\n"), "{said:?}");
    let said = scene.ok(&["pull", "--policy", "missing"]);
    assert!(said.err.contains("/shop/app:1  there\n"), "{said:?}");
    scene.ok(&["up", "-d"]);
    let who = |scene: &Scene| printed(scene, "app-1", "cat /bin/who");
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

/// Fails when `push` sends what another project has built under the name meanwhile, or what this builder has not built.
#[test]
fn what_is_sent_is_what_was_built_for_the_project() {
    let Some(scene) = with_buildah(Server::Incus7, "sender") else { return };
    let registry = scene.bed.registry().unwrap();
    trust(&scene, &registry);
    let mut other = with_buildah(Server::Incus7, "other").unwrap();
    other.variables.clone_from(&scene.variables);
    let image = format!("{}/shop/app:2", registry.authority());
    for (scene, who) in [(&scene, "alice"), (&other, "bob")] {
        scene.put("Dockerfile", DOCKERFILE);
        scene.put("who", who);
        scene.write(&format!("services: {{app: {{build: ., image: '{image}'}}}}\n"));
    }
    let early = scene.run(&["push"]);
    assert!(early.code == Some(1) && early.err.contains("buildah has not built it"), "{early:?}");
    scene.ok(&["build"]);
    other.ok(&["build"]);
    scene.ok(&["push"]);
    scene.write(&format!("services: {{app: {{image: '{image}', stop_grace_period: 0s}}}}\n"));
    scene.ok(&["up", "-d", "--pull", "always"]);
    assert_eq!(printed(&scene, "app-1", "cat /bin/who"), "alice");
    scene.ok(&["down", "--rmi", "all"]);
}

/// Changes a byte of the largest blob that a registry has: what is in it is not what its name says.
fn damage(registry: &Registry) {
    let blobs = registry.data_dir().join("docker/registry/v2/blobs/sha256");
    let first = |dir: std::path::PathBuf| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let files = first(blobs).flat_map(first).map(|blob| blob.join("data"));
    let largest = files.max_by_key(|file| file.metadata().unwrap().len()).unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(largest, bytes).unwrap();
}

/// Fails when something is made of an image whose bytes are not those that its digest says.
#[test]
fn an_image_that_is_not_what_it_says_is_refused() {
    let Some(scene) = with_buildah(Server::Incus7, "damaged") else { return };
    let registry = scene.bed.registry().unwrap();
    trust(&scene, &registry);
    scene.put("Dockerfile", DOCKERFILE);
    scene.put("who", "alice");
    let image = format!("{}/shop/app:3", registry.authority());
    scene.write(&format!("services: {{app: {{build: ., image: '{image}'}}}}\n"));
    scene.ok(&["build"]);
    scene.ok(&["push"]);
    scene.ok(&["down", "--rmi", "all"]);
    damage(&registry);
    scene.write(&format!("services: {{app: {{image: '{image}'}}}}\n"));
    let up = scene.run(&["up", "-d"]);
    assert!(up.code == Some(1) && up.err.contains(&format!("image {image}")), "{up:?}");
    assert!(scene.instances().is_empty(), "{up:?}");
    let digest = format!("{}@sha256:{}", image.rsplit_once(':').unwrap().0, "0".repeat(64));
    scene.write(&format!("services: {{app: {{image: '{digest}'}}}}\n"));
    let up = scene.run(&["up", "-d"]);
    assert!(up.code == Some(1) && scene.instances().is_empty(), "{up:?}");
}
