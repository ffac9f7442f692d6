//! Programs and files inside an instance, on real servers.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use portway_incus::{Client, Exec, ExecEnd, ExecSockets, ExecSpec, FileContent, IncusError, Size};
use portway_testkit::{Bed, Container, ContainerSpec, Server, bed_of, is_root, on_every_server, wait_for};

/// Bounds a test that has stalled; nothing takes a tenth of it.
const LIMIT: Duration = Duration::from_secs(60);

on_every_server!(
    the_end_is_exact,
    a_short_program_loses_nothing,
    streams_are_apart_and_whole,
    a_terminal_has_a_size_and_signals_arrive,
    who_does_not_read_is_waited_for,
    a_dropped_program_is_killed,
    ids_folder_and_variables_are_those_asked_for,
    what_cannot_run_is_said,
    files_are_read_with_their_owner,
);

/// A container of the server and a client.
fn scene(server: Server, spec: &ContainerSpec) -> Option<(&'static Bed, Container<'static>, Client)> {
    let bed = if is_root() { bed_of(server)? } else { return None };
    let container = bed.launch("exec", spec).expect("a container");
    Some((bed, container, Client::new(bed.socket())))
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let limited = async { tokio::time::timeout(LIMIT, work).await.expect("it does not stall") };
    runtime.expect("a runtime").block_on(limited)
}

fn spec(command: &[&str]) -> ExecSpec {
    ExecSpec {
        command: command.iter().map(|&word| word.to_owned()).collect(),
        environment: BTreeMap::new(),
        user: 0,
        group: 0,
        cwd: "/".to_owned(),
        terminal: None,
    }
}

async fn start(client: &Client, container: &Container<'_>, spec: &ExecSpec) -> Exec {
    let sockets = client.exec(container.project(), container.name(), spec).await.expect("an answer");
    // Through descriptors, as another process gets them.
    let fds = sockets.expect("there").into_fds();
    Exec::new(ExecSockets::from_fds(fds).expect("all of them")).await.expect("connections")
}

/// What it wrote, to both, and its end. It reads nothing.
async fn done(exec: Exec) -> (Vec<u8>, Vec<u8>, ExecEnd) {
    let Exec { control, mut input, mut output, errors, outcome } = exec;
    // It may have ended already.
    let _ended = input.finish().await;
    let all = async |output: &mut portway_incus::Output| {
        let mut all = Vec::new();
        while let Some(bytes) = output.next().await {
            all.extend_from_slice(&bytes);
        }
        all
    };
    let (mut errors, mut err) = (errors, Vec::new());
    let both = async {
        if let Some(errors) = errors.as_mut() {
            err = all(errors).await;
        }
    };
    let (out, ()) = tokio::join!(all(&mut output), both);
    drop((input, output));
    let end = outcome.wait().await.expect("an end");
    drop(control);
    (out, err, end)
}

/// Fails when the end is asked for after the program: the fast ones are forgotten by then.
fn the_end_is_exact(server: Server) {
    let Some((_, container, client)) = scene(server, &ContainerSpec::default()) else { return };
    container.sh("printf x >/tmp/plain; chmod 644 /tmp/plain").expect("a file");
    run(async {
        for status in [0, 1, 2, 125, 128, 200, 255] {
            let end = done(start(&client, &container, &spec(&["sh", "-c", &format!("exit {status}")])).await)
                .await
                .2;
            assert_eq!(end, ExecEnd::Status(status));
        }
        for (command, status) in [
            (&["/nowhere"][..], 127),
            (&["/tmp/plain"], 126),
            (&["sh", "-c", "kill -TERM $$"], 143),
            (&["sh", "-c", "kill -KILL $$"], 137),
        ] {
            let end = done(start(&client, &container, &spec(command)).await).await.2;
            assert_eq!(end, ExecEnd::Status(status), "{command:?}");
        }
        let absent = ExecSpec { cwd: "/nowhere".to_owned(), ..spec(&["pwd"]) };
        let (out, _, end) = done(start(&client, &container, &absent).await).await;
        assert_eq!((out.as_slice(), end), (&b"/\n"[..], ExecEnd::Status(0)), "a folder that is not there");
    });
}

/// Fails when an answer to a ping that nobody takes ends what is read.
fn a_short_program_loses_nothing(server: Server) {
    let Some((_, container, client)) = scene(server, &ContainerSpec::default()) else { return };
    run(async {
        for round in 0..40 {
            let (out, err, end) =
                done(start(&client, &container, &spec(&["sh", "-c", "echo out; echo err >&2"])).await).await;
            assert_eq!((out.as_slice(), err.as_slice()), (&b"out\n"[..], &b"err\n"[..]), "{round}");
            assert_eq!(end, ExecEnd::Status(0));
        }
    });
}

/// Fails when an end of input is not passed on, or the two outputs are mixed.
fn streams_are_apart_and_whole(server: Server) {
    let Some((_, container, client)) = scene(server, &ContainerSpec::default()) else { return };
    let sent: Vec<u8> =
        (0..1_200_000_u32).map(|number| number.to_le_bytes()[0] ^ number.to_le_bytes()[1]).collect();
    run(async {
        let exec = start(&client, &container, &spec(&["sh", "-c", "cat; echo over >&2; exit 7"])).await;
        let Exec { control: _control, mut input, mut output, errors, outcome } = exec;
        let mut errors = errors.expect("an output for errors");
        let write = async {
            for piece in sent.chunks(40_000) {
                input.send(Bytes::copy_from_slice(piece)).await.expect("it reads");
            }
            input.finish().await.expect("it reads");
            input.closed().await;
        };
        let read = async {
            let mut all = Vec::new();
            while let Some(bytes) = output.next().await {
                all.extend_from_slice(&bytes);
            }
            all
        };
        let error = async {
            let mut all = Vec::new();
            while let Some(bytes) = errors.next().await {
                all.extend_from_slice(&bytes);
            }
            all
        };
        let ((), out, err) = tokio::join!(write, read, error);
        assert!(out == sent, "{} of {} bytes came back", out.len(), sent.len());
        assert_eq!(err, b"over\n");
        assert_eq!(outcome.wait().await.expect("an end"), ExecEnd::Status(7));
    });
}

fn a_terminal_has_a_size_and_signals_arrive(server: Server) {
    let Some((_, container, client)) = scene(server, &ContainerSpec::default()) else { return };
    let script = "stty size; trap 'stty size' WINCH; trap 'echo usr; exit 9' USR1; echo ready; while :; do sleep 0.1; done";
    let wanted = ExecSpec { terminal: Some(Size { width: 91, height: 17 }), ..spec(&["sh", "-c", script]) };
    run(async {
        let Exec { mut control, input, mut output, errors, outcome } =
            start(&client, &container, &wanted).await;
        assert!(errors.is_none(), "a terminal has one output");
        let mut screen = String::new();
        let mut until = async |text: &str| {
            while !screen.contains(text) {
                let bytes = output.next().await;
                assert!(bytes.is_some(), "no {text:?} in {screen:?}");
                screen.push_str(&String::from_utf8_lossy(&bytes.unwrap_or_default()));
            }
        };
        until("17 91\r\n").await;
        until("ready").await;
        control.resize(Size { width: 200, height: 50 }).await.expect("it lives");
        until("50 200\r\n").await;
        control.signal(10).await.expect("it lives");
        while output.next().await.is_some() {}
        drop((input, output));
        assert_eq!(outcome.wait().await.expect("an end"), ExecEnd::Status(9));
    });
}

/// Fails when anything between here and the program takes whatever comes.
fn who_does_not_read_is_waited_for(server: Server) {
    const MOST: usize = 16 << 20;
    let Some((_, container, client)) = scene(server, &ContainerSpec::default()) else { return };
    run(async {
        let mut exec = start(&client, &container, &spec(&["sleep", "1000"])).await;
        let piece = Bytes::from(vec![0; 64 << 10]);
        let mut taken = 0;
        while let Ok(sent) =
            tokio::time::timeout(Duration::from_millis(500), exec.input.send(piece.clone())).await
        {
            sent.expect("it lives");
            taken += piece.len();
            assert!(taken < MOST, "{taken} bytes were taken for a program that reads nothing");
        }
    });
}

/// Fails when `Exec` leaves its control connection open.
fn a_dropped_program_is_killed(server: Server) {
    let Some((_, container, client)) = scene(server, &ContainerSpec::default()) else { return };
    let running = || {
        let listed =
            container.sh("for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; done").expect("a list");
        listed.lines().any(|line| line.trim() == "sleep 987654")
    };
    run(async {
        let exec = start(&client, &container, &spec(&["sleep", "987654"])).await;
        tokio::task::block_in_place(|| wait_for("the program", || running().then_some(()))).expect("it runs");
        drop(exec);
        tokio::task::block_in_place(|| wait_for("its end", || (!running()).then_some(()))).expect("it ends");
    });
}

/// Fails when an id that is none becomes root.
fn ids_folder_and_variables_are_those_asked_for(server: Server) {
    let Some((_, container, client)) = scene(server, &ContainerSpec::default()) else { return };
    let script = "id -u; id -g; pwd; printf '%s\\n' \"$WORDS\"; echo $#; printf '%s' \"$1\"";
    let wanted = ExecSpec {
        environment: [("WORDS".to_owned(), "a  'b' \"c\"\n$d\\".to_owned())].into(),
        user: 1000,
        group: 29,
        cwd: "/home/bob".to_owned(),
        ..spec(&["sh", "-c", script, "sh", "x\ny\t$(id) 'z' \u{fc}"])
    };
    run(async {
        let (out, err, end) = done(start(&client, &container, &wanted).await).await;
        let expected = "1000\n29\n/home/bob\na  'b' \"c\"\n$d\\\n1\nx\ny\t$(id) 'z' \u{fc}";
        assert_eq!((String::from_utf8_lossy(&out).as_ref(), err.as_slice()), (expected, &b""[..]));
        assert_eq!(end, ExecEnd::Status(0));
        for wrong in
            [ExecSpec { user: u32::MAX, ..spec(&["id"]) }, ExecSpec { group: u32::MAX, ..spec(&["id"]) }]
        {
            let error = client.exec("default", container.name(), &wrong).await.expect_err("it is refused");
            assert!(matches!(error, IncusError::Protocol { .. }), "{error}");
        }
    });
}

fn what_cannot_run_is_said(server: Server) {
    let stopped = ContainerSpec { stopped: true, ..ContainerSpec::default() };
    let Some((_, container, client)) = scene(server, &stopped) else { return };
    run(async {
        let error =
            client.exec("default", container.name(), &spec(&["true"])).await.expect_err("it is stopped");
        assert!(
            matches!(&error, IncusError::Status { code: 400, message, .. } if message.contains("running")),
            "{error}"
        );
        for (project, name) in
            [("default", "nobody-there"), ("no-such-project", container.name()), ("default", "a/b")]
        {
            let none = client.exec(project, name, &spec(&["true"])).await.expect("an answer");
            assert!(none.is_none(), "{project}/{name}");
        }
    });
}

fn files_are_read_with_their_owner(server: Server) {
    let Some((_, container, client)) = scene(server, &ContainerSpec::default()) else { return };
    let made = "cd /srv && printf 'one\\0two' >'a b&c' && chmod 640 'a b&c' && chown 1000:29 'a b&c' && ln -s ../etc/passwd link";
    container.sh(made).expect("files");
    let name = container.name();
    run(async {
        for round in 0..2 {
            let read = async |path: &str, limit| client.file("default", name, path, limit).await;
            let file = read("/srv/a b&c", 100).await.expect("an answer").expect("there");
            assert_eq!((file.uid, file.gid, file.mode), (1000, 29, 0o640));
            assert!(file.content == FileContent::Plain(Bytes::from_static(b"one\0two")), "{file:?}");
            let link = read("/srv/link", 100).await.expect("an answer").expect("there");
            let FileContent::Link(target) = &link.content else {
                return assert_eq!(format!("{link:?}"), "a link");
            };
            // The servers give what a relative one leads to, where they can.
            let target = str::from_utf8(target).expect("text").trim_end();
            assert!(matches!(target, "/etc/passwd" | "../etc/passwd"), "{target}");
            let folder = read("/srv", 100).await.expect("an answer").expect("there");
            assert!(folder.content == FileContent::Directory, "{folder:?}");
            assert_eq!(read("/srv/none", 100).await.expect("an answer"), None);
            assert_eq!(
                client.file("default", "nobody-there", "/etc/passwd", 100).await.expect("an answer"),
                None
            );
            let error = read("/etc/passwd", 10).await.expect_err("it is longer");
            assert!(matches!(error, IncusError::TooLarge { .. }), "{error}");
            if round == 0 {
                container.kill().expect("a stop");
            }
        }
    });
}
