use super::*;

fn written(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.write(&mut bytes).expect("it is short");
    bytes
}

fn start() -> Start {
    Start {
        channel: 7,
        program: Program::Exec { path: b"/bin/sh".to_vec(), args: vec![b"-sh".to_vec()] },
        env: vec![b"A=".to_vec()],
        environment: Environment::Empty,
        cwd: b"/root".to_vec(),
        ids: Ids { uid: 0, gid: 0, groups: vec![4, 5] },
        umask: 0o022,
        pty: None,
        credits: Credits { stdout: 1, stderr: 2 },
    }
}

fn refusal(frame: &[u8]) -> FrameError {
    Frame::read(frame).expect_err("it is no frame")
}

fn refused_start(change: impl FnOnce(&mut Start)) -> FrameError {
    let mut start = start();
    change(&mut start);
    refusal(&written(&Frame::Start(Box::new(start)))[4..])
}

#[test]
fn a_hello_of_another_version_says_which() {
    assert_eq!(
        Frame::read(b"\x01pw-guest\0\x63more"),
        Ok(Frame::Hello(Hello { version: 99, build: [0; 32] }))
    );
    assert_eq!(refusal(b"\x01/bin/sh: \0\x01"), FrameError::Field { kind: 1, field: "greeting" });
    assert_eq!(refusal(b"\x01pw-guest\0\x01"), FrameError::Short(1));
}

/// Fails when: an id of 2^32-1, which runs a program as root, is let through.
#[test]
fn ids_that_are_none_are_refused() {
    let wrong = FrameError::Field { kind: 2, field: "id" };
    assert_eq!(refused_start(|start| start.ids.uid = u32::MAX), wrong);
    assert_eq!(refused_start(|start| start.ids.gid = u32::MAX), wrong);
    assert_eq!(refused_start(|start| start.ids.groups = vec![0, u32::MAX]), wrong);
}

/// Fails when: a string that the system would cut at its zero byte is let through.
#[test]
fn strings_and_variables_are_what_the_system_takes() {
    let wrong = |field| FrameError::Field { kind: 2, field };
    assert_eq!(refused_start(|start| start.cwd = b"/a\0b".to_vec()), wrong("working directory"));
    assert_eq!(refused_start(|start| start.env = vec![b"A=\0".to_vec()]), wrong("environment"));
    assert_eq!(refused_start(|start| start.env = vec![b"A".to_vec()]), wrong("environment"));
    assert_eq!(refused_start(|start| start.env = vec![b"=A".to_vec()]), wrong("environment"));
    assert_eq!(refused_start(|start| start.umask = 0o1000), wrong("umask"));
    let program = |path: &[u8], args: &[&[u8]]| Program::Exec {
        path: path.to_vec(),
        args: args.iter().map(|arg| arg.to_vec()).collect(),
    };
    assert_eq!(refused_start(|start| start.program = program(b"/x", &[b"a\0"])), wrong("argument"));
    assert_eq!(refused_start(|start| start.program = program(b"/x", &[])), wrong("program"));
    assert_eq!(refused_start(|start| start.program = program(b"", &[b"a"])), wrong("program"));
}

#[test]
fn a_list_of_any_announced_length_takes_no_memory() {
    let mut bytes = written(&Frame::Start(Box::new(start())));
    // Kind, channel, program, path, then the number of arguments.
    let at = 4 + 1 + 4 + 1 + 4 + 7;
    bytes[at..at + 4].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(refusal(&bytes[4..]), FrameError::Field { kind: 2, field: "arguments" });
}

#[test]
fn what_is_too_long_is_not_written() {
    let mut long = start();
    long.env = vec![[&b"A="[..], &vec![b'x'; FRAME_MAX_BYTES]].concat()];
    let mut to = b"before".to_vec();
    assert!(matches!(Frame::Start(Box::new(long)).write(&mut to), Err(FrameError::Length(_))));
    assert_eq!(to, b"before");
}

#[test]
fn data_is_neither_empty_nor_long() {
    let wrong = FrameError::Field { kind: 5, field: "length" };
    assert_eq!(refusal(b"\x05\0\0\0\0\x01"), wrong);
    let longest = vec![0; DATA_MAX_BYTES];
    let frame = |bytes| written(&Frame::Data { channel: 0, stream: Stream::Out, bytes });
    assert!(Frame::read(&frame(&longest)[4..]).is_ok());
    assert_eq!(refusal(&frame(&[0; DATA_MAX_BYTES + 1])[4..]), wrong);
}

#[test]
fn signals_end_at_64() {
    assert_eq!(Signal::new(0), None);
    assert_eq!(Signal::new(64).map(Signal::number), Some(64));
    assert_eq!(Signal::new(65), None);
    assert_eq!(refusal(b"\x0b\0\0\0\0\0"), FrameError::Field { kind: 11, field: "signal" });
    assert_eq!(refusal(b"\x08\0\0\0\0\x01\0"), FrameError::Field { kind: 8, field: "exit" });
}

#[test]
fn an_unknown_kind_and_a_length_of_nothing() {
    assert_eq!(refusal(b"\x1f\0"), FrameError::Kind(31));
    assert_eq!(refusal(b"\x2f\0"), FrameError::Kind(47));
    let mut inbox = Inbox::default();
    inbox.room()[..4].copy_from_slice(&[0; 4]);
    inbox.filled(4);
    assert_eq!(inbox.next(), Err(FrameError::Length(0)));
    assert_eq!(inbox.next(), Err(FrameError::Length(0)), "for ever");
}

/// Fails when: the length that a frame announces is reserved.
#[test]
fn an_announced_length_takes_no_memory() {
    let mut inbox = Inbox::default();
    let length = u32::try_from(FRAME_MAX_BYTES).unwrap().to_be_bytes();
    inbox.room()[..4].copy_from_slice(&length);
    inbox.filled(4);
    assert_eq!(inbox.next(), Ok(None));
    inbox.room();
    assert!(inbox.kept_bytes() < FRAME_MAX_BYTES / 2);
    assert!(inbox.is_amid());
}

#[test]
fn credit_is_given_back_by_the_half_window() {
    let mut grant = Grant::new(10);
    assert_eq!(grant.receive(10), Ok(()));
    assert_eq!(grant.receive(1), Err(Exceeded));
    assert_eq!(grant.finish(4), None);
    assert_eq!(grant.finish(1), Some(5));
    assert_eq!(grant.receive(6), Err(Exceeded));
    assert_eq!(grant.receive(5), Ok(()));
    assert_eq!(Grant::new(0).finish(0), None);
}

#[test]
fn an_allowance_is_never_overdrawn() {
    let mut allowance = Allowance::new(3);
    assert_eq!(allowance.spend(4), Err(Exceeded));
    assert_eq!(allowance.spend(3), Ok(()));
    assert_eq!(allowance.left(), 0);
    assert_eq!(allowance.add(u32::MAX), Ok(()));
    assert_eq!(allowance.add(1), Err(Exceeded));
}

/// Fails when bytes with a head before them are another frame than the one that they are in.
#[test]
fn a_head_and_its_bytes_are_a_frame() {
    for length in [1, 300, DATA_MAX_BYTES] {
        let bytes = vec![7; length];
        let head = Frame::data_head(0x8000_0102, Stream::Error, length);
        let frame = written(&Frame::Data { channel: 0x8000_0102, stream: Stream::Error, bytes: &bytes });
        assert_eq!([&head[..], &bytes].concat(), frame);
    }
}
