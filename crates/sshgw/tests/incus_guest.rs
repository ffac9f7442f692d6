//! The helper in real containers: placed, gone from their files, and at work. The way in is Incus' own client.

use std::io;
use std::process::{Output, Stdio};

use portway_proto::guest::{Environment, Exit, Ids, Program};
use portway_sshgw::guest::{self, Guest, Instance, PlaceError, Process, Streams, Wanted};
use portway_testkit::{Bed, Container, bed};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{ChildStdin, ChildStdout, Command};

/// A container, through `incus`.
struct ByClient<'a> {
    bed: &'a Bed,
    name: &'a str,
    architecture: &'a str,
}

impl<'a> ByClient<'a> {
    fn new(bed: &'a Bed, container: &'a Container<'_>) -> Self {
        Self { bed, name: container.name(), architecture: std::env::consts::ARCH }
    }

    fn incus(&self, args: &[&str]) -> Command {
        let mut command = Command::from(self.bed.client());
        command.args(args).stdin(Stdio::null());
        command
    }
}

fn done(output: &Output) -> io::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
}

impl Instance for ByClient<'_> {
    type Streams = Streams<ChildStdout, ChildStdin>;

    fn architecture(&self) -> &str {
        self.architecture
    }

    async fn make_dir(&self, path: &str) -> io::Result<()> {
        done(&self.incus(&["exec", self.name, "--", "mkdir", "-m", "0700", path]).output().await?)
    }

    async fn put(&self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        let (target, mode) = (format!("{}{path}", self.name), format!("{mode:04o}"));
        let mut command =
            self.incus(&["file", "push", "--mode", &mode, "--uid", "0", "--gid", "0", "-", &target]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        stdin.write_all(bytes).await?;
        drop(stdin);
        done(&child.wait_with_output().await?)
    }

    async fn remove(&self, path: &str) -> io::Result<()> {
        done(&self.incus(&["file", "delete", &format!("{}{path}", self.name)]).output().await?)
    }

    async fn run(&self, args: &[&str]) -> io::Result<Self::Streams> {
        let mut command = self.incus(&["exec", self.name, "--"]);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        Ok(tokio::io::join(stdout.ok_or(io::ErrorKind::BrokenPipe)?, stdin.ok_or(io::ErrorKind::BrokenPipe)?))
    }
}

/// Runs an asynchronous test with a container that is its own.
fn with_container<F: AsyncFnOnce(&ByClient<'_>, &Container<'_>)>(name: &str, test: F) {
    let Some(bed) = bed() else { return };
    let container = bed.container(name).expect("a container can be made");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime can be made").block_on(test(&ByClient::new(bed, &container), &container));
}

fn bob(program: Program) -> Wanted {
    Wanted {
        program,
        env: vec![b"HOME=/home/bob".to_vec()],
        environment: Environment::Instance,
        cwd: b"/home/bob".to_vec(),
        ids: Ids { uid: 1000, gid: 1000, groups: vec![29, 4242] },
        umask: 0o027,
        pty: None,
        loans: Vec::new(),
    }
}

fn sh(script: &str) -> Program {
    let args = ["-sh", "-c", script].map(|arg| arg.as_bytes().to_vec());
    Program::Exec { path: b"/bin/sh".to_vec(), args: args.to_vec() }
}

async fn output(process: &mut Process) -> String {
    let mut all = Vec::new();
    while let Some(bytes) = process.output.read().await {
        all.extend(bytes);
    }
    String::from_utf8(all).expect("it is text")
}

async fn says(guest: &Guest, script: &str) -> (String, Exit) {
    let mut process = guest.start(bob(sh(script))).await.expect("it starts");
    let said = output(&mut process).await;
    (said, process.exit.await.expect("it ends"))
}

/// What is left of helpers in the container's files, memory included.
fn traces(container: &Container<'_>) -> String {
    container.sh("find / -name '.portway*' ! -path '/proc/*' 2>/dev/null; true").expect("it runs")
}

/// Fails when: groups or umask are root's, the file stays, or the program runs from the container's files.
#[test]
fn it_serves_the_user_and_leaves_nothing() {
    with_container("gst", async |instance, container| {
        let guest = guest::start(instance).await.expect("it is placed");
        assert_eq!(traces(container), "");
        let (said, exit) = says(&guest, "id -u; id -G; umask; pwd; exit 41").await;
        assert_eq!(said, "1000\n1000 29 4242\n0027\n/home/bob\n");
        assert_eq!(exit, Exit::Code(41));
        let links = container.sh("for exe in /proc/[0-9]*/exe; do readlink $exe; done").expect("it runs");
        assert!(links.lines().any(|link| link.starts_with("/memfd:portway-guest")), "{links}");
        drop(guest);
        let gone = portway_testkit::wait_for("it ends with the gateway", || {
            let links = container.sh("for exe in /proc/[0-9]*/exe; do readlink $exe; done; true").ok()?;
            (!links.contains("portway-guest")).then_some(())
        });
        assert!(gone.is_ok());
    });
}

/// Fails when: two placements take each other's file.
#[test]
fn two_at_once_are_two() {
    with_container("gst", async |instance, container| {
        let (one, two) = tokio::join!(guest::start(instance), guest::start(instance));
        for guest in [one.expect("it is placed"), two.expect("it is placed")] {
            assert_eq!(says(&guest, "echo here").await, ("here\n".to_owned(), Exit::Code(0)));
        }
        assert_eq!(traces(container), "");
    });
}

/// Fails when: a place that does not execute ends the search, or keeps the file.
#[test]
fn memory_is_taken_where_it_executes() {
    with_container("gst", async |instance, container| {
        container.sh("mkdir -p /dev/shm; mount -t tmpfs -o noexec shm /dev/shm").expect("it is mounted");
        let guest = guest::start(instance).await.expect("it is placed in /run");
        assert_eq!(says(&guest, "echo run").await.0, "run\n");
        assert_eq!(traces(container), "");
        container
            .sh("umount /dev/shm; mount -t tmpfs shm /dev/shm; rm -r /run; : >/run")
            .expect("it is mounted");
        let guest = guest::start(instance).await.expect("it is placed in /dev/shm");
        assert_eq!(says(&guest, "echo shm").await.0, "shm\n");
        assert_eq!(traces(container), "");
    });
}

/// Many processes at a time, each with more than its window of output, one of them never read from.
#[test]
fn a_stalled_process_stops_nobody() {
    with_container("gst", async |instance, _| {
        let guest = guest::start(instance).await.expect("it is placed");
        let stalled = guest.start(bob(sh("yes"))).await.expect("it starts");
        let tasks = (0..20).map(|number| {
            let guest = guest.clone();
            tokio::spawn(async move {
                let script = format!("head -c 3000000 /dev/zero; exit {number}");
                let mut process = guest.start(bob(sh(&script))).await.expect("it starts");
                let length = output(&mut process).await.len();
                (length, process.exit.await.expect("it ends"))
            })
        });
        for (number, task) in (0..).zip(tasks.collect::<Vec<_>>()) {
            assert_eq!(task.await.expect("no panic"), (3_000_000, Exit::Code(number)));
        }
        stalled.control.hang_up().await;
        assert!(matches!(stalled.exit.await, Ok(Exit::Signal { .. })));
    });
}

/// The SFTP server is the user: what it makes is his, by his umask.
#[test]
fn files_are_the_users() {
    with_container("gst", async |instance, container| {
        let guest = guest::start(instance).await.expect("it is placed");
        let mut process = guest.start(bob(Program::Sftp)).await.expect("it starts");
        let init = b"\0\0\0\x05\x01\0\0\0\x03";
        let make = b"\0\0\0\x10\x0e\0\0\0\x01\0\0\0\x03new\0\0\0\0";
        let refused = b"\0\0\0\x12\x0e\0\0\0\x02\0\0\0\x05/root\0\0\0\0";
        assert!(process.input.write([&init[..], make, refused].concat().into()).await);
        process.input.end().await;
        let mut answers = Vec::new();
        while let Some(bytes) = process.output.read().await {
            answers.extend(bytes);
        }
        assert_eq!(process.exit.await, Ok(Exit::Code(0)));
        assert!(answers.windows(13).any(|window| window == b"\x65\0\0\0\x01\0\0\0\0\0\0\0\x07"), "made");
        assert_eq!(container.sh("stat -c '%u %g %a' /home/bob/new").expect("it is there"), "1000 1000 750\n");
    });
}

/// Fails when: a process seems to run on in an instance that is gone.
#[test]
fn a_stopped_instance_ends_everything() {
    with_container("gst", async |instance, container| {
        let guest = guest::start(instance).await.expect("it is placed");
        let mut process = guest.start(bob(sh("sleep 1000"))).await.expect("it starts");
        container.kill().expect("it stops");
        assert_eq!(output(&mut process).await, "");
        assert!(!process.input.write("x".into()).await);
        assert!(guest.start(bob(sh("echo"))).await.is_err());
    });
}

#[test]
fn another_architecture_is_said_to_be_so() {
    with_container("gst", async |instance, container| {
        let other = ByClient { architecture: "s390x", ..ByClient::new(instance.bed, container) };
        let refused = guest::start(&other).await.expect_err("there is none");
        assert!(matches!(refused, PlaceError::Unsupported(_)));
        assert!(refused.to_string().contains("s390x"));
    });
}
