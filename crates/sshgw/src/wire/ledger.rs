//! What may be asked, when and how often.

use std::collections::BTreeSet;

use super::{COMMAND_BYTES, HELPER_PLACES, PROGRAMS, Request};

/// When a question is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Until somebody has logged in.
    Before,
    /// Somebody has, with another broker, and nothing was said since.
    Resuming,
    /// From then on.
    After,
}

/// The table: when, and how many in all.
const fn rule(request: &Request) -> (Phase, u32) {
    match request {
        // Keys of a well-filled agent.
        Request::Offer { .. } => (Phase::Before, 64),
        // What is refused is counted by `chain`; beyond that come the steps that succeed.
        Request::Proven { .. }
        | Request::Certificate { .. }
        | Request::Password { .. }
        | Request::Code { .. } => (Phase::Before, 16),
        Request::Strange { .. } => (Phase::Before, 16),
        Request::Resume { .. } => (Phase::Resuming, 1),
        // Each is a line of the audit log, and there is one after another gateway alone.
        Request::Lost { .. } => (Phase::After, 64),
        // An instance may be started anew under a connection, and each time takes them one by one.
        Request::Helper { .. } => (Phase::After, 64),
        Request::Open { .. }
        | Request::Closed { .. }
        | Request::Recorded { .. }
        | Request::Transferred { .. }
        | Request::Forwarding(_)
        | Request::Shell(_)
        | Request::Forwarded(_) => (Phase::After, u32::MAX),
    }
}

/// A session that asks what it may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Breach {
    /// The question does not belong here.
    #[error("a question out of its phase")]
    Phase,
    /// It was asked too often.
    #[error("a question asked too often")]
    Count,
    /// A channel that has a program, or has none.
    #[error("a question about another channel")]
    Channel,
    /// Something is longer than it may be.
    #[error("a question that is too long")]
    Length,
}

/// What a question comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is noted and answered.
    Answer,
    /// As many programs run as may.
    TooMany,
    /// There is nothing to be done.
    Nothing,
}

/// What one session has asked.
#[derive(Debug)]
pub(crate) struct Ledger {
    phase: Phase,
    offers: u32,
    proofs: u32,
    helpers: u32,
    oddities: u32,
    losses: u32,
    open: BTreeSet<u32>,
}

/// Longest login: four names of the longest, each byte of them encoded.
pub(crate) const LOGIN_BYTES: usize = 4 << 10;

/// Longest key or certificate, in OpenSSH's format. A certificate of 256 principals has 20 kB.
pub(crate) const KEY_BYTES: usize = 32 << 10;

/// Longest password or code.
pub(crate) const SECRET_BYTES: usize = 1 << 10;

/// Longest path of a file: what is told of one has 1,024 bytes, which as text are three times as many at most.
const PATH_BYTES: usize = 4 << 10;

/// Variables of one program.
const VARIABLES: usize = 128;

impl Default for Ledger {
    fn default() -> Self {
        let (offers, proofs, helpers, oddities, losses) = (0, 0, 0, 0, 0);
        Self { phase: Phase::Before, offers, proofs, helpers, oddities, losses, open: BTreeSet::new() }
    }
}

impl Ledger {
    /// Of a session that has logged in with another broker.
    #[must_use]
    pub(crate) fn of_another() -> Self {
        Self { phase: Phase::Resuming, ..Self::default() }
    }

    /// Notes a question, or says why it may not be asked.
    ///
    /// # Errors
    /// The breach; the session is to be ended.
    pub(crate) fn note(&mut self, request: &Request, raw_bytes: usize) -> Result<(), Breach> {
        let (phase, most) = rule(request);
        if phase != self.phase {
            return Err(Breach::Phase);
        }
        match request {
            Request::Offer { login, key: text }
            | Request::Proven { login, key: text }
            | Request::Certificate { login, certificate: text } => {
                self.count(request, most)?;
                let fits = login.len() <= LOGIN_BYTES && text.len() <= KEY_BYTES && raw_bytes == 0;
                if fits { Ok(()) } else { Err(Breach::Length) }
            }
            Request::Password { login } | Request::Code { login } | Request::Strange { login, .. } => {
                self.count(request, most)?;
                let fits = login.len() <= LOGIN_BYTES && raw_bytes <= SECRET_BYTES;
                if fits { Ok(()) } else { Err(Breach::Length) }
            }
            Request::Resume { running } => {
                if running.len() > PROGRAMS {
                    return Err(Breach::Count);
                }
                self.open = running.iter().copied().collect();
                self.phase = Phase::After;
                Ok(())
            }
            Request::Open { channel, environment, .. } => {
                if self.open.len() >= PROGRAMS {
                    return Err(Breach::Count);
                }
                let long = environment.len() > VARIABLES || raw_bytes > COMMAND_BYTES;
                if long {
                    return Err(Breach::Length);
                }
                if self.open.insert(*channel) { Ok(()) } else { Err(Breach::Channel) }
            }
            Request::Helper { place, .. } => {
                self.helpers += 1;
                if self.helpers > most || *place >= HELPER_PLACES || raw_bytes > 0 {
                    return Err(Breach::Count);
                }
                Ok(())
            }
            Request::Transferred { channel, path, .. } => match self.open.contains(channel) {
                true if path.len() <= PATH_BYTES && raw_bytes == 0 => Ok(()),
                true => Err(Breach::Length),
                false => Err(Breach::Channel),
            },
            Request::Recorded { channel, .. } => match self.open.contains(channel) {
                true if raw_bytes == 0 => Ok(()),
                true => Err(Breach::Length),
                false => Err(Breach::Channel),
            },
            Request::Forwarding(forwarding) => forwarding.check(raw_bytes),
            Request::Forwarded(forwarded) => forwarded.check(raw_bytes),
            Request::Lost { .. } => self.count(request, most),
            Request::Shell(asked) if self.open.contains(&asked.channel) => asked.check(raw_bytes),
            Request::Shell(_) => Err(Breach::Channel),
            Request::Closed { channel, .. } => {
                if self.open.remove(channel) {
                    Ok(())
                } else {
                    Err(Breach::Channel)
                }
            }
        }
    }

    fn count(&mut self, request: &Request, most: u32) -> Result<(), Breach> {
        let count = match request {
            Request::Offer { .. } => &mut self.offers,
            Request::Strange { .. } => &mut self.oddities,
            Request::Lost { .. } => &mut self.losses,
            _ => &mut self.proofs,
        };
        if *count >= most {
            return Err(Breach::Count);
        }
        *count += 1;
        Ok(())
    }

    /// Somebody has logged in.
    pub(crate) fn logged_in(&mut self) {
        self.phase = Phase::After;
    }

    /// Whether a question comes to nothing without being a breach: one program too many, and the end of one that is
    /// not known because its start was not waited for.
    #[must_use]
    pub(crate) fn comes_to(&self, request: &Request) -> Outcome {
        match request {
            Request::Open { .. } if self.phase == Phase::After && self.open.len() >= PROGRAMS => {
                Outcome::TooMany
            }
            Request::Helper { .. } if self.phase == Phase::After && self.helpers >= rule(request).1 => {
                Outcome::TooMany
            }
            Request::Closed { channel, .. }
            | Request::Transferred { channel, .. }
            | Request::Recorded { channel, .. }
                if self.phase == Phase::After && !self.open.contains(channel) =>
            {
                Outcome::Nothing
            }
            _ => Outcome::Answer,
        }
    }

    /// No program came of it.
    pub(crate) fn refused(&mut self, channel: u32) {
        self.open.remove(&channel);
    }
}
