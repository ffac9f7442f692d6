//! For tests: files and variables that are nowhere but in memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use portway_config::files::FileError;
use zeroize::Zeroizing;

use super::error::SpecError;
use super::load::{FileText, Request, Spec, Surroundings};

/// A private key, the public key of a peer, that of another, a preshared key.
pub(super) const KEY: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
pub(super) const OWN: &str = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=";
pub(super) const PEER: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
pub(super) const OTHER: &str = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=";
pub(super) const SHARED: &str = "/UwcSPg38hW/D9Y3tcS1FOV0K1wuURMbS0sesJEP5ak=";

/// Files and variables.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) files: BTreeMap<PathBuf, FileText>,
    pub(super) variables: BTreeMap<String, String>,
}

impl Memory {
    /// One file, which nobody else can read. `KEY`, `OWN`, `PEER`, `OTHER` and `SHARED` in it are keys.
    pub(super) fn file(mut self, path: &str, text: &str) -> Memory {
        let file = FileText { text: Zeroizing::new(with_keys(text)), open_mode: None };
        self.files.insert(path.into(), file);
        self
    }

    /// Everybody can read a file that is there.
    pub(super) fn open(mut self, path: &str) -> Memory {
        self.files.get_mut(Path::new(path)).unwrap().open_mode = Some(0o644);
        self
    }

    pub(super) fn variable(mut self, name: &str, value: &str) -> Memory {
        self.variables.insert(name.to_owned(), with_keys(value));
        self
    }

    pub(super) fn load(&self, path: &str) -> Result<Spec, SpecError> {
        Spec::load(&Request { config: Some(Path::new(path)), ..Request::default() }, self)
    }
}

/// Puts keys in.
pub(super) fn with_keys(text: &str) -> String {
    let names = [("<KEY>", KEY), ("<OWN>", OWN), ("<PEER>", PEER), ("<OTHER>", OTHER), ("<SHARED>", SHARED)];
    names.iter().fold(text.to_owned(), |text, (name, key)| text.replace(name, key))
}

/// What one file is refused with, and the hint.
pub(super) fn refusal(path: &str, text: &str) -> (String, Option<String>) {
    match Memory::default().file(path, text).load(path) {
        Ok(spec) => panic!("{text} was taken: {spec:?}"),
        Err(error) => (error.to_string(), error.hint()),
    }
}

impl Surroundings for Memory {
    fn file(&self, path: &Path) -> Result<FileText, SpecError> {
        let missing = || SpecError::File(FileError::Missing { path: path.to_owned() });
        self.files.get(path).cloned().ok_or_else(missing)
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    fn variables(&self) -> Vec<(String, String)> {
        self.variables.clone().into_iter().collect()
    }
}
