//! What is read of rules, files and the environment.

use std::path::{Path, PathBuf};

use portway_config::files::FileError;
use portway_model::{Direction, MeshRule};
use zeroize::Zeroizing;

use crate::spec::{FileText, Request, Spec, SpecError, Surroundings};

fn text(data: &[u8]) -> &str {
    std::str::from_utf8(data).unwrap_or_default()
}

/// What is read prints as a rule that is read again, as the same.
pub(super) fn rule(data: &[u8]) {
    for direction in [Direction::Ingress, Direction::Egress] {
        match MeshRule::parse(direction, text(data)) {
            Ok(rule) => {
                let again = MeshRule::parse(direction, &rule.to_string());
                assert_eq!(again.as_ref(), Ok(&rule));
            }
            Err(error) => assert!(!error.to_string().contains('\n')),
        }
    }
}

/// One file, every other name leads to a key; every variable is set to it, and those of the input are ours.
struct Input<'a> {
    file: &'a str,
    variables: &'a str,
}

const KEY: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";

impl Surroundings for Input<'_> {
    fn file(&self, path: &Path) -> Result<FileText, SpecError> {
        let text = match path.to_str() {
            Some("f.toml" | "f.conf") => self.file,
            Some("missing") => return Err(SpecError::File(FileError::Missing { path: PathBuf::from(path) })),
            _ => KEY,
        };
        Ok(FileText { text: Zeroizing::new(text.to_owned()), open_mode: None })
    }

    fn variable(&self, name: &str) -> Option<String> {
        (name != "MISSING").then(|| KEY.to_owned())
    }

    fn variables(&self) -> Vec<(String, String)> {
        let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        self.variables.lines().filter_map(pair).collect()
    }
}

/// A refusal is one line; what is taken has a shape that everything behind it relies on.
fn load(config: Option<&str>, input: &Input<'_>) {
    let request = Request { config: config.map(Path::new), ..Request::default() };
    match Spec::load(&request, input) {
        Ok(spec) => {
            assert!(!spec.network.addresses.is_empty());
            let own = spec.network.private_key.public();
            assert!(spec.network.peers.iter().all(|peer| peer.public_key != own));
            assert!(spec.rules.listeners().iter().all(|listener| !listener.rules.is_empty()));
            assert!(spec.warnings.iter().all(|warning| !warning.to_string().contains('\n')));
        }
        Err(error) => assert!(!error.to_string().contains('\n')),
    }
}

pub(super) fn ini(data: &[u8]) {
    load(Some("f.conf"), &Input { file: text(data), variables: "" });
}

pub(super) fn toml(data: &[u8]) {
    load(Some("f.toml"), &Input { file: text(data), variables: "" });
}

pub(super) fn env(data: &[u8]) {
    load(None, &Input { file: "", variables: text(data) });
}
