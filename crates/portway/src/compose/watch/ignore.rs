//! Which paths are not looked at: patterns as in `.dockerignore`.
//!
//! A pattern is matched part by part: `*`, `?` and `[a-z]` within one, `**` any number of parts. One that matches a folder
//! matches all in it. Behind `!` it takes back what an earlier one has matched; the last that matches decides.

use std::path::Path;

/// Beside what anybody says: what editors leave for a moment, and what no service runs.
const ALWAYS: [&str; 9] = [
    "**/.git",
    "**/.idea",
    "**/*~",
    "**/.*.sw?",
    "**/4913",
    "**/.#*",
    "**/#*#",
    "**/*___jb_old___",
    "**/*___jb_tmp___",
];

/// One pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    parts: Vec<Vec<char>>,
    takes_back: bool,
}

/// Patterns in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Patterns(Vec<Pattern>);

impl Patterns {
    /// Those of a list.
    pub(super) fn of<'t>(texts: impl IntoIterator<Item = &'t str>) -> Self {
        Self(texts.into_iter().filter_map(Pattern::read).collect())
    }

    /// Those of a file: a line each, and lines that begin with `#` are none.
    pub(super) fn of_file(text: &str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self::of(text.lines().filter(|line| !line.starts_with('#')))
    }

    /// Those that count anywhere.
    pub(super) fn always() -> Self {
        Self::of(ALWAYS)
    }

    /// Whether they match a path, or a folder that it is in.
    pub(super) fn match_path(&self, path: &Path) -> bool {
        let parts: Option<Vec<Vec<char>>> =
            path.components().map(|part| Some(part.as_os_str().to_str()?.chars().collect())).collect();
        let Some(parts) = parts.filter(|parts| !parts.is_empty()) else { return false };
        let mut matched = false;
        for pattern in &self.0 {
            if pattern.takes_back == matched && pattern.begins(&parts) {
                matched = !pattern.takes_back;
            }
        }
        matched
    }

    /// Whether something in a folder that is matched may not be.
    pub(super) fn take_back(&self) -> bool {
        self.0.iter().any(|pattern| pattern.takes_back)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Pattern {
    fn read(text: &str) -> Option<Self> {
        let text = text.trim();
        let (takes_back, text) = match text.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, text),
        };
        let mut parts: Vec<Vec<char>> = Vec::new();
        for part in text.split('/').filter(|part| !matches!(*part, "" | ".")) {
            match part {
                ".." => drop(parts.pop()),
                part => parts.push(part.chars().collect()),
            }
        }
        (!parts.is_empty()).then_some(Self { parts, takes_back })
    }

    /// Whether it matches as many of the first parts of a path as there are, but at least one. Takes time with the product
    /// of both lengths, whatever they are.
    fn begins(&self, path: &[Vec<char>]) -> bool {
        // Which numbers of first parts the pattern so far matches.
        let mut reached = vec![false; path.len() + 1];
        reached[0] = true;
        for part in &self.parts {
            if part.iter().all(|c| *c == '*') && part.len() > 1 {
                let first = reached.iter().position(|reached| *reached).unwrap_or(reached.len());
                reached[first..].fill(true);
                continue;
            }
            for count in (0..path.len()).rev() {
                reached[count + 1] = reached[count] && is_name(part, &path[count]);
            }
            reached[0] = false;
        }
        reached[1..].contains(&true)
    }
}

/// Whether a pattern without a slash matches a name. Of stars the last is tried again, and no earlier one: time grows
/// with the product of both lengths at most.
fn is_name(pattern: &[char], name: &[char]) -> bool {
    let (mut at, mut in_name) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while in_name < name.len() {
        if pattern.get(at) == Some(&'*') {
            star = Some((at + 1, in_name));
            at += 1;
        } else if let Some(next) = one(pattern, at, name[in_name]) {
            at = next;
            in_name += 1;
        } else if let Some((after, taken)) = star {
            (at, in_name) = (after, taken + 1);
            star = Some((after, taken + 1));
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

/// Where the pattern goes on when what stands there matches a character.
fn one(pattern: &[char], at: usize, c: char) -> Option<usize> {
    match *pattern.get(at)? {
        '?' => Some(at + 1),
        '\\' => (*pattern.get(at + 1)? == c).then_some(at + 2),
        '[' => set(pattern, at + 1, c),
        own => (own == c).then_some(at + 1),
    }
}

/// A set of characters, to its `]`.
fn set(pattern: &[char], mut at: usize, c: char) -> Option<usize> {
    let is_not = matches!(pattern.get(at), Some('^' | '!'));
    at += usize::from(is_not);
    let (begin, mut has) = (at, false);
    loop {
        let first = *pattern.get(at)?;
        if first == ']' && at > begin {
            return (has != is_not).then_some(at + 1);
        }
        match (pattern.get(at + 1), pattern.get(at + 2)) {
            (Some('-'), Some(last)) if *last != ']' => {
                has |= (first..=*last).contains(&c);
                at += 3;
            }
            _ => {
                has |= first == c;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_dockerignore() {
        for (pattern, path, matches) in [
            ("a", "a", true),
            ("a", "a/b/c", true),
            ("a", "b/a", false),
            ("/a/", "a/x", true),
            ("./a", "a", true),
            ("x/../a", "a", true),
            ("*.log", "x.log", true),
            ("*.log", "d/x.log", false),
            ("**/*.log", "d/e/x.log", true),
            ("**/*.log", "x.log", true),
            ("a/**/z", "a/z", true),
            ("a/**/z", "a/b/c/z", true),
            ("a/**/z", "b/z", false),
            ("a/**", "a/b", true),
            ("**", "a", true),
            ("**/a", "b/c/d", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[!a-c]x", "dx", true),
            ("[]]x", "]x", true),
            ("[a", "a", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b", "abab-", false),
            ("", "a", false),
            ("/", "a", false),
        ] {
            assert_eq!(Patterns::of([pattern]).match_path(Path::new(path)), matches, "{pattern} {path}");
        }
    }

    #[test]
    fn the_last_that_matches_decides() {
        let of = |text: &str, path: &str| Patterns::of_file(text).match_path(Path::new(path));
        let text = "# logs\n*.log\n!keep.log\n  \nbuild\n!build/keep\n";
        assert!(of(text, "a.log") && !of(text, "keep.log") && !of(text, "# logs"));
        assert!(of(text, "build/x") && !of(text, "build/keep/y"));
        assert!(of("!a\na", "a") && Patterns::of_file(text).take_back());
    }

    /// Fails when a pattern takes a time that grows with more than its length.
    #[test]
    fn no_pattern_takes_long() {
        let path: String = vec!["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"; 200].join("/");
        let begin = std::time::Instant::now();
        let name = format!("{}b", "*a".repeat(24));
        assert!(
            !Patterns::of([&*format!("**/{}", format!("{name}/**/").repeat(50))])
                .match_path(Path::new(&path))
        );
        assert!(begin.elapsed() < std::time::Duration::from_secs(2));
    }

    #[test]
    fn what_editors_leave_is_left_out() {
        let always = Patterns::always();
        for path in [".git/HEAD", "a/.git", "x.txt~", "a/.x.txt.swp", "4913", ".#x", "#x#", "a/.idea/b"] {
            assert!(always.match_path(Path::new(path)), "{path}");
        }
        for path in [".gitignore", "x.swp", "a/b.txt", "49131"] {
            assert!(!always.match_path(Path::new(path)), "{path}");
        }
    }
}
