//! What the servers' own proxy devices do: the other column of the tables in the document on compatibility,
//! looked at on each of them.

use std::fs;
use std::io::Write as _;
use std::net::Shutdown;
use std::os::unix::fs::FileTypeExt as _;

use portway_testkit::{Addr, Bed, Behaviour, Container, ContainerSpec, Ports, Server, Service, Site, check};
use serde_json::{Value, json};

use crate::talk::local;

portway_testkit::on_every_server!(take_and_refuse, relay);

/// Has the server give the container these proxy devices and no other; what it says against it.
fn proxies(bed: &Bed, container: &Container<'_>, devices: &[(&str, Value)]) -> Result<(), String> {
    let mut now = container.read().unwrap();
    let entry = |(name, keys): &(&str, Value)| {
        let mut keys = keys.clone();
        keys["type"] = "proxy".into();
        ((*name).to_owned(), keys)
    };
    let devices: serde_json::Map<String, Value> = devices.iter().map(entry).collect();
    let wanted =
        json!({"config": now["config"].take(), "profiles": now["profiles"].take(), "devices": devices});
    let target = format!("/1.0/instances/{}", container.name());
    bed.incus().change("PUT", &target, Some(&wanted)).map(drop).map_err(|error| format!("{error:#}"))
}

/// Keys and names they take or refuse in a container that does not run.
fn take_and_refuse(server: Server) {
    let Some(bed) = portway_testkit::bed_of(server) else { return };
    let spec = ContainerSpec { stopped: true, ..ContainerSpec::default() };
    let container = bed.launch("theirs", &spec).unwrap();
    let device = |listen: &str, connect: &str| json!({"listen": listen, "connect": connect});
    let with = |mut device: Value, key: &str, value: &str| {
        device[key] = value.into();
        device
    };
    let web = || device("tcp:127.0.0.1:1000", "tcp:127.0.0.1:80");
    let long = format!("unix:/{}", "d".repeat(120));
    let taken = [
        ("port 0", device("tcp:127.0.0.1:0", "tcp:127.0.0.1:80")),
        ("port 99999", device("tcp:127.0.0.1:99999", "tcp:127.0.0.1:80")),
        ("080", device("tcp:127.0.0.1:080", "tcp:127.0.0.1:80")),
        ("three to two", device("tcp:127.0.0.1:1000-1002", "tcp:127.0.0.1:80-81")),
        ("a port twice", device("tcp:127.0.0.1:1000,1000", "tcp:127.0.0.1:80")),
        ("a relative path", device("unix:run/x", "tcp:127.0.0.1:80")),
        ("a path with ..", device("unix:/run/../x", "tcp:127.0.0.1:80")),
        ("a path that is too long", device(&long, "tcp:127.0.0.1:80")),
        ("an abstract name of nothing", device("unix:@", "tcp:127.0.0.1:80")),
        ("mode 4777", with(device("unix:/run/x", "tcp:127.0.0.1:80"), "mode", "4777")),
        ("another word for yes", with(web(), "proxy_protocol", "yes")),
        ("udp to tcp", device("udp:127.0.0.1:1000", "tcp:127.0.0.1:80")),
        ("a note", with(web(), "user.note", "x")),
    ];
    for (what, keys) in taken {
        let said = proxies(bed, &container, &[("d", keys)]);
        assert!(said.is_ok(), "{what}: {said:?}");
    }
    let refused = [
        ("no listen", json!({"connect": "tcp:127.0.0.1:80"}), "Unknown protocol type"),
        ("a zone", device("tcp:[fe80::1%eth0]:80", "tcp:127.0.0.1:80"), "Not an IP address"),
        ("a name", device("tcp:127.0.0.1:1000", "tcp:localhost:80"), "Not an IP address"),
        ("to unix", with(device("tcp::1", "unix:/run/x"), "proxy_protocol", "true"), "PROXY header"),
        ("version 2", with(web(), "proxy_protocol", "v2"), "Invalid value for a boolean"),
        ("unixgram", device("unixgram:/run/x", "udp:127.0.0.1:80"), "Unknown protocol type"),
        ("a key of ours", with(web(), "hold", "3s"), "Invalid device option"),
    ];
    for (what, keys, text) in refused {
        let said = proxies(bed, &container, &[("d", keys)]).expect_err(what);
        assert!(said.contains(text), "{what}: {said}");
    }
    // Incus 7.0 alone has become strict about names.
    for name in ["a/b", "-rf"] {
        let said = proxies(bed, &container, &[(name, web())]);
        assert_eq!(said.is_ok(), server != Server::Incus7, "{name}: {said:?}");
    }
}

/// What becomes of bytes, files and instances.
fn relay(server: Server) {
    let Some(bed) = portway_testkit::bed_of(server) else { return };
    let container = bed.container("theirs").unwrap();
    let (host, inside) = (Site::netns(bed.netns()), container.site().unwrap());
    let ports = Ports::claim(bed.netns()).unwrap();
    let port = ports.run(3).unwrap();
    let service = Service::start(&inside, &local(80), Behaviour::AnswerAtEnd).unwrap();
    let way = format!("unix:{}", bed.dir().join(container.name()).display());
    let file = bed.dir().join(container.name());
    fs::write(&file, "precious").unwrap();
    let web = json!({"listen": format!("tcp:0.0.0.0:{port}"), "connect": "tcp:127.0.0.1:80"});
    let in_the_way = json!({"listen": way, "connect": "tcp:127.0.0.1:80", "bind": "host"});
    let result = proxies(bed, &container, &[("web", web.clone()), ("file", in_the_way)]);
    let is_socket = fs::symlink_metadata(&file).unwrap().file_type().is_socket();

    // 0.0.0.0 takes IPv6; the end of the client's side ends both, and the answer is lost.
    let six = check::dial(&host, &Addr::tcp(&format!("[::1]:{port}")));
    let stream = check::dial(&host, &local(port)).unwrap();
    (&stream).write_all(b"hello").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let answer = check::read_all(&stream).unwrap_or_default();
    drop(service);
    // A target that refuses: the client sees an end, not a reset.
    let refused = check::read_all(&check::dial(&host, &local(port)).unwrap());

    let emptied = proxies(bed, &container, &[]);
    let stays = file.exists();
    let _ = fs::remove_file(&file);
    assert!(result.is_ok() && emptied.is_ok(), "{result:?} {emptied:?}");
    assert!(is_socket, "what was in the way is still there");
    assert!(stays, "the socket is gone with its device");
    assert!(six.is_ok(), "0.0.0.0 takes no IPv6");
    assert_eq!(String::from_utf8_lossy(&answer), "", "half-close works");
    assert_eq!(refused.expect("an end of stream"), b"");

    // A device that cannot work stops its instance.
    container.kill().unwrap();
    let impossible = json!({"listen": format!("tcp:127.0.0.1:{port}-{}", port + 2), "connect": "tcp::80-81"});
    proxies(bed, &container, &[("bad", impossible)]).unwrap();
    assert!(container.start().is_err());
    let stopped = || (container.read().ok()?["status"] == "Stopped").then_some(());
    portway_testkit::wait_for("the instance is stopped again", stopped).unwrap();
}
