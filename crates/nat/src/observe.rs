//! What is there: our table as the kernel lists it.

use std::collections::BTreeMap;

use crate::apply::TableName;
use crate::netlink::{Connection, FLAG_ACK, FLAG_DUMP, Malformed, Message, NetlinkError, Writer};
use crate::nft::{
    Chain, Element, Expr, FAMILY_INET, Key, Table, attr, kind, read_chain, read_elements, read_rule,
    read_set, write_key,
};
use crate::plan::layout::MARKER_STEM;

/// `ENOENT`: no such table.
const NOT_FOUND: i32 = 2;

/// Our table.
#[derive(Debug, Clone)]
pub(crate) enum Observed {
    /// There is none of its name.
    Absent,
    /// It is there, and carries our mark or the handle that ours has.
    Ours(Table),
}

/// What the kernel calls a table by: no other one of the namespace ever has the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Handle(u64);

/// Why a table cannot be taken for ours.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ObserveError {
    /// It does not carry our mark, and is none that is known to be ours.
    #[error("the table is somebody else's")]
    Foreign,
    /// It cannot be read.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// The number of the ruleset's present state: the kernel counts every transaction of this namespace.
pub(crate) fn generation(connection: &mut Connection) -> Result<u32, NetlinkError> {
    let mut request = Writer::default();
    request.netfilter(kind::GET_GENERATION, FLAG_ACK, 0, 0, |_| {});
    let mut generation = None;
    connection.request(&mut request, |message| {
        if message.kind == kind::NEW_GENERATION {
            generation = Some(message.attributes()?.need(attr::GENERATION_ID, "generation")?.u32()?);
        }
        Ok(())
    })?;
    generation.ok_or(NetlinkError::Malformed(Malformed("generation")))
}

/// How often a table is read anew that went away half-way.
const TRIES: u32 = 20;

/// Reads a table and everything in it, and nothing of any other. The one that is `known` is ours whatever somebody has
/// taken out of it; of one that is there and ours it becomes the handle.
pub(crate) fn table(
    connection: &mut Connection,
    name: &str,
    known: &mut Option<Handle>,
) -> Result<Observed, ObserveError> {
    for _ in 0..TRIES {
        match read(connection, name, known) {
            Err(ObserveError::Netlink(error)) if error.errno() == Some(NOT_FOUND) => {}
            done => return done,
        }
    }
    Err(NetlinkError::Unsteady.into())
}

fn read(
    connection: &mut Connection,
    name: &str,
    known: &mut Option<Handle>,
) -> Result<Observed, ObserveError> {
    let Some(handle) = handle(connection, name)? else { return Ok(Observed::Absent) };
    let mut table = sets(connection, name)?;
    let is_marked = table.sets.keys().any(|set| set.starts_with(MARKER_STEM));
    if !is_marked && *known != Some(handle) {
        return Err(ObserveError::Foreign);
    }
    for (set, content) in &mut table.sets {
        // By a name that was not UTF-8 it cannot be asked for, and it is none of ours anyway.
        if !set.contains(char::REPLACEMENT_CHARACTER) {
            content.elements = elements(connection, name, set)?;
        }
    }
    table.chains = chains(connection, name)?;
    for (chain, rule) in rules(connection, name)? {
        if let Some(chain) = table.chains.get_mut(&chain) {
            chain.rules.push(rule);
        }
    }
    *known = Some(handle);
    Ok(Observed::Ours(table))
}

/// The handle of the table of this name; `None`: there is none.
pub(crate) fn handle(connection: &mut Connection, name: &str) -> Result<Option<Handle>, NetlinkError> {
    let mut request = Writer::default();
    request.netfilter(kind::GET_TABLE, FLAG_ACK, FAMILY_INET, 0, |out| out.text(attr::TABLE, name));
    let mut handle = None;
    let done = connection.request(&mut request, |message| {
        if message.kind == kind::NEW_TABLE {
            let number = message.attributes()?.need(attr::TABLE_HANDLE, "handle of a table")?;
            handle = Some(Handle(number.u64()?));
        }
        Ok(())
    });
    match done {
        Err(error) if error.errno() == Some(NOT_FOUND) => Ok(None),
        Err(error) => Err(error),
        Ok(()) => Ok(handle),
    }
}

/// A request for a list of what stands in a table. Kernels that do not filter by table send the lists of
/// all, so what comes is filtered once more.
fn list(kind: u16, table: &str, fill: impl FnOnce(&mut Writer)) -> Writer {
    let mut request = Writer::default();
    request.netfilter(kind, FLAG_DUMP, FAMILY_INET, 0, |out| {
        out.text(attr::TABLE, table);
        fill(out);
    });
    request
}

/// The tables of this namespace that have a name of ours.
pub(crate) fn tables(connection: &mut Connection) -> Result<Vec<TableName>, NetlinkError> {
    let mut request = Writer::default();
    request.netfilter(kind::GET_TABLE, FLAG_DUMP, FAMILY_INET, 0, |_| {});
    connection.dump(&mut request, Vec::new, |tables, message| {
        if message.kind == kind::NEW_TABLE && message.family() == FAMILY_INET {
            let name = message.attributes()?.need(attr::TABLE, "table")?.text();
            tables.extend(TableName::new(&name));
        }
        Ok(())
    })
}

/// Whether what a message describes stands in the table. Nothing else of it has to be understood if not.
fn is_of(message: &Message<'_>, table: &str) -> Result<bool, Malformed> {
    let found = message.attributes()?.find(attr::TABLE)?;
    Ok(found.is_some_and(|found| found.text() == table))
}

fn sets(connection: &mut Connection, name: &str) -> Result<Table, NetlinkError> {
    connection.dump(&mut list(kind::GET_SET, name, |_| {}), Table::default, |table, message| {
        if message.kind == kind::NEW_SET && is_of(&message, name)? {
            let seen = read_set(message.attributes()?)?;
            table.sets.insert(seen.name, seen.object);
        }
        Ok(())
    })
}

fn elements(
    connection: &mut Connection,
    name: &str,
    set: &str,
) -> Result<BTreeMap<Key, Element>, NetlinkError> {
    let mut request = list(kind::GET_ELEMENT, name, |out| out.text(attr::ELEMENTS_SET, set));
    let begin = BTreeMap::new;
    connection.dump(&mut request, begin, |elements, message| {
        if message.kind == kind::NEW_ELEMENT && is_of(&message, name)? {
            let seen = read_elements(message.attributes()?)?;
            if seen.name == set {
                elements.extend(seen.object);
            }
        }
        Ok(())
    })
}

/// One element of a set; `None` when it is not there.
pub(crate) fn element(
    connection: &mut Connection,
    name: &str,
    set: &str,
    key: &Key,
) -> Result<Option<Element>, NetlinkError> {
    let mut request = Writer::default();
    request.netfilter(kind::GET_ELEMENT, FLAG_ACK, FAMILY_INET, 0, |out| {
        out.text(attr::TABLE, name);
        out.text(attr::ELEMENTS_SET, set);
        out.nested(attr::ELEMENTS_LIST, |out| out.nested(attr::LIST_ITEM, |out| write_key(out, key)));
    });
    let mut found = None;
    let done = connection.request(&mut request, |message| {
        if message.kind == kind::NEW_ELEMENT && is_of(&message, name)? {
            let seen = read_elements(message.attributes()?)?;
            found = seen.object.into_iter().find(|(other, _)| other == key).map(|(_, element)| element);
        }
        Ok(())
    });
    match done {
        Err(error) if error.errno() != Some(NOT_FOUND) => Err(error),
        _ => Ok(found),
    }
}

fn chains(connection: &mut Connection, name: &str) -> Result<BTreeMap<String, Chain>, NetlinkError> {
    let begin = BTreeMap::new;
    connection.dump(&mut list(kind::GET_CHAIN, name, |_| {}), begin, |chains, message| {
        if message.kind == kind::NEW_CHAIN && is_of(&message, name)? {
            let seen = read_chain(message.attributes()?)?;
            chains.insert(seen.name, seen.object);
        }
        Ok(())
    })
}

/// Every rule with its chain's name, those of one chain in order.
fn rules(connection: &mut Connection, name: &str) -> Result<Vec<(String, Vec<Expr>)>, NetlinkError> {
    connection.dump(&mut list(kind::GET_RULE, name, |_| {}), Vec::new, |rules, message| {
        if message.kind == kind::NEW_RULE && is_of(&message, name)? {
            let seen = read_rule(message.attributes()?)?;
            rules.push((seen.name, seen.object));
        }
        Ok(())
    })
}
