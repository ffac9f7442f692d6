//! From files to one tree: `include`, interpolation, checks, `extends`, merging, in the order in which they happen.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path as FilePath, PathBuf};
use std::{cell::RefCell, io};

use crate::fault::{Fault, Kind, Place};
use crate::host::Host;
use crate::shape::{self, Path, Step};
use crate::template::{self, Scope, Variable};
use crate::tree::{Map, Node, Value, text_weight};
use crate::{dotenv, extends, forms, include, merge, paths, schema, yaml};

/// Values of one port in its long form.
const PORT_WEIGHT: usize = 5;

/// Most bytes that interpolation adds to a project.
const MAX_GROWTH: usize = 16 << 20;

/// Most files of one project.
const MAX_FILES: usize = 1_000;

/// Most that a project comes to: nodes of its files and of what `extends` copies, each with its text by [`Node::weight`].
const MAX_WEIGHT: usize = 1_000_000;

/// Most warnings that are kept.
const MAX_WARNINGS: usize = 1_000;

/// Most variables that a project names, and so that are listed.
const MAX_VARIABLES: usize = 20_000;

/// Variables and their values.
pub type Environment = BTreeMap<String, String>;

/// What loading one project shares.
pub(crate) struct Loader<'h> {
    pub(crate) host: &'h dyn Host,
    /// Texts stay as they are, with their `$`.
    pub(crate) raw: bool,
    /// Of the person who reads them.
    pub(crate) home: Option<String>,
    pub(crate) warnings: RefCell<Vec<String>>,
    /// The same, to be found.
    pub(crate) warned: RefCell<BTreeSet<String>>,
    /// By name.
    pub(crate) variables: RefCell<BTreeMap<String, Variable>>,
    pub(crate) read: RefCell<usize>,
    /// Files that were read.
    pub(crate) files: RefCell<BTreeSet<PathBuf>>,
    pub(crate) grown: RefCell<usize>,
    /// What was made so far, against [`MAX_WEIGHT`].
    pub(crate) made: RefCell<usize>,
}

/// Where a file is read: what its paths and variables refer to, and what reads it.
pub(crate) struct Setting<'s> {
    /// Relative paths begin here.
    pub(crate) dir: PathBuf,
    pub(crate) environment: &'s Environment,
    /// Files that include this one, outermost first.
    pub(crate) included_by: Vec<PathBuf>,
}

impl<'h> Loader<'h> {
    /// One that has read nothing yet.
    pub(crate) fn new(host: &'h dyn Host, outside: &Environment) -> Loader<'h> {
        Loader {
            host,
            raw: false,
            home: outside.get("HOME").cloned(),
            warnings: RefCell::default(),
            warned: RefCell::default(),
            variables: RefCell::default(),
            read: RefCell::default(),
            files: RefCell::default(),
            grown: RefCell::default(),
            made: RefCell::default(),
        }
    }

    /// A line for people, once.
    pub(crate) fn warn(&self, line: String) {
        let mut warnings = self.warnings.borrow_mut();
        if warnings.len() < MAX_WARNINGS && self.warned.borrow_mut().insert(line.clone()) {
            warnings.push(line);
        }
    }

    /// Counts what is about to be made.
    pub(crate) fn make(&self, weight: usize, place: &Place, path: &str) -> Result<(), Fault> {
        let mut made = self.made.borrow_mut();
        *made = made.saturating_add(weight);
        if *made > MAX_WEIGHT {
            let what = format!("the project comes to more than {MAX_WEIGHT} values");
            return Err(Fault::at(place, path, what).kind(Kind::TooLarge));
        }
        Ok(())
    }

    /// The text of a file, with what is wrong said in one line.
    pub(crate) fn read(&self, path: &FilePath, asked: Option<(&Place, &str)>) -> Result<String, Fault> {
        *self.read.borrow_mut() += 1;
        let fault = |kind, what: String| Fault {
            kind,
            place: asked.map(|(place, _)| place.clone()),
            path: asked.map(|(_, path)| path.to_owned()).unwrap_or_default(),
            what,
            hint: None,
        };
        if *self.read.borrow() > MAX_FILES {
            return Err(fault(Kind::TooLarge, format!("the project has more than {MAX_FILES} files")));
        }
        self.files.borrow_mut().insert(path.to_owned());
        self.host.read(path).map_err(|error| {
            let kind = if error.kind() == io::ErrorKind::NotFound { Kind::Missing } else { Kind::Unreadable };
            let why = if kind == Kind::Missing { "no such file".to_owned() } else { error.to_string() };
            // What a file names by an address is looked for below its folder.
            let is_address =
                path.components().any(|part| part.as_os_str().as_encoded_bytes().ends_with(b":"));
            let hint =
                is_address.then(|| "files are read from this machine only, not from addresses".to_owned());
            fault(kind, format!("cannot read {}: {why}", path.display())).hint(hint)
        })
    }

    /// The files as one tree in canonical form with absolute paths.
    pub(crate) fn files(&self, files: &[(PathBuf, String)], setting: &Setting<'_>) -> Result<Map, Fault> {
        let mut whole = Map::new();
        for (path, text) in files {
            let documents = yaml::documents(&path.display().to_string(), text)?;
            for mut document in documents {
                lone_texts(&mut document, &whole)?;
                let tree = self.document(path, document, setting)?;
                merge::merge_maps(&mut whole, tree);
            }
        }
        Ok(whole)
    }

    /// One document, ready to be merged.
    fn document(&self, file: &FilePath, mut node: Node, setting: &Setting<'_>) -> Result<Map, Fault> {
        if node.value == Value::Null {
            return Ok(Map::new());
        }
        self.prepare(&mut node, setting)?;
        extends::resolve(self, file, &mut node, setting)?;
        if let Some(services) = node.as_map_mut().and_then(|map| map.get_mut("services")) {
            paths::of_services(services, &setting.dir, self.home.as_deref());
        }
        paths::of_files(&mut node, &setting.dir, self.home.as_deref());
        let Value::Map(mut map) = node.value else { return Ok(Map::new()) };
        if let Some(version) = map.remove("version") {
            self.warn(format!("{}: version: is obsolete and means nothing", version.place));
        }
        match map.remove("include") {
            Some(includes) => include::resolve(self, file, &includes, map, setting),
            None => Ok(map),
        }
    }

    /// Interpolates a document and brings it into canonical form.
    pub(crate) fn prepare(&self, node: &mut Node, setting: &Setting<'_>) -> Result<(), Fault> {
        let root = Path::root("");
        if node.as_map().is_none() {
            return Err(node.fault("", "a Compose file is a mapping"));
        }
        self.make(node.weight(), &node.place, "")?;
        self.interpolate(node, &root, setting.environment)?;
        external_names(node, self);
        self.ranges(node)?;
        shape::check(node, &schema::FILE, &root, self.raw)?;
        service_names(node)
    }

    /// Counts what ranges of ports stand for, before it is made.
    fn ranges(&self, node: &Node) -> Result<(), Fault> {
        for (name, service) in node.members("services") {
            for item in service.items("ports") {
                let ports = item.as_word().map_or(0, |text| forms::length(&text));
                self.make(ports * PORT_WEIGHT, &item.place, &format!("services.{name}.ports"))?;
            }
        }
        Ok(())
    }

    fn interpolate(&self, node: &mut Node, path: &Path<'_>, environment: &Environment) -> Result<(), Fault> {
        let place = node.place.clone();
        match &mut node.value {
            Value::Text(text) => self.interpolate_text(text, path, &place, environment),
            Value::List(list) => list
                .iter_mut()
                .enumerate()
                .try_for_each(|(at, node)| self.interpolate(node, &path.item(at), environment)),
            Value::Map(map) => {
                map.iter_mut().try_for_each(|(key, node)| self.interpolate(node, &path.key(key), environment))
            }
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => Ok(()),
        }
    }

    fn interpolate_text(
        &self,
        text: &mut String,
        path: &Path<'_>,
        place: &Place,
        environment: &Environment,
    ) -> Result<(), Fault> {
        if !text.contains('$') {
            return Ok(());
        }
        self.list(text, path, place)?;
        if self.raw {
            return Ok(());
        }
        let lookup = |name: &str| environment.get(name).cloned();
        let mut unset = |name: &str| self.warn(format!("the variable {name} is not set: it is empty"));
        let made = template::substitute(text, &mut Scope { lookup: &lookup, unset: &mut unset })
            .map_err(|fault| Fault::at(place, &path.to_string(), fault.to_string()))?;
        let mut grown = self.grown.borrow_mut();
        *grown = grown.saturating_add(made.len());
        if *grown > MAX_GROWTH {
            let what = format!("interpolation makes more than {} MiB", MAX_GROWTH >> 20);
            return Err(Fault::at(place, &path.to_string(), what).kind(Kind::TooLarge));
        }
        *text = made;
        Ok(())
    }

    /// Enters the variables that a text names.
    fn list(&self, text: &str, path: &Path<'_>, place: &Place) -> Result<(), Fault> {
        let mut known = self.variables.borrow_mut();
        template::variables(text, &mut |variable| {
            if let Some(one) = known.get_mut(&variable.name) {
                one.join(variable);
            } else if known.len() <= MAX_VARIABLES {
                // One more than there may be is enough to tell.
                known.insert(variable.name.clone(), variable);
            }
        });
        if known.len() > MAX_VARIABLES {
            let what = format!("the project names more than {MAX_VARIABLES} variables");
            return Err(Fault::at(place, &path.to_string(), what).kind(Kind::TooLarge));
        }
        Ok(())
    }

    /// The variables of a `.env` file, below those there are.
    pub(crate) fn env_file(
        &self,
        path: &FilePath,
        outside: &Environment,
        asked: Option<(&Place, &str)>,
    ) -> Result<Environment, Fault> {
        let text = self.read(path, asked)?;
        let lookup = |name: &str| outside.get(name).cloned();
        let is_own = self.host.is_own(path);
        let mut unset = |name: &str| {
            self.warn(if is_own {
                format!("the variable {name} is not set: it is empty")
            } else {
                format!("{}: a variable is not set: it is empty", path.display())
            });
        };
        let variables = dotenv::parse(&text, &mut Scope { lookup: &lookup, unset: &mut unset });
        let variables = variables.map_err(|fault| {
            let place = Place { file: path.display().to_string().into(), line: fault.line, column: 1 };
            Fault::at(&place, "", fault.what)
        })?;
        let weights = variables.iter().map(|(name, value)| 1 + text_weight(name) + text_weight(value));
        self.make(weights.sum(), &Place::of_file(&path.display().to_string()), "")?;
        Ok(variables.into_iter().collect())
    }
}

/// A text over a list: for a few keys it is one more item, and for one a contradiction.
fn lone_texts(document: &mut Node, below: &Map) -> Result<(), Fault> {
    let Some(services) = document.as_map_mut().and_then(|map| map.get_mut("services")?.as_map_mut()) else {
        return Ok(());
    };
    for (name, service) in services {
        let Some(base) = below.get("services").and_then(|services| services.at(name)) else { continue };
        for key in ["dns_opt", "extra_hosts", "gpus"] {
            let listed = base.at(key).is_some_and(|old| old.as_list().is_some());
            let node = service.as_map_mut().and_then(|map| map.get_mut(key));
            let Some(node) = node.filter(|node| listed && node.as_text().is_some()) else { continue };
            if key == "gpus" {
                return Err(node.fault(&format!("services.{name}.gpus"), "a text cannot stand over a list"));
            }
            node.value = Value::List(vec![node.clone()]);
        }
    }
    Ok(())
}

/// `external: {name: N}` of old files.
fn external_names(node: &mut Node, loader: &Loader<'_>) {
    let Some(map) = node.as_map_mut() else { return };
    for section in ["networks", "volumes", "secrets", "configs"] {
        let Some(members) = map.get_mut(section).and_then(Node::as_map_mut) else { continue };
        for (name, node) in members {
            let Some(member) = node.as_map_mut() else { continue };
            let Some(external) = member.get_mut("external").filter(|external| external.as_map().is_some())
            else {
                continue;
            };
            let said = external.at("name").cloned();
            loader.warn(format!(
                "{}: {section}.{name}.external: write `external: true` and `name`",
                external.place
            ));
            external.value = Value::Bool(true);
            if let Some(said) = said {
                member.insert("name".to_owned(), said);
            }
        }
    }
}

fn service_names(node: &Node) -> Result<(), Fault> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let root = Path::root("");
    for section in ["services", "networks", "volumes", "secrets", "configs"] {
        for (name, node) in node.members(section) {
            if name.is_empty() || !name.chars().all(legal) {
                let path = Path { parent: Some(&root), step: Step::Key(section) };
                return Err(node.fault(
                    &path.key(name).to_string(),
                    "a name has letters, digits, `.`, `_` and `-` only",
                ));
            }
        }
    }
    Ok(())
}
