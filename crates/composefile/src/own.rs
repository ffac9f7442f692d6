//! Which files are the project's own. What others say is not repeated where something is wrong with them: a project may
//! name any file of the machine, and who sees the message may be somebody else than who may read the file.

use std::io;
use std::path::{Path, PathBuf};

use crate::fault::Fault;
use crate::host::Host;
use crate::options::{Options, Source};

/// The files below the project's folder and beside those that were named by hand, and these.
pub(crate) struct Own<'h> {
    host: &'h dyn Host,
    dirs: Vec<PathBuf>,
    files: Vec<PathBuf>,
}

impl<'h> Own<'h> {
    pub(crate) fn of(options: &Options, host: &'h dyn Host) -> Own<'h> {
        let sources = options.sources.iter().filter_map(|source| match source {
            Source::File(path) => Some(path),
            Source::Text(_) => None,
        });
        let sources: Vec<&PathBuf> = sources.collect();
        let beside = sources.iter().filter_map(|path| path.parent());
        let dirs = beside.chain([options.dir.as_path()]).filter_map(|dir| host.real(dir));
        // Everything is below the root.
        let dirs = dirs.filter(|dir| dir.parent().is_some()).collect();
        let named = sources.into_iter().chain(options.env_files.iter().flatten());
        Own { host, dirs, files: named.cloned().collect() }
    }

    fn has(&self, path: &Path) -> bool {
        let is_below = |real: PathBuf| self.dirs.iter().any(|dir| real.starts_with(dir));
        self.files.iter().any(|file| file == path) || self.host.real(path).is_some_and(is_below)
    }

    /// A fault as it may be told: one of a file that is not the project's own by its place only.
    pub(crate) fn without_words(&self, fault: Fault) -> Fault {
        let file = fault.place.as_ref().map(|place| Path::new(&*place.file));
        // What comes from standard input and what has no place is at no path.
        match file {
            Some(file) if file.is_absolute() && !self.has(file) => Fault {
                path: String::new(),
                what: "something is wrong here, which is not repeated: the file is outside the project"
                    .to_owned(),
                hint: Some("name it with --file to see what".to_owned()),
                ..fault
            },
            _ => fault,
        }
    }
}

impl Host for Own<'_> {
    fn read(&self, path: &Path) -> io::Result<String> {
        self.host.read(path)
    }

    fn is_file(&self, path: &Path) -> bool {
        self.host.is_file(path)
    }

    fn is_own(&self, path: &Path) -> bool {
        self.has(path)
    }
}
