//! What the files say is watched: `develop.watch`.

use std::path::{Path, PathBuf};

use portway_compose::hook;
use portway_compose::inside::Program;
use portway_compose::want::Privilege;
use portway_composefile::Project;
use portway_composefile::tree::Node;
use portway_control::api::FailureKind;

use super::super::files;
use super::super::stage::warn;
use super::super::stop;
use super::ignore::Patterns;
use crate::failure::{Outcome, Stop};

/// Longest `.dockerignore`.
const IGNORE_BYTES: u64 = 1 << 20;

/// What is done when something has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Copied into the instances.
    Sync,
    /// The same, and they are restarted.
    SyncRestart,
    /// The same, and a program is run in them.
    SyncExec,
    /// They are restarted.
    Restart,
    /// The image is built, and the instances are made anew.
    Rebuild,
}

impl Action {
    fn of(text: &str) -> Option<Self> {
        match text {
            "sync" => Some(Self::Sync),
            "sync+restart" => Some(Self::SyncRestart),
            "sync+exec" => Some(Self::SyncExec),
            "restart" => Some(Self::Restart),
            "rebuild" => Some(Self::Rebuild),
            _ => None,
        }
    }

    pub(super) fn copies(self) -> bool {
        matches!(self, Self::Sync | Self::SyncRestart | Self::SyncExec)
    }

    pub(super) fn restarts(self) -> bool {
        matches!(self, Self::Restart | Self::SyncRestart)
    }
}

/// One entry of a service.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) service: String,
    pub(super) action: Action,
    /// File, line and column.
    place: String,
    /// A file or a folder here, without links.
    pub(super) root: PathBuf,
    /// Whether it was a folder when this began.
    pub(super) is_folder: bool,
    /// Where it is inside, of one that is copied.
    pub(super) target: String,
    /// What is run inside after a copy.
    pub(super) exec: Option<Program>,
    /// By paths below the root.
    ignore: Patterns,
    /// The only ones that count, by paths below the root; none is all.
    include: Patterns,
    /// Those of `.dockerignore`, by paths below that folder.
    build: Option<(PathBuf, Patterns)>,
    always: Patterns,
}

impl Rule {
    /// Whether a path below the root is left out.
    pub(super) fn ignores(&self, path: &Path) -> bool {
        let of_build = self.build.as_ref().is_some_and(|(dir, patterns)| {
            self.root.join(path).strip_prefix(dir).is_ok_and(|path| patterns.match_path(path))
        });
        of_build || self.always.match_path(path) || self.ignore.match_path(path)
    }

    /// Whether a change there counts.
    pub(super) fn counts(&self, path: &Path) -> bool {
        self.include.is_empty() || self.include.match_path(path)
    }

    /// Whether a folder that is left out may hold what is not.
    pub(super) fn takes_back(&self) -> bool {
        self.ignore.take_back() || self.build.as_ref().is_some_and(|(_, patterns)| patterns.take_back())
    }

    /// As it is said at the beginning.
    pub(super) fn told(&self) -> String {
        let what = match self.action {
            Action::Sync => format!("to {}", self.target),
            Action::SyncRestart => format!("to {}, and restarts", self.target),
            Action::SyncExec => {
                let program = self.exec.as_ref().and_then(|exec| exec.command.first());
                format!("to {}, and runs {}", self.target, program.map_or("", String::as_str))
            }
            Action::Restart => "restarts".to_owned(),
            Action::Rebuild => "builds anew".to_owned(),
        };
        format!("watching {} for {}: {what}", self.root.display(), self.service)
    }
}

/// Those of these services, of all when none is named.
pub(super) fn of(project: &Project, named: &[String]) -> Outcome<Vec<Rule>> {
    let mut rules = Vec::new();
    for (service, node) in project.services() {
        if !named.is_empty() && !named.contains(service) {
            continue;
        }
        let own = node.at("develop").map(|develop| develop.items("watch")).unwrap_or_default();
        if own.is_empty() && named.contains(service) {
            let what = format!("service {service} has nothing to watch");
            return Err(Stop::of(FailureKind::Usage, what).hint("say it under `develop.watch`"));
        }
        for (at, entry) in own.iter().enumerate() {
            rules.extend(rule((service, node), entry, at)?);
        }
    }
    if rules.is_empty() {
        return Err(Stop::usage("no service has anything to watch").hint("say it under `develop.watch`"));
    }
    Ok(rules)
}

fn rule((service, node): (&str, &Node), entry: &Node, at: usize) -> Outcome<Option<Rule>> {
    let wrong = |key: &str, what: String| {
        let place = entry.at(key).map_or(&entry.place, |node| &node.place);
        Stop::usage(format!("{place}: services.{service}.develop.watch[{at}].{key}: {what}"))
    };
    let said = entry.text_at("action").unwrap_or_default();
    let action =
        Action::of(said).ok_or_else(|| wrong("action", format!("`{said}` is nothing that is done here")))?;
    let path = entry.text_at("path").filter(|path| !path.is_empty());
    let path = Path::new(path.ok_or_else(|| wrong("path", "is missing".to_owned()))?);
    if let Some(mount) = bound(node, path) {
        warn(&format!("{} is not watched: service {service} has it as {mount}", path.display()));
        return Ok(None);
    }
    let root = path.canonicalize().map_err(|error| {
        Stop::of(
            FailureKind::Missing,
            format!(
                "{}: services.{service}.develop.watch[{at}].path: {}: {error}",
                entry.place,
                path.display()
            ),
        )
    })?;
    let target = entry.text_at("target").unwrap_or_default();
    let parts = || target.split('/').filter(|part| !part.is_empty());
    if action.copies() && (!target.starts_with('/') || parts().next().is_none() || target.contains('\0')) {
        return Err(wrong("target", format!("`{}` is no path inside", target.escape_debug())));
    }
    if parts().any(|part| part == "..") {
        return Err(wrong("target", format!("`{target}` leads out of itself")));
    }
    let exec = match (action, entry.at("exec")) {
        (Action::SyncExec, None) => return Err(wrong("exec", "is missing".to_owned())),
        (Action::SyncExec, Some(said)) => Some(program(service, at, said)?),
        _ => None,
    };
    if action == Action::Rebuild && node.at("build").is_none() {
        return Err(wrong("action", "there is no `build` to do anew".to_owned()));
    }
    let patterns = |key: &str| Patterns::of(entry.items(key).iter().filter_map(Node::as_text));
    let context = node.at("build").and_then(|build| build.text_at("context"));
    let context = context.and_then(|context| Path::new(context).canonicalize().ok());
    Ok(Some(Rule {
        service: service.to_owned(),
        action,
        place: entry.place.to_string(),
        is_folder: root.is_dir(),
        root,
        target: format!("/{}", parts().collect::<Vec<_>>().join("/")),
        exec,
        ignore: patterns("ignore"),
        include: patterns("include"),
        build: context.map(|dir| {
            let patterns = dockerignore(&dir);
            (dir, patterns)
        }),
        always: Patterns::always(),
    }))
}

/// What is run after a copy.
fn program(service: &str, at: usize, said: &Node) -> Outcome<Program> {
    hook::program(said, &format!("services.{service}.develop.watch[{at}].exec")).map_err(stop)
}

/// Where a service has a path of the host already, if it has.
fn bound(service: &Node, path: &Path) -> Option<String> {
    let binds = service.items("volumes").iter().filter(|mount| mount.text_at("type") == Some("bind"));
    let mut holding = binds.filter(|mount| mount.text_at("source").is_some_and(|own| path.starts_with(own)));
    holding.next().and_then(|mount| mount.text_at("target")).map(str::to_owned)
}

/// What is said not to be sent to a builder.
fn dockerignore(dir: &Path) -> Patterns {
    let path = dir.join(".dockerignore");
    match portway_config::files::read(&path, IGNORE_BYTES, portway_config::files::Trust::Named) {
        Ok(bytes) => Patterns::of_file(&String::from_utf8_lossy(&bytes)),
        Err(portway_config::files::FileError::Missing { .. }) => Patterns::default(),
        Err(error) => {
            warn(&crate::failure::chain(&error));
            Patterns::default()
        }
    }
}

/// What is read outside of the project's folder is asked for.
pub(super) fn privileges(rules: &[Rule], dir: &Path) -> Vec<Privilege> {
    let dir = files::real(dir).unwrap_or_else(|| dir.to_owned());
    let outside = rules.iter().filter(|rule| rule.action.copies() && !rule.root.starts_with(&dir));
    let privilege = |rule: &Rule| Privilege {
        service: rule.service.clone(),
        what: format!("copy what changes in {} to {}", rule.root.display(), rule.target),
        place: rule.place.clone(),
    };
    outside.map(privilege).collect()
}
