//! One server that is asked for both kinds of addresses of a name: by datagrams, and by a connection for what did not
//! fit there (RFC 7766).
//!
//! Who does not understand questions of today is asked again as RFC 1035 has it. Nothing here waits.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use portway_proto::names::message::{ANSWER_MAX_BYTES, Answer, Kind, Style, answer, question};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

/// Messages that are read at a time: others have their turn after that.
const MESSAGES_MAX_COUNT: usize = 16;

/// How much of a message counts, bytes: more than enough for every address that does.
const MESSAGE_MAX_BYTES: usize = 16 << 10;

/// A server, and what it has said.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    name: String,
    style: Style,
    /// One for each kind of address, as the answers.
    ids: [u16; 2],
    answers: [Option<Answer>; 2],
    way: Way,
}

#[derive(Debug)]
enum Way {
    Datagrams(UdpSocket),
    Stream(Stream),
}

/// A connection. Each message has its length before it.
#[derive(Debug)]
struct Stream {
    fd: OwnedFd,
    /// What is not sent yet.
    questions: Vec<u8>,
    /// What is not read yet.
    come: Vec<u8>,
}

/// Whether a server has more to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It may.
    Waits,
    /// It has another try, by another way or in another style, with the time of the first.
    AskedAnew,
    /// Nothing comes any more.
    Over,
}

impl Server {
    /// Asks it by datagrams.
    ///
    /// # Errors
    /// When it cannot be asked, and [`io::ErrorKind::InvalidInput`] when nothing can be called so.
    pub(super) fn ask(address: SocketAddr, name: &str, style: Style) -> io::Result<Self> {
        let ids =
            portway_sys::random::bytes().map(|[a, b, c, d]| [[a, b], [c, d]].map(u16::from_ne_bytes))?;
        let any: IpAddr =
            if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0))?;
        // From nobody else an answer is taken.
        socket.connect(address)?;
        socket.set_nonblocking(true)?;
        for (kind, id) in Kind::ALL.into_iter().zip(ids) {
            socket.send(&question(id, name, kind, style).ok_or(io::ErrorKind::InvalidInput)?)?;
        }
        let way = Way::Datagrams(socket);
        Ok(Self { address, name: name.to_owned(), style, ids, answers: [None, None], way })
    }

    /// What is waited for.
    pub(super) fn waits(&self) -> (BorrowedFd<'_>, PollFlags) {
        match &self.way {
            Way::Datagrams(socket) => (socket.as_fd(), PollFlags::IN),
            Way::Stream(stream) if stream.questions.is_empty() => (stream.fd.as_fd(), PollFlags::IN),
            Way::Stream(stream) => (stream.fd.as_fd(), PollFlags::IN | PollFlags::OUT),
        }
    }

    /// What it has said of each kind of address.
    pub(super) const fn answers(&self) -> &[Option<Answer>; 2] {
        &self.answers
    }

    /// Reads what has come, and asks on for what did not.
    pub(super) fn turn(&mut self) -> Turn {
        let is_gone = match &mut self.way {
            Way::Datagrams(socket) => {
                hear(socket, |said| note(&mut self.answers, said, self.ids, &self.name))
            }
            Way::Stream(stream) => stream.turn(|said| note(&mut self.answers, said, self.ids, &self.name)),
        };
        let is_whole = self.answers.iter().all(Option::is_some);
        if is_gone || !is_whole {
            return if is_gone { Turn::Over } else { Turn::Waits };
        }
        let has_said = |what: &Answer| self.answers.iter().flatten().any(|answer| answer == what);
        if self.style == Style::Extended && has_said(&Answer::Foreign) {
            return self.begin_anew(Self::ask(self.address, &self.name, Style::Plain));
        }
        if matches!(self.way, Way::Datagrams(_)) && has_said(&Answer::Cut) {
            return self.begin_anew(self.connect());
        }
        Turn::Over
    }

    fn begin_anew(&mut self, other: io::Result<Self>) -> Turn {
        let Ok(other) = other else { return Turn::Over };
        *self = other;
        Turn::AskedAnew
    }

    /// Asks by a connection for what did not fit.
    fn connect(&self) -> io::Result<Self> {
        let mut answers = self.answers.clone();
        let mut questions = Vec::new();
        for ((kind, id), place) in Kind::ALL.into_iter().zip(self.ids).zip(&mut answers) {
            if *place == Some(Answer::Cut) {
                *place = None;
                let question =
                    question(id, &self.name, kind, self.style).ok_or(io::ErrorKind::InvalidInput)?;
                questions.extend_from_slice(&u16::try_from(question.len()).unwrap_or(u16::MAX).to_be_bytes());
                questions.extend_from_slice(&question);
            }
        }
        let family = if self.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&fd, &self.address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let way = Way::Stream(Stream { fd, questions, come: Vec::new() });
        Ok(Self { name: self.name.clone(), answers, way, ..*self })
    }
}

/// Puts an answer to its question.
fn note(answers: &mut [Option<Answer>; 2], said: &[u8], ids: [u16; 2], name: &str) {
    for ((kind, id), place) in Kind::ALL.into_iter().zip(ids).zip(answers) {
        if place.is_none() {
            *place = answer(said, id, name, kind);
        }
    }
}

/// Reads datagrams; whether the server is not there.
fn hear(socket: &UdpSocket, mut each: impl FnMut(&[u8])) -> bool {
    let mut message = [0; ANSWER_MAX_BYTES as usize];
    for _ in 0..MESSAGES_MAX_COUNT {
        match socket.recv(&mut message) {
            Ok(count) => each(message.get(..count).unwrap_or_default()),
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
    false
}

impl Stream {
    /// Sends and reads once; whether nothing comes any more.
    fn turn(&mut self, mut each: impl FnMut(&[u8])) -> bool {
        while !self.questions.is_empty() {
            match rustix::net::send(&self.fd, &self.questions, SendFlags::NOSIGNAL) {
                Ok(count) => drop(self.questions.drain(..count)),
                Err(Errno::AGAIN | Errno::INTR) => return false,
                Err(_) => return true,
            }
        }
        let mut piece = [0; MESSAGE_MAX_BYTES];
        match rustix::io::read(&self.fd, &mut piece) {
            Ok(0) => return true,
            Ok(count) => self.come.extend_from_slice(piece.get(..count).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => return false,
            Err(_) => return true,
        }
        while let [high, low, rest @ ..] = self.come.as_slice() {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            let Some(message) = rest.get(..length.min(MESSAGE_MAX_BYTES)) else { return false };
            each(message);
            if length > MESSAGE_MAX_BYTES {
                return true;
            }
            self.come.drain(..2 + length);
        }
        false
    }
}
