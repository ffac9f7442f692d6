//! `extends`: a service on the base of another one, of this file or of another.

use std::path::{Path as FilePath, PathBuf};

use crate::fault::{Fault, Kind};
use crate::load::{Loader, Setting};
use crate::tree::{Map, Node, Tag, Value};
use crate::{merge, paths, yaml};

/// Longest chain of bases.
const MAX_CHAIN: usize = 32;

/// Most services that all chains of a file pass through together.
const MAX_STEPS: usize = 10_000;

/// Gives every service of a document what its bases say.
///
/// # Errors
/// A base that is not there, one that is its own base, a file that cannot be read.
pub(crate) fn resolve(
    loader: &Loader<'_>,
    file: &FilePath,
    document: &mut Node,
    setting: &Setting<'_>,
) -> Result<(), Fault> {
    let Some(services) = document.at("services").and_then(Node::as_map) else { return Ok(()) };
    let extending: Vec<String> = services
        .iter()
        .filter(|(_, node)| node.at("extends").is_some())
        .map(|(name, _)| name.clone())
        .collect();
    let mut resolved = Vec::with_capacity(extending.len());
    let mut steps = 0;
    for name in &extending {
        let mut chain = Vec::new();
        resolved.push(service(loader, file, services, name, setting, &mut chain, &mut steps)?);
    }
    let Some(services) =
        document.as_map_mut().and_then(|map| map.get_mut("services")).and_then(Node::as_map_mut)
    else {
        return Ok(());
    };
    for (name, node) in extending.into_iter().zip(resolved) {
        services.insert(name, node);
    }
    Ok(())
}

/// One service with what its bases say.
fn service(
    loader: &Loader<'_>,
    file: &FilePath,
    services: &Map,
    name: &str,
    setting: &Setting<'_>,
    chain: &mut Vec<(PathBuf, String)>,
    steps: &mut usize,
) -> Result<Node, Fault> {
    let Some(node) = services.get(name) else {
        return Err(Fault::of(Kind::Malformed, format!("{}: there is no service {name}", file.display())));
    };
    // Counted before it is copied.
    loader.make(node.weight(), &node.place, &format!("services.{name}"))?;
    let Some(extends) = node.at("extends") else { return Ok(node.clone()) };
    let path = format!("services.{name}.extends");
    let here = (file.to_path_buf(), name.to_owned());
    if chain.contains(&here) {
        let names: Vec<&str> = chain.iter().map(|(_, name)| name.as_str()).chain([name]).collect();
        return Err(extends.fault(&path, format!("a service extends itself: {}", names.join(" -> "))));
    }
    chain.push(here);
    *steps += 1;
    if chain.len() > MAX_CHAIN || *steps > MAX_STEPS {
        let what = format!("a chain of more than {MAX_CHAIN} services, or {MAX_STEPS} in all");
        return Err(extends.fault(&path, what).kind(Kind::TooLarge));
    }
    let base_name = extends.as_text().or_else(|| extends.text_at("service"));
    let Some(base_name) = base_name else { return Err(extends.fault(&path, "has no `service`")) };
    let missing = |file: &str| extends.fault(&path, format!("there is no service {base_name} in {file}"));
    let mut base = match extends.text_at("file") {
        None if services.contains_key(base_name) => {
            service(loader, file, services, base_name, setting, chain, steps)?
        }
        None => return Err(missing("this file")),
        Some(other) => {
            let other_path = paths::absolute(other, &setting.dir, loader.home.as_deref());
            let (tree, setting) = other_file(loader, &other_path, extends, &path, setting)?;
            let Some(services) =
                tree.at("services").and_then(Node::as_map).filter(|map| map.contains_key(base_name))
            else {
                return Err(missing(other));
            };
            let mut base = service(loader, &other_path, services, base_name, &setting, chain, steps)?;
            paths::of_service(&mut base, &setting.dir, loader.home.as_deref());
            base
        }
    };
    chain.pop();
    let mut own = node.clone();
    if let Some(map) = own.as_map_mut() {
        map.remove("extends");
    }
    if let (Value::Map(base), Value::Map(own)) = (&mut base.value, own.value) {
        // What the base takes back it takes back from earlier files, not from whoever stands on it.
        base.retain(|_, node| node.tag != Tag::Reset);
        merge::merge_maps(base, own);
    }
    base.place = own.place;
    Ok(base)
}

fn other_file<'s>(
    loader: &Loader<'_>,
    file: &FilePath,
    extends: &Node,
    path: &str,
    setting: &'s Setting<'s>,
) -> Result<(Node, Setting<'s>), Fault> {
    let text = loader.read(file, Some((&extends.place, path)))?;
    let dir = file.parent().map(FilePath::to_path_buf).unwrap_or_default();
    let setting = Setting { dir, environment: setting.environment, included_by: setting.included_by.clone() };
    let documents = yaml::documents(&file.display().to_string(), &text)?;
    let Some(mut tree) = documents.into_iter().next() else {
        return Err(extends.fault(path, format!("{} is empty", file.display())));
    };
    loader.prepare(&mut tree, &setting)?;
    Ok((tree, setting))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::{Environment, Host, Options, Source, load};

    struct Nothing;

    impl Host for Nothing {
        fn read(&self, _path: &FilePath) -> io::Result<String> {
            Err(io::ErrorKind::NotFound.into())
        }

        fn is_file(&self, _path: &FilePath) -> bool {
            false
        }
    }

    fn loaded(text: String) -> Result<usize, Fault> {
        let options = Options {
            sources: vec![Source::Text(text)],
            dir: PathBuf::from("/p"),
            name: Some("p".to_owned()),
            environment: Environment::new(),
            env_files: Some(Vec::new()),
            profiles: Vec::new(),
            services: Vec::new(),
            enabled: Vec::new(),
            interpolate: true,
        };
        load(&options, &Nothing).map(|project| project.services().count())
    }

    /// Fails when a small file takes memory without end: many services on one base that is large, by values or by text.
    #[test]
    fn what_bases_are_copied_to_is_counted() {
        let many: String = (0..5_000).map(|n| format!("      V{n}: x\n")).collect();
        let long = format!("      V: {}\n", "x".repeat(1 << 20));
        for base in [many, long] {
            let file = |count: usize| {
                let others: String =
                    (0..count).map(|n| format!("  s{n}: {{extends: {{service: base}}}}\n")).collect();
                format!("services:\n  base:\n    image: x\n    environment:\n{base}{others}")
            };
            assert_eq!(loaded(file(20)).expect("small"), 21);
            let fault = loaded(file(300)).expect_err("large");
            assert_eq!(fault.kind, Kind::TooLarge);
            assert!(fault.to_string().contains("the project comes to more than 1000000 values"), "{fault}");
        }
    }
}
