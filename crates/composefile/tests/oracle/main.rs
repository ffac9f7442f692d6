//! Against the oracle: Docker Compose's own `config`, which needs no engine.
//!
//! ```text
//!  documents ──┬──▶ docker-compose config ──▶ YAML ──┐
//!  (fixtures,  │                                     ├─▶ equal, both refuse, explained, or different
//!   matrix,    └──▶ this crate ───────────▶ YAML ────┘
//!   generated)
//! ```

#![expect(clippy::print_stdout, reason = "the figures are what the run is for")]

mod difference;
mod fixtures;
mod generate;
mod outputs;
mod pools;
mod run;

use portway_testkit::{require, testbed};

use crate::difference::Verdict;
use crate::run::{Case, Tally};

/// The oracle's program, or `None` where the test may be skipped.
fn oracle() -> Option<std::path::PathBuf> {
    testbed::compose_oracle().map_err(|error| require(&format!("no oracle: {error:#}"))).ok()
}

/// Every form of every key alone, and the files of `fixtures/`, are read as Docker Compose reads them.
///
/// Fails when: a form of a key is read differently, refused by one side only, or a difference has no reason.
#[test]
fn every_form_of_every_key_and_every_fixture() {
    let Some(oracle) = oracle() else { return };
    let tally = run::all(&oracle, &[pools::matrix(), fixtures::all()].concat());
    println!("{tally}");
    assert!(tally.different.is_empty(), "{}", tally.different.join("\n"));
}

/// JSON, hashes and lists are those of Docker Compose.
///
/// Fails when: a hash, a list or a member of the JSON form differs without a reason.
#[test]
fn everything_else_that_is_printed() {
    let Some(oracle) = oracle() else { return };
    let generated = (0..24).map(|number| generate::case(3, number));
    let cases: Vec<Case> = fixtures::all().into_iter().chain(generated).collect();
    let (same, different) = outputs::compare(&oracle, &cases);
    println!("{same} answers are the same");
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert!(same >= 150, "{same}");
}

/// Documents of each of the tests below, which run side by side.
const SHARE: u64 = 250;

/// A share of a thousand documents made by chance: services, overrides, variables, `extends`, profiles.
///
/// Fails when: more than 3 of 100 differ, or one differs without a reason.
fn generated(share: u64) {
    let Some(oracle) = oracle() else { return };
    let seed = std::env::var("PORTWAY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    let numbers = share * SHARE..(share + 1) * SHARE;
    let cases: Vec<Case> = numbers.map(|number| generate::case(seed, number)).collect();
    let tally: Tally = run::all(&oracle, &cases);
    println!("{tally}");
    assert!(tally.different.is_empty(), "{}", tally.different.join("\n"));
    assert!(tally.count(Verdict::Equal) * 100 >= cases.len() * 50, "half of them are accepted: {tally}");
    assert!(tally.agreeing() * 100 >= cases.len() * 97, "{tally}");
}

#[test]
fn generated_documents_of_the_first_share() {
    generated(0);
}

#[test]
fn generated_documents_of_the_second_share() {
    generated(1);
}

#[test]
fn generated_documents_of_the_third_share() {
    generated(2);
}

#[test]
fn generated_documents_of_the_fourth_share() {
    generated(3);
}
