//! A Wayland display of the host, used inside: windows are memory whose descriptors cross the device.

use anyhow::{Result, ensure};

use crate::desk::Desk;

/// A real client inside draws frames on a real compositor of the host: each buffer is memory that it has
/// passed by descriptor, and comes back when it was shown.
///
/// Fails when: descriptors do not cross (`fds=off`), or not with their bytes: the compositor ends a client
/// whose memory it does not get.
#[test]
fn wayland() -> Result<()> {
    let Some(desk) = Desk::start("wayland", &["weston", "weston-simple-shm", "wayland-info"])? else {
        return Ok(());
    };
    let socket = desk.home("wayland-1");
    let weston = ["--backend=headless-backend.so", "--use-pixman", "--socket=wayland-1", "--idle-time=0"];
    let _weston = desk.serve(&[&["weston"][..], &weston].concat(), &socket)?;
    desk.bobs_folder("/run/user/1000")?;
    desk.bring("wayland", "/run/user/1000/wayland-0", &socket)?;
    let env =
        [("XDG_RUNTIME_DIR", "/run/user/1000"), ("WAYLAND_DISPLAY", "wayland-0"), ("WAYLAND_DEBUG", "1")];
    let listed = desk.bob_ok(&env[..2], &["wayland-info"])?;
    ensure!(listed.contains("'wl_shm'") && listed.contains("headless"), "{listed}");
    // It draws until nobody reads what it says.
    let draw = "weston-simple-shm 2>&1 | grep -m 5 -E 'wl_buffer@[0-9]+\\.release'";
    let drawn = desk.bob_ok(&env, &["sh", "-c", draw])?;
    ensure!(drawn.lines().count() == 5, "{drawn}");

    desk.rig.device_ok("set", &["wayland", "fds=off"])?;
    let ended = desk.bob(&env[..2], &["weston-simple-shm"])?;
    let said = String::from_utf8_lossy(&ended.stderr);
    ensure!(said.contains("invalid arguments") && said.contains("create_pool"), "{said}");
    Ok(())
}
