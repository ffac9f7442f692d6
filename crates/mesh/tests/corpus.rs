//! The committed corpus of the fuzzer's `mesh_` targets, through the very functions it feeds.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use portway_mesh::fuzz::{PREFIX, TARGETS};

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

/// Fails when: a reader panics, or joins what it would not cut so.
#[test]
fn every_file_of_the_corpus_is_survived() {
    for (name, target) in TARGETS {
        let dir = fuzz_dir().join("corpus").join(name);
        let files = names(&dir);
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            let data = fs::read(dir.join(&file)).unwrap();
            assert!(catch_unwind(|| target(&data)).is_ok(), "{name}/{file}");
        }
    }
}

/// Fails when: a function is entered in the table and left out of `fuzz/`, or the other way round.
#[test]
fn every_target_has_a_program_and_a_corpus() {
    let known: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    let manifest = fs::read_to_string(fuzz_dir().join("Cargo.toml")).unwrap();
    let programs = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\""))
        .filter(|name| name.starts_with(PREFIX));
    assert_eq!(programs.collect::<Vec<_>>(), known);
    let mut folders = names(&fuzz_dir().join("corpus"));
    folders.retain(|name| name.starts_with(PREFIX));
    assert_eq!(folders, known);
}
