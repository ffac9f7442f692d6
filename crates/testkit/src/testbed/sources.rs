//! Which apt entry makes a suite's backports known: derived from the machine's own entries, so
//! that the same mirror, key and options serve. Both formats of `sources.list(5)`.

use std::fmt::Write as _;

/// An entry to add: the file's ending and its text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Addition {
    /// `sources` or `list`.
    pub(super) ending: &'static str,
    pub(super) text: String,
}

/// A source file: whether it is in the new format, and its text.
pub(super) struct SourceFile {
    pub(super) is_deb822: bool,
    pub(super) text: String,
}

/// Whether any entry has this suite.
pub(super) fn knows(files: &[SourceFile], suite: &str) -> bool {
    find(files, suite).is_some()
}

/// An entry for `suite`, made like the one for `base`; `None` when nothing has `base`.
pub(super) fn derive(files: &[SourceFile], base: &str, suite: &str) -> Option<Addition> {
    find(files, base).map(|entry| entry.with_suite(suite))
}

/// The mirror that has `suite`; `None` when nothing has it.
pub(super) fn mirror(files: &[SourceFile], suite: &str) -> Option<String> {
    let uri = match find(files, suite)? {
        Entry::Deb822(fields) => {
            let uris = fields.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("URIs"))?.1;
            uris.split_whitespace().next()?.to_owned()
        }
        Entry::OneLine { uri, .. } => uri.to_owned(),
    };
    Some(uri)
}

enum Entry<'a> {
    /// Fields with their continuation lines, as written.
    Deb822(Vec<(&'a str, String)>),
    /// `[options]` with the brackets or empty, and the address.
    OneLine { options: &'a str, uri: &'a str },
}

impl Entry<'_> {
    fn with_suite(&self, suite: &str) -> Addition {
        match self {
            Self::Deb822(fields) => {
                let mut text = String::new();
                for (name, value) in fields {
                    let value = match name.to_ascii_lowercase().as_str() {
                        "types" => " deb",
                        "suites" => &format!(" {suite}"),
                        "components" => " main",
                        _ => value,
                    };
                    // Writing to a string does not fail.
                    let _ = writeln!(text, "{name}:{value}");
                }
                Addition { ending: "sources", text }
            }
            Self::OneLine { options, uri } => {
                let space = if options.is_empty() { "" } else { " " };
                Addition { ending: "list", text: format!("deb {options}{space}{uri} {suite} main\n") }
            }
        }
    }
}

fn find<'a>(files: &'a [SourceFile], suite: &str) -> Option<Entry<'a>> {
    files.iter().find_map(|file| {
        if file.is_deb822 { find_stanza(&file.text, suite) } else { find_line(&file.text, suite) }
    })
}

fn find_stanza<'a>(text: &'a str, suite: &str) -> Option<Entry<'a>> {
    let mut stanza: Vec<(&str, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            let fields = std::mem::take(&mut stanza);
            let field = |name: &str| {
                fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
            };
            let has =
                |name: &str, word: &str| field(name).is_some_and(|v| v.split_whitespace().any(|w| w == word));
            let disabled = ["no", "false", "without", "off", "disable"].iter().any(|no| has("Enabled", no));
            if has("Types", "deb") && has("Suites", suite) && !disabled {
                return Some(Entry::Deb822(fields));
            }
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = stanza.last_mut() {
                let _ = write!(value, "\n{line}");
            }
        } else if let Some((name, value)) = line.split_once(':') {
            stanza.push((name, value.to_owned()));
        }
    }
    None
}

fn find_line<'a>(text: &'a str, suite: &str) -> Option<Entry<'a>> {
    text.lines().find_map(|line| {
        let rest = line.split('#').next().unwrap_or_default().trim();
        let rest = rest.strip_prefix("deb").filter(|rest| rest.starts_with([' ', '\t']))?.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(inner) => rest.split_at(inner.find(']')? + 2),
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        let uri = words.next()?;
        (words.next()? == suite).then_some(Entry::OneLine { options, uri })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
# comment
Types: deb deb-src
# another
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINB
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
";

    fn deb822(text: &str) -> Vec<SourceFile> {
        vec![SourceFile { is_deb822: true, text: text.into() }]
    }

    fn list(text: &str) -> Vec<SourceFile> {
        vec![SourceFile { is_deb822: false, text: text.into() }]
    }

    fn derived(files: &[SourceFile]) -> Option<(&'static str, String)> {
        derive(files, "bookworm", "bookworm-backports").map(|a| (a.ending, a.text))
    }

    #[test]
    fn a_stanza_keeps_mirror_and_key() {
        let text = "\
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm-backports
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINB
 -----END PGP PUBLIC KEY BLOCK-----
";
        assert_eq!(derived(&deb822(DEB822)), Some(("sources", text.to_owned())));
    }

    #[test]
    fn a_line_keeps_mirror_and_options() {
        let text = "# deb http://no.example bookworm main\ndeb-src http://s.example bookworm main\n\
             deb [ arch=amd64 signed-by=/k.gpg ] http://mirror.example/debian bookworm main contrib # x\n";
        let line =
            "deb [ arch=amd64 signed-by=/k.gpg ] http://mirror.example/debian bookworm-backports main\n";
        assert_eq!(derived(&list(text)), Some(("list", line.to_owned())));
        let plain = "deb\thttp://mirror.example/debian bookworm main";
        let line = "deb http://mirror.example/debian bookworm-backports main\n";
        assert_eq!(derived(&list(plain)), Some(("list", line.to_owned())));
    }

    #[test]
    fn the_mirror_of_a_suite() {
        let mirror = |files: &[SourceFile]| mirror(files, "bookworm");
        assert_eq!(mirror(&deb822(DEB822)).as_deref(), Some("http://mirror.example/debian"));
        let line = "deb [arch=amd64] http://l.example/debian bookworm main";
        assert_eq!(mirror(&list(line)).as_deref(), Some("http://l.example/debian"));
        assert_eq!(mirror(&list("deb http://l.example/debian sid main")), None);
    }

    #[test]
    fn what_does_not_have_the_suite_is_no_model() {
        for text in [
            "",
            "deb http://x bookworm-security main",
            "deb",
            "deb [x",
            "deb http://x",
            "debby http://x bookworm",
        ] {
            assert_eq!(derived(&list(text)), None, "{text}");
        }
        for text in [
            "",
            ":",
            " x\n",
            "Types: deb\nSuites: bookworm\nEnabled: no\n",
            "Types: deb-src\nSuites: bookworm\n",
        ] {
            assert_eq!(derived(&deb822(text)), None, "{text}");
        }
    }

    #[test]
    fn a_known_suite_is_found() {
        assert!(knows(&deb822(DEB822), "bookworm-updates"));
        assert!(!knows(&deb822(DEB822), "bookworm-backports"));
        assert!(knows(&list("deb http://x bookworm-backports main"), "bookworm-backports"));
    }
}
