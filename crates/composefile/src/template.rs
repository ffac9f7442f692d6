//! Interpolation of one text: `$NAME`, `${NAME}`, defaults, requirements, alternatives, nested.

/// Longest text that interpolation makes.
const MAX_BYTES: usize = 1 << 20;

/// How deep defaults nest.
const MAX_DEPTH: usize = 16;

/// What is wrong with a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TemplateFault {
    /// `${` without a name, an operator or an end.
    #[error("malformed interpolation in `{0}` (a literal $ is written $$)")]
    Malformed(String),
    /// `${NAME?why}` without the variable.
    #[error("the variable {name} must be set{}{why}", if why.is_empty() { "" } else { ": " })]
    Required {
        /// Name of the variable.
        name: String,
        /// What the file says of it.
        why: String,
    },
    /// Defaults in defaults in defaults.
    #[error("interpolation nested more than {MAX_DEPTH} deep")]
    TooDeep,
    /// A text of many megabytes.
    #[error("interpolation makes a text of more than 1 MiB")]
    TooLong,
}

/// A variable that a template names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// `${NAME:?…}`.
    pub required: bool,
    /// `${NAME:-default}`.
    pub default: String,
    /// `${NAME:+alternate}`.
    pub alternate: String,
}

/// Where values come from.
pub(crate) struct Scope<'s> {
    /// The value of a variable.
    pub(crate) lookup: &'s dyn Fn(&str) -> Option<String>,
    /// Told of each variable that has no value and no default.
    pub(crate) unset: &'s mut dyn FnMut(&str),
}

/// `text` with its variables.
///
/// # Errors
/// As [`TemplateFault`] says.
pub(crate) fn substitute(text: &str, scope: &mut Scope<'_>) -> Result<String, TemplateFault> {
    expand(text, scope, 0)
}

fn expand(text: &str, scope: &mut Scope<'_>, depth: usize) -> Result<String, TemplateFault> {
    if depth > MAX_DEPTH {
        return Err(TemplateFault::TooDeep);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, piece, after)) = next_piece(rest)? {
        out.push_str(before);
        match piece {
            Piece::Literal(text) => out.push_str(text),
            Piece::Name(name) => out.push_str(&value_or_blank(name, scope)),
            Piece::Braced(inner) => out.push_str(&braced(inner, scope, depth)?),
        }
        if out.len() > MAX_BYTES {
            return Err(TemplateFault::TooLong);
        }
        rest = after;
    }
    out.push_str(rest);
    if out.len() > MAX_BYTES { Err(TemplateFault::TooLong) } else { Ok(out) }
}

/// A part of a text that begins with `$`.
enum Piece<'t> {
    /// `$$`, or a `$` that begins nothing.
    Literal(&'static str),
    /// `$NAME`.
    Name(&'t str),
    /// What stands inside `${…}`.
    Braced(&'t str),
}

/// The next part with a `$`, with what stands before and after it.
fn next_piece(text: &str) -> Result<Option<(&str, Piece<'_>, &str)>, TemplateFault> {
    let Some((before, after)) = text.split_once('$') else { return Ok(None) };
    if let Some(rest) = after.strip_prefix('$') {
        return Ok(Some((before, Piece::Literal("$"), rest)));
    }
    if let Some(inside) = after.strip_prefix('{') {
        let Some(end) = closing(inside) else { return Err(TemplateFault::Malformed(short(text))) };
        let (inner, rest) = inside.split_at(end);
        return Ok(Some((before, Piece::Braced(inner), rest.strip_prefix('}').unwrap_or(rest))));
    }
    let (name, rest) = after.split_at(name_length(after));
    let piece = if name.is_empty() { Piece::Literal("$") } else { Piece::Name(name) };
    Ok(Some((before, piece, rest)))
}

/// Where the brace is closed that was opened before `text`.
fn closing(text: &str) -> Option<usize> {
    let mut open = 1_usize;
    let mut previous = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' if previous == b'$' => open += 1,
            b'}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(at);
        }
        previous = byte;
    }
    None
}

/// Bytes of the name that `text` begins with.
fn name_length(text: &str) -> usize {
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if starts { text.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count() } else { 0 }
}

/// `text`, not so long that it fills a screen.
pub(crate) fn short(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn value_or_blank(name: &str, scope: &mut Scope<'_>) -> String {
    (scope.lookup)(name).unwrap_or_else(|| {
        (scope.unset)(name);
        String::new()
    })
}

/// The operator of `${NAME:-word}` and its like.
struct Operation<'t> {
    name: &'t str,
    /// `-`, `?` or `+`; nothing in `${NAME}`.
    operator: Option<char>,
    /// With a colon, an empty value counts as none.
    colon: bool,
    word: &'t str,
}

fn operation(inner: &str) -> Result<Operation<'_>, TemplateFault> {
    let malformed = || TemplateFault::Malformed(short(&format!("${{{inner}}}")));
    let (name, rest) = inner.split_at(name_length(inner));
    if name.is_empty() {
        return Err(malformed());
    }
    if rest.is_empty() {
        return Ok(Operation { name, operator: None, colon: false, word: "" });
    }
    let (colon, rest) = rest.strip_prefix(':').map_or((false, rest), |rest| (true, rest));
    let mut chars = rest.chars();
    match chars.next() {
        Some(operator @ ('-' | '?' | '+')) => {
            Ok(Operation { name, operator: Some(operator), colon, word: chars.as_str() })
        }
        _ => Err(malformed()),
    }
}

fn braced(inner: &str, scope: &mut Scope<'_>, depth: usize) -> Result<String, TemplateFault> {
    let operation = operation(inner)?;
    let value = (scope.lookup)(operation.name);
    let usable = value.as_ref().is_some_and(|value| !operation.colon || !value.is_empty());
    match operation.operator {
        None => Ok(value_or_blank(operation.name, scope)),
        Some('-') if !usable => expand(operation.word, scope, depth + 1),
        Some('?') if !usable => {
            let why = expand(operation.word, scope, depth + 1)?;
            Err(TemplateFault::Required { name: operation.name.to_owned(), why })
        }
        Some('+') if usable => expand(operation.word, scope, depth + 1),
        Some('+') => Ok(String::new()),
        Some(_) => Ok(value.unwrap_or_default()),
    }
}

impl Variable {
    fn bare(name: &str) -> Variable {
        Variable { name: name.to_owned(), required: false, default: String::new(), alternate: String::new() }
    }

    fn of(operation: &Operation<'_>) -> Variable {
        let mut variable = Variable::bare(operation.name);
        match operation.operator {
            Some('-') => operation.word.clone_into(&mut variable.default),
            Some('+') => operation.word.clone_into(&mut variable.alternate),
            Some('?') => variable.required = true,
            _ => {}
        }
        variable
    }

    /// Adds what another place says of the same variable: its first default and its first alternate stay.
    pub(crate) fn join(&mut self, other: Variable) {
        self.required |= other.required;
        for (known, said) in [(&mut self.default, other.default), (&mut self.alternate, other.alternate)] {
            if known.is_empty() {
                *known = said;
            }
        }
    }
}

/// Names every variable in `text`, those in defaults too, as deep as they may nest. What is malformed names none.
pub(crate) fn variables(text: &str, found: &mut dyn FnMut(Variable)) {
    let mut open = vec![(text, 0)];
    while let Some((text, depth)) = open.pop() {
        let mut rest = text;
        while let Ok(Some((_, piece, after))) = next_piece(rest) {
            match piece {
                Piece::Literal(_) => {}
                Piece::Name(name) => found(Variable::bare(name)),
                Piece::Braced(inner) => {
                    if let Ok(operation) = operation(inner) {
                        found(Variable::of(&operation));
                        if depth < MAX_DEPTH {
                            open.push((operation.word, depth + 1));
                        }
                    }
                }
            }
            rest = after;
        }
    }
}

#[cfg(test)]
mod tests;
