//! What a program writes to its terminal, cut into text and control sequences, none of them in the middle.
//!
//! What somebody is to answer is told apart: of several viewers one answers, and where there is none the holder does.
//! The sequences of modes that the emulator does not know are told apart too. What they mean: ECMA-48, xterm's control
//! sequences.

/// Longest sequence that is waited for, bytes. What is longer goes on as it comes: no question is.
const HELD_MAX_BYTES: usize = 4096;

/// Where most output has no sequence, how much of it goes at a time, bytes.
const ESC: u8 = 0x1b;

/// One cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut<'a> {
    /// To be shown: text, and sequences that are nothing special.
    Shown(&'a [u8]),
    /// To be shown, and one of those below.
    Noted(&'a [u8], Note<'a>),
    /// To be answered.
    Question(&'a [u8], Question),
}

/// What is noted, because the emulator does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note<'a> {
    /// Private modes (parameters, with `;` between), set or reset.
    Modes(&'a [u8], bool),
    /// The shape of the cursor: the whole sequence (DECSCUSR).
    Shape,
    /// Whether the keypad sends sequences (DECKPAM, DECKPNM).
    Keypad(bool),
    /// How keys with modifiers are sent: the whole sequence (XTMODKEYS).
    Keys,
    /// The title.
    Title(&'a [u8]),
    /// What has scrolled away is to be forgotten.
    Forget,
    /// Everything is as at the beginning.
    Reset,
}

/// What a program asks of its terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// What are you? (DA)
    Kind,
    /// Are you well? (DSR 5)
    Health,
    /// Where is the cursor? (DSR 6)
    Cursor,
    /// Anything else.
    Other,
}

/// Cuts. Keeps what is not whole.
#[derive(Debug, Default)]
pub(super) struct Sieve {
    held: Vec<u8>,
}

impl Sieve {
    /// Cuts what has come, with what was kept.
    pub(super) fn sift(&mut self, bytes: &[u8], mut each: impl FnMut(Cut<'_>)) {
        self.held.extend_from_slice(bytes);
        let all = std::mem::take(&mut self.held);
        let mut rest = all.as_slice();
        while let Some(length) = shown_length(rest) {
            let (shown, after) = rest.split_at(length);
            if !shown.is_empty() {
                each(Cut::Shown(shown));
            }
            rest = after;
            let Some(length) = sequence_length(rest) else { break };
            let (sequence, after) = rest.split_at(length);
            each(sort(sequence));
            rest = after;
        }
        if rest.len() > HELD_MAX_BYTES {
            each(Cut::Shown(rest));
            rest = &[];
        }
        self.held = rest.to_vec();
    }
}

/// How much of the beginning is text; of a character that is not whole only what comes before it. `None`: nothing is
/// left, or nothing but such a character.
fn shown_length(bytes: &[u8]) -> Option<usize> {
    if bytes.is_empty() {
        return None;
    }
    match bytes.iter().position(|byte| *byte == ESC) {
        Some(at) => Some(at),
        None => {
            let cut = incomplete_length(bytes);
            if cut == bytes.len() { None } else { Some(bytes.len() - cut) }
        }
    }
}

/// How many bytes at the end are the beginning of a character of UTF-8.
fn incomplete_length(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let byte = bytes.get(bytes.len() - back).copied().unwrap_or_default();
        let whole = match byte {
            0x80..=0xbf => continue,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        return if back < whole { back } else { 0 };
    }
    0
}

/// The length of the sequence at the beginning; `None` while it is not whole, and where there is none.
fn sequence_length(bytes: &[u8]) -> Option<usize> {
    if bytes.first() != Some(&ESC) {
        return None;
    }
    match bytes.get(1)? {
        b'[' => {
            let end = bytes.iter().skip(2).position(|byte| !matches!(byte, 0x20..=0x3f))? + 2;
            // Of one that something else breaks off, that something is not part.
            let whole = bytes.get(end).is_some_and(|byte| matches!(byte, 0x40..=0x7e));
            Some(if whole { end + 1 } else { end })
        }
        b']' | b'P' | b'X' | b'^' | b'_' => {
            let is_end = |byte: &u8| matches!(byte, 0x07 | 0x18 | 0x1a | 0x1b);
            let end = bytes.iter().skip(2).position(is_end)? + 2;
            match (bytes.get(end)?, bytes.get(end + 1)) {
                (&ESC, None) => None,
                (&ESC, Some(b'\\')) => Some(end + 2),
                (&ESC, Some(_)) => Some(end),
                _ => Some(end + 1),
            }
        }
        _ => {
            let end = bytes.iter().skip(1).position(|byte| !matches!(byte, 0x20..=0x2f))? + 1;
            let whole = bytes.get(end).is_some_and(|byte| matches!(byte, 0x30..=0x7e));
            Some(if whole { end + 1 } else { end })
        }
    }
}

/// Which kind a whole sequence is of.
fn sort(sequence: &[u8]) -> Cut<'_> {
    let noted = |note| Cut::Noted(sequence, note);
    let asked = |question| Cut::Question(sequence, question);
    match sequence {
        [ESC, b'[', inner @ .., last] => match (inner, last) {
            ([b'?', modes @ ..], b'h') => noted(Note::Modes(modes, true)),
            ([b'?', modes @ ..], b'l') => noted(Note::Modes(modes, false)),
            ([.., b' '], b'q') => noted(Note::Shape),
            ([b'>', ..], b'm') => noted(Note::Keys),
            (b"!", b'p') => noted(Note::Reset),
            (b"3", b'J') => noted(Note::Forget),
            (b"" | b"0", b'c') => asked(Question::Kind),
            (b"5", b'n') => asked(Question::Health),
            (b"6", b'n') => asked(Question::Cursor),
            // Of what is set by `c` and `n` with a sign before the numbers, only questions are.
            (_, b'c' | b'x')
            | ([.., b'$'], b'p')
            | ([b'>', ..], b'q')
            | (b"?", b'u')
            | ([b'?', ..], b'S') => asked(Question::Other),
            ([first, ..], b'n') if *first != b'>' => asked(Question::Other),
            // Reports of the window; the rest of them moves it.
            (b"11" | b"13" | b"14" | b"15" | b"16" | b"18" | b"19" | b"20" | b"21", b't') => {
                asked(Question::Other)
            }
            ([b'1', b'3' | b'4', b';', ..], b't') => asked(Question::Other),
            _ => Cut::Shown(sequence),
        },
        [ESC, b']', rest @ ..] => {
            let text = rest.strip_suffix(b"\x07").or_else(|| rest.strip_suffix(b"\x1b\\")).unwrap_or(rest);
            match text {
                [b'0' | b'2', b';', title @ ..] => noted(Note::Title(title)),
                _ if text.ends_with(b";?") => asked(Question::Other),
                _ => Cut::Shown(sequence),
            }
        }
        [ESC, b'P', b'$' | b'+', b'q', ..] => asked(Question::Other),
        [ESC, b'Z'] => asked(Question::Kind),
        [ESC, b'='] => noted(Note::Keypad(true)),
        [ESC, b'>'] => noted(Note::Keypad(false)),
        [ESC, b'c'] => noted(Note::Reset),
        _ => Cut::Shown(sequence),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything, one letter for each kind, as it comes in pieces of this length.
    fn cut(text: &[u8], piece: usize) -> (String, Vec<u8>, Vec<u8>) {
        let (mut kinds, mut shown) = (String::new(), Vec::new());
        let mut sieve = Sieve::default();
        for piece in text.chunks(piece) {
            sieve.sift(piece, |cut| {
                let (kind, bytes) = match cut {
                    Cut::Shown(bytes) => ('.', bytes),
                    Cut::Noted(bytes, _) => ('n', bytes),
                    Cut::Question(bytes, Question::Other) => ('o', bytes),
                    Cut::Question(bytes, _) => ('q', bytes),
                };
                shown.extend_from_slice(bytes);
                if kind != '.' {
                    kinds.push(kind);
                }
            });
        }
        (kinds, shown, sieve.held)
    }

    /// Fails when a byte is lost or changed, or how it was read decides what it is.
    #[test]
    fn how_it_comes_changes_nothing() {
        let text = "a\u{20ac}\x1b[1;31mred\x1b[6n\x1b[?1000;1006h\x1b]0;title\x07\x1b]11;?\x1b\\\x1bP$qm\x1b\\\x1b(0x\
                    \x1b[c\x1b[>c\x1b[5n\x1b[?6n\x1b[2 q\x1b=\x1b[14t\x1b[8;24;80t\x1b[3J\x1b[2J\u{1f600}";
        for piece in [1, 2, 3, 7, 4096] {
            let (kinds, shown, held) = cut(text.as_bytes(), piece);
            assert_eq!(kinds, "qnnooqoqonnon", "{piece}");
            assert_eq!((shown.as_slice(), held.as_slice()), (text.as_bytes(), &b""[..]), "{piece}");
        }
    }

    #[test]
    fn what_is_not_whole_waits_and_what_is_too_long_does_not() {
        for begun in [&b"\xe2\x82"[..], b"\x1b", b"\x1b[1;", b"\x1b]0;tit", b"\x1b]0;t\x1b", b"\xf0\x9f\x98"]
        {
            let (_, shown, held) = cut(begun, 1);
            assert_eq!((shown.as_slice(), held.as_slice()), (&b""[..], begun));
        }
        let long = [b"\x1b]52;c;", vec![b'A'; 3 * HELD_MAX_BYTES].as_slice(), b"\x07"].concat();
        let (_, shown, held) = cut(&long, 1000);
        assert!(shown == long && held.is_empty());
        // What is no text passes, and a sequence that another breaks off is none.
        let odd = b"\xff\x80\x1b[1\x1b[5n\x1b]0;x\x1b[6n\xc0";
        let (kinds, shown, held) = cut(odd, 1);
        assert_eq!((kinds.as_str(), shown.as_slice(), held.len()), ("qnq", &odd[..], 0));
    }
}
