//! The committed corpus of the fuzzer, replayed through the functions it feeds.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

/// A target: its name, as its folder of the corpus and its program have it, and the function that is fed.
pub type Target = (&'static str, fn(&[u8]));

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("the folder is there");
    let name = |entry: std::io::Result<fs::DirEntry>| {
        entry.expect("it can be read").file_name().into_string().expect("names are text")
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

/// Feeds every file of its corpus to each target.
///
/// # Panics
/// When a target has no corpus, or does: with all that they said.
pub fn replay(targets: &[Target]) {
    let failed = |(name, target): &Target| {
        let dir = fuzz_dir().join("corpus").join(name);
        let files = names(&dir);
        assert!(!files.is_empty(), "{name} has no corpus");
        let failed = files.into_iter().filter_map(|file| {
            let data = fs::read(dir.join(&file)).expect("it can be read");
            let refusal = catch_unwind(|| target(&data)).err()?;
            let said = refusal.downcast_ref::<String>().map_or("a panic", String::as_str);
            Some(format!("{name}/{file}: {said}"))
        });
        failed.collect::<Vec<_>>()
    };
    let failures: Vec<String> = targets.iter().flat_map(failed).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Holds a table of targets against the programs of the fuzzer and the folders of the corpus whose names are its own.
///
/// # Panics
/// When they differ.
pub fn tally(targets: &[Target], is_own: impl Fn(&str) -> bool) {
    let known: Vec<&str> = targets.iter().map(|(name, _)| *name).collect();
    let manifest = fs::read_to_string(fuzz_dir().join("Cargo.toml")).expect("the fuzzer is there");
    let programs = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\""))
        .filter(|name| is_own(name));
    assert_eq!(programs.collect::<Vec<_>>(), known);
    let mut folders = names(&fuzz_dir().join("corpus"));
    folders.retain(|name| is_own(name));
    assert_eq!(folders, known);
}
