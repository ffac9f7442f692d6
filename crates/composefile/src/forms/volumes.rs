//! Mounts: `[SOURCE:]TARGET[:OPTIONS]`.

use crate::fault::Fault;
use crate::shape::Path;
use crate::tree::{Map, Node, Value};

/// A short form becomes a mount; the target is cleaned.
pub(crate) fn mount(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    if let Some(text) = node.as_text() {
        if text.contains("$") {
            return Ok(());
        }
        let mount = short(text).map_err(|what| node.fault(&path.to_string(), format!("`{text}`: {what}")))?;
        node.value = Value::Map(mount.map(node));
    }
    let Some(map) = node.as_map_mut() else { return Ok(()) };
    let missing = ["type", "target"].into_iter().find(|key| !map.contains_key(*key));
    if let Some(missing) = missing {
        return Err(node.fault(&path.to_string(), format!("has no `{missing}`")));
    }
    if let Some(target) = map.get_mut("target")
        && let Some(text) = target.as_text().filter(|text| !text.is_empty())
    {
        target.value = Value::Text(clean(text));
    }
    Ok(())
}

struct Mount {
    kind: &'static str,
    /// More than two characters: the canonical form of anything shorter has no `volume`.
    long: bool,
    source: Option<String>,
    target: String,
    read_only: bool,
    nocopy: bool,
    propagation: Option<String>,
    selinux: Option<String>,
}

impl Mount {
    fn map(self, node: &Node) -> Map {
        let text = |text: String| Node::text(text, &node.place);
        let truth = || Node::new(Value::Bool(true), &node.place);
        let mut map = Map::from([
            ("type".to_owned(), text(self.kind.to_owned())),
            ("target".to_owned(), text(self.target)),
        ]);
        map.extend(self.source.map(|source| ("source".to_owned(), text(source))));
        if self.read_only {
            map.insert("read_only".to_owned(), truth());
        }
        let mut bind = Map::new();
        bind.extend(self.propagation.map(|mode| ("propagation".to_owned(), text(mode))));
        bind.extend(self.selinux.map(|mode| ("selinux".to_owned(), text(mode))));
        if self.kind == "bind" {
            bind.insert("create_host_path".to_owned(), truth());
        }
        if !bind.is_empty() {
            map.insert("bind".to_owned(), Node::new(Value::Map(bind), &node.place));
        }
        let mut volume = Map::new();
        if self.nocopy {
            volume.insert("nocopy".to_owned(), truth());
        }
        if self.nocopy || (self.kind == "volume" && self.long) {
            map.insert("volume".to_owned(), Node::new(Value::Map(volume), &node.place));
        }
        map
    }
}

fn short(text: &str) -> Result<Mount, &'static str> {
    let parts = split(text);
    if text.is_empty() {
        return Err("is empty");
    }
    if parts.len() > 1 && parts.iter().any(String::is_empty) {
        return Err("nothing stands between two colons");
    }
    let (source, target, options) = match parts.as_slice() {
        [target] => (None, target, ""),
        [source, target] => (Some(source.clone()), target, ""),
        [source, target, options] => (Some(source.clone()), target, options.as_str()),
        _ => return Err("too many colons"),
    };
    let kind = if source.as_deref().is_some_and(is_path) { "bind" } else { "volume" };
    let mut mount = Mount {
        kind,
        long: text.len() > 2,
        source,
        target: target.clone(),
        read_only: false,
        nocopy: false,
        propagation: None,
        selinux: None,
    };
    for option in options.split(',') {
        match option {
            "ro" => mount.read_only = true,
            "rw" => mount.read_only = false,
            "nocopy" => mount.nocopy = true,
            "z" | "Z" => mount.selinux = Some(option.to_owned()),
            "shared" | "slave" | "private" | "rshared" | "rslave" | "rprivate" => {
                mount.propagation = Some(option.to_owned());
            }
            _ => {}
        }
    }
    Ok(mount)
}

/// The parts between colons. A single letter before a colon is a drive, as on Windows: `C:\x` is one part.
fn split(text: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    let mut drive = false;
    for part in text.split(':') {
        match parts.last_mut() {
            Some(last) if drive => {
                last.push(':');
                last.push_str(part);
                drive = false;
            }
            _ => {
                drive = part.len() == 1 && part.starts_with(|c: char| c.is_ascii_alphabetic());
                parts.push(part.to_owned());
            }
        }
    }
    parts
}

fn is_path(source: &str) -> bool {
    let drive = source.as_bytes().get(1) == Some(&b':');
    source.starts_with(['.', '/', '~']) || drive
}

/// A path without `.`, `..` and double slashes, by its text alone.
pub(crate) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut steps: Vec<&str> = Vec::new();
    for step in path.split('/') {
        match step {
            "" | "." => {}
            ".." if steps.last().is_some_and(|last| *last != "..") => {
                steps.pop();
            }
            ".." if rooted => {}
            step => steps.push(step),
        }
    }
    let joined = steps.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}
