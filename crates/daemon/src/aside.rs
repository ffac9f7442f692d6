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
    /// Writes the content that `path` is to have. `mode` is for a file that is not there yet.
    ///
    /// # Errors
    /// [`AsideError`]; the file at `path` is as before.
    pub(crate) fn write(path: &'a Path, content: &[u8], mode: u32) -> Result<Aside<'a>, AsideError> {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".new");
        let aside = PathBuf::from(aside);
        let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&aside);
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
