//! A viewer of a session that is kept: a program on a terminal that carries what its holder shows and what is typed.
//!
//! It begins the session when there is none of its name. It ends with the session and its status, or with its terminal,
//! and the session stays.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use portway_proto::guest::{DATA_MAX_BYTES, Exit, HELD_VERSION, Held, Inbox, Size};
use portway_sys::process::program::{Image, Input, Program, spawn};
use portway_sys::signals::Signals;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::Signal as Told;

use super::agent;
use super::place::{self, Found};
use crate::serve;

/// How long a holder may take to say what it is.
const ANSWER: Duration = Duration::from_secs(10);

/// How often a session that ends while it is being found is looked for.
const TRIES: usize = 5;

/// What waits to be written to either side, bytes. More is not read from the other.
const WAITING_MAX_BYTES: usize = 256 * 1024;

/// Looks at a session until it or the terminal ends; with which status.
pub(super) fn attach(name: &str, modes: &OsStr) -> Result<u8, String> {
    // Before anything waits: an end of the terminal is to be the end of this.
    let mut signals = Signals::take().map_err(|error| format!("cannot take signals: {error}"))?;
    let (stdin, stdout) = (io::stdin(), io::stdout());
    for fd in [stdin.as_fd(), stdout.as_fd()] {
        let flags = rustix::fs::fcntl_getfl(fd).map_err(|error| format!("there is no terminal: {error}"))?;
        rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)
            .map_err(|error| format!("there is no terminal: {error}"))?;
    }
    for _ in 0..TRIES {
        let stream = reach(name, modes)?;
        let socket = stream.peer_addr().ok().and_then(|address| address.as_pathname().map(PathBuf::from));
        // Until this goes.
        let _lent = socket.and_then(|socket| agent::Leading::begin(&socket));
        let mut viewing = Viewing::new(stream);
        match viewing.run(&mut signals) {
            Ended::With(status) => return Ok(status),
            // It had ended when we came.
            Ended::Unheard => {}
            Ended::Silent => return Err(format!("session {name} does not answer")),
            Ended::Other(version) => {
                return Err(format!(
                    "session {name} was begun by another version of the gateway ({version}), and can only be killed"
                ));
            }
            Ended::Lost => return Err(format!("session {name} has gone")),
        }
    }
    Err(format!("session {name} cannot be reached"))
}

/// How looking has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The session, or our terminal, with this status.
    With(u8),
    /// Before the holder said anything.
    Unheard,
    /// The holder says nothing.
    Silent,
    /// The holder speaks this version.
    Other(u16),
    /// The holder was killed.
    Lost,
}

/// The session, which begins with this if it is not there.
fn reach(name: &str, modes: &OsStr) -> Result<UnixStream, String> {
    match place::find_or_begin(name).map_err(|error| error.to_string())? {
        Found::Session(stream) => Ok(stream),
        Found::Begun(listener, lock) => {
            begin(name, modes, &listener).map_err(|error| format!("session {name} cannot begin: {error}"))?;
            drop(listener);
            let stream = place::find(name).ok_or_else(|| format!("session {name} has not begun"))?;
            drop(lock);
            Ok(stream)
        }
    }
}

/// Starts the holder, in a session and a process group of its own, with nothing of ours but variables.
fn begin(name: &str, modes: &OsStr, listener: &UnixListener) -> io::Result<()> {
    let own = File::open("/proc/self/exe")?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    let words = [b"portway-guest", &b"hold"[..], name.as_bytes(), modes.as_encoded_bytes()];
    let args: Vec<CString> = words.into_iter().filter_map(|word| CString::new(word).ok()).collect();
    let address = listener.local_addr()?;
    let lent = address.as_pathname().and_then(agent::variable);
    let env =
        crate::environment::build(portway_proto::guest::Environment::Instance, lent.into_iter().collect());
    spawn(&Program {
        image: Image::File(own.as_fd()),
        args: &args,
        env: &env,
        cwd: c"/",
        ids: None,
        umask: super::UMASK,
        stdio: [listener.as_fd(), null.as_fd(), null.as_fd()],
        input: Input::Stream,
    })
    .map(drop)
    .map_err(io::Error::other)
}

/// A terminal that ends by SIGHUP: the status of what it runs, as of a shell.
pub(super) const HUNG_UP: u8 = 128 + 1;

struct Viewing {
    stream: UnixStream,
    inbox: Inbox,
    /// To the holder.
    typed: Vec<u8>,
    /// To the terminal.
    shown: Vec<u8>,
    /// The holder has said what it is.
    is_heard: bool,
    /// How the session has ended: everything is to be shown, and then this ends too.
    ended: Option<u8>,
    begin: Instant,
}

impl Viewing {
    fn new(stream: UnixStream) -> Self {
        let (inbox, typed, shown) = (Inbox::default(), Vec::new(), Vec::new());
        let mut viewing =
            Self { stream, inbox, typed, shown, is_heard: false, ended: None, begin: Instant::now() };
        viewing.say(&Held::Attach { version: HELD_VERSION, size: size() });
        viewing
    }

    fn say(&mut self, frame: &Held<'_>) {
        // What is said here is short.
        let _fits = frame.write(&mut self.typed);
    }

    fn run(&mut self, signals: &mut Signals) -> Ended {
        let (stdin, stdout) = (io::stdin(), io::stdout());
        let mut scratch = vec![0; DATA_MAX_BYTES];
        loop {
            // A holder that has gone is noticed when it is read from.
            let _gone = flush(&mut self.typed, self.stream.as_fd());
            if flush(&mut self.shown, stdout.as_fd()).is_err() {
                return Ended::With(HUNG_UP);
            }
            if let Some(status) = self.ended.filter(|_| self.shown.is_empty()) {
                return Ended::With(status);
            }
            if !self.is_heard && self.begin.elapsed() > ANSWER {
                return Ended::Silent;
            }
            let reads = |waiting: &Vec<u8>| {
                if waiting.len() < WAITING_MAX_BYTES { PollFlags::IN } else { PollFlags::empty() }
            };
            let writes = |waiting: &Vec<u8>| {
                if waiting.is_empty() { PollFlags::empty() } else { PollFlags::OUT }
            };
            // What is typed before the session is there waits on the terminal.
            let input = if self.is_heard { reads(&self.typed) } else { PollFlags::empty() };
            let mut polled = [
                PollFd::new(&stdin, input | writes(&self.shown)),
                PollFd::new(&self.stream, reads(&self.shown) | writes(&self.typed)),
                PollFd::new(signals, PollFlags::IN),
            ];
            let patience = (!self.is_heard).then(|| serve::until(self.begin + ANSWER));
            if !matches!(rustix::event::poll(&mut polled, patience.as_ref()), Ok(_) | Err(Errno::INTR)) {
                return Ended::Lost;
            }
            let [terminal, holder, signal] = polled.map(|one| one.revents());
            if !signal.is_empty() && !self.hear_signals(signals) {
                return Ended::With(HUNG_UP);
            }
            if terminal.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
                && !self.read_terminal(&mut scratch)
            {
                return Ended::With(HUNG_UP);
            }
            if holder.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
                && let Some(ended) = self.read_holder()
            {
                return ended;
            }
        }
    }

    /// Whether this goes on.
    fn hear_signals(&mut self, signals: &mut Signals) -> bool {
        let ends = [Told::HUP, Told::TERM, Told::INT, Told::QUIT].map(Told::as_raw);
        while let Ok(Some(number)) = signals.read() {
            if number == Told::WINCH.as_raw() {
                self.say(&Held::Resize(size()));
            } else if ends.contains(&number) {
                return false;
            }
        }
        true
    }

    /// Whether there is a terminal.
    fn read_terminal(&mut self, scratch: &mut [u8]) -> bool {
        match rustix::io::read(io::stdin(), &mut *scratch) {
            Ok(0) => false,
            Ok(count) => {
                let bytes = scratch.get(..count).unwrap_or_default();
                self.say(&Held::Bytes(bytes));
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => true,
            Err(_) => false,
        }
    }

    /// Hears the holder; how looking ends, when it does.
    fn read_holder(&mut self) -> Option<Ended> {
        let lost = if self.is_heard { Ended::Lost } else { Ended::Unheard };
        match rustix::io::read(&self.stream, self.inbox.room()) {
            Ok(0) => return self.ended.is_none().then_some(lost),
            Ok(count) => self.inbox.filled(count),
            Err(Errno::AGAIN | Errno::INTR) => return None,
            Err(_) => return self.ended.is_none().then_some(lost),
        }
        loop {
            let frame = match self.inbox.next() {
                Ok(Some(frame)) => Held::read(frame),
                Ok(None) => return None,
                Err(_) => return Some(Ended::Lost),
            };
            match frame {
                Ok(Held::State(_)) => self.is_heard = true,
                Ok(Held::Bytes(bytes)) => self.shown.extend_from_slice(bytes),
                Ok(Held::Ended(Exit::Code(status))) => self.ended = Some(status),
                Ok(Held::Ended(Exit::Signal { signal, .. })) => self.ended = Some(128 | signal.number()),
                Ok(Held::Other { version }) => return Some(Ended::Other(version)),
                Ok(Held::Attach { .. } | Held::Ask { .. } | Held::Kill { .. } | Held::Resize(_)) | Err(_) => {
                    return Some(Ended::Lost);
                }
            }
        }
    }
}

/// Writes what is taken.
fn flush(bytes: &mut Vec<u8>, to: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match rustix::io::write(to, rest) {
            Ok(count) => written += count,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            Err(error) => return Err(error),
        }
    }
    bytes.drain(..written);
    Ok(())
}

/// Of our own terminal.
fn size() -> Size {
    let size = rustix::termios::tcgetwinsize(io::stdin());
    size.map_or_else(
        |_| Size::default(),
        |size| Size {
            columns: size.ws_col,
            rows: size.ws_row,
            width: size.ws_xpixel,
            height: size.ws_ypixel,
        },
    )
}

/// Says why there is no session, on a terminal that is not to turn its lines.
pub(super) fn complain(why: &str) {
    // Nobody is left to tell when this fails.
    let _gone = write!(io::stderr(), "portway: {why}\r\n");
}
