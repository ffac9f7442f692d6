//! A test that cannot run here: skipped by hand, failed where nothing may be skipped.

/// Says that a test cannot run, and why: fails the test when `PORTWAY_TESTS=require`, else prints
/// `skipped: reason`; the test then returns.
///
/// # Panics
/// When `PORTWAY_TESTS=require`.
#[expect(clippy::panic, clippy::print_stdout, reason = "it fails or explains a test")]
pub fn require(reason: &str) {
    if std::env::var("PORTWAY_TESTS").is_ok_and(|value| value == "require") {
        panic!("cannot run: {reason}");
    }
    println!("skipped: {reason}");
}

/// Whether this process is root; if not, the test is told by [`require()`].
///
/// # Panics
/// As [`require()`].
#[must_use]
pub fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        require("needs root");
    }
    root
}
