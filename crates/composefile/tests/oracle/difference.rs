//! What is a difference, and which ones have a reason.

use serde_json::Value;

use crate::run::{Answer, Case};

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// The same project.
    Equal,
    /// Neither takes it.
    BothRefuse,
    /// It differs, and the reason is known.
    Explained(&'static str),
    /// It differs.
    Different,
}

/// Whether a reason is that of a case, by what the oracle and we make of it.
type Applies = fn(&Case, &Answer, &Answer) -> bool;

/// Each difference that is meant, by what the case says and what the two sides make of it.
const REASONS: [(&str, Applies); 8] = [
    ("the oracle prints ssh keys in a form that it does not read", |case, _, _| has(case, "ssh: ")),
    ("an empty test of a healthcheck is none also when a file is laid over it", |_, theirs, _| {
        says(theirs, "healthcheck.test must be a string")
    }),
    ("a group that is listed twice is in it once", |_, theirs, _| says(theirs, "group_add array items")),
    ("`gpus: all` stands over a list that a base has", |case, theirs, _| {
        has(case, "gpus: all") && says(theirs, "cannot override services.x.gpus")
    }),
    ("the oracle crashes", |_, theirs, ours| ours.is_err() && says(theirs, "panic:")),
    ("the oracle cannot print what it has read", |_, theirs, _| says(theirs, "error calling MarshalJSON")),
    ("a label or variable that is a list or a mapping in an override is refused", |_, theirs, ours| {
        theirs.is_ok()
            && ["labels.", "environment.", "annotations."].iter().any(|key| says(ours, key))
            && says(ours, "must be a text, a number or true or false, not a ")
    }),
    ("a file mode in quotes is octal here, decimal there", |case, _, _| has(case, "mode: \"0")),
];

fn says(answer: &Answer, text: &str) -> bool {
    answer.as_ref().is_err_and(|said| said.contains(text))
}

fn has(case: &Case, text: &str) -> bool {
    case.files.iter().any(|(_, file)| file.contains(text))
}

/// How the case ended.
pub(crate) fn judge(case: &Case, theirs: &Answer, ours: &Answer) -> Verdict {
    let reason = REASONS.iter().find(|(_, applies)| applies(case, theirs, ours)).map(|(reason, _)| *reason);
    match (theirs, ours) {
        (Ok(theirs), Ok(ours)) if equal(theirs, ours) => Verdict::Equal,
        (Err(said), Err(_)) if !said.contains("panic:") => Verdict::BothRefuse,
        _ => reason.map_or(Verdict::Different, Verdict::Explained),
    }
}

/// Numbers are equal by their value: `1` and `1.0` are one.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        (a, b) => a == b,
    }
}
