//! Variables of a build. A command line is everybody's to read, so a builder finds the values in its own environment; and
//! there some names mean something to the builder itself.

use super::Build;
use crate::want::Keys;

/// Names that mean something to a builder, to what it calls or to the C library: those that begin so.
const PREFIXES: [&str; 22] = [
    "BUILDAH_",
    "BUILDX_",
    "CONTAINERS_",
    "CONTAINER_",
    "CNI_",
    "DBUS_",
    "DOCKER_CLI_",
    "DOCKER_CONTENT_TRUST",
    "DOCKER_TLS",
    "GIT_",
    "GLIBC_",
    "GPG_",
    "LC_",
    "LD_",
    "LISTEN_",
    "MALLOC_",
    "NETAVARK_",
    "PODMAN_",
    "SSH_",
    "SSL_CERT_",
    "STORAGE_",
    "XDG_",
];

/// The others.
const NAMES: [&str; 47] = [
    "ALL_PROXY",
    "BASH_ENV",
    "BUILDKIT_HOST",
    "BUILDKIT_TLS_SERVER_NAME",
    "DOCKER_API_VERSION",
    "DOCKER_AUTH_CONFIG",
    "DOCKER_BUILDKIT",
    "DOCKER_CERT_PATH",
    "DOCKER_CONFIG",
    "DOCKER_CONTEXT",
    "DOCKER_CUSTOM_HEADERS",
    "DOCKER_DEFAULT_PLATFORM",
    "DOCKER_HOST",
    "DOCKER_TMPDIR",
    "ENV",
    "FTP_PROXY",
    "GCONV_PATH",
    "GETCONF_DIR",
    "GNUPGHOME",
    "GODEBUG",
    "GOGC",
    "GOMAXPROCS",
    "GOMEMLIMIT",
    "GOTRACEBACK",
    "GZIP",
    "HOME",
    "HOSTALIASES",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "IFS",
    "LANG",
    "LANGUAGE",
    "LOCALDOMAIN",
    "LOCPATH",
    "LOGNAME",
    "NLSPATH",
    "NOTIFY_SOCKET",
    "NO_PROXY",
    "PATH",
    "PIGZ",
    "REGISTRY_AUTH_FILE",
    "RES_OPTIONS",
    "SHELL",
    "TAR_OPTIONS",
    "TMPDIR",
    "TZ",
    "USER",
];

/// Whether a variable of this name tells a builder something.
fn is_the_builders(name: &str) -> bool {
    // The underscore: what programs hand on to copies of themselves, as `_CONTAINERS_USERNS_CONFIGURED`.
    let upper = name.to_ascii_uppercase();
    let is_proxy = upper.ends_with("_PROXY") && NAMES.contains(&upper.as_str());
    let begins = PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    is_proxy || begins || NAMES.contains(&name) || name.starts_with('_')
}

impl Build {
    /// The variables that a builder finds in its environment. The others mean something to itself: it is told them where all
    /// can read them, as builders always are.
    #[must_use]
    pub fn hidden_args(&self) -> Keys {
        let hidden = self.args.iter().filter(|(name, _)| !is_the_builders(name));
        hidden.map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

/// What a builder is told of a variable: its name, and the value only where its environment cannot have it.
pub(super) fn word(name: &str, value: &str) -> String {
    if is_the_builders(name) { format!("{name}={value}") } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a file sets a variable that a builder obeys, or when a usual one is taken for such.
    #[test]
    fn what_a_builder_obeys_is_not_the_files_to_set() {
        let is_hidden = |name: &str| {
            let args = Keys::from([(name.to_owned(), "x".to_owned())]);
            let is_hidden = !Build { args, ..Build::default() }.hidden_args().is_empty();
            assert_eq!(word(name, "x"), if is_hidden { name.to_owned() } else { format!("{name}=x") });
            is_hidden
        };
        let obeyed = [
            "LD_PRELOAD",
            "PATH",
            "HOME",
            "BUILDAH_ISOLATION",
            "CONTAINERS_CONF",
            "DOCKER_HOST",
            "HTTP_PROXY",
            "http_proxy",
            "no_proxy",
            "GIT_SSH_COMMAND",
            "TMPDIR",
            "XDG_RUNTIME_DIR",
            "_CONTAINERS_ROOTLESS_UID",
            "STORAGE_DRIVER",
            "REGISTRY_AUTH_FILE",
            "GLIBC_TUNABLES",
            "GODEBUG",
            "BASH_ENV",
            "SSH_AUTH_SOCK",
        ];
        for name in obeyed {
            assert!(!is_hidden(name), "{name}");
        }
        for name in [
            "VERSION",
            "TOKEN",
            "GO_VERSION",
            "GOPROXY",
            "DOCKER_VERSION",
            "BUILDKIT_INLINE_CACHE",
            "A.B",
            "path",
        ] {
            assert!(is_hidden(name), "{name}");
        }
    }
}
