//! Command lines as a shell reads them: the server keeps what an application container runs as one text.

/// A word as a shell reads it back.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// The words of a line (POSIX, Shell Command Language 2.2): quotes and `\`, and nothing that a shell would carry out.
/// `None` where a quote has no end.
pub(crate) fn split(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => match chars.next()? {
                            '\n' => {}
                            c @ ('$' | '`' | '"' | '\\') => word.push(c),
                            c => word.extend(['\\', c]),
                        },
                        c => word.push(c),
                    }
                }
            }
            '\\' => match chars.next()? {
                '\n' => {}
                c => word.get_or_insert_default().push(c),
            },
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_quoted_where_it_has_to_be() {
        assert_eq!([quoted("a-b"), quoted(""), quoted("it's")], ["a-b", "''", "'it'\\''s'"]);
    }

    /// Fails when a program is given other words than the image says.
    #[test]
    fn lines_are_split_as_they_were_put_together() {
        let words = ["/bin/sh", "-c", "", " ", "it's", "a \"b\" $c `d` \\ \n e", "*", "\\'", "#"];
        let line: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        assert_eq!(split(&line.join(" ")).unwrap(), words);
        // As the server writes them (Go's shellquote): what is one character is behind a backslash.
        assert_eq!(
            split(r#"/bin/sh -c 'echo hi; trap "x" INT' a\ b \'x "a\"b\c" c'd'"e" ''"#).unwrap(),
            ["/bin/sh", "-c", "echo hi; trap \"x\" INT", "a b", "'x", "a\"b\\c", "cde", ""]
        );
        assert_eq!((split("'a"), split("\"a"), split("a\\")), (None, None, None));
        assert_eq!(split("  "), Some(Vec::new()));
    }
}
