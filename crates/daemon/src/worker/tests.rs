//! Workers that lie: what they say costs the daemon nothing that belongs to others.

use std::os::fd::{AsFd, OwnedFd};

use portway_model::DeviceSpec;
use portway_relay::wire::{
    FromWorker, Identity, Lifetime, Live, LiveState, SLOT_COUNT, Slot, ToWorker, WireDevice,
};
use portway_sys::pidfd;
use portway_sys::seqpacket::Channel;

use super::link::{Link, checked};
use super::record::{record, recorded};
use super::{Asker, Desk, Happened, News, Pending, Sink, WorkerError, attend};
use crate::watched::watched;

fn device() -> Box<WireDevice> {
    let keys = [("listen", "tcp:127.0.0.1:1"), ("connect", "tcp:127.0.0.1:2")];
    let spec = DeviceSpec::from_keys(keys).expect("keys of a device");
    Box::new(WireDevice {
        key: "x".into(),
        spec,
        base: None,
        base_name: None,
        replies: None,
        brokered: false,
        direct: None,
        note: String::new(),
    })
}

fn say(channel: &Channel, message: &FromWorker, descriptors: &[OwnedFd]) -> std::io::Result<()> {
    let packet = serde_json::to_vec(message).expect("a message is JSON");
    channel.send(&packet, &descriptors.iter().map(AsFd::as_fd).collect::<Vec<_>>())
}

fn socket() -> OwnedFd {
    Channel::pair().expect("a socket").0.into()
}

fn regular_file() -> OwnedFd {
    std::fs::File::open("/proc/self/status").expect("a file").into()
}

/// A table as a worker sends it, read by an adopting daemon.
async fn adopt(messages: Vec<(FromWorker, Vec<OwnedFd>)>) -> Result<usize, WorkerError> {
    let (ours, theirs) = Channel::pair().expect("a pair");
    let pid = i32::try_from(std::process::id()).expect("a pid");
    let link = Link::new(ours, pid, pidfd::open(pid).expect("a pidfd")).expect("a link");
    let liar = std::thread::spawn(move || {
        for (message, descriptors) in messages {
            if say(&theirs, &message, &descriptors).is_err() {
                return;
            }
        }
    });
    let table = link.table().await;
    drop(link);
    liar.join().expect("the worker's thread");
    table.map(|found| found.len())
}

fn entry(slot: u32, first: u32) -> FromWorker {
    entry_of(Slot::new(slot, 0), first)
}

fn entry_of(slot: Slot, first: u32) -> FromWorker {
    FromWorker::Entry { slot, device: device(), listen_count: 1, first }
}

#[tokio::test]
async fn a_table_is_believed_only_when_it_is_one() {
    let good = vec![(entry(0, 0), vec![socket()]), (entry(1, 0), vec![socket()]), (FromWorker::End, vec![])];
    assert_eq!(adopt(good).await.expect("a table"), 2);
    for bad in [
        vec![(entry(SLOT_COUNT, 0), vec![])],
        vec![(entry(0, 0), vec![]), (entry(0, 0), vec![])],
        vec![(entry(0, 1), vec![])],
        vec![(entry(0, 0), vec![]), (entry_of(Slot::new(0, 1), 0), vec![])],
        vec![(entry(0, 0), vec![]), (entry_of(Slot::new(0, 1), 1), vec![socket()])],
        vec![(entry(0, 0), vec![socket(), socket()])],
        vec![(entry(0, 0), vec![socket()]), (entry(0, 1), vec![socket()])],
        vec![(entry(0, 0), vec![regular_file()])],
    ] {
        assert!(matches!(adopt(bad).await, Err(WorkerError::Refused(_))));
    }
}

#[tokio::test]
async fn a_table_without_an_end_is_given_up() {
    let endless = (0..20_000).map(|_| (FromWorker::InstanceGone, vec![])).collect();
    assert!(matches!(adopt(endless).await, Err(WorkerError::Refused(_))));
}

#[tokio::test]
async fn news_of_a_worker_are_small_and_a_strange_one_ends_it() {
    let (ours, theirs) = Channel::pair().expect("a pair");
    ours.set_nonblocking(true).expect("a socket");
    let (sender, mut news) = tokio::sync::mpsc::channel::<News>(16);
    let instance = "netns:x".parse().expect("an instance");
    let sink = Sink { news: sender, access: std::sync::Arc::default(), instance };
    let channel = std::sync::Arc::new(watched(ours).expect("watched"));
    let answers = (Pending::default(), Default::default());
    tokio::spawn(attend("w".into(), channel, answers, (Lifetime::WithDaemon, sink)));
    let text = "x".repeat(50_000);
    say(&theirs, &FromWorker::Failure { slot: Slot::new(0, 0), count: 1, text }, &[socket(), socket()])
        .expect("sent");
    say(&theirs, &FromWorker::Orphan { slot: Slot::new(0, 0), index: 0 }, &[socket()]).expect("sent");
    say(&theirs, &FromWorker::InstanceGone, &[regular_file()]).expect("sent");
    let Some(News { what: Happened::Said(FromWorker::Failure { text, .. }, descriptors), .. }) =
        news.recv().await
    else {
        unreachable!("a failure was sent");
    };
    assert_eq!((text.len(), descriptors.len()), (super::TEXT_MAX_CHARS, 0));
    let orphan = news.recv().await.expect("an orphan was sent");
    assert!(matches!(orphan.what, Happened::Said(FromWorker::Orphan { .. }, found) if found.len() == 1));
    let end = news.recv().await.expect("a file ends the worker");
    assert!(matches!(end.what, Happened::Ended));
}

/// Answers every question with three connections, an answer to nobody's before, and that it goes on at 1.
fn lie(worker: &Channel) {
    let live = Live {
        id: 1,
        index: 0,
        client: None,
        via: None,
        target: None,
        age_ms: 0,
        idle_ms: 0,
        bytes_in: 0,
        bytes_out: 0,
        state: LiveState::Open,
    };
    let mut packet = Vec::new();
    while let Ok(Some(_)) = worker.recv(&mut packet) {
        let Ok(ToWorker::Connections { seq, .. }) = serde_json::from_slice(&packet) else { continue };
        for (seq, count) in [(seq + 1, 9), (seq, 3)] {
            let listed = vec![live.clone(); count];
            say(worker, &FromWorker::Connections { seq, listed, next: Some(1) }, &[]).expect("sent");
        }
    }
}

/// Fails when: a worker that leads round keeps the daemon asking, an answer to another question is taken, or the limit is
/// none.
#[tokio::test]
async fn a_list_ends_whatever_a_worker_says() {
    let (ours, theirs) = Channel::pair().expect("a pair");
    ours.set_nonblocking(true).expect("a socket");
    let (sink, _news) = tokio::sync::mpsc::channel::<News>(16);
    let channel = std::sync::Arc::new(watched(ours).expect("watched"));
    let desk = std::sync::Arc::<Desk>::default();
    let answers = (Pending::default(), std::sync::Arc::clone(&desk));
    let sink =
        Sink { news: sink, access: std::sync::Arc::default(), instance: "netns:x".parse().expect("one") };
    tokio::spawn(attend("w".into(), std::sync::Arc::clone(&channel), answers, (Lifetime::WithDaemon, sink)));
    std::thread::spawn(move || lie(&theirs));
    let asker = Asker { channel, desk };
    for (limit, count) in [(100, 6), (4, 4), (2, 2)] {
        assert_eq!(asker.list(Slot::new(0, 0), limit).await.expect("a list").len(), count);
    }
}

#[test]
fn sockets_and_counters_are_all_a_worker_may_send() {
    let counters =
        rustix::fs::memfd_create(c"counters", rustix::fs::MemfdFlags::ALLOW_SEALING).expect("memfd");
    assert_eq!(checked(vec![socket(), counters]).expect("both are fine").len(), 2);
    assert!(checked(vec![socket(), regular_file()]).is_err());
}

#[test]
fn who_a_worker_is_comes_from_the_daemon_s_own_record() {
    let folder = tempfile::tempdir().expect("a folder");
    let pid = i32::try_from(std::process::id()).expect("a pid");
    let identity = Identity {
        name: "w1".into(),
        instance: "netns:blue".into(),
        run: "4:5".into(),
        group: "{}".into(),
        build: "one".into(),
    };
    record(folder.path(), pid, &identity).expect("recorded");
    let found = recorded(folder.path(), "w1").expect("this process lives");
    assert_eq!((found.pid, found.identity), (pid, identity));
}
