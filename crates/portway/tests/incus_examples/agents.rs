//! Agents that keep keys out of the container: ssh-agent, and gpg-agent by its extra socket.

use std::fs::{self, File};
use std::process::Command;

use anyhow::{Result, ensure};
use portway_testkit::run;

use crate::desk::Desk;

/// `ssh-add -l` and a signature inside with a key that never leaves the host; without `security.uid` the
/// agent refuses the relay, which is not its user.
///
/// Fails when: the relay dials as another user than the one asked for.
#[test]
fn ssh_agent() -> Result<()> {
    let Some(desk) = Desk::start("sshagent", &["ssh-agent", "ssh-add", "ssh-keygen"])? else { return Ok(()) };
    let (socket, key) = (desk.home("agent.sock"), desk.rig.path("key"));
    let socket_text = socket.display().to_string();
    let _agent = desk.serve(&["ssh-agent", "-D", "-a", &socket_text], &socket)?;
    // Made and handed over by root: ssh-keygen serves nobody who is not in /etc/passwd.
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "desk", "-f"]).arg(&key))?;
    run(Command::new("ssh-add").arg(&key).env("SSH_AUTH_SOCK", &socket))?;
    let fingerprint = run(Command::new("ssh-keygen").arg("-lf").arg(&key))?;

    desk.bring("agent", "/run/agent.sock", &socket)?;
    let env = [("SSH_AUTH_SOCK", "/run/agent.sock")];
    ensure!(desk.bob_ok(&env, &["ssh-add", "-l"])? == fingerprint);
    let sign =
        "cd /tmp && echo text >text && ssh-add -L >key.pub && ssh-keygen -Y sign -q -f key.pub -n file text";
    desk.bob_ok(&env, &["sh", "-c", sign])?;
    let signature = desk.rig.container.sh("cat /tmp/text.sig")?;
    fs::write(desk.rig.path("text.sig"), signature)?;
    fs::write(desk.rig.path("text"), "text\n")?;
    let mut verify = Command::new("ssh-keygen");
    verify.args(["-Y", "check-novalidate", "-n", "file", "-s"]).arg(desk.rig.path("text.sig"));
    let verified = run(verify.stdin(File::open(desk.rig.path("text"))?))?;
    ensure!(verified.contains("Good \"file\" signature"), "{verified}");

    desk.rig.device_ok("unset", &["agent", "security.uid"])?;
    ensure!(!desk.bob(&env, &["ssh-add", "-l"])?.status.success(), "the agent serves a stranger");
    Ok(())
}

/// A signature inside by the extra socket of the host's agent, which says that it is restricted; the host
/// verifies it.
///
/// Fails when: the socket inside has another owner or mode than gpg accepts, or its answers are cut.
#[test]
fn gpg_agent() -> Result<()> {
    let Some(desk) = Desk::start("gpgagent", &["gpg", "gpg-agent", "gpgconf", "gpg-connect-agent"])? else {
        return Ok(());
    };
    let directory = |name: &str| desk.run(&["gpgconf", "--list-dirs", name]);
    let (main, extra) = (directory("agent-socket")?, directory("agent-extra-socket")?);
    // It ends when the program it was started with has ended.
    let _agent = desk.serve(&["gpg-agent", "--daemon", "sleep", "600"], main.trim().as_ref())?;
    let key = ["--quick-generate-key", "Desk <desk@example.org>", "ed25519", "sign", "never"];
    desk.run(&[&["gpg", "--batch", "--pinentry-mode", "loopback", "--passphrase", ""][..], &key].concat())?;
    let public = desk.home("public");
    desk.run(&["gpg", "--batch", "--output", &public.display().to_string(), "--export"])?;

    desk.bobs_folder("/home/bob/.gnupg")?;
    let inside = desk.bob_ok(&[], &["gpgconf", "--list-dirs", "agent-socket"])?;
    ensure!(inside.trim() == "/home/bob/.gnupg/S.gpg-agent", "{inside}");
    desk.bring("gpg", inside.trim(), extra.trim().as_ref())?;
    desk.bob_takes(&["gpg", "--no-autostart", "--batch", "--import"], &public)?;
    let restricted =
        desk.bob_ok(&[], &["gpg-connect-agent", "--no-autostart", "GETINFO restricted", "/bye"])?;
    ensure!(restricted.trim() == "OK", "{restricted}");
    let sign = "echo text | gpg --no-autostart --batch --armor --sign";
    fs::write(desk.rig.path("signed"), desk.bob_ok(&[], &["sh", "-c", sign])?)?;
    let signed = desk.rig.path("signed").display().to_string();
    ensure!(desk.run(&["gpg", "--batch", "--decrypt", &signed])?.trim() == "text");
    Ok(())
}
