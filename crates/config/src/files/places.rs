//! Places in a text, as people count them.

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

/// Bytes from one known place to the next.
const STEP: usize = 1024;

/// Lines and columns of a text, of which those at every `STEP` bytes are known: a place costs the same wherever in
/// the text it is, and however long its line.
#[derive(Debug)]
pub struct Places<'a> {
    text: &'a [u8],
    known: Vec<Position>,
}

impl<'a> Places<'a> {
    /// Looks at the whole of `text`.
    #[must_use]
    pub fn of(text: &'a str) -> Self {
        let text = text.as_bytes();
        let mut known = vec![Position { line: 1, column: 1 }];
        for step in text.chunks(STEP) {
            known.extend(known.last().map(|from| behind(*from, step)));
        }
        Self { text, known }
    }

    /// The place of a byte; that of the end for one behind it.
    #[must_use]
    pub fn at(&self, byte: usize) -> Position {
        let byte = byte.min(self.text.len());
        let step = byte / STEP;
        let from = self.known.get(step).copied().unwrap_or(Position { line: 1, column: 1 });
        behind(from, self.text.get(step * STEP..byte).unwrap_or_default())
    }
}

/// Where a text ends that begins at `from`.
fn behind(from: Position, text: &[u8]) -> Position {
    text.iter().fold(from, |at, byte| match byte {
        b'\n' => Position { line: at.line + 1, column: 1 },
        // Not the first byte of a character.
        0x80..0xc0 => at,
        _ => Position { column: at.column + 1, ..at },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_that_one_counts() {
        let text = "a\u{e4}b\n\n".repeat(STEP) + &"\u{20ac}".repeat(STEP);
        let places = Places::of(&text);
        let (mut line, mut column) = (1, 1);
        for (byte, c) in text.char_indices() {
            assert_eq!(places.at(byte), Position { line, column }, "byte {byte}");
            (line, column) = if c == '\n' { (line + 1, 1) } else { (line, column + 1) };
        }
        assert_eq!(places.at(text.len() + 9), Position { line, column });
        assert_eq!(Places::of("").at(0), Position { line: 1, column: 1 });
    }
}
