//! The canonical form as JSON and YAML. A `$` is written `$$`, so that what is printed reads as what it was.

use serde_json::Value as Json;

use crate::tree::{Map, Node, Value};

/// Sections in the order of the YAML form.
const SECTIONS: [&str; 5] = ["services", "networks", "volumes", "secrets", "configs"];

/// `node` as JSON.
pub(crate) fn json(node: &Node, raw: bool) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => i64::try_from(*value)
            .map(Json::from)
            .or_else(|_| u64::try_from(*value).map(Json::from))
            .unwrap_or(Json::Null),
        Value::Float(value) => Json::from(*value),
        Value::Text(text) if raw => Json::from(text.as_str()),
        Value::Text(text) => Json::from(text.replace('$', "$$")),
        Value::List(list) => Json::Array(list.iter().map(|node| json(node, raw)).collect()),
        Value::Map(map) => {
            Json::Object(map.iter().map(|(key, node)| (key.clone(), json(node, raw))).collect())
        }
    }
}

/// The whole project. Some members are always there in the JSON form.
pub(crate) fn project_json(name: &str, tree: &Map, raw: bool) -> Json {
    let mut whole = serde_json::Map::new();
    whole.insert("name".to_owned(), Json::from(name));
    for (key, node) in tree {
        let mut section = json(node, raw);
        let members = section.as_object_mut().into_iter().flat_map(|map| map.values_mut());
        for member in members {
            match key.as_str() {
                "services" => complete_service(member),
                "networks" => always(member, "ipam", serde_json::json!({})),
                _ => {}
            }
        }
        whole.insert(key.clone(), section);
    }
    Json::Object(whole)
}

/// Members that a service always has in the JSON form.
pub(crate) fn complete_service(service: &mut Json) {
    always(service, "command", Json::Null);
    always(service, "entrypoint", Json::Null);
    if let Some(deploy) = service.get_mut("deploy") {
        always(deploy, "placement", serde_json::json!({}));
        always(deploy, "resources", serde_json::json!({}));
    }
    limits(service);
    if let Some(build) = service.get_mut("build") {
        limits(build);
    }
}

/// A limit of 0 is none in the JSON form.
fn limits(member: &mut Json) {
    let limits = member.get_mut("ulimits").and_then(Json::as_object_mut);
    for limit in limits.into_iter().flat_map(|map| map.values_mut()) {
        if let Some(map) = limit.as_object_mut() {
            map.retain(|_, value| value.as_i64() != Some(0));
        }
    }
}

/// Gives a mapping a member that it has not got.
pub(crate) fn always(member: &mut Json, key: &str, value: Json) {
    if let Some(map) = member.as_object_mut() {
        map.entry(key.to_owned()).or_insert(value);
    }
}

/// The whole project as YAML, in block style.
pub(crate) fn yaml(name: &str, tree: &Map, raw: bool) -> String {
    let mut text = format!("name: {}\n", scalar(name));
    let sections = SECTIONS.iter().filter_map(|key| tree.get_key_value(*key));
    let others = tree.iter().filter(|(key, _)| !SECTIONS.contains(&key.as_str()));
    for (key, node) in sections.chain(others) {
        text.push_str(&scalar(key));
        text.push(':');
        block(&json(node, raw), 1, &mut text);
    }
    text
}

/// What stands after a key or a dash, with its line end.
fn block(value: &Json, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Json::Object(map) if !map.is_empty() => {
            text.push('\n');
            for (key, value) in map {
                text.push_str(&indent);
                text.push_str(&scalar(key));
                text.push(':');
                block(value, depth + 1, text);
            }
        }
        Json::Array(list) if !list.is_empty() => {
            text.push('\n');
            for value in list {
                text.push_str(&indent);
                text.push('-');
                item(value, depth + 1, text);
            }
        }
        value => {
            text.push(' ');
            text.push_str(&flow(value));
            text.push('\n');
        }
    }
}

/// An item of a list: the first member of a mapping stands beside the dash.
fn item(value: &Json, depth: usize, text: &mut String) {
    let Json::Object(map) = value else { return block(value, depth, text) };
    if map.is_empty() {
        return block(value, depth, text);
    }
    let indent = "  ".repeat(depth);
    for (at, (key, value)) in map.iter().enumerate() {
        text.push_str(if at == 0 { " " } else { &indent });
        text.push_str(&scalar(key));
        text.push(':');
        block(value, depth + 1, text);
    }
}

fn flow(value: &Json) -> String {
    match value {
        Json::String(text) => scalar(text),
        Json::Array(_) => "[]".to_owned(),
        Json::Object(_) => "{}".to_owned(),
        Json::Null | Json::Bool(_) | Json::Number(_) => value.to_string(),
    }
}

/// A text that every YAML reader takes for a text: plain where nothing speaks against it, else in quotes.
fn scalar(text: &str) -> String {
    const WORDS: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '_'));
    let legal = |c: char| c.is_ascii_alphanumeric() || "_./@%+=$-".contains(c);
    if starts && text.chars().all(legal) && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word)) {
        return text.to_owned();
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
