//! Addresses that a network forward of the server takes.

use portway_testkit::{Bed, DaemonSpec, Rig, Server};
use serde_json::json;

use crate::PORTWAY;
use crate::talk::says;

portway_testkit::on_every_server!(the_address_of_a_forward_is_refused);

/// A network forward, deleted on drop.
struct Forward {
    bed: &'static Bed,
    address: String,
}

impl Forward {
    /// One of an address that nobody else has: tests of other processes make some, too.
    fn make(bed: &'static Bed) -> Forward {
        let first = std::process::id();
        let mut problems = Vec::new();
        for number in (first..).take(50) {
            // The addresses of benchmarks (RFC 2544), which no test routes.
            let [_, _, high, low] = (number & 0xffff).to_be_bytes();
            let address = format!("198.18.{high}.{low}");
            let body = json!({"listen_address": address, "config": {}, "ports": []});
            match bed.incus().change("POST", "/1.0/networks/br0/forwards", Some(&body)) {
                Ok(_) => return Forward { bed, address },
                Err(problem) => problems.push(problem.to_string()),
            }
        }
        panic!("no forward can be made: {problems:?}");
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let path = format!("/1.0/networks/br0/forwards/{}", self.address);
        // A bed that is gone has no forwards.
        let _ = self.bed.incus().change("DELETE", &path, None);
    }
}

/// By `add`, `set` and `apply`, with the names of network and forward; a wildcard is no conflict, nor is
/// another address or the instance's own side.
///
/// Fails when: one of the three does not ask for forwards, or every listener is compared with them.
fn the_address_of_a_forward_is_refused(server: Server) {
    let Some(rig) = Rig::on(server, DaemonSpec::new(PORTWAY), "forward", &Default::default()).unwrap() else {
        return;
    };
    let forward = Forward::make(rig.bed());
    let port = rig.ports.one().unwrap();
    let (taken, connect) = (format!("listen=tcp:{}:{port}", forward.address), "connect=tcp:127.0.0.1:7");
    let said = format!("{} is the listen address of a network forward of network br0", forward.address);
    says(&rig.device("add", &["web", &taken, connect]).unwrap(), 1, &said);
    assert!(rig.daemon.devices().unwrap().is_empty());
    rig.add("web", &[&format!("listen=tcp:127.0.0.1:{port}"), connect]).unwrap();
    says(&rig.device("set", &["web", &taken]).unwrap(), 1, &said);
    rig.device_ok("set", &["web", "hold=5s"]).unwrap();
    let file = rig.path("devices.yaml");
    let text = format!(
        "devices: [{{instance: \"{}\", name: web, listen: \"tcp:{}:{port}\", connect: \"tcp::7\"}}]",
        rig.reference(),
        forward.address
    );
    std::fs::write(&file, text).unwrap();
    says(&rig.daemon.cli(&["apply", "-f", file.to_str().unwrap()]).unwrap(), 1, &said);
    assert_eq!(rig.daemon.device("web").unwrap()["listen"], format!("tcp:127.0.0.1:{port}"));
    rig.device_ok("set", &["web", &format!("listen=tcp:0.0.0.0:{port}")]).unwrap();
    rig.add("inside", &[&taken, &format!("connect=tcp:127.0.0.1:{port}"), "bind=instance"]).unwrap();
    let address = forward.address.clone();
    drop(forward);
    // Without the forward it is an address that is not there yet, which is waited for.
    rig.add("later", &[&format!("listen=tcp:{address}:{port}"), connect]).unwrap();
}
