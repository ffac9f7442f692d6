//! The keys by which whoever has attached goes.

use bytes::Bytes;

use crate::failure::{Outcome, Stop};

/// Most keys of a sequence.
const KEYS_MAX: usize = 16;

/// A sequence of keys that ends the command, and how much of it was typed last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keys {
    /// As it was said.
    said: String,
    /// The bytes of a terminal; none when nothing ends it.
    wanted: Vec<u8>,
    typed: usize,
}

impl Keys {
    /// Characters and `ctrl-` with a letter or one of `@[\\]^_`, with commas between them; an empty text is none.
    pub(super) fn read(text: &str) -> Outcome<Self> {
        let wanted: Option<Vec<u8>> = text.split(',').filter(|_| !text.is_empty()).map(key).collect();
        match wanted.filter(|wanted| wanted.len() <= KEYS_MAX) {
            Some(wanted) => Ok(Self { said: text.to_owned(), wanted, typed: 0 }),
            None => Err(Stop::usage(format!("--detach-keys: {text:?} is no sequence of keys"))
                .hint("say it like ctrl-p,ctrl-q")),
        }
    }

    /// What does not come from a terminal holds no keys.
    pub(super) fn for_terminal(self, is_one: bool) -> Self {
        if is_one { self } else { Self { wanted: Vec::new(), ..self } }
    }

    /// How to go, for whoever reads it.
    pub(super) fn told(&self) -> String {
        if self.wanted.is_empty() { String::new() } else { format!("; {} goes", self.said) }
    }

    /// What is passed on of what was typed, and whether the sequence is complete. A beginning of it is held back until it
    /// is known not to be one.
    pub(super) fn pass(&mut self, piece: &[u8]) -> (Bytes, bool) {
        if self.wanted.is_empty() {
            return (Bytes::copy_from_slice(piece), false);
        }
        let mut bytes = Vec::with_capacity(piece.len() + self.typed);
        for byte in piece {
            let mut held = self.wanted[..self.typed].to_vec();
            held.push(*byte);
            // The longest end of what was typed that the sequence begins with.
            let keep = (0..=held.len()).rev().find(|count| held.ends_with(&self.wanted[..*count]));
            self.typed = keep.unwrap_or_default();
            bytes.extend_from_slice(&held[..held.len() - self.typed]);
            if self.typed == self.wanted.len() {
                self.typed = 0;
                return (bytes.into(), true);
            }
        }
        (bytes.into(), false)
    }
}

fn key(text: &str) -> Option<u8> {
    let one = |text: &str| match text.as_bytes() {
        [byte] if byte.is_ascii() => Some(*byte),
        _ => None,
    };
    match text.strip_prefix("ctrl-") {
        None => one(text),
        Some(letter) => match one(letter)? {
            byte @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_') => Some(byte & 0x1f),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Keys {
        Keys::read(text).expect("keys")
    }

    #[test]
    fn keys_are_said_as_for_docker() {
        assert_eq!(keys("ctrl-p,ctrl-q").wanted, [16, 17]);
        assert_eq!(keys("ctrl-@,a,ctrl-_,~").wanted, [0, b'a', 31, b'~']);
        assert!(keys("").wanted.is_empty());
        for wrong in ["ctrl-", "ctrl-P", "ab", ",", "ctrl-p,,q", "\u{e9}", "ctrl-1", &"a,".repeat(20)] {
            assert!(Keys::read(wrong).is_err(), "{wrong}");
        }
    }

    /// Fails when a key is lost or told twice, however it is cut into pieces.
    #[test]
    fn what_is_typed_goes_on_and_the_sequence_ends_it() {
        let run = |said: &str, typed: &[u8], cut: usize| {
            let mut keys = keys(said);
            let mut passed = Vec::new();
            for piece in typed.chunks(cut) {
                let (bytes, goes) = keys.pass(piece);
                passed.extend_from_slice(&bytes);
                if goes {
                    return (passed, true);
                }
            }
            (passed, false)
        };
        for cut in 1..6 {
            assert_eq!(run("a,b", b"xay", cut), (b"xay".to_vec(), false), "{cut}");
            assert_eq!(run("a,b", b"xaabz", cut), (b"xa".to_vec(), true), "{cut}");
            assert_eq!(run("a,a,b", b"aaab", cut), (b"a".to_vec(), true), "{cut}");
            assert_eq!(run("", b"ab", cut), (b"ab".to_vec(), false), "{cut}");
            assert_eq!(run("a,b", b"xa", cut), (b"x".to_vec(), false), "it may still come");
        }
        assert_eq!(keys("a").for_terminal(false).pass(b"a"), (Bytes::from_static(b"a"), false));
    }
}
