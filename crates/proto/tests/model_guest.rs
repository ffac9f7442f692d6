//! Frames of the protocol with the guest program, cut anywhere, against the list of what was sent; and credit against
//! a count of bytes.

use portway_proto::guest::{
    ACCEPTED, Allowance, Credits, DATA_MAX_BYTES, Environment, Exit, FRAME_MAX_BYTES, Frame, Grant,
    HOST_MAX_BYTES, Hello, Ids, Inbox, Keep, Lent, Place, Program, Pty, SOCKETS, Signal, Size, Socket, Start,
    Started, Step, Stream, VERSION, Way,
};
use proptest::prelude::*;

fn text() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![8 => 0..12_usize, 1 => 1_000..40_000_usize];
    (length, 1..=255_u8).prop_map(|(length, byte)| vec![byte; length])
}

fn some_text() -> impl Strategy<Value = Vec<u8>> {
    text().prop_map(|mut text| {
        text.push(b'x');
        text
    })
}

fn variable() -> impl Strategy<Value = Vec<u8>> {
    (text(), text()).prop_map(|(name, value)| [b"N", &name[..], b"=", &value[..]].concat())
}

fn size() -> impl Strategy<Value = Size> {
    any::<[u16; 4]>().prop_map(|[columns, rows, width, height]| Size { columns, rows, width, height })
}

fn program() -> impl Strategy<Value = Program> {
    let exec = (some_text(), prop::collection::vec(text(), 1..5));
    let wish = prop::sample::select(vec![Keep::Attach, Keep::List, Keep::Kill]);
    let keep = ("[a-zA-Z0-9_-]{1,64}", wish);
    prop_oneof![
        Just(Program::Sftp),
        exec.prop_map(|(path, args)| Program::Exec { path, args }),
        keep.prop_map(|(name, wish)| Program::Keep { name: name.into_bytes(), wish })
    ]
}

fn pty() -> impl Strategy<Value = Pty> {
    let modes = prop::collection::vec(any::<(u8, u32)>(), 0..20);
    let name = prop_oneof![Just(Vec::new()), Just(b"SSH_TTY".to_vec())];
    (size(), modes, name).prop_map(|(size, modes, path_variable)| Pty { size, modes, path_variable })
}

fn ids() -> impl Strategy<Value = Ids> {
    let id = || 0..u32::MAX;
    (id(), id(), prop::collection::vec(id(), 0..70)).prop_map(|(uid, gid, groups)| Ids { uid, gid, groups })
}

fn start() -> impl Strategy<Value = Frame<'static>> {
    let environment = prop_oneof![Just(Environment::Empty), Just(Environment::Instance)];
    let first = (any::<u32>(), program(), prop::collection::vec(variable(), 0..5), environment, text());
    let second = (ids(), 0..=0o777_u16, prop::option::of(pty()), any::<(u32, u32)>());
    (first, second).prop_map(
        |((channel, program, env, environment, cwd), (ids, umask, pty, (stdout, stderr)))| {
            let credits = Credits { stdout, stderr };
            Frame::Start(Box::new(Start {
                channel,
                program,
                env,
                environment,
                cwd,
                ids,
                umask,
                pty,
                credits,
            }))
        },
    )
}

fn stream() -> impl Strategy<Value = Stream> {
    prop::sample::select(vec![Stream::In, Stream::Out, Stream::Error])
}

fn exit() -> impl Strategy<Value = Exit> {
    let signal = (1..=64_u8, any::<bool>());
    prop_oneof![
        any::<u8>().prop_map(Exit::Code),
        signal
            .prop_map(|(number, core)| Exit::Signal { signal: Signal::new(number).expect("1 to 64"), core }),
    ]
}

fn data() -> impl Strategy<Value = Frame<'static>> {
    let length = prop_oneof![8 => 1..20_usize, 1 => DATA_MAX_BYTES - 2..=DATA_MAX_BYTES];
    (any::<u32>(), stream(), length, any::<u8>()).prop_map(|(channel, stream, length, byte)| Frame::Data {
        channel,
        stream,
        bytes: vec![byte; length].leak(),
    })
}

fn frame() -> impl Strategy<Value = Frame<'static>> {
    let step = prop::sample::select(vec![Step::Prepare, Step::Terminal, Step::Ids, Step::Exec]);
    let started = (any::<[u32; 4]>(), text());
    prop_oneof![
        any::<[u8; 32]>().prop_map(|build| Frame::Hello(Hello { version: VERSION, build })),
        start(),
        started.prop_map(|([channel, pid, stdin_credit, cwd_error], tty)| {
            Frame::Started(Started { channel, pid, stdin_credit, tty, cwd_error })
        }),
        (any::<u32>(), step, any::<u32>()).prop_map(|(channel, step, errno)| Frame::Refused {
            channel,
            step,
            errno
        }),
        data(),
        (any::<u32>(), stream()).prop_map(|(channel, stream)| Frame::Eof { channel, stream }),
        (any::<u32>(), stream(), any::<u32>()).prop_map(|(channel, stream, bytes)| Frame::Credit {
            channel,
            stream,
            bytes
        }),
        (any::<u32>(), exit()).prop_map(|(channel, exit)| Frame::Exited { channel, exit }),
        any::<u32>().prop_map(|channel| Frame::Closed { channel }),
        (any::<u32>(), size()).prop_map(|(channel, size)| Frame::Resize { channel, size }),
        (any::<u32>(), 1..=64_u8).prop_map(|(channel, number)| Frame::Signal {
            channel,
            signal: Signal::new(number).expect("1 to 64")
        }),
        any::<u32>().prop_map(|channel| Frame::Close { channel }),
        any::<[[u8; 32]; 3]>().prop_map(|[name, token, answer]| Frame::Move(Way { name, token, answer })),
        any::<bool>().prop_map(|moved| Frame::Moved { moved }),
        (SOCKETS..ACCEPTED, text(), any::<[u32; 2]>()).prop_map(|(channel, mut host, [port, credit])| {
            host.truncate(HOST_MAX_BYTES);
            let port = u16::try_from(port >> 16).expect("16 bits");
            Frame::Socket(Socket::Connect { channel, to: Place::Tcp { host, port }, credit })
        }),
        (SOCKETS..ACCEPTED, 0..SOCKETS, any::<(u32, [u8; 16])>()).prop_map(
            |(listener, channel, (screen, cookie))| {
                let lent = Lent::Display { screen, cookie };
                Frame::Socket(Socket::Lend { listener, channel, lent })
            }
        ),
    ]
}

fn written(frames: &[Frame<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        frame.write(&mut bytes).expect("short enough");
    }
    bytes
}

/// Puts the stream through an inbox in pieces of the given sizes, over and over; `each` gets every frame.
fn feed(stream: &[u8], sizes: &[usize], mut each: impl FnMut(&[u8])) -> Inbox {
    let (mut inbox, mut rest) = (Inbox::default(), stream);
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let room = inbox.room();
        let (piece, after) = rest.split_at((*size).min(rest.len()).min(room.len()));
        room[..piece.len()].copy_from_slice(piece);
        inbox.filled(piece.len());
        rest = after;
        loop {
            match inbox.next() {
                Ok(Some(frame)) => each(frame),
                Ok(None) => break,
                Err(_) => return inbox,
            }
        }
        assert!(inbox.kept_bytes() <= 2 * (FRAME_MAX_BYTES + 2 * DATA_MAX_BYTES));
    }
    inbox
}

proptest! {
    #[test]
    fn frames_come_out_as_they_went_in(
        frames in prop::collection::vec(frame(), 0..8),
        sizes in prop::collection::vec(prop_oneof![1..40_usize, 1_000..70_000_usize], 1..6),
    ) {
        let mut came = Vec::new();
        let inbox = feed(&written(&frames), &sizes, |frame| {
            let again = Frame::read(frame).expect("it was written");
            let mut bytes = Vec::new();
            again.write(&mut bytes).unwrap();
            assert_eq!(&bytes[4..], frame);
            came.push(format!("{again:?}"));
        });
        prop_assert!(!inbox.is_amid());
        prop_assert_eq!(came, frames.iter().map(|frame| format!("{frame:?}")).collect::<Vec<_>>());
    }

    /// A frame that is cut, or goes on, is refused: no frame is the beginning of another.
    #[test]
    fn a_cut_frame_is_refused(frame in frame(), cut in any::<prop::sample::Index>()) {
        let bytes = written(std::slice::from_ref(&frame));
        let whole = &bytes[4..];
        let cut = cut.index(whole.len());
        // Of data any beginning is data, and of a text at the end of nothing else.
        if !matches!(frame, Frame::Data { .. }) {
            prop_assert!(Frame::read(&whole[..cut]).is_err());
            prop_assert!(Frame::read(&[whole, &[0]].concat()).is_err());
        }
    }

    /// Any bytes at all; what is read is written as it was.
    #[test]
    fn noise_does_no_harm(
        noise in prop::collection::vec(any::<u8>(), 0..600), sizes in prop::collection::vec(1..300_usize, 1..4),
    ) {
        feed(&noise, &sizes, |frame| drop(Frame::read(frame)));
        for kind in 0..16 {
            let mut frame = vec![kind];
            frame.extend(&noise);
            if let Ok(read) = Frame::read(&frame) {
                assert_eq!(&written(&[read])[4..], &frame[..]);
            }
        }
    }

    /// However much is received and dealt with in whatever pieces: sender and receiver agree, the receiver never holds
    /// more than its window, and a sender that is out of credit gets some once all has been dealt with.
    #[test]
    fn credit_agrees_on_both_sides(
        window in 1..5_000_u32, steps in prop::collection::vec((any::<bool>(), 0..3_000_usize), 0..200),
    ) {
        let (mut grant, mut allowance, mut held) = (Grant::new(window), Allowance::new(window), 0);
        for (sends, bytes) in steps {
            if sends {
                let bytes = bytes.min(allowance.left());
                prop_assert_eq!(allowance.spend(bytes), Ok(()));
                prop_assert_eq!(grant.receive(bytes), Ok(()));
                held += bytes;
            } else {
                let bytes = bytes.min(held);
                held -= bytes;
                if let Some(granted) = grant.finish(bytes) {
                    prop_assert_eq!(allowance.add(granted), Ok(()));
                }
            }
            prop_assert!(held + allowance.left() <= window as usize);
        }
        let granted = grant.finish(held);
        prop_assert!(granted.is_some() || allowance.left() > 0);
    }
}
