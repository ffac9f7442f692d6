//! Malformed requests, each answered with its status and JSON, and nothing done.

use std::os::unix::fs::MetadataExt as _;

use crate::support::Place;

/// Catalogue: request line, header fields, framing.
///
/// Fails when hyper reads a head that `control::head` has not checked.
#[test]
fn heads_that_are_not_well_formed_are_refused() {
    let Some(place) = Place::start() else { return };
    let get = |rest: &str| format!("GET /1.0 HTTP/1.1\r\nHost: x\r\n{rest}\r\n");
    let post = |rest: &str| format!("POST /1.0/devices HTTP/1.1\r\nHost: x\r\n{rest}");
    for (what, request, status) in [
        ("a request line of 1 MiB", format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(1 << 20)), 414),
        ("10,000 header fields", get(&"A: b\r\n".repeat(10_000)), 431),
        ("a folded header field", get("A: b\r\n c\r\n"), 400),
        ("a bare LF", "GET /1.0 HTTP/1.1\nHost: x\n\n".to_owned(), 400),
        ("a blank before the colon", get("A : b\r\n"), 400),
        ("both framings", post("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        ("two lengths", post("Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}"), 400),
        ("a negative length", post("Content-Length: -1\r\n\r\n"), 400),
        ("a length of 2^64", post("Content-Length: 18446744073709551616\r\n\r\n"), 413),
        ("a chunk of 2^64 - 1", post("Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n"), 400),
        ("a chunk without a number", post("Transfer-Encoding: chunked\r\n\r\nx\r\n"), 400),
        ("CONNECT", "CONNECT x:1 HTTP/1.1\r\n\r\n".to_owned(), 405),
        ("an absolute target", "GET http://x/1.0 HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("an unknown method", "PROPFIND /1.0 HTTP/1.1\r\n\r\n".to_owned(), 405),
        ("TRACE", "TRACE /1.0 HTTP/1.1\r\n\r\n".to_owned(), 405),
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 505),
        ("TLS", "\u{16}\u{3}\u{1}\u{2}\r\n\r\n".to_owned(), 400),
    ] {
        place.exchange(request.as_bytes()).must_be(status, "usage", what);
    }
    let endless = format!("2000\r\n{}\r\n", "a".repeat(0x2000)).repeat(200);
    let request = post(&format!("Transfer-Encoding: chunked\r\n\r\n{endless}"));
    place.exchange(request.as_bytes()).must_be(413, "usage", "endless chunks");
    place.is_well();
}

/// Catalogue: JSON.
#[test]
fn bodies_that_are_not_well_formed_are_refused() {
    let Some(place) = Place::start() else { return };
    let device =
        |keys: &str| format!(r#"{{"instance":"{}","name":"web","keys":{{{keys}}}}}"#, place.instance);
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    for (what, body, status) in [
        ("nothing", String::new(), 400),
        ("no JSON", "{".to_owned(), 400),
        ("a byte order mark", format!("\u{feff}{}", device("")), 400),
        ("depth 10,000", deep.clone(), 400),
        ("depth below a key", device(&format!(r#""listen":{deep}"#)), 400),
        ("a field given twice", device("").replace("\"name\":", "\"name\":\"a\",\"name\":"), 400),
        ("a key given twice", device(r#""listen":"tcp::1","connect":"tcp::1","listen":"tcp::2""#), 400),
        ("an unknown field", device("").replace("\"name\":", "\"nam\":1,\"name\":"), 400),
        ("1e999", device(r#""hold":1e999"#), 400),
        ("2^64", device(r#""hold":18446744073709551616"#), 400),
        ("a lone surrogate", device(r#""listen":"\ud800""#), 400),
        ("NUL in a name", device("").replace("web", "we\\u0000b"), 400),
        ("NUL in an instance", device("").replace("netns:", "netns:\\u0000"), 400),
        ("an escape in a name", device("").replace("web", "../../etc/x"), 400),
        ("more than 1 MiB", " ".repeat((1 << 20) + 1), 413),
    ] {
        place.send("POST", "/1.0/devices", "", &body).must_be(status, "usage", what);
    }
    let list = format!(r#"{{"devices":[{0},{0}]}}"#, device(r#""listen":"tcp::1","connect":"tcp::1""#));
    place.send("POST", "/1.0/apply", "", &list).must_be(400, "usage", "a device listed twice");
    assert!(place.daemon.devices().unwrap().is_empty());
    place.is_well();
}

/// Catalogue: paths are decoded once, and say nothing about files.
#[test]
fn odd_paths_are_no_resources() {
    let Some(place) = Place::start() else { return };
    for (path, status, kind) in [
        ("/1.0/devices/%2e%2e%2fx/web", 400, "usage"),
        ("/1.0/devices/netns%3Ablue/%2e%2e%2fx", 400, "usage"),
        ("/1.0/devices/netns%253Ablue/web", 400, "usage"),
        ("/1.0/devices/netns%3Ablue/we%00b", 400, "usage"),
        ("/1.0/devices/netns%3Ablue/%c0%ae", 400, "usage"),
        ("/1.0/devices/netns%3Ablue/%ff", 400, "usage"),
        ("/1.0/devices/netns%3Ablue/%zz", 400, "usage"),
        ("/1.0/devices/netns%3Ablue/web;x", 400, "usage"),
        ("/1.0/devices/netns%3Ablue/none", 404, "missing"),
        ("/1.0/devices//web", 400, "usage"),
        ("//1.0", 404, "missing"),
        ("/1.0/", 404, "missing"),
        ("/1.0/../1.0", 404, "missing"),
        ("/", 404, "missing"),
        ("/1.0/devices?instance=c1", 400, "usage"),
        ("/1.0/devices?instanse=netns:blue", 400, "usage"),
        ("/1.0/devices?instance=netns:nobody-has-this", 404, "missing"),
    ] {
        place.send("GET", path, "", "").must_be(status, kind, path);
    }
    let output = place.daemon.cli(&["device", "list", "netns:nobody-has-this"]).unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
    let output = place.daemon.cli(&["device", "list", &place.instance, "--format", "json"]).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "[]");
    for (method, path) in
        [("PUT", "/1.0"), ("DELETE", "/1.0/devices"), ("GET", "/1.0/apply"), ("PATCH", "/metrics")]
    {
        place.send(method, path, "", "").must_be(405, "usage", path);
    }
    place.is_well();
}

/// Catalogue: a stale revision, delete twice, create the same name.
#[test]
fn changes_of_what_has_changed_are_refused() {
    let Some(place) = Place::start() else { return };
    let body = format!(
        r#"{{"instance":"{}","name":"web","keys":{{"listen":"tcp:127.0.0.1:8001","connect":"tcp::7"}}}}"#,
        place.instance
    );
    let generation = || place.send("GET", "/1.0", "", "").json()["generation"].as_u64().unwrap();
    let before = generation();
    assert_eq!(place.send("POST", "/1.0/devices", &format!("If-Match: \"{before}\"\r\n"), &body).status, 200);
    let stale = format!("If-Match: \"{before}\"\r\n");
    let path = place.device("web");
    let change = r#"{"set":{"hold":"5s"}}"#;
    place.send("PATCH", &path, &stale, change).must_be(412, "refused", "stale");
    place.send("DELETE", &path, &stale, "").must_be(412, "refused", "stale");
    place.send("PATCH", &path, "If-Match: now\r\n", change).must_be(400, "usage", "no generation");
    place.send("POST", "/1.0/devices", "", &body).must_be(409, "refused", "the same name");
    let fresh = format!("If-Match: {}\r\n", generation());
    assert_eq!(place.send("PATCH", &path, &fresh, change).status, 200);
    assert_eq!(place.send("DELETE", &path, "", "").status, 200);
    place.send("DELETE", &path, "", "").must_be(404, "missing", "twice");
}

/// Catalogue: forward to itself, connect to our own socket, and addresses that overlap, by one name or by two.
///
/// Fails when `check_way` says nothing, the kernel's refusal is not passed on, or paths are compared as texts.
#[test]
fn devices_that_lead_back_or_overlap_are_refused() {
    let Some(place) = Place::start() else { return };
    let own = format!("netns:/proc/{}/ns/net", place.daemon.pid().unwrap());
    let refused = |instance: &str, keys: &[&str], expected: &str| {
        let output = place.daemon.cli(&[&["device", "add", instance, "bad"][..], keys].concat()).unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{keys:?}: {error}");
        assert!(error.contains(expected), "{keys:?}: {error}");
    };
    let itself = "it would connect to itself";
    refused(&own, &["listen=tcp:0.0.0.0:8001", "connect=tcp:127.0.0.1:8001"], itself);
    refused(&own, &["listen=udp:127.0.0.1:8001", "connect=udp:127.0.0.1:8001"], itself);
    refused(
        &place.instance,
        &["listen=unix:/tmp/portway-itself", "connect=unix:/tmp/portway-itself"],
        itself,
    );

    let socket = place.daemon.dir().join("portway.sock");
    let link = place.daemon.dir().join("link");
    std::os::unix::fs::symlink(&socket, &link).unwrap();
    for path in [&socket, &link] {
        let connect = format!("connect=unix:{}", path.display());
        refused(
            &place.instance,
            &["bind=instance", "listen=tcp:127.0.0.1:8001", &connect],
            "the control socket",
        );
    }

    let connect = "connect=tcp:127.0.0.1:7";
    place.daemon.add(&place.instance, "web", &["listen=tcp:0.0.0.0:8001-8005", connect]).unwrap();
    let busy = format!("is in use by device {}/web", place.instance);
    for listen in ["tcp:127.0.0.1:8003", "tcp:0.0.0.0:8005-8006", "tcp:[::]:8001"] {
        refused(&place.instance, &[&format!("listen={listen}"), connect], &busy);
    }
    let path = place.daemon.dir().join("s");
    place.daemon.add(&place.instance, "db", &[&format!("listen=unix:{}", path.display()), connect]).unwrap();
    let link = place.daemon.dir().join("same");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    refused(&place.instance, &[&format!("listen=unix:{}", link.display()), connect], "is taken");
    let linked = place.daemon.dir().join("folder");
    std::os::unix::fs::symlink(place.daemon.dir(), &linked).unwrap();
    let owner = format!("is taken by device {}/db", place.instance);
    let before = std::fs::symlink_metadata(&path).unwrap().ino();
    for path in [&path, &linked.join("s")] {
        refused(&place.instance, &[&format!("listen=unix:{}", path.display()), connect], &owner);
    }
    assert_eq!(std::fs::symlink_metadata(&path).unwrap().ino(), before);
    std::os::unix::net::UnixStream::connect(&path).unwrap();
    assert_eq!(place.daemon.devices().unwrap().len(), 2);
}

/// Catalogue: forward to itself in two hops. Whoever closes the ring is refused by `add`, by `set` and by
/// `apply`, with the names of all in it, and everything is as before.
///
/// Fails when: one of the three does not look for rings.
#[test]
fn a_device_that_closes_a_ring_is_refused() {
    let Some(place) = Place::start() else { return };
    let (name, connect) = (&place.instance, "connect=tcp:127.0.0.1:8002");
    place.daemon.add(name, "in", &["listen=tcp:0.0.0.0:8001", connect]).unwrap();
    let refused = |args: &[&str]| {
        let output = place.daemon.cli(args).unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {error}");
        let ring = format!("it would close a ring: {name}/out leads to {name}/in leads back to it");
        assert!(error.contains(&ring), "{args:?}: {error}");
    };
    let listen = "listen=tcp:127.0.0.1:8002";
    refused(&["device", "add", name, "out", listen, "connect=tcp:127.0.0.1:8001", "bind=instance"]);
    assert_eq!(place.daemon.devices().unwrap().len(), 1);
    // Elsewhere it leads to an end.
    place.daemon.add(name, "out", &[listen, "connect=tcp:127.0.0.1:7", "bind=instance"]).unwrap();
    refused(&["device", "set", name, "out", "connect=tcp:127.0.0.1:8001"]);
    assert_eq!(place.daemon.device("out").unwrap()["connect"], "tcp:127.0.0.1:7");

    let file = place.daemon.dir().join("ring.yaml");
    let line = format!(
        "{{instance: \"{name}\", name: out, listen: \"tcp:127.0.0.1:8002\", connect: \"tcp::8001\", bind: instance}}"
    );
    std::fs::write(&file, format!("devices: [{line}]")).unwrap();
    refused(&["apply", "--dry-run", "-f", file.to_str().unwrap()]);
    refused(&["apply", "-f", file.to_str().unwrap()]);
    assert_eq!(place.daemon.device("out").unwrap()["connect"], "tcp:127.0.0.1:7");
    // Without the other one it may, and then the other may not come back.
    let output = place.daemon.cli(&["apply", "--prune", "-f", file.to_str().unwrap()]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let args = ["device", "add", name, "in", "listen=tcp:0.0.0.0:8001", connect];
    let output = place.daemon.cli(&args).unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains(&format!("{name}/in leads to {name}/out leads back to it")), "{error}");
}
