//! From keys to what they ask for.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// So many lines down.
    Move(isize),
    /// So many screens down.
    Pages(isize),
    First,
    Last,
    /// Sort by the column so far to the right.
    Sort(isize),
    Reverse,
    Pause,
    /// A longer or a shorter time between two looks.
    Interval(isize),
    Help,
    /// Look at the selected device.
    Enter,
    Back,
    /// Begin to type a filter.
    Filter,
    Type(char),
    Erase,
    /// Keep the filter that was typed.
    Accept,
    /// Throw it away.
    Clear,
    Quit,
    Suspend,
    Redraw,
}

/// What is asked for by `key`, while a filter is typed or not.
pub(super) fn action(key: KeyEvent, typing: bool) -> Option<Action> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Some(Action::Quit),
            KeyCode::Char('z') => Some(Action::Suspend),
            KeyCode::Char('l') => Some(Action::Redraw),
            KeyCode::Char('u') if typing => Some(Action::Clear),
            KeyCode::Char('h') if typing => Some(Action::Erase),
            KeyCode::Char('f') if !typing => Some(Action::Pages(1)),
            KeyCode::Char('b') if !typing => Some(Action::Pages(-1)),
            _ => None,
        };
    }
    if typing { typed(key.code) } else { pressed(key.code) }
}

fn typed(code: KeyCode) -> Option<Action> {
    Some(match code {
        KeyCode::Char(letter) if !letter.is_control() => Action::Type(letter),
        KeyCode::Backspace => Action::Erase,
        KeyCode::Enter => Action::Accept,
        KeyCode::Esc => Action::Clear,
        KeyCode::Up => Action::Move(-1),
        KeyCode::Down => Action::Move(1),
        _ => return None,
    })
}

fn pressed(code: KeyCode) -> Option<Action> {
    Some(match code {
        KeyCode::Up | KeyCode::Char('k') => Action::Move(-1),
        KeyCode::Down | KeyCode::Char('j') => Action::Move(1),
        KeyCode::PageUp => Action::Pages(-1),
        KeyCode::PageDown | KeyCode::Char(' ') => Action::Pages(1),
        KeyCode::Home | KeyCode::Char('g') => Action::First,
        KeyCode::End | KeyCode::Char('G') => Action::Last,
        KeyCode::Char('s' | '>') => Action::Sort(1),
        KeyCode::Char('S' | '<') => Action::Sort(-1),
        KeyCode::Char('r') => Action::Reverse,
        KeyCode::Char('p') => Action::Pause,
        KeyCode::Char('+' | '=') => Action::Interval(1),
        KeyCode::Char('-') => Action::Interval(-1),
        KeyCode::Char('?' | 'h') => Action::Help,
        KeyCode::Enter | KeyCode::Right | KeyCode::Char('l') => Action::Enter,
        KeyCode::Esc | KeyCode::Left | KeyCode::Backspace => Action::Back,
        KeyCode::Char('/') => Action::Filter,
        KeyCode::Char('q') => Action::Quit,
        _ => return None,
    })
}

/// What the page of help says of them.
pub(super) const HELP: &[(&str, &str)] = &[
    ("↑ ↓ k j", "one line"),
    ("PgUp PgDn", "one screen"),
    ("Home End", "first, last"),
    ("Enter", "one device and its connections"),
    ("Esc", "back; without a page to leave: no filter"),
    ("s >  S <", "sort by the next column, by the one before"),
    ("r", "reverse the order"),
    ("/", "only what has this text in its names or addresses"),
    ("p", "pause"),
    ("+ -", "look less often, more often"),
    ("Ctrl-Z", "to the shell; fg comes back"),
    ("q", "quit"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn press(code: KeyCode, modifiers: KeyModifiers, typing: bool) -> Option<Action> {
        action(KeyEvent::new(code, modifiers), typing)
    }

    /// Fails when: a letter of a filter is taken for a command, or the way out is not a way out while one is typed.
    #[test]
    fn letters_are_commands_unless_a_filter_is_typed() {
        let (plain, control) = (KeyModifiers::NONE, KeyModifiers::CONTROL);
        for (code, modifiers, pressed, typed) in [
            (KeyCode::Char('q'), plain, Some(Action::Quit), Some(Action::Type('q'))),
            (KeyCode::Char('S'), KeyModifiers::SHIFT, Some(Action::Sort(-1)), Some(Action::Type('S'))),
            (KeyCode::Char('c'), control, Some(Action::Quit), Some(Action::Quit)),
            (KeyCode::Char('z'), control, Some(Action::Suspend), Some(Action::Suspend)),
            (KeyCode::Char('q'), control, None, None),
            (KeyCode::Esc, plain, Some(Action::Back), Some(Action::Clear)),
            (KeyCode::Enter, plain, Some(Action::Enter), Some(Action::Accept)),
            (KeyCode::Backspace, plain, Some(Action::Back), Some(Action::Erase)),
            (KeyCode::PageDown, plain, Some(Action::Pages(1)), None),
            (KeyCode::F(5), plain, None, None),
        ] {
            let found = (press(code, modifiers, false), press(code, modifiers, true));
            assert_eq!(found, (pressed, typed), "{code:?}");
        }
        let mut released = KeyEvent::new(KeyCode::Char('q'), plain);
        released.kind = KeyEventKind::Release;
        assert_eq!(action(released, false), None);
    }
}
