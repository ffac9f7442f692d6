//! Short words for what every test here does.

use std::process::Output;
use std::time::Duration;

use portway_testkit::{Addr, Behaviour, Container, Daemon, Rig, Service, Site, check, wait_for};

/// `127.0.0.1` and a port.
pub(crate) fn local(port: u16) -> Addr {
    Addr::tcp(&format!("127.0.0.1:{port}"))
}

/// A service at a port of a site that says `text`.
pub(crate) fn say_at(site: &Site, addr: &Addr, text: &str) -> Service {
    Service::start(site, addr, Behaviour::Say(text.to_owned())).unwrap()
}

/// A service in a container that says `text`.
pub(crate) fn say_in(container: &Container<'_>, port: u16, text: &str) -> Service {
    say_at(&container.site().unwrap(), &local(port), text)
}

/// What is heard at a port of a site; nothing when it is closed or the connection is reset.
pub(crate) fn heard(site: &Site, port: u16) -> Option<String> {
    let addr = local(port);
    let stream = site.run(|| addr.connect(Duration::from_secs(10))).unwrap().ok()?;
    stream.set_timeout(Duration::from_secs(10)).unwrap();
    String::from_utf8(check::read_all(&stream).ok()?).ok().filter(|text| !text.is_empty())
}

/// Waits until a port leads to the service that says `text`.
pub(crate) fn wait_until_heard(site: &Site, port: u16, text: &str) {
    let asked = || heard(site, port).filter(|said| said == text);
    wait_for(&format!("{text} at port {port}"), asked).unwrap();
}

/// Adds `web`, from a port of the rig's to port 80 of the container; returns the port.
pub(crate) fn add_web(rig: &Rig, more: &[&str]) -> u16 {
    let port = rig.ports.one().unwrap();
    let listen = format!("listen=tcp:127.0.0.1:{port}");
    rig.add("web", &[&[&listen, "connect=tcp:127.0.0.1:80"], more].concat()).unwrap();
    port
}

/// Waits until a device's reason has this text in it.
pub(crate) fn wait_for_reason(daemon: &Daemon, device: &str, text: &str) {
    let asked = || daemon.device(device).ok()?["reason"].as_str()?.contains(text).then_some(());
    if wait_for("a reason", asked).is_err() {
        let device = daemon.device(device).unwrap();
        assert_eq!(device["reason"], text, "{} {}", device["state"], device["last_error"]);
    }
}

/// Exit code and a text of standard error.
pub(crate) fn says(output: &Output, code: i32, text: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(error.contains(text), "no `{text}` in: {error}");
}
