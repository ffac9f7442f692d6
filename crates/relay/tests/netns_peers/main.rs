//! PROXY headers with programs that others wrote: HAProxy and nginx, behind a device and in front of one.
//!
//! ```text
//! client ---- device (proxy_protocol) ---- HAProxy, nginx: answer with the address they were told
//! client ---- HAProxy, nginx (send-proxy) ---- device (accept_proxy, proxy_protocol) ---- service
//! ```

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper fails its test")]

mod behind;
mod in_front;
#[path = "../rig/mod.rs"]
mod rig;

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use portway_testkit::Stream;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

/// Debian's place for the module that makes nginx relay streams.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// A program in the test's namespace, with its files in the test's folder.
struct Peer {
    child: Child,
    log: PathBuf,
}

impl Peer {
    fn haproxy(dir: &Path, config: &str) -> Option<Peer> {
        let preamble = "global\n  maxconn 100\ndefaults\n  timeout client 20s\n  timeout server 20s\n  timeout connect 20s\n";
        let path = dir.join("haproxy.cfg");
        std::fs::write(&path, format!("{preamble}{config}")).unwrap();
        let mut command = Command::new(program("haproxy")?);
        command.args(["-db", "-f"]).arg(&path);
        Some(Peer::start(command, dir.join("haproxy.log")))
    }

    fn nginx(dir: &Path, config: &str) -> Option<Peer> {
        let nginx = program("nginx")?;
        if !Path::new(NGINX_STREAM).exists() {
            portway_testkit::require("nginx has no stream module");
            return None;
        }
        let path = dir.join("nginx.conf");
        let preamble = format!(
            "load_module {NGINX_STREAM};\ndaemon off;\nmaster_process off;\npid {0}/nginx.pid;\n\
             error_log {0}/nginx.log;\nevents {{ worker_connections 100; }}\n",
            dir.display()
        );
        std::fs::write(&path, format!("{preamble}stream {{\n{config}}}\n")).unwrap();
        let mut command = Command::new(nginx);
        command.arg("-e").arg(dir.join("nginx.log")).arg("-p").arg(dir).arg("-c").arg(&path);
        Some(Peer::start(command, dir.join("nginx.log")))
    }

    fn start(mut command: Command, log: PathBuf) -> Peer {
        let output = std::fs::File::create(log.with_extension("out")).unwrap();
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        Peer { child: command.spawn().unwrap(), log }
    }

    /// Waits until it listens at all of these.
    fn ready(&self, addresses: &[&str]) {
        for address in addresses {
            rig::until(address, || {
                assert!(self.lives(), "{}", self.said());
                rig::try_connect(address).is_ok()
            });
        }
    }

    /// Waits until it listens at a tcp port. Looks instead of calling: a call would be passed on.
    fn wait_for_listener(&self, port: u16) {
        // A listener's line in proc_net_tcp(5): its port, no peer, state 0A.
        let line = format!(":{port:04X} 00000000:0000 0A");
        rig::until("it listens", || {
            assert!(self.lives(), "{}", self.said());
            std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap().contains(&line)
        });
    }

    fn lives(&self) -> bool {
        portway_testkit::process::is_alive(i32::try_from(self.child.id()).unwrap())
    }

    fn said(&self) -> String {
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        read(&self.log) + &read(&self.log.with_extension("out"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a program is; `None`, after saying so, when it is not installed.
fn program(name: &str) -> Option<PathBuf> {
    let found = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        portway_testkit::require(&format!("{name} is not installed"));
    }
    found
}

/// A client with this address of its own.
fn client(from: &str, to: &str) -> Stream {
    let to: SocketAddr = to.parse().unwrap();
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = socket(family, SocketType::STREAM, None).unwrap();
    bind(&fd, &SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    connect(&fd, &to).unwrap();
    let stream = Stream::Tcp(fd.into());
    stream.set_timeout(rig::PATIENCE).unwrap();
    stream
}

/// The client's own address and whom it called.
fn ends(stream: &Stream) -> (SocketAddr, SocketAddr) {
    let Stream::Tcp(stream) = stream else { panic!("not tcp") };
    (stream.local_addr().unwrap(), stream.peer_addr().unwrap())
}

fn everything(stream: &Stream) -> String {
    let mut all = Vec::new();
    (&*stream).read_to_end(&mut all).unwrap();
    String::from_utf8_lossy(&all).into_owned()
}
