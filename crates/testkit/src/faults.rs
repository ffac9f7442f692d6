//! Tests of faults: each has a short form, which runs with all others, and a long one, which `cargo xtask faults
//! --long` runs alone and without a limit of time. What a test found in numbers it says here.

use std::fmt::Display;
use std::io::Write as _;

/// Names the form: `long`, or the short one.
pub const FORM: &str = "PORTWAY_FAULTS";

/// Names the file that figures are appended to, a line of JSON each.
pub const FIGURES: &str = "PORTWAY_FIGURES";

/// Whether this run is of the long form.
#[must_use]
pub fn is_long() -> bool {
    std::env::var(FORM).is_ok_and(|form| form == "long")
}

/// One of two numbers, by the form of this run.
#[must_use]
pub fn scale<T>(short: T, long: T) -> T {
    if is_long() { long } else { short }
}

/// Says a figure of a row: `figure("R2", "connections", 1_000_000, "")`. The first one of a test is its number of
/// trials, N. It is printed, and kept where [`FIGURES`] says so.
///
/// # Panics
/// When that file cannot be written: a figure that is lost is no figure.
#[expect(clippy::print_stdout, clippy::expect_used, reason = "it is what a test says")]
pub fn figure(row: &str, what: &str, value: impl Display, unit: &str) {
    println!("{row}: {what}: {value} {unit}");
    let Some(path) = std::env::var_os(FIGURES) else { return };
    let line =
        serde_json::json!({ "row": row, "what": what, "value": value.to_string(), "unit": unit }).to_string();
    let opened = std::fs::OpenOptions::new().create(true).append(true).open(path);
    let mut file = opened.expect("the file of figures");
    // One write, so that lines of two processes do not mix.
    file.write_all(format!("{line}\n").as_bytes()).expect("a line in the file of figures");
}
