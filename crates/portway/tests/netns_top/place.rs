//! A daemon with a device that leads to a service, and clients of it.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use portway_testkit::{Daemon, DaemonSpec, Netns, require};

use crate::PORTWAY;

/// See the module.
pub(crate) struct Place {
    pub(crate) daemon: Daemon,
    pub(crate) instance: String,
    host: Netns,
    _netns: Netns,
}

impl Place {
    /// `None` where namespaces cannot be made.
    pub(crate) fn start() -> Option<Place> {
        let (host, netns) = match (Netns::new(), Netns::new()) {
            (Ok(host), Ok(netns)) => (host, netns),
            (one, other) => {
                require(&format!("no namespaces: {:?} {:?}", one.err(), other.err()));
                return None;
            }
        };
        let service = netns.enter(|| TcpListener::bind("127.0.0.1:80")).unwrap().unwrap();
        // It ends with the test.
        std::thread::spawn(move || {
            for client in service.incoming() {
                std::thread::spawn(move || echo(client.unwrap()));
            }
        });
        let daemon = DaemonSpec::new(PORTWAY).within(&host).start().unwrap();
        let instance = format!("netns:{}", netns.path().display());
        let place = Place { daemon, instance, host, _netns: netns };
        place.add("web", 8080);
        Some(place)
    }

    /// Adds a device that leads to the service.
    pub(crate) fn add(&self, name: &str, port: u16) {
        let listen = format!("listen=tcp:127.0.0.1:{port}");
        self.daemon.add(&self.instance, name, &[&listen, "connect=tcp:127.0.0.1:80"]).unwrap();
    }

    /// A client whose connection is open.
    pub(crate) fn client(&self, port: u16) -> TcpStream {
        let mut client = self.host.enter(|| TcpStream::connect(("127.0.0.1", port))).unwrap().unwrap();
        client.write_all(b"hello").unwrap();
        client.read_exact(&mut [0; 5]).unwrap();
        client
    }

    /// Traffic through a device until it is dropped.
    pub(crate) fn traffic(&self, port: u16) -> Traffic {
        let mut client = self.client(port);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while !stopped.load(Ordering::Relaxed) {
                client.write_all(&bytes).unwrap();
                client.read_exact(&mut bytes).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        });
        Traffic { stop, thread: Some(thread) }
    }
}

fn echo(mut client: TcpStream) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = client.read(&mut bytes) {
        if client.write_all(&bytes[..count]).is_err() {
            return;
        }
    }
}

/// A client that sends and gets.
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
