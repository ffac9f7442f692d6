//! Text at places of a screen: what does not fit is cut, what lies outside is left out.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::output::table::Tone;

/// Heights of a bar, the least that is not nothing first.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A part of the screen, in lines from 0.
pub(super) struct Canvas<'a> {
    buffer: &'a mut Buffer,
    area: Rect,
    colour: bool,
}

impl<'a> Canvas<'a> {
    pub(super) fn new(buffer: &'a mut Buffer, area: Rect, colour: bool) -> Canvas<'a> {
        Canvas { buffer, area, colour }
    }

    pub(super) const fn width(&self) -> u16 {
        self.area.width
    }

    pub(super) const fn height(&self) -> u16 {
        self.area.height
    }

    /// Writes `text` at a place, at most `width` columns of it; returns how many it took.
    pub(super) fn put(&mut self, x: u16, y: u16, width: u16, text: &str, style: Style) -> u16 {
        if x >= self.area.width || y >= self.area.height {
            return 0;
        }
        let width = width.min(self.area.width - x);
        let text = cut(text, width);
        let (left, top) = (self.area.x + x, self.area.y + y);
        let (end, _) = self.buffer.set_stringn(left, top, text, width.into(), style);
        end - left
    }

    /// The same, up to the right edge of `width` columns.
    pub(super) fn put_right(&mut self, x: u16, y: u16, width: u16, text: &str, style: Style) {
        let taken = u16::try_from(text.width()).unwrap_or(u16::MAX).min(width);
        self.put(x + (width - taken), y, taken, text, style);
    }

    /// Writes parts one behind the other, with two blanks between, as many as fit whole; the first in any case.
    pub(super) fn put_parts(&mut self, y: u16, width: u16, parts: &[(String, Style)]) {
        let mut x = 0_u16;
        for (at, (text, style)) in parts.iter().filter(|(text, _)| !text.is_empty()).enumerate() {
            let needed = u16::try_from(text.width()).unwrap_or(u16::MAX);
            if at > 0 && x.saturating_add(needed) > width {
                continue;
            }
            x += self.put(x, y, width.saturating_sub(x), text, *style) + 2;
        }
    }

    /// Gives the first `width` columns of a line something more.
    pub(super) fn restyle(&mut self, y: u16, width: u16, style: Style) {
        if y < self.area.height {
            let (y, width) = (self.area.y + y, width.min(self.area.width));
            self.buffer.set_style(Rect { y, width, height: 1, ..self.area }, style);
        }
    }

    pub(super) fn tone(&self, tone: Tone) -> Style {
        match (tone, self.colour) {
            (Tone::Plain, _) => Style::new(),
            (Tone::Good, true) => Style::new().fg(Color::Green),
            (Tone::Good, false) => Style::new(),
            (Tone::Warn, true) => Style::new().fg(Color::Yellow),
            (Tone::Bad, true) => Style::new().fg(Color::Red),
            (Tone::Warn | Tone::Bad, false) => Style::new().add_modifier(Modifier::BOLD),
        }
    }

    /// Of what moves.
    pub(super) fn accent(&self) -> Style {
        if self.colour { Style::new().fg(Color::Cyan) } else { Style::new() }
    }
}

/// `text`, or as much of it as fits, and a sign that there is more.
pub(super) fn cut(text: &str, width: u16) -> String {
    let width = usize::from(width);
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut used = 1;
    for letter in text.chars() {
        used += letter.width().unwrap_or(0);
        if used > width {
            break;
        }
        kept.push(letter);
    }
    if width > 0 {
        kept.push('…');
    }
    kept
}

/// `values` as bars, the latest at the right edge of `width` columns; the highest of them fills its line.
pub(super) fn bars(values: impl DoubleEndedIterator<Item = u64> + Clone, width: u16) -> String {
    let last = values.rev().take(width.into());
    let most = u128::from(last.clone().max().unwrap_or(0).max(1));
    let bar = |value: u64| {
        // Rounded up: what is not nothing is seen.
        let eighths = (u128::from(value) * 8).div_ceil(most);
        let at = usize::try_from(eighths).unwrap_or(8).checked_sub(1)?;
        BARS.get(at.min(7)).copied()
    };
    let drawn: Vec<char> = last.map(|value| bar(value).unwrap_or(' ')).collect();
    let missing = usize::from(width).saturating_sub(drawn.len());
    std::iter::repeat_n(' ', missing).chain(drawn.into_iter().rev()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: what is wide is counted by its characters, or a bar of something is none.
    #[test]
    fn text_is_cut_by_its_width() {
        for (text, width, expected) in [
            ("web", 3, "web"),
            ("webs", 3, "we…"),
            ("漢字漢字", 5, "漢字…"),
            ("漢字漢字", 4, "漢…"),
            ("漢字", 4, "漢字"),
            ("x", 0, ""),
            ("漢", 1, "…"),
        ] {
            assert_eq!(cut(text, width), expected, "{text} in {width}");
        }
        assert_eq!(bars([0, 1, 50, 100, 1000].into_iter(), 7), "   ▁▁▁█");
        assert_eq!(bars([0, 0].into_iter(), 2), "  ");
        assert_eq!(bars([u64::MAX, 1, 2, 4].into_iter(), 3), "▂▄█");
        assert_eq!(bars([1, 2].into_iter(), 0), "");
    }
}
