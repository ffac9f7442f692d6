//! The committed corpus of the fuzzer, through the very functions it feeds.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use portway_daemon::fuzz::{TARGETS, Target};

/// Begin the names of targets that other crates have, and replay.
const OTHERS: [&str; 3] = ["compose_", "ssh_", "mesh_"];

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn files(target: &str) -> Vec<PathBuf> {
    let dir = fuzz_dir().join("corpus").join(target);
    let entries = fs::read_dir(&dir).expect("every target has a corpus");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    files.sort();
    files
}

fn replay(name: &str, target: Target) -> Vec<String> {
    let failed = |path: &PathBuf| {
        let data = fs::read(path).expect("it can be read");
        let refusal = catch_unwind(|| target(&data)).err()?;
        let said = refusal.downcast_ref::<String>().map_or("a panic", String::as_str);
        Some(format!("{name}: {}: {said}", path.display()))
    };
    files(name).iter().filter_map(failed).collect()
}

/// Every parser returns for every file of its corpus, and what it accepts it accepts again once printed.
///
/// Fails when: a parser panics, or prints what it would refuse.
#[test]
fn every_file_of_the_corpus_is_survived() {
    let failures: Vec<String> = TARGETS.iter().flat_map(|(name, target)| replay(name, *target)).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Every target has a program for the fuzzer and a corpus, and nothing else has.
///
/// Fails when: a parser is entered in the table and left out of `fuzz/`.
#[test]
fn every_target_has_a_program_and_a_corpus() {
    let known: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    let manifest = fs::read_to_string(fuzz_dir().join("Cargo.toml")).unwrap();
    let programs = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\""))
        .filter(|name| !OTHERS.iter().any(|others| name.starts_with(others)));
    assert_eq!(programs.collect::<Vec<_>>(), known);
    let mut folders: Vec<String> = fs::read_dir(fuzz_dir().join("corpus"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    folders.retain(|name| !OTHERS.iter().any(|others| name.starts_with(others)));
    folders.sort();
    assert_eq!(folders, known);
    assert!(known.iter().all(|name| !files(name).is_empty()));
}
