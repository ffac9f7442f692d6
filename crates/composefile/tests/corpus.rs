//! The committed corpus of the fuzzer's `compose_` targets, through the very functions it feeds.

use portway_composefile::fuzz::{PREFIX, TARGETS};
use portway_testkit::corpus;

/// Fails when: a reader panics, refuses in more than one line, or changes what it has made.
#[test]
fn every_file_of_the_corpus_is_survived() {
    corpus::replay(TARGETS);
}

/// Fails when: a reader is entered in the table and left out of `fuzz/`, or the other way round.
#[test]
fn every_target_has_a_program_and_a_corpus() {
    corpus::tally(TARGETS, |name| name.starts_with(PREFIX));
}
