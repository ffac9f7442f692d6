//! Ansible, which is many clients at once.

use std::fs;

use portway_testkit::{Image, client};

use crate::{run, scene_of};

const PLAYBOOK: &str = include_str!("drivers/playbook.yml");

/// Fails when a module fails, or changes something that the first run has changed already.
#[test]
fn ansible_is_served() {
    let Some(scene) = scene_of(Image::Debian, "ansible") else { return };
    fs::write(scene.path("playbook.yml"), PLAYBOOK).unwrap();
    fs::write(scene.path("template.j2"), "host {{ inventory_hostname }} on {{ ansible_distribution }}\n")
        .unwrap();
    let words = scene.options("key").join(" ");
    let common = format!(
        "ansible_ssh_common_args={words:?} ansible_ssh_private_key_file={} ansible_host=127.0.0.1 ansible_port={} ansible_python_interpreter=/usr/bin/python3",
        scene.path("key").display(),
        scene.port
    );
    let name = scene.container.name();
    let hosts: String = (1..=20).map(|n| format!("h{n} ansible_user={name} {common}\n")).collect();
    fs::write(scene.path("many"), hosts).unwrap();
    fs::write(scene.path("one"), format!("h1 ansible_user=bob@{name} {common}\n")).unwrap();
    let ansible = |program: &str, pipelining: &str, words: &[&str]| {
        let mut command = client(program);
        command.env("HOME", scene.path(".")).env("ANSIBLE_PIPELINING", pipelining).env("ANSIBLE_FORKS", "20");
        command
            .env("ANSIBLE_SSH_CONTROL_PATH_DIR", scene.path("cp"))
            .env("ANSIBLE_LOCALHOST_WARNING", "False");
        command.env("ANSIBLE_HOST_KEY_CHECKING", "False").env("ANSIBLE_DEPRECATION_WARNINGS", "False");
        run(&scene, command.args(words))
    };
    let (many, one) = (scene.path("many").display().to_string(), scene.path("one").display().to_string());
    let said = ansible("ansible", "True", &["all", "-i", &many, "-m", "ping"]);
    assert_eq!(said.matches("\"pong\"").count(), 20, "{said}");
    let playbook = scene.path("playbook.yml").display().to_string();
    for (pipelining, folder) in [("True", "/srv/piped"), ("False", "/srv/plain")] {
        let folder = format!("folder={folder}");
        let run = || ansible("ansible-playbook", pipelining, &["-i", &one, "-e", &folder, &playbook]);
        let first = run();
        assert!(first.contains("failed=0") && first.contains("unreachable=0"), "{first}");
        assert!(!first.contains("changed=0"), "{first}");
        let second = run();
        assert!(second.contains("changed=0") && second.contains("failed=0"), "{second}");
    }
    let text = scene.container.sh("cat /srv/piped/text; stat -c '%U %a' /srv/piped/copy").unwrap();
    assert_eq!(text, "host h1 on Debian\nroot 640\n");
}
