//! The conversation with the kernel: requests, dumps and batches over one socket, one at a time.
//!
//! Every message asks for an acknowledgement and is numbered, so an answer belongs to exactly one
//! request and nothing is believed done that the kernel has not confirmed. What answers an earlier
//! request, one that ran out of patience, is dropped.

use std::io;
use std::time::Duration;

use portway_sys::netlink::{Family, Socket};

use super::{Attributes, Malformed, Message, Messages, Writer};

/// `NLMSG_ERROR`: an error, or with 0 an acknowledgement.
const ERROR: u16 = 2;
/// `NLMSG_DONE`.
const DONE: u16 = 3;
/// `NLM_F_DUMP_INTR`: what is dumped has changed meanwhile.
const FLAG_INTERRUPTED: u16 = 0x10;
/// `NLM_F_CAPPED`: an error comes with the header alone of the request.
const FLAG_CAPPED: u16 = 0x100;
/// `NLM_F_ACK_TLVS`: an error comes with attributes.
const FLAG_ATTRIBUTES: u16 = 0x200;
/// `NLMSGERR_ATTR_MSG`: the kernel's words.
const ERROR_TEXT: u16 = 1;
/// `ENOBUFS`: there was no room for an answer.
const OVERRUN: i32 = 105;
/// errno and the header of the request it is about, bytes.
const ERROR_HEAD_BYTES: usize = 20;

/// Longest wait for an answer. The kernel answers from within send(2), a busy one within moments.
const PATIENCE: Duration = Duration::from_secs(10);

/// Twice the largest piece the kernel makes of a dump (32 KiB, `netlink_dump`), and more than the
/// longest event.
const BUFFER_BYTES: usize = 128 << 10;

/// A dump that is interrupted this often has a table under constant change before it.
const DUMP_TRIES: u32 = 20;

/// Room for the acknowledgements of one batch, and the least for dumps.
const RECEIVE_BYTES: usize = 4 << 20;

/// What the kernel refused, and of which message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// Which message of those sent at once, from 0.
    pub(crate) message: usize,
    /// Why.
    pub(crate) errno: i32,
    /// The kernel's own words, or none.
    pub(crate) text: String,
}

/// Why a conversation failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// A system call failed.
    #[error("cannot {0} netlink")]
    Socket(&'static str, #[source] io::Error),
    /// The kernel said no.
    #[error("the kernel refused message {message}: {}", said(*.errno, .text))]
    Refused {
        /// Which message of those sent at once, from 0.
        message: usize,
        /// Why.
        errno: i32,
        /// The kernel's own words, or none.
        text: String,
    },
    /// What came cannot be read.
    #[error("the kernel's answer cannot be read")]
    Malformed(#[from] Malformed),
    /// A dump never came to its end in one piece.
    #[error("what is listed changes faster than it can be read")]
    Unsteady,
}

impl NetlinkError {
    /// The errno of a refusal.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Socket(..) | Self::Malformed(_) | Self::Unsteady => None,
        }
    }
}

fn said(errno: i32, text: &str) -> String {
    let error = io::Error::from_raw_os_error(errno);
    if text.is_empty() { error.to_string() } else { format!("{text} ({error})") }
}

impl From<Mistake> for NetlinkError {
    fn from(mistake: Mistake) -> Self {
        Self::Refused { message: mistake.message, errno: mistake.errno, text: mistake.text }
    }
}

/// One socket, and the number of its next request.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Socket,
    next: u32,
    buffer: Vec<u8>,
}

impl Connection {
    /// Opens one in the calling thread's network namespace.
    pub(crate) fn open(family: Family) -> Result<Self, NetlinkError> {
        let socket = Socket::open(family, PATIENCE).map_err(|e| NetlinkError::Socket("open", e))?;
        let connection = Self { socket, next: 1, buffer: vec![0; BUFFER_BYTES] };
        connection.reserve(BUFFER_BYTES)?;
        Ok(connection)
    }

    /// Number of its socket in the namespace.
    pub(crate) fn port_id(&self) -> u32 {
        self.socket.port_id()
    }

    /// Changes how much it can read at once, bytes, so that answers are lost. Returns what it was.
    #[cfg(test)]
    pub(crate) fn set_room(&mut self, bytes: usize) -> usize {
        std::mem::replace(&mut self.buffer, vec![0; bytes]).len()
    }

    /// Makes room to send so much at once.
    pub(crate) fn reserve(&self, bytes: usize) -> Result<(), NetlinkError> {
        // The kernel counts its own overhead too.
        let send_bytes = bytes.saturating_mul(2).saturating_add(4096);
        let done = self.socket.reserve(send_bytes, RECEIVE_BYTES);
        done.map_err(|e| NetlinkError::Socket("make room for", e))
    }

    /// Sends messages that each want an acknowledgement, and waits for all of them. Returns what was
    /// refused; the kernel goes on after a refusal, unless the messages are a batch.
    pub(crate) fn send(&mut self, messages: &mut Writer) -> Result<Vec<Mistake>, NetlinkError> {
        self.exchange(messages, |_| Ok(()))
    }

    /// Sends one request and hands its answers to `visit`.
    pub(crate) fn request(
        &mut self,
        messages: &mut Writer,
        visit: impl FnMut(Message<'_>) -> Result<(), Malformed>,
    ) -> Result<(), NetlinkError> {
        let mistakes = self.exchange(messages, visit)?;
        mistakes.into_iter().next().map_or(Ok(()), |mistake| Err(mistake.into()))
    }

    /// Sends one request for a list and hands its items to `visit`; `begin` is called before the
    /// first, and again whenever the list has changed half-way and is read anew.
    pub(crate) fn dump<T>(
        &mut self,
        request: &mut Writer,
        begin: impl Fn() -> T,
        mut visit: impl FnMut(&mut T, Message<'_>) -> Result<(), Malformed>,
    ) -> Result<T, NetlinkError> {
        for _ in 0..DUMP_TRIES {
            let mut list = begin();
            let mut interrupted = false;
            self.dump_once(request, |message| {
                interrupted |= message.flags & FLAG_INTERRUPTED != 0;
                if message.kind == DONE { Ok(()) } else { visit(&mut list, message) }
            })?;
            if !interrupted {
                return Ok(list);
            }
        }
        Err(NetlinkError::Unsteady)
    }

    fn dump_once(
        &mut self,
        request: &mut Writer,
        mut visit: impl FnMut(Message<'_>) -> Result<(), Malformed>,
    ) -> Result<(), NetlinkError> {
        let sequence = self.transmit(request)?;
        // Read to its end whatever happens: the kernel refuses the next one while this one is unread.
        let mut first_fault: Option<NetlinkError> = None;
        loop {
            let received = match self.receive() {
                Ok(received) => received,
                // There is no more to come.
                Err(error) if is_silence(&error) => return Err(first_fault.unwrap_or(error)),
                Err(error) => {
                    first_fault.get_or_insert(error);
                    continue;
                }
            };
            for message in Messages::new(self.buffer.get(..received).unwrap_or_default()) {
                let message = match message {
                    Ok(message) => message,
                    Err(fault) => {
                        first_fault.get_or_insert(fault.into());
                        break;
                    }
                };
                if message.sequence != sequence {
                    continue;
                }
                if message.kind == ERROR {
                    let mistake = mistake(&message, sequence)?;
                    return mistake.map_or(Ok(()), |mistake| Err(mistake.into()));
                }
                if first_fault.is_none() {
                    first_fault = visit(message).err().map(NetlinkError::from);
                }
                if message.kind == DONE {
                    let errno = message.body.get(..4).and_then(|bytes| bytes.try_into().ok());
                    return match (errno.map_or(0, i32::from_ne_bytes), first_fault) {
                        (0, None) => Ok(()),
                        (0, Some(fault)) => Err(fault),
                        (errno, _) => Err(Mistake { message: 0, errno: -errno, text: String::new() }.into()),
                    };
                }
            }
        }
    }

    fn exchange(
        &mut self,
        messages: &mut Writer,
        mut visit: impl FnMut(Message<'_>) -> Result<(), Malformed>,
    ) -> Result<Vec<Mistake>, NetlinkError> {
        let mut waiting = messages.wants_acknowledgement();
        let first = self.transmit(messages)?;
        let mut mistakes = Vec::new();
        let mut fault = None;
        while waiting > 0 {
            let received = self.receive()?;
            for message in Messages::new(self.buffer.get(..received).unwrap_or_default()) {
                let message = message?;
                let ours = usize::try_from(message.sequence.wrapping_sub(first));
                if ours.is_ok_and(|number| number >= messages.count()) {
                    continue;
                }
                if message.kind == ERROR {
                    waiting = waiting.saturating_sub(1);
                    let mistake = mistake(&message, first)?;
                    // A batch that is refused as a whole is refused in its first message, which
                    // wants no acknowledgement; the others may then get none.
                    if mistake.as_ref().is_some_and(|mistake| mistake.message == 0 && !messages.first_wants())
                    {
                        waiting = 0;
                    }
                    mistakes.extend(mistake);
                } else if fault.is_none() {
                    fault = visit(message).err();
                }
            }
        }
        fault.map_or(Ok(mistakes), |fault| Err(fault.into()))
    }

    /// Numbers and sends; the number of the first.
    fn transmit(&mut self, messages: &mut Writer) -> Result<u32, NetlinkError> {
        let first = self.next;
        let count = u32::try_from(messages.count()).unwrap_or(u32::MAX);
        // Never 0, which announcements of the kernel itself carry.
        self.next = first.checked_add(count).unwrap_or(1);
        let sent = self.socket.send(messages.numbered(first));
        sent.map_err(|e| NetlinkError::Socket("send over", e))?;
        Ok(first)
    }

    fn receive(&mut self) -> Result<usize, NetlinkError> {
        let received = self.socket.receive(&mut self.buffer);
        received.map_err(|e| NetlinkError::Socket("receive over", e))
    }
}

/// Whether nothing came for as long as a wait lasts, or nothing ever will. Anything else is about one answer:
/// others come after it.
fn is_silence(error: &NetlinkError) -> bool {
    let NetlinkError::Socket(_, error) = error else { return true };
    error.kind() != io::ErrorKind::InvalidData && error.raw_os_error() != Some(OVERRUN)
}

/// Reads an error message; `None` is an acknowledgement.
fn mistake(message: &Message<'_>, first: u32) -> Result<Option<Mistake>, Malformed> {
    let wrong = Malformed("error message");
    let errno: [u8; 4] = message.body.get(..4).and_then(|bytes| bytes.try_into().ok()).ok_or(wrong)?;
    let errno = i32::from_ne_bytes(errno).checked_neg().ok_or(wrong)?;
    if errno == 0 {
        return Ok(None);
    }
    let capped = message.flags & FLAG_CAPPED != 0 && message.flags & FLAG_ATTRIBUTES != 0;
    let text = match message.body.get(ERROR_HEAD_BYTES..) {
        Some(rest) if capped => Attributes::new(rest).find(ERROR_TEXT)?.map(|found| found.text()),
        Some(_) | None => None,
    };
    let number = usize::try_from(message.sequence.wrapping_sub(first)).unwrap_or_default();
    Ok(Some(Mistake { message: number, errno, text: text.unwrap_or_default() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::FLAG_DUMP;
    use portway_testkit::{Netns, is_root};
    use std::process::Command;

    /// `RTM_GETADDR`, `RTM_NEWADDR`; length of `ifaddrmsg`.
    const GET_ADDRESSES: u16 = 22;
    const ADDRESS: u16 = 20;
    const IFADDRMSG_BYTES: usize = 8;

    fn count(connection: &mut Connection) -> Result<u64, NetlinkError> {
        let mut request = Writer::default();
        request.message(GET_ADDRESSES, FLAG_DUMP, &[0; IFADDRMSG_BYTES], |_| {});
        connection.dump(
            &mut request,
            || 0,
            |count, message| {
                *count += u64::from(message.kind == ADDRESS);
                Ok(())
            },
        )
    }

    /// A list that cannot be read fails, and the next one is whole.
    ///
    /// Fails when: a list is left half-way, and the kernel refuses the next one (`EBUSY`).
    #[test]
    fn a_list_that_cannot_be_read_does_not_spoil_the_next() {
        if !is_root() {
            return;
        }
        let netns = Netns::new().unwrap();
        let addresses = "for a in $(seq 0 9); do for b in $(seq 1 100); do \
                         echo addr add 10.1.$a.$b/32 dev lo; done; done | ip -batch -";
        netns.run(Command::new("sh").args(["-c", addresses])).unwrap();
        let mut connection = netns
            .enter(|| {
                let socket = Socket::open(Family::Route, Duration::from_millis(200)).unwrap();
                Connection { socket, next: 1, buffer: vec![0; BUFFER_BYTES] }
            })
            .unwrap();
        let room = connection.set_room(64);
        let error = count(&mut connection).unwrap_err();
        assert!(matches!(&error, NetlinkError::Socket(_, e) if e.kind() == io::ErrorKind::InvalidData));
        connection.set_room(room);
        assert!(count(&mut connection).unwrap() >= 1_000);
    }
}
