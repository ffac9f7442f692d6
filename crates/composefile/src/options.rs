//! What is loaded and how: the way in.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::fault::{Fault, Kind};
use crate::host::Host;
use crate::load::{Environment, Loader, Setting};
use crate::name::project_name;
use crate::own::Own;
use crate::project::Project;
use crate::template::{self, Scope};
use crate::tree::{Map, Node, Value};
use crate::{consistency, normalise, schema, shape};

/// A Compose file.
#[derive(Debug, Clone)]
pub enum Source {
    /// A file; an absolute path.
    File(PathBuf),
    /// A text, from standard input.
    Text(String),
}

/// What to load.
#[derive(Debug)]
pub struct Options {
    /// The files, the later over the earlier.
    pub sources: Vec<Source>,
    /// Where relative paths begin; absolute.
    pub dir: PathBuf,
    /// The project's name, when the command line or the environment says it.
    pub name: Option<String>,
    /// Variables of the process.
    pub environment: Environment,
    /// Files of variables, absolute; `.env` in `dir` when `None` and it is there.
    pub env_files: Option<Vec<PathBuf>>,
    /// Enabled profiles; `*` is all.
    pub profiles: Vec<String>,
    /// Only these services and what they depend on; all when empty.
    pub services: Vec<String>,
    /// Services that are enabled whatever their profiles; a name that is none enables nothing.
    pub enabled: Vec<String>,
    /// Variables are filled in.
    pub interpolate: bool,
}

/// Reads a project.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn load(options: &Options, host: &dyn Host) -> Result<Project, Fault> {
    let own = Own::of(options, host);
    loaded(options, &own).map_err(|fault| own.without_words(fault))
}

fn loaded(options: &Options, own: &Own<'_>) -> Result<Project, Fault> {
    let mut loader = Loader::new(own, &options.environment);
    loader.raw = !options.interpolate;
    let mut environment =
        environment(&loader, &options.dir, options.env_files.as_deref(), &options.environment)?;
    let files = texts(&loader, options)?;
    let name = name(options, &files, &environment)?;
    environment.insert("COMPOSE_PROJECT_NAME".to_owned(), name.clone());
    let setting = Setting { dir: options.dir.clone(), environment: &environment, included_by: Vec::new() };
    let mut tree = loader.files(&files, &setting)?;
    if tree.is_empty() {
        return Err(Fault::of(Kind::Malformed, "the Compose file is empty"));
    }
    tree.remove("name");
    let place = crate::fault::Place::of_file("");
    tree.entry("services".to_owned()).or_insert_with(|| Node::new(Value::empty_map(), &place));
    consistency::check_each(&tree)?;
    let profiles = all_profiles(&tree);
    // Without variables nothing is known of what is enabled or used: all of it is shown.
    let disabled = if loader.raw { BTreeSet::new() } else { disable(&mut tree, options, &environment) };
    normalise::project(&loader, &mut tree, &name, &options.dir, &environment)?;
    let mut whole = Node::new(Value::Map(tree), &place);
    if !loader.raw {
        shape::prune(&mut whole, &schema::FILE);
    }
    let Value::Map(tree) = whole.value else {
        return Err(Fault::of(Kind::Malformed, "the Compose file is empty"));
    };
    let mut project = Project {
        name,
        tree,
        warnings: Vec::new(),
        variables: loader.variables.take().into_values().collect(),
        profiles,
        disabled,
        environment,
        files: loader.files.take(),
        raw: loader.raw,
    };
    // What others use is used, whatever is shown of them.
    if !loader.raw {
        project.drop_unused();
    }
    project.keep(&options.services)?;
    consistency::check(&project.tree, &project.disabled)?;
    project.warnings = loader.warnings.take();
    Ok(project)
}

/// The variables that files of variables have, below those outside: `.env` in `dir` when none are named and it is there.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn variables(
    dir: &Path,
    env_files: Option<&[PathBuf]>,
    outside: &Environment,
    host: &dyn Host,
) -> Result<Environment, Fault> {
    environment(&Loader::new(host, outside), dir, env_files, outside)
}

fn environment(
    loader: &Loader<'_>,
    dir: &Path,
    env_files: Option<&[PathBuf]>,
    outside: &Environment,
) -> Result<Environment, Fault> {
    let mut own = Environment::new();
    let files = match env_files {
        Some(files) => files.to_vec(),
        None => {
            let default = dir.join(".env");
            if loader.host.is_file(&default) { vec![default] } else { Vec::new() }
        }
    };
    for file in files {
        let mut known = own.clone();
        known.extend(outside.clone());
        own.extend(loader.env_file(&file, &known, None)?);
    }
    own.extend(outside.clone());
    Ok(own)
}

fn texts(loader: &Loader<'_>, options: &Options) -> Result<Vec<(PathBuf, String)>, Fault> {
    let read = |source: &Source| match source {
        Source::File(path) => Ok((path.clone(), loader.read(path, None)?)),
        Source::Text(text) => Ok((PathBuf::from("-"), text.clone())),
    };
    options.sources.iter().map(read).collect()
}

/// What is said outside, else the last `name:` of the files, else the folder's.
fn name(options: &Options, files: &[(PathBuf, String)], environment: &Environment) -> Result<String, Fault> {
    let said = options.name.clone().or_else(|| environment.get("COMPOSE_PROJECT_NAME").cloned());
    if let Some(said) = said.filter(|said| !said.is_empty()) {
        return match project_name(&said) {
            Some(name) if name == said => Ok(name),
            _ => {
                let what =
                    format!("`{said}` is no name of a project: lower case letters, digits, `-` and `_`");
                Err(Fault::of(Kind::Malformed, what))
            }
        };
    }
    let mut found = None;
    for (path, text) in files {
        for document in crate::yaml::documents(&path.display().to_string(), text)? {
            let Some(node) = document.at("name") else { continue };
            let Some(text) = node.as_text() else {
                return Err(node.fault("name", format!("must be a text, not {}", node.value.noun())));
            };
            let lookup = |name: &str| environment.get(name).cloned();
            let filled = template::substitute(text, &mut Scope { lookup: &lookup, unset: &mut |_| {} })
                .map_err(|fault| node.fault("name", fault.to_string()))?;
            found = Some((node.clone(), filled));
        }
    }
    if let Some((node, text)) = found {
        return project_name(&text)
            .ok_or_else(|| node.fault("name", format!("`{text}` is no name of a project")));
    }
    let dir = options.dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    project_name(&dir).ok_or_else(|| {
        Fault::of(Kind::Malformed, "the folder's name is no name of a project")
            .hint(Some("say --project-name".to_owned()))
    })
}

fn all_profiles(tree: &Map) -> BTreeSet<String> {
    let services = tree.get("services").and_then(Node::as_map).into_iter().flatten();
    let named = services.flat_map(|(_, service)| service.items("profiles"));
    named.filter_map(|profile| profile.as_text().map(str::to_owned)).collect()
}

/// Takes out the services that no enabled profile has. Naming one of these enables its profiles.
fn disable(tree: &mut Map, options: &Options, environment: &Environment) -> BTreeSet<String> {
    let mut enabled: BTreeSet<String> = options.profiles.iter().cloned().collect();
    if options.profiles.is_empty()
        && let Some(said) = environment.get("COMPOSE_PROFILES")
    {
        enabled.extend(said.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned));
    }
    let mut disabled = BTreeSet::new();
    let Some(services) = tree.get_mut("services").and_then(Node::as_map_mut) else { return disabled };
    let named = |name: &String| options.services.contains(name) || options.enabled.contains(name);
    let has_any = |service: &Node, enabled: &BTreeSet<String>| {
        let mut profiles = service.items("profiles").iter().filter_map(Node::as_text);
        service.items("profiles").is_empty()
            || enabled.contains("*")
            || profiles.any(|name| enabled.contains(name))
    };
    let by_name: Vec<String> = services
        .iter()
        .filter(|(name, service)| named(name) && !has_any(service, &enabled))
        .flat_map(|(_, service)| {
            service.items("profiles").iter().filter_map(Node::as_text).map(str::to_owned)
        })
        .collect();
    enabled.extend(by_name);
    services.retain(|name, service| {
        let keep = has_any(service, &enabled);
        if !keep {
            disabled.insert(name.clone());
        }
        keep
    });
    disabled
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    struct Nothing;

    impl Host for Nothing {
        fn read(&self, _path: &Path) -> io::Result<String> {
            Err(io::ErrorKind::NotFound.into())
        }

        fn is_file(&self, _path: &Path) -> bool {
            false
        }
    }

    /// Fails when naming a service leaves out the others, or one that a profile leaves out is forgotten.
    #[test]
    fn a_service_is_enabled_by_name_beside_the_others() {
        let text = "services: {web: {image: a}, debug: {image: a, profiles: [debug]}, \
                    test: {image: a, profiles: [test]}, mail: {image: a, profiles: [on], depends_on: [none]}}";
        let names = |enabled: &[&str], services: &[&str]| {
            let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            let options = Options {
                sources: vec![Source::Text(text.to_owned())],
                dir: PathBuf::from("/srv/shop"),
                name: Some("shop".to_owned()),
                environment: Environment::new(),
                env_files: Some(Vec::new()),
                profiles: Vec::new(),
                services: texts(services),
                enabled: texts(enabled),
                interpolate: true,
            };
            let project = load(&options, &Nothing).expect("a project");
            let disabled: Vec<String> = project.disabled.iter().cloned().collect();
            (project.service_names().join(" "), disabled.join(" "))
        };
        let pair = |one: &str, other: &str| (one.to_owned(), other.to_owned());
        assert_eq!(names(&[], &[]), pair("web", "debug mail test"));
        assert_eq!(names(&["debug", "nowhere"], &[]), pair("debug web", "mail test"));
        assert_eq!(names(&[], &["test"]), pair("test", "debug mail"));
    }
}
