//! Members of a cluster: an instance is served by the daemon on its member, and waited for on the others.
//! The server is a recording; the instance is a process in a namespace of its own.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use portway_testkit::{Site, is_root};

use crate::recorded::Stage;
use crate::talk::{local, say_at, wait_for_reason, wait_until_heard};

struct Init(Child);

impl Init {
    fn start() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up && echo there && exec sleep 1000"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "there\n");
        Self(child)
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An instance on another member: the device is taken, waits and says where it runs. It comes when the
/// instance moves here, and waits again when it goes.
///
/// Fails when: the location is not looked at, so that a pid of the other machine is taken for one of ours.
#[test]
fn an_instance_of_another_member_is_waited_for() {
    if !is_root() {
        return;
    }
    let stage = Stage::start();
    let stranger = Init::start();
    let place = |member: &str| {
        stage.change("/1.0/instances/v1", |instance| {
            instance["type"] = "container".into();
            instance["location"] = member.into();
        });
    };
    place("m2");
    // Some process here has the number of its init there.
    stage.set_pid(stranger.pid());
    let _trap = say_at(&Site::of_init(stranger.pid()).unwrap(), &local(80), "a stranger");
    let add = ["device", "add", "v1", "web", "listen=tcp:127.0.0.1:8080", "connect=tcp:127.0.0.1:80"];
    let output = stage.daemon.cli(&add).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("waiting: runs on m2"), "{said}");
    assert!(stage.daemon.workers().is_empty());

    let init = Init::start();
    let _service = say_at(&Site::of_init(init.pid()).unwrap(), &local(80), "moved here");
    stage.set_pid(init.pid());
    place("m1");
    stage.daemon.wait_for_state("web", "active").unwrap();
    wait_until_heard(&stage.host, 8080, "moved here");
    place("m2");
    drop(init);
    wait_for_reason(&stage.daemon, "web", "runs on m2");
    assert_eq!(stage.daemon.device("web").unwrap()["state"], "waiting");
}
