//! What the kernel lists, as values.

use std::collections::BTreeMap;

use super::expr::read_value;
use super::{Chain, Count, Element, Expr, Hook, HookKind, Key, Set, SetShape, attr};
use crate::netlink::{Attributes, Malformed};

/// An object that was read: the table it stands in, its own name, itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen<T> {
    /// Name of the table.
    pub(crate) table: String,
    /// Name of the object; of a rule, of its chain; of elements, of their set.
    pub(crate) name: String,
    /// The object.
    pub(crate) object: T,
}

fn seen<T>(attributes: Attributes<'_>, name: u16, object: T) -> Result<Seen<T>, Malformed> {
    let table = attributes.need(attr::TABLE, "table")?.text();
    Ok(Seen { table, name: attributes.need(name, "name")?.text(), object })
}

/// A chain, without its rules.
pub(crate) fn read_chain(attributes: Attributes<'_>) -> Result<Seen<Chain>, Malformed> {
    let hook = match attributes.find(attr::CHAIN_HOOK)? {
        Some(hook) => Some(read_hook(attributes, hook.nested())?),
        None => None,
    };
    seen(attributes, attr::CHAIN_NAME, Chain { hook, rules: Vec::new() })
}

fn read_hook(chain: Attributes<'_>, hook: Attributes<'_>) -> Result<Hook, Malformed> {
    let kind = match chain.need(attr::CHAIN_TYPE, "chain type")?.text().as_str() {
        "nat" => HookKind::Nat,
        "route" => HookKind::Route,
        _ => HookKind::Filter,
    };
    let priority = hook.need(attr::HOOK_PRIORITY, "priority")?.u32()?;
    Ok(Hook {
        kind,
        number: hook.need(attr::HOOK_NUMBER, "hook")?.u32()?,
        priority: i32::from_be_bytes(priority.to_be_bytes()),
        drops: chain.find(attr::CHAIN_POLICY)?.map_or(Ok(1), |policy| policy.u32())? == 0,
    })
}

/// A rule, and its chain's name.
pub(crate) fn read_rule(attributes: Attributes<'_>) -> Result<Seen<Vec<Expr>>, Malformed> {
    let mut rule = Vec::new();
    if let Some(list) = attributes.find(attr::RULE_EXPRESSIONS)? {
        for item in list.nested() {
            rule.push(Expr::read(item?.nested())?);
        }
    }
    seen(attributes, attr::RULE_CHAIN, rule)
}

/// A set, without its elements.
pub(crate) fn read_set(attributes: Attributes<'_>) -> Result<Seen<Set>, Malformed> {
    let word = |kind| attributes.find(kind)?.map_or(Ok(0), |found| found.u32());
    let data = match attributes.find(attr::SET_DATA_TYPE)? {
        Some(kind) => Some((kind.u32()?, word(attr::SET_DATA_LENGTH)?)),
        None => None,
    };
    let mut fields = Vec::new();
    if let Some(description) = attributes.find(attr::SET_DESCRIPTION)?
        && let Some(list) = description.nested().find(attr::SET_DESCRIPTION_CONCAT)?
    {
        for item in list.nested() {
            fields.push(item?.nested().need(attr::SET_FIELD_LENGTH, "length of a field")?.u32()?);
        }
    }
    let counts = match attributes.find(attr::SET_EXPR)? {
        Some(expr) => Expr::read(expr.nested())? == Expr::Counter,
        None => false,
    };
    let shape = SetShape {
        flags: word(attr::SET_FLAGS)?,
        key_type: word(attr::SET_KEY_TYPE)?,
        key_bytes: word(attr::SET_KEY_LENGTH)?,
        data,
        fields,
        counts,
    };
    seen(attributes, attr::SET_NAME, Set::empty(shape))
}

/// Some elements, and their set's name.
pub(crate) fn read_elements(attributes: Attributes<'_>) -> Result<Seen<BTreeMap<Key, Element>>, Malformed> {
    let mut elements = BTreeMap::new();
    if let Some(list) = attributes.find(attr::ELEMENTS_LIST)? {
        for item in list.nested() {
            let (key, element) = read_element(item?.nested())?;
            elements.insert(key, element);
        }
    }
    seen(attributes, attr::ELEMENTS_SET, elements)
}

fn read_element(attributes: Attributes<'_>) -> Result<(Key, Element), Malformed> {
    let first = read_value(attributes.need(attr::ELEMENT_KEY, "key")?)?;
    let last = attributes.find(attr::ELEMENT_KEY_END)?.map(read_value).transpose()?;
    let data = match attributes.find(attr::ELEMENT_DATA)? {
        // A verdict, in a map that is none of ours.
        Some(data) => data.nested().find(attr::DATA_VALUE)?.map_or(Vec::new(), |value| value.value.to_vec()),
        None => Vec::new(),
    };
    let count = match attributes.find(attr::ELEMENT_EXPR)? {
        Some(expr) => read_count(expr.nested())?,
        None => Count::default(),
    };
    Ok((Key { first, last }, Element { data, count }))
}

fn read_count(expr: Attributes<'_>) -> Result<Count, Malformed> {
    if Expr::read(expr)? != Expr::Counter {
        return Ok(Count::default());
    }
    let Some(data) = expr.find(attr::EXPR_DATA)? else { return Ok(Count::default()) };
    let number = |kind| data.nested().find(kind)?.map_or(Ok(0), |found| found.u64());
    Ok(Count { packets: number(attr::COUNTER_PACKETS)?, bytes: number(attr::COUNTER_BYTES)? })
}
