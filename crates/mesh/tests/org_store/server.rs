//! etcd, started for one test.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use portway_mesh::org::store::{Etcd, EtcdTls, Store, etcd_tls};
use tempfile::TempDir;

/// How long a start may take; other tests load the machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether there is an etcd to start; says so when there is none.
pub(crate) fn is_there() -> bool {
    let found = Command::new("etcd").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !found {
        portway_testkit::require("no etcd (package etcd-server)");
    }
    found
}

/// Members of one cluster.
pub(crate) struct Servers {
    dir: TempDir,
    ports: Vec<(u16, u16)>,
    running: Vec<Option<Child>>,
    tls: bool,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Servers {
    pub(crate) fn start(count: usize, tls: bool) -> Servers {
        let ports = (0..count).map(|_| (free_port(), free_port())).collect();
        let dir = TempDir::new().unwrap();
        let mut servers = Servers { dir, ports, running: Vec::new(), tls };
        if tls {
            servers.certificates();
        }
        servers.running.resize_with(count, || None);
        (0..count).for_each(|at| servers.run(at));
        (0..count).for_each(|at| servers.wait(at));
        servers
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    /// Starts a member, again if it was killed.
    pub(crate) fn run(&mut self, at: usize) {
        let cluster =
            self.ports.iter().enumerate().map(|(at, (_, peer))| format!("n{at}=http://127.0.0.1:{peer}"));
        let cluster = cluster.collect::<Vec<_>>().join(",");
        let (client, peer) = self.ports[at];
        let (client, peer) =
            (format!("{}://127.0.0.1:{client}", self.scheme()), format!("http://127.0.0.1:{peer}"));
        let log = std::fs::File::create(self.path(&format!("log{at}"))).unwrap();
        let mut command = Command::new("etcd");
        command
            .args(["--name", &format!("n{at}"), "--data-dir"])
            .arg(self.path(&format!("data{at}")))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args([
                "--initial-cluster",
                &cluster,
                "--heartbeat-interval",
                "100",
                "--election-timeout",
                "1000",
            ]);
        if self.tls {
            let file = |name: &str| self.path(name).into_os_string();
            command.arg("--cert-file").arg(file("server.pem")).arg("--key-file").arg(file("server.key"));
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(file("ca.pem"));
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.running[at] = Some(child);
    }

    /// Until it listens and the cluster has a leader.
    pub(crate) fn wait(&self, at: usize) {
        let ready = |log: &str| log.contains("ready to serve client requests");
        let start = Instant::now();
        while !ready(&std::fs::read_to_string(self.path(&format!("log{at}"))).unwrap_or_default()) {
            assert!(start.elapsed() < PATIENCE, "etcd does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills a member, without a chance to put anything in order.
    pub(crate) fn kill(&mut self, at: usize) {
        let mut child = self.running[at].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// As `--store` has it.
    pub(crate) fn address(&self) -> String {
        let members: Vec<String> =
            self.ports.iter().map(|(client, _)| format!("127.0.0.1:{client}")).collect();
        format!("{}://{}", if self.tls { "etcds" } else { "etcd" }, members.join(","))
    }

    pub(crate) fn client_tls(&self) -> EtcdTls {
        let (certificate, key) = (self.path("client.pem"), self.path("client.key"));
        etcd_tls(&self.path("ca.pem"), Some((&certificate, &key))).unwrap()
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        let address: portway_mesh::org::store::EtcdAddress = self.address().parse().unwrap();
        let address = if address.wants_tls() { address.with_tls(self.client_tls()) } else { address };
        Arc::new(Etcd::new(address))
    }

    /// Forgets all revisions but the last.
    pub(crate) fn compact(&self) {
        let range = self.post("/v3/kv/range", r#"{"key":"AA=="}"#);
        let revision = range.split("\"revision\":\"").nth(1).unwrap().split('"').next().unwrap();
        let done = self.post("/v3/kv/compaction", &format!(r#"{{"revision":"{revision}","physical":true}}"#));
        assert!(done.contains("header") && !done.contains("error"), "{done}");
    }

    fn post(&self, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports[0].0)).unwrap();
        let length = body.len();
        let request = format!("POST {path} HTTP/1.0\r\nHost: etcd\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// An authority, and certificates of it for the server and for us.
    fn certificates(&self) {
        let openssl = |arguments: &str| {
            let done =
                Command::new("openssl").args(arguments.split(' ')).current_dir(self.dir.path()).output();
            let done = done.unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority"));
        std::fs::write(
            self.path("ext"),
            "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n",
        )
        .unwrap();
        for name in ["server", "client"] {
            openssl(&format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
            let sign = "x509 -req -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext";
            openssl(&format!("{sign} -in {name}.csr -out {name}.pem"));
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in self.running.iter_mut().flatten() {
            // It may have ended by itself.
            let _ended = child.kill();
            let _ended = child.wait();
        }
    }
}
