//! The process that keeps a terminal: the login shell on it, what it shows, and who looks.
//!
//! States: begun, until the first viewer comes and the shell is started; running; ended, when every viewer is told how
//! and the socket goes. It belongs to nobody: it was started by whoever came first and stays when that one goes. What is
//! written while nobody looks is kept as a screen and never holds the program up.
//!
//! The leader is the viewer that last came, typed or changed its size. The terminal has its size, and what the program
//! asks of its terminal that one answers.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use portway_proto::guest::{DATA_MAX_BYTES, Exit, HELD_VERSION, Held, HeldState, Size};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::screen::{Screen, To};
use super::shell::{Farewell, Shell};
use super::viewer::{Gone, Viewer};
use super::{place, said_modes};
use crate::{serve, terminal};

/// Most viewers, and most of those who only ask or have said nothing yet.
const VIEWERS_MAX_COUNT: usize = 16;
const ASKERS_MAX_COUNT: usize = 16;

/// Most who may wait to be let in.
const BACKLOG: i32 = 64;

/// How long the first one may take to come.
const FIRST: Duration = Duration::from_secs(20);

/// What was typed and not read yet, bytes. More is not read from those who type.
const INPUT_MAX_BYTES: usize = 64 * 1024;

/// How much of what was written before the end is read after it: what still runs may write for ever.
const LAST_BYTES: usize = 1024 * 1024;

/// How long viewers may take to hear of the end.
const LEAVE: Duration = Duration::from_secs(5);

/// Keeps a terminal until its shell has ended. The socket is standard input.
pub(super) fn hold(name: &str, modes: &OsStr) -> io::Result<()> {
    // Who has started this goes, and this does not.
    rustix::process::set_parent_process_death_signal(None)?;
    let listener = UnixListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    listener.set_nonblocking(true)?;
    // Who comes is told who listens: so far that is whoever has made the socket.
    rustix::net::listen(&listener, BACKLOG)?;
    let path = listener.local_addr()?.as_pathname().map(PathBuf::from).unwrap_or_default();
    rustix::process::chdir("/")?;
    let (master, slave, tty) =
        terminal::open(rustix::process::geteuid().as_raw(), &Size::default(), &said_modes(modes))?;
    rustix::fs::fcntl_setfl(&master, OFlags::NONBLOCK | OFlags::RDWR)?;
    let mut holder = Holder {
        name: name.to_owned(),
        listener,
        path,
        master,
        slave: Some((slave, tty)),
        shell: None,
        screen: Screen::new(Size::default()),
        has_said: false,
        viewers: Vec::new(),
        next: 0,
        leader: None,
        input: Vec::new(),
        farewell: Farewell::default(),
        begin: Instant::now(),
    };
    let exit = holder.run();
    holder.end(exit);
    Ok(())
}

struct Holder {
    name: String,
    listener: UnixListener,
    path: PathBuf,
    master: OwnedFd,
    /// Until the shell has it.
    slave: Option<(OwnedFd, CString)>,
    shell: Option<Shell>,
    screen: Screen,
    /// The program has written something.
    has_said: bool,
    viewers: Vec<(u64, Viewer)>,
    next: u64,
    leader: Option<u64>,
    /// What was typed and not taken yet.
    input: Vec<u8>,
    /// It was told to end.
    farewell: Farewell,
    begin: Instant,
}

/// What a polled descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Door,
    Shell,
    Terminal,
    Viewer(u64),
}

impl Holder {
    /// Serves until the shell has ended; how, if there was one.
    fn run(&mut self) -> Option<Exit> {
        let mut scratch = vec![0; DATA_MAX_BYTES];
        loop {
            if self.shell.is_none() && (self.slave.is_none() || self.begin.elapsed() > FIRST) {
                return None;
            }
            for (source, flags) in self.wait().ok()? {
                match source {
                    Source::Door => self.let_in(),
                    Source::Shell => {
                        if let Some(exit) = self.shell.as_ref().and_then(Shell::ended) {
                            self.drain(&mut scratch);
                            return Some(exit);
                        }
                    }
                    Source::Terminal => {
                        self.feed();
                        if flags.intersects(PollFlags::IN | PollFlags::HUP) {
                            self.listen(&mut scratch);
                        }
                    }
                    Source::Viewer(id) => {
                        if let Err(exit) = self.hear(id, flags) {
                            return Some(exit);
                        }
                    }
                }
            }
            if let Some(shell) = &self.shell {
                self.farewell.press(shell, self.master.as_fd(), Instant::now());
            }
            self.show();
        }
    }

    /// Waits until something can be done, and says what.
    fn wait(&mut self) -> rustix::io::Result<Vec<(Source, PollFlags)>> {
        let now = Instant::now();
        self.viewers.retain(|(_, viewer)| !viewer.is_mute(now));
        let is_alone = self.looking() == 1;
        let mut is_held = false;
        for (_, viewer) in &mut self.viewers {
            is_held |= viewer.holds_up(is_alone, now);
        }
        let begins = self.shell.is_none().then(|| self.begin + FIRST);
        let ends = self.viewers.iter().filter_map(|(_, viewer)| viewer.patience_ends());
        let next = ends.chain(begins).chain(self.farewell.next()).min().map(serve::until);
        let mut sources = vec![Source::Door];
        let mut polled = vec![PollFd::new(&self.listener, PollFlags::IN)];
        if let Some(shell) = &self.shell {
            sources.push(Source::Shell);
            polled.push(PollFd::from_borrowed_fd(shell.fd(), PollFlags::IN));
            let mut flags = if is_held { PollFlags::empty() } else { PollFlags::IN };
            flags.set(PollFlags::OUT, !self.input.is_empty());
            if !flags.is_empty() {
                sources.push(Source::Terminal);
                polled.push(PollFd::new(&self.master, flags));
            }
        }
        for (id, viewer) in &self.viewers {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, self.input.len() < INPUT_MAX_BYTES);
            flags.set(PollFlags::OUT, viewer.has_more());
            sources.push(Source::Viewer(*id));
            polled.push(PollFd::from_borrowed_fd(viewer.fd(), flags));
        }
        match rustix::event::poll(&mut polled, next.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let ready = sources.into_iter().zip(polled.iter().map(PollFd::revents));
        Ok(ready.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    fn looking(&self) -> usize {
        self.viewers.iter().filter(|(_, viewer)| viewer.looks).count()
    }

    /// Takes who knocks, if it is this user or root.
    fn let_in(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else { return };
        let own = rustix::process::geteuid();
        let is_known = rustix::net::sockopt::socket_peercred(&stream)
            .is_ok_and(|peer| peer.uid == own || peer.uid.is_root());
        let has_room = self.viewers.len() - self.looking() < ASKERS_MAX_COUNT;
        if is_known && has_room && stream.set_nonblocking(true).is_ok() {
            self.viewers.push((self.next, Viewer::new(stream.into(), Instant::now())));
            self.next += 1;
        }
    }

    /// Hears a viewer, and writes to it. `Err`: the shell cannot be started.
    fn hear(&mut self, id: u64, flags: PollFlags) -> Result<(), Exit> {
        let Some(at) = self.viewers.iter().position(|(one, _)| *one == id) else { return Ok(()) };
        let Some((_, viewer)) = self.viewers.get_mut(at) else { return Ok(()) };
        let mut is_gone = viewer.flush() == Err(Gone);
        if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) && !is_gone {
            is_gone = viewer.read().is_err();
            while !is_gone {
                let Some((_, viewer)) = self.viewers.get_mut(at) else { break };
                let frame = match viewer.inbox.next() {
                    Ok(Some(frame)) => Said::read(frame),
                    Ok(None) => break,
                    Err(_) => None,
                };
                match frame {
                    Some(said) => self.obey(at, said)?,
                    None => is_gone = true,
                }
            }
        }
        let is_done = |viewer: &Viewer| viewer.is_leaving && !viewer.has_more();
        if is_gone || self.viewers.get(at).is_some_and(|(_, viewer)| is_done(viewer)) {
            self.viewers.remove(at);
            if self.leader == Some(id) {
                let looking = self.viewers.iter().filter(|(_, viewer)| viewer.looks);
                let next = looking.max_by_key(|(_, viewer)| viewer.acted).map(|(id, _)| *id);
                self.leader = None;
                if let Some(at) = self.viewers.iter().position(|(id, _)| Some(*id) == next) {
                    self.lead(at);
                }
            }
        }
        Ok(())
    }

    fn obey(&mut self, at: usize, said: Said) -> Result<(), Exit> {
        let state = self.state();
        let has_room = self.looking() < VIEWERS_MAX_COUNT;
        let Some((id, viewer)) = self.viewers.get_mut(at) else { return Ok(()) };
        viewer.speaks();
        match said {
            // Whoever is not understood otherwise can still end it.
            Said::First(_, First::Kill) => {
                self.farewell.begin(Instant::now());
            }
            Said::First(version, _) if version != HELD_VERSION => {
                viewer.push(&Held::Other { version: HELD_VERSION });
                viewer.is_leaving = true;
            }
            Said::First(_, First::Ask) => {
                viewer.push(&Held::State(state));
                viewer.is_leaving = true;
            }
            Said::First(_, First::Attach(size)) if !viewer.looks && has_room => {
                viewer.push(&Held::State(state));
                (viewer.looks, viewer.size) = (true, size);
                let id = *id;
                self.attach(at, id)?;
            }
            Said::Typed(bytes) if viewer.looks => {
                self.input.extend_from_slice(&bytes);
                self.lead(at);
                self.feed();
            }
            Said::Resized(size) if viewer.looks => {
                viewer.size = size;
                self.lead(at);
            }
            Said::First(_, First::Attach(_)) | Said::Typed(_) | Said::Resized(_) => viewer.is_leaving = true,
        }
        Ok(())
    }

    /// Somebody looks: the terminal becomes as large as theirs, and they see what is there.
    fn attach(&mut self, at: usize, id: u64) -> Result<(), Exit> {
        if let Some((_, viewer)) = self.viewers.get_mut(at) {
            viewer.acted = Instant::now();
        }
        self.leader = Some(id);
        let has_changed = self.fit(at);
        if self.has_said {
            let picture = self.screen.picture(true);
            if let Some((_, viewer)) = self.viewers.get_mut(at) {
                viewer.show(&picture);
            }
        }
        if has_changed {
            self.show_others(id);
        }
        if self.shell.is_none() { self.start() } else { Ok(()) }
    }

    /// A viewer does what makes it the leader.
    fn lead(&mut self, at: usize) {
        let Some((id, viewer)) = self.viewers.get_mut(at) else { return };
        let id = *id;
        viewer.acted = Instant::now();
        let was_leader = self.leader.replace(id) == Some(id);
        if self.fit(at) {
            self.show_others(id);
            // Who was not its size sees it cut; the leader's own terminal has changed with it.
            if !was_leader {
                let picture = self.screen.picture(false);
                if let Some((_, viewer)) = self.viewers.get_mut(at) {
                    viewer.show_picture(&picture);
                }
            }
        }
    }

    /// Gives the terminal a viewer's size; whether that is another.
    fn fit(&mut self, at: usize) -> bool {
        let Some((_, viewer)) = self.viewers.get(at) else { return false };
        let has_changed = self.screen.resize(viewer.size);
        if has_changed {
            // The program may have left it.
            let _gone = terminal::resize(&self.master, &self.screen.size());
        }
        has_changed
    }

    fn show_others(&mut self, id: u64) {
        let picture = self.screen.picture(false);
        for (_, viewer) in self.viewers.iter_mut().filter(|(one, viewer)| *one != id && viewer.looks) {
            viewer.show_picture(&picture);
        }
    }

    /// Starts the shell. What is in the way is said, and ends it.
    fn start(&mut self) -> Result<(), Exit> {
        let Some((slave, tty)) = self.slave.take() else { return Ok(()) };
        // The program would learn of it anyway, a moment later.
        let _unseen = terminal::resize(&self.master, &self.screen.size());
        match Shell::start(&self.name, &slave, &tty) {
            Ok(shell) => {
                self.shell = Some(shell);
                Ok(())
            }
            Err((status, why)) => {
                let text = format!("portway: {why}\r\n");
                self.viewers.iter_mut().for_each(|(_, viewer)| viewer.show(text.as_bytes()));
                Err(Exit::Code(status))
            }
        }
    }

    /// Reads once what the program has written.
    fn listen(&mut self, scratch: &mut [u8]) -> usize {
        let count = match rustix::io::read(&self.master, &mut *scratch) {
            Ok(count) => count,
            // Nobody has it open any more: the shell ends, or something else opens it again.
            Err(Errno::IO) => {
                std::thread::sleep(Duration::from_millis(10));
                0
            }
            Err(_) => 0,
        };
        if count == 0 {
            return 0;
        }
        self.has_said = true;
        let Self { screen, viewers, leader, input, .. } = self;
        screen.take(scratch.get(..count).unwrap_or_default(), leader.is_some(), |to| match to {
            To::All(bytes) => viewers.iter_mut().for_each(|(_, viewer)| viewer.show(bytes)),
            To::Leader(bytes) => {
                let leading = viewers.iter_mut().filter(|(id, _)| Some(*id) == *leader);
                leading.for_each(|(_, viewer)| viewer.show(bytes));
            }
            To::Program(bytes) if input.len() < INPUT_MAX_BYTES => input.extend_from_slice(bytes),
            To::Program(_) => {}
        });
        count
    }

    /// Writes to the program what it takes.
    fn feed(&mut self) {
        let mut fed = 0;
        while let Some(rest) = self.input.get(fed..).filter(|rest| !rest.is_empty()) {
            match rustix::io::write(&self.master, rest) {
                Ok(count) => fed += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => fed = self.input.len(),
            }
        }
        self.input.drain(..fed);
    }

    /// What has come is written, and who needs a picture of everything gets one.
    fn show(&mut self) {
        let mut picture = None;
        for (_, viewer) in &mut self.viewers {
            if viewer.wants_picture() {
                let picture = picture.get_or_insert_with(|| self.screen.picture(false));
                viewer.show_picture(picture);
            }
            // One that has gone is noticed when it is polled.
            let _gone = viewer.flush();
        }
    }

    fn state(&self) -> HeldState {
        HeldState {
            pid: self.shell.as_ref().map_or(0, Shell::number),
            viewers: u16::try_from(self.looking()).unwrap_or(u16::MAX),
            size: self.screen.size(),
            age_secs: self.begin.elapsed().as_secs(),
            title: self.screen.title().to_owned(),
        }
    }

    /// Reads what was written before the end.
    fn drain(&mut self, scratch: &mut [u8]) {
        let mut left = LAST_BYTES;
        while left > 0 {
            match self.listen(scratch) {
                0 => return,
                count => left = left.saturating_sub(count),
            }
        }
    }

    /// Tells every viewer how it ended, and goes. Nobody finds it from the first moment on.
    fn end(mut self, exit: Option<Exit>) {
        place::remove(&self.path);
        let farewell = self.screen.farewell();
        for (_, viewer) in &mut self.viewers {
            viewer.show(&farewell);
            if let Some(exit) = exit.filter(|_| viewer.looks) {
                viewer.push(&Held::Ended(exit));
            }
        }
        // What is left on the terminal is hung up.
        drop(self.master);
        let begin = Instant::now();
        while begin.elapsed() < LEAVE {
            self.viewers.retain_mut(|(_, viewer)| viewer.flush().is_ok() && viewer.has_more());
            let mut polled: Vec<_> = self
                .viewers
                .iter()
                .map(|(_, viewer)| PollFd::from_borrowed_fd(viewer.fd(), PollFlags::OUT))
                .collect();
            let patience = serve::until(begin + LEAVE);
            if polled.is_empty() || rustix::event::poll(&mut polled, Some(&patience)).is_err() {
                return;
            }
        }
    }
}

/// What a viewer says, without its bytes' place.
#[derive(Debug)]
enum Said {
    First(u16, First),
    Typed(Vec<u8>),
    Resized(Size),
}

/// What it says first.
#[derive(Debug)]
enum First {
    Attach(Size),
    Ask,
    Kill,
}

impl Said {
    /// `None`: a viewer does not say that.
    fn read(frame: &[u8]) -> Option<Self> {
        match Held::read(frame).ok()? {
            Held::Attach { version, size } => Some(Self::First(version, First::Attach(size))),
            Held::Ask { version } => Some(Self::First(version, First::Ask)),
            Held::Kill { version } => Some(Self::First(version, First::Kill)),
            Held::Bytes(bytes) => Some(Self::Typed(bytes.to_vec())),
            Held::Resize(size) => Some(Self::Resized(size)),
            Held::Ended(_) | Held::State(_) | Held::Other { .. } => None,
        }
    }
}
