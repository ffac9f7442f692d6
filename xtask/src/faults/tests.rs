//! Of rows, results and the page, with a tree of their own.

use super::results::{Figure, Kill, Results, TestResult};
use super::rows::Rows;
use super::{Deed, Form, Options, page};

const ROWS: &str = "
[[row]]
id = 'R2'
name = 'rate'
test = 'netns_x::load::all_of_them'
property = 'nobody | is lost'
pass = '0 errors'
mutation = 'lose-one'
[[row]]
id = 'R3'
name = 'more'
test = 'netns_x::load::others'
property = 'p'
pass = 'q'
mutation = 'lose-one'
gap = 'no time'
";

fn result(form: &str, passed: bool) -> TestResult {
    TestResult {
        test: "netns_x::load::all_of_them".into(),
        form: form.into(),
        passed,
        date: "2026-01-01".into(),
        seconds: 3,
        machine: "Linux".into(),
        figures: vec![Figure {
            row: "R2".into(),
            what: "connections".into(),
            value: "1000000".into(),
            unit: String::new(),
        }],
    }
}

#[test]
fn a_command_line_is_read() {
    let options = Options::parse(&["R2", "--long", "--write", "--note", "a b", "R3"]).unwrap();
    assert_eq!(options.deed, Deed::Run(Form::Long));
    assert_eq!(
        (options.rows, options.writes, options.note.as_str()),
        (vec!["R2".into(), "R3".into()], true, "a b")
    );
    assert!(Options::parse(&["--longer"]).is_err());
    assert!(Options::parse(&["--note"]).is_err());
}

/// Fails when: a row with a word that nobody reads passes, or one that is not there is chosen.
#[test]
fn rows_are_read_and_chosen() {
    let rows = Rows::parse(ROWS).unwrap();
    let names = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        rows.chosen(&words).map(|rows| rows.iter().map(|row| row.name.clone()).collect::<Vec<_>>()).ok()
    };
    assert_eq!(names(&[]), Some(vec!["rate".into(), "more".into()]));
    assert_eq!(names(&["r3"]), Some(vec!["more".into()]));
    assert_eq!(names(&["all_of_them"]), Some(vec!["rate".into()]));
    assert_eq!(names(&["R4"]), None);
    assert!(Rows::parse(&format!("{ROWS}\ngaps = 'x'\n")).is_err());
}

/// Fails when: a failure looks like a success on the page, or a gap is left out.
#[test]
fn the_page_says_what_was_found_and_what_was_not() {
    let rows = Rows::parse(ROWS).unwrap();
    let mut results = Results::default();
    results.keep(result("short", true));
    results.keep(result("long", true));
    results.keep(result("long", false));
    results.keep_kill(Kill {
        test: "netns_x::load::all_of_them".into(),
        mutation: "lose-one".into(),
        date: "2026-01-02".into(),
    });
    let page = page::render(&rows, &results);
    let line = "| R2 rate | nobody \\| is lost | 0 errors | connections: 1,000,000; passed in 3 s, 2026-01-01 | \
                connections: 1,000,000; **FAILED** in 3 s, 2026-01-01 |";
    assert!(page.contains(line), "{page}");
    assert!(page.contains("| R3 more | p | q | not run | not run |"), "{page}");
    assert!(page.contains("- R3 more: no time"), "{page}");
    assert!(
        page.contains("| R2 rate | `netns_x::load::all_of_them` | `lose-one` | fails, 2026-01-02 |"),
        "{page}"
    );
    assert!(page.contains("| R3 more | `netns_x::load::others` | `lose-one` | not yet |"), "{page}");
}

/// Fails when: what is written is not what is read, or a result of a row that is gone stays.
#[test]
fn results_come_back() {
    let mut results = Results::default();
    results.keep(result("short", true));
    let text = toml::to_string(&results).unwrap();
    let mut again: Results = toml::from_str(&text).unwrap();
    assert_eq!(again.all.len(), 1);
    assert_eq!(again.all[0].figures[0].value, "1000000");
    let mut rows = Rows::parse(ROWS).unwrap();
    assert_eq!(again.strangers(&rows).count(), 0);
    rows.all.remove(0);
    assert_eq!(again.strangers(&rows).count(), 1);
    again.drop_strangers(&rows);
    assert!(again.all.is_empty());
}
