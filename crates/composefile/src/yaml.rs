//! YAML text to trees: anchors and `<<` resolved, duplicate keys refused, everything bounded.
//!
//! An alias stands for a copy of what it names, so that documents of a few lines could grow without end; what is
//! made is counted, and a document that grows past the bound is refused.

use std::collections::HashMap;
use std::sync::Arc;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag as YamlTag};

use crate::fault::{Fault, Kind, Place};
use crate::scalar;
use crate::tree::{Map, Node, Tag, Value};

/// Longest file. The largest Compose files in use have some 100 kB.
pub const MAX_FILE_BYTES: usize = 4 << 20;

/// Most nodes of one file, aliases counted as what they stand for.
const MAX_NODES: usize = 200_000;

/// Deepest nesting.
const MAX_DEPTH: usize = 64;

/// The documents in `text`.
///
/// # Errors
/// Malformed YAML, a duplicate key, a key that is no scalar, an unknown alias, a document that is too large.
pub(crate) fn documents(name: &str, text: &str) -> Result<Vec<Node>, Fault> {
    if text.len() > MAX_FILE_BYTES {
        let what = format!("longer than {} MiB", MAX_FILE_BYTES >> 20);
        return Err(Fault::at(&Place::of_file(name), "", what).kind(Kind::TooLarge));
    }
    let mut options = granit_parser::Options::default();
    options.set_emit_comments(false);
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let events = Parser::new_from_str_with_options(text, options);
    let mut reader = Reader { events, file: name.into(), anchors: HashMap::new(), nodes: 0 };
    let mut documents = Vec::new();
    while let Some((event, span)) = reader.next()? {
        match event {
            Event::DocumentStart(..) => {
                reader.anchors.clear();
                let (event, span) = reader.more(&span)?;
                documents.push(reader.node(event, &span, 0)?);
            }
            Event::StreamEnd => break,
            _ => {}
        }
    }
    Ok(documents)
}

struct Reader<'t> {
    events: Parser<'t, granit_parser::StrInput<'t>>,
    file: Arc<str>,
    anchors: HashMap<usize, Anchor>,
    nodes: usize,
}

/// What an alias stands for.
struct Anchor {
    node: Node,
    nodes: usize,
    height: usize,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<Option<(Event<'t>, Span)>, Fault> {
        self.events.next().transpose().map_err(|error| self.scan_fault(&error))
    }

    /// The next event, of which there must be one.
    fn more(&mut self, span: &Span) -> Result<(Event<'t>, Span), Fault> {
        match self.next()? {
            Some(event) => Ok(event),
            None => Err(Fault::at(&self.place(span), "", "the document ends too early")),
        }
    }

    fn scan_fault(&self, error: &ScanError) -> Fault {
        let marker = error.marker();
        let place = self.place_of(marker.line(), marker.col());
        Fault::at(&place, "", format!("malformed YAML: {}", error.info()))
    }

    fn place(&self, span: &Span) -> Place {
        self.place_of(span.start.line(), span.start.col())
    }

    fn place_of(&self, line: usize, column: usize) -> Place {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Place { file: Arc::clone(&self.file), line: number(line), column: number(column + 1) }
    }

    /// The node that begins with `event`.
    fn node(&mut self, event: Event<'t>, span: &Span, depth: usize) -> Result<Node, Fault> {
        let place = self.place(span);
        self.count(1, depth, &place)?;
        let before = self.nodes - 1;
        let (anchor, node) = match event {
            Event::Alias(id) => return self.alias(id, depth, &place),
            Event::Scalar(text, style, anchor, tag) => {
                let value =
                    scalar_value(&text, style, tag.as_deref()).map_err(|what| Fault::at(&place, "", what))?;
                (anchor, Node { value, tag: merge_tag(tag.as_deref()), place: place.clone() })
            }
            Event::SequenceStart(_, anchor, tag) => {
                let value = Value::List(self.list(span, depth)?);
                (anchor, Node { value, tag: merge_tag(tag.as_deref()), place: place.clone() })
            }
            Event::MappingStart(_, anchor, tag) => {
                let value = Value::Map(self.map(span, depth)?);
                (anchor, Node { value, tag: merge_tag(tag.as_deref()), place: place.clone() })
            }
            _ => return Err(Fault::at(&place, "", "malformed YAML")),
        };
        if anchor != 0 {
            let anchored = Anchor { height: height(&node), nodes: self.nodes - before, node: node.clone() };
            self.count(anchored.nodes, depth, &place)?;
            self.anchors.insert(anchor, anchored);
        }
        Ok(node)
    }

    fn alias(&mut self, id: usize, depth: usize, place: &Place) -> Result<Node, Fault> {
        let inside = || Fault::at(place, "", "an alias stands inside what it names");
        let (nodes, height) =
            self.anchors.get(&id).map(|anchor| (anchor.nodes, anchor.height)).ok_or_else(inside)?;
        // Counted before it is made.
        self.count(nodes, depth + height, place)?;
        self.anchors.get(&id).map(|anchor| anchor.node.clone()).ok_or_else(inside)
    }

    fn list(&mut self, span: &Span, depth: usize) -> Result<Vec<Node>, Fault> {
        let mut list = Vec::new();
        loop {
            let (event, span) = self.more(span)?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(list);
            }
            list.push(self.node(event, &span, depth + 1)?);
        }
    }

    fn map(&mut self, span: &Span, depth: usize) -> Result<Map, Fault> {
        let mut map = Map::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.more(span)?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let is_plain = matches!(event, Event::Scalar(_, ScalarStyle::Plain, ..));
            let place = self.place(&span);
            let key = self.node(event, &span, depth + 1)?;
            let Value::Text(key) = key.value else {
                let what = format!("a key must be a text, not {}", key.value.noun());
                return Err(Fault::at(&place, "", what).hint(Some("write it in quotes".to_owned())));
            };
            let (event, span) = self.more(&span)?;
            let mut value = self.node(event, &span, depth + 1)?;
            if key == "<<" && is_plain {
                merged.push((place, value));
                continue;
            }
            value.place = place;
            if let Some(first) = map.get(&key) {
                let what = format!("the key is there already, in line {}", first.place.line);
                return Err(Fault::at(&value.place, &key, what));
            }
            map.insert(key, value);
        }
        for (place, value) in merged {
            merge_into(&mut map, value, &place)?;
        }
        Ok(map)
    }

    /// Counts nodes that are made.
    fn count(&mut self, nodes: usize, depth: usize, place: &Place) -> Result<(), Fault> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            let what = format!("more than {MAX_NODES} values, aliases counted as what they stand for");
            return Err(Fault::at(place, "", what).kind(Kind::TooLarge));
        }
        if depth > MAX_DEPTH {
            let what = format!("nested more than {MAX_DEPTH} deep");
            return Err(Fault::at(place, "", what).kind(Kind::TooLarge));
        }
        Ok(())
    }
}

fn height(node: &Node) -> usize {
    match &node.value {
        Value::List(list) => 1 + list.iter().map(height).max().unwrap_or_default(),
        Value::Map(map) => 1 + map.values().map(height).max().unwrap_or_default(),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => 0,
    }
}

/// `<<`: what the mapping does not say itself comes from the merged ones, the first of them first.
fn merge_into(map: &mut Map, value: Node, place: &Place) -> Result<(), Fault> {
    match value.value {
        Value::Map(members) => {
            for (key, node) in members {
                map.entry(key).or_insert(node);
            }
            Ok(())
        }
        Value::List(list) if list.iter().all(|node| node.as_map().is_some()) => {
            list.into_iter().try_for_each(|node| merge_into(map, node, place))
        }
        _ => Err(Fault::at(place, "<<", "merges mappings only")),
    }
}

fn merge_tag(tag: Option<&YamlTag>) -> Tag {
    match tag {
        Some(tag) if tag.handle() == "!" && tag.suffix() == "reset" => Tag::Reset,
        Some(tag) if tag.handle() == "!" && tag.suffix() == "override" => Tag::Override,
        _ => Tag::Plain,
    }
}

fn scalar_value(text: &str, style: ScalarStyle, tag: Option<&YamlTag>) -> Result<Value, String> {
    let core = tag.filter(|tag| tag.handle() == "tag:yaml.org,2002:").map(YamlTag::suffix);
    let read = || scalar::plain(text);
    let wrong = |noun: &str| Err(format!("`{text}` is not {noun}"));
    match core {
        Some("str") => Ok(Value::Text(text.to_owned())),
        Some("null") => Ok(Value::Null),
        Some("int") => match read() {
            Value::Int(number) => Ok(Value::Int(number)),
            _ => wrong("a whole number"),
        },
        Some("float") => match read() {
            #[expect(clippy::cast_precision_loss, reason = "the tag asks for it")]
            Value::Int(number) => Ok(Value::Float(number as f64)),
            Value::Float(number) => Ok(Value::Float(number)),
            _ => wrong("a number"),
        },
        Some("bool") => match read() {
            Value::Bool(value) => Ok(Value::Bool(value)),
            _ => wrong("a truth value"),
        },
        _ if style == ScalarStyle::Plain => Ok(read()),
        _ => Ok(Value::Text(text.to_owned())),
    }
}

#[cfg(test)]
mod tests;
