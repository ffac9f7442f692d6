//! The first process of a service, here as any process: what it runs, keeps and passes on.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use portway_proto::service::{Again, INPUT, LOGS, Record, SPEC, STATE, Source, Spec, Stamp, State, TERMINAL};
use portway_testkit::wait_for;
use rustix::process::{Pid, Signal, kill_process};

const GUEST: &str = env!("CARGO_BIN_EXE_portway-guest");

fn bytes(of: &[&str]) -> Vec<Vec<u8>> {
    of.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn shell(script: &str) -> Spec {
    let user = format!("{}:{}", rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    Spec { args: bytes(&["sh", "-c", script]), user: user.into_bytes(), ..Spec::default() }
}

fn start(dir: &Path, spec: &Spec) -> Child {
    fs::write(dir.join(SPEC), spec.write().expect("it can be written")).expect("a file");
    Command::new(GUEST).arg("service").arg(dir).env("GIVEN", "by the instance").spawn().expect("it starts")
}

/// Its status, and what it has kept.
fn run(dir: &Path, spec: &Spec) -> (Option<i32>, Vec<(Source, String)>) {
    let status = start(dir, spec).wait().expect("it ends");
    (status.code(), said(dir))
}

fn said(dir: &Path) -> Vec<(Source, String)> {
    let log = fs::read(dir.join(LOGS[0])).unwrap_or_default();
    let text = |record: Record<'_>| (record.source, String::from_utf8_lossy(record.text).into_owned());
    Record::all(&log).map(text).collect()
}

fn state(dir: &Path) -> Option<State> {
    State::read(&fs::read(dir.join(STATE)).ok()?)
}

fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, signal).expect("it lives");
}

/// Fails when a status is lost, the two outputs are mixed, or what was said last is.
#[test]
fn its_end_and_its_words_are_kept() {
    for exit in [0, 3, 128, 255] {
        let dir = tempfile::tempdir().expect("a folder");
        let script = format!("echo out; echo error >&2; printf '%s' \"$GIVEN $OWN\"; exit {exit}");
        let spec = Spec { env: bytes(&["OWN=a\nb"]), ..shell(&script) };
        let (status, mut said) = run(dir.path(), &spec);
        assert_eq!(status, Some(exit));
        assert!(matches!(state(dir.path()), Some(State::Exited(kept, _)) if i32::from(kept) == exit));
        assert!(said.last().is_some_and(|(source, _)| *source == Source::Own), "{said:?}");
        said.pop();
        // The order of the two outputs is anybody's guess.
        let of = |wanted: Source| {
            said.iter().filter(move |(source, _)| *source == wanted).map(|(_, text)| text.as_str())
        };
        assert_eq!(of(Source::Error).collect::<Vec<_>>(), ["error"]);
        assert_eq!(of(Source::Out).collect::<Vec<_>>(), ["out", "by the instance a", "b"]);
    }
}

#[test]
fn what_cannot_run_has_a_shells_status() {
    let dir = tempfile::tempdir().expect("a folder");
    for (args, exit) in [(&["no-such-program"][..], 127), (&["/no/such"], 127), (&["/etc/passwd"], 126)] {
        let (status, said) = run(dir.path(), &Spec { args: bytes(args), ..shell("") });
        assert_eq!(status, Some(exit), "{said:?}");
        assert!(matches!(state(dir.path()), Some(State::Exited(kept, _)) if i32::from(kept) == exit));
    }
    let (status, said) = run(dir.path(), &Spec { user: b"no-such-user".to_vec(), ..shell("true") });
    assert_eq!(status, Some(126));
    assert!(said.last().is_some_and(|(_, text)| text.contains("no user no-such-user")), "{said:?}");
    fs::write(dir.path().join(SPEC), "nonsense").expect("a file");
    let status = Command::new(GUEST).arg("service").arg(dir.path()).status().expect("it starts");
    assert_eq!(status.code(), Some(126));
    assert_eq!(
        Command::new(GUEST).args(["service", "/no/such"]).status().expect("it starts").code(),
        Some(1)
    );
}

/// Fails when SIGPWR is passed on as it is, or a signal ends the first process itself.
#[test]
fn signals_go_on_to_the_program() {
    let script = "trap 'echo usr' USR1; trap 'echo hup' HUP; trap 'echo int; exit 7' INT; echo ready; while :; do sleep 0.05; done";
    let dir = tempfile::tempdir().expect("a folder");
    let spec = Spec { stop: Some(2), ..shell(script) };
    let mut child = start(dir.path(), &spec);
    let until = |text: &str| {
        let is_there = || said(dir.path()).iter().any(|(_, line)| line == text).then_some(());
        wait_for(text, is_there).expect(text);
    };
    until("ready");
    assert!(matches!(state(dir.path()), Some(State::Running(_))));
    signal(&child, Signal::USR1);
    until("usr");
    signal(&child, Signal::HUP);
    until("hup");
    signal(&child, Signal::POWER);
    assert_eq!(child.wait().expect("it ends").code(), Some(7));
    until("int");
}

/// Fails when a program that was killed counts as one that has ended well.
#[test]
fn a_signals_end_has_its_number() {
    let dir = tempfile::tempdir().expect("a folder");
    assert_eq!(run(dir.path(), &shell("kill -KILL $$")).0, Some(137));
    // Somebody else still has the output open: it is not waited for.
    assert_eq!(run(dir.path(), &shell("sleep 1000 & echo $!; exit 4")).0, Some(4));
    let left = said(dir.path()).into_iter().filter_map(|(_, text)| text.parse::<i32>().ok()).next_back();
    let left = left.and_then(Pid::from_raw).expect("its number");
    kill_process(left, Signal::KILL).expect("it is left to whoever the parent is");
}

/// Fails when a program is started once too often or too seldom, or after somebody has asked for its end.
#[test]
fn a_program_is_started_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let count = dir.path().join("count");
    let script = |ends: &str| format!("echo >>{0}; n=$(wc -l <{0}); echo run $n; {ends}", count.display());
    let runs = || fs::read_to_string(&count).unwrap_or_default().lines().count();
    let spec = |again, ends: &str| Spec { again, delay: Some(Duration::ZERO), ..shell(&script(ends)) };
    assert_eq!(run(dir.path(), &spec(Again::OnFailure(Some(2)), "exit 5")).0, Some(5));
    assert_eq!(runs(), 3);
    assert_eq!(run(dir.path(), &spec(Again::OnFailure(None), "test $n = 6")).0, Some(0));
    assert_eq!(runs(), 6);
    assert!(matches!(state(dir.path()), Some(State::Exited(0, _))));
    let until = |wanted: usize| wait_for("another run", || (runs() >= wanted).then_some(())).expect("runs");
    let mut child = start(
        dir.path(),
        &spec(Again::Always, "trap 'exit 9' TERM; test $n -lt 9 && exit 0; while :; do sleep 0.05; done"),
    );
    until(9);
    wait_for("its words", || said(dir.path()).contains(&(Source::Out, "run 9".to_owned())).then_some(()))
        .expect("they are kept");
    signal(&child, Signal::POWER);
    assert!(child.wait().expect("it ends").code().is_some_and(|code| code == 9 || code == 143));
    assert_eq!(runs(), 9);
    // Nothing runs while it waits for its next start, and it hears all the same.
    let long = Spec { delay: Some(Duration::from_secs(1000)), ..spec(Again::Always, "exit 4") };
    let mut child = start(dir.path(), &long);
    until(10);
    wait_for("its end", || matches!(state(dir.path()), Some(State::Exited(4, _))).then_some(()))
        .expect("kept");
    signal(&child, Signal::POWER);
    assert_eq!(child.wait().expect("it ends").code(), Some(4));
    assert_eq!(runs(), 10);
}

#[test]
fn a_terminal_is_one() {
    let dir = tempfile::tempdir().expect("a folder");
    let script = "test -t 0 && test -t 1 && test -t 2 && echo yes; echo more >&2";
    let (status, mut said) = run(dir.path(), &Spec { terminal: true, ..shell(script) });
    said.pop();
    let out = |text: &str| (Source::Out, text.to_owned());
    assert_eq!((status, said), (Some(0), vec![out("yes"), out("more")]));
}

fn feed(dir: &Path) -> Child {
    let mut feed = Command::new(GUEST);
    feed.arg("feed").arg(dir).stdin(Stdio::piped()).stdout(Stdio::piped());
    feed.spawn().expect("it starts")
}

fn until(dir: &Path, text: &str) {
    let is_there = || said(dir).iter().any(|(_, line)| line == text).then_some(());
    let came = wait_for(text, is_there);
    assert!(came.is_ok(), "no {text}: {:?}", said(dir));
}

/// Fails when what is said to a service does not reach it, ends its input, or is lost between two who say it.
#[test]
fn a_service_reads_what_is_said_to_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let script = "printf 'who? '; while read -r line; do echo \"got $line\"; test \"$line\" = end && exit 6; done; exit 1";
    let mut child = start(dir.path(), &Spec { input: true, ..shell(script) });
    // A question has no line's end.
    let asks = || said(dir.path()).contains(&(Source::Out, "who? ".to_owned())).then_some(());
    wait_for("the question", asks).expect("it is kept");
    let (mut one, mut other) = (feed(dir.path()), feed(dir.path()));
    let say = |to: &mut Child, text: &str| to.stdin.as_mut().expect("a pipe").write_all(text.as_bytes());
    say(&mut one, "a\n").expect("it is taken");
    until(dir.path(), "got a");
    drop(one.stdin.take());
    assert!(one.wait().expect("it ends").success());
    say(&mut other, "b\nend\n").expect("it is taken");
    until(dir.path(), "got b");
    assert_eq!(child.wait().expect("it ends").code(), Some(6));
    drop(other.stdin.take());
    assert!(other.wait().expect("it ends").success());
    // Nobody reads: it is said, and nothing hangs.
    let late = feed(dir.path()).wait_with_output().expect("it ends");
    assert_eq!(late.status.code(), Some(1));
}

/// Fails when a service that has no input waits for one.
#[test]
fn a_service_without_an_input_finds_its_end() {
    let dir = tempfile::tempdir().expect("a folder");
    assert_eq!(run(dir.path(), &shell("read -r line; test -z \"$line\" && exit 3")).0, Some(3));
    assert!(!dir.path().join(INPUT).exists());
}

/// Fails when a flood to who does not read costs more than a pipe and a piece, or holds whoever floods after it has gone.
#[test]
fn a_flood_that_nobody_reads_waits() {
    for terminal in [false, true] {
        let dir = tempfile::tempdir().expect("a folder");
        let script = "stty -echo 2>/dev/null; trap 'exit 8' USR1; echo ready; while :; do sleep 0.05; done";
        let mut child = start(dir.path(), &Spec { input: true, terminal, ..shell(script) });
        until(dir.path(), "ready");
        let mut feed = feed(dir.path());
        let mut pipe = feed.stdin.take().expect("a pipe");
        let flood = std::thread::spawn(move || {
            (0..10_000).take_while(|_| pipe.write_all(&[b'x'; 1000]).is_ok()).count()
        });
        // It is full, and who fills it goes: nobody hears what it could say.
        std::thread::sleep(Duration::from_millis(300));
        drop(feed.stdout.take());
        assert!(feed.wait().expect("it ends").success());
        let taken = flood.join().expect("it ends");
        // A terminal that waits for a line's end throws away what is too long for a line.
        assert!(terminal || taken < 1000, "{taken}");
        signal(&child, Signal::USR1);
        assert_eq!(child.wait().expect("it ends").code(), Some(8));
    }
}

/// Fails when a terminal does not get what is typed, or keeps its size.
#[test]
fn a_terminal_is_written_to_and_has_a_size() {
    let dir = tempfile::tempdir().expect("a folder");
    let script = "trap 'stty size' WINCH; read -r line; echo \"got $line\"; trap 'exit 5' INT; while :; do sleep 0.05; done";
    let mut child = start(dir.path(), &Spec { input: true, terminal: true, ..shell(script) });
    wait_for("its terminal", || dir.path().join(TERMINAL).exists().then_some(())).expect("it is noted");
    let mut one = feed(dir.path());
    let pipe = one.stdin.as_mut().expect("a pipe");
    pipe.write_all(b"typed\n").expect("it is taken");
    until(dir.path(), "got typed");
    let size = |columns: &str| {
        let mut size = Command::new(GUEST);
        size.arg("size").arg(dir.path()).args([columns, "33"]).stderr(Stdio::null());
        size.status().expect("it starts").code()
    };
    assert_eq!((size("101"), size("-1")), (Some(0), Some(2)));
    until(dir.path(), "33 101");
    // What is typed is a terminal's: this interrupts.
    pipe.write_all(b"\x03").expect("it is taken");
    assert_eq!(child.wait().expect("it ends").code(), Some(5));
    drop(one.stdin.take());
    assert!(one.wait().expect("it ends").success());
}

/// Fails when a record is shown twice, or lost where the files change their places.
#[test]
fn the_tail_shows_each_record_once() {
    const COUNT: usize = 60_000;
    const STEP: usize = 10_000;
    let dir = tempfile::tempdir().expect("a folder");
    // Three times a file's length; the service waits until what it has said is seen, so that nothing is gone before.
    let line = "x".repeat(90);
    let seen = |number: usize| dir.path().join(format!("seen-{number}"));
    let script = format!(
        "i=0; while [ $i -lt {COUNT} ]; do i=$((i+1)); echo $i {line}; [ $((i%{STEP})) = 0 ] || continue; \
         while [ ! -e {}/seen-$i ]; do sleep 0.02; done; done",
        dir.path().display()
    );
    let mut child = start(dir.path(), &shell(&script));
    let mut tail = Command::new(GUEST);
    tail.arg("tail").arg(dir.path()).arg("0.000000000").stdout(Stdio::piped());
    let mut tail = tail.spawn().expect("it starts");
    let (mut expected, mut last) = (1, Stamp::default());
    for line in BufReader::new(tail.stdout.take().expect("a pipe")).split(b'\n') {
        let line = line.expect("a line");
        let record = Record::read(&line).expect("a record");
        assert!(record.at > last, "in order");
        last = record.at;
        let text = String::from_utf8_lossy(record.text);
        let number: usize = text.split(' ').next().and_then(|word| word.parse().ok()).expect("a number");
        assert_eq!(number, expected);
        expected += 1;
        if number.is_multiple_of(STEP) {
            fs::write(seen(number), "").expect("a file");
        }
        if number == COUNT {
            break;
        }
    }
    // The pipe is closed: it ends.
    assert!(tail.wait().expect("it ends").success());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    let mut again = Command::new(GUEST);
    again.arg("tail").arg(dir.path()).arg(last.to_string()).stdout(Stdio::piped());
    let mut again = again.spawn().expect("it starts");
    let mut first = Vec::new();
    let mut lines = BufReader::new(again.stdout.take().expect("a pipe"));
    lines.read_until(b'\n', &mut first).expect("a line");
    let text = String::from_utf8_lossy(&first);
    assert!(text.contains(" n exited with status 0"), "only what is later: {text}");
    drop(lines);
    assert!(again.wait().expect("it ends").success());
}
