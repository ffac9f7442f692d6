//! The roll: a record and a socket for each session that has logged in, so that the next gateway finds it, and
//! whoever asks what there is.
//!
//! They are the broker's own files, in a folder nobody else can enter: what a session may do is read from them and
//! never from the session.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use portway_sys::pidfd;
use portway_sys::seqpacket::Channel;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Grant, door};
use crate::wire::PROTOCOL_VERSION;

/// The file whose lock says that a gateway lives.
const LOCK: &str = "lock";

/// Between two tries to get it.
const PAUSE: Duration = Duration::from_millis(10);

/// A session that has logged in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Of what its process speaks with the broker.
    pub(super) version: u32,
    /// Its name.
    pub(super) session: String,
    /// Its process, and when that one started, clock ticks after boot.
    pub(super) pid: i32,
    pub(super) start_time: u64,
    /// When it logged in, as RFC 3339 has it, and in seconds after 1970.
    pub(super) since: String,
    #[serde(default)]
    pub(super) since_seconds: u64,
    /// The client.
    pub(super) peer: std::net::SocketAddr,
    /// As `SSH_CONNECTION` has it.
    pub(super) connection: String,
    /// What it may do.
    pub(super) grant: Grant,
    /// Which instance it is, beyond its name; `None` while that is not known.
    #[serde(default)]
    pub(super) identity: Option<String>,
}

/// What every version's record says: enough to know whether its session lives.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Head {
    version: u32,
    pid: i32,
    start_time: u64,
}

/// A session for whoever asks what there is: of any version, with nothing where it says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub(super) struct Listed {
    pub(super) session: String,
    pub(super) pid: i32,
    pub(super) start_time: u64,
    pub(super) since: String,
    pub(super) peer: String,
    pub(super) grant: ListedGrant,
}

/// What is told of a grant.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub(super) struct ListedGrant {
    pub(super) person: String,
    pub(super) key: String,
    pub(super) remote: String,
    pub(super) project: String,
    pub(super) instance: String,
    pub(super) instance_user: String,
}

impl Head {
    fn lives(&self) -> bool {
        lives(self.pid, self.start_time)
    }
}

impl Listed {
    /// Whether its process lives.
    pub(super) fn lives(&self) -> bool {
        lives(self.pid, self.start_time)
    }
}

impl Record {
    /// Its process, to be watched and ended; `NotFound` when it has ended, and another may have its pid.
    pub(super) fn process(&self) -> io::Result<OwnedFd> {
        let process = pidfd::open(self.pid)?;
        if lives(self.pid, self.start_time) { Ok(process) } else { Err(io::ErrorKind::NotFound.into()) }
    }
}

fn lives(pid: i32, start_time: u64) -> bool {
    match pidfd::start_time(pid) {
        Ok(time) => time == start_time,
        // Where processes of others are hidden (hidepid of proc(5)) nothing is known: what may live is not given up.
        Err(_) => pidfd::open(pid).is_ok(),
    }
}

/// The folder.
#[derive(Debug)]
pub(super) struct Roll {
    dir: PathBuf,
    /// Held while this gateway lives: two would take each other's sessions for those of a dead one.
    _lock: File,
}

impl Roll {
    /// Makes the folder, for its owner only, and waits this long for another gateway to leave it; `WouldBlock` when
    /// that one stays.
    pub(super) fn open(dir: PathBuf, patience: Duration) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
        let mut lock =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(dir.join(LOCK))?;
        let begin = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if begin.elapsed() < patience => thread::sleep(PAUSE),
                Err(error) => return Err(error.into()),
            }
        }
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        lock.set_len(0)?;
        writeln!(lock, "{own} {}", pidfd::start_time(own).unwrap_or_default())?;
        Ok(Self { dir, _lock: lock })
    }

    /// The folder.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Notes a session, and gives the listener its process is to have.
    pub(super) fn enter(&self, record: &Record) -> io::Result<OwnedFd> {
        let listener = Channel::listen(&self.path(&record.session, "sock"))?;
        self.write(record)?;
        Ok(listener)
    }

    /// Notes more of a session, unless it has ended.
    pub(super) fn change(&self, record: &Record) -> io::Result<()> {
        if !self.path(&record.session, "json").exists() {
            return Ok(());
        }
        self.write(record)?;
        // It may have ended on the way; its socket was removed last.
        if !self.path(&record.session, "sock").exists() {
            self.leave(&record.session);
        }
        Ok(())
    }

    fn write(&self, record: &Record) -> io::Result<()> {
        let draft = self.path(&record.session, "new");
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        fs::rename(&draft, self.path(&record.session, "json"))
    }

    /// It has ended.
    pub(super) fn leave(&self, session: &str) {
        for kind in ["json", "sock"] {
            match fs::remove_file(self.path(session, kind)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%error, session, "the record of a session stays");
                }
                _ => {}
            }
        }
    }

    /// The sessions that live and speak as we do. What others have left is removed.
    pub(super) fn sweep(&self) -> io::Result<Vec<Record>> {
        let mut living = Vec::new();
        for name in names(&self.dir)? {
            let (session, kind) = name.rsplit_once('.').unwrap_or((&name, ""));
            let path = self.path(session, "json");
            match read::<Head>(&path) {
                Ok(head) if head.lives() => {
                    if kind != "json" {
                        continue;
                    }
                    match read::<Record>(&path) {
                        Ok(record) if head.version == PROTOCOL_VERSION => living.push(record),
                        _ => tracing::warn!(
                            session,
                            version = head.version,
                            "a session of another version lives on"
                        ),
                    }
                }
                _ => {
                    // Another gateway's broom may have been there.
                    let _gone = fs::remove_file(self.dir.join(&name));
                }
            }
        }
        Ok(living)
    }

    /// The way to a session that has lost its broker.
    pub(super) fn connect(&self, session: &str) -> io::Result<Channel> {
        Channel::connect(&self.path(session, "sock"))
    }

    fn path(&self, session: &str, kind: &str) -> PathBuf {
        self.dir.join(format!("{session}.{kind}"))
    }
}

/// The gateway below `dir`, if one lives: its process.
pub(super) fn gateway(dir: &Path) -> Option<i32> {
    let text = fs::read_to_string(dir.join(LOCK)).ok()?;
    let (pid, start_time) = text.trim().split_once(' ')?;
    let (pid, start_time) = (pid.parse().ok()?, start_time.parse().ok()?);
    lives(pid, start_time).then_some(pid)
}

/// The sessions below `dir` that live.
pub(super) fn living(dir: &Path) -> io::Result<Vec<Listed>> {
    let names = match names(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let records = names.iter().filter(|name| name.ends_with(".json")).map(|name| read(&dir.join(name)));
    Ok(records.filter_map(Result::ok).filter(Listed::lives).collect())
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let names = fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.file_name()));
    let names = names.filter_map(|name| name.ok()?.into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name != LOCK && name != door::SOCKET).collect();
    names.sort();
    Ok(names)
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_reader(io::BufReader::new(File::open(path)?))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(session: &str, pid: i32) -> Record {
        let text = |text: &str| text.to_owned();
        Record {
            version: PROTOCOL_VERSION,
            session: text(session),
            pid,
            start_time: pidfd::start_time(pid).unwrap_or_default(),
            since: text("2026-01-02T03:04:05.678Z"),
            since_seconds: 1_767_323_045,
            peer: "192.0.2.1:4711".parse().expect("an address"),
            connection: text("192.0.2.1 4711 192.0.2.2 2222"),
            grant: Grant::of_root(),
            identity: None,
        }
    }

    /// Fails when what is left of a session that has died stays, or one that lives is swept away.
    #[test]
    fn only_who_lives_is_on_the_roll() {
        let dir = tempfile::tempdir().expect("a folder");
        let roll = Roll::open(dir.path().join("ssh"), Duration::ZERO).expect("a roll");
        let own = i32::try_from(std::process::id()).expect("a pid");
        let alive = record("alive", own);
        let _listener = roll.enter(&alive).expect("noted");
        let _other = roll.enter(&record("dead", i32::MAX)).expect("noted");
        let reused = Record { start_time: 1, ..record("reused", own) };
        let _other = roll.enter(&reused).expect("noted");
        fs::write(dir.path().join("ssh/half.json"), "{").expect("written");
        fs::write(dir.path().join("ssh/draft.new"), "{").expect("written");
        assert!(Roll::open(dir.path().join("ssh"), Duration::from_millis(30)).is_err(), "another gateway");
        assert_eq!(gateway(&dir.path().join("ssh")), Some(own));
        let listed = living(&dir.path().join("ssh")).expect("a list");
        assert_eq!(listed.iter().map(|one| one.session.as_str()).collect::<Vec<_>>(), ["alive"]);
        assert_eq!(roll.sweep().expect("a list"), [alive]);
        assert_eq!(names(&dir.path().join("ssh")).expect("names"), ["alive.json", "alive.sock"]);
        roll.connect("alive").expect("connected");
        let more = Record { identity: Some("u".to_owned()), ..record("alive", own) };
        roll.change(&more).expect("noted");
        assert_eq!(roll.sweep().expect("a list"), [more]);
        roll.change(&record("gone", own)).expect("nothing to note");
        roll.leave("alive");
        assert!(names(&dir.path().join("ssh")).expect("names").is_empty());
        assert!(living(&dir.path().join("none")).expect("a list").is_empty());
    }

    /// Fails when an upgrade forgets who is connected: a record of another version that lives is removed, or cannot be
    /// listed.
    #[test]
    fn a_record_of_another_version_stays() {
        let dir = tempfile::tempdir().expect("a folder");
        let roll = Roll::open(dir.path().join("ssh"), Duration::ZERO).expect("a roll");
        let own = i32::try_from(std::process::id()).expect("a pid");
        let start_time = pidfd::start_time(own).expect("a time");
        let text = format!(
            "{{\"version\":99,\"session\":\"later\",\"pid\":{own},\"start_time\":{start_time},\"grant\":[],\"new\":1}}"
        );
        fs::write(dir.path().join("ssh/later.json"), text.replace("[]", "{\"instance\":\"c1\"}"))
            .expect("written");
        fs::write(dir.path().join("ssh/later.sock"), "").expect("written");
        assert!(roll.sweep().expect("a list").is_empty());
        assert_eq!(names(&dir.path().join("ssh")).expect("names"), ["later.json", "later.sock"]);
        let listed = living(&dir.path().join("ssh")).expect("a list");
        assert_eq!((listed[0].session.as_str(), listed[0].grant.instance.as_str()), ("later", "c1"));
    }
}
