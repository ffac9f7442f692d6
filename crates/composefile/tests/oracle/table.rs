//! What came of a run, as the docs say it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::difference::Verdict;
use crate::run::Tally;

/// Between these lines of the page stands the table.
const BEGIN: &str = "<!-- written by the tests of crates/composefile: documents -->\n";
const END: &str = "<!-- documents end -->\n";

/// Fails when the docs say anything else; writes them where that is asked for.
pub(crate) fn compare(by_hand: &Tally, made: &Tally) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/compose.md");
    let page = std::fs::read_to_string(&path).expect("the page is there");
    let (before, rest) = page.split_once(BEGIN).expect("the table has a beginning");
    let (said, after) = rest.split_once(END).expect("the table has an end");
    let wanted = table(by_hand, made);
    if std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
        std::fs::write(&path, format!("{before}{BEGIN}{wanted}{END}{after}")).expect("it can be written");
        return;
    }
    assert_eq!(said, wanted, "docs/compose.md says something else: run this test with INSTA_UPDATE=always");
}

fn table(by_hand: &Tally, made: &Tally) -> String {
    let mut text = "| documents | all | equal | refused by both | different, with a reason |\n".to_owned();
    text.push_str("|---|---|---|---|---|\n");
    let kinds =
        [("every form of every key, and projects written by hand", by_hand), ("made by chance", made)];
    for (kind, tally) in kinds {
        let (equal, refused) = (tally.count(Verdict::Equal), tally.count(Verdict::BothRefuse));
        let reasons: usize = tally.reasons.values().sum();
        let _always = writeln!(text, "| {kind} | {} | {equal} | {refused} | {reasons} |", tally.all());
    }
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for (reason, count) in by_hand.reasons.iter().chain(&made.reasons) {
        *reasons.entry(reason).or_default() += count;
    }
    text.push_str("\n| the reason | documents |\n|---|---|\n");
    for (reason, count) in reasons {
        let _always = writeln!(text, "| {reason} | {count} |");
    }
    text
}
