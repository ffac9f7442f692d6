use super::*;

fn offer() -> Request {
    Request::Offer { login: "c1".to_owned(), key: "ssh-ed25519 AAAA".to_owned() }
}

fn proven() -> Request {
    Request::Proven { login: "c1".to_owned(), key: "ssh-ed25519 AAAA".to_owned() }
}

fn open(channel: u32) -> Request {
    Request::Open {
        channel,
        what: What::Shell,
        terminal: None,
        environment: Vec::new(),
        inside: true,
        first: true,
        can_record: true,
        lends: Lends::default(),
    }
}

fn closed(channel: u32) -> Request {
    Request::Closed { channel, status: Some(0), bytes_in: 0, bytes_out: 0 }
}

#[test]
fn a_packet_is_a_message_and_bytes() {
    let asked = Asked { id: 7, request: open(3) };
    for raw in [&b""[..], b"\n", b"ls\n\0\xff", b"{}\n{}"] {
        let packet = encode(&asked, raw).expect("a packet");
        assert_eq!(decode::<Asked>(&packet), Some((asked.clone(), raw)));
    }
    for broken in [&b""[..], b"\n", b"{}", b"{}\n", b"{\"id\":1}\n", b"\xff\n"] {
        assert_eq!(decode::<Asked>(broken), None, "{broken:?}");
    }
}

/// Fails when the most that a client may set, with the longest command, is more than the link carries.
#[test]
fn the_largest_question_is_a_packet() {
    // As JSON has it a control character is six bytes; what a session lets through is counted as that.
    let environment = vec![("LC_A".to_owned(), "\u{1}".repeat((64 << 10) / 6))];
    let terminal = Some(Terminal { kind: "x".repeat(64), width: u16::MAX, height: u16::MAX });
    let request = Request::Open {
        channel: u32::MAX,
        what: What::Command,
        terminal,
        environment,
        inside: true,
        first: true,
        can_record: true,
        lends: Lends::default(),
    };
    let packet = encode(&Asked { id: u64::MAX, request }, &[b'x'; COMMAND_BYTES]).expect("a packet");
    assert!(packet.len() <= portway_sys::seqpacket::MAX_PACKET_BYTES, "{}", packet.len());
}

/// Fails when a question of one phase is let through in the other.
#[test]
fn each_question_has_its_phase() {
    let mut ledger = Ledger::default();
    assert_eq!(ledger.note(&open(0), 0), Err(Breach::Phase));
    assert_eq!(ledger.note(&closed(0), 0), Err(Breach::Phase));
    assert_eq!(ledger.note(&offer(), 0), Ok(()));
    assert_eq!(ledger.note(&proven(), 0), Ok(()));
    ledger.logged_in();
    assert_eq!(ledger.note(&offer(), 0), Err(Breach::Phase));
    assert_eq!(ledger.note(&proven(), 0), Err(Breach::Phase));
    assert_eq!(ledger.note(&open(0), 0), Ok(()));
}

/// Fails when a session may open programs before it has said what runs, or say it twice.
#[test]
fn a_session_of_another_broker_says_first_what_runs() {
    let resume = |running: &[u32]| Request::Resume { running: running.to_vec() };
    let mut ledger = Ledger::of_another();
    for wrong in [open(0), closed(0), offer(), proven()] {
        assert_eq!(ledger.note(&wrong, 0), Err(Breach::Phase));
    }
    assert_eq!(ledger.note(&resume(&[0; 129]), 0), Err(Breach::Count));
    assert_eq!(ledger.note(&resume(&[3, 4]), 0), Ok(()));
    assert_eq!(ledger.note(&resume(&[3, 4]), 0), Err(Breach::Phase));
    assert_eq!(ledger.note(&closed(3), 0), Ok(()));
    assert_eq!(ledger.note(&closed(3), 0), Err(Breach::Channel));
    assert_eq!(ledger.note(&open(4), 0), Err(Breach::Channel));
    assert_eq!(Ledger::default().note(&resume(&[]), 0), Err(Breach::Phase));
}

#[test]
fn questions_are_counted() {
    let mut ledger = Ledger::default();
    for _ in 0..16 {
        assert_eq!(ledger.note(&proven(), 0), Ok(()));
    }
    assert_eq!(ledger.note(&proven(), 0), Err(Breach::Count));
    for _ in 0..64 {
        assert_eq!(ledger.note(&offer(), 0), Ok(()));
    }
    assert_eq!(ledger.note(&offer(), 0), Err(Breach::Count));
    ledger.logged_in();
    for channel in 0..128 {
        assert_eq!(ledger.note(&open(channel), 0), Ok(()));
    }
    assert_eq!(ledger.note(&open(128), 0), Err(Breach::Count));
    assert_eq!(ledger.note(&closed(5), 0), Ok(()));
    assert_eq!(ledger.note(&closed(5), 0), Err(Breach::Channel));
    assert_eq!(ledger.note(&open(4), 0), Err(Breach::Channel));
    assert_eq!(ledger.note(&open(5), 0), Ok(()));
    ledger.refused(5);
    assert_eq!(ledger.note(&open(5), 0), Ok(()));
    assert_eq!(ledger.note(&Request::Helper { place: 2, beside: true, jail: false }, 0), Err(Breach::Count));
    for _ in 0..63 {
        assert_eq!(ledger.note(&Request::Helper { place: 1, beside: true, jail: false }, 0), Ok(()));
    }
    assert_eq!(ledger.note(&Request::Helper { place: 0, beside: true, jail: false }, 0), Err(Breach::Count));
}

/// Fails when one program too many, or the end of one whose start nobody waited for, ends the connection; or when it is
/// answered before somebody has logged in.
#[test]
fn what_an_honest_session_may_say_is_no_breach() {
    let mut ledger = Ledger::default();
    assert_eq!(ledger.comes_to(&open(0)), Outcome::Answer);
    assert_eq!(ledger.comes_to(&closed(0)), Outcome::Answer);
    ledger.logged_in();
    assert_eq!(ledger.comes_to(&closed(0)), Outcome::Nothing);
    for channel in 0..128 {
        assert_eq!(ledger.comes_to(&open(channel)), Outcome::Answer);
        assert_eq!(ledger.note(&open(channel), 0), Ok(()));
    }
    assert_eq!(ledger.comes_to(&open(128)), Outcome::TooMany);
    assert_eq!(ledger.comes_to(&closed(127)), Outcome::Answer);
}

/// Fails when a line is asked about that no program's channel has, or one of any length.
#[test]
fn lines_are_of_a_channel() {
    let line = |channel, what, project: usize| {
        Request::Shell(ShellAsked { channel, project: "p".repeat(project), what })
    };
    let typed = ShellWhat::Line { typed: true };
    let mut ledger = Ledger::default();
    assert_eq!(ledger.note(&line(0, typed, 1), 4), Err(Breach::Phase));
    ledger.logged_in();
    assert_eq!(ledger.note(&line(0, typed, 1), 4), Err(Breach::Channel));
    assert_eq!(ledger.note(&open(0), 0), Ok(()));
    assert_eq!(ledger.note(&line(0, typed, 1), 4096), Ok(()));
    assert_eq!(ledger.note(&line(0, typed, 1), 4097), Err(Breach::Length));
    assert_eq!(ledger.note(&line(0, ShellWhat::Complete, 256), 1), Err(Breach::Length));
    assert_eq!(ledger.note(&line(0, ShellWhat::Interrupt, 1), 1), Err(Breach::Length));
    assert_eq!(ledger.note(&line(0, ShellWhat::Interrupt, 1), 0), Ok(()));
}

#[test]
fn nothing_is_longer_than_it_may_be() {
    let mut ledger = Ledger::default();
    let long = Request::Offer { login: "x".repeat(40_000), key: String::new() };
    assert_eq!(ledger.note(&long, 0), Err(Breach::Length));
    assert_eq!(ledger.note(&offer(), 1), Err(Breach::Length));
    ledger.logged_in();
    assert_eq!(ledger.note(&open(0), COMMAND_BYTES + 1), Err(Breach::Length));
    assert_eq!(ledger.note(&open(0), COMMAND_BYTES), Ok(()));
}
