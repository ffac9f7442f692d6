//! Servers elsewhere: by TLS, as the configuration of Incus' client names them.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, ChildStdout, Output, Stdio};

use nix::sys::signal::Signal;
use portway_testkit::{HTTPS_ADDRESS, Server, Trusted, certificate, process, wait_for};

use crate::scene::{Scene, processes_below};

/// What a client of Incus has where `r1` is the scene's own server, by TLS; trusted by it while the answer lives.
pub(crate) fn elsewhere(scene: &Scene) -> Trusted<'static> {
    let pem = scene.bed.https().unwrap();
    let conf = scene.path("incus");
    fs::create_dir(conf.join("servercerts")).unwrap();
    fs::write(conf.join("servercerts/r1.crt"), pem).unwrap();
    let trusted = scene.bed.trust(&conf, "client").unwrap();
    fs::set_permissions(conf.join("client.key"), fs::Permissions::from_mode(0o600)).unwrap();
    remotes(scene, &[("r1", HTTPS_ADDRESS)]);
    trusted
}

/// Writes the client's configuration.
fn remotes(scene: &Scene, named: &[(&str, &str)]) {
    let lines = named.iter().map(|(name, address)| {
        format!("  {name}: {{addr: 'https://{address}', protocol: incus, auth_type: tls}}\n")
    });
    let text = format!("default-remote: local\nremotes:\n{}", lines.collect::<String>());
    fs::write(scene.path("incus/config.yml"), text).unwrap();
}

fn command(scene: &Scene, login: &str, words: &str, input: &[u8]) -> Output {
    scene.talk(scene.client(&[]).args(["-T", &Scene::at(login), words]), input).unwrap()
}

fn error(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Processes that speak TLS for this gateway.
fn tunnels(scene: &Scene) -> Vec<i32> {
    let is_tunnel = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "portway-tunnel")
    };
    processes_below(&scene.path("log")).into_iter().filter(is_tunnel).collect()
}

/// A client of `cat` on the server elsewhere, and the line `word` from there.
fn cat(scene: &Scene) -> (Child, BufReader<ChildStdout>) {
    let mut client = scene.client(&[]);
    client.args([&Scene::at(&format!("r1:{}", scene.container.name())), "cat; exit 9"]);
    let mut child = scene.bed.netns().spawn(client.stdin(Stdio::piped()).stdout(Stdio::piped())).unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    (child, output)
}

fn echoes(child: &mut Child, output: &mut BufReader<ChildStdout>, word: &str, scene: &Scene) {
    writeln!(child.stdin.as_mut().unwrap(), "{word}").unwrap();
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line.trim(), word, "{}", scene.log());
}

/// Programs, users with their groups, terminals and files of a server elsewhere.
fn it_is_reached(server: Server) {
    let Some(scene) = Scene::start(server, "far").unwrap() else { return };
    let _trusted = elsewhere(&scene);
    let name = format!("r1:{}", scene.container.name());
    let input: Vec<u8> = (0..2_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let output = command(&scene, &name, "cat; echo over >&2; exit 3", &input);
    assert_eq!(error(&output), (Some(3), "over\n".to_owned()), "{}", scene.log());
    assert!(output.stdout == input, "{} of {} bytes came back", output.stdout.len(), input.len());
    let bob = format!("r1:bob@{}", scene.container.name());
    let output = command(&scene, &bob, "id -un; cat >kept; cat kept", b"what bob keeps\n");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "bob\nwhat bob keeps\n", "{}", scene.log());
    let output =
        scene.talk(scene.client(&["-tt"]).args([&Scene::at(&name), "stty size; exit 6"]), b"").unwrap();
    assert_eq!((output.stdout.as_slice(), output.status.code()), (&b"24 80\r\n"[..], Some(6)));
    let ended =
        || scene.audit().ok()?.into_iter().find(|line| line["event"] == "ended" && line["status"] == 6);
    assert_eq!(wait_for("the end in the audit log", ended).unwrap()["remote"], "r1");
}

/// Fails when a login's server is not asked, or what runs there is another program than what would run here.
#[test]
fn a_server_elsewhere_is_reached_by_its_name() {
    it_is_reached(Server::Incus6);
}

#[test]
fn incus7_is_reached_elsewhere() {
    it_is_reached(Server::Incus7);
}

#[test]
fn lxd_is_reached_elsewhere() {
    it_is_reached(Server::Lxd);
}

/// What speaks TLS has the key and nothing else, and what speaks SSH has no part in it. A program elsewhere goes on
/// while there is no gateway, and the next gateway reaches the same server.
///
/// Fails when a privilege is kept, or a gateway's end ends what runs elsewhere.
#[test]
fn a_program_elsewhere_outlives_the_gateway() {
    let Some(mut scene) = Scene::start(Server::Incus6, "farther").unwrap() else { return };
    let _trusted = elsewhere(&scene);
    let (mut child, mut output) = cat(&scene);
    echoes(&mut child, &mut output, "hello", &scene);
    let first = tunnels(&scene);
    assert_eq!(first.len(), 1, "one for one server");
    let status = fs::read_to_string(format!("/proc/{}/status", first[0])).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(field("Uid:").iter().all(|id| id != "0"), "{status}");
    assert_eq!((field("CapEff:"), field("Seccomp:")), (vec!["0".repeat(16)], vec!["2".to_owned()]));
    scene.stop(Signal::SIGTERM).unwrap();
    echoes(&mut child, &mut output, "alone", &scene);
    scene.launch().unwrap();
    let listed = scene.portway(&["ssh", "sessions", "--format", "json"]).unwrap();
    assert!(listed.contains("\"remote\": \"r1\""), "{listed}");
    let far = format!("r1:{}", scene.container.name());
    assert_eq!(command(&scene, &far, "exit 4", b"").status.code(), Some(4), "{}", scene.log());
    echoes(&mut child, &mut output, "again", &scene);
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(9));
    wait_for("the end of the first tunnel", || (!process::is_alive(first[0])).then_some(())).unwrap();
    scene.stop(Signal::SIGTERM).unwrap();
    wait_for("the end of the second one", || tunnels(&scene).is_empty().then_some(())).unwrap();
}

/// Servers that are not there, are not the ones meant, do not want us, or say nothing: a clear line, a status, and no
/// hang. The own server is none the worse.
///
/// Fails when a server that shows another certificate is spoken to, or one that says nothing is waited for.
#[test]
fn a_server_that_cannot_be_used_is_told() {
    let Some(scene) = Scene::start(Server::Incus6, "nowhere").unwrap() else { return };
    let trusted = elsewhere(&scene);
    let conf = scene.path("incus");
    let name = scene.container.name().to_owned();
    let mute = scene.bed.netns().enter(|| TcpListener::bind("127.0.0.1:0")).unwrap().unwrap();
    let mute_at = mute.local_addr().unwrap().to_string();
    remotes(
        &scene,
        &[
            ("r1", HTTPS_ADDRESS),
            ("other", HTTPS_ADDRESS),
            ("known", HTTPS_ADDRESS),
            ("mute", &mute_at),
            ("dead", "127.0.0.1:9"),
        ],
    );
    certificate(scene.dir(), "other").unwrap();
    fs::copy(scene.dir().join("other.crt"), conf.join("servercerts/other.crt")).unwrap();
    let told = |remote: &str| error(&command(&scene, &format!("{remote}:{name}"), "echo no", b""));
    let says = |text: &str| format!("portway: {text}\n");
    let no_way = |why: &str| (Some(255), says(&format!("instance {name}: no way there: {why}")));
    assert_eq!(told("none"), (Some(1), says("there is no server none")));
    assert_eq!(told("other"), no_way("its certificate is another than the one it has to have"));
    assert_eq!(told("known"), no_way("its certificate is signed by nobody whom this host trusts"));
    // By the tunnel, or on a slow machine by whoever waits for it.
    let (status, words) = told("mute");
    assert!(status == Some(255) && words.ends_with("does not answer\n"), "{status:?} {words}");
    assert_eq!(told("dead"), (Some(255), says("the server of the instance does not answer")));
    assert!(scene.log().contains("no way to a server") && scene.log().contains("dead"), "{}", scene.log());
    assert_eq!(
        command(&scene, &format!("r1:{name}"), "exit 8", b"").status.code(),
        Some(8),
        "{}",
        scene.log()
    );
    drop(trusted);
    assert_eq!(told("r1"), (Some(255), says("the server of the instance turns the gateway away")));
    fs::remove_file(conf.join("client.crt")).unwrap();
    assert_eq!(told("r1"), (Some(255), says("the server of the instance does not answer")));
    assert!(scene.log().contains("client.crt"), "{}", scene.log());
    assert_eq!(scene.said("echo here").unwrap(), "here\n");
}

/// Fails when `--url` and its certificates, or `--remote`, do not say where a login without a server leads.
#[test]
fn flags_say_which_server_is_the_gateways() {
    let Some(mut scene) = Scene::start(Server::Incus6, "flagged").unwrap() else { return };
    let _trusted = elsewhere(&scene);
    let conf = scene.path("incus");
    let file = |name: &str| conf.join(name).display().to_string();
    let url = format!("https://{HTTPS_ADDRESS}");
    scene.stop(Signal::SIGTERM).unwrap();
    scene.arguments =
        ["-u", &url, "-c", &file("client.crt"), "-k", &file("client.key"), "-t"].map(str::to_owned).to_vec();
    scene.arguments.push(file("servercerts/r1.crt"));
    scene.launch().unwrap();
    assert_eq!(scene.said("echo by url").unwrap(), "by url\n");
    assert_eq!(tunnels(&scene).len(), 1);
    scene.stop(Signal::SIGTERM).unwrap();
    scene.arguments = ["--remote", "r1"].map(str::to_owned).to_vec();
    scene.launch().unwrap();
    assert_eq!(scene.said("echo by name").unwrap(), "by name\n");
    let local = format!("local:{}", scene.container.name());
    assert_eq!(command(&scene, &local, "echo here", b"").stdout, b"here\n");
    let remotes: Vec<String> = scene
        .audit()
        .unwrap()
        .into_iter()
        .filter(|line| line["event"] == "login")
        .map(|line| line["remote"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(remotes, ["local", "r1", "local"]);
}

/// Fails when whoever may come in reaches every server that the gateway knows.
#[test]
fn a_policy_says_which_servers() {
    let Some(scene) = Scene::start(Server::Incus6, "policed").unwrap() else { return };
    let _trusted = elsewhere(&scene);
    let rule = "[[rule]]\nusers = [\"root\"]\nremotes = [\"local\"]\nallow = [\"*\"]\n";
    fs::write(scene.path("p/ssh-policy.toml"), rule).unwrap();
    let far = format!("r1:{}", scene.container.name());
    let output = command(&scene, &far, "echo in", b"");
    assert!(output.stdout.is_empty() && output.status.code() == Some(255), "{output:?}");
    assert_eq!(scene.said("echo in").unwrap(), "in\n");
    assert!(tunnels(&scene).is_empty(), "nobody was asked");
}
