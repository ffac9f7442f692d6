//! An organization that root has joined, run by the daemon.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use crate::PORTWAY;
use crate::bed::{Bed, answers, network_when, pid, reload, running, says};

/// Fails when: what root has joined is not used, is lost to root by being used, or the network cannot keep what it learns.
#[test]
fn what_root_has_joined_is_run() {
    let bed = Bed::new();
    let _registrar = bed.run(&bed.b, "registrar", &["mesh", "registrar", "--listen", "192.0.2.2:51821"]);
    let owner = |arguments: &[&str]| {
        let mut command = Command::new(PORTWAY);
        command.args(arguments).env_clear().env("PORTWAY_DIR", bed.dir.path().join("registrar"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    owner(&["mesh", "org", "create", "acme"]);
    let token = owner(&["mesh", "key", "create", "--org", "acme", "--uses", "2"]);
    let url = "https://192.0.2.2:51821";
    let config = "[mesh.home]\norg = \"acme\"\ningress = [\"tcp:80:127.0.0.1:8080\"]\n";
    // It is run before it is joined: it says so, and is taken up.
    let daemon = bed.daemon(config);
    let shown = network_when(&daemon, "what is missing", |it| it["state"] == "failed");
    assert!(shown["error"].as_str().unwrap().contains("has not joined organization acme"), "{shown}");
    let join = ["mesh", "join", url, "--key", &token, "--name", "one", "--request-ip", "10.77.0.1"];
    bed.a.ip("addr add 10.77.3.4/32 dev lo").unwrap();
    let joined = daemon.cli(&join).unwrap();
    let said = String::from_utf8_lossy(&joined.stderr);
    assert!(joined.status.success(), "{said}");
    assert!(said.contains("10.77.0.0/16 of the network overlaps 10.77.3.4/32 of lo on this host"), "{said}");
    assert!(said.contains("hint: `portway mesh org create --network`"), "{said}");
    daemon.reload().unwrap();
    let shown = running(&daemon);
    let endpoint = ["--endpoint", "192.0.2.2:51820", "--device", "two"];
    let rules = ["--egress", "tcp:127.0.0.1:8000:10.77.0.1:80"];
    let other = ["mesh", "proxy", "--join", url, "--key", &token];
    let _other = bed.run(&bed.b, "two", &[&other[..], &endpoint, &rules].concat());
    assert!(answers(&mut bed.call(8000)));
    let shown = network_when(&daemon, "its members", |it| {
        it["organization"]["devices"] == 2 && pid(it) == pid(&shown)
    });
    assert_eq!(shown["organization"]["device"], "one");
    // What a registrar has sent is read by the network alone: rules change though the daemon could not read it. Another
    // process could not start with it, and takes no place.
    let snapshot = daemon.dir().join("mesh/acme/snapshot.json");
    let good = fs::read(&snapshot).unwrap();
    fs::write(&snapshot, "{").unwrap();
    let more = config.replace("8080\"]", "8080\", \"tcp:81:127.0.0.1:8080\"]");
    reload(&daemon, &more);
    network_when(&daemon, "its rules", |it| it["rules"] == 2 && it["error"].is_null());
    reload(&daemon, &format!("{more}drain = 3\n"));
    let damaged = format!("it runs as before: {} is damaged", snapshot.display());
    let is_so = |it: &serde_json::Value| it["error"].as_str().is_some_and(|it| it.starts_with(&damaged));
    assert_eq!(pid(&network_when(&daemon, &damaged, is_so)), pid(&shown));
    fs::write(&snapshot, good).unwrap();
    reload(&daemon, &more);
    network_when(&daemon, "no fault", |it| it["error"].is_null());
    // What was learnt is kept, by the user that the folder was given to; root reads and changes it all the same.
    let folder = daemon.dir().join("mesh/acme");
    let owners = || -> Vec<u32> {
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().uid()).collect()
    };
    assert!(owners().len() >= 3 && owners().iter().all(|uid| *uid == 65_534), "{:?}", owners());
    assert!(says(&daemon, &["mesh", "export", "--org", "acme", "--wg-quick"]).contains("[Peer]"));
    says(&daemon, &[&join[..7], &["--endpoint", "192.0.2.1:51820"]].concat());
    assert!(owners().iter().all(|uid| *uid == 65_534), "{:?}", owners());
}
