//! The SSH gateway with other people's programs, on Debian and on busybox.

#![expect(clippy::unwrap_used, reason = "a helper fails its test")]

mod copies;
mod editors;
mod files;
mod fleet;
mod libraries;
mod programs;
#[expect(dead_code, reason = "each test binary uses its part")]
#[path = "../incus_ssh/scene.rs"]
mod scene;
mod screens;

use std::process::Command;

use portway_testkit::{ContainerSpec, Image, Server, client};

use scene::Scene;

/// A gateway and a container of either image.
fn scene_of(image: Image, name: &str) -> Option<Scene> {
    let spec = ContainerSpec { image, ..ContainerSpec::default() };
    Scene::start_with(Server::Incus6, name, &spec).unwrap()
}

/// One of the programs in Python beside these tests, with the gateway's port, the key and a login.
fn driver(scene: &Scene, text: &str, login: &str) -> Command {
    let path = scene.path("driver.py");
    std::fs::write(&path, text).unwrap();
    let mut command = client("python3");
    command.arg(path).arg(scene.port.to_string()).arg(scene.path("key")).arg(login);
    command.env("HOME", scene.path("."));
    command
}

/// Runs one of other people's programs to its end, which has to be a good one; what it printed.
fn run(scene: &Scene, command: &mut Command) -> String {
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let output = scene.talk(command, b"").unwrap();
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].map(String::from_utf8_lossy);
    assert!(output.status.success(), "{}: {words:?}\n{}\n{}", output.status, said[0], said[1]);
    said[0].clone().into_owned()
}
