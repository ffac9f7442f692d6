//! The tree of a document: YAML values with the place each was read at.

use std::collections::BTreeMap;

use crate::fault::{Fault, Place};
use crate::scalar;

/// A mapping. Where the order of the file matters, the places of its nodes tell it.
pub type Map = BTreeMap<String, Node>;

/// What a document says of merging, besides the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tag {
    /// Nothing: it merges by the rules of its key.
    #[default]
    Plain,
    /// Nothing, and it came from an item of a list: no path names it, so no later `!reset` finds it.
    Listed,
    /// `!reset`: what earlier files said is dropped, and so is this.
    Reset,
    /// `!override`: it replaces what earlier files said.
    Override,
}

/// A value and its place. A member of a mapping has the place of its key.
#[derive(Debug, Clone)]
pub struct Node {
    /// What it is.
    pub value: Value,
    /// Where it stands.
    pub place: Place,
    /// How it merges.
    pub tag: Tag,
}

/// A YAML value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Any other number.
    Float(f64),
    /// A text.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping.
    Map(Map),
}

/// Values are compared without their places.
impl PartialEq for Node {
    fn eq(&self, other: &Node) -> bool {
        self.value == other.value
    }
}

impl Node {
    /// A plain node.
    pub fn new(value: Value, place: &Place) -> Node {
        Node { value, place: place.clone(), tag: Tag::Plain }
    }

    /// A text.
    pub fn text(text: impl Into<String>, place: &Place) -> Node {
        Node::new(Value::Text(text.into()), place)
    }

    /// What it is as a text.
    pub fn as_text(&self) -> Option<&str> {
        if let Value::Text(text) = &self.value { Some(text) } else { None }
    }

    /// What it is as a mapping.
    pub fn as_map(&self) -> Option<&Map> {
        if let Value::Map(map) = &self.value { Some(map) } else { None }
    }

    /// The same, to change it.
    pub fn as_map_mut(&mut self) -> Option<&mut Map> {
        if let Value::Map(map) = &mut self.value { Some(map) } else { None }
    }

    /// What it is as a list.
    pub fn as_list(&self) -> Option<&[Node]> {
        if let Value::List(list) = &self.value { Some(list) } else { None }
    }

    /// Its member of that name, when it is a mapping.
    pub fn at(&self, key: &str) -> Option<&Node> {
        self.as_map()?.get(key)
    }

    /// The same as a text.
    pub fn text_at(&self, key: &str) -> Option<&str> {
        self.at(key)?.as_text()
    }

    /// Whether the member of that name is true.
    pub fn is_true_at(&self, key: &str) -> bool {
        self.at(key).is_some_and(|node| node.value == Value::Bool(true))
    }

    /// The members of the mapping under that name; none when there is no such mapping.
    pub fn members(&self, key: &str) -> impl Iterator<Item = (&String, &Node)> {
        self.at(key).and_then(Node::as_map).into_iter().flatten()
    }

    /// The items of the list under that name; none when there is no such list.
    pub fn items(&self, key: &str) -> &[Node] {
        self.at(key).and_then(Node::as_list).unwrap_or_default()
    }

    /// Sets a member of a mapping that is not there. Anything but a mapping stays as it is.
    pub fn default_at(&mut self, key: &str, value: Value) {
        let place = self.place.clone();
        if let Some(map) = self.as_map_mut() {
            map.entry(key.to_owned()).or_insert_with(|| Node::new(value, &place));
        }
    }

    /// The list it is, or itself as the only item of one.
    pub fn into_list(self) -> Vec<Node> {
        match self.value {
            Value::List(list) => list,
            Value::Null => Vec::new(),
            Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::Map(_) => vec![self],
        }
    }

    /// A scalar as text, the way Compose writes it where a text is wanted; `None` for nothing and for collections.
    pub fn as_word(&self) -> Option<String> {
        match &self.value {
            Value::Bool(value) => Some(value.to_string()),
            Value::Int(value) => Some(value.to_string()),
            Value::Float(value) => Some(scalar::float_text(*value)),
            Value::Text(text) => Some(text.clone()),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// What it takes up: one for each value in it, and one more for each 64 bytes of text.
    pub(crate) fn weight(&self) -> usize {
        1 + match &self.value {
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => 0,
            Value::Text(text) => text_weight(text),
            Value::List(list) => list.iter().map(Node::weight).sum(),
            Value::Map(map) => map.iter().map(|(key, node)| text_weight(key) + node.weight()).sum(),
        }
    }

    /// A malformed node.
    pub fn fault(&self, path: &str, what: impl Into<String>) -> Fault {
        Fault::at(&self.place, path, what)
    }
}

/// What a text takes up besides the value it is.
pub(crate) fn text_weight(text: &str) -> usize {
    text.len() / 64
}

impl Value {
    /// A mapping without members.
    pub fn empty_map() -> Value {
        Value::Map(Map::new())
    }

    /// What it is, in the words of a message.
    pub fn noun(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Bool(_) => "a truth value",
            Value::Int(_) => "a whole number",
            Value::Float(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}
