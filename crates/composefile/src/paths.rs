//! Relative paths, which begin where the file says them.

use std::path::{Path, PathBuf};

use crate::forms::clean;
use crate::tree::{Map, Node, Value};

/// `path` from `dir`; `~` is `home`.
pub(crate) fn absolute(path: &str, dir: &Path, home: Option<&str>) -> PathBuf {
    PathBuf::from(absolute_text(path, dir, home))
}

/// The same as a text. An absolute path stays as it is written.
fn absolute_text(path: &str, dir: &Path, home: Option<&str>) -> String {
    let below_home = path.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/'));
    match (below_home, home) {
        (Some(rest), Some(home)) => clean(&format!("{home}{rest}")),
        _ if path.starts_with('/') => path.to_owned(),
        _ => clean(&format!("{}/{path}", dir.display())),
    }
}

/// A path that is one: no drive of Windows and nothing that interpolation would fill in.
fn set(map: &mut Map, key: &str, dir: &Path, home: Option<&str>) {
    if let Some(node) = map.get_mut(key)
        && let Some(text) =
            node.as_text().filter(|text| !text.is_empty() && !is_drive(text) && !text.contains('$'))
    {
        node.value = Value::Text(absolute_text(text, dir, home));
    }
}

fn is_drive(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.get(1) == Some(&b':') && matches!(bytes.get(2), Some(b'\\' | b'/')) || text.starts_with("\\\\")
}

/// What a build reads from another place than a folder.
fn is_remote(context: &str) -> bool {
    let schemes = ["https://", "http://", "git://", "ssh://", "github.com/", "git@", "oci://"];
    schemes.iter().any(|scheme| context.starts_with(scheme))
}

/// Every service of a file.
pub(crate) fn of_services(services: &mut Node, dir: &Path, home: Option<&str>) {
    for service in services.as_map_mut().into_iter().flat_map(Map::values_mut) {
        of_service(service, dir, home);
    }
}

/// The paths of one service.
pub(crate) fn of_service(service: &mut Node, dir: &Path, home: Option<&str>) {
    let Some(map) = service.as_map_mut() else { return };
    if let Some(build) = map.get_mut("build").and_then(Node::as_map_mut) {
        of_build(build, dir, home);
    }
    for (key, member) in [("env_file", "path"), ("volumes", "source")] {
        let Some(Value::List(list)) = map.get_mut(key).map(|node| &mut node.value) else { continue };
        for item in list {
            let is_bind = key != "volumes" || item.text_at("type") == Some("bind");
            if let Some(map) = item.as_map_mut().filter(|_| is_bind) {
                set(map, member, dir, home);
            }
        }
    }
    if let Some(Value::List(list)) = map.get_mut("label_file").map(|node| &mut node.value) {
        for item in list {
            if let Some(text) = item.as_text() {
                item.value = Value::Text(absolute_text(text, dir, home));
            }
        }
    }
    let watches = map.get_mut("develop").and_then(Node::as_map_mut).and_then(|map| map.get_mut("watch"));
    if let Some(Value::List(list)) = watches.map(|node| &mut node.value) {
        list.iter_mut().filter_map(Node::as_map_mut).for_each(|map| set(map, "path", dir, home));
    }
}

fn of_build(build: &mut Map, dir: &Path, home: Option<&str>) {
    let remote = |node: Option<&Node>| node.and_then(Node::as_text).is_some_and(is_remote);
    if !remote(build.get("context")) {
        set(build, "context", dir, home);
    }
    for node in build.get_mut("ssh").and_then(Node::as_map_mut).into_iter().flat_map(Map::values_mut) {
        if let Some(text) = node.as_text().filter(|text| !text.is_empty()) {
            node.value = Value::Text(absolute_text(text, dir, home));
        }
    }
    for node in
        build.get_mut("additional_contexts").and_then(Node::as_map_mut).into_iter().flat_map(Map::values_mut)
    {
        let Some(text) = node.as_text() else { continue };
        if !text.contains("://") && !text.starts_with("service:") && !is_remote(text) {
            node.value = Value::Text(absolute_text(text, dir, home));
        }
    }
}

/// The files of secrets and configs, and the folders that local volumes are.
pub(crate) fn of_files(document: &mut Node, dir: &Path, home: Option<&str>) {
    let Some(map) = document.as_map_mut() else { return };
    for section in ["secrets", "configs"] {
        let members = map.get_mut(section).and_then(Node::as_map_mut);
        for member in members.into_iter().flat_map(Map::values_mut).filter_map(Node::as_map_mut) {
            set(member, "file", dir, home);
        }
    }
    for volume in map.get_mut("volumes").and_then(Node::as_map_mut).into_iter().flat_map(Map::values_mut) {
        let is_local = volume.text_at("driver") == Some("local");
        let options = volume.as_map_mut().and_then(|map| map.get_mut("driver_opts"));
        let Some(options) = options.filter(|options| is_local && options.text_at("o") == Some("bind")) else {
            continue;
        };
        let device = options.as_map_mut().and_then(|map| map.get_mut("device"));
        if let Some((device, text)) = device.and_then(|node| Some((node.as_text()?.to_owned(), node))) {
            text.value = Value::Text(absolute_text(&device, dir, home));
        }
    }
}
