//! A server that is replaced by another behind the same socket, which has instances of the same names.
//!
//! ```text
//!  daemon ──> socket of the test ──> Incus 6.0, then Incus 7.0, then Incus 6.0 again
//! ```

use std::path::{Path, PathBuf};

use portway_testkit::{Bed, ContainerSpec, DaemonSpec, Front, Manner, Ports, Server, Site, bed, bed_of};

use crate::PORTWAY;
use crate::talk::{heard, say_in, wait_for_reason, wait_until_heard};

/// The socket, and the server behind it.
struct Behind {
    socket: PathBuf,
    front: Option<Front>,
}

impl Behind {
    fn start(socket: &Path, bed: &Bed) -> Self {
        let front = Front::start(socket, &bed.socket(), Manner::Pass).unwrap();
        Self { socket: socket.to_owned(), front: Some(front) }
    }

    fn replace(&mut self, bed: &Bed) {
        drop(self.front.take());
        self.front = Some(Front::start(&self.socket, &bed.socket(), Manner::Pass).unwrap());
    }
}

const ANOTHER: &str = "another instance has this name";

/// A device stays its instance's: it goes on while the other server knows nobody of that name, is served to nobody by
/// the namesake there, stopped or running, and works again when its own server is back. What is added to the namesake
/// leads to the namesake, and `device adopt` gives it the rest.
///
/// Fails when: a run that is known is kept for another instance (`Question::uuid`, `Instance::absorb`).
#[test]
fn devices_stay_their_instances() {
    let (Some(one), Some(two)) = (bed(), bed_of(Server::Incus7)) else { return };
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let mut behind = Behind::start(&socket, one);
    let daemon = DaemonSpec::new(PORTWAY).within(one.netns()).env("INCUS_SOCKET", &socket.to_string_lossy());
    let daemon = daemon.start().unwrap();
    let (ports, host) = (Ports::claim(one.netns()).unwrap(), Site::netns(one.netns()));
    let [web, late] = [ports.one().unwrap(), ports.one().unwrap()];
    let first = one.container("twin").unwrap();
    let _of_first = say_in(&first, 80, "the first");
    let add = |name: &str, port: u16| {
        let listen = format!("listen=tcp:127.0.0.1:{port}");
        daemon.add(first.name(), name, &[&listen, "connect=tcp:127.0.0.1:80", "hold=0"]).unwrap();
    };
    add("web", web);
    wait_until_heard(&host, web, "the first");

    behind.replace(two);
    // Of what was there nothing has ended.
    assert_eq!(heard(&host, web).as_deref(), Some("the first"));
    let stopped = ContainerSpec { stopped: true, ..ContainerSpec::default() };
    let second = two.launch_exactly(first.name(), &stopped).unwrap();
    daemon.wait_for_state("web", "waiting").unwrap();
    assert_eq!(heard(&host, web), None);
    second.start().unwrap();
    let _of_second = say_in(&second, 80, "the second");
    add("late", late);
    wait_until_heard(&host, late, "the second");
    assert_eq!(heard(&host, web), None);
    wait_for_reason(&daemon, "web", ANOTHER);

    behind.replace(one);
    daemon.wait_for_state("web", "active").unwrap();
    wait_until_heard(&host, web, "the first");
    wait_for_reason(&daemon, "late", ANOTHER);
    assert_eq!(heard(&host, late), None);

    behind.replace(two);
    wait_for_reason(&daemon, "web", ANOTHER);
    let output = daemon.cli(&["device", "adopt", first.name()]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    wait_until_heard(&host, web, "the second");
    wait_until_heard(&host, late, "the second");
}
