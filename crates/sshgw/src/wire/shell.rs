//! What is asked and answered of the shell of Incus commands.

use serde::{Deserialize, Serialize};

use super::Breach;
use crate::shell::LINE_BYTES;

/// Longest name of a project, bytes.
const PROJECT_BYTES: usize = 255;

/// A question about a line, which follows the message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShellAsked {
    /// The channel.
    pub(crate) channel: u32,
    /// The project where the line says none. A word of the session's, as the line is.
    pub(crate) project: String,
    /// What is asked.
    pub(crate) what: ShellWhat,
}

/// What is asked about a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ShellWhat {
    /// Do it.
    Line {
        /// Somebody has typed it, who may want it again.
        typed: bool,
    },
    /// What may follow it?
    Complete,
    /// What runs need not be waited for; no line follows, and no answer.
    Interrupt,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ShellReply {
    /// To the question for a program: lines are to be asked about.
    Dialogue {
        /// The server where a line names none; empty for this host's.
        server: String,
        /// The project where nobody has said one.
        project: String,
        /// Whether lines are typed, on a terminal.
        typed: bool,
        /// What was typed before, the oldest first.
        history: Vec<String>,
    },
    /// A line is done; what it has to say comes with this, as a file.
    Ran {
        /// Its exit status.
        status: u8,
        /// What is wrong, lines; empty for nothing.
        errors: String,
        /// The project from here on.
        project: Option<String>,
        /// It was the last one.
        ends: bool,
    },
    /// What may follow.
    Candidates {
        /// Where the part of the line begins that each of these is, bytes.
        start: usize,
        /// The words.
        words: Vec<String>,
    },
}

impl ShellAsked {
    /// Whether it is as long as it may be.
    pub(super) fn check(&self, raw_bytes: usize) -> Result<(), Breach> {
        let most = if self.what == ShellWhat::Interrupt { 0 } else { LINE_BYTES };
        if self.project.len() > PROJECT_BYTES || raw_bytes > most { Err(Breach::Length) } else { Ok(()) }
    }
}
