//! A kernel that is too old, or a filter that makes it look so.

use portway_testkit::{Netns, Rig, wait_for, without};

use crate::PORTWAY;
use crate::expect::{REFUSED, heard, say, says, wait_until_heard};

/// `pidfd_open` of asm/unistd.h, the same on every architecture.
const PIDFD_OPEN: i64 = 434;

/// Without `pidfd_open` the end of an instance is not seen in time, so containers and processes are refused, with the
/// reason; what needs none goes on. With it again the same container is served.
///
/// Fails when: the missing call is taken for an instance that is not there, or for one to wait for.
#[test]
fn without_pidfds() {
    let Some(mut rig) = without(PIDFD_OPEN, || Rig::start(PORTWAY, "oldkernel").unwrap()).unwrap() else {
        return;
    };
    let (port, other) = (rig.ports.one().unwrap(), rig.ports.one().unwrap());
    let _service = say(&rig, 80, "here");
    let listen = format!("listen=tcp:127.0.0.1:{port}");
    let keys = [&*listen, "connect=tcp:127.0.0.1:80"];
    let reason = "the kernel has no pidfd_open, Linux 5.3 has";
    says(
        &rig.device("add", &[&["web"], &keys[..]].concat()).unwrap(),
        REFUSED,
        &[": cannot look at its init, pid ", reason],
    );
    let process = format!("pid:{}", rig.container.pid().unwrap());
    let output = rig.daemon.cli(&[&["device", "add", &process, "web"], &keys[..]].concat()).unwrap();
    says(&output, REFUSED, &[reason]);
    assert!(rig.daemon.devices().unwrap().is_empty() && rig.daemon.workers().is_empty());

    let inside = Netns::of_pid(rig.container.pid().unwrap()).unwrap();
    let instance = format!("netns:{}", inside.path().display());
    let listen = format!("listen=tcp:127.0.0.1:{other}");
    rig.daemon.add(&instance, "web", &[&listen, "connect=tcp:127.0.0.1:80"]).unwrap();
    wait_until_heard(&rig, other, "here");
    let doctor = without(PIDFD_OPEN, || rig.daemon.cli(&["doctor"]).unwrap()).unwrap();
    let said = String::from_utf8_lossy(&doctor.stdout);
    assert_eq!(doctor.status.code(), Some(1));
    assert!(
        said.lines().any(|line| line.contains("pidfd") && line.contains("refused by the kernel")),
        "{said}"
    );

    rig.daemon.terminate().unwrap();
    rig.daemon.launch().unwrap();
    rig.add("back", &keys).unwrap();
    wait_until_heard(&rig, port, "here");
    wait_for("the other one", || heard(rig.host(), other).filter(|said| said == "here")).unwrap();
}
