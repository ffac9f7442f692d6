//! Peers in processes of their own: one process has not descriptors enough for all of them. They are this program
//! once more, told by a variable what to do, and by lines on standard input when.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use portway_testkit::{Addr, Hall, Netns, Site, Stream, check, process};
use serde_json::{Value, json};

/// What a member is to do.
const JOB: &str = "PORTWAY_CREW";

/// What its lines begin with: the test harness writes there, too, and the name of a test.
const SAYS: &str = "I say";

/// A process of the crew; it ends with this value.
pub(crate) struct Member {
    child: Child,
    orders: ChildStdin,
    words: BufReader<ChildStdout>,
}

impl Member {
    /// A service that echoes at a port of a namespace.
    pub(crate) fn hall(netns: &Netns, port: u16) -> Self {
        Self::start(&json!({ "netns": netns.path(), "port": port, "clients": 0 }))
    }

    /// Clients of a port of a namespace.
    pub(crate) fn clients(netns: &Netns, port: u16, count: u64) -> Self {
        Self::start(&json!({ "netns": netns.path(), "port": port, "clients": count }))
    }

    fn start(job: &Value) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "crew::member", "--ignored", "--nocapture"]).env(JOB, job.to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (orders, words) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, orders, words }
    }

    /// Waits for its next number.
    pub(crate) fn number(&mut self) -> u64 {
        loop {
            let mut line = String::new();
            assert!(self.words.read_line(&mut line).unwrap() > 0, "a member of the crew has ended");
            if let Some(number) = line.strip_prefix(SAYS) {
                return number.trim().parse().unwrap();
            }
        }
    }

    /// Has it do the next thing.
    pub(crate) fn go(&mut self) {
        self.orders.write_all(b"go\n").unwrap();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test: a member, when it is told what to do.
#[test]
#[ignore = "a process of another test"]
fn member() {
    let Ok(job) = std::env::var(JOB) else { return };
    let job: Value = serde_json::from_str(&job).unwrap();
    process::raise_nofile().unwrap();
    let site = Site::netns(&Netns::open(Path::new(job["netns"].as_str().unwrap())).unwrap());
    let addr = Addr::tcp(&format!("127.0.0.1:{}", job["port"]));
    let mut orders = std::io::stdin().lines();
    let say = |number: u64| println!("\n{SAYS} {number}");
    let clients = job["clients"].as_u64().unwrap();
    if clients == 0 {
        let hall = Hall::start(&site, &addr).unwrap();
        say(0);
        while orders.next().is_some() {
            say(hall.open());
        }
        return;
    }
    let mut held: Vec<Stream> = Vec::new();
    for _ in 0..clients {
        // One after the other: who called faster than the service can be called would wait for nothing but it.
        held.extend(check::dial(&site, &addr).ok().filter(|stream| check::exchange(stream).is_ok()));
    }
    say(held.len() as u64);
    while orders.next().is_some() {
        say(held.iter().filter(|stream| check::exchange(stream).is_ok()).count() as u64);
    }
}
