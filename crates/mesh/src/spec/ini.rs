//! Files with `[Section]` and `Key = value`: those of wg-quick and of wireproxy. Lines end in LF or CRLF; letter case of
//! sections and keys does not count.

use std::path::Path;

use super::error::SpecError;
use super::place::{Field, Place};

/// What a file is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// wg-quick(8): `#` begins a comment wherever it stands.
    WgQuick,
    /// wireproxy: `#` and `;` begin one at the start of a line or behind a blank.
    Wireproxy,
}

/// A section, in the order of the file. What stands before the first one is a section without a name.
pub(super) struct Section {
    /// Its name as written.
    pub(super) name: String,
    /// Where it begins.
    pub(super) place: Place,
    /// Keys as written, and values.
    pub(super) pairs: Vec<(String, Field)>,
}

/// Which dialect a file is in: what no file of wg-quick has makes it one of wireproxy.
pub(super) fn dialect(text: &str) -> Dialect {
    let theirs = [
        "[tcpclienttunnel]",
        "[tcpservertunnel]",
        "[udpproxytunnel]",
        "[stdiotunnel]",
        "[socks5]",
        "[http]",
        "[sni]",
        "[resolve]",
    ];
    let mut inside = false;
    for line in text.lines() {
        let line = line.trim().to_ascii_lowercase();
        let root_key = !inside && line.starts_with("wgconfig") && line.contains('=');
        if root_key || theirs.iter().any(|section| line.starts_with(section)) {
            return Dialect::Wireproxy;
        }
        inside |= line.starts_with('[');
    }
    Dialect::WgQuick
}

/// Splits a file. `path` is for places only.
pub(super) fn sections(path: &Path, text: &str, dialect: Dialect) -> Result<Vec<Section>, SpecError> {
    let mut sections =
        vec![Section { name: String::new(), place: Place::file(path, 1, 1), pairs: Vec::new() }];
    for (index, raw) in text.split('\n').enumerate() {
        let line = uncommented(raw, dialect);
        let start = line.len() - line.trim_start().len();
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let place = |bytes: usize| {
            let column = raw.get(..bytes).map_or(0, |before| before.chars().count()) + 1;
            Place::file(path, index + 1, column)
        };
        if let Some(inner) = line.strip_prefix('[') {
            let Some(name) = inner.strip_suffix(']') else {
                return Err(SpecError::wrong(&place(start), "section without `]` at its end"));
            };
            let name = name.trim().to_owned();
            sections.push(Section { name, place: place(start), pairs: Vec::new() });
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            return Err(SpecError::wrong(&place(start), "neither a [section] nor KEY = VALUE"));
        };
        let before = start + key.len() + 1 + (value.len() - value.trim_start().len());
        let field = Field::new(place(before), value.trim());
        if let Some(section) = sections.last_mut() {
            section.pairs.push((key.trim().to_owned(), field));
        }
    }
    Ok(sections)
}

/// A line without its comment.
fn uncommented(line: &str, dialect: Dialect) -> &str {
    let end = match dialect {
        Dialect::WgQuick => line.find('#'),
        Dialect::Wireproxy => {
            let mut before = ' ';
            line.char_indices().find_map(|(at, c)| {
                let begins = matches!(c, '#' | ';') && before.is_whitespace();
                before = c;
                begins.then_some(at)
            })
        }
    };
    end.and_then(|end| line.get(..end)).unwrap_or(line)
}
