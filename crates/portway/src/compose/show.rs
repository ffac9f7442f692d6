//! Progress: a line for each thing that happens; on a terminal also what is under way.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use portway_compose::engine::Note;
use portway_compose::plan::Plan;

use super::remote;
use crate::failure::printable;

/// Time between two pictures.
const TICK: Duration = Duration::from_millis(100);

/// What is shown of a plan while it is carried out.
pub(super) struct Show<'p> {
    plan: &'p Plan,
    /// Widest kind and name.
    width: usize,
    live: Option<MultiProgress>,
    bars: RefCell<BTreeMap<usize, ProgressBar>>,
}

impl<'p> Show<'p> {
    pub(super) fn new(plan: &'p Plan) -> Show<'p> {
        let live = io::stderr().is_terminal() && !remote::wishes().plain;
        let live = live.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        let widths = plan.steps.iter().map(|step| step.action.kind().len() + step.action.name().len() + 1);
        let width = widths.max().unwrap_or_default().min(48);
        Show { plan, width, live, bars: RefCell::default() }
    }

    /// Shows how a step is getting on.
    pub(super) fn tell(&self, step: usize, note: Note<'_>) {
        let Some(action) = self.plan.steps.get(step).map(|step| &step.action) else { return };
        let (now, then) = action.verbs();
        let text = match note {
            Note::Begun => return self.begin(step, now),
            Note::Done => then.to_owned(),
            Note::Failed(why) => format!("failed: {why}"),
            Note::Skipped => "not begun".to_owned(),
        };
        if let Some(bar) = self.bars.borrow_mut().remove(&step) {
            bar.finish_and_clear();
        }
        self.line(&self.text(step, &text));
    }

    fn text(&self, step: usize, what: &str) -> String {
        let action = self.plan.steps.get(step).map(|step| &step.action);
        let name = action.map(|action| format!("{} {}", action.kind(), action.name())).unwrap_or_default();
        printable(&format!("{name:<width$}  {what}", width = self.width))
    }

    fn begin(&self, step: usize, what: &str) {
        let Some(live) = &self.live else {
            if remote::wishes().debug {
                self.line(&self.text(step, what));
            }
            return;
        };
        let bar = live.add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.set_message(self.text(step, what));
        bar.enable_steady_tick(TICK);
        self.bars.borrow_mut().insert(step, bar);
    }

    fn line(&self, text: &str) {
        // Nothing is left to do when standard error cannot be written.
        let _unheard = match &self.live {
            Some(live) => live.println(text),
            None => writeln!(io::stderr(), "{text}"),
        };
    }

    /// Takes away what is still shown as under way.
    pub(super) fn end(&self) {
        self.bars.borrow_mut().values().for_each(ProgressBar::finish_and_clear);
    }
}
