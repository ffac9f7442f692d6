//! `portway doctor`: what this host has and lacks, one line each, and how to mend it.
//!
//! Every check tries the thing itself where that has no effect, and reads what the kernel says where it would.

use serde::Serialize;

use crate::cli::DoctorArgs;
use crate::failure::{Outcome, Stop, printable};
use crate::output::{Look, Out, csv};

mod host;
mod kernel;
mod network;
mod portway;
mod servers;

pub(crate) use kernel::{try_userns, userns_mend};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    /// Fine.
    Ok,
    /// Something is less than it could be.
    Warn,
    /// Something will not work.
    Fail,
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "fail",
        }
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    /// What was checked, one word.
    check: &'static str,
    /// How it ended.
    status: Status,
    /// What is there, one line.
    text: String,
    /// How to mend it, one line.
    mend: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, text: impl Into<String>) -> Finding {
        Finding { check, status: Status::Ok, text: text.into(), mend: None }
    }

    fn warn(check: &'static str, text: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding { check, status: Status::Warn, text: text.into(), mend: Some(mend.into()) }
    }

    fn fail(check: &'static str, text: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding { check, status: Status::Fail, text: text.into(), mend: Some(mend.into()) }
    }
}

/// Checks everything and prints it. Fails when a check failed.
pub(crate) fn run(args: &DoctorArgs) -> Outcome {
    let runtime = crate::session::runtime()?;
    let mut findings = host::check();
    findings.extend(kernel::check());
    findings.extend(network::check());
    runtime.block_on(async {
        let (ours, daemon) = portway::check().await;
        findings.extend(ours);
        findings.extend(servers::check(daemon.as_ref()).await);
    });
    let table = |look| text(&findings, look);
    Out::new().show(args.format.format, &findings, table, || csv_text(&findings))?;
    if findings.iter().any(|finding| finding.status == Status::Fail) { Err(Stop::Found) } else { Ok(()) }
}

fn text(findings: &[Finding], look: Look) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { check, status, text: found, mend } in findings {
        let word = format!("{:<4}", status.word());
        let word = match (look.colour, status) {
            (false, _) => word,
            (true, Status::Ok) => format!("\x1b[32m{word}\x1b[0m"),
            (true, Status::Warn) => format!("\x1b[33m{word}\x1b[0m"),
            (true, Status::Fail) => format!("\x1b[1;31m{word}\x1b[0m"),
        };
        text.push_str(&format!("{word}  {check:<width$}  {}\n", printable(found)));
        if let Some(mend) = mend {
            text.push_str(&format!("{:width$}hint: {}\n", "", printable(mend), width = width + 8));
        }
    }
    text
}

fn csv_text(findings: &[Finding]) -> String {
    let mut text = csv::line(["check", "status", "text", "mend"]);
    for Finding { check, status, text: found, mend } in findings {
        text.push_str(&csv::line([check, status.word(), found, mend.as_deref().unwrap_or_default()]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_is_a_line_and_its_cure_another() {
        let findings = [
            Finding::ok("kernel", "Linux 6.18.0"),
            Finding::warn("nofile", "at most 1024 descriptors", "raise it"),
            Finding::fail("daemon", "no daemon answers on /run/p.sock", "start it"),
        ];
        insta::assert_snapshot!("text", text(&findings, Look { width: None, colour: false }));
        insta::assert_snapshot!("csv", csv_text(&findings));
    }
}
