//! One change of a project at a time: a key of the server's project says whose it is.
//!
//! It is taken from the version that was read, so two never have it. Whoever has died without giving it back is found
//! out: on this machine by the process, on another by the time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portway_incus::{Client, IncusError, Refusal, Resource, ResourceId};

use crate::label;
use crate::want::Keys;

/// After this long nobody on another machine is waited for.
const OLD: Duration = Duration::from_secs(15 * 60);

/// Tries against somebody who changes the project at the same time.
const TRIES: u32 = 20;

/// Why it cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else changes the project.
    #[error("another command changes project {project} at present ({holder})")]
    Held {
        /// The server's project.
        project: String,
        /// Who it is, in words.
        holder: String,
    },
    /// Somebody changes its configuration again and again.
    #[error("project {0} is changed all the time")]
    Overtaken(String),
    /// The server refuses, or does not answer.
    #[error("the project cannot be locked")]
    Server(#[from] IncusError),
}

/// The right to change a project. Not given back on drop: only [`release`](Lock::release) can.
#[derive(Debug)]
#[must_use = "it is not given back on drop"]
pub struct Lock {
    project: String,
    text: String,
}

/// Who has it: machine, boot, process, its start, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    machine: String,
    boot: String,
    pid: u32,
    start: u64,
    at: u64,
}

impl Holder {
    fn ourselves() -> Holder {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let word = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        let pid = std::process::id();
        Holder {
            machine: word(read("/etc/machine-id")),
            boot: word(read("/proc/sys/kernel/random/boot_id")),
            pid,
            start: start_of(pid).unwrap_or_default(),
            at: seconds(),
        }
    }

    fn write(&self) -> String {
        let Holder { machine, boot, pid, start, at } = self;
        format!("{machine} {boot} {pid} {start} {at}")
    }

    fn read(text: &str) -> Option<Holder> {
        let mut words = text.split(' ');
        let mut next = || words.next();
        let (machine, boot) = (next()?.to_owned(), next()?.to_owned());
        let (pid, start, at) = (next()?.parse().ok()?, next()?.parse().ok()?, next()?.parse().ok()?);
        Some(Holder { machine, boot, pid, start, at })
    }

    /// Whether it still works, as far as `us` can tell.
    fn lives(&self, us: &Holder) -> bool {
        if self.boot == us.boot {
            return start_of(self.pid) == Some(self.start);
        }
        // The same machine under another boot has lost all its processes.
        self.machine != us.machine && us.at.saturating_sub(self.at) < OLD.as_secs()
    }
}

/// When a process was started, in ticks since boot: field 22 of proc(5)'s stat, counted after the name in brackets. None of
/// one that has ended and that nobody has asked about yet.
fn start_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let has_ended = matches!(fields.next()?, "Z" | "X");
    fields.nth(18)?.parse().ok().filter(|_| !has_ended)
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default()
}

/// Whether somebody has it who lives, by a project's configuration.
#[must_use]
pub fn is_held(config: &Keys) -> bool {
    holder(config).is_some_and(|holder| holder.lives(&Holder::ourselves()))
}

/// Whether somebody has left it behind.
#[must_use]
pub fn is_left(config: &Keys) -> bool {
    config.contains_key(label::LOCK) && !is_held(config)
}

fn holder(config: &Keys) -> Option<Holder> {
    config.get(label::LOCK).and_then(|text| Holder::read(text))
}

/// Takes away what somebody has left behind.
///
/// # Errors
/// When the server refuses, or does not answer.
pub async fn clear(client: &Client, project: &str) -> Result<(), LockError> {
    let id = ResourceId::Project { name: project.to_owned() };
    let Some(mut there) = client.resource(&id).await?.filter(|there| is_left(&there.config)) else {
        return Ok(());
    };
    there.config.remove(label::LOCK);
    // Whoever was faster has it, or has done the same.
    put(client, &there).await.map(drop).map_err(LockError::from)
}

/// Takes the right to change a project. One that is not there is made with `config`.
///
/// # Errors
/// [`LockError`], any.
pub async fn take(client: &Client, project: &str, config: &Keys) -> Result<Lock, LockError> {
    let us = Holder::ourselves();
    let lock = Lock { project: project.to_owned(), text: us.write() };
    let id = ResourceId::Project { name: project.to_owned() };
    for _ in 0..TRIES {
        let Some(mut there) = client.resource(&id).await? else {
            let mut config = config.clone();
            config.insert(label::LOCK.to_owned(), lock.text.clone());
            match client.create(&id, "", &config).await {
                Err(error) if error.refusal() == Some(Refusal::Exists) => continue,
                made => return made.map(|()| lock).map_err(LockError::from),
            }
        };
        if let Some(holder) = holder(&there.config).filter(|holder| holder.lives(&us)) {
            let holder = if holder.boot == us.boot {
                format!("process {}", holder.pid)
            } else {
                "on another machine".to_owned()
            };
            return Err(LockError::Held { project: project.to_owned(), holder });
        }
        there.config.insert(label::LOCK.to_owned(), lock.text.clone());
        if put(client, &there).await? {
            return Ok(lock);
        }
    }
    Err(LockError::Overtaken(project.to_owned()))
}

/// Whether it was put; not when somebody else was faster.
async fn put(client: &Client, resource: &Resource) -> Result<bool, IncusError> {
    match client.put(resource).await {
        Err(error) if error.is_outdated() => Ok(false),
        done => done.map(|()| true),
    }
}

impl Lock {
    /// Gives it back. A project that is gone has none.
    ///
    /// # Errors
    /// [`LockError`], any but `Held`.
    pub async fn release(self, client: &Client) -> Result<(), LockError> {
        let id = ResourceId::Project { name: self.project.clone() };
        for _ in 0..TRIES {
            let Some(mut there) = client.resource(&id).await? else { return Ok(()) };
            if there.config.get(label::LOCK) != Some(&self.text) {
                return Ok(());
            }
            there.config.remove(label::LOCK);
            if put(client, &there).await? {
                return Ok(());
            }
        }
        Err(LockError::Overtaken(self.project))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_died_does_not_hold_it() {
        let us = Holder::ourselves();
        assert_eq!(Holder::read(&us.write()), Some(us.clone()));
        assert!(us.lives(&us));
        assert!(
            !Holder { start: us.start + 1, ..us.clone() }.lives(&us),
            "the number went to another process"
        );
        assert!(!Holder { boot: "b".to_owned(), ..us.clone() }.lives(&us), "before the last boot");
        let other = Holder { machine: "m".to_owned(), boot: "b".to_owned(), ..us.clone() };
        assert!(other.lives(&us));
        assert!(!Holder { at: us.at - OLD.as_secs(), ..other }.lives(&us));
        assert_eq!(Holder::read("nonsense"), None);
        let config = |text: &str| Keys::from([(label::LOCK.to_owned(), text.to_owned())]);
        let of = |config: &Keys| (is_held(config), is_left(config));
        assert_eq!(of(&config(&us.write())), (true, false));
        assert_eq!(of(&config(&Holder { start: us.start + 1, ..us }.write())), (false, true));
        assert_eq!((of(&config("nonsense")), of(&Keys::new())), ((false, true), (false, false)));
    }

    /// Fails when a process that was killed holds it until its parent asks.
    #[test]
    fn who_has_died_and_is_not_buried_does_not_hold_it() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().expect("cat");
        let pid = child.id();
        assert!(start_of(pid).is_some());
        drop(child.stdin.take());
        let end = std::time::Instant::now() + Duration::from_secs(60);
        while start_of(pid).is_some() {
            assert!(std::time::Instant::now() < end, "it has ended");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(std::path::Path::new(&format!("/proc/{pid}")).exists(), "it waits to be asked about");
        assert!(child.wait().expect("its status").success());
    }
}
