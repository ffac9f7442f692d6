//! A network that is begun by root and run by nobody: for the daemon.
//!
//! What it needs of root is opened and read first, and nothing of it comes from outside: the file of the network with its
//! keys, the control socket and the lock in a folder of root's, the folder of what is kept. Then it becomes an ordinary
//! user for good, without any capability, and only then it opens ports. So no key crosses a process, no folder below
//! `/run` is that user's, and other networks of the same user are out of reach: they are below a folder of root's that
//! nobody else may enter, and each is in its own by descriptor alone, as its working directory.
//!
//! That folder is given to the user, since records of an organization and rules that are added are written there while it
//! runs. What is in it is believed no more than before: records are signed, rules are checked.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use portway_sys::sandbox::{self, Denies};
use rustix::fs::OFlags;

use super::home::make_dir;
use super::{HomeError, Options, ProxyError};

/// Files of a folder that are given away, at most: it has four.
const FILES_MAX: usize = 64;

/// Whom a network becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confine {
    /// Uid and gid; `None`: those it has, which are no root's.
    pub ids: Option<(u32, u32)>,
}

impl Confine {
    /// Goes into the folder of what is kept, gives it and what is in it to the user, and becomes that user. On the only
    /// thread there is.
    pub(super) fn enter(self, options: &mut Options) -> Result<(), ProxyError> {
        let kept = options.joined.as_ref().map(|joined| joined.dir.clone());
        if let Some(dir) = kept.or_else(|| options.home.state_dir.clone()) {
            make_dir(&dir)?;
            self.settle(&dir).map_err(|source| HomeError::File { verb: "use", path: dir.clone(), source })?;
            let here = PathBuf::from(".");
            (options.home.state_dir, options.home.known_as) = (Some(here.clone()), Some(dir));
            if let Some(joined) = &mut options.joined {
                joined.dir = here;
            }
        }
        self.drop_all().map_err(ProxyError::Confine)
    }

    fn settle(self, dir: &Path) -> io::Result<()> {
        let folder = open(dir, OFlags::DIRECTORY)?;
        if let Some((uid, gid)) = self.ids {
            let owner = folder.metadata()?.uid();
            if owner != 0 && owner != uid {
                let text = format!("it belongs to uid {owner}: `chown -R {uid}:{gid}` gives it over");
                return Err(io::Error::other(text));
            }
            fchown(&folder, Some(uid), Some(gid))?;
            rustix::fs::fchmod(&folder, rustix::fs::Mode::RWXU)?;
        }
        rustix::process::fchdir(folder.as_fd())?;
        let Some(ids) = self.ids else { return Ok(()) };
        for entry in fs::read_dir(".")?.take(FILES_MAX) {
            give(&Path::new(".").join(entry?.file_name()), ids)?;
        }
        Ok(())
    }

    fn drop_all(self) -> io::Result<()> {
        if let Some((uid, gid)) = self.ids {
            sandbox::drop_ids(uid, gid, &[])?;
        }
        sandbox::drop_all_caps()?;
        sandbox::guard(Denies::Network)
    }
}

/// Gives a file away, if it is one and root's own: a link of any kind may be another's.
fn give(path: &Path, (uid, gid): (u32, u32)) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if !found.is_file() {
        return Ok(());
    }
    let file = open(path, OFlags::empty())?;
    let found = file.metadata()?;
    if found.is_file() && found.nlink() == 1 && found.uid() == 0 {
        fchown(&file, Some(uid), Some(gid))?;
    }
    Ok(())
}

/// Opens what is there and no link, without waiting.
pub(super) fn open(path: &Path, more: OFlags) -> io::Result<File> {
    let flags =
        i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK | more).bits()).map_err(io::Error::other)?;
    File::options().read(true).custom_flags(flags).open(path)
}
