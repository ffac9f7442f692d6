//! `include`: the resources of another project beside one's own.

use std::path::{Path as FilePath, PathBuf};

use crate::fault::{Fault, Kind};
use crate::load::{Environment, Loader, Setting};
use crate::merge;
use crate::paths;
use crate::tree::{Map, Node, Value};

/// Deepest chain of files that include one another.
const MAX_DEPTH: usize = 16;

/// What one entry of `include` says.
struct Include {
    files: Vec<PathBuf>,
    dir: PathBuf,
    env_files: Option<Vec<PathBuf>>,
}

/// What the files of `includes` hold, beside `own`.
///
/// # Errors
/// A file that cannot be read or includes itself, a resource that both sides define differently.
pub(crate) fn resolve(
    loader: &Loader<'_>,
    file: &FilePath,
    includes: &Node,
    own: Map,
    setting: &Setting<'_>,
) -> Result<Map, Fault> {
    let Some(entries) = includes.as_list() else {
        return Err(includes.fault("include", format!("must be a list, not {}", includes.value.noun())));
    };
    let mut whole = own;
    for (at, entry) in entries.iter().enumerate() {
        let path = format!("include[{at}]");
        let include = entry_of(loader, entry, &path, setting)?;
        let mut included_by = setting.included_by.clone();
        included_by.push(file.to_path_buf());
        if let Some(again) = include.files.iter().find(|file| included_by.contains(file)) {
            return Err(entry.fault(&path, format!("{} includes itself", again.display())));
        }
        if included_by.len() > MAX_DEPTH {
            let what = format!("files include one another more than {MAX_DEPTH} deep");
            return Err(entry.fault(&path, what).kind(Kind::TooLarge));
        }
        let mut texts = Vec::new();
        for file in &include.files {
            texts.push((file.clone(), loader.read(file, Some((&entry.place, &path)))?));
        }
        let environment = environment(loader, &include, entry, &path, setting)?;
        let inner = Setting { dir: include.dir, environment: &environment, included_by };
        let imported = loader.files(&texts, &inner)?;
        import(&mut whole, imported, entry)?;
    }
    Ok(whole)
}

fn entry_of(loader: &Loader<'_>, entry: &Node, path: &str, setting: &Setting<'_>) -> Result<Include, Fault> {
    let texts = |node: Option<&Node>, key: &str| -> Result<Vec<String>, Fault> {
        let nodes = node.cloned().map(Node::into_list).unwrap_or_default();
        let texts = nodes.iter().map(|node| {
            let fault =
                || node.fault(&format!("{path}.{key}"), format!("must be a text, not {}", node.value.noun()));
            node.as_text().map(str::to_owned).ok_or_else(fault)
        });
        texts.collect()
    };
    let absolute = |text: &String| paths::absolute(text, &setting.dir, loader.home.as_deref());
    let names = match &entry.value {
        Value::Text(text) => vec![text.clone()],
        Value::Map(map) => {
            let known = ["path", "project_directory", "env_file"];
            if let Some((key, node)) = map.iter().find(|(key, _)| !known.contains(&key.as_str())) {
                return Err(node.fault(&format!("{path}.{key}"), "there is no such key"));
            }
            texts(map.get("path"), "path")?
        }
        _ => return Err(entry.fault(path, "must be a text or a mapping")),
    };
    let files: Vec<PathBuf> = names.iter().map(absolute).collect();
    let Some(first) = files.first() else { return Err(entry.fault(path, "has no `path`")) };
    let dir = match texts(entry.at("project_directory"), "project_directory")?.first() {
        Some(dir) => absolute(dir),
        None => first.parent().map(FilePath::to_path_buf).unwrap_or_default(),
    };
    let env_files = match entry.at("env_file") {
        Some(node) => Some(texts(Some(node), "env_file")?.iter().map(absolute).collect()),
        None => None,
    };
    Ok(Include { files, dir, env_files })
}

/// What is set outside wins over the included project's own `.env`.
fn environment(
    loader: &Loader<'_>,
    include: &Include,
    entry: &Node,
    path: &str,
    setting: &Setting<'_>,
) -> Result<Environment, Fault> {
    let mut environment = setting.environment.clone();
    let files = match &include.env_files {
        Some(files) => files.clone(),
        None => {
            let default = include.dir.join(".env");
            if loader.host.is_file(&default) { vec![default] } else { Vec::new() }
        }
    };
    let mut own = Environment::new();
    for file in files {
        own.extend(loader.env_file(&file, setting.environment, Some((&entry.place, path)))?);
    }
    for (name, value) in own {
        environment.entry(name).or_insert(value);
    }
    Ok(environment)
}

/// Takes over what is not there. The same thing twice is no conflict.
fn import(whole: &mut Map, imported: Map, entry: &Node) -> Result<(), Fault> {
    for section in ["services", "networks", "volumes", "secrets", "configs"] {
        let Some(Node { value: Value::Map(members), place, .. }) = imported.get(section).cloned() else {
            continue;
        };
        let target = whole.entry(section.to_owned()).or_insert_with(|| Node::new(Value::empty_map(), &place));
        if target.value == Value::Null {
            target.value = Value::empty_map();
        }
        let Some(target) = target.as_map_mut() else { continue };
        for (name, node) in members {
            let node = merge::settled(node);
            match target.get(&name) {
                Some(own) if merge::settled(own.clone()) == node => {}
                Some(own) => {
                    let what = format!(
                        "is defined in {} too, which is included in line {}",
                        node.place, entry.place.line
                    );
                    return Err(own.fault(&format!("{section}.{name}"), what));
                }
                None => {
                    target.insert(name, node);
                }
            }
        }
    }
    Ok(())
}
