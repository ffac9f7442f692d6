//! A project with all that one has, a gate before its server, and what must be so in the end.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use portway_testkit::{Deed, Front, Gate, Manner, Verdict};
use serde_json::{Value, json};

use crate::scene::{Said, Scene};

/// What takes longer stands still.
const PATIENCE: Duration = Duration::from_secs(120);

/// A moment in the life of a command.
#[derive(Debug, Clone)]
pub(crate) struct Moment {
    /// Which request, from 1.
    pub(crate) number: usize,
    /// Which requests count.
    pub(crate) counts: Counts,
    /// What is done with it.
    pub(crate) deed: Deed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counts {
    All,
    /// Those that change something.
    Changes,
}

impl Counts {
    fn includes(self, line: &str) -> bool {
        self == Counts::All || !line.starts_with("GET ")
    }
}

impl Moment {
    /// Every moment of a command that has made these requests: before, within and after each change, and before each look.
    pub(crate) fn all(requests: &[String]) -> Vec<Moment> {
        let (mut all, mut changes) = (Vec::new(), 0);
        for (at, line) in requests.iter().enumerate() {
            if Counts::Changes.includes(line) {
                changes += 1;
                let deeds = [Deed::HoldBefore, Deed::HoldWithin, Deed::HoldAfter];
                all.extend(deeds.map(|deed| Moment { number: changes, counts: Counts::Changes, deed }));
            } else {
                all.push(Moment { number: at + 1, counts: Counts::All, deed: Deed::HoldBefore });
            }
        }
        all
    }

    /// So many of them, as far from each other as can be.
    pub(crate) fn some(requests: &[String], count: usize) -> Vec<Moment> {
        let mut all = Moment::all(requests);
        all.retain(|moment| moment.counts == Counts::Changes);
        let step = (all.len() / count).max(1);
        // Another kind of moment each time: there are three of each request.
        let step = if step.is_multiple_of(3) { step + 1 } else { step };
        all.into_iter().step_by(step).collect()
    }
}

/// The project and the gate.
pub(crate) struct Stand {
    pub(crate) scene: Scene,
    pub(crate) gate: Arc<Gate>,
    front: RefCell<Front>,
    port: u16,
    /// Networks that it has had.
    networks: RefCell<BTreeSet<String>>,
}

impl Stand {
    pub(crate) fn open(name: &str) -> Option<Stand> {
        let scene = Scene::open(name)?;
        std::fs::write(scene.dir().join(".env"), "WORD=said\n").unwrap();
        let gate = Arc::new(Gate::default());
        let socket = scene.dir().join("gate");
        let front = Front::start(&socket, &scene.bed.socket(), Manner::Gate(Arc::clone(&gate))).unwrap();
        let port = scene.free_port();
        let stand = Stand { scene, gate, front: RefCell::new(front), port, networks: RefCell::default() };
        stand.write(1);
        Some(stand)
    }

    /// The files. Another version makes `db` anew beside the one there is, and changes `web`.
    pub(crate) fn write(&self, version: u32) {
        let extra = if version.is_multiple_of(2) { ", 'data:/more'" } else { "" };
        self.scene.write(&format!(
            "services:
  web:
    image: bb
    command: [sh, -c, 'mkdir -p /www; cp /run/secrets/word /www; echo $$VERSION > /www/version; exec httpd -f -p 80 -h /www']
    environment: {{VERSION: '{version}'}}
    ports: ['127.0.0.1:{}:80']
    secrets: [word]
    networks: [front, back]
    depends_on: {{db: {{condition: service_healthy}}}}
    stop_grace_period: 0s
  db:
    image: bb
    command: [sh, -c, 'echo begun; touch /ready; exec sleep 100000']
    healthcheck: {{test: [CMD, test, -e, /ready], interval: 100ms, retries: 300}}
    volumes: ['data:/data'{extra}]
    networks: [back]
    stop_grace_period: 0s
volumes: {{data: }}
networks: {{front: , back: {{internal: true}}}}
secrets: {{word: {{environment: WORD}}}}
",
            self.port
        ));
    }

    /// Starts a command behind the gate.
    fn start(&self, args: &[&str]) -> Child {
        let mut command = self.scene.command(args);
        command.env("INCUS_SOCKET", self.scene.dir().join("gate"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        self.scene.bed.netns().spawn(&mut command).unwrap()
    }

    /// The requests of a command that comes to its end.
    pub(crate) fn requests(&self, args: &[&str]) -> Vec<String> {
        self.gate.clear();
        let said = Said::of(self.start(args).wait_with_output().unwrap());
        assert_eq!(said.code, Some(0), "{args:?}: {said:?}");
        self.gate.requests()
    }

    fn set(&self, moment: &Moment) {
        let (seen, Moment { number, counts, deed }) = (AtomicUsize::new(0), moment.clone());
        let is_it = move |_: usize, line: &str| {
            counts.includes(line) && seen.fetch_add(1, Ordering::Relaxed) + 1 == number
        };
        self.gate.set(is_it, deed);
    }

    /// Runs a command, and the socket of its server is gone from this moment to its end.
    pub(crate) fn leave(&self, args: &[&str], moment: &Moment) -> Said {
        self.set(moment);
        let said = self.until(args, |_| {
            self.front.borrow_mut().go_away();
            self.gate.judge(Verdict::End);
        });
        self.front.borrow_mut().come_back().unwrap();
        said.expect("it comes that far")
    }

    /// Runs a command whose first question for the end of this change is held for so long, and then answered so, or goes on.
    pub(crate) fn keep(&self, args: &[&str], change: &'static str, long: Duration, deed: Deed) -> Said {
        let is_made = AtomicBool::new(false);
        let is_it = move |_: usize, line: &str| {
            is_made.fetch_or(line.starts_with(change), Ordering::Relaxed);
            let is_it = is_made.load(Ordering::Relaxed) && line.starts_with("GET /1.0/operations/");
            if is_it {
                std::thread::sleep(long);
            }
            is_it
        };
        self.gate.set(is_it, deed);
        let said = self.until(args, |_| self.gate.judge(Verdict::GoOn));
        said.expect("it comes that far")
    }

    /// Runs a command to the moment that was set, where `then` is done to it; what it has said. `None` when it has ended
    /// before.
    fn until(&self, args: &[&str], then: impl FnOnce(&mut Child)) -> Option<Said> {
        let mut child = self.start(args);
        let begin = std::time::Instant::now();
        let mut ended: Option<ExitStatus> = None;
        while !self.gate.is_done() && ended.is_none() {
            std::thread::sleep(Duration::from_millis(1));
            ended = child.try_wait().unwrap();
            assert!(begin.elapsed() < PATIENCE, "{args:?} stands still: {:?}", self.gate);
        }
        if !self.gate.is_done() {
            let said = Said::of(child.wait_with_output().unwrap());
            assert_eq!(said.code, Some(0), "{args:?}: {said:?}");
            return None;
        }
        then(&mut child);
        Some(Said::of(child.wait_with_output().unwrap()))
    }

    /// Runs a command, which is killed at this moment; whether it came that far.
    pub(crate) fn kill(&self, args: &[&str], moment: &Moment) -> bool {
        self.set(moment);
        let killed = self.until(args, |child| {
            child.kill().unwrap();
            child.wait().unwrap();
            self.gate.judge(Verdict::End);
        });
        killed.is_some()
    }

    /// Runs a command, which is killed before the first request that begins so.
    pub(crate) fn kill_before(&self, args: &[&str], change: &'static str) {
        self.kill_at(args, change, Deed::HoldBefore);
    }

    /// The same, once the server has it.
    pub(crate) fn kill_within(&self, args: &[&str], change: &'static str) {
        self.kill_at(args, change, Deed::HoldWithin);
    }

    fn kill_at(&self, args: &[&str], change: &'static str, deed: Deed) {
        self.gate.set(move |_, line| line.starts_with(change), deed);
        let killed = self.until(args, |child| {
            child.kill().unwrap();
            child.wait().unwrap();
            self.gate.judge(Verdict::End);
        });
        assert!(killed.is_some(), "no {change}: {:?}", self.gate);
    }

    /// Runs a command, which gets a signal at this moment; what it has said.
    pub(crate) fn signal(&self, args: &[&str], moment: &Moment, signal: &str) -> Option<Said> {
        self.set(moment);
        self.until(args, |child| {
            let pid = child.id().to_string();
            let sent = std::process::Command::new("kill").args(["-s", signal, &pid]).status().unwrap();
            assert!(sent.success());
            // It is heard beside the answer.
            std::thread::sleep(Duration::from_millis(20));
            self.gate.judge(Verdict::GoOn);
        })
    }

    /// Runs a command, before whose first request that begins so something else is done.
    pub(crate) fn meanwhile(&self, args: &[&str], change: &'static str, then: impl FnOnce()) -> Said {
        self.gate.set(move |_, line| line.starts_with(change), Deed::HoldBefore);
        let said = self.until(args, |_| {
            then();
            self.gate.judge(Verdict::GoOn);
        });
        said.expect("it comes that far")
    }

    /// Runs a command through the gate, which does this to the first request that begins so.
    pub(crate) fn answered(&self, args: &[&str], request: &'static str, deed: Deed) -> Said {
        self.gate.set(move |_, line| line.starts_with(request), deed);
        self.until(args, |_| {}).expect("it comes that far")
    }

    /// Runs a command through the gate, which does this to one of its requests.
    pub(crate) fn through(&self, args: &[&str], moment: &Moment) -> Option<Said> {
        self.set(moment);
        self.until(args, |_| {})
    }

    /// `up -d` ends well, and there is all that the files say and no more.
    pub(crate) fn up_is_well(&self, version: u32, about: &dyn std::fmt::Debug) {
        let scene = &self.scene;
        let up = scene.run(&["up", "-d"]);
        assert_eq!(up.code, Some(0), "{about:?}: {up:?}");
        let dry = scene.ok(&["up", "-d", "--dry-run"]);
        assert_eq!(dry.out, "", "{about:?}: something is still to be done");
        assert_eq!(scene.instances(), ["db-1 Running", "web-1 Running"], "{about:?}");
        let project = scene.all()["project"]["config"].clone();
        assert!(project.get("user.portway.lock").is_none(), "{about:?}: {project:#}");
        assert_eq!(scene.fetch(self.port, "/version"), format!("{version}\n"), "{about:?}");
        assert_eq!(scene.fetch(self.port, "/word"), "said", "{about:?}");
        let names = scene.exec("web-1", "ping -c 1 -w 5 db");
        assert!(names.status.success(), "{about:?}: {names:?}");
        let networks = scene.networks();
        self.networks.borrow_mut().extend(networks.iter().map(|one| one["name"].as_str().unwrap().into()));
    }

    /// What is there in words that do not change from one project to the next: names, keys and states.
    pub(crate) fn shape(&self) -> Value {
        let all = self.scene.all();
        let keys = |map: &Value| -> Vec<String> {
            let names = map.as_object().unwrap().keys();
            names.filter(|key| !key.starts_with("volatile.")).cloned().collect()
        };
        let list = |what: &str| all[what].as_array().cloned().unwrap_or_default();
        let instance = |one: &Value| {
            let devices = one["devices"].as_object().unwrap();
            let devices: Vec<Value> = devices.iter().map(|(name, of)| json!([name, keys(of)])).collect();
            json!([one["name"], one["status"], one["profiles"], keys(&one["config"]), devices])
        };
        let mut networks: Vec<Value> = list("networks")
            .iter()
            .map(|one| json!([one["config"]["user.portway.key"], keys(&one["config"])]))
            .collect();
        networks.sort_by_key(Value::to_string);
        json!({
            "project": keys(&all["project"]["config"]),
            "instances": list("instances").iter().map(instance).collect::<Vec<_>>(),
            "volumes": list("volumes").iter().map(|one| json!([one["name"], keys(&one["config"])])).collect::<Vec<_>>(),
            "networks": networks,
        })
    }

    /// Writes into the volume.
    pub(crate) fn remember(&self) {
        let written = self.scene.exec("db-1", "echo kept > /data/word");
        assert!(written.status.success(), "{written:?}");
    }

    /// What was written is there. Asked by the program: where there is much to do the server's own client loses what one
    /// says that ends at once.
    pub(crate) fn remembers(&self, about: &dyn std::fmt::Debug) {
        let read = self.scene.ok(&["exec", "-T", "db", "cat", "/data/word"]);
        assert_eq!(read.out, "kept\n", "{about:?}: {read:?}");
    }

    /// `down -v` ends well and nothing is left; the bridges that the server has left behind are named.
    pub(crate) fn down_is_well(&self, about: &dyn std::fmt::Debug) {
        let scene = &self.scene;
        let down = scene.run(&["down", "-v"]);
        assert_eq!(down.code, Some(0), "{about:?}: {down:?}");
        assert!(scene.is_gone(), "{about:?}: {:#}", scene.all());
        let lists = scene.bed.incus().get("/1.0/network-acls?recursion=1").unwrap();
        let own = |one: &&Value| one["config"]["user.portway.project"] == scene.name.as_str();
        let left: Vec<&Value> = lists.as_array().unwrap().iter().filter(own).collect();
        assert!(left.is_empty(), "{about:?}: {left:?}");
        let all = scene.bed.incus().get("/1.0/networks?recursion=1").unwrap();
        for one in all.as_array().unwrap() {
            let name = one["name"].as_str().unwrap();
            if self.networks.borrow().contains(name) {
                assert_eq!(one["managed"], false, "{about:?}: {one}");
                println!("{about:?}: the server has left the bridge {name} behind");
            }
        }
    }
}
