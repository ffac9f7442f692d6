//! Projects written by hand, one folder each.

use std::fs;
use std::path::Path;

use crate::run::{Case, fixtures_dir};

/// Every folder of `fixtures/`; a file `profiles` in it names those that are enabled.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for entry in fs::read_dir(fixtures_dir()).expect("the fixtures are there") {
        let dir = entry.expect("it can be listed").path();
        let mut files = Vec::new();
        collect(&dir, &dir, &mut files);
        files.sort();
        let profiles = files.iter().find(|(name, _)| name == "profiles").map(|(_, text)| text.clone());
        cases.push(Case {
            name: format!("fixture {}", dir.file_name().unwrap_or_default().display()),
            profiles: profiles.unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
            files,
            environment: vec![("FROM_SHELL".to_owned(), "shell".to_owned())],
        });
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(cases.len() >= 36, "the fixtures are there");
    cases
}

fn collect(dir: &Path, top: &Path, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).expect("it is a folder") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            collect(&path, top, files);
        } else {
            let name = path.strip_prefix(top).expect("it is below").display().to_string();
            files.push((name, fs::read_to_string(&path).expect("it can be read")));
        }
    }
}
