//! Client and service with nobody between them, over loopback: every workload measures something.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_portway-bench");

/// The service, ended on drop.
struct Service {
    child: Child,
    address: String,
}

impl Service {
    fn start(unix: &UnixListener) -> Result<Self> {
        // A port that is free for TCP may be taken for UDP, or a moment later.
        for _ in 0..20 {
            let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
            let mut command = Command::new(BENCH);
            command.args(["server", "--address", &address, "--unix"]);
            command.stdin(OwnedFd::from(unix.try_clone()?)).stdout(Stdio::piped());
            let mut child = command.spawn()?;
            let mut line = String::new();
            BufReader::new(child.stdout.as_mut().context("no output")?).read_line(&mut line)?;
            if line == "ready\n" {
                return Ok(Self { child, address });
            }
            child.wait()?;
        }
        bail!("no port is free")
    }

    /// What the client says of a workload.
    fn measure(&self, workload: &str, target: &str) -> Result<Value> {
        let mut command = Command::new(BENCH);
        command.args(["client", workload, "--target", target, "--counter", &self.address]);
        // Long enough for a machine that does other things, too.
        command.args(["--warm-ms", "20", "--span-ms", "200", "--idle", "10"]).stdin(Stdio::null());
        let output = command.output()?;
        ensure!(output.status.success(), "{workload}: {}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout)?;
        Ok(serde_json::from_str(said.lines().last().context("nothing was said")?)?)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Fails when: the service does not know a stream's first byte, or the client reads another key than it
/// waits for.
#[test]
fn every_workload_measures_something() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let unix = UnixListener::bind(&path).unwrap();
    let service = Service::start(&unix).unwrap();
    let [tcp, udp] = ["tcp", "udp"].map(|kind| format!("{kind}:{}", service.address));
    let unix = format!("unix:{}", path.display());
    let workloads = [
        ("conn", &tcp, &["rate", "p99_us"][..]),
        ("rtt-1", &tcp, &["p50_us", "p99_us"]),
        ("rtt-64", &tcp, &["rate", "p99_us"]),
        ("up-8", &tcp, &["gbps"]),
        ("up-1-large", &tcp, &["gbps"]),
        ("down-8", &tcp, &["gbps"]),
        ("down-1-large", &tcp, &["gbps"]),
        ("mixed", &tcp, &["gbps", "p99_us"]),
        ("udp-1", &udp, &["p50_us"]),
        ("udp-64", &udp, &["rate"]),
        ("udp-flood-64", &udp, &["rate"]),
        ("unix-unix", &unix, &["rate"]),
        ("unix-unix-down", &unix, &["gbps"]),
        ("idle", &tcp, &["operations"]),
    ];
    for (workload, target, keys) in workloads {
        let sample = service.measure(workload, target).unwrap();
        for key in keys {
            assert!(sample[key].as_f64().is_some_and(|value| value > 0.0), "{workload}: {key} in {sample}");
        }
    }
}

/// Fails when: a refused connection is taken for a slow one.
#[test]
fn nobody_there_is_a_failure_and_is_said() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for workload in ["conn", "rtt-64", "up-1"] {
        let mut command = Command::new(BENCH);
        command.args(["client", workload, "--target", &format!("tcp:{closed}")]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(!output.status.success(), "{workload}");
        assert!(!output.stderr.is_empty(), "{workload}");
    }
}

/// Fails when: the service lives on after the benchmark has died.
#[test]
fn the_service_ends_with_whom_it_works_for() {
    let folder = tempfile::tempdir().unwrap();
    let unix = UnixListener::bind(folder.path().join("s")).unwrap();
    let mut service = Service::start(&unix).unwrap();
    drop(service.child.stdout.take());
    assert!(service.child.wait().unwrap().success());
}
