//! What the process of a connection may ask of the broker, and what it is told.
//!
//! One packet is one message: JSON, a line end, and bytes that JSON cannot hold. A connection's process reads what a
//! stranger sends, so nothing it says is trusted: [`Ledger`] holds what may be asked, when and how often, and who asks
//! for more is ended. What it is granted are descriptors, never a path and never the API.

use portway_proto::guest::{WAY_NAME_BYTES, WAY_TOKEN_BYTES};
use portway_proto::sftp::Ended;
use portway_proto::x11::COOKIE_BYTES;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::options::Method;
use crate::recording::{self, Terms};

mod forward;
mod ledger;
mod lends;
mod shell;

pub(crate) use forward::{ForwardEnd, ForwardWay, Forwarded, Forwarding};
pub(crate) use ledger::{Breach, KEY_BYTES, LOGIN_BYTES, Ledger, Outcome, SECRET_BYTES};
pub(crate) use lends::Lends;
pub(crate) use shell::{ShellAsked, ShellReply, ShellWhat};

/// Version of these messages. Broker and session are the same program, except after an upgrade.
pub(crate) const PROTOCOL_VERSION: u32 = 1;

/// Longest command that is carried; as long as the kernel takes one argument (`MAX_ARG_STRLEN`, without its NUL).
pub(crate) const COMMAND_BYTES: usize = 131_071;

/// Programs of one connection that run at a time.
pub(crate) const PROGRAMS: usize = 128;

/// The number of what is no question, and of what answers none.
pub(crate) const UNANSWERED: u64 = u64::MAX;

/// Places in an instance that a helper is put to.
pub(crate) const HELPER_PLACES: usize = 2;

/// The first message to a new process. The connection comes with it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Init {
    /// [`PROTOCOL_VERSION`].
    pub(crate) version: u32,
    /// Private keys of the gateway, in OpenSSH's format; the first of an algorithm counts.
    pub(crate) host_keys: Vec<String>,
    /// Text before a login; empty for none.
    pub(crate) banner: String,
    /// Uid and gid to become, when the broker may give them up.
    pub(crate) ids: Option<(u32, u32)>,
    /// Methods of authentication that are tried first.
    pub(crate) methods: Vec<Method>,
    /// Seconds without a byte either way until a connection ends; 0 is never.
    #[serde(default)]
    pub(crate) idle_secs: u64,
    /// Seconds until a client must have logged in.
    pub(crate) grace_secs: u64,
    /// What is logged on standard error.
    pub(crate) log: String,
}

/// What is asked, with a number for the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// Chosen by the session.
    pub(crate) id: u64,
    /// The question.
    pub(crate) request: Request,
}

/// What may be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    /// Would this key do for this login? Nothing is proven.
    Offer {
        /// As the client says it.
        login: String,
        /// The public key, in OpenSSH's format.
        key: String,
    },
    /// The client has proven that it has this key.
    Proven {
        /// As the client says it.
        login: String,
        /// The public key, in OpenSSH's format.
        key: String,
    },
    /// The client has proven that it has the key of this certificate.
    Certificate {
        /// As the client says it.
        login: String,
        /// The certificate, in OpenSSH's format.
        certificate: String,
    },
    /// The client says a password, which follows the message.
    Password {
        /// As the client says it.
        login: String,
    },
    /// The client says a one-time code, which follows the message.
    Code {
        /// As the client says it.
        login: String,
    },
    /// The client has said something that is refused without a question, for the log.
    Strange {
        /// As the client says it, cut.
        login: String,
        /// What it was.
        what: Strange,
    },
    /// The first thing a session says to a broker that is not its first. No answer.
    Resume {
        /// Channels whose programs run.
        running: Vec<u32>,
    },
    /// Start a program; a command follows the message.
    Open {
        /// The channel, by the number we gave it.
        channel: u32,
        /// What is to run.
        what: What,
        /// The terminal, if it gets one.
        terminal: Option<Terminal>,
        /// Variables the client sets.
        environment: Vec<(String, String)>,
        /// Whether it may be run by the helper.
        #[serde(default)]
        inside: bool,
        /// Whether it is the first of its connection.
        #[serde(default)]
        first: bool,
        /// Whether this session can write a recording of it.
        #[serde(default)]
        can_record: bool,
        /// What the client would lend it.
        #[serde(default)]
        lends: Lends,
    },
    /// Start the helper inside.
    Helper {
        /// In which of the places it can be put, beginning with the one of this number.
        place: usize,
        /// Whether a listener for it may come with the answer: a session from before an upgrade takes none.
        #[serde(default)]
        beside: bool,
        /// The one that sees the home alone, and serves files.
        #[serde(default)]
        jail: bool,
    },
    /// A file that went over a channel with files, or could not. No answer.
    Transferred {
        /// The channel.
        channel: u32,
        /// As the client says it.
        path: String,
        /// It was opened to be read.
        reads: bool,
        /// It was opened to be written.
        writes: bool,
        /// Bytes from the client.
        bytes_in: u64,
        /// Bytes to the client.
        bytes_out: u64,
        /// From its opening to its end.
        millis: u64,
        /// What became of it.
        end: FileEnd,
    },
    /// A recording has ended. No answer.
    Recorded {
        /// The channel.
        channel: u32,
        /// Of what happened, beside the first line.
        bytes: u64,
        /// How.
        end: recording::End,
    },
    /// A forward has begun. No answer.
    Forwarding(Forwarding),
    /// A forward has ended, or there was none. No answer.
    Forwarded(Forwarded),
    /// What has ended while there was no broker, and had no room among what is told the next one. No answer.
    Lost {
        /// How many forwards, files and recordings.
        lines: u64,
    },
    /// A line of the shell of Incus commands.
    Shell(ShellAsked),
    /// A program of [`Request::Open`] has ended, or will not be looked after any more. No answer.
    Closed {
        /// The channel.
        channel: u32,
        /// Exit status, if it had one.
        status: Option<u32>,
        /// Bytes from the client.
        bytes_in: u64,
        /// Bytes to the client.
        bytes_out: u64,
    },
}

impl Request {
    /// Whether it is a question of the time before somebody is in.
    pub(crate) const fn is_proof(&self) -> bool {
        match self {
            Self::Offer { .. }
            | Self::Proven { .. }
            | Self::Certificate { .. }
            | Self::Password { .. }
            | Self::Code { .. }
            | Self::Strange { .. } => true,
            Self::Resume { .. }
            | Self::Open { .. }
            | Self::Helper { .. }
            | Self::Transferred { .. }
            | Self::Recorded { .. }
            | Self::Forwarding(_)
            | Self::Forwarded(_)
            | Self::Lost { .. }
            | Self::Shell(_)
            | Self::Closed { .. } => false,
        }
    }
}

/// What a client says that is nothing to be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Strange {
    /// It only asks how it could log in.
    #[error("nothing was offered")]
    Nothing,
    /// A login that is too long.
    #[error("the login is too long")]
    Login,
    /// A key, a certificate, a password or a code that is too long.
    #[error("what is offered is too long")]
    Long,
    /// A signature that is not accepted, of whatever key.
    #[error("the kind of signature is not accepted")]
    Signature,
}

/// How a file ended for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FileEnd {
    /// It was closed.
    Closed,
    /// Closing it failed.
    Failed,
    /// It could not be opened.
    Refused,
    /// Its client went first.
    Unfinished,
}

impl From<Ended> for FileEnd {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Closed => Self::Closed,
            Ended::Failed => Self::Failed,
            Ended::Refused => Self::Refused,
            Ended::Unfinished => Self::Unfinished,
        }
    }
}

/// What is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum What {
    /// The user's shell, as at a login.
    Shell,
    /// A command, by the user's shell.
    Command,
    /// The server of files.
    Sftp,
}

impl What {
    /// As the audit has it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Shell => "shell",
            Self::Command => "command",
            Self::Sftp => "sftp",
        }
    }
}

/// A session that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// Its name.
    pub(crate) name: String,
    /// What is wanted of it.
    pub(crate) wish: KeptWish,
}

/// What is wanted of a session that stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum KeptWish {
    /// To be there.
    Attach,
    /// A list of all of the user's.
    List,
    /// Its end.
    Kill,
}

impl KeptWish {
    /// As the audit has it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Attach => "shell",
            Self::List => "list-sessions",
            Self::Kill => "end-session",
        }
    }
}

/// A terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Terminal {
    /// Its kind, as in `TERM`.
    pub(crate) kind: String,
    /// Columns.
    pub(crate) width: u16,
    /// Rows.
    pub(crate) height: u16,
}

/// An answer, with the number of its question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answered {
    /// As asked.
    pub(crate) id: u64,
    /// The answer.
    pub(crate) reply: Reply,
    /// What is opened is to be recorded; the file is the last of what comes with this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) recording: Option<Terms>,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reply {
    /// To an offer or a proof.
    Verdict {
        /// Whether it is good. Of a proof: whether somebody is in.
        accepted: bool,
        /// Methods that can be tried now.
        methods: Vec<Method>,
        /// It was good, and another has to follow.
        is_partial: bool,
        /// Text before a shell on a terminal; empty for none.
        #[serde(default)]
        welcome: String,
        /// What its programs may be lent, so that a client is told.
        #[serde(default)]
        lends: Lends,
    },
    /// What is being done before there is a program, one line for people; empty: the same as before. What is answered
    /// follows. With the number of no question it is for everybody at a terminal of the connection.
    Progress {
        /// The line.
        text: String,
    },
    /// The program may run from here on. What is answered follows.
    Starting,
    /// The program is about to run; its connections come with this.
    Opened,
    /// The helper is to run it.
    Inside {
        /// The user's shell.
        shell: String,
        /// The user's home.
        home: String,
        /// Whether it gets the terminal that was asked for.
        terminal: bool,
        /// Whether it is the server of files.
        #[serde(default)]
        files: bool,
        /// Whether that is the helper that sees the home alone.
        #[serde(default)]
        jail: bool,
        /// The session that stays, if it is one.
        #[serde(default)]
        keep: Option<Kept>,
        /// Whether it is lent the client's agent.
        #[serde(default)]
        agent: bool,
        /// What has to be shown at the client's display, if it is lent that.
        #[serde(default)]
        cookie: Option<[u8; COOKIE_BYTES]>,
    },
    /// The server serves the files of an instance that does not run; a connection that speaks SFTP comes with this.
    Stored {
        /// Where relative paths begin.
        home: String,
    },
    /// The helper was started; its connections come with this, and a listener for it after them.
    Helped {
        /// SHA-256 of it.
        build: [u8; 32],
        /// Name of the listener, the helper's token and the answer to it, if there is one.
        #[serde(default)]
        way: Option<([u8; WAY_NAME_BYTES], [u8; WAY_TOKEN_BYTES], [u8; WAY_TOKEN_BYTES])>,
    },
    /// It was the gateway that was asked, and it is done.
    Said {
        /// What is told, lines.
        text: String,
    },
    /// About the shell of Incus commands.
    Shell(ShellReply),
    /// It is the gateway that is asked, which asks first; whoever answers asks again, with the answer as a command.
    Ask {
        /// The question.
        text: String,
    },
    /// To no question: the connection has to end.
    Ending {
        /// What its client is told.
        message: String,
    },
    /// It cannot.
    Refused {
        /// What the client gets as exit status.
        status: u8,
        /// Why, one line for people.
        message: String,
    },
}

/// A packet. `raw` follows the message.
///
/// # Errors
/// None for the types of this module.
pub(crate) fn encode(message: &impl Serialize, raw: &[u8]) -> serde_json::Result<Vec<u8>> {
    let mut packet = serde_json::to_vec(message)?;
    packet.push(b'\n');
    packet.extend_from_slice(raw);
    Ok(packet)
}

/// A message and the bytes that follow it. `None`: it is none of this type.
#[must_use]
pub(crate) fn decode<T: DeserializeOwned>(packet: &[u8]) -> Option<(T, &[u8])> {
    // JSON as it is written here has no line end of its own.
    let end = packet.iter().position(|&byte| byte == b'\n')?;
    let (message, raw) = packet.split_at(end);
    Some((serde_json::from_slice(message).ok()?, &raw[1..]))
}

#[cfg(test)]
mod tests;
