//! What the tests need on this machine: installs it as root, otherwise says what is missing.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use portway_testkit::testbed::{self, NoServices};

/// A program the tests call, and where Debian and Ubuntu keep it.
struct Need {
    /// Its name, or the path of a file.
    program: &'static str,
    package: &'static str,
    /// What does not run without it.
    used_for: &'static str,
}

/// What the namespace tests call. What an Incus server needs, the test bed installs.
const NEEDS: &[Need] = &[
    Need { program: "ip", package: "iproute2", used_for: "network namespaces and links" },
    Need { program: "nft", package: "nftables", used_for: "tests that drop packets" },
    Need { program: "dnsmasq", package: "dnsmasq-base", used_for: "a DNS server behind a device" },
    Need { program: "drill", package: "ldnsutils", used_for: "questions to a DNS server through a device" },
    Need { program: "ssh-agent", package: "openssh-client", used_for: "the worked example of an agent" },
    Need { program: "ssh", package: "openssh-client", used_for: "the SSH gateway" },
    Need { program: "Xvfb", package: "xvfb", used_for: "the display of a client of the SSH gateway" },
    Need { program: "xauth", package: "xauth", used_for: "the display of a client of the SSH gateway" },
    Need { program: "xdpyinfo", package: "x11-utils", used_for: "a program on that display" },
    Need { program: "tmux", package: "tmux", used_for: "`portway top` in it" },
    Need { program: "script", package: "bsdutils", used_for: "a terminal before the SSH gateway" },
    Need { program: "gpg", package: "gpg", used_for: "the worked example of gpg-agent" },
    Need { program: "gpg-agent", package: "gpg-agent", used_for: "the worked example of gpg-agent" },
    Need { program: "gpgconf", package: "gpgconf", used_for: "the worked example of gpg-agent" },
    Need { program: "weston", package: "weston", used_for: "the worked example of a display" },
    Need { program: "wayland-info", package: "wayland-utils", used_for: "the worked example of a display" },
    Need { program: "pipewire", package: "pipewire-bin", used_for: "the worked example of sound" },
    Need { program: "pw-cli", package: "pipewire-bin", used_for: "the worked example of sound" },
    Need { program: "docker-registry", package: "docker-registry", used_for: "application containers" },
    Need { program: "skopeo", package: "skopeo", used_for: "what images of a registry run" },
    Need { program: "openssl", package: "openssl", used_for: "the certificate of that registry" },
    Need {
        program: "/etc/ssl/certs/ca-certificates.crt",
        package: "ca-certificates",
        used_for: "servers of the SSH gateway that no authority knows",
    },
    Need { program: "buildah", package: "buildah", used_for: "images of Compose services" },
    Need { program: "podman", package: "podman", used_for: "the same by another builder" },
    Need { program: "rpm", package: "rpm", used_for: "what is in a package" },
    Need { program: "zsh", package: "zsh", used_for: "completion in zsh" },
    Need { program: "fish", package: "fish", used_for: "completion in fish" },
    Need { program: "haproxy", package: "haproxy", used_for: "PROXY headers, the benchmark" },
    Need { program: "nginx", package: "nginx", used_for: "PROXY headers, the benchmark" },
    Need {
        program: "/usr/lib/nginx/modules/ngx_stream_module.so",
        package: "libnginx-mod-stream",
        used_for: "tests of PROXY headers",
    },
    Need { program: "socat", package: "socat", used_for: "the benchmark" },
    Need { program: "wireguard-go", package: "wireguard-go", used_for: "peers of the mesh" },
    Need { program: "wg", package: "wireguard-tools", used_for: "peers and keys of the mesh" },
    Need { program: "cc", package: "gcc", used_for: "a wall clock that jumps" },
    Need { program: "systemd-analyze", package: "systemd", used_for: "exposure of the shipped units" },
    Need { program: "strace", package: "strace", used_for: "a kernel that refuses what it took before" },
    Need { program: "ping", package: "iputils-ping", used_for: "peers of the mesh" },
    Need { program: "curl", package: "curl", used_for: "clients of the mesh's proxies" },
    Need { program: "ncat", package: "ncat", used_for: "clients of the mesh's proxies" },
    Need { program: "etcd", package: "etcd-server", used_for: "the store of several registrars of a mesh" },
];

/// Whether tests that would skip themselves must fail.
pub(crate) fn strict() -> bool {
    std::env::var("PORTWAY_TESTS").is_ok_and(|value| value == "require")
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Sees to it that what the tests need is there.
///
/// # Errors
/// As root: when apt cannot install it. Otherwise: when something is missing and `PORTWAY_TESTS`
/// is `require`.
pub(crate) fn provide() -> anyhow::Result<()> {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !is_installed(need)).collect();
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    if is_root() {
        install(&packages)?;
        open_tun()?;
        // The program that `portway compose config` is held against comes from another release of Debian.
        testbed::compose_oracle().context("cannot fetch Docker Compose of Debian 13")?;
        return Ok(());
    }
    for need in &missing {
        println!("missing: {} (package {}), for {}", need.program, need.package, need.used_for);
    }
    if !packages.is_empty() {
        println!("install with: apt-get install {}", packages.join(" "));
    }
    if !user_namespaces_work() {
        println!("missing: unprivileged user namespaces (kernel.unprivileged_userns_clone=1,");
        println!("user.max_user_namespaces > 0): tests that make one skip themselves, and the demo fails");
    }
    println!("missing: root, for the tests in real network namespaces and with an Incus server:");
    println!("they skip themselves; `sudo cargo xtask test` runs everything");
    if strict() {
        bail!("PORTWAY_TESTS=require needs root");
    }
    Ok(())
}

/// Lets everybody open the device of tunnels, as udev's own rules do (50-udev-default.rules): where no udev runs, nobody
/// but root may, and the mesh has to do without.
fn open_tun() -> anyhow::Result<()> {
    const EVERYBODY: u32 = 0o666;
    let tun = Path::new("/dev/net/tun");
    let Ok(found) = fs::metadata(tun) else { return Ok(()) };
    if found.permissions().mode() & EVERYBODY == EVERYBODY {
        return Ok(());
    }
    fs::set_permissions(tun, Permissions::from_mode(EVERYBODY))
        .context("cannot open /dev/net/tun to everybody")
}

/// Whether an unprivileged process may make a user and a network namespace here.
fn user_namespaces_work() -> bool {
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "true"])
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

fn is_installed(need: &Need) -> bool {
    if need.program.starts_with('/') {
        return Path::new(need.program).is_file();
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let dirs = path.split(':').chain(["/usr/sbin", "/sbin"]);
    dirs.filter(|dir| !dir.is_empty()).any(|dir| Path::new(dir).join(need.program).is_file())
}

/// Whether this program of the table is there.
pub(crate) fn has(program: &str) -> bool {
    NEEDS.iter().any(|need| need.program == program && is_installed(need))
}

fn install(packages: &[&str]) -> anyhow::Result<()> {
    if packages.is_empty() {
        eprintln!("nothing to install");
        return Ok(());
    }
    eprintln!("installing {}", packages.join(" "));
    let mut arguments = vec!["install", "-y", "-q", "--no-install-recommends"];
    arguments.extend(packages);
    // Tests start what they need by themselves, in namespaces of their own.
    let _policy = NoServices::forbid()?;
    // The package lists may be missing or old on a fresh machine: they are fetched only when needed.
    if apt_get(&arguments).is_err() {
        apt_get(&["update", "-q"])?;
        apt_get(&arguments)?;
    }
    Ok(())
}

fn apt_get(arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("apt-get");
    // Another apt may be at work on a machine that has just started.
    command.args(["-o", "DPkg::Lock::Timeout=300"]);
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    let output = command.output().context("cannot run apt-get; install the packages by hand")?;
    if !output.status.success() {
        bail!("apt-get {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
