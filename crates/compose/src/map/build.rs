//! What is built, and how an image that was built here runs.

use std::path::{Path, PathBuf};

use portway_composefile::tree::{Map, Node, Value};
use portway_composefile::{Fault, Project};

use super::{Work, labels, plain, refused};
use crate::build::{Build, Config, Dockerfile, HealthConfig, Secret, SecretSource};
use crate::want::Keys;

/// What the names of built images begin with at the server.
const ALIASES: &str = "portway";

/// What the file calls the image of a service, or what it is called where the file does not.
pub(super) fn image_name(project: &Project, service: &str, node: &Node) -> String {
    match node.text_at("image").filter(|image| !image.is_empty()) {
        Some(image) => image.to_owned(),
        // Builders take small letters only.
        None => format!("{}-{service}", project.name).to_lowercase(),
    }
}

/// Paths of the host that builds read.
pub(super) fn sources(project: &Project) -> impl Iterator<Item = PathBuf> + use<'_> {
    project.services().filter_map(|(_, service)| service.at("build")).flat_map(|build| {
        let context = build.text_at("context").filter(|context| context.starts_with('/'));
        let dockerfile = context.and_then(|context| dockerfile(context, build));
        let more = build.members("additional_contexts").filter_map(|(_, node)| node.as_text());
        let more = more.filter(|path| path.starts_with('/')).map(PathBuf::from);
        context.map(PathBuf::from).into_iter().chain(dockerfile).chain(more).collect::<Vec<_>>()
    })
}

/// Whether a context is somewhere else, for the builder to fetch. What the loader has left as it is and is none of these is
/// a path that begins nobody knows where.
fn is_address(context: &str) -> bool {
    // What begins with a dash would be an option.
    let is_named = ["git@", "github.com/"].iter().any(|prefix| context.starts_with(prefix));
    is_named || context.contains("://") && !context.starts_with('-')
}

/// The file of instructions, where one is named.
fn dockerfile(context: &str, build: &Node) -> Option<PathBuf> {
    Some(Path::new(context).join(build.text_at("dockerfile")?))
}

impl Work<'_> {
    /// Notes what is built, before the services that run it are looked at.
    pub(super) fn builds(&mut self) -> Result<(), Fault> {
        for (service, node) in self.project.services() {
            let Some(said) = node.at("build") else { continue };
            let path = format!("services.{service}.build");
            let name = image_name(self.project, service, node);
            if name.starts_with('-') || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
                return Err(refused(
                    said,
                    &path,
                    format!("`{}` is no name of an image", name.escape_debug()),
                ));
            }
            let mut build = self.build(service, said, &path)?;
            build.is_named = node.text_at("image").is_some_and(|image| !image.is_empty());
            build.alias = format!("{ALIASES}/{}/{name}", self.project.name);
            build.name.clone_from(&name);
            if self.want.builds.get(&name).is_some_and(|other| *other != build) {
                let what = format!("another service builds `{name}` in another way");
                return Err(refused(said, &path, what));
            }
            self.want.builds.insert(name, build);
        }
        Ok(())
    }

    fn build(&mut self, service: &str, said: &Node, path: &str) -> Result<Build, Fault> {
        let text = |key: &str| said.at(key).map(|node| plain(node, &format!("{path}.{key}"))).transpose();
        let mut own_labels = Keys::new();
        if let Some(node) = said.at("labels") {
            labels(node, "", &format!("{path}.labels"), &mut own_labels)?;
        }
        let context = text("context")?.unwrap_or_default();
        let is_here = context.starts_with('/');
        let context = if is_here {
            self.read_here(service, said, &context)
        } else if !is_address(&context) {
            let what = format!("`{context}` is neither a path nor an address");
            return Err(refused(said, &format!("{path}.context"), what));
        } else {
            self.privilege(service, said, format!("build what is at {context}"));
            context
        };
        let dockerfile = match (said.text_at("dockerfile_inline"), said.text_at("dockerfile")) {
            (Some(text), _) => Dockerfile::Inline(text.to_owned()),
            (None, Some(_)) if is_here => {
                let file = said.text_at("context").and_then(|context| dockerfile(context, said));
                let file = file.unwrap_or_default().display().to_string();
                Dockerfile::File(self.read_here(service, said, &file).into())
            }
            (None, Some(file)) if file.starts_with('/') => {
                let what = format!("`{file}` is a path of this machine, and the context is elsewhere");
                return Err(refused(said, &format!("{path}.dockerfile"), what));
            }
            // As the loader has it where nothing is said.
            (None, None | Some("Dockerfile")) => Dockerfile::Usual,
            (None, Some(file)) => Dockerfile::File(file.into()),
        };
        let network = text("network")?;
        match network.as_deref() {
            None | Some("none" | "default" | "private" | "bridge") => {}
            // The host's, or somebody's by a path or a container's name.
            Some(other) => self.privilege(service, said, format!("build with the network {other}")),
        }
        let platform = match said.items("platforms") {
            [] => None,
            [one] => Some(plain(one, &format!("{path}.platforms"))?),
            [_, more, ..] => {
                let what = "an instance is of one platform: name one";
                return Err(refused(more, &format!("{path}.platforms"), what));
            }
        };
        let tags: Result<Vec<String>, Fault> =
            said.items("tags").iter().map(|tag| plain(tag, &format!("{path}.tags"))).collect();
        let tags = tags?;
        for tag in &tags {
            // Other builds may begin with what has that name.
            self.privilege(service, said, format!("name what is built {tag} on this machine"));
        }
        Ok(Build {
            context,
            dockerfile,
            args: arguments(said, path)?,
            secrets: self.build_secrets(service, said, path)?,
            labels: own_labels,
            network,
            platform,
            tags,
            target: text("target")?,
            no_cache: said.is_true_at("no_cache"),
            pull: said.is_true_at("pull"),
            more: self.passed_on(service, said, path)?,
            ..Build::default()
        })
    }

    /// Where a path of the host leads; out of the project's folder is a privilege.
    fn read_here(&mut self, service: &str, node: &Node, path: &str) -> String {
        let (real, is_inside) = self.real(path);
        if !is_inside {
            self.privilege(
                service,
                node,
                format!("build from {real}, which is outside of the project's folder"),
            );
        }
        real
    }

    /// Arguments that every builder knows.
    fn passed_on(&mut self, service: &str, said: &Node, path: &str) -> Result<Vec<String>, Fault> {
        let mut words = Vec::new();
        for node in said.items("extra_hosts") {
            let host = plain(node, &format!("{path}.extra_hosts"))?;
            words.push(format!("--add-host={}", host.replacen('=', ":", 1)));
        }
        for (name, node) in said.members("additional_contexts") {
            let path = format!("{path}.additional_contexts.{name}");
            // A builder takes what stands before the first `=` for the name.
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:@".contains(c)) {
                let what = format!("`{}` is no name of a context", name.escape_debug());
                return Err(refused(node, &path, what));
            }
            let from = plain(node, &path)?;
            let from = if from.starts_with('/') {
                self.read_here(service, node, &from)
            } else if !is_address(&from) && !from.starts_with("service:") {
                return Err(refused(node, &path, format!("`{from}` is neither a path nor an address")));
            } else if from.starts_with("service:") {
                return Err(refused(node, &path, "a build from the image of a service cannot be had"));
            } else {
                self.privilege(service, node, format!("build with what is at {from}"));
                from
            };
            words.push(format!("--build-context={name}={from}"));
        }
        if let Some(node) = said.at("shm_size") {
            words.push(format!("--shm-size={}", plain(node, &format!("{path}.shm_size"))?));
        }
        for (name, node) in said.members("ulimits") {
            let one = |node: Option<&Node>| node.and_then(Node::as_word).unwrap_or_default();
            let limit = match node.as_map() {
                Some(map) => format!("{}:{}", one(map.get("soft")), one(map.get("hard"))),
                None => one(Some(node)),
            };
            words.push(format!("--ulimit={name}={limit}"));
        }
        match words.iter().find(|word| word.contains(['\0', '\n'])) {
            Some(_) => Err(refused(said, path, "has a line break in it, or a NUL")),
            None => Ok(words),
        }
    }

    fn build_secrets(&mut self, service: &str, said: &Node, path: &str) -> Result<Vec<Secret>, Fault> {
        let grants = said.items("secrets").iter().enumerate();
        grants
            .map(|(at, grant)| self.build_secret(service, grant, &format!("{path}.secrets[{at}]")))
            .collect()
    }

    fn build_secret(&mut self, service: &str, grant: &Node, path: &str) -> Result<Secret, Fault> {
        let source = grant.text_at("source").unwrap_or_default();
        let id = grant.text_at("target").unwrap_or(source).to_owned();
        let secret = self.section("secrets").find(|(name, _)| *name == source).map(|(_, node)| node.clone());
        let secret = secret.ok_or_else(|| refused(grant, path, format!("there is no secret `{source}`")))?;
        let from = if let Some(variable) = secret.text_at("environment") {
            let value = self.project.environment.get(variable).cloned();
            SecretSource::Variable(variable.to_owned(), value)
        } else if let Some(file) = secret.text_at("file") {
            let (real, is_inside) = self.real(file);
            if !is_inside {
                let what = format!("read {real}, which is outside of the project's folder");
                self.privilege(service, &secret, what);
            }
            SecretSource::File(real)
        } else {
            return Err(refused(grant, path, "only secrets of files and variables can be had in a build"));
        };
        // Builders read this as a line of comma-separated values.
        let is_odd = |text: &str| text.contains([',', '"', '\n', '\0']);
        let is_odd_file = matches!(&from, SecretSource::File(path) if is_odd(path));
        if is_odd(&id) || is_odd_file {
            return Err(refused(grant, path, "has a comma or a quote in its name or path"));
        }
        Ok(Secret { id, from })
    }

    /// A service, by its name, with what its image says.
    pub(super) fn as_run(&self, service: &str, node: &Node) -> Result<Node, Fault> {
        self.with_image(&image_name(self.project, service, node), node, &format!("services.{service}"))
    }

    /// The service as it is with what its image says: where it is built here, that is known.
    pub(super) fn with_image(&self, name: &str, node: &Node, path: &str) -> Result<Node, Fault> {
        let mut node = node.clone();
        if !self.want.builds.contains_key(name) {
            if let Some(told) = self.setting.told.get(name).filter(|_| self.is_of_registry(&node)) {
                fill_ends(&mut node, told);
            }
            return Ok(node);
        }
        // Before it is built: something runs in it.
        let unknown = Config { entrypoint: vec!["/".to_owned()], ..Config::default() };
        let image = self.setting.built.get(name).unwrap_or(&unknown);
        fill(&mut node, image);
        if node.items("entrypoint").is_empty() && node.items("command").is_empty() {
            let what = "its image says nothing of what runs in it: say `command`";
            return Err(refused(&node, path, what));
        }
        Ok(node)
    }
}

/// Variables of the instructions.
fn arguments(said: &Node, path: &str) -> Result<Keys, Fault> {
    let mut args = Keys::new();
    for (name, value) in said.members("args") {
        let path = format!("{path}.args.{name}");
        let is_odd = |c: char| c == '=' || c.is_whitespace() || c.is_control();
        if name.is_empty() || name.contains(is_odd) {
            return Err(refused(value, &path, "is no name of a variable"));
        }
        // One that has no value anywhere is not told.
        if value.value == Value::Null {
            continue;
        }
        let Some(text) = value.as_word().filter(|text| !text.contains('\0')) else {
            return Err(refused(value, &path, "must be a text or a number, without a NUL"));
        };
        args.insert(name.to_owned(), text);
    }
    Ok(args)
}

/// Adds what an image says and the service does not.
fn fill(node: &mut Node, image: &Config) {
    let place = node.place.clone();
    let texts = |words: &[String]| Value::List(words.iter().map(|word| Node::text(word, &place)).collect());
    let says = |key: &str| node.at(key).is_some_and(|said| said.as_list().is_some());
    let (entrypoint, command) = (says("entrypoint"), says("command"));
    let mut set = |key: &str, value: Value| {
        if let Some(map) = node.as_map_mut() {
            map.insert(key.to_owned(), Node::new(value, &place));
        }
    };
    // Whoever says what is run says its arguments too.
    if !entrypoint {
        set("entrypoint", texts(&image.entrypoint));
        if !command {
            set("command", texts(&image.cmd));
        }
    }
    for (key, said) in [("working_dir", &image.working_dir), ("user", &image.user)] {
        // What everything begins in needs not be said.
        if said.is_empty() || (key, said.as_str()) == ("working_dir", "/") {
            continue;
        }
        node.default_at(key, Value::Text(said.clone()));
    }
    if !image.env.is_empty() {
        node.default_at("environment", Value::empty_map());
    }
    let map = node.as_map_mut();
    if let Some(environment) = map.and_then(|map| map.get_mut("environment")) {
        for (name, value) in image.env.iter().filter_map(|pair| pair.split_once('=')) {
            environment.default_at(name, Value::Text(value.to_owned()));
        }
    }
    fill_ends(node, image);
}

/// Adds how an image says that it is stopped, and its health told, where the service does not.
fn fill_ends(node: &mut Node, image: &Config) {
    if !image.stop_signal.is_empty() {
        node.default_at("stop_signal", Value::Text(image.stop_signal.clone()));
    }
    if let Some(health) = &image.health {
        node.default_at("healthcheck", Value::Map(Map::new()));
        if let Some(said) = node.as_map_mut().and_then(|map| map.get_mut("healthcheck")) {
            fill_health(said, health);
        }
    }
}

fn fill_health(said: &mut Node, image: &HealthConfig) {
    let place = said.place.clone();
    let words = image.test.iter().map(|word| Node::text(word, &place)).collect();
    said.default_at("test", Value::List(words));
    let times = [
        ("interval", image.interval),
        ("timeout", image.timeout),
        ("start_period", image.start_period),
        ("start_interval", image.start_interval),
    ];
    for (key, nanoseconds) in times.iter().filter(|(_, nanoseconds)| *nanoseconds > 0) {
        said.default_at(key, Value::Text(format!("{nanoseconds}ns")));
    }
    if image.retries > 0 {
        said.default_at("retries", Value::Int(image.retries.into()));
    }
}

#[cfg(test)]
mod tests {
    use portway_composefile::Place;

    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    fn service(members: &[(&str, Value)]) -> Node {
        let place = Place::of_file("x");
        let members =
            members.iter().map(|(key, value)| ((*key).to_owned(), Node::new(value.clone(), &place)));
        Node::new(Value::Map(members.collect()), &place)
    }

    fn list(texts: &[&str]) -> Value {
        Value::List(texts.iter().map(|text| Node::text(*text, &Place::of_file("x"))).collect())
    }

    /// Fails when what a service says does not win over its image, or when a command is run that neither means.
    #[test]
    fn a_service_wins_over_its_image() {
        let image = Config {
            entrypoint: words(&["/entry"]),
            cmd: words(&["arg"]),
            env: words(&["A=image", "B=image", "odd"]),
            working_dir: "/srv".to_owned(),
            user: "7".to_owned(),
            stop_signal: "SIGINT".to_owned(),
            health: Some(HealthConfig {
                test: words(&["CMD", "true"]),
                interval: 2_000_000_000,
                retries: 4,
                ..HealthConfig::default()
            }),
        };
        let run = |members: &[(&str, Value)]| {
            let mut node = service(members);
            fill(&mut node, &image);
            let texts = |key: &str| -> Vec<String> {
                node.items(key).iter().filter_map(Node::as_text).map(str::to_owned).collect()
            };
            (texts("entrypoint"), texts("command"))
        };
        assert_eq!(run(&[]), (words(&["/entry"]), words(&["arg"])));
        assert_eq!(run(&[("command", list(&["own"]))]), (words(&["/entry"]), words(&["own"])));
        assert_eq!(run(&[("command", Value::Null)]), (words(&["/entry"]), words(&["arg"])));
        assert_eq!(run(&[("entrypoint", list(&["own"]))]), (words(&["own"]), Vec::new()));
        let cleared = run(&[("entrypoint", list(&[])), ("command", list(&["own"]))]);
        assert_eq!(cleared, (Vec::new(), words(&["own"])));

        let own = service(&[("A", Value::Text("own".to_owned())), ("C", Value::Null)]);
        let disabled = service(&[("interval", Value::Text("5s".to_owned()))]);
        let mut node = service(&[
            ("environment", own.value),
            ("healthcheck", disabled.value),
            ("user", Value::Text("8".to_owned())),
        ]);
        fill(&mut node, &image);
        let environment = node.at("environment").expect("there");
        assert_eq!((environment.text_at("A"), environment.text_at("B")), (Some("own"), Some("image")));
        assert_eq!((node.text_at("user"), node.text_at("working_dir")), (Some("8"), Some("/srv")));
        assert_eq!(node.text_at("stop_signal"), Some("SIGINT"));
        let health = node.at("healthcheck").expect("there");
        assert_eq!((health.text_at("interval"), health.items("test").len()), (Some("5s"), 2));
        assert_eq!(health.at("retries").map(|node| node.value.clone()), Some(Value::Int(4)));
    }
}
