//! The client's agent inside: `-A`, with OpenSSH's client, agent and programs.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use nix::sys::signal::Signal;
use portway_testkit::{Server, run, wait_for};
use serde_json::Value;

use crate::remotes::elsewhere;
use crate::scene::{Scene, Victim};
use crate::tty::Tty;

/// A gateway whose container has these programs of this machine's, with the libraries they need.
pub(crate) fn furnished(server: Server, name: &str, programs: &[&str]) -> Option<Scene> {
    let scene = Scene::start(server, name).unwrap()?;
    let rootfs = scene.container.rootfs();
    for program in programs {
        let program = format!("/usr/bin/{program}");
        let linked = run(Command::new("ldd").arg(&program)).unwrap();
        let libraries = linked.split_whitespace().filter(|word| word.starts_with('/'));
        for file in libraries.chain([program.as_str()]) {
            let copy = rootfs.join(file.trim_start_matches('/'));
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            if !copy.exists() {
                fs::copy(file, copy).unwrap();
            }
        }
    }
    Some(scene)
}

/// What an agent is used by.
const PROGRAMS: [&str; 2] = ["ssh-add", "ssh-keygen"];

/// An agent with a key of its own; ended on drop.
struct Agent {
    child: Child,
    socket: PathBuf,
    /// What lists it.
    listed: String,
}

impl Agent {
    fn start(scene: &Scene) -> Self {
        let (socket, key) = (scene.path("agent"), scene.path("lent"));
        let mut command = Command::new("ssh-agent");
        command.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null());
        let child = command.spawn().unwrap();
        wait_for("the agent", || socket.exists().then_some(())).unwrap();
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "lent", "-f"]).arg(&key))
            .unwrap();
        run(Command::new("ssh-add").arg("-q").arg(&key).env("SSH_AUTH_SOCK", &socket)).unwrap();
        let listed = run(Command::new("ssh-keygen").arg("-lf").arg(&key)).unwrap();
        Self { child, socket, listed }
    }

    /// OpenSSH's client with this agent, which it logs in without.
    fn client(&self, scene: &Scene, options: &[&str]) -> Command {
        let own = scene.options("key").into_iter();
        let mut command = Command::new("ssh");
        // Who uses no agent himself lends none.
        command.args(own.map(|word| word.replace("IdentityAgent=none", "IdentityAgent=SSH_AUTH_SOCK")));
        command.args(options).args(["-p", &scene.port.to_string()]).env("SSH_AUTH_SOCK", &self.socket);
        command.env_remove("LANG").env_remove("LC_ALL");
        command
    }

    /// Runs a command inside with it.
    fn command(&self, scene: &Scene, login: &str, words: &str) -> Output {
        scene.talk(self.client(scene, &["-A"]).args([&Scene::at(login), words]), b"").unwrap()
    }

    /// A command that tells its socket and does the rest when it has been told something.
    fn waiting(&self, scene: &Scene, options: &[&str], login: &str, rest: &str) -> Waiting {
        let mut client = self.client(scene, options);
        let words = format!("echo $SSH_AUTH_SOCK; read go; {rest}");
        client.args([&Scene::at(login), &words]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = scene.bed.netns().spawn(&mut client).unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut socket = String::new();
        output.read_line(&mut socket).unwrap();
        Waiting { child, output, socket: socket.trim().to_owned() }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A client whose command waits; ended on drop.
struct Waiting {
    child: Child,
    output: BufReader<ChildStdout>,
    socket: String,
}

impl Waiting {
    /// Has it go on; what it says then.
    fn goes_on(&mut self) -> String {
        self.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let mut said = String::new();
        self.output.read_to_string(&mut said).unwrap();
        said
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// What a script in the container says; a server that is busy loses what is said at once.
pub(crate) fn heard(scene: &Scene, script: &str) -> String {
    let said = || Some(scene.container.sh(script).unwrap()).filter(|said| !said.is_empty());
    wait_for("a word", said).unwrap()
}

/// What the agents of all that ran have left in the container.
pub(crate) fn left(scene: &Scene) -> String {
    scene.container.sh("ls -d /tmp/ssh-* /dev/shm/ssh-* 2>/dev/null; grep ssh- /proc/net/unix; true").unwrap()
}

fn nothing_is_left(scene: &Scene) {
    let mut last = String::new();
    let is_clean = || {
        last = left(scene);
        last.trim().is_empty().then_some(())
    };
    assert!(wait_for("the end of all of it", is_clean).is_ok(), "left: {last}");
}

/// Lines of the audit log that are so.
pub(crate) fn noted(scene: &Scene, is_so: impl Fn(&Value) -> bool) -> Value {
    let found = || scene.audit().unwrap().into_iter().find(|line| is_so(line));
    wait_for("a line of the audit log", found).unwrap()
}

/// A key that stays with its client is listed inside, and signs.
fn it_is_lent(server: Server, is_far: bool) {
    let Some(scene) = furnished(server, "agent", &PROGRAMS) else { return };
    let _trusted = is_far.then(|| elsewhere(&scene));
    let agent = Agent::start(&scene);
    let far = if is_far { "r1:" } else { "" };
    let bob = format!("{far}bob@{}", scene.container.name());
    let root = format!("{far}{}", scene.container.name());
    for login in [&bob, &root] {
        let output = agent.command(&scene, login, "ssh-add -l");
        assert_eq!(text(&output), agent.listed, "{login}: {}", scene.log());
    }
    let sign = "ssh-add -L >key.pub && ssh-keygen -Y sign -q -f key.pub -n file - <key.pub 2>/dev/null";
    let output = agent.command(&scene, &bob, &format!("cd /tmp && {sign}"));
    fs::write(scene.path("signature"), &output.stdout).unwrap();
    let mut verify = Command::new("ssh-keygen");
    verify.args(["-Y", "check-novalidate", "-n", "file", "-s"]).arg(scene.path("signature"));
    let signed = fs::File::open(scene.path("lent.pub")).unwrap();
    let verified = run(verify.stdin(signed)).unwrap();
    assert!(verified.contains("Good \"file\" signature"), "{verified}");
    nothing_is_left(&scene);
}

/// Fails when a key cannot be used inside, or anything of it stays there.
#[test]
fn an_agent_is_lent() {
    it_is_lent(Server::Incus6, false);
}

#[test]
fn an_agent_is_lent_on_lxd() {
    it_is_lent(Server::Lxd, false);
}

#[test]
fn an_agent_is_lent_on_a_server_elsewhere() {
    it_is_lent(Server::Incus7, true);
}

/// Fails when somebody has an agent who did not ask for it, or another user of the instance comes to it.
#[test]
fn only_who_asked_has_it() {
    let Some(scene) = furnished(Server::Incus6, "whose", &PROGRAMS) else { return };
    let agent = Agent::start(&scene);
    let bob = format!("bob@{}", scene.container.name());
    let control = format!("ControlPath={}", scene.path("cm").display());
    let master = ["-N", "-A", "-o", "ControlMaster=yes", "-o", &control];
    let mut master = agent.client(&scene, &master);
    let mut master = scene.bed.netns().spawn(master.arg(Scene::at(&bob))).unwrap();
    wait_for("the master", || scene.path("cm").exists().then_some(())).unwrap();
    let shared = ["-A", "-o", &control];
    let mut first = agent.waiting(&scene, &shared, &bob, "ssh-add -l");
    let mut second = agent.waiting(&scene, &shared, &bob, "ssh-add -l");
    let mut without = agent.waiting(&scene, &["-a", "-o", &control], &bob, "ssh-add -l 2>&1");
    assert!(first.socket.starts_with("/tmp/ssh-") && second.socket != first.socket, "{}", first.socket);
    assert_eq!(without.socket, "");
    assert!(without.goes_on().contains("not open a connection"), "it has none");
    let folder = first.socket.rsplit_once('/').unwrap().0.to_owned();
    let modes = heard(&scene, &format!("stat -c '%a %u' {folder} {}", first.socket));
    assert_eq!(modes, "700 1000\n600 1000\n");
    let variable = format!("SSH_AUTH_SOCK={}", first.socket);
    let by = |user: &str| {
        let words = ["exec", "--user", user, "--group", user, "--env", &variable, "--env", "PATH=/usr/bin"];
        let words = [&words[..], &[scene.container.name(), "--", "ssh-add", "-l"]].concat();
        let said = || Some(text(&scene.bed.client_output(&words).unwrap())).filter(|said| !said.is_empty());
        wait_for("a word", said).unwrap()
    };
    assert_eq!(by("1000"), agent.listed);
    let other = by("4711");
    assert!(other.contains("Permission denied"), "{other}");
    // One that ends takes its own and no other.
    assert_eq!(first.goes_on(), agent.listed);
    wait_for("its end", || (!left(&scene).contains(&folder)).then_some(())).unwrap();
    assert_eq!(second.goes_on(), agent.listed);
    let started = |line: &Value| line["event"] == "started";
    assert_eq!(
        scene.audit().unwrap().iter().filter(|line| started(line) && line["agent"] == true).count(),
        2
    );
    let line = noted(&scene, |line| line["event"] == "forwarded" && line["way"] == "agent");
    assert!(line["bytes_out"].as_u64() > Some(0) && line["end"] == "closed", "{line}");
    master.kill().unwrap();
    master.wait().unwrap();
    nothing_is_left(&scene);
}

/// Fails when a key or the policy is not asked.
#[test]
fn keys_and_policy_say_who_lends() {
    let Some(scene) = furnished(Server::Incus6, "lends", &PROGRAMS) else { return };
    let agent = Agent::start(&scene);
    let bob = format!("bob@{}", scene.container.name());
    let key = fs::read_to_string(scene.path("key.pub")).unwrap();
    let has_it = || {
        let output = agent.command(&scene, &bob, "ssh-add -l");
        let said = text(&output);
        assert!(said == agent.listed || said.contains("not open a connection"), "{said} {}", scene.log());
        said == agent.listed
    };
    for (options, expected) in [
        ("no-agent-forwarding", false),
        ("restrict", false),
        ("restrict,agent-forwarding", true),
        ("no-port-forwarding,no-x11-forwarding", true),
    ] {
        fs::write(scene.path("home/.ssh/authorized_keys"), format!("{options} {key}")).unwrap();
        assert_eq!(has_it(), expected, "{options}");
    }
    let policy = "[[rule]]\nusers = [\"root\"]\nallow = [\"shell\", \"exec\"]\n";
    fs::write(scene.path("p/ssh-policy.toml"), policy).unwrap();
    assert!(!has_it());
    nothing_is_left(&scene);
}

/// Fails when anything of an agent is left in the instance, however its client ends.
#[test]
fn nothing_of_it_outlives_its_client() {
    let Some(mut scene) = furnished(Server::Incus6, "leaves", &PROGRAMS) else { return };
    let agent = Agent::start(&scene);
    let bob = format!("bob@{}", scene.container.name());
    for victim in Victim::EACH {
        let mut waiting = agent.waiting(&scene, &["-A"], &bob, "true");
        // A busy server may lose what a short program says.
        let is_there = || left(&scene).contains(&waiting.socket).then_some(());
        wait_for("its socket", is_there).unwrap();
        scene.kill(victim, &mut waiting.child).unwrap();
        nothing_is_left(&scene);
        scene.recover().unwrap();
    }
}

/// Fails when an agent ends with the gateway.
#[test]
fn it_outlives_a_gateway() {
    let Some(mut scene) = furnished(Server::Incus7, "outlives", &PROGRAMS) else { return };
    let agent = Agent::start(&scene);
    let bob = format!("bob@{}", scene.container.name());
    let mut alone = agent.waiting(&scene, &["-A"], &bob, "ssh-add -l");
    let mut taken_over = agent.waiting(&scene, &["-A"], &bob, "ssh-add -l");
    scene.stop(Signal::SIGKILL).unwrap();
    assert_eq!(alone.goes_on(), agent.listed, "{}", scene.log());
    scene.launch().unwrap();
    assert_eq!(taken_over.goes_on(), agent.listed, "{}", scene.log());
    nothing_is_left(&scene);
}

/// A session that stays has the agent of who came last with one, by one name.
#[test]
fn a_session_that_stays_has_who_came_last() {
    let Some(scene) = furnished(Server::Incus6, "stays", &PROGRAMS) else { return };
    let agent = Agent::start(&scene);
    let login = Scene::at(&format!("keep=a,bob@{}", scene.container.name()));
    let open = |options: &[&str]| {
        let mut client = agent.client(&scene, &[&["-tt", "-e", "none"], options].concat());
        client.arg(&login);
        Tty::run(&scene, client, 100, 24)
    };
    let fingerprint = agent.listed.split(' ').nth(1).unwrap();
    let mut first = open(&["-A"]);
    first.keys("clear; echo sock=$SSH_AUTH_SOCK; ssh-add -l\r");
    first.shows("sock=/tmp/portway-1000/a.auth");
    first.shows(fingerprint);
    first.kill();
    nothing_is_left(&scene);
    let mut without = open(&["-a"]);
    without.keys("clear; ssh-add -l\r");
    without.shows("Error connecting to agent");
    let mut again = open(&["-A"]);
    again.shows("Error connecting to agent");
    again.keys("clear; ssh-add -l; exit 4\r");
    again.shows(fingerprint);
    assert_eq!((again.end(), without.end()), (Some(4), Some(4)));
    nothing_is_left(&scene);
    assert_eq!(scene.container.sh("ls -d /tmp/portway-* 2>/dev/null; true").unwrap(), "");
}
