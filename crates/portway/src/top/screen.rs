//! The terminal while `portway top` has it, and how it gets it back: at the end, at a panic, and while it is stopped.

use std::io::{self, Stdout};
use std::panic;
use std::sync::Once;

use crossterm::event::{self, Event};
use crossterm::{cursor, execute, terminal};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use tokio::sync::mpsc;

use crate::failure::{Outcome, Stop};

/// Keys that may wait.
const QUEUE: usize = 64;

/// The terminal. Drop gives it back.
pub(super) struct Screen {
    pub(super) terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// Takes the terminal.
    pub(super) fn take() -> Outcome<Screen> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |what| {
                give_back();
                before(what);
            }));
        });
        enter().map_err(|error| Stop::output(&error))?;
        match Terminal::new(CrosstermBackend::new(io::stdout())) {
            Ok(terminal) => Ok(Screen { terminal }),
            Err(error) => {
                give_back();
                Err(Stop::output(&error))
            }
        }
    }

    /// Stops the whole job, as the key does elsewhere, with the terminal as it was; then takes it again.
    pub(super) fn suspend(&mut self) -> Outcome {
        give_back();
        if let Err(error) = kill(Pid::from_raw(0), Signal::SIGSTOP) {
            return Err(Stop::refused(format!("cannot stop: {error}")));
        }
        self.resume()
    }

    /// Takes the terminal after somebody else had it.
    pub(super) fn resume(&mut self) -> Outcome {
        // Modes that somebody has set meanwhile are not those to come back to, and not ours either.
        give_back();
        // A new one knows nothing of what stood there, and draws all. To clear the one that is there it would ask the
        // terminal where its cursor is, and the answer would come among the keys.
        let entered = enter().and_then(|()| Terminal::new(CrosstermBackend::new(io::stdout())));
        self.terminal = entered.map_err(|error| Stop::output(&error))?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn enter() -> io::Result<()> {
    terminal::enable_raw_mode()?;
    execute!(
        io::stdout(),
        terminal::EnterAlternateScreen,
        terminal::Clear(terminal::ClearType::All),
        cursor::Hide
    )
}

/// Nothing is left to do when the terminal is gone.
fn give_back() {
    let _gone = execute!(io::stdout(), terminal::LeaveAlternateScreen, cursor::Show);
    let _gone = terminal::disable_raw_mode();
}

/// Keys and sizes, from a thread that waits for them until the process ends. The stream ends when the terminal does.
pub(super) fn keys() -> Outcome<mpsc::Receiver<Event>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let thread = std::thread::Builder::new().name("keys".to_owned());
    let started = thread.spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    started.map_err(|error| Stop::refused(format!("cannot start: {error}")))?;
    Ok(receiver)
}
