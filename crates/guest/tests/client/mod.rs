//! A gateway for tests: talks to the guest program over pipes.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};

use portway_proto::guest::{
    Credits, DATA_MAX_BYTES, Environment, Exit, Frame, Hello, Ids, Inbox, Program, Socket, Start, Started,
    Step, Stream,
};

/// What the test grants each output at first, and keeps granted.
pub(crate) const CREDIT: u32 = 1 << 20;

pub(crate) struct Client {
    pub(crate) guest: Child,
    pub(crate) stdin: Option<Box<dyn Write>>,
    stdout: Box<dyn Read>,
    inbox: Inbox,
    /// Whether it has moved, once it has said so.
    pub(crate) moved: Option<bool>,
    /// What has been heard of each channel.
    pub(crate) heard: BTreeMap<u32, Heard>,
    /// What has been heard of sockets, beside their bytes.
    pub(crate) sockets: Vec<Socket>,
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Heard {
    pub(crate) started: Option<Started>,
    pub(crate) refused: Option<(Step, u32)>,
    pub(crate) out: Vec<u8>,
    pub(crate) error: Vec<u8>,
    pub(crate) ended: Vec<Stream>,
    pub(crate) exit: Option<Exit>,
    pub(crate) closed: bool,
    /// What may be sent to its standard input.
    pub(crate) credit: usize,
    /// What it sends is not granted again.
    pub(crate) stalls: bool,
}

impl Client {
    /// Starts a guest and says hello.
    pub(crate) fn new() -> Self {
        let mut client = Self::silent();
        client.send(&Frame::Hello(Hello::GATEWAY));
        client
    }

    /// Starts a guest.
    pub(crate) fn silent() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portway-guest"));
        command.arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut guest = command.spawn().expect("the guest starts");
        let (stdin, stdout) = (guest.stdin.take(), guest.stdout.take().expect("it is piped"));
        let stdin = stdin.map(|stdin| Box::new(stdin) as Box<dyn Write>);
        let (inbox, heard) = (Inbox::default(), BTreeMap::new());
        Self { guest, stdin, stdout: Box::new(stdout), inbox, moved: None, heard, sockets: Vec::new() }
    }

    /// Speaks by another stream; the pipes are closed.
    pub(crate) fn go_on(&mut self, stream: &UnixStream) {
        self.stdin = Some(Box::new(stream.try_clone().expect("a descriptor")));
        self.stdout = Box::new(stream.try_clone().expect("a descriptor"));
    }

    /// Listens until the guest has said whether it moves.
    pub(crate) fn moves(&mut self) -> bool {
        while self.moved.is_none() {
            assert!(self.listen(), "the guest is gone: {}", self.complaint());
        }
        self.moved == Some(true)
    }

    pub(crate) fn send(&mut self, frame: &Frame<'_>) {
        let mut bytes = Vec::new();
        frame.write(&mut bytes).expect("it is short");
        self.send_bytes(&bytes);
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.stdin.as_mut().expect("it is open").write_all(bytes).expect("the guest reads");
    }

    /// Starts a program; returns when the guest has answered.
    pub(crate) fn start(&mut self, start: Start) -> Heard {
        let channel = start.channel;
        self.heard.insert(channel, Heard::default());
        self.send(&Frame::Start(Box::new(start)));
        self.until(channel, |heard| heard.started.is_some() || heard.refused.is_some())
    }

    /// Runs shell text to its end with this standard input.
    pub(crate) fn run(&mut self, start: Start, input: &[u8]) -> Heard {
        let channel = start.channel;
        self.start(start);
        self.feed(channel, input);
        self.send(&Frame::Eof { channel, stream: Stream::In });
        self.until(channel, |heard| heard.closed)
    }

    /// Sends all of it as fast as it is taken.
    pub(crate) fn feed(&mut self, channel: u32, mut input: &[u8]) {
        while !input.is_empty() {
            let heard = self.until(channel, |heard| heard.credit > 0 || heard.ended.contains(&Stream::In));
            if heard.ended.contains(&Stream::In) {
                return;
            }
            let (bytes, rest) = input.split_at(input.len().min(heard.credit).min(DATA_MAX_BYTES));
            self.heard.get_mut(&channel).expect("it was started").credit -= bytes.len();
            self.send(&Frame::Data { channel, stream: Stream::In, bytes });
            input = rest;
        }
    }

    /// Listens until something is true of a channel.
    pub(crate) fn until(&mut self, channel: u32, done: impl Fn(&Heard) -> bool) -> Heard {
        loop {
            let heard = &self.heard[&channel];
            if done(heard) {
                return heard.clone();
            }
            assert!(self.listen(), "the guest is gone: {}", self.complaint());
        }
    }

    /// Reads once; `false` at the end.
    pub(crate) fn listen(&mut self) -> bool {
        let count = self.stdout.read(self.inbox.room()).expect("a pipe can be read");
        self.inbox.filled(count);
        let mut granted = Vec::new();
        while let Some(frame) = self.inbox.next().expect("the guest speaks in frames") {
            if let Ok(Frame::Moved { moved }) = Frame::read(frame) {
                self.moved = Some(moved);
                continue;
            }
            if let Ok(Frame::Socket(socket)) = Frame::read(frame) {
                self.sockets.push(socket);
                continue;
            }
            if let Some(credit) = hear(&mut self.heard, Frame::read(frame).expect("it is a frame")) {
                granted.push(credit);
            }
        }
        for (channel, stream, bytes) in granted {
            let mut frame = Vec::new();
            Frame::Credit { channel, stream, bytes }.write(&mut frame).expect("it is short");
            // It may have ended meanwhile.
            let _ = self.stdin.as_mut().map(|stdin| stdin.write_all(&frame));
        }
        count > 0
    }

    /// What the guest wrote to its standard error, once it has ended.
    pub(crate) fn complaint(&mut self) -> String {
        let mut said = String::new();
        if let Some(mut stderr) = self.guest.stderr.take() {
            stderr.read_to_string(&mut said).expect("it is text");
        }
        said
    }

    /// Listens to the end of the guest.
    pub(crate) fn end(&mut self) -> ExitStatus {
        while self.listen() {}
        self.guest.wait().expect("it is ours")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // It ends by itself; a guest that does not is the test's time-out.
        let _ = self.guest.wait();
    }
}

fn hear(all: &mut BTreeMap<u32, Heard>, frame: Frame<'_>) -> Option<(u32, Stream, u32)> {
    let mut on = |channel: u32| all.get_mut(&channel).expect("a channel that was started").clone();
    let (channel, heard) = match frame {
        Frame::Hello(hello) => {
            assert_ne!(hello.build, [0; 32]);
            return None;
        }
        Frame::Started(started) => {
            let mut heard = on(started.channel);
            heard.credit = started.stdin_credit as usize;
            (started.channel, Heard { started: Some(started), ..heard })
        }
        Frame::Refused { channel, step, errno } => {
            (channel, Heard { refused: Some((step, errno)), closed: true, ..on(channel) })
        }
        Frame::Data { channel, stream, bytes } => {
            let heard = all.get_mut(&channel).expect("it was started");
            assert!(!heard.ended.contains(&stream), "bytes after the end");
            if stream == Stream::Out { &mut heard.out } else { &mut heard.error }.extend_from_slice(bytes);
            return (!heard.stalls).then_some((
                channel,
                stream,
                u32::try_from(bytes.len()).expect("it is short"),
            ));
        }
        Frame::Eof { channel, stream } => {
            let mut heard = on(channel);
            heard.ended.push(stream);
            (channel, heard)
        }
        Frame::Credit { channel, stream, bytes } => {
            assert_eq!(stream, Stream::In);
            let heard = on(channel);
            (channel, Heard { credit: heard.credit + bytes as usize, ..heard })
        }
        Frame::Exited { channel, exit } => (channel, Heard { exit: Some(exit), ..on(channel) }),
        Frame::Closed { channel } => (channel, Heard { closed: true, ..on(channel) }),
        other => unreachable!("the guest said {other:?}"),
    };
    all.insert(channel, heard);
    None
}

/// Shell text as this process' user, with its groups.
pub(crate) fn sh(channel: u32, script: &str) -> Start {
    exec(channel, b"/bin/sh", &[b"sh", b"-c", script.as_bytes()])
}

pub(crate) fn exec(channel: u32, path: &[u8], args: &[&[u8]]) -> Start {
    let groups = if testkit_is_root() { vec![0] } else { Vec::new() };
    Start {
        channel,
        program: Program::Exec { path: path.to_vec(), args: args.iter().map(|arg| arg.to_vec()).collect() },
        env: vec![b"PATH=/usr/bin:/bin".to_vec()],
        environment: Environment::Empty,
        cwd: b"/".to_vec(),
        ids: Ids {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups,
        },
        umask: 0o022,
        pty: None,
        credits: Credits { stdout: CREDIT, stderr: CREDIT },
    }
}

fn testkit_is_root() -> bool {
    portway_testkit::is_root()
}
