//! Programs that the guest runs, over pipes as the gateway has them.

mod client;

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use client::{CREDIT, Client, exec, sh};
use portway_proto::guest::{
    Environment, Exit, Frame, Hello, Keep, Program, Pty, Signal, Size, Step, Stream, Way,
};
use portway_testkit::wait_for;

const TERM: u8 = 15;

fn by_signal(number: u8, core: bool) -> Exit {
    Exit::Signal { signal: Signal::new(number).expect("1 to 64"), core }
}

fn is_gone(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // An orphan that nobody has taken in yet runs no more.
    stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('Z'))
}

fn gone(pids: &[&str]) {
    let all = wait_for("they end", || pids.iter().all(|pid| is_gone(pid)).then_some(()));
    assert!(all.is_ok(), "of {pids:?} some still run");
}

/// Fails when: a status is cut, or a signal is told as 128 + n.
#[test]
fn every_exit_status_and_signal_is_exact() {
    let mut client = Client::new();
    for batch in 0..4_u32 {
        for channel in batch * 64..(batch + 1) * 64 {
            client.start(sh(channel, &format!("exit {channel}")));
        }
    }
    for channel in 0..256_u32 {
        let heard = client.until(channel, |heard| heard.closed);
        assert_eq!(heard.exit, Some(Exit::Code(channel.try_into().unwrap())));
    }
    for signal in [1, 2, 9, 13, 14, 15, 10, 12] {
        let heard = client.run(sh(signal, &format!("kill -{signal} $$; sleep 100")), b"");
        assert_eq!(heard.exit, Some(by_signal(signal.try_into().unwrap(), false)));
    }
    let heard = client.run(sh(1, "ulimit -c 0; kill -SEGV $$; sleep 100"), b"");
    assert_eq!(heard.exit, Some(by_signal(11, false)));
}

/// Fails when: arguments or variables are taken for text, or quoted.
#[test]
fn arguments_and_variables_are_bytes() {
    let mut client = Client::new();
    let script = b"tr '\\0' '|' </proc/$$/cmdline";
    let heard = client.run(exec(1, b"/bin/sh", &[b"-\xff", b"-c", script, b"\xfe\n' \"$(id)"]), b"");
    assert_eq!(heard.out, [b"-\xff|-c|", &script[..], b"|\xfe\n' \"$(id)|"].concat());
    let mut start = sh(2, "cat /proc/$$/environ");
    start.env = vec![b"B=\xff\n=".to_vec(), b"A=old".to_vec(), b"A=new".to_vec()];
    assert_eq!(client.run(start, b"").out, b"A=new\0B=\xff\n=\0");
    let mut start = sh(3, "echo \"$CARGO_MANIFEST_DIR\"; echo $LANG");
    start.environment = Environment::Instance;
    start.env.push(b"LANG=over".to_vec());
    let expected = format!("{}\nover\n", env!("CARGO_MANIFEST_DIR"));
    // The test may be run without cargo.
    if std::env::var_os("CARGO_MANIFEST_DIR").is_some() {
        assert_eq!(String::from_utf8(client.run(start, b"").out).unwrap(), expected);
    }
    let long = format!("printf %s '{}' | wc -c", "x".repeat(131_000));
    assert_eq!(client.run(sh(4, &long), b"").out, b"131000\n");
    // MAX_ARG_STRLEN counts the zero byte.
    let too_long = client.start(sh(5, &"x".repeat(131_072)));
    assert_eq!(too_long.refused, Some((Step::Exec, 7)), "E2BIG");
}

/// Fails when: input and output block each other, or a piece is lost.
#[test]
fn a_megabyte_comes_back_as_it_went() {
    let mut client = Client::new();
    let input: Vec<u8> = (0..3_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
    let heard = client.run(sh(1, "cat; echo done >&2"), &input);
    assert!(heard.out == input);
    assert_eq!(heard.error, b"done\n");
    assert_eq!(heard.exit, Some(Exit::Code(0)));
}

/// Fails when: what an output has left when its program ends is dropped.
#[test]
fn output_is_drained_after_the_end() {
    let mut client = Client::new();
    let mut start = sh(1, "head -c 60000 /dev/zero; echo late >&2; exit 3");
    start.credits.stdout = 100;
    client.heard.entry(1).or_default();
    client.start(start);
    client.heard.get_mut(&1).unwrap().stalls = true;
    let heard = client.until(1, |heard| heard.exit.is_some());
    assert_eq!(heard.exit, Some(Exit::Code(3)));
    assert!(heard.out.len() <= 200 && !heard.closed);
    client.send(&Frame::Credit { channel: 1, stream: Stream::Out, bytes: CREDIT });
    let heard = client.until(1, |heard| heard.closed);
    assert_eq!((heard.out.len(), &heard.error[..]), (60_000, &b"late\n"[..]));
}

/// Fails when: a channel whose reader stalls sends more than it was granted, or stops another one.
#[test]
fn a_stalled_channel_stops_nobody() {
    let mut client = Client::new();
    let mut start = sh(1, "yes");
    start.credits.stdout = 1000;
    client.heard.entry(1).or_default();
    client.start(start);
    client.heard.get_mut(&1).unwrap().stalls = true;
    for channel in 2..40 {
        let heard = client.run(sh(channel, "head -c 100000 /dev/zero"), b"");
        assert_eq!(heard.out.len(), 100_000);
    }
    let heard = client.until(1, |heard| heard.out.len() >= 1000);
    assert!(heard.out.len() <= 2000, "one piece may have been granted again before it stalled");
    client.send(&Frame::Close { channel: 1 });
    let heard = client.until(1, |heard| heard.closed);
    assert_eq!(heard.exit, Some(by_signal(1, false)));
}

/// Fails when: a program that does not read is given more than its window.
#[test]
fn more_than_was_granted_ends_the_guest() {
    let mut client = Client::new();
    let heard = client.start(sh(1, "sleep 1000"));
    let pid = heard.started.unwrap().pid.to_string();
    let piece = vec![0; 65_536];
    for _ in 0..heard.credit.div_ceil(piece.len()) {
        client.send(&Frame::Data { channel: 1, stream: Stream::In, bytes: &piece });
    }
    client.send(&Frame::Data { channel: 1, stream: Stream::In, bytes: b"x" });
    assert_eq!(client.end().code(), Some(1));
    assert!(client.complaint().contains("more than it was granted"));
    gone(&[&pid]);
}

/// Fails when: a signal reaches the program alone and not what it has started.
#[test]
fn a_signal_reaches_the_process_group() {
    let mut client = Client::new();
    client.start(sh(1, "sleep 1000 & echo $!; wait"));
    let heard = client.until(1, |heard| heard.out.ends_with(b"\n"));
    let pid = String::from_utf8(heard.out).unwrap();
    client.send(&Frame::Signal { channel: 1, signal: Signal::new(TERM).unwrap() });
    let heard = client.until(1, |heard| heard.closed);
    assert_eq!(heard.exit, Some(by_signal(TERM, false)));
    gone(&[pid.trim()]);
}

/// Fails when: programs outlive the gateway's end of the stream, or the guest itself.
#[test]
fn everything_ends_with_the_stream() {
    let mut client = Client::new();
    client.start(sh(1, "sleep 1000 & echo $!; echo $$; wait"));
    let heard = client.until(1, |heard| heard.out.iter().filter(|byte| **byte == b'\n').count() == 2);
    let pids = String::from_utf8(heard.out).unwrap();
    drop(client.stdin.take());
    assert!(client.end().success());
    gone(&pids.lines().collect::<Vec<_>>());

    let mut client = Client::new();
    let pid = client.start(sh(1, "exec sleep 1000")).started.unwrap().pid.to_string();
    client.guest.kill().unwrap();
    gone(&[&pid]);
}

/// Fails when: the end is not told because something in the background holds the pipes.
#[test]
fn a_background_process_does_not_hide_the_end() {
    let mut client = Client::new();
    client.start(sh(1, "sleep 1000 & echo $!; exit 7"));
    let heard = client.until(1, |heard| heard.exit.is_some() && !heard.out.is_empty());
    assert_eq!(heard.exit, Some(Exit::Code(7)));
    assert!(!heard.closed);
    client.send(&Frame::Close { channel: 1 });
    client.until(1, |heard| heard.closed);
    // As sshd does: what is in the background of a program without terminal is hung up with its group.
    gone(&[String::from_utf8(heard.out).unwrap().trim()]);
}

#[test]
fn a_program_that_does_not_read_loses_its_input() {
    let mut client = Client::new();
    client.start(sh(1, "exec <&-; sleep 1000"));
    let heard = client.until(1, |heard| heard.ended.contains(&Stream::In));
    assert!(heard.exit.is_none());
    client.feed(1, b"nobody reads this");
    client.send(&Frame::Close { channel: 1 });
    client.until(1, |heard| heard.closed);
}

#[test]
fn what_cannot_run_is_refused_with_its_reason() {
    let mut client = Client::new();
    let heard = client.start(exec(1, b"/no/such/shell", &[b"x"]));
    assert_eq!(heard.refused, Some((Step::Exec, 2)), "ENOENT");
    let heard = client.start(exec(1, b"/etc/passwd", &[b"x"]));
    assert_eq!(heard.refused, Some((Step::Exec, 13)), "EACCES");
    let mut start = sh(1, "pwd");
    start.cwd = b"/no/such/home".to_vec();
    let heard = client.run(start, b"");
    assert_eq!(heard.started.unwrap().cwd_error, 2);
    assert_eq!(heard.out, b"/\n");
}

#[test]
fn nonsense_ends_the_guest() {
    let said = |bytes: &[u8]| {
        let mut client = Client::silent();
        client.send_bytes(bytes);
        assert_eq!(client.end().code(), Some(1));
        client.complaint()
    };
    assert!(said(b"SSH-2.0-OpenSSH\r\n").contains("frame of 1397966893 bytes"));
    assert!(said(b"\0\0\0\x05\x0c\0\0\0\x01").contains("before its hello"));
    let mut other = Vec::new();
    Frame::Hello(Hello { version: 9, build: [0; 32] }).write(&mut other).unwrap();
    assert!(said(&other).contains("version 9"));
    let mut twice = Vec::new();
    Frame::Hello(Hello::GATEWAY).write(&mut twice).unwrap();
    twice.extend(twice.clone());
    assert!(said(&twice).contains("second hello"));
}

/// A way that no other test has.
fn way(number: u8) -> Way {
    let mut name = [number; 32];
    name[..4].copy_from_slice(&std::process::id().to_be_bytes());
    Way { name, token: [7; 32], answer: [9; 32] }
}

/// Fails when: bytes go by the pipes after the move, the guest ends with them, or not with the socket.
#[test]
fn everything_goes_on_by_the_socket() {
    let mut client = Client::new();
    let way = way(1);
    let address = SocketAddr::from_abstract_name(way.name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    client.send(&Frame::Move(way.clone()));
    assert!(client.moves());
    let (mut stream, _) = listener.accept().unwrap();
    let mut token = [0; 32];
    stream.read_exact(&mut token).unwrap();
    assert_eq!(token, way.token);
    stream.write_all(&way.answer).unwrap();
    client.go_on(&stream);
    let input: Vec<u8> = (0..1_000_000_u32).map(|number| number.to_le_bytes()[1]).collect();
    let heard = client.run(sh(1, "cat; echo late >&2"), &input);
    assert!(heard.out == input && heard.error == b"late\n");
    let heard = client.start(sh(2, "sleep 1000"));
    let pid = heard.started.unwrap().pid.to_string();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(client.end().success());
    gone(&[&pid]);
}

/// Fails when: whoever listens by the gateway's name is obeyed.
#[test]
fn nobody_else_is_the_gateway() {
    let mut client = Client::new();
    let way = way(4);
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(way.name).unwrap()).unwrap();
    client.send(&Frame::Move(way.clone()));
    assert!(client.moves());
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(&way.token).unwrap();
    assert_eq!(client.end().code(), Some(1));
}

/// Fails when: a way that leads nowhere, or that is full, ends the guest or holds it up.
#[test]
fn who_cannot_move_stays() {
    let mut client = Client::new();
    client.send(&Frame::Move(way(2)));
    assert!(!client.moves());
    assert_eq!(client.run(sh(1, "cat"), b"as before").out, b"as before");
}

/// Fails when: what programs write could go by two ways.
#[test]
fn a_way_is_taken_first_or_never() {
    let mut client = Client::new();
    client.start(sh(1, "sleep 1000"));
    client.send(&Frame::Move(way(3)));
    assert_eq!(client.end().code(), Some(1));
    assert!(client.complaint().contains("another way"));
}

/// Frames about a channel that has just gone are no fault.
#[test]
fn a_late_frame_is_ignored() {
    let mut client = Client::new();
    client.run(sh(1, "exit 0"), b"");
    client.send(&Frame::Data { channel: 1, stream: Stream::In, bytes: b"late" });
    client.send(&Frame::Signal { channel: 1, signal: Signal::new(TERM).unwrap() });
    client.send(&Frame::Close { channel: 1 });
    client.send(&Frame::Resize { channel: 1, size: Size::default() });
    assert_eq!(client.run(sh(1, "echo again"), b"").out, b"again\n");
}

/// Fails when: groups of the guest stay, the umask is the guest's, or an id is not set.
#[test]
fn a_program_is_the_user_and_nobody_else() {
    if !portway_testkit::is_root() {
        portway_testkit::require("root, to become another user");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let mut client = Client::new();
    let mut start = sh(
        1,
        "id -u; id -ru; id -g; id -G; umask; pwd; umask 0; : >file; grep ^Cap /proc/$$/status | grep -v CapBnd",
    );
    start.cwd = dir.path().as_os_str().as_encoded_bytes().to_vec();
    start.ids.uid = 1000;
    start.ids.gid = 1001;
    start.ids.groups = vec![29, 70_000];
    start.umask = 0o027;
    let heard = client.run(start, b"");
    let out = String::from_utf8(heard.out).unwrap();
    let facts: Vec<&str> = out.lines().collect();
    assert_eq!(facts[..6], ["1000", "1000", "1001", "1001 29 70000", "0027", dir.path().to_str().unwrap()]);
    assert!(facts[6..].iter().all(|line| line.ends_with("0000000000000000")), "{out}");
    let file = std::fs::metadata(dir.path().join("file")).unwrap();
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o777), (1000, 1001, 0o666));
    // A home that only root may enter is not entered with root's rights.
    let mut start = sh(2, "pwd");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    start.cwd = dir.path().as_os_str().as_encoded_bytes().to_vec();
    start.ids.uid = 1000;
    let heard = client.run(start, b"");
    assert_eq!((heard.out.as_slice(), heard.started.unwrap().cwd_error), (&b"/\n"[..], 13));
}

fn on_terminal(channel: u32, script: &str) -> portway_proto::guest::Start {
    let size = Size { columns: 77, rows: 22, width: 770, height: 440 };
    let pty = Pty { size, modes: vec![(53, 0), (1, 5)], path_variable: b"SSH_TTY".to_vec() };
    portway_proto::guest::Start { pty: Some(pty), ..sh(channel, script) }
}

/// Fails when: the terminal does not control the session, has another size or other modes, or its bytes are changed.
#[test]
fn a_terminal_is_the_programs_own() {
    let mut client = Client::new();
    let script =
        "stty size; tty; echo $SSH_TTY; test -t 0 -a -t 1 -a -t 2 && echo three; stty -a; cat; echo ended";
    client.start(on_terminal(1, script));
    let heard = client.until(1, |heard| contains(&heard.out, b"-echo "));
    let text = String::from_utf8(heard.out).unwrap();
    let tty = String::from_utf8(heard.started.unwrap().tty).unwrap();
    assert!(text.starts_with(&format!("22 77\r\n{tty}\r\n{tty}\r\nthree\r\n")), "{text}");
    assert!(text.contains("intr = ^E;"), "{text}");
    client.feed(1, b"hello\xff\n");
    client.until(1, |heard| contains(&heard.out, b"hello\xff\r\n"));
    client.feed(1, b"\x04");
    let heard = client.until(1, |heard| heard.closed);
    assert!(contains(&heard.out, b"ended\r\n"));
    assert_eq!(heard.exit, Some(Exit::Code(0)));
    assert!(heard.error.is_empty() && !heard.ended.contains(&Stream::Error));
}

#[test]
fn a_resize_and_the_interrupt_key_are_seen() {
    let mut client = Client::new();
    client.start(on_terminal(
        1,
        "trap 'stty size' WINCH; trap 'echo int; exit 9' INT; echo ready; while :; do sleep 0.05; done",
    ));
    client.until(1, |heard| contains(&heard.out, b"ready"));
    for columns in 100..150 {
        client.send(&Frame::Resize { channel: 1, size: Size { columns, rows: 50, width: 0, height: 0 } });
    }
    client.until(1, |heard| contains(&heard.out, b"50 149"));
    client.feed(1, b"\x05");
    let heard = client.until(1, |heard| heard.closed);
    assert!(contains(&heard.out, b"int"));
    assert_eq!(heard.exit, Some(Exit::Code(9)));
}

/// Fails when: a terminal that is hung up leaves its session running.
#[test]
fn a_closed_terminal_hangs_up() {
    let mut client = Client::new();
    client.start(on_terminal(1, "sleep 1000 & echo $!; wait"));
    let heard = client.until(1, |heard| heard.out.ends_with(b"\n"));
    client.send(&Frame::Close { channel: 1 });
    let ended = client.until(1, |heard| heard.closed);
    assert_eq!(ended.exit, Some(by_signal(1, false)));
    gone(&[String::from_utf8(heard.out).unwrap().trim()]);
    let tty = ended.started.unwrap().tty;
    assert!(!Path::new(std::str::from_utf8(&tty).unwrap()).exists());
}

/// Folders of somebody else, which go with this.
struct Taken([PathBuf; 2]);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.iter().for_each(|dir| drop(std::fs::remove_dir(dir)));
    }
}

/// Fails when whoever takes a user's names first keeps him from having sessions that stay.
#[test]
fn a_session_is_in_the_home_where_others_have_its_places() {
    if !portway_testkit::is_root() {
        portway_testkit::require("root, to become another user");
        return;
    }
    let uid = 400_000 + std::process::id() % 100_000;
    let taken = Taken(["/tmp", "/dev/shm"].map(|place| PathBuf::from(format!("{place}/portway-{uid}"))));
    taken.0.iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
    let home = tempfile::tempdir().unwrap();
    let mut client = Client::new();
    let mut keep = |channel: u32, home: &Path, typed: &[u8]| {
        let program = Program::Keep { name: b"w".to_vec(), wish: Keep::Attach };
        let mut start = portway_proto::guest::Start { program, ..on_terminal(channel, "") };
        start.env = vec![[b"HOME=", home.as_os_str().as_encoded_bytes()].concat(), b"SHELL=/bin/sh".to_vec()];
        (start.ids.uid, start.ids.gid, start.ids.groups) = (uid, uid, Vec::new());
        client.start(start);
        client.feed(channel, typed);
        let heard = client.until(channel, |heard| heard.closed);
        (heard.exit, String::from_utf8_lossy(&heard.out).into_owned())
    };
    let (exit, said) = keep(1, home.path(), b"");
    assert_eq!(exit, Some(Exit::Code(1)), "it is not his: {said}");
    assert!(said.contains(&format!("/tmp/portway-{uid} is not a folder of this user alone")), "{said}");
    std::os::unix::fs::chown(home.path(), Some(uid), Some(uid)).unwrap();
    let (exit, said) = keep(2, home.path(), b"ls -R $HOME/.local; exit 7\n");
    assert_eq!(exit, Some(Exit::Code(7)), "{said}");
    assert!(said.contains("w.sock"), "{said}");
    assert!(!home.path().join(".local/state/portway").exists(), "nothing is left");
}

/// As many channels as there can be, and one more.
#[test]
fn one_channel_too_many_is_refused() {
    let mut client = Client::new();
    for channel in 0..240 {
        assert!(client.start(exec(channel, b"/bin/cat", &[b"cat"])).started.is_some());
    }
    assert_eq!(client.start(exec(240, b"/bin/cat", &[b"cat"])).refused, Some((Step::Prepare, 24)), "EMFILE");
    for channel in 0..240 {
        client.feed(channel, b"x");
        client.send(&Frame::Eof { channel, stream: Stream::In });
    }
    for channel in 0..240 {
        assert_eq!(client.until(channel, |heard| heard.closed).out, b"x");
    }
    assert_eq!(client.run(sh(240, "echo room"), b"").out, b"room\n");
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
