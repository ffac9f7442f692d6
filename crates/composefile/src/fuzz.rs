//! Every reader of what a Compose file says, one function each: fed by a fuzzer, and with the committed corpus by a
//! test. A function returns for whatever it is given, in time and memory that the input bounds.
//!
//! No part of the product.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path as FilePath, PathBuf};

use crate::fault::{Fault, Place};
use crate::shape::Path;
use crate::template::Scope;
use crate::tree::{Map, Node, Value};
use crate::{Environment, Host, Options, Source, dotenv, forms, load, merge, schema, shape, template, yaml};

/// What a fuzzer calls.
pub type Target = fn(&[u8]);

/// What the names of all targets begin with.
pub const PREFIX: &str = "compose_";

/// Names, as folders of the corpus and binaries of the fuzzer have them, and functions.
pub const TARGETS: &[(&str, Target)] = &[
    ("compose_dotenv", variables),
    ("compose_load", project),
    ("compose_merge", merged),
    ("compose_mounts", mounts),
    ("compose_ports", ports),
    ("compose_template", text),
    ("compose_yaml", tree),
];

/// Feeds one input to a target.
///
/// # Panics
/// When there is no such target, or the input has found a fault.
pub fn run(target: &str, data: &[u8]) {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    let (_, function) = found.expect("the name is one of the table");
    function(data);
}

/// Between the parts of an input that has several, alone in its line; what follows it is the part's name.
const MARK: &str = "=== ";

/// Parts of an input by their names; the first has none.
fn parts(input: &str) -> Vec<(&str, String)> {
    let mut parts = vec![("", String::new())];
    for line in input.split_inclusive('\n') {
        match (line.strip_prefix(MARK), parts.last_mut()) {
            (Some(name), _) => parts.push((name.trim_end(), String::new())),
            (None, Some((_, text))) => text.push_str(line),
            (None, None) => {}
        }
    }
    parts
}

fn is_said(fault: &Fault) {
    assert!(!fault.what.is_empty() && !fault.to_string().is_empty());
}

/// A few variables: one with a value, one that is empty, one that refers to another.
fn outside() -> Environment {
    [("A", "a value"), ("E", ""), ("R", "$A ${E:-x}"), ("N", "8080")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

fn variables(data: &[u8]) {
    let Ok(input) = std::str::from_utf8(data) else { return };
    let outside = outside();
    let lookup = |name: &str| outside.get(name).cloned();
    match dotenv::parse(input, &mut Scope { lookup: &lookup, unset: &mut |_| {} }) {
        Ok(variables) => {
            assert!(variables.iter().all(|(name, _)| !name.contains([' ', '\n', '='])), "{variables:?}");
        }
        Err(fault) => assert!(fault.line > 0 && !fault.what.is_empty(), "{fault}"),
    }
}

/// A text without `$` is what it was, and no variable is in what has none.
fn text(data: &[u8]) {
    let Ok(input) = std::str::from_utf8(data) else { return };
    let outside = outside();
    let lookup = |name: &str| outside.get(name).cloned();
    let mut listed = Vec::new();
    template::variables(input, &mut |variable| listed.push(variable.name));
    let mut unset = Vec::new();
    let made = template::substitute(
        input,
        &mut Scope { lookup: &lookup, unset: &mut |name| unset.push(name.to_owned()) },
    );
    match made {
        Ok(made) => {
            assert!(input.contains('$') || (made == input && listed.is_empty()));
            assert!(unset.iter().all(|name| listed.contains(name)), "{unset:?} of {listed:?}");
        }
        Err(fault) => assert!(!fault.to_string().is_empty()),
    }
}

fn tree(data: &[u8]) {
    let Ok(input) = std::str::from_utf8(data) else { return };
    match yaml::documents("compose.yaml", input) {
        Ok(documents) => drop(documents.iter().map(Node::weight).sum::<usize>()),
        Err(fault) => is_said(&fault),
    }
}

/// Lines as a list of texts.
fn lines(input: &str) -> Node {
    let place = Place::of_file("compose.yaml");
    Node::new(Value::List(input.lines().map(|line| Node::text(line, &place)).collect()), &place)
}

/// What becomes of short forms is a form that stays as it is.
fn stays(node: &mut Node, form: impl Fn(&mut Node, &Path<'_>) -> Result<(), Fault>) {
    let root = Path::root("services");
    if let Err(fault) = form(node, &root) {
        return is_said(&fault);
    }
    let once = node.clone();
    form(node, &root).expect("the long form is a form");
    assert_eq!(*node, once);
}

fn ports(data: &[u8]) {
    let Ok(input) = std::str::from_utf8(data) else { return };
    stays(&mut lines(input), forms::ports);
}

fn mounts(data: &[u8]) {
    let Ok(input) = std::str::from_utf8(data) else { return };
    for mut mount in lines(input).into_list() {
        stays(&mut mount, forms::mount);
    }
}

/// Two documents, the second over the first. Nothing over a project is that project.
fn merged(data: &[u8]) {
    let Ok(input) = std::str::from_utf8(data) else { return };
    let mut whole = Map::new();
    for (_, part) in parts(input) {
        let Ok(documents) = yaml::documents("compose.yaml", &part) else { return };
        for mut document in documents {
            if let Err(fault) = shape::check(&mut document, &schema::FILE, &Path::root(""), false) {
                return is_said(&fault);
            }
            let Value::Map(map) = document.value else { continue };
            merge::merge_maps(&mut whole, map);
        }
    }
    let printed = format!("{whole:?}");
    merge::merge_maps(&mut whole, Map::new());
    assert_eq!(format!("{whole:?}"), printed);
}

/// Files by their names, below one folder.
struct Files(BTreeMap<PathBuf, String>);

impl Host for Files {
    fn read(&self, path: &FilePath) -> io::Result<String> {
        self.0.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn is_file(&self, path: &FilePath) -> bool {
        self.0.contains_key(path)
    }
}

/// A project of several files. What is printed of it is read again, when nothing stands in the way.
fn project(data: &[u8]) {
    let Ok(input) = std::str::from_utf8(data) else { return };
    let dir = PathBuf::from("/srv/shop");
    let files = parts(input).into_iter().map(|(name, text)| {
        let name = if name.is_empty() { "compose.yaml" } else { name };
        (dir.join(name), text)
    });
    let files = Files(files.collect());
    let named = ["compose.yaml", "compose.override.yaml"].map(|name| dir.join(name));
    let options = Options {
        sources: named.into_iter().filter(|path| files.is_file(path)).map(Source::File).collect(),
        dir,
        name: Some("shop".to_owned()),
        environment: outside(),
        env_files: None,
        profiles: vec!["*".to_owned()],
        services: Vec::new(),
        enabled: Vec::new(),
        interpolate: true,
    };
    match load(&options, &files) {
        Ok(project) => {
            assert!(project.warnings.iter().all(|line| !line.contains('\n')), "{:?}", project.warnings);
            let (printed, json) = (project.yaml(), project.json().to_string());
            let _hashes = project.hashes(&["*"]).expect("all of them are there");
            assert!(!printed.is_empty() && !json.is_empty());
            yaml::documents("printed.yaml", &printed).expect("what is printed is YAML");
        }
        Err(fault) => is_said(&fault),
    }
}
