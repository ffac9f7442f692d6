//! A server that is there and cannot be reached: its socket changes hands, nobody listens at it, or its path leads nowhere.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixListener;

use portway_testkit::{DaemonSpec, Front, Manner, Ports, Site, bed, wait_for};

use crate::PORTWAY;
use crate::talk::{heard, say_in, says, wait_until_heard};

/// A socket that is somebody else's, with no permission for anybody, is no obstacle to a daemon that may open every file
/// (`CAP_DAC_OVERRIDE`). One that nobody listens at, or a path that cannot be followed, is: what serves goes on, the
/// status says why, an instance that restarts meanwhile is `degraded`, and all is well as soon as the server is back.
///
/// Fails when: a server that cannot be reached is taken for one that has no instances, or is not asked again.
#[test]
fn a_socket_that_lets_nobody_in() {
    let Some(bed) = bed() else { return };
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let mut front = Front::start(&socket, &bed.socket(), Manner::Pass).unwrap();
    let daemon = DaemonSpec::new(PORTWAY).within(bed.netns()).env("INCUS_SOCKET", &socket.to_string_lossy());
    let daemon = daemon.start().unwrap();
    let container = bed.container("denied").unwrap();
    let (ports, host) = (Ports::claim(bed.netns()).unwrap(), Site::netns(bed.netns()));
    chown(&socket, Some(65_534), Some(65_534)).unwrap();
    fs::set_permissions(&socket, Permissions::from_mode(0o000)).unwrap();
    // Connections of before would still be there.
    front.turn(Manner::Pass);
    let port = ports.one().unwrap();
    let listen = format!("listen=tcp:127.0.0.1:{port}");
    daemon.add(container.name(), "web", &[&listen, "connect=tcp:127.0.0.1:80"]).unwrap();

    let complaint = || {
        let status = daemon.api().get("/1.0").ok()?;
        let mut providers = status["providers"].as_array()?.iter();
        Some(providers.find(|one| one["name"] == "incus")?["error"].as_str().unwrap_or_default().to_owned())
    };
    let other = format!("listen=tcp:127.0.0.1:{}", ports.one().unwrap());
    let mut service = say_in(&container, 80, "here");
    wait_until_heard(&host, port, "here");
    for why in ["Connection refused", "Too many levels of symbolic links"] {
        front.go_away();
        if why == "Connection refused" {
            drop(UnixListener::bind(&socket).unwrap());
        } else {
            symlink(&socket, &socket).unwrap();
        }
        let said = wait_for(why, || complaint().filter(|said| said.contains(why)));
        assert!(said.is_ok(), "{:?}", complaint());
        let status = daemon.cli(&["status"]).unwrap();
        let status = String::from_utf8_lossy(&status.stdout);
        assert!(status.contains("unreachable: ") && status.contains(why), "{status}");
        says(&daemon.cli(&["device", "add", "nobody", "web", &other, "connect=tcp::80"]).unwrap(), 3, why);
        assert_eq!(heard(&host, port).as_deref(), Some("here"));
        assert_eq!(daemon.device("web").unwrap()["state"], "active");
        drop(service);
        container.restart_by_force().unwrap();
        daemon.wait_for_state("web", "degraded").unwrap();
        service = say_in(&container, 80, "here");
        fs::remove_file(&socket).unwrap();
        front.come_back().unwrap();
        wait_until_heard(&host, port, "here");
        daemon.wait_for_state("web", "active").unwrap();
        wait_for("peace", || complaint().filter(String::is_empty)).unwrap();
    }
    drop(service);
}
