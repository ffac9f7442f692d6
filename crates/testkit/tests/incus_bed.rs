//! The bed and its containers, on a real Incus.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use portway_testkit::{Bed, ContainerSpec, bed, is_root};

fn wait_for<T>(mut what: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = what() {
            return found;
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "waited too long");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn ready() -> Option<&'static Bed> {
    if is_root() { bed() } else { None }
}

#[test]
fn a_container_lives_dies_and_keeps_its_identity() {
    let Some(bed) = ready() else { return };
    let mut container = bed.container("life").unwrap();
    let (pid, uuid) = (container.pid().unwrap(), container.uuid().unwrap());
    container.restart().unwrap();
    assert_ne!(container.pid().unwrap(), pid);
    assert_eq!(container.uuid().unwrap(), uuid);
    container.stop().unwrap();
    assert!(container.pid().is_err());
    let renamed = format!("{}r", container.name());
    container.rename(&renamed).unwrap();
    container.start().unwrap();
    assert_eq!(container.uuid().unwrap(), uuid);
    assert_eq!(container.sh("hostname").unwrap().trim(), renamed);
    container.delete().unwrap();
    let again = bed.launch_exactly(&renamed, &ContainerSpec::default()).unwrap();
    assert_ne!(again.uuid().unwrap(), uuid);
    drop(again);
    assert!(bed.incus().find(&format!("/1.0/instances/{renamed}")).unwrap().is_none());
}

#[test]
fn its_own_services_start_with_it() {
    let Some(bed) = ready() else { return };
    let spec = ContainerSpec::booting("serve echo tcp:0.0.0.0:7 eof tcp:0.0.0.0:8 echo unix:/srv/s");
    let container = bed.launch("boot", &spec).unwrap();
    for _ in 0..2 {
        let site = container.site().unwrap();
        let dial = |port| wait_for(|| site.run(|| TcpStream::connect(("127.0.0.1", port))).unwrap().ok());
        let mut text = String::new();
        let mut stream = dial(8);
        stream.write_all(b"hello").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        drop(dial(7));
        // After a restart the former run's socket is in its place until the service has made its own.
        drop(wait_for(|| UnixStream::connect(site.path(Path::new("/srv/s"))).ok()));
        container.restart_by_force().unwrap();
    }
}

#[test]
fn the_test_serves_inside_a_container() {
    let Some(bed) = ready() else { return };
    let container = bed.container("site").unwrap();
    let site = container.site().unwrap();
    let path = site.path(Path::new("/srv/x.sock"));
    let _listener = site.run(|| UnixListener::bind(&path)).unwrap().unwrap();
    assert_eq!(container.sh("stat -c %u:%g:%F /srv/x.sock").unwrap().trim(), "0:0:socket");
    let listener = site.run(|| std::net::TcpListener::bind("0.0.0.0:99")).unwrap().unwrap();
    assert!(container.sh("netstat -ltn").unwrap().contains(":99"));
    let address = container.address(false).unwrap();
    // From the bed's namespace, through its bridge.
    bed.netns().enter(|| TcpStream::connect((address, 99))).unwrap().unwrap();
    drop(listener);
}

#[test]
fn projects_and_macvlan() {
    let Some(bed) = ready() else { return };
    let project = bed.project("blue").unwrap();
    let spec = ContainerSpec::booting("true").in_project(project.name()).with_macvlan();
    let container = bed.launch("mv", &spec).unwrap();
    assert_eq!(container.read().unwrap()["project"], project.name());
    assert!(
        container.sh("ip -o link show eth0").unwrap().contains("lan0") || container.sh("ip link").is_ok()
    );
    container.restart().unwrap();
    drop(container);
    let name = project.name().to_owned();
    drop(project);
    assert!(bed.incus().find(&format!("/1.0/projects/{name}")).unwrap().is_none());
}

#[test]
fn what_a_dead_test_left_is_swept() {
    let Some(bed) = ready() else { return };
    let spec = ContainerSpec { stopped: true, ..ContainerSpec::default() };
    let container = bed.launch("dead", &spec).unwrap();
    // The owner is a process that never was.
    let change = serde_json::json!({"config": {"user.testkit.owner": "1:1"}});
    let target = format!("/1.0/instances/{}", container.name());
    bed.incus().change("PATCH", &target, Some(&change)).unwrap();
    let _other = Bed::open(portway_testkit::Server::Incus6).unwrap();
    assert!(bed.incus().find(&target).unwrap().is_none());
}

#[test]
fn two_address_families_reach_the_bridge() {
    let Some(bed) = ready() else { return };
    let container = bed.container("two").unwrap();
    let site = container.site().unwrap();
    let _listener = site.run(|| std::net::TcpListener::bind("[::]:99")).unwrap().unwrap();
    for v6 in [false, true] {
        let address = container.address(v6).unwrap();
        assert_eq!(address.is_ipv6(), v6);
        bed.netns().enter(|| TcpStream::connect((address, 99))).unwrap().unwrap();
    }
}
