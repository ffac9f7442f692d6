//! A bare Debian 12, in which packages are installed: what debootstrap makes at least, and the two programs that make
//! users and folders without systemd.

use std::path::PathBuf;

use anyhow::Result;

use super::{packages, root};

const PATH: &str = "/var/cache/portway-testbed/bare";

/// Version of what is built; raise it with every change to the script.
const MAKE: &str = "bare 1\n";

/// Builds the root `$1` from the mirror `$2`, in a mount namespace that ends with it.
const BUILD: &str = r#"
set -e
root=$1 mirror=$2
debootstrap --variant=minbase --include=systemd-standalone-sysusers,systemd-standalone-tmpfiles \
    bookworm "$root" "$mirror"
rm -f "$root"/var/cache/apt/archives/*.deb
"#;

/// Builds it, or finds it built: half a minute, once. It is for reading; use a copy or an overlay.
///
/// # Errors
/// When not root, or debootstrap fails.
pub fn bare_root() -> Result<PathBuf> {
    packages::install()?;
    root::provide_root(PATH, MAKE, BUILD)?;
    Ok(PathBuf::from(PATH))
}
