//! Images that are built from files beside the Compose file: what is built, how the programs that build are asked, and
//! what of the result the server is told. Nothing is started here.
//!
//! The server gets the image's files in one layer, and what runs in it as a property: an instance of it is one of a
//! system image whose command is known.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::want::Keys;

mod argument;
pub mod content;
pub mod tar;

/// Property of an image: its [`Config`], a JSON text.
pub const CONFIG: &str = "portway.config";

/// Property of an image: the Compose project it was built for.
pub const PROJECT: &str = "portway.project";

/// Property of an image: `true` when the file gives it its name, and so it may be for others too.
pub const NAMED: &str = "portway.named";

/// Property of an image: the hash of what is in it, by [`content`].
pub const CONTENT: &str = "portway.content";

/// Property of an image: which one it is in the store of the builder that has made it last.
pub const ID: &str = "portway.id";

/// An image to be built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Build {
    /// What the file calls it, or what it is called where the file does not: also its name where it is built.
    pub name: String,
    /// Whether the file calls it so: then it may be for others too.
    pub is_named: bool,
    /// Its name at the server.
    pub alias: String,
    /// Folder, or address, that it is built from.
    pub context: String,
    /// Instructions, or where they are.
    pub dockerfile: Dockerfile,
    /// Variables of the instructions.
    pub args: Keys,
    /// Stage that is the result.
    pub target: Option<String>,
    /// Nothing of what was built before is taken.
    pub no_cache: bool,
    /// Newer versions of what it begins with are fetched.
    pub pull: bool,
    /// What it is built for, where that is not this machine.
    pub platform: Option<String>,
    /// Labels of the image.
    pub labels: Keys,
    /// Network while it is built.
    pub network: Option<String>,
    /// Secrets of the instructions.
    pub secrets: Vec<Secret>,
    /// What is passed on as it is: `--add-host`, `--ulimit` and such, each in one word.
    pub more: Vec<String>,
    /// Other names where it is built.
    pub tags: Vec<String>,
}

/// A secret that instructions may read.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// Its name there.
    pub id: String,
    /// Where it is from.
    pub from: SecretSource,
}

/// Where a secret of a build is from.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file.
    File(String),
    /// The variable of this name, and its value, where it has one.
    Variable(String, Option<String>),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.from {
            SecretSource::File(path) => write!(f, "{} of the file {path}", self.id),
            SecretSource::Variable(name, _) => write!(f, "{} of the variable {name}", self.id),
        }
    }
}

/// Files of this machine that have to do with one build.
#[derive(Debug, Clone, Copy)]
pub struct Paths<'p> {
    /// The instructions that stand in the Compose file.
    pub instructions: &'p Path,
    /// Where the image's files go, if the builder writes them itself.
    pub rootfs: &'p Path,
    /// Where the builder writes which image it has made.
    pub id: &'p Path,
    /// Folder of the secrets that are no files: each by its number in [`Build::secrets`].
    pub secrets: &'p Path,
}

/// Instructions to build an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Dockerfile {
    /// Where the builder looks by itself.
    #[default]
    Usual,
    /// In this file.
    File(PathBuf),
    /// These.
    Inline(String),
}

/// A program that builds images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builder {
    /// <https://buildah.io>
    Buildah,
    /// <https://podman.io>
    Podman,
    /// Docker, with its daemon.
    Docker,
}

impl Builder {
    /// All of them, the preferred ones first.
    pub const ALL: [Builder; 3] = [Builder::Buildah, Builder::Podman, Builder::Docker];

    /// What it is called.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Builder::Buildah => "buildah",
            Builder::Podman => "podman",
            Builder::Docker => "docker",
        }
    }

    /// Arguments that have it build an image. Values of [`Build::hidden_args`] are not among them: it finds those in its
    /// environment.
    #[must_use]
    pub fn build(self, build: &Build, paths: Paths<'_>, output: &Output<'_>) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["build".into()];
        let mut say = |key: &str, value: &dyn AsRef<std::ffi::OsStr>| {
            let mut word = OsString::from(format!("--{key}="));
            word.push(value.as_ref());
            words.push(word);
        };
        say("tag", &build.name);
        say("iidfile", &paths.id);
        build.tags.iter().for_each(|tag| say("tag", tag));
        match &build.dockerfile {
            Dockerfile::Usual => {}
            Dockerfile::File(path) => say("file", path),
            Dockerfile::Inline(_) => say("file", &paths.instructions),
        }
        build.args.iter().for_each(|(name, value)| say("build-arg", &argument::word(name, value)));
        for (number, secret) in build.secrets.iter().enumerate() {
            let mut word = OsString::from(format!("id={},src=", secret.id));
            match &secret.from {
                SecretSource::File(path) => word.push(path),
                SecretSource::Variable(..) => word.push(paths.secrets.join(number.to_string())),
            }
            say("secret", &word);
        }
        build.labels.iter().for_each(|(name, value)| say("label", &format!("{name}={value}")));
        for (key, value) in
            [("target", &build.target), ("platform", &build.platform), ("network", &build.network)]
        {
            if let Some(value) = value {
                say(key, value);
            }
        }
        if self != Builder::Docker {
            // The other format has no healthcheck.
            say("format", &"docker");
            say("layers", &"true");
        }
        if self == Builder::Buildah {
            say("output", &format!("type=tar,dest={}", paths.rootfs.display()));
        }
        if let Some(progress) = output.progress.filter(|_| self == Builder::Docker) {
            say("progress", &progress);
        }
        words.extend(build.more.iter().map(OsString::from));
        let switches = [("--no-cache", build.no_cache), ("--pull", build.pull), ("--quiet", output.is_quiet)];
        words.extend(switches.iter().filter(|(_, is_on)| *is_on).map(|(word, _)| OsString::from(word)));
        words.push((&build.context).into());
        words
    }

    /// Arguments that have it say what it knows of an image, in JSON.
    #[must_use]
    pub fn inspect(self, id: &str) -> Vec<String> {
        let words: &[&str] = match self {
            Builder::Buildah => &["inspect", "--type=image"],
            Builder::Podman | Builder::Docker => &["image", "inspect"],
        };
        words.iter().map(|word| (*word).to_owned()).chain([id.to_owned()]).collect()
    }

    /// What of its store an image is, where another has got its name meanwhile: by the builder and the image's id.
    #[must_use]
    pub fn mark(self, id: &str) -> String {
        format!("{} {}", self.program(), id.strip_prefix("sha256:").unwrap_or(id))
    }

    /// The id that [`Builder::mark`] was told, if it was told by this builder.
    #[must_use]
    pub fn marked(self, mark: &str) -> Option<&str> {
        let id = mark.strip_prefix(self.program())?.strip_prefix(' ')?;
        // What the server keeps is anybody's who may write there.
        (!id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
    }

    /// Arguments that send the image of that id to its registry by a name: of each call.
    #[must_use]
    pub fn push(self, id: &str, name: &str, output: &Output<'_>) -> Vec<Vec<String>> {
        let quiet = output.is_quiet.then(|| "--quiet".to_owned());
        let push = ["push".to_owned()].into_iter().chain(quiet);
        match self {
            Builder::Buildah | Builder::Podman => {
                vec![push.chain([id.to_owned(), format!("docker://{name}")]).collect()]
            }
            // It sends what has a name.
            Builder::Docker => {
                vec![["tag", id, name].map(str::to_owned).to_vec(), push.chain([name.to_owned()]).collect()]
            }
        }
    }

    /// Whether the image's files come out of the build itself; else out of a container that is made for it.
    #[must_use]
    pub fn exports_itself(self) -> bool {
        self == Builder::Buildah
    }
}

/// How much a builder says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Output<'o> {
    /// Nothing.
    pub is_quiet: bool,
    /// In this manner, where it knows several.
    pub progress: Option<&'o str>,
}

/// What an image says of what runs in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// What is run.
    pub entrypoint: Vec<String>,
    /// Its arguments, or all of it.
    pub cmd: Vec<String>,
    /// `NAME=VALUE`, each.
    pub env: Vec<String>,
    /// Folder it begins in.
    pub working_dir: String,
    /// `USER[:GROUP]`.
    pub user: String,
    /// Signal that ends it.
    pub stop_signal: String,
    /// How its health is told.
    pub health: Option<HealthConfig>,
}

/// How an image says that its health is told. Times are in nanoseconds; 0 is what nobody has said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all(deserialize = "PascalCase"))]
pub struct HealthConfig {
    /// The test: `CMD`, `CMD-SHELL` or `NONE`, and words.
    #[serde(alias = "test")]
    pub test: Vec<String>,
    /// Time between two tests.
    #[serde(alias = "interval")]
    pub interval: u64,
    /// Longest time for one.
    #[serde(alias = "timeout")]
    pub timeout: u64,
    /// Time in which failures do not count.
    #[serde(alias = "start_period")]
    pub start_period: u64,
    /// Time between two tests in that time.
    #[serde(alias = "start_interval")]
    pub start_interval: u64,
    /// Failures in a row that make it unhealthy.
    #[serde(alias = "retries")]
    pub retries: u32,
}

/// What a builder says of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// What runs in it.
    pub config: Config,
    /// What it is for, in the server's words.
    pub architecture: String,
}

/// Reads what [`Builder::inspect`] brings.
#[must_use]
pub fn inspected(json: &Value) -> Option<Inspected> {
    let all = json.get(0).unwrap_or(json);
    let own = all.get("Docker").unwrap_or(all);
    let config = own.get("config").or_else(|| own.get("Config"))?;
    let words = |key: &str| -> Vec<String> {
        let list = config.get(key).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let text = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let health =
        config.get("Healthcheck").or_else(|| all.get("HealthCheck")).or_else(|| all.get("Healthcheck"));
    let health = health.and_then(|health| serde_json::from_value::<HealthConfig>(health.clone()).ok());
    let architecture = own.get("architecture").or_else(|| own.get("Architecture")).and_then(Value::as_str);
    Some(Inspected {
        config: Config {
            entrypoint: words("Entrypoint"),
            cmd: words("Cmd"),
            env: words("Env"),
            working_dir: text("WorkingDir"),
            user: text("User"),
            stop_signal: text("StopSignal"),
            health: health.filter(|health| !health.test.is_empty()),
        },
        architecture: kernel_name(architecture?).to_owned(),
    })
}

/// A machine in the kernel's words, as the server has them.
fn kernel_name(architecture: &str) -> &str {
    match architecture {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        "386" => "i686",
        "arm" => "armv7l",
        "mips64le" => "mips64",
        other => other,
    }
}

/// What an image's properties say of what runs in it; `None` when it was not built here.
#[must_use]
pub fn of_properties(properties: &Keys) -> Option<Config> {
    serde_json::from_str(properties.get(CONFIG)?).ok()
}

#[cfg(test)]
mod tests;
