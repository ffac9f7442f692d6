//! A daemon, and short words for what every test here does.

use std::process::Output;

use portway_testkit::{Addr, Behaviour, Daemon, DaemonSpec, Netns, Service, Site, check};

use crate::PORTWAY;

/// A daemon in a namespace with nothing but loopback, and the host's side there.
pub(crate) fn daemon() -> (Daemon, Site) {
    let netns = Netns::new().unwrap();
    (DaemonSpec::new(PORTWAY).within(&netns).start().unwrap(), Site::netns(&netns))
}

pub(crate) fn local(port: u16) -> Addr {
    Addr::tcp(&format!("127.0.0.1:{port}"))
}

/// What is said at a port of the host's side.
pub(crate) fn heard(host: &Site, port: u16) -> Option<String> {
    let stream = check::dial(host, &local(port)).ok()?;
    String::from_utf8(check::read_all(&stream).ok()?).ok()
}

pub(crate) fn say(site: &Site, addr: &Addr, text: &str) -> Service {
    Service::start(site, addr, Behaviour::Say(text.to_owned())).unwrap()
}

pub(crate) fn says(output: &Output, code: i32, text: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(error.contains(text), "no `{text}` in: {error}");
}
