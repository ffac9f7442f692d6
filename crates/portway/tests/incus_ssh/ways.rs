//! Forwards on other servers and on the way to somewhere else: remotes, LXD, a frozen instance, ProxyJump, a master
//! with everything on one connection, and many at once.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portway_testkit::{ContainerSpec, Image, Ports, Server, process, wait_for};

use crate::backwards::{asked, dial, is_closed, service};
use crate::forwards::{Client, answer, connect, echo, listen, pattern};
use crate::remotes;
use crate::scene::{Scene, processes_below};

/// Connections of [`many_at_once`], and clients that carry them.
const MANY: u32 = 1000;
const CLIENTS: u32 = 20;

/// Both ways of a login: into the instance, and from there back.
fn both_ways(scene: &Scene, login: &str) -> Client {
    echo(listen(scene, Ipv4Addr::LOCALHOST, 4001), b"");
    let to = service(scene);
    let ports = Ports::claim(scene.bed.netns()).unwrap();
    let port = ports.one().unwrap();
    let (into, back) = (format!("{port}:localhost:4001"), format!("5001:127.0.0.1:{to}"));
    let unix = format!("/tmp/s:127.0.0.1:{to}");
    let client = Client::start(scene, login, &["-L", &into, "-R", &back, "-R", &unix]);
    let bytes = pattern(1, 3_000_000);
    assert!(answer(connect(scene, port), &bytes) == bytes, "{}", scene.log());
    assert_eq!(asked(scene, Ipv4Addr::LOCALHOST, 5001), format!("{to} hears"));
    wait_for("the unix socket", || scene.container.sh("test -S /tmp/s").ok()).unwrap();
    client
}

/// The gateway and all of its processes end as nobody could foresee.
fn kill_everything(scene: &mut Scene) {
    let all = processes_below(&scene.path("log"));
    scene.stop(Signal::SIGKILL).unwrap();
    for pid in all {
        // One may have gone with another.
        let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Programs of ours in the container.
fn guests(scene: &Scene) -> String {
    let find = "for dir in /proc/[0-9]*; do tr '\\0' ' ' <$dir/cmdline 2>/dev/null | grep 'portway-gues[t]'; done; true";
    scene.container.sh(find).unwrap()
}

fn nothing_is_left(scene: &Scene) {
    let gone = || {
        let is_open =
            !is_closed(scene, Ipv4Addr::LOCALHOST, 5001) || scene.container.sh("test -S /tmp/s").is_ok();
        (!is_open && guests(scene).is_empty()).then_some(())
    };
    assert!(wait_for("nothing is left", gone).is_ok(), "{} {}", guests(scene), scene.log());
}

/// Fails when a server elsewhere is reached by another way than its own instance's, or something stays there when
/// everything here is killed.
#[test]
fn a_server_elsewhere_has_both_ways() {
    let Some(mut scene) = Scene::start(Server::Incus6, "away").unwrap() else { return };
    let _trusted = remotes::elsewhere(&scene);
    let login = format!("r1:{}", scene.container.name());
    let _client = both_ways(&scene, &login);
    kill_everything(&mut scene);
    nothing_is_left(&scene);
}

/// Fails when LXD's instances have other ways than Incus'.
#[test]
fn lxd_has_both_ways() {
    let Some(mut scene) = Scene::start(Server::Lxd, "ways").unwrap() else { return };
    let login = format!("bob@{}", scene.container.name());
    let _client = both_ways(&scene, &login);
    kill_everything(&mut scene);
    nothing_is_left(&scene);
}

/// What is frozen cannot clean up behind itself until it thaws.
///
/// Fails when it does not do so then.
#[test]
fn what_was_frozen_leaves_nothing() {
    let Some(mut scene) = Scene::start(Server::Incus6, "frozen").unwrap() else { return };
    let login = scene.container.name().to_owned();
    let client = both_ways(&scene, &login);
    scene.container.change_state("freeze").unwrap();
    kill_everything(&mut scene);
    drop(client);
    scene.container.change_state("unfreeze").unwrap();
    nothing_is_left(&scene);
}

/// Fails when a login does not serve as the jump to a server that only its instance reaches.
#[test]
fn an_instance_is_a_jump_to_others() {
    let spec = ContainerSpec { image: Image::Debian, ..ContainerSpec::default() };
    let Some(scene) = Scene::start_with(Server::Incus6, "jump", &spec).unwrap() else { return };
    let key = fs::read_to_string(scene.path("key.pub")).unwrap();
    let script = format!(
        "mkdir -p -m 700 /root/.ssh /run/sshd; echo '{}' >/root/.ssh/authorized_keys; chmod 600 /root/.ssh/authorized_keys; \
         test -f /etc/ssh/ssh_host_ed25519_key || ssh-keygen -A >/dev/null; \
         /usr/sbin/sshd -o ListenAddress=127.0.0.1 -o Port=2022",
        key.trim()
    );
    scene.container.sh(&script).unwrap();
    let config = format!(
        "Host *\n BatchMode yes\n StrictHostKeyChecking accept-new\n UserKnownHostsFile {hosts}\n IdentityFile {key}\n \
         IdentitiesOnly yes\n IdentityAgent none\n LogLevel ERROR\n\
         Host bastion\n HostName 127.0.0.1\n Port {port}\n User {login}\n\
         Host target\n HostName localhost\n Port 2022\n User root\n ProxyJump bastion\n",
        hosts = scene.path("known_hosts").display(),
        key = scene.path("key").display(),
        port = scene.port,
        login = scene.container.name(),
    );
    fs::write(scene.path("config"), config).unwrap();
    let run = |words: &[&str], input: &[u8]| -> Output {
        let mut client = Command::new("ssh");
        scene.talk(client.arg("-F").arg(scene.path("config")).args(words), input).unwrap()
    };
    let input = pattern(7, 2_000_000);
    let output = run(&["target", "cat; echo \"$SSH_CONNECTION\" >&2; exit 7"], &input);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{said} {}", scene.log());
    assert!(output.stdout == input && said.trim().ends_with("2022"), "{said}");
    // Named on the command line, and as a bastion that is nothing else.
    let text = fs::read_to_string(scene.path("home/.ssh/authorized_keys")).unwrap();
    fs::write(scene.path("home/.ssh/authorized_keys"), format!("restrict,port-forwarding {text}")).unwrap();
    let output = run(&["-J", "bastion", "-o", "ProxyJump=bastion", "target", "echo through"], b"");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "through\n", "{}", scene.log());
}

/// Sessions, files and both ways on one connection, with a gateway that is killed in between.
///
/// Fails when one of them is refused, ends, or stays when the master goes.
#[test]
fn a_master_carries_everything() {
    let Some(mut scene) = Scene::start(Server::Incus7, "master").unwrap() else { return };
    let name = scene.container.name().to_owned();
    echo(listen(&scene, Ipv4Addr::LOCALHOST, 4001), b"");
    let to = service(&scene);
    let ports = Ports::claim(scene.bed.netns()).unwrap();
    let port = ports.one().unwrap();
    let path = format!("ControlPath={}", scene.path("cm").display());
    let master = Client::start(&scene, &name, &["-o", "ControlMaster=yes", "-o", &path]);
    wait_for("the master", || scene.path("cm").exists().then_some(())).unwrap();
    let slave = |words: &[&str], more: &[&str], input: &[u8]| {
        let mut client = scene.client(&["-o", "ControlMaster=no", "-o", &path]);
        scene.talk(client.args(words).arg(Scene::at(&name)).args(more), input).unwrap()
    };
    let into = format!("{port}:127.0.0.1:4001");
    let back = format!("5001:127.0.0.1:{to}");
    for forward in [["-L", into.as_str()], ["-R", back.as_str()]] {
        let output = slave(&["-O", "forward", forward[0], forward[1]], &[], b"");
        assert!(output.status.success(), "{forward:?} {}", scene.log());
    }
    let mut stays = connect(&scene, port);
    stays.write_all(b"before ").unwrap();
    thread::scope(|scope| {
        for number in 0..10_u8 {
            let slave = &slave;
            scope.spawn(move || {
                let input = pattern(u32::from(number), 300_000);
                let output = slave(&[], &[&format!("cat; exit {number}")], &input);
                assert!(
                    output.stdout == input && output.status.code() == Some(i32::from(number)),
                    "{number}"
                );
            });
        }
    });
    scene.stop(Signal::SIGKILL).unwrap();
    stays.write_all(b"alone ").unwrap();
    assert_eq!(asked(&scene, Ipv4Addr::LOCALHOST, 5001), format!("{to} hears"), "without a gateway");
    scene.launch().unwrap();
    stays.write_all(b"after").unwrap();
    stays.shutdown(Shutdown::Write).unwrap();
    let mut said = String::new();
    stays.read_to_string(&mut said).unwrap();
    assert_eq!(said, "before alone after");
    let slave = |words: &[&str], more: &[&str]| {
        let mut client = scene.client(&["-o", "ControlMaster=no", "-o", &path]);
        scene.talk(client.args(words).arg(Scene::at(&name)).args(more), b"").unwrap()
    };
    let batch = scene.path("batch");
    fs::write(&batch, "put key.pub /root/put\nls -l /root/put\n").unwrap();
    let mut sftp = Command::new("sftp");
    sftp.current_dir(scene.dir()).args(["-o", "ControlMaster=no", "-o", &path, "-b"]).arg(&batch);
    let output = scene.talk(sftp.arg(Scene::at(&name)), b"").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(slave(&[], &["exit 4"]).status.code(), Some(4), "{}", scene.log());
    assert!(slave(&["-O", "check"], &[]).status.success());
    assert!(slave(&["-O", "exit"], &[]).status.success());
    drop(master);
    nothing_is_left(&scene);
}

/// Fails when one of a thousand connections that are open at once gets bytes of another, or is left waiting.
#[test]
fn many_at_once() {
    let Some(scene) = Scene::start(Server::Incus6, "many").unwrap() else { return };
    echo(listen(&scene, Ipv4Addr::LOCALHOST, 4001), b"");
    let ports = Ports::claim(scene.bed.netns()).unwrap();
    let clients: Vec<(u16, Client)> = (0..CLIENTS)
        .map(|_| {
            let port = ports.one().unwrap();
            (port, Client::start(&scene, scene.container.name(), &["-L", &format!("{port}:127.0.0.1:4001")]))
        })
        .collect();
    let mut open: Vec<TcpStream> = Vec::new();
    for number in 0..MANY {
        let (port, _) = clients[(number % CLIENTS) as usize];
        open.push(connect(&scene, port));
    }
    for round in 0..2 {
        for (number, stream) in (0_u32..).zip(&mut open) {
            stream.write_all(&pattern(round * MANY + number, 2000)).unwrap();
        }
        for (number, stream) in (0_u32..).zip(&mut open) {
            let mut said = vec![0; 2000];
            stream.read_exact(&mut said).unwrap_or_else(|error| panic!("{number}: {error} {}", scene.log()));
            assert!(said == pattern(round * MANY + number, 2000), "{number}");
        }
    }
    let sessions = scene.sessions();
    let memory = sessions.iter().filter_map(|pid| process::rss_bytes(*pid).ok()).max();
    // As a figure: with `--no-capture`.
    eprintln!("{} sessions, the largest with {memory:?} bytes", sessions.len());
    for mut stream in open {
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap(), 0);
    }
    drop(clients);
    wait_for("all are gone", || guests(&scene).is_empty().then_some(())).unwrap();
}

/// A service that reads nothing of what a client sends it, and a stranger in the instance who reads nothing of what the
/// client's service sends.
///
/// Fails when either holds up what else is on the client's connection.
#[test]
fn who_does_not_read_is_alone() {
    let Some(scene) = Scene::start(Server::Incus6, "stuck").unwrap() else { return };
    let name = scene.container.name();
    let deaf = listen(&scene, Ipv4Addr::LOCALHOST, 4001);
    let talker = scene.bed.netns().enter(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap().unwrap();
    let to = talker.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in talker.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || while stream.write_all(&[7; 1 << 16]).is_ok() {});
        }
    });
    let ports = Ports::claim(scene.bed.netns()).unwrap();
    let port = ports.one().unwrap();
    let path = format!("ControlPath={}", scene.path("cm").display());
    let (into, back) = (format!("{port}:127.0.0.1:4001"), format!("5001:127.0.0.1:{to}"));
    let options = ["-o", "ControlMaster=yes", "-o", path.as_str(), "-L", into.as_str(), "-R", back.as_str()];
    let _master = Client::start(&scene, name, &options);
    let mut sender = connect(&scene, port);
    let (_held, _) = deaf.accept().unwrap();
    let sending = thread::spawn(move || (0..2000).try_for_each(|_| sender.write_all(&[7; 1 << 16])).is_err());
    let _stranger = wait_for("the listener", || dial(&scene, Ipv4Addr::LOCALHOST, 5001).ok()).unwrap();
    let stuck = |way: &str| {
        let line = || {
            scene
                .audit()
                .ok()?
                .into_iter()
                .find(|line| line["event"] == "forwarded" && line["way"] == way && line["end"] == "stuck")
        };
        wait_for("the end of who does not read", line)
            .unwrap_or_else(|error| panic!("{way}: {error} {}", scene.log()))
    };
    stuck("local");
    stuck("remote");
    assert!(sending.join().unwrap(), "the client is told");
    let input = pattern(9, 5_000_000);
    let mut client = scene.client(&["-o", "ControlMaster=no", "-o", &path]);
    let output = scene.talk(client.args([&Scene::at(name), "cat"]), &input).unwrap();
    assert!(output.stdout == input, "{} bytes", output.stdout.len());
}
