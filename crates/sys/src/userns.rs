//! User namespaces: making one, and translating ids of a foreign one.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::thread::UnshareFlags;

/// Puts the calling process into a new user namespace in which it is root, and optionally into new
/// network and mount namespaces owned by it. The caller's own ids are the only ones mapped (to 0);
/// setgroups(2) is denied from then on (user_namespaces(7)).
///
/// # Errors
/// `InvalidInput` (EINVAL) when the process has a second thread; `PermissionDenied` or ENOSPC when the
/// administrator has switched unprivileged user namespaces off.
pub fn unshare_as_root(net: bool, mount: bool) -> io::Result<()> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let mut flags = UnshareFlags::NEWUSER;
    flags.set(UnshareFlags::NEWNET, net);
    flags.set(UnshareFlags::NEWNS, mount);
    // SAFETY: none of these flags lets threads or the runtime lose shared state: NEWUSER is refused by the
    // kernel in a threaded process, NEWNS unshares the file system context of this one thread.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Whether `id` is a user id of the calling process' user namespace. False when that cannot be read.
#[must_use]
pub fn id_is_mapped(id: u32) -> bool {
    Extents::read("/proc/self/uid_map").is_ok_and(|map| map.to_host(id).is_some())
}

/// Whether both ids exist in the calling process' user namespace. False when that cannot be read.
pub(crate) fn ids_are_mapped(uid: u32, gid: u32) -> bool {
    id_is_mapped(uid) && Extents::read("/proc/self/gid_map").is_ok_and(|map| map.to_host(gid).is_some())
}

/// The user and group id maps of a process' user namespace. "Host" ids are those of the calling process' own
/// user namespace: for a process in the same one, every id that exists is mapped to itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    /// User ids.
    pub uids: Extents,
    /// Group ids.
    pub gids: Extents,
}

impl IdMap {
    /// Reads the maps of process `pid`.
    ///
    /// # Errors
    /// `NotFound` when there is no such process; `PermissionDenied` without `CAP_SYS_PTRACE` over it;
    /// `InvalidData` for a file that is no map.
    pub fn of_pid(pid: i32) -> io::Result<IdMap> {
        let map = IdMap {
            uids: Extents::read(&format!("/proc/{pid}/uid_map"))?,
            gids: Extents::read(&format!("/proc/{pid}/gid_map"))?,
        };
        // To a reader in the same namespace the kernel shows the ids of the parent namespace instead
        // (user_namespaces(7)).
        let theirs = fs::metadata(format!("/proc/{pid}/ns/user"))?;
        let ours = fs::metadata("/proc/self/ns/user")?;
        let same = (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino());
        Ok(if same { IdMap { uids: map.uids.identity(), gids: map.gids.identity() } } else { map })
    }
}

/// One map: ranges of ids inside the namespace and their counterparts outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extents(Vec<Extent>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    inside: u32,
    outside: u32,
    count: u32,
}

impl Extents {
    fn read(path: &str) -> io::Result<Extents> {
        Extents::parse(&fs::read_to_string(path)?)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed id map"))
    }

    /// Reads lines of `inside outside count`, as user_namespaces(7) describes them.
    fn parse(text: &str) -> Option<Extents> {
        text.lines()
            .map(|line| {
                let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
                let extent = Extent {
                    inside: numbers.next()?.ok()?,
                    outside: numbers.next()?.ok()?,
                    count: numbers.next()?.ok()?,
                };
                numbers.next().is_none().then_some(extent)
            })
            .collect::<Option<Vec<_>>>()
            .map(Extents)
    }

    /// The same inside ids, each its own counterpart.
    fn identity(self) -> Extents {
        Extents(self.0.into_iter().map(|extent| Extent { outside: extent.inside, ..extent }).collect())
    }

    /// What id `inside` of the namespace is outside. `None`: it is not mapped.
    #[must_use]
    pub fn to_host(&self, inside: u32) -> Option<u32> {
        self.0.iter().find_map(|extent| translate(inside, extent.inside, extent.outside, extent.count))
    }

    /// What id `outside` is in the namespace. `None`: it is not mapped.
    #[must_use]
    pub fn to_inside(&self, outside: u32) -> Option<u32> {
        self.0.iter().find_map(|extent| translate(outside, extent.outside, extent.inside, extent.count))
    }
}

fn translate(id: u32, from: u32, to: u32, count: u32) -> Option<u32> {
    let offset = id.checked_sub(from).filter(|offset| *offset < count)?;
    to.checked_add(offset)
}

#[cfg(test)]
mod tests;
