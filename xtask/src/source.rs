//! Rust source with everything that is not code taken out: enough to look for a keyword without
//! finding it in a comment or a string. Not a parser.

/// Returns `text` with comments, strings and character literals blanked by spaces. Lines stay lines.
pub(crate) fn code_only(text: &str) -> String {
    let mut scanner = Scanner { rest: text, code: String::with_capacity(text.len()) };
    while !scanner.rest.is_empty() {
        scanner.step();
    }
    scanner.code
}

/// Lines (from 1) of `code` that hold `word` as a whole identifier.
pub(crate) fn lines_with_word(code: &str, word: &str) -> Vec<usize> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let holds = |line: &str| line.split(|c: char| !is_name(c)).any(|part| part == word);
    code.lines().enumerate().filter(|(_, line)| holds(line)).map(|(index, _)| index + 1).collect()
}

struct Scanner<'a> {
    rest: &'a str,
    code: String,
}

impl Scanner<'_> {
    fn step(&mut self) {
        let rest = self.rest;
        if rest.starts_with("//") {
            self.blank(rest.find('\n').unwrap_or(rest.len()));
        } else if rest.starts_with("/*") {
            self.blank(block_comment_len(rest));
        } else if let Some(len) = raw_string_len(rest).filter(|_| !self.inside_name()) {
            self.blank(len);
        } else if let Some(inside) = rest.strip_prefix('"') {
            self.blank(1 + quoted_len(inside, '"'));
        } else if let Some(len) = char_literal_len(rest) {
            self.blank(len);
        } else {
            let len = rest.chars().next().map_or(0, char::len_utf8);
            self.code.push_str(&rest[..len]);
            self.rest = &rest[len..];
        }
    }

    /// Whether the last thing kept is part of a name: the `r` of `var"` starts no raw string.
    fn inside_name(&self) -> bool {
        self.code.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_')
    }

    fn blank(&mut self, len: usize) {
        let (gone, rest) = self.rest.split_at(len);
        self.code.extend(gone.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        self.rest = rest;
    }
}

/// Length of the block comment at the start of `text`; they nest.
fn block_comment_len(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        let here = &text[at..];
        if here.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Length of a raw (byte, C) string at the start of `text`.
fn raw_string_len(text: &str) -> Option<usize> {
    let after = ["r", "br", "cr"].iter().find_map(|prefix| text.strip_prefix(prefix))?;
    let body = after.trim_start_matches('#');
    let hashes = after.len() - body.len();
    let body = body.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = text.len() - body.len();
    Some(body.find(&end).map_or(text.len(), |at| start + at + end.len()))
}

/// Length up to and including the closing `quote` of the literal whose inside starts at `text`.
fn quoted_len(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// Length of a character literal at the start of `text`; a lifetime is none.
fn char_literal_len(text: &str) -> Option<usize> {
    let inside = text.strip_prefix('\'')?;
    let mut chars = inside.chars();
    match (chars.next()?, chars.next()?) {
        ('\\', _) => Some(1 + quoted_len(inside, '\'')),
        (c, '\'') => Some(2 + c.len_utf8()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{code_only, lines_with_word};

    #[test]
    fn takes_out_comments_and_literals() {
        let text = "let a = \"unsafe \\\" x\"; // unsafe\n/* unsafe /* nested */ unsafe */ let b = r#\"unsafe \" \"#;\n\
                    let c = '\"'; let d: &'static str = x; let e = '\\''; unsafe { f() }";
        let code = code_only(text);
        assert_eq!(code.lines().count(), 3);
        assert_eq!(lines_with_word(&code, "unsafe"), [3]);
        assert!(code.contains("&'static str"));
    }

    #[test]
    fn a_name_that_ends_in_r_starts_no_raw_string() {
        assert_eq!(code_only("var\"x\" unsafe"), "var    unsafe");
    }

    #[test]
    fn whole_words_only() {
        assert!(lines_with_word("unsafe_code is_unsafe", "unsafe").is_empty());
    }

    #[test]
    fn an_open_end_is_not_a_panic() {
        for text in ["\"abc", "r#\"abc", "/* abc", "'\\", "'", "b'"] {
            assert_eq!(code_only(text).len(), text.len());
        }
    }
}
