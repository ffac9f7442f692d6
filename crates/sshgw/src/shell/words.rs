//! A line into words: single and double quotes, and backslashes. There are no variables, patterns, pipes, redirections
//! or lists of commands: the signs of those are refused outside of quotes, so that nobody believes they did something.

use super::LINE_BYTES;

/// Most words of a line.
const WORDS: usize = 128;

/// What means something to shells, and nothing here.
const SIGNS: [char; 9] = ['|', '&', ';', '<', '>', '$', '`', '(', ')'];

/// A word, without its quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    /// What it says.
    pub(super) text: String,
    /// Where it begins, bytes.
    pub(super) start: usize,
    /// Whether it is as it was typed.
    pub(super) is_plain: bool,
}

/// Why a line has no words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WordsError {
    /// It is longer than any line.
    #[error("the line is longer than {LINE_BYTES} bytes")]
    Long,
    /// It has more words than any line.
    #[error("the line has more than {WORDS} words")]
    Many,
    /// A sign of shells.
    #[error("column {column}: `{sign}` does nothing here; put it into quotes to mean it")]
    Sign {
        /// The sign.
        sign: char,
        /// In characters, from 1.
        column: usize,
    },
    /// A control character.
    #[error("column {column}: a control character")]
    Control {
        /// In characters, from 1.
        column: usize,
    },
    /// A quote that is not closed.
    #[error("column {column}: `{quote}` is not closed")]
    Open {
        /// The quote.
        quote: char,
        /// In characters, from 1.
        column: usize,
    },
    /// A backslash at the end.
    #[error("nothing follows the `\\` at the end")]
    Backslash,
}

/// Splits a line.
pub(super) fn split(line: &str) -> Result<Vec<Word>, WordsError> {
    if line.len() > LINE_BYTES {
        return Err(WordsError::Long);
    }
    let mut words: Vec<Word> = Vec::new();
    let mut word: Option<Word> = None;
    let mut quote: Option<(char, usize)> = None;
    let mut characters = line.char_indices().enumerate().map(|(index, (at, c))| (index + 1, at, c));
    while let Some((column, at, c)) = characters.next() {
        if c.is_control() && c != '\t' {
            return Err(WordsError::Control { column });
        }
        let is_blank = quote.is_none() && matches!(c, ' ' | '\t');
        if is_blank {
            words.extend(word.take());
            continue;
        }
        if words.len() >= WORDS {
            return Err(WordsError::Many);
        }
        let current = word.get_or_insert_with(|| Word { text: String::new(), start: at, is_plain: true });
        match (quote, c) {
            (Some((open, _)), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                current.is_plain = false;
                quote = Some((c, column));
            }
            (None | Some(('"', _)), '\\') => {
                current.is_plain = false;
                let (column, _, next) = characters.next().ok_or(WordsError::Backslash)?;
                if next.is_control() {
                    return Err(WordsError::Control { column });
                }
                // Within double quotes it means itself where there is nothing for it to do (XCU 2.2.3).
                if quote.is_some() && !matches!(next, '"' | '\\' | '$' | '`') {
                    current.text.push('\\');
                }
                current.text.push(next);
            }
            (None, sign) if SIGNS.contains(&sign) => return Err(WordsError::Sign { sign, column }),
            (_, c) => current.text.push(c),
        }
    }
    if let Some((quote, column)) = quote {
        return Err(WordsError::Open { quote, column });
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(line: &str) -> Vec<String> {
        split(line).expect("words").into_iter().map(|word| word.text).collect()
    }

    /// Fails when a word is another than a shell would have made of it.
    #[test]
    fn quotes_are_those_of_shells() {
        assert_eq!(texts("  list \t c1  "), ["list", "c1"]);
        assert_eq!(texts(r#"a'b c'd "e'f" "#), ["ab cd", "e'f"]);
        assert_eq!(texts(r#"'a\b' "a\b" "a\"b\\" a\ b \'"#), [r"a\b", r"a\b", r#"a"b\"#, "a b", "'"]);
        assert_eq!(texts(r#"'' """#), ["", ""]);
        assert_eq!(
            texts("'a;b|c$d' \"<`>\" c* ~ # {} ! [x]"),
            ["a;b|c$d", "<`>", "c*", "~", "#", "{}", "!", "[x]"]
        );
        assert!(texts("").is_empty() && texts(" \t ").is_empty());
    }

    /// Fails when what a shell would do something with is taken without a word.
    #[test]
    fn what_does_nothing_is_refused() {
        for (line, column) in [
            ("list | cat", 6),
            ("list; stop c1", 5),
            ("list && x", 6),
            ("list > /etc/passwd", 6),
            ("info < f", 6),
            ("info $HOME", 6),
            ("info `id`", 6),
            ("info (x)", 6),
        ] {
            assert!(
                matches!(split(line), Err(WordsError::Sign { column: at, .. }) if at == column),
                "{line}"
            );
        }
        assert_eq!(split("info 'c1"), Err(WordsError::Open { quote: '\'', column: 6 }));
        assert_eq!(split("info \\"), Err(WordsError::Backslash));
        for line in ["a\nb", "a\u{0}", "'a\u{1b}[2J'", "a\\\n", "a\u{9b}"] {
            assert!(matches!(split(line), Err(WordsError::Control { .. })), "{line:?}");
        }
        assert_eq!(split(&"x".repeat(LINE_BYTES + 1)), Err(WordsError::Long));
        assert_eq!(split(&"x ".repeat(WORDS + 1)), Err(WordsError::Many));
        assert_eq!(split(&"x ".repeat(WORDS)).map(|words| words.len()), Ok(WORDS));
    }
}
