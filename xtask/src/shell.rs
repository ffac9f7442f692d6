//! Commands in the documentation: the lines after `$ ` in fenced `console` blocks.

/// One command of a page.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Example {
    /// Line of the page, from 1.
    pub(crate) line: usize,
    /// Its words, quotes resolved, up to a redirection or the next command.
    pub(crate) words: Vec<String>,
}

/// The inside of every fenced block whose info string is `language`, with the line it starts on.
pub(crate) fn blocks<'a>(page: &'a str, language: &str) -> Vec<(usize, Vec<&'a str>)> {
    let mut found = Vec::new();
    let mut inside: Option<(bool, usize, Vec<&str>)> = None;
    for (index, line) in page.lines().enumerate() {
        match (line.strip_prefix("```"), inside.take()) {
            (Some(info), None) => inside = Some((info.trim() == language, index + 2, Vec::new())),
            (Some(_), Some((wanted, start, lines))) => found.extend(wanted.then_some((start, lines))),
            (None, Some((wanted, start, mut lines))) => {
                lines.push(line);
                inside = Some((wanted, start, lines));
            }
            (None, None) => {}
        }
    }
    found
}

/// Every command in the page's `console` blocks.
pub(crate) fn examples(page: &str) -> Vec<Example> {
    let mut found = Vec::new();
    for (start, lines) in blocks(page, "console") {
        let mut lines = lines.into_iter().enumerate();
        while let Some((index, line)) = lines.next() {
            let Some(first) = line.strip_prefix("$ ") else { continue };
            let mut command = first.to_owned();
            while command.ends_with('\\') {
                command.pop();
                command.push_str(lines.next().map_or("", |(_, more)| more));
            }
            let words = simple_commands(&command).into_iter();
            found.extend(words.map(|words| Example { line: start + index, words }));
        }
    }
    found
}

/// Splits a line into its simple commands and those into words. Quotes are resolved, redirections and
/// comments left out; expansions stay as they are.
fn simple_commands(line: &str) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, '|' | ';' | '&') => {
                words.extend(word.take());
                commands.push(std::mem::take(&mut words));
            }
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    commands.push(words);
    commands.iter_mut().for_each(cut_redirection);
    commands.retain(|words| !words.is_empty());
    commands
}

fn cut_redirection(words: &mut Vec<String>) {
    if let Some(at) = words.iter().position(|word| word.starts_with(['<', '>']) || word.starts_with("2>")) {
        words.truncate(at);
    }
}

#[cfg(test)]
mod tests {
    use super::{blocks, examples};

    #[test]
    fn commands_of_console_blocks() {
        let page = "text\n```console\n$ portway device add c1 web \\\n    listen='tcp::80' # no\nshown\n$ a | b > c\n```\n```toml\n$ no\n```\n";
        let found = examples(page);
        let words: Vec<String> = found.iter().map(|example| example.words.join(" ")).collect();
        assert_eq!(words, ["portway device add c1 web listen=tcp::80", "a", "b"]);
        assert_eq!(found[0].line, 3);
        assert_eq!(found[1].line, 6);
    }

    #[test]
    fn blocks_of_a_language() {
        assert_eq!(blocks("```toml\na = 1\n```\n```\nb\n```\n", "toml"), [(2, vec!["a = 1"])]);
    }
}
