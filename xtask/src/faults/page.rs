//! `docs/reliability.md`, put together.

use std::fmt::Write as _;

use super::Form;
use super::results::{Results, TestResult};
use super::rows::{Row, Rows};

const INTRODUCTION: &str = include_str!("introduction.md");

/// The page as it is to be.
pub(super) fn render(rows: &Rows, results: &Results) -> String {
    let mut page = INTRODUCTION.to_owned();
    page.push_str("\n## Rows\n\n");
    page.push_str("| row | what holds | the test passes when | with all tests | alone, at length |\n");
    page.push_str("|---|---|---|---|---|\n");
    for row in &rows.all {
        let cell = |form| results.find(&row.test, form).map_or_else(|| "not run".to_owned(), outcome);
        let (short, long) = (cell(Form::Short), cell(Form::Long));
        // Writing to a string does not fail.
        let _ = writeln!(
            page,
            "| {} {} | {} | {} | {} | {} |",
            row.id,
            row.name,
            text(&row.property),
            text(&row.pass),
            text(&short),
            text(&long)
        );
    }
    machines(&mut page, results);
    page.push_str("\n## What is not shown\n\n");
    for row in &rows.all {
        if let Some(gap) = &row.gap {
            let _ = writeln!(page, "- {} {}: {}", row.id, row.name, gap.trim());
        }
    }
    page.push_str("\n## Tests, and tests of them\n\n");
    page.push_str("| row | shown by | must fail with | tried |\n|---|---|---|---|\n");
    for row in &rows.all {
        let tried = tried(row, results);
        let _ = writeln!(page, "| {} {} | `{}` | `{}` | {tried} |", row.id, row.name, row.test, row.mutation);
    }
    page
}

fn tried(row: &Row, results: &Results) -> String {
    let is_it = |kill: &&super::results::Kill| kill.test == row.test && kill.mutation == row.mutation;
    results
        .kills
        .iter()
        .find(is_it)
        .map_or_else(|| "not yet".to_owned(), |kill| format!("fails, {}", kill.date))
}

/// What a test came to, in one line.
pub(super) fn outcome(result: &TestResult) -> String {
    let word = if result.passed { "passed" } else { "**FAILED**" };
    let figures = result.figures.iter().map(|figure| {
        let unit = if figure.unit.is_empty() { String::new() } else { format!(" {}", figure.unit) };
        format!("{}: {}{unit}", figure.what, thousands(&figure.value))
    });
    let all: Vec<String> = figures.collect();
    let found = if all.is_empty() { String::new() } else { format!("{}; ", all.join("; ")) };
    format!("{found}{word} in {} s, {}", result.seconds, result.date)
}

/// `1000000` as `1,000,000`; anything else stays.
fn thousands(value: &str) -> String {
    if value.len() < 5 || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return value.to_owned();
    }
    let mut grouped = String::new();
    for (at, digit) in value.chars().enumerate() {
        if at > 0 && (value.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn machines(page: &mut String, results: &Results) {
    let mut all: Vec<&str> = results.all.iter().map(|result| result.machine.as_str()).collect();
    all.sort_unstable();
    all.dedup();
    if !all.is_empty() {
        let _ = writeln!(page, "\nMeasured on: {}.", all.join("; "));
    }
}

/// As a cell of a table.
fn text(words: &str) -> String {
    words.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::thousands;

    #[test]
    fn long_numbers_are_grouped() {
        for (plain, grouped) in [
            ("1", "1"),
            ("9999", "9999"),
            ("20000", "20,000"),
            ("1000000", "1,000,000"),
            ("12345.6", "12345.6"),
        ] {
            assert_eq!(thousands(plain), grouped);
        }
    }
}
