//! The model on a screen of any size. It changes nothing but what fits.

use ratatui::Frame;
use ratatui::style::{Modifier, Style};

use super::canvas::{Canvas, bars};
use super::keys::HELP;
use super::model::{Column, Model, Page, Row, state_of};
use crate::failure::printable;
use crate::output::human;
use crate::output::table::Tone;
use portway_control::api::DeviceState;

mod detail;
mod list;

/// With fewer lines than this there is no line of keys, and only one head.
const TIGHT: u16 = 8;

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, model: &mut Model, colour: bool) {
    let area = frame.area();
    let mut canvas = Canvas::new(frame.buffer_mut(), area, colour);
    let head = head(&mut canvas, model);
    let foot = u16::from(canvas.height() >= TIGHT);
    let body = Lines { first: head, end: canvas.height().saturating_sub(foot) };
    match model.page {
        Page::List => list::draw(&mut canvas, model, body),
        Page::Device => detail::draw(&mut canvas, model, body),
        Page::Help => help(&mut canvas, body),
    }
    if foot > 0 {
        keys(&mut canvas, model);
    }
    if model.away.is_some() {
        dim(&mut canvas, body);
    }
}

/// Lines of the screen.
#[derive(Debug, Clone, Copy)]
struct Lines {
    first: u16,
    /// The first that is no more of them.
    end: u16,
}

impl Lines {
    fn count(self) -> u16 {
        self.end.saturating_sub(self.first)
    }
}

/// The lines above everything; returns how many.
fn head(canvas: &mut Canvas<'_>, model: &Model) -> u16 {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let (open, rate) = model.totals();
    let traffic = [
        (format!("{open} open"), Style::new()),
        (format!("in {}/s", human::bytes(rate.bytes_in)), canvas.accent()),
        (format!("out {}/s", human::bytes(rate.bytes_out)), canvas.accent()),
        (format!("{} new/s", tenths(rate.new_tenths)), Style::new()),
    ];
    if canvas.height() < TIGHT {
        canvas.put_parts(0, canvas.width(), &away(canvas, model).map_or(traffic.to_vec(), |text| vec![text]));
        return 1;
    }
    let (shown, all) = model.counts();
    let devices = human::count(u64::try_from(all).unwrap_or(u64::MAX), "device");
    let devices = if shown == all { devices } else { format!("{shown} of {devices}") };
    let ailing = match model.ailing() {
        0 => String::new(),
        count => format!("{count} degraded"),
    };
    let (version, up) = model.server.as_ref().map_or_else(Default::default, |server| {
        (printable(&server.version), format!("up {}", human::seconds(server.uptime_seconds)))
    });
    let parts = [
        (format!("portway {version}").trim_end().to_owned(), bold),
        (up, Style::new()),
        (devices, Style::new()),
        (ailing, canvas.tone(Tone::Warn)),
    ];
    let state = if model.paused {
        "paused".to_owned()
    } else {
        format!("every {}", human::seconds(model.interval.into()))
    };
    let width = canvas.width();
    let place = u16::try_from(state.len()).unwrap_or(0);
    canvas.put_parts(0, width.saturating_sub(place + 2), &parts);
    if width > 40 {
        canvas.put_right(0, 0, width, &state, if model.paused { bold } else { Style::new() });
    }
    match away(canvas, model) {
        Some(away) => canvas.put_parts(1, width, &[away]),
        None => canvas.put_parts(1, width, &traffic),
    }
    3
}

/// What stands there while nothing new comes.
fn away(canvas: &Canvas<'_>, model: &Model) -> Option<(String, Style)> {
    let why = model.away.as_deref()?;
    let style = canvas.tone(Tone::Bad).add_modifier(Modifier::BOLD);
    Some((format!("no answer, trying again: {}", printable(why)), style))
}

/// What is old looks old.
fn dim(canvas: &mut Canvas<'_>, body: Lines) {
    for line in body.first..body.end {
        canvas.restyle(line, u16::MAX, Style::new().add_modifier(Modifier::DIM));
    }
}

/// The last line.
fn keys(canvas: &mut Canvas<'_>, model: &Model) {
    let line = canvas.height() - 1;
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let width = canvas.width();
    if model.typing {
        let text = format!("/{}_", printable(&model.filter));
        canvas.put(0, line, width, &text, bold);
        return;
    }
    let filter = if model.filter.is_empty() {
        String::new()
    } else {
        format!("filter {:?}", printable(&model.filter))
    };
    let way = if model.reversed { " reversed" } else { "" };
    let words: &[&str] = match model.page {
        Page::List => {
            &["q quit", "? help", "Enter look at one", "/ filter", "s sort", "r reverse", "p pause"]
        }
        Page::Device => &["q quit", "? help", "Esc back", "↑↓ scroll", "p pause"],
        Page::Help => &["q quit", "Esc back"],
    };
    let mut parts = Vec::new();
    if model.page == Page::List {
        parts.push((format!("by {}{way}", model.sort.title().to_lowercase()), bold));
        parts.push((filter, canvas.tone(Tone::Warn)));
    }
    parts.extend(words.iter().map(|word| ((*word).to_owned(), Style::new())));
    canvas.put_parts(line, width, &parts);
}

fn help(canvas: &mut Canvas<'_>, body: Lines) {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    for (line, (keys, what)) in (body.first..body.end).zip(HELP) {
        canvas.put(0, line, 12, keys, bold);
        canvas.put(13, line, canvas.width().saturating_sub(13), what, Style::new());
    }
}

fn tone_of(state: DeviceState) -> Tone {
    match state {
        DeviceState::Active => Tone::Good,
        DeviceState::Waiting | DeviceState::Degraded => Tone::Warn,
        DeviceState::Failed => Tone::Bad,
    }
}

/// `12.5`.
fn tenths(count: u64) -> String {
    format!("{}.{}", count / 10, count % 10)
}

/// `-` of what nobody counts.
fn per_second(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "-".to_owned(), |bytes| format!("{}/s", human::bytes(bytes)))
}

#[cfg(test)]
mod tests;
