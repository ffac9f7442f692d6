//! `.env` files in the dialect of Compose.
//!
//! A line is `NAME=value` or `NAME: value`, with `export` before it or not. A bare `NAME` takes its value from
//! outside. Single quotes keep a value as it is, double quotes know `\n`, `\r`, `\t`, `\\`, `\"` and `\$`; both may
//! span lines. Without quotes a blank and `#` end the value. Variables are those from outside first, then those of
//! the lines above.

use crate::template::{self, Scope, TemplateFault};

/// Most variables of one file.
const MAX_VARIABLES: usize = 20_000;

/// What is wrong with a file, and in which line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub(crate) struct DotenvFault {
    /// From 1.
    pub(crate) line: u32,
    /// What is wrong.
    pub(crate) what: String,
}

/// Variables in the order of their lines; a name that comes twice is there twice.
pub(crate) type Variables = Vec<(String, String)>;

/// The variables of a file.
///
/// # Errors
/// A name with a blank or a sign in it, quotes that nothing closes, a malformed template.
pub(crate) fn parse(text: &str, scope: &mut Scope<'_>) -> Result<Variables, DotenvFault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    let mut reader = Reader { rest: &text, variables: Vec::new() };
    let mut known = std::collections::BTreeMap::new();
    while reader.skip_blank() {
        let left = reader.rest.len();
        let fault = |what: String| DotenvFault { line: line_of(&text, left), what };
        let Some(name) = reader.name().map_err(fault)? else { continue };
        let value = match name {
            Name::Bare(name) => (scope.lookup)(&name).map(|value| (name, value)),
            Name::Assigned(name) => {
                let raw = reader.value().map_err(fault)?;
                let value = raw.resolve(scope, &known).map_err(|e| fault(e.to_string()))?;
                Some((name, value))
            }
        };
        if let Some((name, value)) = value {
            known.insert(name.clone(), value.clone());
            reader.variables.push((name, value));
        }
        if reader.variables.len() > MAX_VARIABLES {
            return Err(fault(format!("more than {MAX_VARIABLES} variables")));
        }
    }
    Ok(reader.variables)
}

/// The line that begins `left` bytes before the end.
fn line_of(text: &str, left: usize) -> u32 {
    let ends = text.bytes().take(text.len() - left).filter(|b| *b == b'\n').count();
    u32::try_from(ends + 1).unwrap_or(u32::MAX)
}

struct Reader<'t> {
    rest: &'t str,
    variables: Variables,
}

enum Name {
    Bare(String),
    Assigned(String),
}

/// A value before its variables are filled in.
enum Raw {
    /// As it is.
    Literal(String),
    /// With variables.
    Template(String),
}

impl Raw {
    fn resolve(
        self,
        scope: &mut Scope<'_>,
        known: &std::collections::BTreeMap<String, String>,
    ) -> Result<String, TemplateFault> {
        let text = match self {
            Raw::Literal(text) => return Ok(text),
            Raw::Template(text) => text,
        };
        let outside = scope.lookup;
        let lookup = |name: &str| outside(name).or_else(|| known.get(name).cloned());
        template::substitute(&text, &mut Scope { lookup: &lookup, unset: &mut *scope.unset })
    }
}

impl Reader<'_> {
    /// Goes to the next statement; false at the end.
    fn skip_blank(&mut self) -> bool {
        loop {
            self.rest = self.rest.trim_start();
            if !self.rest.starts_with('#') {
                return !self.rest.is_empty();
            }
            self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest);
        }
    }

    fn name(&mut self) -> Result<Option<Name>, String> {
        if let Some(rest) = self.rest.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t'])) {
            self.rest = rest.trim_start_matches([' ', '\t']);
        }
        let end = self.rest.find(['=', ':', '\n']);
        let (name, sign, rest) = match end.and_then(|at| self.rest.split_at_checked(at)) {
            Some((name, rest)) => (name, rest.chars().next(), rest.get(1..).unwrap_or_default()),
            None => (self.rest, None, ""),
        };
        self.rest = rest;
        let name = name.trim_end_matches([' ', '\t', '\r']);
        if name.contains([' ', '\t']) {
            return Err(format!("the name `{}` has a blank in it", template::short(name)));
        }
        let legal = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '[' | ']');
        if let Some(sign) = name.chars().find(|c| !legal(*c)) {
            return Err(format!("`{sign}` in the name `{}`", template::short(name)));
        }
        match sign {
            Some('=' | ':') => Ok(Some(Name::Assigned(name.to_owned()))),
            _ if name.is_empty() => Ok(None),
            _ => Ok(Some(Name::Bare(name.to_owned()))),
        }
    }

    fn value(&mut self) -> Result<Raw, String> {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
        match self.rest.chars().next() {
            Some(quote @ ('"' | '\'')) => self.quoted(quote),
            _ => {
                let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
                self.rest = rest;
                // A comment needs a blank before it, and a value before that.
                let value = line.find(" #").and_then(|at| line.get(..at)).unwrap_or(line);
                Ok(Raw::Template(value.trim_end().to_owned()))
            }
        }
    }

    fn quoted(&mut self, quote: char) -> Result<Raw, String> {
        let inside = self.rest.get(1..).unwrap_or_default();
        let mut value = String::new();
        let mut chars = inside.char_indices();
        while let Some((at, c)) = chars.next() {
            if c == quote {
                self.rest = inside.get(at + 1..).unwrap_or_default();
                return Ok(if quote == '"' { Raw::Template(value) } else { Raw::Literal(value) });
            }
            if c != '\\' {
                value.push(c);
                continue;
            }
            let Some((_, escaped)) = chars.next() else { break };
            match (quote, escaped) {
                ('"', 'n') => value.push('\n'),
                ('"', 'r') => value.push('\r'),
                ('"', 't') => value.push('\t'),
                ('"', '$') => value.push_str("$$"),
                ('"', '\\' | '"') | ('\'', '\'') => value.push(escaped),
                _ => value.extend(['\\', escaped]),
            }
        }
        Err(format!("nothing closes the quote of {}", template::short(self.rest)))
    }
}

#[cfg(test)]
mod tests;
