//! A daemon, and raw exchanges with it.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use portway_testkit::{Daemon, DaemonSpec, Netns, require};
use serde_json::Value;

use crate::PORTWAY;

/// Longest wait for bytes; nothing here should take a tenth of it.
const LIMIT: Duration = Duration::from_secs(30);

/// A daemon in a namespace of its own, and another namespace as an instance.
pub(crate) struct Place {
    pub(crate) daemon: Daemon,
    pub(crate) instance: String,
    /// Of the daemon, of the instance.
    pub(crate) host: Netns,
    pub(crate) netns: Netns,
}

impl Place {
    /// `None` where namespaces cannot be made.
    pub(crate) fn start() -> Option<Place> {
        Place::start_with("")
    }

    /// With settings.
    pub(crate) fn start_with(settings: &str) -> Option<Place> {
        let (host, netns) = match (Netns::new(), Netns::new()) {
            (Ok(host), Ok(netns)) => (host, netns),
            (one, other) => {
                require(&format!("no namespaces: {:?} {:?}", one.err(), other.err()));
                return None;
            }
        };
        let daemon = DaemonSpec::new(PORTWAY).within(&host).config(settings).start().unwrap();
        Some(Place { daemon, instance: format!("netns:{}", netns.path().display()), host, netns })
    }

    /// A connection to the control socket.
    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.daemon.dir().join("portway.sock")).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// Sends bytes, ends its side, and reads to the end.
    pub(crate) fn exchange(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect();
        // The daemon may have answered and gone before it has all.
        let _ = stream.write_all(request);
        let _ = stream.shutdown(Shutdown::Write);
        Answer::read(stream)
    }

    /// A request with a body.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let length = body.len();
        self.exchange(
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
                .as_bytes(),
        )
    }

    /// Path of a device of the instance.
    pub(crate) fn device(&self, name: &str) -> String {
        let encoded = self.instance.replace(':', "%3A").replace('/', "%2F");
        format!("/1.0/devices/{encoded}/{name}")
    }

    /// Descriptors of the daemon.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.daemon.pid().unwrap())).unwrap().count()
    }

    /// It answers as if nothing had been.
    pub(crate) fn is_well(&self) {
        assert_eq!(self.send("GET", "/1.0", "", "").status, 200);
    }
}

/// All that came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) text: String,
}

impl Answer {
    /// Reads to the end of a connection; status 0 when nothing came.
    pub(crate) fn read(mut stream: UnixStream) -> Answer {
        let mut bytes = Vec::new();
        // A reset behind the answer: there was more to read on the other side.
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let status = text.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        Answer { status, text }
    }

    /// The body, which is JSON.
    pub(crate) fn json(&self) -> Value {
        let (_, body) = self.text.split_once("\r\n\r\n").unwrap_or_default();
        serde_json::from_str(body).unwrap_or(Value::Null)
    }

    /// Fails unless it is this status with a failure of this kind.
    pub(crate) fn must_be(&self, status: u16, kind: &str, what: &str) {
        assert_eq!(self.status, status, "{what}: {:.300}", self.text);
        assert_eq!(self.json()["kind"], kind, "{what}: {:.300}", self.text);
        assert!(self.json()["error"].as_str().is_some_and(|text| !text.contains('\n')), "{what}");
    }
}
