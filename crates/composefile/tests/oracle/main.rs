//! Against the oracle: Docker Compose's own `config`, which needs no engine.
//!
//! ```text
//!  documents ──┬──▶ docker-compose config ──▶ YAML ──┐
//!  (fixtures,  │                                     ├─▶ equal, both refuse, explained, or different
//!   matrix,    └──▶ this crate ───────────▶ YAML ────┘
//!   generated)
//! ```

mod difference;
mod fixtures;
mod generate;
mod outputs;
mod pools;
mod run;
mod table;

use portway_testkit::{require, testbed};

use crate::difference::Verdict;
use crate::run::Case;

/// The oracle's program, or `None` where the test may be skipped.
fn oracle() -> Option<std::path::PathBuf> {
    testbed::compose_oracle().map_err(|error| require(&format!("no oracle: {error:#}"))).ok()
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

/// Documents that are made by chance.
const GENERATED: u64 = 1000;

/// What the documents of the table in the docs are made with.
const SEED: u64 = 7;

/// Every form of every key alone, the files of `fixtures/`, and a thousand documents made by chance (services, overrides,
/// variables, `extends`, profiles) are read as Docker Compose reads them.
///
/// Fails when: a form of a key is read differently, refused by one side only, or a difference has no reason; when more than
/// 3 of 100 documents made by chance differ; when the table in `docs/compose.md` does not say what came of this run. With
/// `INSTA_UPDATE=always` it is written. With `PORTWAY_SEED=N` other documents are made, and no table is looked at.
#[test]
fn documents_are_read_alike_and_the_docs_say_how_many() {
    let Some(oracle) = oracle() else { return };
    let seed = std::env::var("PORTWAY_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let by_hand = run::all(&oracle, &[pools::matrix(), fixtures::all()].concat());
    let made = (0..GENERATED).map(|number| generate::case(seed.unwrap_or(SEED), number));
    let made = run::all(&oracle, &made.collect::<Vec<Case>>());
    println!("by hand: {by_hand}\nby chance: {made}");
    let different = [&by_hand, &made].map(|tally| tally.different.join("\n"));
    assert!(different.iter().all(String::is_empty), "{}", different.join("\n"));
    assert!(made.count(Verdict::Equal) * 100 >= made.all() * 50, "half of them are accepted: {made}");
    assert!(made.agreeing() * 100 >= made.all() * 97, "{made}");
    if seed.is_none() {
        table::compare(&by_hand, &made);
    }
}
