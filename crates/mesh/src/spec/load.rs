//! From a file, the environment and the command line to a [`Spec`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use portway_config::files::{self, FileError, Trust};
use portway_model::Direction;
use zeroize::Zeroizing;

use super::draft::Draft;
use super::env;
use super::error::SpecError;
use super::ini::{self, Dialect};
use super::network::Network;
use super::place::{Field, Place, Source, Warning};
use super::proxies::{self, ProxyKind, ProxyListen, ProxySaid};
use super::rules::{PortRights, Rules, Said};
use super::toml_form;
use super::wg_quick;
use super::wireproxy::{self, Routines};

/// Longest file, bytes: some thousands of peers.
const FILE_MAX_BYTES: u64 = 1024 * 1024;

/// All that is wanted of one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Keys, addresses, peers.
    pub network: Network,
    /// What leads into it and out of it.
    pub rules: Rules,
    /// Proxies on the host that lead into it.
    pub proxies: Vec<ProxyListen>,
    /// What is left out, and what is most likely not meant.
    pub warnings: Vec<Warning>,
}

/// What the command line says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request<'a> {
    /// `--config`.
    pub config: Option<&'a Path>,
    /// Each `--ingress`.
    pub ingress: &'a [String],
    /// Each `--egress`.
    pub egress: &'a [String],
    /// Each `--socks5`.
    pub socks5: &'a [String],
    /// Each `--http-connect`.
    pub http_connect: &'a [String],
    /// It is the daemon that says it, from its file.
    pub is_configured: bool,
}

/// A file.
#[derive(Clone)]
pub struct FileText {
    /// What is in it.
    pub text: Zeroizing<String>,
    /// Its permission bits, when others than its owner and its group can read it.
    pub open_mode: Option<u32>,
}

/// Where files and variables come from.
pub trait Surroundings {
    /// A file.
    ///
    /// # Errors
    /// [`SpecError::File`].
    fn file(&self, path: &Path) -> Result<FileText, SpecError>;

    /// A variable of the environment.
    fn variable(&self, name: &str) -> Option<String>;

    /// All variables of the environment that are text.
    fn variables(&self) -> Vec<(String, String)>;
}

/// The files and the environment of this process.
#[derive(Debug, Clone, Copy)]
pub struct Here;

fn read(path: &Path, trust: Trust) -> Result<FileText, SpecError> {
    let mut bytes = files::read(path, FILE_MAX_BYTES, trust).map_err(SpecError::File)?;
    // Editors of other systems begin a file with one.
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    let text = Zeroizing::new(files::text(path, bytes).map_err(SpecError::File)?);
    let failed = |source| SpecError::File(FileError::Read { path: path.to_owned(), source });
    let mode = std::fs::metadata(path).map_err(failed)?.mode() & 0o7777;
    Ok(FileText { text, open_mode: (mode & 0o004 != 0).then_some(mode) })
}

impl Surroundings for Here {
    fn file(&self, path: &Path) -> Result<FileText, SpecError> {
        read(path, Trust::Named)
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn variables(&self) -> Vec<(String, String)> {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        std::env::vars_os().filter_map(text).collect()
    }
}

impl PortRights {
    /// Those of this process in its network namespace; what cannot be read counts as what most systems have.
    #[must_use]
    pub fn here() -> PortRights {
        /// `CAP_NET_BIND_SERVICE`, capabilities(7).
        const BIND_SERVICE: u64 = 1 << 10;
        let start = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
        let first_free = start.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024);
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let effective = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
        PortRights { first_free, privileged: effective.is_some_and(|set| set & BIND_SERVICE != 0) }
    }
}

/// Remembers which of the files others can read.
struct Watched<'a> {
    around: &'a dyn Surroundings,
    open: RefCell<BTreeMap<PathBuf, u32>>,
}

impl Surroundings for Watched<'_> {
    fn file(&self, path: &Path) -> Result<FileText, SpecError> {
        let file = self.around.file(path)?;
        if let Some(mode) = file.open_mode {
            self.open.borrow_mut().insert(path.to_owned(), mode);
        }
        Ok(file)
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.around.variable(name)
    }

    fn variables(&self) -> Vec<(String, String)> {
        self.around.variables()
    }
}

impl Spec {
    /// Reads what the request names, with what the environment says put over it, and checks all of it.
    ///
    /// # Errors
    /// [`SpecError`], but [`SpecError::Privilege`]: that is for [`Rules::allowed`] to find.
    pub fn load(request: &Request<'_>, around: &dyn Surroundings) -> Result<Spec, SpecError> {
        let around = Watched { around, open: RefCell::default() };
        let mut warnings = Vec::new();
        let mut environment = env::read(&around, &mut warnings)?;
        let config = request.config.map(Path::to_owned).or_else(|| environment.config.take());
        let mut draft = Draft::default();
        let mut routines = Routines::default();
        let whole = match &config {
            Some(path) => {
                routines = file(path, &around, &mut draft, &mut warnings)?;
                Place::of(Source::File(path.clone()))
            }
            None if environment.said => Place::of(Source::Variable("environment".to_owned())),
            None => {
                let error = SpecError::wrong(&Place::of(Source::Flag("--config")), "no network is named");
                return Err(error.with_hint("name a file, or set PORTWAY_MESH_CONFIG"));
            }
        };
        let mut rules = std::mem::take(&mut routines.rules);
        rules.append(&mut environment.rules);
        environment.over(&mut draft);
        request.put(&mut rules, &mut draft);
        private(&draft, &routines, &around.open.borrow())?;
        let network = draft.build(&whole, &mut warnings)?;
        let rules = Rules::build(&rules, &network, &mut warnings)?;
        let proxies = proxies::build(&draft, routines.proxies, &network, &rules)?;
        Ok(Spec { network, rules, proxies, warnings })
    }

    /// A network that is known already, with the rules of the environment and of the request.
    ///
    /// # Errors
    /// As [`Spec::load`]; the environment or the request names another network.
    pub fn with(
        network: Network,
        request: &Request<'_>,
        around: &dyn Surroundings,
    ) -> Result<Spec, SpecError> {
        let around = Watched { around, open: RefCell::default() };
        let mut warnings = Vec::new();
        let mut environment = env::read(&around, &mut warnings)?;
        if let Some(path) = request.config {
            let place = Place::of(Source::Flag("--config"));
            let message = format!("{} is another network than the organization", path.display());
            return Err(SpecError::wrong(&place, message));
        }
        if environment.config.is_some() || environment.names_a_network() {
            let place = Place::of(Source::Variable("environment".to_owned()));
            let error = SpecError::wrong(&place, "it has a network, and an organization is another one");
            return Err(error.with_hint("of PORTWAY_MESH_* rules and proxies go with an organization"));
        }
        let mut rules = std::mem::take(&mut environment.rules);
        let mut draft = Draft::default();
        environment.over(&mut draft);
        request.put(&mut rules, &mut draft);
        private(&draft, &Routines::default(), &around.open.borrow())?;
        let rules = Rules::build(&rules, &network, &mut warnings)?;
        let proxies = proxies::build(&draft, Vec::new(), &network, &rules)?;
        Ok(Spec { network, rules, proxies, warnings })
    }
}

/// Files of this host that are this user's or root's, and nothing of the environment: for who reads on behalf of another
/// process.
#[derive(Debug, Clone, Copy)]
pub struct FilesAlone;

impl Surroundings for FilesAlone {
    fn file(&self, path: &Path) -> Result<FileText, SpecError> {
        read(path, Trust::Own)
    }

    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn variables(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}

impl Request<'_> {
    fn place(&self, flag: &'static str) -> Place {
        if self.is_configured { Place::configured() } else { Place::of(Source::Flag(flag)) }
    }

    /// Puts what the command line says behind the rest.
    fn put(&self, rules: &mut Vec<Said>, draft: &mut Draft) {
        for (direction, flag, texts) in
            [(Direction::Ingress, "--ingress", self.ingress), (Direction::Egress, "--egress", self.egress)]
        {
            let said = |text: &String| Said { direction, field: Field::new(self.place(flag), text) };
            rules.extend(texts.iter().map(said));
        }
        for (kind, flag, texts) in [
            (ProxyKind::Socks5, "--socks5", self.socks5),
            (ProxyKind::Http, "--http-connect", self.http_connect),
        ] {
            let said = |text: &String| ProxySaid { kind, field: Field::new(self.place(flag), text) };
            draft.proxies.extend(texts.iter().map(said));
        }
    }
}

/// Reads one file into `draft`, by its name as TOML, else by what is in it.
fn file(
    path: &Path,
    around: &dyn Surroundings,
    draft: &mut Draft,
    warnings: &mut Vec<Warning>,
) -> Result<Routines, SpecError> {
    let text = around.file(path)?.text;
    if path.extension().is_some_and(|end| end.eq_ignore_ascii_case("toml")) {
        let mut routines = Routines::default();
        toml_form::read(path, &text, around, draft, &mut routines.rules)?;
        return Ok(routines);
    }
    let dialect = ini::dialect(&text);
    let mut sections = ini::sections(path, &text, dialect)?;
    if dialect == Dialect::WgQuick {
        let others = wg_quick::read(sections, dialect, draft, warnings)?;
        wg_quick::refuse(&others)?;
        return Ok(Routines::default());
    }
    wireproxy::fill_in(&mut sections, around)?;
    let others = wg_quick::read(sections, dialect, draft, warnings)?;
    let routines = wireproxy::read(others, warnings)?;
    if let Some(field) = &routines.wg_config {
        if draft.private_key.is_some() || !draft.peers.is_empty() {
            let message = "WGConfig names the network, and this file has one too";
            return Err(SpecError::wrong(&field.place, message));
        }
        let other = path.parent().unwrap_or(Path::new("")).join(field.text.as_str());
        let text = around.file(&other)?.text;
        let mut sections = ini::sections(&other, &text, dialect)?;
        wireproxy::fill_in(&mut sections, around)?;
        let others = wg_quick::read(sections, dialect, draft, warnings)?;
        wg_quick::refuse(&others)?;
    }
    Ok(routines)
}

/// Refuses secrets in files that others can read.
fn private(draft: &Draft, routines: &Routines, open: &BTreeMap<PathBuf, u32>) -> Result<(), SpecError> {
    let shared = draft.peers.iter().filter_map(|peer| peer.preshared_key.as_ref());
    let keys = draft.private_key.iter().chain(&draft.proxy_password).chain(shared).map(|field| &field.place);
    for place in keys.chain(&routines.secrets) {
        if let Source::File(path) = &place.source
            && let Some(mode) = open.get(path)
        {
            return Err(SpecError::Readable { path: path.clone(), mode: *mode });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
