//! OpenSSH's client on a terminal, and what is to be seen there.

use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use avt::Terminal;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::scene::Scene;

/// How long anything may take that is to be seen.
const LIMIT: Duration = Duration::from_secs(20);

/// A client that somebody sits before.
pub(crate) struct Tty {
    pub(crate) child: Child,
    master: OwnedFd,
    screen: Terminal,
    /// All that came, as it came.
    pub(crate) said: Vec<u8>,
    /// What of it the screen has.
    seen: usize,
}

impl Tty {
    /// Starts the client of a login on a terminal of that size.
    pub(crate) fn open(scene: &Scene, login: &str, columns: u16, rows: u16) -> Self {
        let mut client = scene.client(&["-tt", "-e", "none"]);
        client.arg(Scene::at(login));
        Self::run(scene, client, columns, rows)
    }

    /// Starts a client on a terminal of that size.
    pub(crate) fn run(scene: &Scene, mut client: Command, columns: u16, rows: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
        resize(&master, columns, rows);
        let copy = || slave.try_clone().unwrap();
        client.stdin(copy()).stdout(copy()).stderr(copy()).env("TERM", "xterm");
        let child = scene.bed.netns().spawn(&mut client).unwrap();
        let screen = Terminal::with_scrollback(columns.into(), rows.into(), None).unwrap();
        Self { child, master, screen, said: Vec::new(), seen: 0 }
    }

    pub(crate) fn keys(&self, text: &str) {
        assert_eq!(rustix::io::write(&self.master, text.as_bytes()), Ok(text.len()));
    }

    /// Gives it another size, as whoever pulls at a window.
    pub(crate) fn resize(&mut self, columns: u16, rows: u16) {
        self.screen.resize(columns.into(), rows.into());
        resize(&self.master, columns, rows);
        // The terminal is not its controlling one.
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGWINCH).unwrap();
    }

    /// Takes what comes within this time; whether anything has.
    pub(crate) fn listen(&mut self, patience: Duration) -> bool {
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

    /// What is to be seen, its lines without blanks at their ends.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.screen.screen().visible_lines().map(|line| line.text().trim_end().to_owned()).collect()
    }

    /// What has scrolled away, and what is to be seen.
    pub(crate) fn all(&self) -> String {
        let lines: Vec<_> =
            self.screen.screen().text().iter().map(|line| line.trim_end().to_owned()).collect();
        lines.join("\n")
    }

    pub(crate) fn cursor(&self) -> (usize, usize) {
        (self.screen.cursor().col, self.screen.cursor().row)
    }

    pub(crate) fn is_alternate(&self) -> bool {
        self.screen.active_screen_kind() == avt::ScreenKind::Alternate
    }

    /// Waits until a text is to be seen.
    pub(crate) fn shows(&mut self, text: &str) {
        self.until(text, |tty| tty.lines().join("\n").contains(text));
    }

    /// Waits until something is so.
    pub(crate) fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !is_so(self) {
            assert!(begin.elapsed() < LIMIT, "{what:?} is not to be seen: {:#?}", self.lines());
            if !self.listen(Duration::from_millis(100)) && self.child.try_wait().unwrap().is_some() {
                assert!(is_so(self), "{what:?} before the end: {:#?}", self.lines());
            }
        }
    }

    /// Waits until nothing has come for some time.
    pub(crate) fn settle(&mut self) {
        while self.listen(Duration::from_millis(300)) {}
    }

    /// The client's end, and its status.
    pub(crate) fn end(&mut self) -> Option<i32> {
        let begin = Instant::now();
        while begin.elapsed() < LIMIT {
            self.listen(Duration::from_millis(20));
            if let Some(status) = self.child.try_wait().unwrap() {
                while self.listen(Duration::ZERO) {}
                return status.code();
            }
        }
        unreachable!("the client does not end: {:#?}", self.lines())
    }

    /// The client goes without a word.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn resize(master: &OwnedFd, columns: u16, rows: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(master, size).unwrap();
}
