//! What an image runs, and what cannot be known of it.

use portway_testkit::OciImage;

use crate::registry::Shop;

/// Fails when a registry that does not answer is taken for an image without an entrypoint, or anything is made first.
#[test]
fn a_command_of_an_unknown_image_is_refused() {
    let Some(mut shop) = Shop::open("unknown") else { return };
    shop.write("services: {web: {image: REGISTRY/none, command: [x]}}");
    let refused = shop.scene.run(&["up", "-d"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("its registry does not tell what it runs"), "{refused:?}");
    assert!(shop.scene.is_gone());
    shop.registry.close();
    let refused = shop.scene.run(&["up", "-d"]);
    assert!(refused.code == Some(1) && refused.err.contains("say `entrypoint` too"), "{refused:?}");
    shop.write("services: {web: {image: REGISTRY/none}}");
    let refused = shop.scene.run(&["up", "-d"]);
    assert!(refused.code == Some(1) && refused.err.contains("it cannot be fetched"), "{refused:?}");
}

/// Fails when `pull` takes what is there for what the registry has, or an unchanged image makes a container anew.
#[test]
fn a_tag_that_moves_counts_when_it_is_pulled() {
    let Some(shop) = Shop::open("moved") else { return };
    let image = |said| OciImage { user: "0:0", entrypoint: said, ..OciImage::default() };
    shop.registry.push("app:1", &image(&["/bin/sh", "-c", "exec sleep $0"]));
    shop.write("services: {app: {image: 'REGISTRY/app:1', command: ['1000'], stop_grace_period: 0s}}");
    shop.scene.ok(&["up", "-d"]);
    let first = shop.scene.pid("app-1");
    shop.scene.ok(&["up", "-d", "--pull", "always"]);
    assert_eq!(shop.scene.pid("app-1"), first);
    shop.registry.push("app:1", &image(&["/bin/sh", "-c", "exec sleep 7$0"]));
    shop.scene.ok(&["up", "-d"]);
    assert_eq!(shop.scene.pid("app-1"), first);
    shop.scene.ok(&["up", "-d", "--pull", "always"]);
    assert_eq!(shop.said("app-1", "ps -o args | grep -c '^sleep 71000$'"), "1\n");
}
