//! `[Interface]` and `[Peer]` as wg-quick(8) and wg(8) have them. Several `[Interface]` sections are one, as there.

use portway_model::nearest;

use super::draft::{Draft, PeerDraft, once, shown};
use super::error::SpecError;
use super::ini::{Dialect, Section};
use super::place::{Field, Place, Warning};

/// Keys of `[Interface]` that are used.
const INTERFACE: &[&str] = &["PrivateKey", "Address", "ListenPort", "MTU", "DNS"];

/// Keys of `[Interface]` that concern an interface of the host, which there is none of.
const IGNORED: &[&str] = &["FwMark", "Table", "PreUp", "PostUp", "PreDown", "PostDown", "SaveConfig"];

/// Keys of `[Interface]` in files of wireproxy: addresses that are pinged for its health page.
const CHECKS: &[&str] = &["CheckAlive", "CheckAliveInterval"];

/// Keys of `[Peer]`.
const PEER: &[&str] = &["PublicKey", "PresharedKey", "AllowedIPs", "Endpoint", "PersistentKeepalive"];

/// Reads these sections into `draft`; gives those back that are neither.
pub(super) fn read(
    sections: Vec<Section>,
    dialect: Dialect,
    draft: &mut Draft,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<Section>, SpecError> {
    let mut others = Vec::new();
    let mut ignored: Vec<(String, Place)> = Vec::new();
    for section in sections {
        if section.name.eq_ignore_ascii_case("interface") {
            interface(section, dialect, draft, &mut ignored)?;
        } else if section.name.eq_ignore_ascii_case("peer") {
            draft.peers.push(peer(section, dialect)?);
        } else {
            others.push(section);
        }
    }
    if let Some((_, place)) = ignored.first() {
        let mut names: Vec<&str> = ignored.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let verb = if names.len() == 1 { "is" } else { "are" };
        let message = format!("{} {verb} ignored: there is no interface of the host", names.join(", "));
        warnings.push(Warning { place: place.clone(), message });
    }
    Ok(others)
}

fn interface(
    section: Section,
    dialect: Dialect,
    draft: &mut Draft,
    ignored: &mut Vec<(String, Place)>,
) -> Result<(), SpecError> {
    for (key, field) in section.pairs {
        let canonical = |known: &&&str| known.eq_ignore_ascii_case(&key);
        let checks: &[&str] = if dialect == Dialect::Wireproxy { CHECKS } else { &[] };
        if let Some(name) = IGNORED.iter().chain(checks).find(canonical) {
            ignored.push(((*name).to_owned(), field.place));
            continue;
        }
        let name = INTERFACE.iter().find(canonical).copied().unwrap_or_default();
        match name {
            "PrivateKey" => once(&mut draft.private_key, name, field)?,
            "Address" => draft.addresses.push(field),
            "ListenPort" => once(&mut draft.listen_port, name, field)?,
            "MTU" => once(&mut draft.mtu, name, field)?,
            "DNS" => draft.dns.push(field),
            _ => {
                let known = INTERFACE.iter().chain(IGNORED).copied();
                return Err(unknown(&key, &field, "[Interface]", known, PEER));
            }
        }
    }
    Ok(())
}

fn peer(section: Section, dialect: Dialect) -> Result<PeerDraft, SpecError> {
    let mut peer = PeerDraft::at(section.place.clone());
    for (key, field) in section.pairs {
        let name = PEER.iter().find(|known| known.eq_ignore_ascii_case(&key)).copied().unwrap_or_default();
        match name {
            "PublicKey" => once(&mut peer.public_key, name, field)?,
            "PresharedKey" => once(&mut peer.preshared_key, name, field)?,
            "AllowedIPs" => peer.allowed_ips.push(field),
            "Endpoint" => once(&mut peer.endpoint, name, field)?,
            "PersistentKeepalive" => once(&mut peer.keepalive, name, field)?,
            _ => return Err(unknown(&key, &field, "[Peer]", PEER.iter().copied(), INTERFACE)),
        }
    }
    if dialect == Dialect::Wireproxy && peer.allowed_ips.is_empty() {
        // There a peer without any has everything.
        peer.allowed_ips.push(Field::new(section.place, "0.0.0.0/0, ::/0"));
    }
    Ok(peer)
}

/// A key nobody knows; a hint when it is near one, or belongs into the other section.
fn unknown<'a>(
    key: &str,
    field: &Field,
    section: &str,
    known: impl Iterator<Item = &'a str>,
    other: &[&str],
) -> SpecError {
    let error = SpecError::wrong(&field.place, format!("unknown key {} in {section}", shown(key)));
    if let Some(name) = other.iter().find(|name| name.eq_ignore_ascii_case(key)) {
        let right = if section == "[Peer]" { "[Interface]" } else { "[Peer]" };
        return error.with_hint(format!("{name} stands in {right}"));
    }
    match nearest(key, known) {
        Some(name) => error.with_hint(format!("did you mean {name}?")),
        None => error,
    }
}

/// Refuses what stands in no section, and sections nobody knows.
pub(super) fn refuse(others: &[Section]) -> Result<(), SpecError> {
    for section in others {
        if !section.name.is_empty() {
            let message = format!("unknown section {}, expected [Interface] or [Peer]", shown(&section.name));
            return Err(SpecError::wrong(&section.place, message));
        }
        if let Some((key, field)) = section.pairs.first() {
            let message = format!("{} stands before the first section", shown(key));
            return Err(SpecError::wrong(&field.place, message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
