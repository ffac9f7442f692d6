//! The committed corpus of the fuzzer's `mesh_` targets, through the very functions it feeds.

use portway_mesh::fuzz::{PREFIX, TARGETS};
use portway_testkit::corpus;

/// Fails when: a reader panics, or joins what it would not cut so.
#[test]
fn every_file_of_the_corpus_is_survived() {
    corpus::replay(TARGETS);
}

/// Fails when: a function is entered in the table and left out of `fuzz/`, or the other way round.
#[test]
fn every_target_has_a_program_and_a_corpus() {
    corpus::tally(TARGETS, |name| name.starts_with(PREFIX));
}
