//! Progress: a line for each thing that happens; on a terminal also what is under way.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use portway_compose::engine::Note;
use portway_compose::plan::{Action, Plan};

use super::remote;
use crate::cli::compose::{AnsiArg, ProgressArg};
use crate::failure::{colour_allowed, printable};

/// Time between two pictures.
const TICK: Duration = Duration::from_millis(100);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// What is under way, in a picture that changes.
    Live,
    /// A line for each thing that happens.
    Plain,
    /// Only what has failed.
    Quiet,
}

impl Progress {
    /// The same without a picture that changes.
    pub(super) fn plain(self) -> Progress {
        if self == Progress::Quiet { Progress::Quiet } else { Progress::Plain }
    }
}

/// What is shown, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) progress: Progress,
    pub(super) colour: bool,
    /// Whether images that are fetched are shown.
    pub(super) images: bool,
}

impl Default for Look {
    /// What is asked for, as far as standard error can show it.
    fn default() -> Look {
        let dumb = std::env::var_os("TERM").is_some_and(|kind| kind == "dumb");
        let wishes = remote::wishes();
        Look::of((wishes.ansi, wishes.progress), io::stderr().is_terminal() && !dumb, colour_allowed())
    }
}

impl Look {
    fn of((ansi, progress): (AnsiArg, ProgressArg), terminal: bool, allowed: bool) -> Look {
        let colour = match ansi {
            AnsiArg::Auto => terminal && allowed,
            AnsiArg::Always => true,
            AnsiArg::Never => false,
        };
        let live = terminal && ansi != AnsiArg::Never;
        let progress = match progress {
            ProgressArg::Auto | ProgressArg::Tty if live => Progress::Live,
            ProgressArg::Auto | ProgressArg::Tty | ProgressArg::Plain => Progress::Plain,
            ProgressArg::Quiet => Progress::Quiet,
        };
        Look { progress, colour, images: true }
    }

    /// `text` in a colour, where colours are shown.
    fn paint(self, text: &str, colour: &str) -> String {
        if self.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A line on standard error, or where else progress is wanted.
pub(super) fn say(text: &str) {
    status(&printable(text));
}

/// What has happened: on standard error, or with a variable of docker compose on standard output.
fn status(line: &str) {
    let elsewhere = std::env::var("COMPOSE_STATUS_STDOUT").is_ok_and(|text| remote::is_yes(&text));
    // Nothing is left to do when it cannot be written.
    let _unheard =
        if elsewhere { writeln!(io::stdout(), "{line}") } else { writeln!(io::stderr(), "{line}") };
}

/// What is shown of a plan while it is carried out.
pub(super) struct Show<'p> {
    plan: &'p Plan,
    /// Widest kind and name.
    width: usize,
    look: Look,
    live: Option<MultiProgress>,
    bars: RefCell<BTreeMap<usize, ProgressBar>>,
}

impl<'p> Show<'p> {
    pub(super) fn new(plan: &'p Plan, look: Look) -> Show<'p> {
        let live = look.progress == Progress::Live;
        let live = live.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        let widths = plan.steps.iter().map(|step| step.action.kind().len() + step.action.name().len() + 1);
        let width = widths.max().unwrap_or_default().min(48);
        Show { plan, width, look, live, bars: RefCell::default() }
    }

    /// Shows how a step is getting on.
    pub(super) fn tell(&self, step: usize, note: Note<'_>) {
        let Some(action) = self.plan.steps.get(step).map(|step| &step.action) else { return };
        let (now, then) = action.verbs();
        let is_quiet = self.look.progress == Progress::Quiet
            || (!self.look.images && matches!(action, Action::Image { .. }));
        let (text, colour) = match note {
            Note::Begun | Note::Done if is_quiet => return,
            Note::Begun => return self.begin(step, now),
            Note::Done => (then.to_owned(), "32"),
            Note::Failed(why) => (format!("failed: {why}"), "31"),
            Note::Lost => ("cut off".to_owned(), "31"),
            Note::Skipped => ("not begun".to_owned(), "33"),
        };
        if let Some(bar) = self.bars.borrow_mut().remove(&step) {
            bar.finish_and_clear();
        }
        self.line(&format!("{}  {}", self.name(step), self.look.paint(&printable(&text), colour)));
    }

    fn name(&self, step: usize) -> String {
        let action = self.plan.steps.get(step).map(|step| &step.action);
        let name = action.map(|action| format!("{} {}", action.kind(), action.name())).unwrap_or_default();
        printable(&format!("{name:<width$}", width = self.width))
    }

    fn begin(&self, step: usize, what: &str) {
        let Some(live) = &self.live else {
            if remote::wishes().debug {
                self.line(&format!("{}  {what}", self.name(step)));
            }
            return;
        };
        let bar = live.add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.set_message(format!("{}  {what}", self.name(step)));
        bar.enable_steady_tick(TICK);
        self.bars.borrow_mut().insert(step, bar);
    }

    fn line(&self, text: &str) {
        match &self.live {
            // Nothing is left to do when standard error cannot be written.
            Some(live) => drop(live.println(text)),
            None => status(text),
        }
    }

    /// Takes away what is still shown as under way.
    pub(super) fn end(&self) {
        self.bars.borrow_mut().values().for_each(ProgressBar::finish_and_clear);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_shown_where_it_can_be() {
        let look = |ansi, progress, terminal, allowed| {
            let look = Look::of((ansi, progress), terminal, allowed);
            (look.progress, look.colour)
        };
        use {AnsiArg as A, ProgressArg as P};
        assert_eq!(look(A::Auto, P::Auto, true, true), (Progress::Live, true));
        assert_eq!(look(A::Auto, P::Auto, true, false), (Progress::Live, false), "NO_COLOR");
        assert_eq!(look(A::Auto, P::Auto, false, true), (Progress::Plain, false));
        assert_eq!(look(A::Never, P::Tty, true, true), (Progress::Plain, false), "it cannot move the cursor");
        assert_eq!(look(A::Always, P::Plain, false, false), (Progress::Plain, true));
        assert_eq!(look(A::Auto, P::Tty, false, true).0, Progress::Plain);
        assert_eq!(look(A::Auto, P::Quiet, true, true).0, Progress::Quiet);
    }
}
