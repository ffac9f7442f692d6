//! One connection's process, as the broker sees it.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use portway_model::rfc3339;
use portway_sys::pidfd;
use portway_sys::process::{self, Exit};
use portway_sys::seqpacket::Channel;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::account::Account;
use super::gate::Fault;
use super::helper::{self, May};
use super::open::{self, Opened, Order};
use super::roll::Record;
use super::{Broker, GRACE, Grant, judge, lock};
use crate::audit::{Event, bounded};
use crate::session::{CHANNEL_FD, CONNECTION_FD, ROLE};
use crate::watched::{receive, send, watched, watched_channel};
use crate::wire::{self, Answered, Asked, Breach, Init, Ledger, PROTOCOL_VERSION, Reply, Request};

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
    /// The last login that was refused, and why.
    refused: Mutex<Option<(String, judge::Reason)>>,
}

/// Serves a connection to its end, and says what its source is to be blamed for.
pub(super) async fn serve(
    broker: &Arc<Broker>,
    id: u64,
    stream: TcpStream,
    peer: SocketAddr,
    end: &Notify,
) -> Option<Fault> {
    let started = start(broker, id, stream, peer);
    let (child, process) = match started {
        Ok(started) => started,
        Err(error) => {
            tracing::error!(%error, %peer, "no process for a client");
            return None;
        }
    };
    let begin = Instant::now();
    let child = Arc::new(child);
    let mut grant = None;
    let told = child.listen(&mut grant, end).await;
    let kill = !matches!(told, Told::Gone);
    let exit = reap(&process, kill).await;
    let refused = lock(&child.refused).take().filter(|_| grant.is_none());
    if let Some(grant) = &grant {
        child.leave(grant, begin);
    } else if let Some((login, reason)) = &refused {
        child.refuse(login, reason);
    }
    match (told, exit) {
        (Told::Breach(breach), _) => {
            tracing::error!(%peer, %breach, "a connection's process was killed");
            Some(Fault::Crash)
        }
        (Told::Gone, Some(Exit::Signal(signal))) if CRASHES.contains(&signal) => {
            tracing::error!(%peer, signal, "a connection's process has died");
            Some(Fault::Crash)
        }
        _ => refused.map(|_| Fault::Login),
    }
}

/// Serves a session of a broker that has gone, to its end.
pub(super) async fn take_over(broker: Arc<Broker>, record: Record) {
    let link = match broker.roll.connect(&record.session).and_then(watched_channel) {
        Ok(link) => link,
        Err(error) => {
            tracing::warn!(%error, session = record.session, "a session cannot be taken over");
            return;
        }
    };
    let Record { session, pid, peer, connection, grant, .. } = record;
    tracing::info!(session, "a session was taken over");
    let ledger = Mutex::new(Ledger::of_another());
    let child = Child {
        broker,
        id: u64::MAX,
        pid,
        session,
        peer,
        connection,
        link,
        ledger,
        refused: Mutex::default(),
    };
    let child = Arc::new(child);
    let begin = Instant::now();
    let mut grant = Some(grant);
    let told = child.listen(&mut grant, &Notify::new()).await;
    if let Told::Breach(breach) = told {
        tracing::error!(peer = %child.peer, %breach, "a connection's process was killed");
        let killed = pidfd::open(child.pid).and_then(|fd| pidfd::send_signal(fd.as_fd(), nix::libc::SIGKILL));
        if let Err(error) = killed {
            tracing::debug!(%error, "it had gone");
        }
    }
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

fn start(
    broker: &Arc<Broker>,
    id: u64,
    stream: TcpStream,
    peer: SocketAddr,
) -> io::Result<(Child, process::Child)> {
    let local = stream.local_addr()?;
    let ip = |address: SocketAddr| address.ip().to_canonical();
    let connection = format!("{} {} {} {}", ip(peer), peer.port(), ip(local), local.port());
    stream.set_nodelay(true)?;
    let stream = stream.into_std()?;
    let (ours, theirs) = Channel::pair()?;
    let init = Init {
        version: PROTOCOL_VERSION,
        host_key: broker.host_key.clone(),
        ids: broker.options.ids.map(|ids| (ids.uid, ids.gid)),
        grace_secs: GRACE.as_secs(),
        log: broker.options.log.as_str().to_owned(),
    };
    ours.send(&wire::encode(&init, &[])?, &[])?;
    const { assert!(CONNECTION_FD == process::FIRST_FD && CHANNEL_FD == process::FIRST_FD + 1) };
    let process = process::spawn_role(&ROLE, vec![stream.into(), theirs.into()], Vec::new())?;
    let (session, pid) = (name()?, process.pid);
    let link = watched_channel(ours)?;
    let (broker, ledger, refused) = (Arc::clone(broker), Mutex::default(), Mutex::default());
    Ok((Child { broker, id, pid, session, peer, connection, link, ledger, refused }, process))
}

/// A name that no other session has: eight hexadecimal digits.
fn name() -> io::Result<String> {
    let mut bytes = [0; 4];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:08x}", u32::from_ne_bytes(bytes)))
}

/// Waits for the end of a process, killed first if it is to be.
async fn reap(process: &process::Child, kill: bool) -> Option<Exit> {
    let kill_now = || {
        // Gone already: what is wanted.
        let _gone = pidfd::send_signal(process.pidfd.as_fd(), nix::libc::SIGKILL);
    };
    if kill {
        kill_now();
    }
    let watched = process.pidfd.try_clone().and_then(watched);
    if let Ok(watched) = watched
        && tokio::time::timeout(END, watched.readable()).await.is_err()
    {
        kill_now();
        let _dead = watched.readable().await;
    }
    process::reap(process.pid).ok().flatten()
}

impl Child {
    /// Answers until the process closes the link, is not to live any longer, or asks for what it may not.
    async fn listen(self: &Arc<Self>, grant: &mut Option<Grant>, end: &Notify) -> Told {
        let late = tokio::time::sleep(GRACE + GRACE_BEYOND);
        tokio::pin!(late);
        let mut packet = Vec::new();
        loop {
            tokio::select! {
                received = receive(&self.link, &mut packet) => {
                    if received.is_err() {
                        return Told::Gone;
                    }
                }
                () = &mut late, if grant.is_none() => return Told::Ended,
                () = end.notified(), if grant.is_none() => return Told::Ended,
            }
            let Some((asked, raw)) = wire::decode::<Asked>(&packet) else {
                return Told::Breach(Breach::Length);
            };
            let comes_to = lock(&self.ledger).comes_to(&asked.request);
            match comes_to {
                wire::Outcome::Answer => {}
                wire::Outcome::Nothing => continue,
                wire::Outcome::TooMany => {
                    let message = "too many programs run on this connection".to_owned();
                    self.say(asked.id, Reply::Refused { status: TOO_MANY, message }, Vec::new()).await;
                    continue;
                }
            }
            if let Err(breach) = lock(&self.ledger).note(&asked.request, raw.len()) {
                return Told::Breach(breach);
            }
            self.answer(asked, raw.to_vec(), grant).await;
        }
    }

    async fn answer(self: &Arc<Self>, asked: Asked, raw: Vec<u8>, grant: &mut Option<Grant>) {
        let id = asked.id;
        match asked.request {
            Request::Offer { login, key } => {
                let accepted = self.judge(login, key).await.is_some();
                self.say(id, Reply::Verdict { accepted }, Vec::new()).await;
            }
            Request::Proven { login, key } => {
                let found = self.judge(login, key).await;
                let accepted = found.is_some();
                let listener = found.as_ref().and_then(|found| self.enter(found));
                *grant = found;
                self.say(id, Reply::Verdict { accepted }, listener.into_iter().collect()).await;
            }
            Request::Resume { .. } => {}
            Request::Open { channel, what, terminal, environment, inside } => {
                let Some(grant) = grant.clone() else { return };
                let (connection, session) = (self.connection.clone(), self.session.clone());
                let order = Order { what, command: raw, terminal, environment, inside, connection, session };
                let child = Arc::clone(self);
                tokio::spawn(async move { child.open(id, channel, &grant, order).await });
            }
            Request::Helper { place } => {
                let Some(grant) = grant.clone() else { return };
                let child = Arc::clone(self);
                tokio::spawn(async move { child.help(id, &grant, place).await });
            }
            Request::Closed { channel, status, bytes_in, bytes_out } => {
                if let Some(grant) = grant {
                    self.note(&Event::Ended { grant, channel, status, bytes_in, bytes_out });
                }
            }
        }
    }

    /// Somebody has logged in. Where the next broker is to knock, if that can be had.
    fn enter(&self, grant: &Grant) -> Option<OwnedFd> {
        lock(&self.ledger).logged_in();
        self.broker.leave(self.id);
        self.note(&Event::Login { grant });
        tracing::info!(peer = %self.peer, session = %self.session, "logged in");
        let record = |start_time| Record {
            version: PROTOCOL_VERSION,
            session: self.session.clone(),
            pid: self.pid,
            start_time,
            since: rfc3339(SystemTime::now()),
            peer: self.peer,
            connection: self.connection.clone(),
            grant: grant.clone(),
        };
        let entered = pidfd::start_time(self.pid).and_then(|time| self.broker.roll.enter(&record(time)));
        entered.inspect_err(|error| tracing::warn!(%error, "a session will not outlive the gateway")).ok()
    }

    /// Who had logged in has gone.
    fn leave(&self, grant: &Grant, begin: Instant) {
        self.broker.roll.leave(&self.session);
        self.note(&Event::Left { grant, seconds: begin.elapsed().as_secs() });
    }

    /// Files are read for it, which may take a disk's time.
    async fn judge(&self, login: String, key: String) -> Option<Grant> {
        let work = move || judge::judge(&login, &key).map_err(|reason| (login, reason));
        match tokio::task::spawn_blocking(work).await.ok()? {
            Ok(grant) => Some(grant),
            Err(refused) => {
                *lock(&self.refused) = Some(refused);
                None
            }
        }
    }

    /// Nobody has logged in. Once per connection: a client may have keys for other places. The log's line is what
    /// bans are made from.
    fn refuse(&self, login: &str, reason: &judge::Reason) {
        let (login, reason) = (bounded(login), bounded(&reason.to_string()));
        tracing::warn!(peer = %self.peer.ip(), login = ?login, reason = ?reason, "login refused");
        self.note(&Event::Refused { login, reason });
    }

    async fn open(&self, id: u64, channel: u32, grant: &Grant, order: Order) {
        let (what, terminal) = (order.what, order.terminal.is_some());
        // Whoever is asked after this broker is not to run it once more.
        self.say(id, Reply::Starting, Vec::new()).await;
        match open::open(&self.broker.client, grant, order).await {
            Ok(opened) => {
                self.note(&Event::Started { grant, channel, what: what.name(), terminal });
                let (reply, fds) = match opened {
                    Opened::Exec(sockets) => (Reply::Opened, sockets.into_fds()),
                    Opened::Inside { shell, home, terminal } => {
                        (Reply::Inside { shell, home, terminal }, Vec::new())
                    }
                };
                self.say(id, reply, fds).await;
            }
            Err(refusal) => {
                lock(&self.ledger).refused(channel);
                let reason = bounded(&refusal.message);
                self.note(&Event::NotStarted { grant, channel, reason: reason.clone() });
                let reply = Reply::Refused { status: refusal.status, message: reason };
                self.say(id, reply, Vec::new()).await;
            }
        }
    }

    /// Starts the helper inside.
    async fn help(&self, id: u64, grant: &Grant, place: usize) {
        let environment = |account: &Account| open::own_environment(account, &self.connection, &self.session);
        match helper::start(&self.broker.client, grant, &May::of(grant), environment, place).await {
            Ok((build, sockets)) => self.say(id, Reply::Helped { build }, sockets.into_fds()).await,
            Err(refusal) => {
                let reply = Reply::Refused { status: refusal.status, message: bounded(&refusal.message) };
                self.say(id, reply, Vec::new()).await;
            }
        }
    }

    /// Sends an answer, with descriptors. One that cannot be sent is for a process that has gone.
    async fn say(&self, id: u64, reply: Reply, fds: Vec<OwnedFd>) {
        let Ok(packet) = wire::encode(&Answered { id, reply }, &[]) else { return };
        if let Err(error) = send(&self.link, &packet, &fds).await {
            tracing::debug!(%error, peer = %self.peer, "an answer came too late");
        }
    }

    fn note(&self, event: &Event<'_>) {
        self.broker.audit.write(&self.session, &self.peer.to_string(), event);
    }
}
