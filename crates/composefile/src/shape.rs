//! What a key may hold, and the one canonical way to write it.
//!
//! A shape checks a node and brings it into its canonical form in one go: texts that stand for numbers become
//! numbers, lists of `k=v` become mappings, durations and sizes are written in one way. Short forms are rewritten to
//! long ones by the functions of [`crate::forms`]. Applying a shape twice changes nothing more.

use std::fmt;

use crate::fault::{Fault, nearest};
use crate::tree::{Map, Node, Tag, Value};
use crate::units;

/// Rewrites a short form into the long one. Leaves anything else to the shape that follows.
pub(crate) type Rewrite = fn(&mut Node, &Path<'_>) -> Result<(), Fault>;

/// What a key may hold.
pub(crate) enum Shape {
    /// Anything at all.
    Any,
    /// A text.
    Text,
    /// A text or a number, which becomes a text.
    Word,
    /// A whole number, or a text that is one.
    Integer,
    /// A whole number between two, or a text that is one.
    Between(i128, i128),
    /// Any number, or a text that is one.
    Number,
    /// A truth value, or a text that is one.
    Bool,
    /// One of a few texts.
    OneOf(&'static [&'static str]),
    /// A duration as in `1m30s`.
    Duration,
    /// A size in bytes as in `512m`.
    Size,
    /// A command: nothing, a list, or a text that is split as a shell would.
    Command,
    /// Texts by name: a mapping, or a list of `name=value`.
    Dict(Absent),
    /// A mapping to texts and numbers.
    Options,
    /// A list of texts. What comes twice stays once.
    Texts,
    /// The same, or one text.
    TextOrTexts,
    /// A list.
    List(&'static Shape),
    /// A mapping with any keys.
    Named(&'static Shape),
    /// A mapping with these keys, and any that begin with `x-`.
    Object(&'static [Field]),
    /// The shape, or nothing.
    Nullable(&'static Shape),
    /// What a short form is rewritten to.
    Long(Rewrite, &'static Shape),
}

/// What a name without a value becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absent {
    /// An empty text.
    Blank,
    /// Nothing: the environment may have a value.
    Null,
}

/// A key of an object.
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    /// A zero, a `false`, an empty list is written too.
    pub(crate) keep: bool,
}

/// A key whose zero is left out.
pub(crate) const fn key(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, keep: false }
}

/// A key whose zero means something.
pub(crate) const fn kept(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, keep: true }
}

/// Path of a key, written only when something is wrong.
pub(crate) struct Path<'p> {
    pub(crate) parent: Option<&'p Path<'p>>,
    pub(crate) step: Step<'p>,
}

/// One step of a path.
pub(crate) enum Step<'p> {
    Key(&'p str),
    Item(usize),
}

impl<'p> Path<'p> {
    /// A path of one key.
    pub(crate) fn root(key: &'p str) -> Path<'p> {
        Path { parent: None, step: Step::Key(key) }
    }

    /// A key below.
    pub(crate) fn key(&'p self, key: &'p str) -> Path<'p> {
        Path { parent: Some(self), step: Step::Key(key) }
    }

    /// An item below.
    pub(crate) fn item(&'p self, at: usize) -> Path<'p> {
        Path { parent: Some(self), step: Step::Item(at) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Key("") => Ok(()),
            Step::Key(key) if self.parent.is_none_or(|parent| matches!(parent.step, Step::Key(""))) => {
                f.write_str(key)
            }
            Step::Key(key) => write!(f, ".{key}"),
            Step::Item(at) => write!(f, "[{at}]"),
        }
    }
}

/// Whether `key` is an extension, which every object may have.
pub(crate) fn is_extension(key: &str) -> bool {
    key.starts_with("x-")
}

/// Brings `node` into its canonical form. With `raw`, texts with a `$` stay as they are.
///
/// # Errors
/// When `node` is not what `shape` says, with the place of the part that is not.
pub(crate) fn check(node: &mut Node, shape: &Shape, path: &Path<'_>, raw: bool) -> Result<(), Fault> {
    if node.tag == Tag::Reset || (raw && node.as_text().is_some_and(|text| text.contains('$'))) {
        return Ok(());
    }
    match shape {
        Shape::Any => Ok(()),
        Shape::Text => text(node, path),
        Shape::Word => word(node, path),
        Shape::Integer => integer(node, path),
        Shape::Between(least, most) => between(node, *least, *most, path),
        Shape::Number => number(node, path),
        Shape::Bool => boolean(node, path),
        Shape::OneOf(known) => one_of(node, known, path),
        Shape::Duration => duration(node, path),
        Shape::Size => size(node, path),
        Shape::Command => command(node, path),
        Shape::Dict(absent) => dict(node, *absent, path),
        Shape::Options => options(node, path),
        Shape::Texts => texts(node, path),
        Shape::TextOrTexts => {
            if let Value::Text(text) = &node.value {
                node.value = Value::List(vec![Node::text(text.clone(), &node.place)]);
            }
            texts(node, path)
        }
        Shape::List(item) => {
            for (at, node) in list_mut(node, path)?.iter_mut().enumerate() {
                check(node, item, &path.item(at), raw)?;
            }
            Ok(())
        }
        Shape::Named(member) => {
            for (name, node) in map_mut(node, path)? {
                if !is_extension(name) || node.as_map().is_some() {
                    check(node, member, &path.key(name), raw)?;
                }
            }
            Ok(())
        }
        Shape::Object(fields) => object(node, fields, path, raw),
        Shape::Nullable(shape) => {
            if node.value == Value::Null {
                Ok(())
            } else {
                check(node, shape, path, raw)
            }
        }
        Shape::Long(rewrite, shape) => {
            rewrite(node, path)?;
            check(node, shape, path, raw)
        }
    }
}

/// What `node` is not.
pub(crate) fn not(node: &Node, wanted: &str, path: &Path<'_>) -> Fault {
    node.fault(&path.to_string(), format!("must be {wanted}, not {}", node.value.noun()))
}

fn map_mut<'n>(node: &'n mut Node, path: &Path<'_>) -> Result<&'n mut Map, Fault> {
    if node.as_map().is_none() {
        return Err(not(node, "a mapping", path));
    }
    let fault = not(node, "a mapping", path);
    node.as_map_mut().ok_or(fault)
}

fn list_mut<'n>(node: &'n mut Node, path: &Path<'_>) -> Result<&'n mut Vec<Node>, Fault> {
    let fault = not(node, "a list", path);
    if let Value::List(list) = &mut node.value { Ok(list) } else { Err(fault) }
}

fn object(node: &mut Node, fields: &'static [Field], path: &Path<'_>, raw: bool) -> Result<(), Fault> {
    for (name, node) in map_mut(node, path)? {
        match fields.iter().find(|field| field.name == name) {
            Some(field) => check(node, &field.shape, &path.key(name), raw)?,
            None if is_extension(name) => {}
            None => {
                let near = nearest(name, fields.iter().map(|field| field.name));
                let hint = near.map(|near| format!("did you mean `{near}`?"));
                return Err(node.fault(&path.key(name).to_string(), "there is no such key").hint(hint));
            }
        }
    }
    Ok(())
}

fn text(node: &Node, path: &Path<'_>) -> Result<(), Fault> {
    if node.as_text().is_some() { Ok(()) } else { Err(not(node, "a text", path).hint(quote_hint(node))) }
}

/// A number or a truth value is a text in quotes.
fn quote_hint(node: &Node) -> Option<String> {
    node.as_word().map(|word| format!("write \"{word}\" in quotes"))
}

fn word(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    match (&node.value, node.as_word()) {
        (Value::Text(_), _) => Ok(()),
        (Value::Int(_) | Value::Float(_), Some(word)) => {
            node.value = Value::Text(word);
            Ok(())
        }
        _ => Err(not(node, "a text or a number", path)),
    }
}

fn integer(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    let value = match &node.value {
        Value::Int(value) => *value,
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a part after the point is left out, as Compose does"
        )]
        Value::Float(value) if value.abs() < 9e15 => *value as i128,
        Value::Text(text) => match text.parse() {
            Ok(value) => value,
            Err(_) => return Err(node.fault(&path.to_string(), format!("`{text}` is not a whole number"))),
        },
        _ => return Err(not(node, "a whole number", path)),
    };
    node.value = Value::Int(value);
    Ok(())
}

fn between(node: &mut Node, least: i128, most: i128, path: &Path<'_>) -> Result<(), Fault> {
    if let Value::Float(_) = node.value {
        return Err(not(node, "a whole number", path));
    }
    integer(node, path)?;
    match node.value {
        Value::Int(value) if (least..=most).contains(&value) => Ok(()),
        _ => Err(node.fault(&path.to_string(), format!("must be between {least} and {most}"))),
    }
}

fn number(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    let value = match &node.value {
        #[expect(clippy::cast_precision_loss, reason = "a share of processors has few digits")]
        Value::Int(value) => *value as f64,
        Value::Float(value) => *value,
        Value::Text(text) => match text.parse::<f64>() {
            Ok(value) => value,
            Err(_) => return Err(node.fault(&path.to_string(), format!("`{text}` is not a number"))),
        },
        _ => return Err(not(node, "a number", path)),
    };
    if !value.is_finite() {
        return Err(node.fault(&path.to_string(), "must be a finite number"));
    }
    node.value = units::number(value);
    Ok(())
}

fn boolean(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    let value = match &node.value {
        Value::Bool(value) => *value,
        Value::Text(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "t" | "y" | "yes" | "on" => true,
            "false" | "0" | "f" | "n" | "no" | "off" => false,
            _ => return Err(node.fault(&path.to_string(), format!("`{text}` is neither true nor false"))),
        },
        _ => return Err(not(node, "true or false", path)),
    };
    node.value = Value::Bool(value);
    Ok(())
}

fn one_of(node: &Node, known: &[&'static str], path: &Path<'_>) -> Result<(), Fault> {
    text(node, path)?;
    let text = node.as_text().unwrap_or_default();
    if known.contains(&text) {
        return Ok(());
    }
    let hint = nearest(text, known.iter().copied()).map(|near| format!("did you mean `{near}`?"));
    Err(node.fault(&path.to_string(), format!("`{text}` is none of {}", known.join(", "))).hint(hint))
}

fn duration(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    text(node, path)?;
    let text = node.as_text().unwrap_or_default();
    match units::duration(text) {
        Some(canonical) => {
            node.value = Value::Text(canonical);
            Ok(())
        }
        None => Err(node.fault(&path.to_string(), format!("`{text}` is no duration, as 1m30s is"))),
    }
}

fn size(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    let bytes = match &node.value {
        Value::Int(bytes) => Some(*bytes),
        // A part of a byte is nothing that could be meant.
        Value::Float(_) => Some(0),
        Value::Text(text) => units::bytes(text),
        _ => return Err(not(node, "a size", path)),
    };
    let Some(bytes) = bytes else {
        let text = node.as_text().unwrap_or_default();
        return Err(node.fault(&path.to_string(), format!("`{text}` is no size, as 512m is")));
    };
    node.value = if bytes == 0 { Value::Text(String::new()) } else { Value::Text(bytes.to_string()) };
    Ok(())
}

fn command(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    match &node.value {
        Value::Null => Ok(()),
        Value::Text(text) => {
            let Some(words) = units::shell_words(text) else {
                return Err(node.fault(&path.to_string(), "a quote is not closed"));
            };
            let words = words.into_iter().map(|word| Node::text(word, &node.place)).collect();
            node.value = Value::List(words);
            Ok(())
        }
        Value::List(list) => list.iter().enumerate().try_for_each(|(at, node)| text(node, &path.item(at))),
        _ => Err(not(node, "a text or a list", path)),
    }
}

fn texts(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    let list = list_mut(node, path)?;
    list.iter().enumerate().try_for_each(|(at, node)| text(node, &path.item(at)))?;
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|node| seen.insert(node.as_text().unwrap_or_default().to_owned()));
    Ok(())
}

fn dict(node: &mut Node, absent: Absent, path: &Path<'_>) -> Result<(), Fault> {
    let blank = || if absent == Absent::Blank { Value::Text(String::new()) } else { Value::Null };
    if let Value::List(list) = &node.value {
        let mut map = Map::new();
        for (at, item) in list.iter().enumerate() {
            text(item, &path.item(at))?;
            let line = item.as_text().unwrap_or_default();
            let (name, value) = match line.split_once('=') {
                Some((name, value)) => (name, Value::Text(value.to_owned())),
                None => (line, blank()),
            };
            let tag = if item.tag == Tag::Plain { Tag::Listed } else { item.tag };
            map.insert(name.to_owned(), Node { tag, ..Node::new(value, &item.place) });
        }
        node.value = Value::Map(map);
        return Ok(());
    }
    let Value::Map(map) = &mut node.value else { return Err(not(node, "a mapping or a list", path)) };
    for (name, node) in map.iter_mut().filter(|(_, node)| node.tag != Tag::Reset) {
        if name.is_empty() {
            return Err(node.fault(&path.to_string(), "a name is empty"));
        }
        node.value = match (&node.value, node.as_word()) {
            (_, Some(word)) => Value::Text(word),
            (Value::Null, _) => blank(),
            _ => return Err(not(node, "a text, a number or true or false", &path.key(name))),
        };
    }
    Ok(())
}

fn options(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    for (name, node) in map_mut(node, path)? {
        if node.value == Value::Null {
            node.value = Value::Text(String::new());
        }
        word(node, &path.key(name))?;
    }
    Ok(())
}

/// Leaves out of `node` what has a zero for a value and is not written then.
pub(crate) fn prune(node: &mut Node, shape: &Shape) {
    match (shape, &mut node.value) {
        (Shape::Object(fields), Value::Map(map)) => {
            for field in *fields {
                let Some(member) = map.get_mut(field.name) else { continue };
                prune(member, &field.shape);
                let nothing = member.value == Value::Null && matches!(field.shape, Shape::Command);
                if nothing || (!field.keep && is_zero(member, &field.shape)) {
                    map.remove(field.name);
                }
            }
        }
        (Shape::Named(member), Value::Map(map)) => map.values_mut().for_each(|node| prune(node, member)),
        (Shape::List(item), Value::List(list)) => list.iter_mut().for_each(|node| prune(node, item)),
        (Shape::Nullable(shape) | Shape::Long(_, shape), _) => prune(node, shape),
        _ => {}
    }
}

fn is_zero(node: &Node, shape: &Shape) -> bool {
    match &node.value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Int(value) => *value == 0,
        Value::Float(value) => *value == 0.0,
        Value::Text(text) => text.is_empty(),
        Value::List(list) => list.is_empty(),
        Value::Map(map) => map.is_empty() && !is_object(shape),
    }
}

fn is_object(shape: &Shape) -> bool {
    match shape {
        Shape::Object(_) => true,
        Shape::Nullable(shape) | Shape::Long(_, shape) => is_object(shape),
        _ => false,
    }
}
