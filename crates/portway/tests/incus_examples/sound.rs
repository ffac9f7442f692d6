//! A PipeWire server of the host, used inside.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use portway_testkit::wait_for;

use crate::desk::{Desk, Running};

/// A recorder inside becomes a node of the host's server and has mapped the server's memory, which came
/// by descriptor.
///
/// Fails when: descriptors do not cross: the recorder ends, or never has the server's memory.
#[test]
fn pipewire() -> Result<()> {
    let Some(desk) = Desk::start("pipewire", &["pipewire", "pw-cli", "pw-record"])? else { return Ok(()) };
    let socket = desk.home("pipewire-0");
    let _server = desk.serve(&["pipewire"], &socket)?;
    desk.bobs_folder("/run/user/1000")?;
    desk.bring("sound", "/run/user/1000/pipewire-0", &socket)?;
    let env = [("XDG_RUNTIME_DIR", "/run/user/1000")];
    ensure!(desk.bob_ok(&env, &["pw-cli", "ls", "Node"])?.contains("Dummy-Driver"));

    let mut recorder = desk.rig.bed().client();
    recorder.args(["exec", "--user", "1000", "--group", "1000", "--env", "HOME=/home/bob"]);
    recorder.args(["--env", "PATH=/usr/bin:/bin", "--env", "XDG_RUNTIME_DIR=/run/user/1000"]);
    recorder.args([
        desk.rig.container.name(),
        "--",
        "timeout",
        "300",
        "pw-record",
        "--target",
        "0",
        "/tmp/out.wav",
    ]);
    recorder.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _recorder = Running(recorder.spawn().context("cannot run the incus client")?);
    wait_for("the recorder is a node of the server", || {
        desk.run(&["pw-cli", "ls", "Node"]).ok()?.contains("\"pw-record\"").then_some(())
    })?;
    wait_for("the recorder has the server's memory", || {
        let maps = desk.rig.container.sh("cat /proc/$(pidof pw-record)/maps").ok()?;
        maps.contains("memfd:pipewire-memfd").then_some(())
    })
}
