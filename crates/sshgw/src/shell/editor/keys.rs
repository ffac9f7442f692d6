//! Keys of a terminal, of the bytes that they send.

/// A key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Character(char),
    Enter,
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D.
    End,
    Erase,
    Delete,
    Left,
    Right,
    Home,
    Last,
    WordLeft,
    WordRight,
    EraseWord,
    DeleteWord,
    EraseAll,
    DeleteAll,
    Paste,
    Up,
    Down,
    Clear,
    Complete,
    /// One that does nothing here.
    Nothing,
}

/// Longest sequence of a key that is known; of a longer one nothing is taken.
const SEQUENCE: usize = 16;

/// What has come of a key.
#[derive(Debug, Default)]
pub(super) struct Keys {
    state: State,
    /// A carriage return has just come: a line feed behind it is of the same key.
    is_return: bool,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Nothing,
    /// Bytes of a character, and how many follow.
    Character(Vec<u8>, usize),
    Escape,
    /// `ESC O`, which some terminals send for arrows.
    Shift,
    /// `ESC [` and what follows (ECMA-48, CSI).
    Sequence(Vec<u8>),
}

impl Keys {
    /// A byte has come; the key that is whole with it.
    pub(super) fn byte(&mut self, byte: u8) -> Option<Key> {
        let was_return = std::mem::take(&mut self.is_return);
        match std::mem::take(&mut self.state) {
            State::Nothing => self.first(byte, was_return),
            State::Character(mut bytes, left) => {
                // Not UTF-8: what it begins is another key.
                if !(0x80..0xc0).contains(&byte) {
                    return self.first(byte, false);
                }
                bytes.push(byte);
                if left > 1 {
                    self.state = State::Character(bytes, left - 1);
                    return None;
                }
                std::str::from_utf8(&bytes).ok()?.chars().next().map(Key::Character)
            }
            State::Escape => self.escaped(byte),
            State::Shift => Some(arrow(byte)),
            State::Sequence(mut bytes) => {
                if (0x40..0x7f).contains(&byte) {
                    return Some(sequence(&bytes, byte));
                }
                // Anything else than its parameters ends it.
                if !(0x20..0x40).contains(&byte) {
                    return self.first(byte, false);
                }
                bytes.truncate(SEQUENCE);
                bytes.push(byte);
                self.state = State::Sequence(bytes);
                None
            }
        }
    }

    fn first(&mut self, byte: u8, was_return: bool) -> Option<Key> {
        Some(match byte {
            0x1b => {
                self.state = State::Escape;
                return None;
            }
            b'\r' => {
                self.is_return = true;
                Key::Enter
            }
            b'\n' if was_return => return None,
            b'\n' => Key::Enter,
            0x01 => Key::Home,
            0x02 => Key::Left,
            0x03 => Key::Interrupt,
            0x04 => Key::End,
            0x05 => Key::Last,
            0x06 => Key::Right,
            0x08 | 0x7f => Key::Erase,
            b'\t' => Key::Complete,
            0x0b => Key::DeleteAll,
            0x0c => Key::Clear,
            0x0e => Key::Down,
            0x10 => Key::Up,
            0x15 => Key::EraseAll,
            0x17 => Key::EraseWord,
            0x19 => Key::Paste,
            0x00..0x20 => Key::Nothing,
            0x20..0x7f => Key::Character(char::from(byte)),
            0xc2..0xe0 => return self.begins(byte, 1),
            0xe0..0xf0 => return self.begins(byte, 2),
            0xf0..0xf5 => return self.begins(byte, 3),
            _ => Key::Nothing,
        })
    }

    fn begins(&mut self, byte: u8, left: usize) -> Option<Key> {
        self.state = State::Character(vec![byte], left);
        None
    }

    fn escaped(&mut self, byte: u8) -> Option<Key> {
        Some(match byte {
            b'[' => {
                self.state = State::Sequence(Vec::new());
                return None;
            }
            b'O' => {
                self.state = State::Shift;
                return None;
            }
            0x1b => {
                self.state = State::Escape;
                return None;
            }
            b'b' => Key::WordLeft,
            b'f' => Key::WordRight,
            b'd' => Key::DeleteWord,
            0x08 | 0x7f => Key::EraseWord,
            // What interrupts does so whatever was typed before it.
            0x03 => Key::Interrupt,
            _ => Key::Nothing,
        })
    }
}

const fn arrow(byte: u8) -> Key {
    match byte {
        b'A' => Key::Up,
        b'B' => Key::Down,
        b'C' => Key::Right,
        b'D' => Key::Left,
        b'H' => Key::Home,
        b'F' => Key::Last,
        _ => Key::Nothing,
    }
}

fn sequence(parameters: &[u8], last: u8) -> Key {
    match (parameters, last) {
        (b"", _) => arrow(last),
        // With Ctrl or Alt.
        (b"1;5" | b"1;3" | b"5", b'C') => Key::WordRight,
        (b"1;5" | b"1;3" | b"5", b'D') => Key::WordLeft,
        (b"1" | b"7", b'~') => Key::Home,
        (b"4" | b"8", b'~') => Key::Last,
        (b"3", b'~') => Key::Delete,
        _ => Key::Nothing,
    }
}
