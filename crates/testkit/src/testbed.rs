//! Real servers to test against: `cargo xtask testbed up|down|status [incus6] [incus7] [lxd]`.
//!
//! A bed is one server in a network namespace of its own, with its own state folder, id range and
//! subnet, so that it disturbs nothing on the machine and is the whole "host" of a test. Its stages:
//! packages (of this machine, or of a root of their own), namespace, daemon, storage + network + profile + image, stamp. `up` looks at each and
//! does what is missing; with all there it takes milliseconds. Packages stay when a bed goes down.
//!
//! Beds are shared by all processes of a machine: a lock serializes `up` and `down`, and a second
//! one, held shared by every process that uses a bed, keeps `down` away from running tests.

mod bare;
mod debian;
mod image;
mod lock;
mod oracle;
mod packages;
mod place;
mod root;
mod server;
pub(crate) mod services;
mod setup;
mod sources;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

pub use bare::bare_root;
pub use lock::InUse;
pub(crate) use lock::alone;
pub use oracle::{compose_oracle, newest_wireguard_go};
pub use packages::NoServices;
pub use place::{Place, Server};

/// How long a daemon may take to answer before `up` looks closer; load tests run beside it.
const GLANCE: Duration = Duration::from_secs(5);

/// How long `up` waits for running tests to end before it makes the bed anew.
const REBUILD: Duration = Duration::from_secs(120);

/// How long before it counts as dead.
const PATIENCE: Duration = Duration::from_secs(15);

const USAGE: &str = "usage: cargo xtask testbed up|down|status [incus6] [incus7] [lxd]

  up      install, start and fill test servers, incus6 when none is named; prints INCUS_DIR=... NETNS=...
  down    stop them and remove everything but the packages; refused while tests use them
  status  say whether they are up; exit code 1 when one is not

Needs root.";

/// The command line: what stands after `cargo xtask testbed`.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a developer's command")]
pub fn main<S: AsRef<str>>(args: &[S]) -> ExitCode {
    let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
    let (verb, names) = match args.as_slice() {
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        [verb] => (*verb, &["incus6"][..]),
        [verb, names @ ..] => (*verb, names),
        [] => ("", &[][..]),
    };
    let named = |name: &&str| Server::ALL.into_iter().find(|server| server.name() == *name);
    let servers: Option<Vec<Server>> = names.iter().map(named).collect();
    let (Some(servers), "up" | "down" | "status") = (servers, verb) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let act = |place: Place| match verb {
        "up" => provide(&place).map(|()| println!("{place}")),
        "down" => down(&place),
        _ if is_up(&place, GLANCE) => {
            println!("{place}");
            Ok(())
        }
        _ => Err(anyhow::anyhow!("{} is down", place.name)),
    };
    match servers.into_iter().map(Place::of).try_for_each(act) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("testbed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Brings the bed up, or finds it up.
///
/// # Errors
/// When not root, or a stage fails; the message says which, and what the server logged.
pub fn up(place: &Place) -> Result<()> {
    if is_up(place, GLANCE) {
        return complete(place);
    }
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "the test server {0} is not up, and only root can bring it up: cargo xtask testbed up {0}",
            place.name
        );
    }
    make(place)?;
    complete(place)
}

/// What a bed has beside its server: Debian, where other people's programs meet ours.
fn complete(place: &Place) -> Result<()> {
    let wanted = place.server == Server::Incus6 && nix::unistd::geteuid().is_root();
    if wanted { debian::import(place) } else { Ok(()) }
}

/// Brings the bed up with the images that only some tests need.
///
/// # Errors
/// As [`up`].
pub fn provide(place: &Place) -> Result<()> {
    up(place)?;
    if place.server == Server::Incus6 { services::import(place) } else { Ok(()) }
}

fn make(place: &Place) -> Result<()> {
    let _setup = lock::setup(place)?;
    // Whoever held the lock may have done it.
    if is_up(place, PATIENCE) {
        return Ok(());
    }
    let begin = Instant::now();
    packages::install()?;
    if place.server != Server::Incus6 {
        root::provide()?;
    }
    place.prepare()?;
    if place.is_of_another_make() {
        let _alone = alone(place, REBUILD)?;
        say("the bed is of another version; building a new one");
        server::remove(place)?;
        place.prepare()?;
    }
    if let Err(first) = fill(place) {
        // A half-made or damaged state folder: once more from nothing, if nobody uses it.
        let _alone = alone(place, REBUILD).with_context(|| format!("cannot set up: {first:#}"))?;
        say(&format!("{first:#}; building a new one"));
        server::remove(place)?;
        place.prepare()?;
        fill(place)?;
    }
    place.stamp()?;
    say(&format!("up after {:.1} s", begin.elapsed().as_secs_f64()));
    Ok(())
}

/// Takes the bed down: its instances, daemon, namespace and files.
///
/// # Errors
/// When not root, tests use the bed, or something of it cannot be removed.
pub fn down(place: &Place) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("only root can take the test server down");
    }
    let _setup = lock::setup(place)?;
    let _alone = alone(place, Duration::ZERO)?;
    server::remove(place)
}

/// The root folder that the servers of Incus 7 and LXD run in.
pub(crate) fn root_path() -> &'static Path {
    Path::new(root::PATH)
}

/// The root folder of Debian 13 that some beds run in, if it has been built: newer programs than this
/// machine's, by chroot(8).
#[must_use]
pub fn newer_root() -> Option<&'static Path> {
    root::is_ready().then_some(Path::new(root::PATH))
}

/// The root folder of Debian 13 with other people's SSH programs, if it has been built.
pub(crate) fn clients_root() -> &'static Path {
    Path::new(debian::CLIENTS)
}

/// Alias of the image of Debian, which the bed of Incus 6.0 has.
pub(crate) fn debian_image() -> &'static str {
    debian::IMAGE
}

/// Ends the daemon and starts it again.
pub(crate) fn restart(place: &Place) -> Result<()> {
    let _setup = lock::setup(place)?;
    server::stop(place);
    server::start(place)
}

/// The same with a server that is killed.
pub(crate) fn crash(place: &Place) -> Result<()> {
    let _setup = lock::setup(place)?;
    server::kill(place);
    server::start(place)
}

/// Whether the bed is complete, whoever completed it.
pub(crate) fn is_complete(place: &Place) -> bool {
    place.is_stamped()
}

/// Whether the bed is complete and answers in time.
fn is_up(place: &Place, patience: Duration) -> bool {
    place.is_stamped() && server::is_healthy(place, patience)
}

fn fill(place: &Place) -> Result<()> {
    place.make_netns()?;
    server::start(place)?;
    setup::apply(place)
}

/// A line of progress on standard error.
#[expect(clippy::print_stderr, reason = "progress of a developer's command")]
fn say(line: &str) {
    eprintln!("testbed: {line}");
}
