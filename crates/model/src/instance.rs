//! Names of instances: as a person types them ([`InstanceRef`]), and resolved ([`InstanceKey`]).

use std::fmt;
use std::str::FromStr;

use crate::at::{RefError, RefErrorKind};
use crate::text::{quote, serde_by_text};

mod names;

use names::provider_name;

const INSTANCE: &str = "instance name";
const PROJECT: &str = "project name";

/// Who knows the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Provider {
    /// A container or VM of Incus.
    Incus,
    /// A container or VM of LXD.
    Lxd,
    /// A network namespace, by its name below `/run/netns` or by path.
    Netns,
    /// The network namespace and root of a process.
    Pid,
}

impl Provider {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Incus, Self::Lxd, Self::Netns, Self::Pid];

    /// `incus`, `lxd`, `netns` or `pid`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Incus => "incus",
            Self::Lxd => "lxd",
            Self::Netns => "netns",
            Self::Pid => "pid",
        }
    }

    /// Whether its instances belong to projects.
    #[must_use]
    pub const fn has_projects(self) -> bool {
        matches!(self, Self::Incus | Self::Lxd)
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Provider {
    type Err = RefError;

    fn from_str(text: &str) -> Result<Self, RefError> {
        Self::ALL
            .into_iter()
            .find(|provider| provider.as_str() == text)
            .ok_or_else(|| RefError::new(text, 0, RefErrorKind::ProviderUnknown(quote(text))))
    }
}

/// Name of a project of Incus or LXD: no `/`, `_`, quotes or blanks, not `*`, `.` or `..` (each refused
/// by Incus 6.0, tried); and by our own rule no control characters and at most 1,024 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProjectName(String);

impl ProjectName {
    /// Longest name, bytes.
    pub const MAX_BYTES: usize = 1024;

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for ProjectName {
    /// The project that every server has: `default`.
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl FromStr for ProjectName {
    type Err = RefError;

    fn from_str(text: &str) -> Result<Self, RefError> {
        let fail = |position, kind| Err(RefError::new(text, position, kind));
        if text.is_empty() {
            return fail(0, RefErrorKind::Empty(PROJECT));
        }
        let bad = |c: char| c.is_control() || matches!(c, '/' | '_' | '\'' | '"' | ' ');
        if let Some((position, c)) = text.char_indices().find(|(_, c)| bad(*c)) {
            return fail(position, RefErrorKind::Character { what: PROJECT, found: quote(&c.to_string()) });
        }
        if text.len() > Self::MAX_BYTES {
            let kind = RefErrorKind::TooLong { what: PROJECT, max: Self::MAX_BYTES, unit: "bytes" };
            return fail(Self::MAX_BYTES, kind);
        }
        if matches!(text, "*" | "." | "..") {
            return fail(0, RefErrorKind::Reserved { what: "a project name", found: quote(text) });
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ProjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What its provider calls an instance. Not empty, no control characters; the provider's own rule is
/// checked when the reference is resolved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceName(String);

impl InstanceName {
    /// Longest name, bytes: that of a path with its final NUL (`PATH_MAX`).
    pub const MAX_BYTES: usize = 4095;

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is an absolute path (of a network namespace).
    #[must_use]
    pub fn is_path(&self) -> bool {
        self.0.starts_with('/')
    }
}

impl FromStr for InstanceName {
    type Err = RefError;

    fn from_str(text: &str) -> Result<Self, RefError> {
        let fail = |position, kind| Err(RefError::new(text, position, kind));
        if text.is_empty() {
            return fail(0, RefErrorKind::Empty(INSTANCE));
        }
        if let Some((position, c)) = text.char_indices().find(|(_, c)| c.is_control()) {
            return fail(position, RefErrorKind::Character { what: INSTANCE, found: quote(&c.to_string()) });
        }
        if text.len() > Self::MAX_BYTES {
            let kind = RefErrorKind::TooLong { what: INSTANCE, max: Self::MAX_BYTES, unit: "bytes" };
            return fail(Self::MAX_BYTES, kind);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `[provider:][project/]name`, as typed. With `netns:` the name may be an absolute path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InstanceRef {
    /// Provider, if typed.
    pub provider: Option<Provider>,
    /// Project, if typed.
    pub project: Option<ProjectName>,
    /// Name.
    pub name: InstanceName,
}

impl InstanceRef {
    /// The instance meant: `default` is the provider when none is typed, `project_flag` the project
    /// when none is typed, and `default` the project when there is neither.
    ///
    /// # Errors
    /// A project where the provider has none, two projects that differ, or a name that the provider
    /// does not allow. Positions are those of the typed text.
    pub fn resolve(
        self,
        default: Provider,
        project_flag: Option<ProjectName>,
    ) -> Result<InstanceKey, RefError> {
        let text = self.to_string();
        let Self { provider, project, name } = self;
        let project_start = provider.map_or(0, |provider| provider.as_str().len() + 1);
        let fail = |kind| Err(RefError::new(&text, project_start, kind));
        let provider = provider.unwrap_or(default);
        if let (Some(typed), Some(flag)) = (&project, &project_flag)
            && typed != flag
        {
            let (typed, flag) = (quote(typed.as_str()), quote(flag.as_str()));
            return fail(RefErrorKind::ProjectConflict { typed, flag });
        }
        let name_start = text.len() - name.0.len();
        let project = match (provider.has_projects(), project.or(project_flag)) {
            (true, project) => Some(project.unwrap_or_default()),
            (false, None) => None,
            (false, Some(_)) => return fail(RefErrorKind::ProjectUnexpected(provider.as_str())),
        };
        let name = provider_name(provider, &name.0)
            .map_err(|error| RefError::new(&text, name_start + error.position, error.kind))?;
        Ok(InstanceKey { provider, project, name })
    }
}

impl FromStr for InstanceRef {
    type Err = RefError;

    fn from_str(text: &str) -> Result<Self, RefError> {
        let (provider, start) = match text.split_once(':') {
            // A colon after a slash belongs to the name.
            Some((head, _)) if !head.contains('/') => {
                let provider: Provider =
                    head.parse().map_err(|error: RefError| RefError::new(text, 0, error.kind))?;
                (Some(provider), head.len() + 1)
            }
            Some(_) | None => (None, 0),
        };
        let moved =
            |start: usize| move |error: RefError| RefError::new(text, start + error.position, error.kind);
        let rest = text.get(start..).unwrap_or_default();
        let is_path = rest.starts_with('/') && provider == Some(Provider::Netns);
        let (project, name) = match rest.split_once('/') {
            Some((project, name)) if !is_path => (Some(project.parse().map_err(moved(start))?), name),
            Some(_) | None => (None, rest),
        };
        let name_start = text.len() - name.len();
        let name = name.parse().map_err(moved(name_start))?;
        Ok(Self { provider, project, name })
    }
}

impl fmt::Display for InstanceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(provider) = self.provider {
            write!(f, "{provider}:")?;
        }
        if let Some(project) = &self.project {
            write!(f, "{project}/")?;
        }
        self.name.fmt(f)
    }
}

/// One instance of this host: `incus:default/c1`, `netns:blue`, `netns:/proc/7/ns/net`, `pid:7`.
/// The name obeys the rule of its provider.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceKey {
    provider: Provider,
    project: Option<ProjectName>,
    name: InstanceName,
}

impl InstanceKey {
    /// The instance `name` of `provider`, in `project` or the default one.
    ///
    /// # Errors
    /// As [`InstanceRef::resolve`]; positions are those of `[project/]name`.
    pub fn new(provider: Provider, project: Option<&str>, name: &str) -> Result<Self, RefError> {
        let (text, start) = match project {
            Some(project) => (format!("{project}/{name}"), project.len() + 1),
            None => (name.to_owned(), 0),
        };
        let here = |start: usize| move |error: RefError| (start + error.position, error.kind);
        let parsed = || {
            let project = project.map(str::parse).transpose().map_err(here(0))?;
            Ok((project, name.parse().map_err(here(start))?))
        };
        let (project, name) = parsed().map_err(|(position, kind)| RefError::new(&text, position, kind))?;
        InstanceRef { provider: None, project, name }.resolve(provider, None)
    }

    /// Its provider.
    #[must_use]
    pub const fn provider(&self) -> Provider {
        self.provider
    }

    /// Its project: set exactly when the provider has projects.
    #[must_use]
    pub const fn project(&self) -> Option<&ProjectName> {
        self.project.as_ref()
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &InstanceName {
        &self.name
    }
}

impl FromStr for InstanceKey {
    type Err = RefError;

    /// Reads the canonical text: the provider has to be there, and the project where there are projects.
    fn from_str(text: &str) -> Result<Self, RefError> {
        let typed: InstanceRef = text.parse()?;
        let Some(provider) = typed.provider else {
            return Err(RefError::new(text, 0, RefErrorKind::ProviderMissing));
        };
        if provider.has_projects() && typed.project.is_none() {
            return Err(RefError::new(text, provider.as_str().len() + 1, RefErrorKind::ProjectMissing));
        }
        typed.resolve(provider, None)
    }
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.provider)?;
        if let Some(project) = &self.project {
            write!(f, "{project}/")?;
        }
        self.name.fmt(f)
    }
}

serde_by_text!(Provider, ProjectName, InstanceName, InstanceRef, InstanceKey);

#[cfg(test)]
mod tests;
