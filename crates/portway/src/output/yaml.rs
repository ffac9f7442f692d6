//! A small writer of YAML 1.2 block style, careful enough that YAML 1.1 readers see the same values.
//!
//! Fields come in the order of the type that is printed.

use std::fmt::{self, Write as _};

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// `value` as a document that ends in a line end.
///
/// # Errors
/// When `value` is not one that JSON can hold.
pub(crate) fn document(value: &(impl Serialize + ?Sized)) -> Result<String, serde_json::Error> {
    let node: Node = serde_json::from_str(&serde_json::to_string(value)?)?;
    let mut text = String::new();
    if node.is_block() {
        block(&node, 0, &mut text);
    } else {
        text.push_str(&flow(&node));
        text.push('\n');
    }
    Ok(text)
}

/// A JSON value that keeps the order of its fields.
enum Node {
    /// Null, a boolean or a number, as printed.
    Bare(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    /// Whether it takes lines of its own.
    fn is_block(&self) -> bool {
        match self {
            Node::List(list) => !list.is_empty(),
            Node::Map(map) => !map.is_empty(),
            Node::Bare(_) | Node::Text(_) => false,
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Bare("null".to_owned()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bare(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Bare(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Bare(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Bare(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = seq.next_element()? {
            list.push(node);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Node::Map(pairs))
    }
}

/// Writes a map or a list that has entries, each on lines of its own, `depth` levels in.
fn block(node: &Node, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match node {
        Node::Map(map) => {
            for (key, value) in map {
                text.push_str(&indent);
                text.push_str(&scalar(key));
                if value.is_block() {
                    text.push_str(":\n");
                    block(value, depth + 1, text);
                } else {
                    // Writing to a String cannot fail.
                    let _infallible = writeln!(text, ": {}", flow(value));
                }
            }
        }
        Node::List(list) => {
            for value in list {
                text.push_str(&indent);
                text.push_str("- ");
                if value.is_block() {
                    // The first line stands beside the dash.
                    let mut inner = String::new();
                    block(value, depth + 1, &mut inner);
                    text.push_str(inner.trim_start_matches(' '));
                } else {
                    text.push_str(&flow(value));
                    text.push('\n');
                }
            }
        }
        Node::Bare(_) | Node::Text(_) => {}
    }
}

/// A value that fits behind its key.
fn flow(node: &Node) -> String {
    match node {
        Node::Bare(text) => text.clone(),
        Node::Text(text) => scalar(text),
        Node::List(_) => "[]".to_owned(),
        Node::Map(_) => "{}".to_owned(),
    }
}

/// `text` as a plain scalar where no reader can take it for something else, else quoted.
pub(crate) fn scalar(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        // Control characters, line separators and the byte order mark are not printable in YAML 1.2, 5.1.
        let escaped = c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}');
        let _infallible = match c {
            '"' => quoted.write_str("\\\""),
            '\\' => quoted.write_str("\\\\"),
            c if escaped => write!(quoted, "\\u{:04x}", u32::from(c)),
            c => quoted.write_char(c),
        };
    }
    quoted.push('"');
    quoted
}

fn is_plain(text: &str) -> bool {
    // What YAML 1.1 readers take for booleans and nothing, in any case.
    const WORDS: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '_'));
    let legal = |c: char| c.is_ascii_alphanumeric() || "_./@%+=:[]()-,".contains(c);
    // Words joined by single blanks are plain too: a sentence need not be quoted.
    let words =
        text.split(' ').all(|word| !word.is_empty() && word.chars().all(legal) && !word.ends_with(':'));
    starts_well && words && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests;
