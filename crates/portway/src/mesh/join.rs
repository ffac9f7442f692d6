//! `portway mesh join`, `device rotate` and `export`: this host as a device of an organization.

use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;

use portway_mesh::org::export::wg_quick;
use portway_mesh::org::membership::{Membership, MembershipError, Wish};
use portway_mesh::org::{ClientError, DeviceName, OrgName, RegistrarUrl, Token};
use portway_mesh::spec::Endpoint;
use portway_model::Port;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{clash, denied, state_dir};
use crate::cli::mesh::orgs::{DeviceRotateArgs, ExportArgs, JoinArgs};
use crate::failure::{Outcome, Stop, chain};
use crate::output::{Format, Out, csv};
use crate::session::runtime;

/// More than a token and its line end.
const TOKEN_MAX_BYTES: u64 = 1024;

/// What this host is now.
#[derive(Serialize)]
struct Joined {
    organization: String,
    name: String,
    ip4: String,
    ip6: String,
    key: String,
    devices: usize,
    folder: String,
}

/// How a host would join.
pub(super) struct Joining<'a> {
    pub(super) url: &'a str,
    /// Its token, or `-`.
    pub(super) key: &'a str,
    pub(super) name: Option<&'a str>,
    pub(super) request_ip: Option<std::net::Ipv4Addr>,
    pub(super) endpoints: &'a [String],
}

/// Below which memberships are.
pub(super) fn mesh_dir() -> Outcome<PathBuf> {
    Ok(state_dir()?.join("mesh"))
}

/// Joins, or finds that it has joined.
pub(super) fn join(args: &JoinArgs) -> Outcome {
    let joining = Joining {
        url: &args.url,
        key: &args.key,
        name: args.name.as_deref(),
        request_ip: args.request_ip,
        endpoints: &args.endpoints,
    };
    let member = Ready::read(&joining)?.join()?.map_err(|error| not_member(&error))?;
    warn_of_clash(&member);
    print(&member, args.format.format, |Joined { organization, name, ip4, ip6, devices, .. }| {
        format!("{name} of {organization}: {ip4}, {ip6}; devices: {devices}")
    })
}

/// Gives this device a new key.
pub(super) fn rotate(args: &DeviceRotateArgs) -> Outcome {
    let org: OrgName = args.org.parse().map_err(|error| Stop::usage(format!("--org: {error}")))?;
    let dir = mesh_dir()?;
    let rotated = runtime()?.block_on(Membership::rotate(&dir, &org));
    let member = rotated.map_err(|error| not_member(&error))?;
    print(&member, args.format.format, |Joined { organization, name, ip4, ip6, key, .. }| {
        format!(
            "{name} of {organization} has the key {key}; its addresses stay {ip4} and {ip6}\n\
             a network that runs takes it up by itself; a file that was exported has the old key"
        )
    })
}

/// What this host is, for people in these words.
fn print(member: &Membership, format: Format, words: impl FnOnce(&Joined) -> String) -> Outcome {
    let Some(own) = member.own() else { return Err(not_member(&MembershipError::Missing)) };
    let joined = Joined {
        organization: own.org.to_string(),
        name: own.name.to_string(),
        ip4: own.ip4.to_string(),
        ip6: own.ip6.to_string(),
        key: own.key.to_string(),
        devices: member.view().devices().count(),
        folder: member.folder().display().to_string(),
    };
    let text = |_| words(&joined) + "\n";
    Out::new().show(format, &joined, text, || {
        let header = csv::line(["organization", "name", "ip4", "ip6", "key"]);
        let Joined { organization, name, ip4, ip6, key, .. } = &joined;
        header + &csv::line([organization, name, ip4, ip6, key])
    })
}

/// Says what of the organization's addresses this host has, too: while another block may still be chosen.
fn warn_of_clash(member: &Membership) {
    let pool = &member.view().head().settings.pool;
    if let Some(clash) = clash::with_host([Some(pool.block()), pool.block6()].into_iter().flatten()) {
        // Nobody may read along.
        let _unheard = writeln!(io::stderr(), "warning: {clash}\nhint: {}", clash::MEND);
    }
}

/// Joins, if it can; who has joined already is content with what is known while the registrar is away, and says so.
pub(super) fn join_or_know(
    joining: &Joining<'_>,
    org: Option<&OrgName>,
    say: impl Fn(&str),
) -> Outcome<Membership> {
    let ready = Ready::read(joining)?;
    let of_token = &ready.token.trust.org;
    if let Some(org) = org.filter(|org| *org != of_token) {
        return Err(Stop::usage(format!("--key is of organization {of_token}, and --org says {org}")));
    }
    // One that has too much to do, or no store, is of as little use.
    let away = |error: &MembershipError| {
        let MembershipError::Client(error) = error else { return false };
        matches!(
            error,
            ClientError::Unreachable { .. } | ClientError::Refused { status: 429 | 500..=599, .. }
        )
    };
    match ready.join()? {
        Err(error) if away(&error) => {
            let known = Membership::load(&ready.dir, of_token).map_err(|_| not_member(&error))?;
            say(&chain(&error));
            Ok(known)
        }
        joined => joined.map_err(|error| not_member(&error)),
    }
}

/// What is said of joining, read.
struct Ready {
    dir: PathBuf,
    url: RegistrarUrl,
    token: Token,
    wish: Wish,
}

impl Ready {
    fn read(joining: &Joining<'_>) -> Outcome<Ready> {
        let Joining { url, key, name: said, request_ip, endpoints } = *joining;
        let url: RegistrarUrl =
            url.parse().map_err(|error| Stop::usage(format!("registrar {url}: {error}")))?;
        let token = token(key)?;
        let endpoints = endpoints.iter().map(|text| endpoint(text)).collect::<Outcome<_>>()?;
        let wish = Wish { name: name(said)?, request_ip, endpoints };
        let dir = mesh_dir()?;
        // A name is had once: it is not to be thought changed.
        if said.is_some()
            && let Ok(known) = Membership::load(&dir, &token.trust.org)
            && let Some(own) = known.own()
            && own.name != wish.name
        {
            let text = format!("this device has joined {} as {}, not as {}", own.org, own.name, wish.name);
            return Err(Stop::refused(text).hint("a name stays; another one needs a new key pair"));
        }
        Ok(Ready { dir, url, token, wish })
    }

    fn join(&self) -> Outcome<Result<Membership, MembershipError>> {
        Ok(runtime()?.block_on(Membership::join(&self.dir, &self.url, &self.token, &self.wish)))
    }
}

fn token(text: &str) -> Outcome<Token> {
    let mut read = Zeroizing::new(String::new());
    let text = if text == "-" {
        let done = io::stdin().take(TOKEN_MAX_BYTES).read_to_string(&mut read);
        done.map_err(|error| Stop::usage(format!("cannot read standard input: {}", chain(&error))))?;
        read.as_str()
    } else {
        text
    };
    text.parse().map_err(|error| Stop::usage(format!("--key: {error}")))
}

fn name(said: Option<&str>) -> Outcome<DeviceName> {
    if let Some(text) = said {
        return text.parse().map_err(|error| Stop::usage(format!("--name: {error}")));
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    DeviceName::of_host(&host)
        .ok_or_else(|| Stop::usage("the name of this host is none for a device").hint("give one with --name"))
}

fn endpoint(text: &str) -> Outcome<Endpoint> {
    portway_mesh::org::endpoint(text).ok_or_else(|| {
        Stop::usage(format!("--endpoint {text}: expected HOST:PORT, IPv6 addresses in brackets"))
    })
}

pub(super) fn not_member(error: &MembershipError) -> Stop {
    match error {
        MembershipError::Client(error) => denied(error),
        MembershipError::NotJoined(_) => Stop::of(portway_control::api::FailureKind::Missing, chain(error))
            .hint("portway mesh join URL --key TOKEN"),
        error => Stop::refused(chain(error)),
    }
}

/// Prints the file.
pub(super) fn export(args: &ExportArgs) -> Outcome {
    let org: OrgName = args.org.parse().map_err(|error| Stop::usage(format!("--org: {error}")))?;
    let member = Membership::load(&mesh_dir()?, &org).map_err(|error| not_member(&error))?;
    let port = args.listen_port.and_then(|port| Port::new(port.get()));
    warn_of_clash(&member);
    match wg_quick(&member, port) {
        Some(text) => match &args.output {
            Some(path) => super::genconf::write(path, &text),
            None => Out::new().text(&text),
        },
        None => Err(Stop::refused(format!("this device was revoked in organization {org}"))),
    }
}
