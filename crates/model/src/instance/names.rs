//! What each provider allows as the name of an instance.

use super::{INSTANCE, InstanceName, Provider};
use crate::at::{RefError, RefErrorKind};
use crate::text::quote;

/// The canonical form of `name` by the rule of `provider`. Positions are those of `name`.
pub(super) fn provider_name(provider: Provider, name: &str) -> Result<InstanceName, RefError> {
    match provider {
        Provider::Incus | Provider::Lxd => server_name(name),
        Provider::Netns if name.starts_with('/') => netns_path(name),
        Provider::Netns => netns_name(name),
        Provider::Pid => pid(name),
    }
    .map(InstanceName)
}

/// Rule of Incus and LXD: 1 to 63 ASCII letters, digits and `-`, neither first nor last a `-`, not a
/// number (tried on Incus 6.0).
fn server_name(name: &str) -> Result<String, RefError> {
    const MAX: usize = 63;
    let fail = |position, kind| Err(RefError::new(name, position, kind));
    if let Some((position, c)) = name.char_indices().find(|(_, c)| !c.is_ascii_alphanumeric() && *c != '-') {
        return fail(position, RefErrorKind::Character { what: INSTANCE, found: quote(&c.to_string()) });
    }
    if name.len() > MAX {
        return fail(MAX, RefErrorKind::TooLong { what: INSTANCE, max: MAX, unit: "characters" });
    }
    if name.starts_with('-') {
        return fail(0, RefErrorKind::Begin { what: INSTANCE, found: quote("-") });
    }
    if name.ends_with('-') {
        return fail(name.len() - 1, RefErrorKind::End { what: INSTANCE, found: quote("-") });
    }
    if name.bytes().all(|byte| byte.is_ascii_digit()) {
        return fail(0, RefErrorKind::Reserved { what: "an instance name", found: quote(name) });
    }
    Ok(name.to_owned())
}

/// A file name below `/run/netns`: no `/`, not `.` or `..`, at most 255 bytes (`NAME_MAX`).
fn netns_name(name: &str) -> Result<String, RefError> {
    const MAX: usize = 255;
    let fail = |position, kind| Err(RefError::new(name, position, kind));
    if let Some(position) = name.find('/') {
        return fail(position, RefErrorKind::Character { what: INSTANCE, found: quote("/") });
    }
    if name.len() > MAX {
        return fail(MAX, RefErrorKind::TooLong { what: INSTANCE, max: MAX, unit: "bytes" });
    }
    if matches!(name, "." | "..") {
        return fail(0, RefErrorKind::Reserved { what: "a network namespace name", found: quote(name) });
    }
    Ok(name.to_owned())
}

/// A path of a network namespace; one directly below `/run/netns` becomes its name, so that a
/// namespace has one key.
fn netns_path(path: &str) -> Result<String, RefError> {
    let fail = |position, kind| Err(RefError::new(path, position, kind));
    let mut normal = String::with_capacity(path.len());
    let mut place = 0;
    let mut ends_in_name = false;
    for component in path.split('/') {
        ends_in_name = !matches!(component, "" | ".");
        if component == ".." {
            return fail(place, RefErrorKind::PathParent);
        }
        if ends_in_name {
            normal.push('/');
            normal.push_str(component);
        }
        place += component.len() + 1;
    }
    if !ends_in_name {
        return fail(path.len() - 1, RefErrorKind::PathDirectory);
    }
    let name = ["/run/netns/", "/var/run/netns/"].iter().find_map(|dir| normal.strip_prefix(dir));
    match name {
        Some(name) if netns_name(name).is_ok() => Ok(name.to_owned()),
        Some(_) | None => Ok(normal),
    }
}

/// A process id, 1 to 4194304 (`PID_MAX_LIMIT`), without leading zeros.
fn pid(name: &str) -> Result<String, RefError> {
    const MAX: u32 = 4_194_304;
    let digits = name.bytes().all(|byte| byte.is_ascii_digit());
    match name.parse::<u32>() {
        Ok(pid) if digits && (1..=MAX).contains(&pid) => Ok(pid.to_string()),
        Ok(_) | Err(_) => Err(RefError::new(name, 0, RefErrorKind::Pid(quote(name)))),
    }
}
