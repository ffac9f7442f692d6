//! The committed corpus of the fuzzer, through the very functions it feeds.

use portway_daemon::fuzz::TARGETS;
use portway_testkit::corpus;

/// Begin the names of targets that other crates have, and replay.
const OTHERS: [&str; 3] = ["compose_", "ssh_", "mesh_"];

/// Every parser returns for every file of its corpus, and what it accepts it accepts again once printed.
///
/// Fails when: a parser panics, or prints what it would refuse.
#[test]
fn every_file_of_the_corpus_is_survived() {
    corpus::replay(TARGETS);
}

/// Every target has a program for the fuzzer and a corpus, and nothing else has.
///
/// Fails when: a parser is entered in the table and left out of `fuzz/`, or the other way round.
#[test]
fn every_target_has_a_program_and_a_corpus() {
    corpus::tally(TARGETS, |name| !OTHERS.iter().any(|others| name.starts_with(others)));
}
