//! Keys of services on images of a registry: whose groups, what begins, what is typed.

use std::io::{Write as _, pipe};

use portway_testkit::{OciImage, wait_for};

use crate::registry::Shop;
use crate::scene::{Live, Said};

/// A shell that runs what a service says.
const SHELL: OciImage<'_> = OciImage {
    user: "0:0",
    entrypoint: &["/bin/sh", "-c"],
    command: &["exit 9"],
    environment: &["PATH=/bin:/sbin:/usr/bin"],
    working_dir: "/srv/image",
    archive: None,
};

/// Fails when a named user has other groups than the image's files say, `group_add` adds another, a folder or an entrypoint of
/// the file does not win over the image's, or what has lost its parent is not looked after.
#[test]
fn a_file_says_who_runs_what_and_where() {
    let Some(shop) = Shop::open("keys") else { return };
    shop.registry.push("shell:1", &SHELL);
    shop.write(
        r#"services:
  named: {image: 'REGISTRY/shell:1', user: bob, command: [id -u; id -g; id -G]}
  added: {image: 'REGISTRY/shell:1', user: bob, group_add: ['4711', audio], working_dir: /srv/file, command: [id -G; pwd]}
  plain: {image: 'REGISTRY/shell:1', user: '5:7', group_add: ['8'], command: [id -u; id -G]}
  cleared: {image: 'REGISTRY/shell:1', entrypoint: [], command: [echo, 'a  b', c]}
  replaced: {image: 'REGISTRY/shell:1', entrypoint: [echo, own]}
  reaps:
    image: REGISTRY/shell:1
    init: true
    command: ["(sleep 0.2 &) ; sleep 1; ps -o stat,args | grep -c '^Z' || true"]
"#,
    );
    let up = shop.scene.ok(&["up", "-d"]);
    assert_eq!(up.err.matches("warning").count(), 1, "{up:?}");
    assert!(
        up.err.contains("services.reaps.init: ignored: what runs a service's command looks after"),
        "{up:?}"
    );
    let says = |service: &str, wanted: &str| {
        wait_for(service, || {
            let said = shop.scene.ok(&["logs", "--no-log-prefix", service]).out;
            (said == wanted).then_some(())
        })
        .unwrap_or_else(|error| {
            panic!("{error}: {:?}", shop.scene.ok(&["logs", service]));
        });
    };
    says("named", "1000\n1000\n1000 29\n");
    says("added", "1000 29 4711\n/srv/file\n");
    says("plain", "5\n7 8\n");
    says("cleared", "a  b c\n");
    says("replaced", "own\n");
    says("reaps", "0\n");
    shop.write("services: {none: {image: 'REGISTRY/shell:1', entrypoint: []}}");
    let refused = shop.scene.run(&["up", "-d"]);
    assert!(
        refused.code == Some(2) && refused.err.contains("entrypoint: nothing is left to run"),
        "{refused:?}"
    );
}

/// Fails when what is typed does not reach a service on an image of a registry, or a terminal is none.
#[test]
fn what_is_typed_reaches_it() {
    let Some(shop) = Shop::open("typed") else { return };
    shop.registry.push("shell:1", &SHELL);
    let script = "test -t 0 && stty size; while read -r line; do echo \"got $$line\"; test \"$$line\" = end && exit 6; done; echo no more";
    let service = |more: &str| {
        format!("{{image: 'REGISTRY/shell:1', command: ['{script}'], stop_grace_period: 0s{more}}}")
    };
    shop.write(&format!(
        "services:\n  web: {}\n  tty: {}\n  none: {}\n",
        service(", stdin_open: true"),
        service(", stdin_open: true, tty: true"),
        service(""),
    ));
    shop.scene.ok(&["up", "-d"]);
    wait_for("the end of one without an input", || {
        shop.scene.ok(&["logs", "--no-log-prefix", "none"]).out.contains("no more\n").then_some(())
    })
    .unwrap();
    for service in ["web", "tty"] {
        let (ours, mut typed) = pipe().unwrap();
        let mut live = Live::start(shop.scene.command(&["attach", service]).stdin(ours));
        live.until(&format!("attached to {service}-1"));
        typed.write_all(b"a\n").unwrap();
        live.until("got a");
        typed.write_all(b"end\n").unwrap();
        let (code, said) = live.end();
        assert_eq!(code, Some(6), "{said}");
    }
    assert!(shop.scene.ok(&["logs", "--no-log-prefix", "tty"]).out.starts_with("24 80"), "a terminal");
}

/// Fails when a digest is not the registry's, an image is another by it, or one of no registry stops the rest.
#[test]
fn digests_are_the_registrys() {
    let Some(shop) = Shop::open("digests") else { return };
    shop.registry.push("shell:1", &SHELL);
    shop.write(
        "services:
  web: {image: 'REGISTRY/shell:1', command: [exec sleep 4711], stop_grace_period: 0s}
  own: {image: 'local:bb'}
",
    );
    let resolved = || {
        let said = shop.scene.ok(&["config", "--resolve-image-digests"]);
        Said { out: said.out.replace('"', ""), ..said }
    };
    let said = resolved();
    assert!(said.err.contains("local:bb is of no registry"), "{said:?}");
    let begin = format!("image: {}/shell@sha256:", shop.registry.name());
    let line = said.out.lines().map(str::trim).find(|line| line.starts_with(&begin));
    let line = line.unwrap_or_else(|| panic!("{begin}: {said:?}")).to_owned();
    assert_eq!(line.len(), begin.len() + 64, "{line}");
    assert!(said.out.contains("image: local:bb\n"), "{said:?}");
    // Moved since, and still the one of that digest.
    let other = OciImage { entrypoint: &["/bin/false"], ..SHELL };
    shop.registry.push("shell:1", &other);
    let now = resolved().out;
    assert!(!now.contains(&line), "{now}");
    let name = line.trim_start_matches("image: ");
    shop.write(&format!(
        "services: {{web: {{image: '{name}', command: [exec sleep 4711], stop_grace_period: 0s}}}}"
    ));
    shop.scene.ok(&["up", "-d"]);
    assert_eq!(shop.said("web-1", "ps -o args | grep -c '^sleep 4711$'"), "1\n");
    shop.write("services: {web: {image: 'REGISTRY/none:1'}}");
    let none = shop.scene.run(&["config", "--resolve-image-digests"]);
    assert!(none.code == Some(1) && none.err.contains("does not tell its digest"), "{none:?}");
}

/// Fails when `run` without a program runs another than the image has, or in another place.
#[test]
fn a_run_without_a_program_is_the_images() {
    let Some(shop) = Shop::open("bare-run") else { return };
    let image = OciImage { command: &["pwd; id -u; exit 9"], user: "5:7", ..SHELL };
    shop.registry.push("app:1", &image);
    shop.write("services: {app: {image: 'REGISTRY/app:1'}, own: {image: 'local:bb'}}");
    let run = shop.scene.run(&["run", "--rm", "-T", "app"]);
    assert_eq!((run.code, run.out.as_str()), (Some(9), "/srv/image\n5\n"), "{run:?}");
    let name = shop.scene.ok(&["run", "-d", "app"]).out;
    let ended = wait_for("its end", || {
        let ps = shop.scene.ok(&["ps", "-a"]).out;
        ps.contains("exited (9)").then_some(ps)
    });
    assert!(ended.unwrap().contains(name.trim()), "{name}");
    let none = shop.scene.run(&["run", "own"]);
    assert!(none.code == Some(2) && none.err.contains("service own says no command"), "{none:?}");
}
