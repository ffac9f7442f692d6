//! One connection's process, as the broker sees it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use portway_incus::Client;
use portway_model::rfc3339;
use portway_sys::pidfd;
use portway_sys::process::{self, Exit};
use portway_sys::seqpacket::Channel;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::count::bump;
use super::gate::Fault;
use super::identity::Identity;
use super::judge::Reason;
use super::login::Entrance;
use super::open::Refusal;
use super::recordings::Made;
use super::roll::Record;
use super::{Broker, Grant, lock};
use crate::audit::{Event, bounded};
use crate::watched::{send, watched, watched_channel};
use crate::wire::{self, Answered, Breach, Ledger, PROTOCOL_VERSION, Reply, Strange};
use shell::Shells;

use forwarded::Sums;

/// How long a process may take to end once its client has gone: longer than it leaves its programs.
const END: Duration = Duration::from_secs(30);

/// Beyond the time a client has, for the process to say so itself.
const GRACE_BEYOND: Duration = Duration::from_secs(2);

/// Exit status where one program more is one too many.
const TOO_MANY: u8 = 255;

/// Signals by which a process ends of what it was sent; others are an operator's.
const CRASHES: [i32; 6] = [
    nix::libc::SIGSYS,
    nix::libc::SIGSEGV,
    nix::libc::SIGBUS,
    nix::libc::SIGILL,
    nix::libc::SIGFPE,
    nix::libc::SIGABRT,
];

/// One connection.
struct Child {
    broker: Arc<Broker>,
    /// Its place at the gate.
    id: u64,
    pid: i32,
    /// Its name in the audit log.
    session: String,
    peer: SocketAddr,
    /// As `SSH_CONNECTION` has it.
    connection: String,
    link: AsyncFd<Channel>,
    ledger: Mutex<Ledger>,
    /// How somebody gets in.
    entrance: Entrance,
    /// Channels whose programs were started and have not ended.
    running: Mutex<BTreeSet<u32>>,
    /// Which instance it is, beyond its name.
    identity: Identity,
    /// Whether the instance of a login that may make it is there.
    is_made: AtomicBool,
    /// What is noted of it once that is so.
    record: Mutex<Option<Record>>,
    /// The question whether an instance is to be removed: on which channel, and about which one.
    asked: Mutex<Option<(u32, String)>>,
    /// Forwards that the audit log has no room for.
    sums: Mutex<Sums>,
    /// Lines of the shell of Incus commands.
    shells: Shells,
}

/// Serves a connection to its end, and says what its source is to be blamed for.
pub(super) async fn serve(
    broker: &Arc<Broker>,
    id: u64,
    stream: TcpStream,
    peer: SocketAddr,
    end: &Notify,
) -> Option<Fault> {
    let started = begin::start(broker, id, stream, peer);
    let (child, process) = match started {
        Ok(started) => started,
        Err(error) => {
            tracing::error!(%error, %peer, "no process for a client");
            return None;
        }
    };
    let begin = SystemTime::now();
    let child = Arc::new(child);
    let mut grant = None;
    let told = child.listen(&mut grant, end).await;
    let kill = !matches!(told, Told::Gone);
    let exit = reap(&process, kill).await;
    let refused = child.entrance.refused().filter(|_| grant.is_none());
    if let Told::Breach(breach) = told {
        child.breach(breach);
    }
    if let Some(grant) = &grant {
        child.leave(grant, begin);
    } else if let Some((login, reason)) = &refused {
        child.refuse(login, reason);
    }
    match (told, exit) {
        (Told::Breach(_), _) => Some(Fault::Crash),
        (Told::Gone, Some(Exit::Signal(signal))) if CRASHES.contains(&signal) => {
            tracing::error!(%peer, signal, "a connection's process has died");
            Some(Fault::Crash)
        }
        // Evicted, or too slow.
        (Told::Ended, _) => Some(Fault::Slow),
        _ if grant.is_some() => None,
        _ => match refused {
            None | Some((_, Reason::Strange(Strange::Nothing))) => Some(Fault::Nothing),
            Some(_) => Some(Fault::Login),
        },
    }
}

/// Serves a session of a broker that has gone, to its end.
pub(super) async fn take_over(broker: Arc<Broker>, record: Record) {
    // Its pid is another's as soon as it ends: what is signalled later is what lives now.
    let process = match record.process().and_then(watched) {
        Ok(process) => process,
        Err(error) => {
            tracing::debug!(%error, session = record.session, "a session has ended meanwhile");
            broker.roll.leave(&record.session);
            broker.depart(&record.grant);
            return;
        }
    };
    let link = match broker.roll.connect(&record.session).and_then(watched_channel) {
        Ok(link) => link,
        Err(error) => {
            tracing::warn!(%error, session = record.session, "a session cannot be taken over");
            // It lives as long as it lives, and is a guest until then.
            let _ended = process.readable().await;
            broker.roll.leave(&record.session);
            broker.depart(&record.grant);
            return;
        }
    };
    let is_made = AtomicBool::new(record.identity.is_some());
    let unknown = record.grant.create.is_some() && record.identity.is_none();
    let later = Mutex::new(unknown.then(|| record.clone()));
    let Record { session, pid, peer, connection, grant, since_seconds, identity, .. } = record;
    tracing::info!(session, "a session was taken over");
    bump(&broker.count.sessions);
    broker.judge.entered(&grant, peer.ip());
    let ledger = Mutex::new(Ledger::of_another());
    let entrance = Entrance::new(&broker.judge);
    let child = Child {
        broker,
        id: u64::MAX,
        pid,
        session,
        peer,
        connection,
        link,
        ledger,
        entrance,
        running: Mutex::default(),
        identity: Identity::of(identity),
        is_made,
        record: later,
        asked: Mutex::default(),
        sums: Mutex::default(),
        shells: Shells::default(),
    };
    let child = Arc::new(child);
    let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(since_seconds);
    let mut grant = Some(grant);
    let told = child.listen(&mut grant, &Notify::new()).await;
    if let Told::Breach(breach) = told {
        child.breach(breach);
    }
    // One that closes its link and stays would be seen by nobody.
    ended(&process, !matches!(told, Told::Gone)).await;
    if let Some(grant) = &grant {
        child.leave(grant, begin);
    }
}

/// How it ended, as seen from the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// It closed the link.
    Gone,
    /// Nobody logged in, and time or place was needed.
    Ended,
    /// It asked for what it may not.
    Breach(Breach),
}

/// Waits for the end of a child, killed first if it is to be.
async fn reap(process: &process::Child, kill: bool) -> Option<Exit> {
    match process.pidfd.try_clone().and_then(watched) {
        Ok(process) => ended(&process, kill).await,
        Err(error) => tracing::warn!(%error, "the end of a process is not seen"),
    }
    process::reap(process.pid).ok().flatten()
}

/// Waits for the end of a process: killed at once if it is to be, else when it takes too long.
async fn ended(process: &AsyncFd<OwnedFd>, kill: bool) {
    let kill_now = || {
        // Gone already: what is wanted.
        let _gone = pidfd::send_signal(process.as_fd(), nix::libc::SIGKILL);
    };
    if kill {
        kill_now();
    }
    if tokio::time::timeout(END, process.readable()).await.is_err() {
        kill_now();
        let _dead = process.readable().await;
    }
}

impl Child {
    /// Somebody has logged in. Where the next broker is to knock, if that can be had.
    fn enter(self: &Arc<Self>, grant: &Grant) -> Option<OwnedFd> {
        lock(&self.ledger).logged_in();
        self.identity.entered();
        self.broker.leave(self.id);
        self.broker.house.enter(grant);
        self.note(&Event::Login { grant });
        let (person, proof) = (grant.person.as_str(), grant.proof.as_str());
        tracing::info!(peer = %self.peer, session = %self.session, person, proof, "logged in");
        bump(&self.broker.count.accepted);
        bump(&self.broker.count.sessions);
        let now = SystemTime::now();
        let record = |start_time| Record {
            version: PROTOCOL_VERSION,
            session: self.session.clone(),
            pid: self.pid,
            start_time,
            since: rfc3339(now),
            since_seconds: now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            peer: self.peer,
            connection: self.connection.clone(),
            grant: grant.clone(),
            identity: None,
        };
        let entered = pidfd::start_time(self.pid).and_then(|time| {
            let record = record(time);
            let listener = self.broker.roll.enter(&record)?;
            if grant.instance.is_empty() {
                return Ok(listener);
            }
            if grant.create.is_some() {
                // It may not be there yet.
                *lock(&self.record) = Some(record);
                return Ok(listener);
            }
            let child = Arc::clone(self);
            tokio::spawn(async move { child.identify(record).await });
            Ok(listener)
        });
        entered.inspect_err(|error| tracing::warn!(%error, "a session will not outlive the gateway")).ok()
    }

    /// Notes which instance a session is about, so that none of the same name takes its place.
    async fn identify(&self, record: Record) {
        let Ok(client) = self.client(&record.grant) else { return };
        let Some(uuid) = self.identity.learn(&client, &record.grant).await else { return };
        if let Err(error) = self.broker.roll.change(&Record { identity: Some(uuid), ..record }) {
            tracing::debug!(%error, "the instance of a session is not noted");
        }
    }

    /// Who had logged in has gone, and what ran with it.
    fn leave(&self, grant: &Grant, begin: SystemTime) {
        self.broker.judge.left(grant, self.peer.ip());
        self.broker.depart(grant);
        self.shells.leave(&self.broker);
        self.broker.roll.leave(&self.session);
        self.broker.count.sessions.fetch_sub(1, Ordering::Relaxed);
        for channel in std::mem::take(&mut *lock(&self.running)) {
            self.note(&Event::Ended { grant, channel, status: None, bytes_in: 0, bytes_out: 0 });
        }
        self.end_forwards(grant);
        let seconds = begin.elapsed().map_or(0, |time| time.as_secs());
        self.note(&Event::Left { grant, seconds });
    }

    /// It asked for what it may not.
    fn breach(&self, breach: Breach) {
        tracing::error!(peer = %self.peer, %breach, "a connection's process was killed");
        bump(&self.broker.count.breaches);
        self.note(&Event::Breach { breach: breach.to_string() });
    }

    /// Nobody has logged in. Once per connection: a client may have keys for other places. The log's line is what
    /// bans are made from.
    fn refuse(&self, login: &str, reason: &Reason) {
        bump(&self.broker.count.refused);
        let (login, reason) = (bounded(login), bounded(&reason.to_string()));
        tracing::warn!(peer = %self.peer.ip(), login = ?login, reason = ?reason, "login refused");
        self.note(&Event::Refused { login, reason });
    }

    /// The way to the server of a grant.
    fn client(&self, grant: &Grant) -> Result<Client, Refusal> {
        self.broker.servers.client(&grant.remote).map_err(|error| Refusal::of_server(&error))
    }

    /// Sends an answer, with descriptors. One that cannot be sent is for a process that has gone.
    async fn say(&self, id: u64, reply: Reply, fds: Vec<OwnedFd>) {
        self.say_recorded(id, reply, None, fds).await;
    }

    /// The same; of what is to be recorded the last descriptor is the file.
    async fn say_recorded(&self, id: u64, reply: Reply, made: Option<Made>, mut fds: Vec<OwnedFd>) {
        let recording = made.map(|made| {
            fds.push(made.file.into());
            made.terms
        });
        let Ok(packet) = wire::encode(&Answered { id, reply, recording }, &[]) else { return };
        if let Err(error) = send(&self.link, &packet, &fds).await {
            tracing::debug!(%error, peer = %self.peer, "an answer came too late");
        }
    }

    fn note(&self, event: &Event<'_>) {
        self.broker.audit.write(&self.session, &self.peer.to_string(), event);
    }
}

mod begin;
mod errand;
mod forwarded;
mod hearing;
mod making;
mod muxing;
mod opening;
mod recorded;
mod shell;
mod starting;
#[cfg(test)]
mod tests;
