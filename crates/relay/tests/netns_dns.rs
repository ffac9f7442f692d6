//! `udp.framing=len16` between real programs: a DNS client that speaks one transport, and a server that is reached by the
//! other alone.

#![expect(clippy::unwrap_used, reason = "a helper fails its test")]

mod rig;

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rig::{PATIENCE, Rig, in_netns};
use rustix::process::{Pid, Signal, kill_process_group};

/// Where servers are; a CI shell may lack the sbin folders.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// `dnsmasq`; a child of it serves each tcp connection.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    /// Answers for `web.test`, and for `long.test` with more than 512 bytes.
    fn start(port: u16) -> Server {
        let long: Vec<String> = (0..40).map(|number| format!("part {number} of a long answer")).collect();
        let mut command = Command::new("dnsmasq");
        command.env("PATH", PATH).args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--listen-address=127.0.0.1",
            "--bind-interfaces",
            "--user=root",
            "--pid-file=",
            "--address=/web.test/192.0.2.7",
        ]);
        command.arg(format!("--port={port}")).arg(format!("--txt-record=long.test,{}", long.join(",")));
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Server { process: command.spawn().expect("dnsmasq is installed"), port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = kill_process_group(Pid::from_child(&self.process), Signal::KILL);
        let _ = self.process.wait();
        // Its children may have the port for a moment longer than itself.
        let start = Instant::now();
        while TcpListener::bind(("127.0.0.1", self.port)).is_err() && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Lets nothing but tcp reach `port`.
fn without_udp(port: u16) {
    let rules = format!(
        "table inet dns {{ chain in {{ type filter hook input priority 0; udp dport {port} drop; }}; }}"
    );
    assert!(Command::new("nft").env("PATH", PATH).arg(rules).status().unwrap().success());
}

/// What `drill` hears at `port`; `transport` is `-u` or `-t`. `None`: nothing.
fn ask(port: u16, transport: &str, question: &[&str]) -> Option<String> {
    let mut command = Command::new("drill");
    command.env("PATH", PATH).args([transport, "-p", &port.to_string(), "@127.0.0.1"]).args(question);
    let output = command.stdin(Stdio::null()).output().expect("drill is installed");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Asks until `wanted` is in the answer: the server may not be there yet.
fn ask_until(port: u16, transport: &str, question: &[&str], wanted: &str) -> String {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask(port, transport, question).filter(|answer| answer.contains(wanted)) {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "no answer to {question:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A client over udp gets answers of a server that only speaks tcp, long ones whole, again after the server was started
/// anew. Fails when: frames have no length before them, or a flow keeps a stream that has ended.
#[test]
fn a_udp_client_reaches_a_tcp_server() {
    in_netns(|| {
        let mut rig = Rig::start();
        rig.add(0, "udp:127.0.0.1:1053", "tcp:127.0.0.1:5353", &[("udp.framing", "len16")]);
        without_udp(5353);
        for _ in 0..2 {
            let _server = Server::start(5353);
            ask_until(1053, "-u", &["web.test", "A"], "192.0.2.7");
            // With room for it: what comes over tcp is not cut.
            let long = ask_until(1053, "-u", &["-b", "4096", "long.test", "TXT"], "part 0 of");
            assert!(long.contains("part 39 of"), "{long}");
        }
    });
}

/// A client over tcp gets answers of a server that it is carried to over udp. Fails when: the length goes out as a
/// part of the datagram, or is not put before the answer.
#[test]
fn a_tcp_client_reaches_a_udp_server() {
    in_netns(|| {
        let mut rig = Rig::start();
        rig.add(0, "tcp:127.0.0.1:1053", "udp:127.0.0.1:5353", &[("udp.framing", "len16")]);
        let _server = Server::start(5353);
        ask_until(1053, "-t", &["web.test", "A"], "192.0.2.7");
        ask_until(1053, "-t", &["web.test", "A"], "192.0.2.7");
    });
}
