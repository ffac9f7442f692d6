//! A file that is replaced as a whole: what is at its path is at any moment the old content or the new.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// What could not be done.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}", path.display())]
pub(crate) struct AsideError {
    /// What was tried.
    pub(crate) operation: &'static str,
    /// On which file.
    pub(crate) path: PathBuf,
    /// Why it failed.
    pub(crate) source: io::Error,
}

impl AsideError {
    /// For `map_err`.
    pub(crate) fn of(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AsideError {
        let path = path.to_owned();
        move |source| AsideError { operation, path, source }
    }
}

/// The new content, on disk beside the file it is for. Dropped it stays there, and the next one replaces it.
#[derive(Debug)]
pub(crate) struct Aside<'a> {
    path: &'a Path,
    aside: PathBuf,
}

impl<'a> Aside<'a> {
    /// Writes the content that `path` is to have, with this mode, into a file that nobody else has made: what stands in
    /// its place goes, and a link is not followed.
    ///
    /// # Errors
    /// [`AsideError`]; the file at `path` is as before.
    pub(crate) fn write(path: &'a Path, content: &[u8], mode: u32) -> Result<Aside<'a>, AsideError> {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".new");
        let aside = PathBuf::from(aside);
        match fs::remove_file(&aside) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(AsideError::of("remove", &aside)(source));
            }
            _ => {}
        }
        // O_EXCL follows no link (open(2)).
        let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(&aside);
        let mut file = opened.map_err(AsideError::of("create", &aside))?;
        file.write_all(content).map_err(AsideError::of("write", &aside))?;
        file.sync_data().map_err(AsideError::of("sync", &aside))?;
        Ok(Aside { path, aside })
    }

    /// Takes the place of what is there, for good.
    ///
    /// # Errors
    /// [`AsideError`]; when the folder cannot be synced, the new content may not outlive a power cut.
    pub(crate) fn replace(self) -> Result<(), AsideError> {
        fs::rename(&self.aside, self.path).map_err(AsideError::of("replace", self.path))?;
        if let Some(folder) = self.path.parent() {
            let synced = File::open(folder).and_then(|dir| dir.sync_all());
            synced.map_err(AsideError::of("sync", folder))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    /// Fails when: the file aside is opened as it stands there. Whoever may make names in the folder then has another
    /// file emptied and written, or reads a key.
    #[test]
    fn what_stands_aside_is_neither_followed_nor_kept() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, aside) = (dir.path().join("state"), dir.path().join("state.new"));
        let other = dir.path().join("other");
        fs::write(&other, "other").expect("written");
        let replaced = || {
            Aside::write(&path, b"new", 0o600).and_then(Aside::replace).expect("replaced");
            assert_eq!(fs::read(&other).expect("there"), b"other");
            assert_eq!(fs::read(&path).expect("there"), b"new");
            assert_eq!(fs::symlink_metadata(&path).expect("there").permissions().mode(), 0o100_600);
        };
        symlink(&other, &aside).expect("a link");
        replaced();
        fs::hard_link(&other, &aside).expect("a link");
        replaced();
        fs::write(&aside, "half of a longer text").expect("written");
        fs::set_permissions(&aside, fs::Permissions::from_mode(0o666)).expect("its mode");
        replaced();
    }
}
