//! A session that is taken over, played by a process that does nothing.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::process::{Child as StdChild, Command, Stdio};
use std::sync::atomic::AtomicU64;

use portway_config::LogFilter;

use super::*;
use crate::audit::Audit;
use crate::broker::count::Count;
use crate::broker::drain::Drain;
use crate::broker::house::House;
use crate::broker::judge::{Judge, Places};
use crate::broker::make::Makers;
use crate::broker::mux::Muxes;
use crate::broker::roll::Roll;
use crate::broker::servers::{Servers, Setting};
use crate::broker::starts::Starts;
use crate::broker::{ServeOptions, ServerPlaces};
use crate::options::{Options, Values};
use crate::remotes::{At, LOCAL};
use crate::wire::{Asked, Request, UNANSWERED};

/// A broker that listens nowhere.
fn broker(dir: &std::path::Path) -> Arc<Broker> {
    let options = ServeOptions {
        options: Arc::new(Options::new(&Values::default()).expect("options")),
        host_key: dir.join("key"),
        policy: dir.join("ssh-policy.toml"),
        auth: dir.join("ssh-auth.toml"),
        create: dir.join("create-config.yaml"),
        made: dir.join("ssh-made"),
        history: dir.join("history"),
        banner: dir.join("banner.txt"),
        welcome: dir.join("welcome.txt"),
        sessions: dir.join("ssh"),
        audit: dir.join("audit"),
        servers: ServerPlaces {
            own: Some(At::Socket(dir.join("incus"))),
            folder: None,
            default: LOCAL.to_owned(),
        },
        ids: None,
        log: LogFilter::default(),
        replace: false,
    };
    let places = Places {
        policy: options.policy.clone(),
        settings: options.auth.clone(),
        totp_dir: dir.join("ssh-totp"),
    };
    let setting = Setting { ids: None, log: String::new() };
    let servers = Arc::new(Servers::new(options.servers.clone(), setting));
    Arc::new(Broker {
        judge: Judge::new(Arc::clone(&options.options), places, Arc::clone(&servers)),
        servers,
        host_keys: Vec::new(),
        audit: Audit::open(options.audit.clone()).expect("a log"),
        roll: Roll::open(options.sessions.clone(), Duration::ZERO).expect("a roll"),
        gate: Mutex::default(),
        waiting: Mutex::new(BTreeMap::new()),
        next: AtomicU64::new(0),
        count: Count::default(),
        starting: tokio_util::task::TaskTracker::new(),
        starts: Starts::default(),
        makers: Makers::default(),
        house: House::open(options.made.clone()).expect("a house"),
        history: crate::broker::history::History::new(options.history.clone()),
        muxes: Muxes::default(),
        drain: Drain::default(),
        options,
    })
}

fn sleeper() -> StdChild {
    Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().expect("a process")
}

fn record(process: &StdChild) -> Record {
    let pid = i32::try_from(process.id()).expect("a pid");
    let grant = serde_json::json!({
        "person": "root", "key": "SHA256:x", "project": "default", "instance": "c1", "instance_user": "root",
    });
    Record {
        version: PROTOCOL_VERSION,
        session: "one".to_owned(),
        pid,
        start_time: pidfd::start_time(pid).expect("a time"),
        since: rfc3339(SystemTime::now()),
        since_seconds: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |at| at.as_secs())
            - 100,
        peer: "192.0.2.1:4711".parse().expect("an address"),
        connection: "192.0.2.1 4711 192.0.2.2 2222".to_owned(),
        grant: serde_json::from_value(grant).expect("a grant"),
        identity: None,
    }
}

/// What the audit log has, events by their order and the last line.
fn logged(broker: Arc<Broker>) -> (Vec<String>, serde_json::Value) {
    let path = broker.options.audit.clone();
    drop(Arc::into_inner(broker).expect("nobody else has it"));
    let text = std::fs::read_to_string(path).expect("a log");
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let events = lines.iter().map(|line| line["event"].as_str().unwrap_or_default().to_owned());
    (events.collect(), lines.last().cloned().unwrap_or_default())
}

/// Plays a session over its link to the end of its broker's interest in it.
async fn played(play: impl FnOnce(Channel)) -> (bool, Vec<String>, serde_json::Value) {
    let dir = tempfile::tempdir().expect("a folder");
    let broker = broker(dir.path());
    let mut process = sleeper();
    let record = record(&process);
    let listener = broker.roll.enter(&record).expect("a listener");
    let serving = tokio::spawn(take_over(Arc::clone(&broker), record));
    let link = loop {
        match Channel::accept(listener.as_fd()) {
            Ok(link) => break link,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    play(link);
    serving.await.expect("no panic");
    let is_dead =
        pidfd::exited(pidfd::open(i32::try_from(process.id()).expect("a pid")).expect("it").as_fd());
    // Whatever came of it, nothing is left of the test.
    let _gone = process.kill();
    process.wait().expect("reaped");
    let (events, last) = logged(broker);
    (is_dead, events, last)
}

/// Fails when a session that closes its link hides from the gateway by it, or its time counts from the take-over.
#[tokio::test(start_paused = true)]
async fn a_session_that_hides_is_ended() {
    let (is_dead, events, last) = played(drop).await;
    assert!(is_dead, "it lives on and nobody knows");
    assert_eq!(events, ["left"]);
    assert!(last["seconds"].as_u64().is_some_and(|seconds| seconds >= 100), "{last}");
}

/// Fails when a session may send what it likes once its gateway has been followed by another, or what ran with it has
/// no end in the log.
#[tokio::test]
async fn a_session_that_garbles_is_ended() {
    let resume = Asked { id: 0, request: Request::Resume { running: vec![3] } };
    let (is_dead, events, _) = played(move |link| {
        link.send(&wire::encode(&resume, &[]).expect("a packet"), &[]).expect("sent");
        link.send(b"no message\n", &[]).expect("sent");
        // It would go on, if it were left.
        std::mem::forget(link);
    })
    .await;
    assert!(is_dead);
    assert_eq!(events, ["breach", "ended", "left"]);
}

/// Fails when what a session had no room to tell is in no line, or a session may have as many such lines as it likes.
#[tokio::test]
async fn what_a_session_lost_is_a_line() {
    let (_, events, last) = played(|link| {
        let say = |request| {
            let packet = wire::encode(&Asked { id: UNANSWERED, request }, &[]).expect("a packet");
            // It is cut off at some time.
            let _cut = link.send(&packet, &[]);
        };
        say(Request::Resume { running: Vec::new() });
        (0..100).for_each(|_| say(Request::Lost { lines: 72 }));
        std::mem::forget(link);
    })
    .await;
    let lost = events.iter().filter(|event| *event == "lost").count();
    assert_eq!((lost, &events[lost..]), (64, &["breach".to_owned(), "left".to_owned()][..]));
    assert!(last["seconds"].as_u64().is_some(), "{last}");
}
