//! A terminal with a screen that can be read.

use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use avt::Terminal;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::pty::OpenptFlags;
use rustix::termios::{InputModes, LocalModes, OutputModes, Winsize, tcgetattr, tcsetwinsize};

/// How long anything may take that is to be seen.
const LIMIT: Duration = Duration::from_secs(30);

/// A program on a terminal of its own.
pub(crate) struct Tty {
    child: Child,
    master: OwnedFd,
    screen: Terminal,
    /// All that came, and how much of it the screen has.
    said: Vec<u8>,
    seen: usize,
    /// How the terminal was before.
    before: Modes,
}

/// What of a terminal's modes programs change.
type Modes = (InputModes, OutputModes, LocalModes);

impl Tty {
    /// Starts a program in a session of its own, whose terminal this is.
    pub(crate) fn run(program: &Command, columns: u16, rows: u16) -> Tty {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
        resize(&master, columns, rows);
        let copy = || slave.try_clone().unwrap();
        let mut session = Command::new("setsid");
        session.arg("--ctty").arg(program.get_program()).args(program.get_args());
        for (name, value) in program.get_envs() {
            session.env(name, value.unwrap_or_default());
        }
        session.stdin(copy()).stdout(copy()).stderr(copy()).env("TERM", "xterm");
        let child = session.spawn().unwrap();
        let before = modes(&master);
        let screen = Terminal::with_scrollback(columns.into(), rows.into(), None).unwrap();
        Tty { child, master, screen, said: Vec::new(), seen: 0, before }
    }

    pub(crate) fn keys(&self, text: &str) {
        assert_eq!(rustix::io::write(&self.master, text.as_bytes()), Ok(text.len()));
    }

    /// Gives it another size, as whoever pulls at a window: the kernel tells the program.
    pub(crate) fn resize(&mut self, columns: u16, rows: u16) {
        self.screen.resize(columns.into(), rows.into());
        resize(&self.master, columns, rows);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// Takes what comes within this time; whether anything has.
    fn listen(&mut self, patience: Duration) -> bool {
        let patience = Timespec { tv_sec: 0, tv_nsec: i64::from(patience.subsec_nanos()) };
        let mut polled = [PollFd::from_borrowed_fd(self.master.as_fd(), PollFlags::IN)];
        if rustix::event::poll(&mut polled, Some(&patience)) == Ok(0) {
            return false;
        }
        let mut bytes = vec![0; 1 << 16];
        let Ok(count) = rustix::io::read(&self.master, &mut bytes) else { return false };
        self.said.extend_from_slice(&bytes[..count]);
        // A character may come in two pieces.
        let new = &self.said[self.seen..];
        let whole = match std::str::from_utf8(new) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&new[..error.valid_up_to()]).unwrap(),
        };
        self.seen += whole.len();
        self.screen.feed(whole);
        count > 0
    }

    /// What is to be seen.
    pub(crate) fn text(&self) -> String {
        let lines = self.screen.screen().visible_lines().map(|line| line.text().trim_end().to_owned());
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Waits until a text is to be seen.
    pub(crate) fn shows(&mut self, text: &str) {
        self.until(text, |tty| tty.text().contains(text));
    }

    /// Waits until a text is to be seen no more.
    pub(crate) fn hides(&mut self, text: &str) {
        self.until(text, |tty| !tty.text().contains(text));
    }

    /// Waits until something is so.
    pub(crate) fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !is_so(self) {
            assert!(begin.elapsed() < LIMIT, "{what:?} is not so:\n{}", self.text());
            if !self.listen(Duration::from_millis(100)) && self.child.try_wait().unwrap().is_some() {
                assert!(is_so(self), "{what:?} before the end:\n{}", self.text());
            }
        }
    }

    pub(crate) fn is_alternate(&self) -> bool {
        self.screen.active_screen_kind() == avt::ScreenKind::Alternate
    }

    /// Whether the program has the terminal for itself, as it is at this moment.
    pub(crate) fn is_taken(&self) -> bool {
        self.is_alternate() && modes(&self.master) != self.before
    }

    /// Whether the terminal is as it was before.
    pub(crate) fn is_given_back(&self) -> bool {
        !self.is_alternate() && self.screen.cursor().visible && modes(&self.master) == self.before
    }

    /// Whether the program is stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        status.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    }

    /// The program's end: its status.
    pub(crate) fn end(&mut self) -> Option<i32> {
        let begin = Instant::now();
        while begin.elapsed() < LIMIT {
            self.listen(Duration::from_millis(20));
            if let Some(status) = self.child.try_wait().unwrap() {
                while self.listen(Duration::from_millis(20)) {}
                return status.code();
            }
        }
        unreachable!("it does not end:\n{}", self.text())
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn resize(master: &OwnedFd, columns: u16, rows: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size).unwrap();
}

fn modes(master: &OwnedFd) -> Modes {
    let modes = tcgetattr(master).unwrap();
    (modes.input_modes, modes.output_modes, modes.local_modes)
}
