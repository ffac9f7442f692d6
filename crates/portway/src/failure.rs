//! What a command ends with when it does not succeed: one line, a hint where the cause is likely, an exit code.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use portway_control::ClientError;
use portway_control::api::{Failure, FailureKind};

/// How a command stops short.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Something failed, and the user is told.
    Failed(Failure),
    /// Whoever read our output has gone: nobody is left to be told.
    ReaderGone,
    /// Checks failed and have been printed.
    Found,
    /// A program of the user's has ended with this status, and so does this one.
    Status(u8),
}

/// Result of a command.
pub(crate) type Outcome<T = ()> = Result<T, Stop>;

impl Stop {
    /// Malformed input.
    pub(crate) fn usage(error: impl Into<String>) -> Stop {
        Stop::of(FailureKind::Usage, error)
    }

    /// A conflict with the world.
    pub(crate) fn refused(error: impl Into<String>) -> Stop {
        Stop::of(FailureKind::Refused, error)
    }

    /// A failure of `kind`.
    pub(crate) fn of(kind: FailureKind, error: impl Into<String>) -> Stop {
        Stop::Failed(Failure { kind, error: error.into(), hint: None })
    }

    /// The same with a hint. One that is there stays.
    pub(crate) fn hint(mut self, text: impl Into<String>) -> Stop {
        if let Stop::Failed(failure) = &mut self {
            failure.hint.get_or_insert_with(|| text.into());
        }
        self
    }

    /// Output failed: the reader went away, or the disk is full.
    pub(crate) fn output(error: &io::Error) -> Stop {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Stop::ReaderGone;
        }
        Stop::refused(format!("cannot write to standard output: {}", chain(error)))
    }

    /// Prints what there is to say on standard error and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        let failure = match self {
            Stop::Failed(failure) => failure,
            Stop::ReaderGone | Stop::Found => return ExitCode::from(1),
            Stop::Status(status) => return ExitCode::from(*status),
        };
        let mut stderr = io::stderr().lock();
        let colour = stderr.is_terminal() && colour_allowed();
        // Nothing is left to do when standard error cannot be written either.
        let _unheard = stderr.write_all(render(failure, colour).as_bytes());
        ExitCode::from(exit_code(failure.kind))
    }
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Stop {
        let kind = error.kind();
        let hint = error.hint().map(str::to_owned);
        Stop::Failed(Failure { kind, error: chain(&error), hint })
    }
}

/// What clap says of malformed arguments, several lines, as one line and a hint: its own tip, else the usage.
pub(crate) fn of_arguments(text: &str) -> Stop {
    let mut paragraphs = text.split("\n\n").map(|lines| {
        lines.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
    });
    let first = paragraphs.next().unwrap_or_default();
    let stop = Stop::usage(first.strip_prefix("error: ").unwrap_or(&first));
    let (mut tip, mut usage) = (None, None);
    for paragraph in paragraphs {
        if let Some(text) = paragraph.strip_prefix("tip: ") {
            tip.get_or_insert(text.to_owned());
        } else if let Some(text) = paragraph.strip_prefix("Usage: ") {
            usage.get_or_insert(format!("usage: {text}"));
        }
    }
    match tip.or(usage) {
        Some(hint) => stop.hint(hint),
        None => stop,
    }
}

/// Exit code of a kind of failure.
pub(crate) fn exit_code(kind: FailureKind) -> u8 {
    match kind {
        FailureKind::Refused | FailureKind::Internal => 1,
        FailureKind::Usage => 2,
        FailureKind::Unreachable => 3,
        FailureKind::Missing => 4,
    }
}

/// An error and all its causes, outermost first.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a String cannot fail.
        let _infallible = write!(text, ": {error}");
        cause = error.source();
    }
    // The number behind a system error's words says nothing more to people.
    match text.rsplit_once(" (os error ") {
        Some((words, number)) if number.ends_with(')') => words.to_owned(),
        _ => text,
    }
}

/// Colour was asked not to be.
static PLAIN: AtomicBool = AtomicBool::new(false);

/// From here on there is no colour.
pub(crate) fn forbid_colour() {
    PLAIN.store(true, Ordering::Relaxed);
}

/// Whether colour is wanted at all, <https://no-color.org>.
pub(crate) fn colour_allowed() -> bool {
    !PLAIN.load(Ordering::Relaxed) && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn render(failure: &Failure, colour: bool) -> String {
    let (red, cyan, plain) = if colour { ("\x1b[1;31m", "\x1b[36m", "\x1b[0m") } else { ("", "", "") };
    let mut text = format!("{red}error:{plain} {}\n", printable(&failure.error));
    if let Some(hint) = &failure.hint {
        let _infallible = writeln!(text, "{cyan}hint:{plain} {}", printable(hint));
    }
    text
}

/// `text` on one line, with nothing in it that could steer a terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => clean.push(' '),
            // Also the characters that turn the direction of text around.
            c if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                clean.extend(c.escape_default());
            }
            c => clean.push(c),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_and_a_hint() {
        let failure = Failure {
            kind: FailureKind::Usage,
            error: "bad\nname \x1b[2J\u{202e}x".to_owned(),
            hint: Some("try\tc1".to_owned()),
        };
        assert_eq!(render(&failure, false), "error: bad name \\u{1b}[2J\\u{202e}x\nhint: try\\tc1\n");
        assert!(render(&failure, true).starts_with("\x1b[1;31merror:\x1b[0m bad"));
    }

    #[test]
    fn every_kind_has_its_exit_code() {
        let codes = [
            (FailureKind::Refused, 1),
            (FailureKind::Internal, 1),
            (FailureKind::Usage, 2),
            (FailureKind::Unreachable, 3),
            (FailureKind::Missing, 4),
        ];
        for (kind, code) in codes {
            assert_eq!(exit_code(kind), code);
        }
    }

    #[test]
    fn causes_follow_their_error() {
        let cause = io::Error::from_raw_os_error(2);
        let error = ClientError::Unreachable { path: "/s".into(), source: cause };
        assert_eq!(chain(&error), "no daemon answers on /s: No such file or directory");
    }

    #[test]
    fn the_first_hint_stays() {
        let Stop::Failed(failure) = Stop::usage("x").hint("first").hint("second") else { unreachable!() };
        assert_eq!(failure.hint.as_deref(), Some("first"));
    }
}
