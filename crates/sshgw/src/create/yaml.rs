//! YAML text to a small tree in which every value knows its place. No aliases, nothing deep, nothing large.

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

/// Longest text.
pub(super) const TEXT_BYTES: u64 = 256 << 10;

/// Most values, and the deepest of them.
const NODES: usize = 10_000;
const DEPTH: usize = 8;

/// What is wrong, and where; both from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) message: String,
}

/// Where something is; both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    line: usize,
    column: usize,
}

impl Place {
    pub(super) fn fault(self, message: impl Into<String>) -> Fault {
        Fault { line: self.line, column: self.column, message: message.into() }
    }
}

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// What it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// Nothing.
    Null,
    /// A text, or a number or word without quotes.
    Scalar(String),
    /// The name of a file that has the text: `!include NAME`.
    Include(String),
    List,
    /// Keys with their own places, in their order.
    Map(Vec<(String, Place, Node)>),
}

impl Value {
    /// For messages.
    pub(super) const fn noun(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Scalar(_) => "a single value",
            Self::Include(_) => "a file",
            Self::List => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// The one document of a text; `None` when there is nothing in it.
pub(super) fn document(text: &str) -> Result<Option<Node>, Fault> {
    let mut options = granit_parser::Options::default();
    options.set_emit_comments(false);
    options.flow_nesting_limit = DEPTH;
    options.block_nesting_limit = DEPTH;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader { events: Parser::new_from_str_with_options(text, options), nodes: 0 };
    let mut document = None;
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::DocumentStart(..) if document.is_some() => {
                return Err(place(&span).fault("a second document"));
            }
            Event::DocumentStart(..) => {
                let (event, span) = reader.next()?;
                document = Some(reader.node(event, &span, 0)?);
            }
            Event::StreamEnd => return Ok(document),
            _ => {}
        }
    }
}

struct Reader<'t> {
    events: Parser<'t, granit_parser::StrInput<'t>>,
    nodes: usize,
}

fn place(span: &Span) -> Place {
    Place { line: span.start.line(), column: span.start.col() + 1 }
}

fn malformed(error: &ScanError) -> Fault {
    let marker = error.marker();
    let place = Place { line: marker.line(), column: marker.col() + 1 };
    place.fault(format!("malformed YAML: {}", error.info()))
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), Fault> {
        match self.events.next() {
            Some(event) => event.map_err(|error| malformed(&error)),
            None => Err(Place { line: 1, column: 1 }.fault("the text ends too early")),
        }
    }

    fn node(&mut self, event: Event<'t>, span: &Span, depth: usize) -> Result<Node, Fault> {
        let place = place(span);
        self.nodes += 1;
        if self.nodes > NODES || depth > DEPTH {
            return Err(place.fault("there is too much of it"));
        }
        let value = match event {
            Event::Scalar(text, style, anchor, tag) => {
                unnamed(anchor, place)?;
                scalar(&text, style == ScalarStyle::Plain, tag.as_deref(), place)?
            }
            Event::SequenceStart(_, anchor, _) => {
                unnamed(anchor, place)?;
                self.skip(depth)?;
                Value::List
            }
            Event::MappingStart(_, anchor, _) => {
                unnamed(anchor, place)?;
                Value::Map(self.map(depth)?)
            }
            Event::Alias(_) => return Err(place.fault("aliases are not read here")),
            _ => return Err(place.fault("malformed YAML")),
        };
        Ok(Node { place, value })
    }

    /// Reads a list, of which nothing is kept: nothing here is one.
    fn skip(&mut self, depth: usize) -> Result<(), Fault> {
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(());
            }
            self.node(event, &span, depth + 1)?;
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<(String, Place, Node)>, Fault> {
        let mut map: Vec<(String, Place, Node)> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(map);
            }
            let key = self.node(event, &span, depth + 1)?;
            let (Value::Scalar(name), at) = (key.value, key.place) else {
                return Err(key.place.fault("a key is a text"));
            };
            if map.iter().any(|(known, ..)| *known == name) {
                return Err(at.fault(format!("`{}` is there twice", shown(&name))));
            }
            let (event, span) = self.next()?;
            let value = self.node(event, &span, depth + 1)?;
            map.push((name, at, value));
        }
    }
}

/// An anchor names something for an alias, which is not read.
fn unnamed(anchor: usize, place: Place) -> Result<(), Fault> {
    if anchor == 0 { Ok(()) } else { Err(place.fault("anchors are not read here")) }
}

fn scalar(text: &str, is_plain: bool, tag: Option<&Tag>, place: Place) -> Result<Value, Fault> {
    match tag {
        Some(tag) if tag.handle() == "!" && tag.suffix() == "include" => {
            return Ok(Value::Include(text.trim().to_owned()));
        }
        Some(tag) if tag.handle() == "!" => {
            return Err(place.fault(format!("unknown tag !{}", shown(tag.suffix()))));
        }
        _ => {}
    }
    if is_plain && matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return Ok(Value::Null);
    }
    // The older spelling of both.
    let named = text.strip_prefix("!include ").or_else(|| text.strip_prefix("<@"));
    Ok(match named {
        Some(name) => Value::Include(name.trim().to_owned()),
        None => Value::Scalar(text.to_owned()),
    })
}

/// A stranger's word in a message.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(48).flat_map(char::escape_debug).collect()
}
