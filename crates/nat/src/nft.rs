//! The part of nf_tables that is used here: tables, chains, rules, sets and maps as values, written
//! to and read from netlink. What is read may be anybody's work; what is not understood is kept as
//! unknown and never equals anything of ours.
//!
//! No set carries user data: nft 1.0.6 ends with a fault on what nft 1.1 writes there, and the types
//! of keys and values say all that a listing needs.

mod batch;
mod expr;
mod read;
mod table;

pub(crate) use batch::{Batch, write_key};
pub(crate) use expr::{CtKey, Expr, Fib, MetaKey, PayloadBase, Register, Verdict};
pub(crate) use read::{read_chain, read_elements, read_rule, read_set};
pub(crate) use table::{Chain, Count, Element, Hook, HookKind, Key, Set, SetShape, Table, TypeId};

/// `NFPROTO_INET`: a table for both families.
pub(crate) const FAMILY_INET: u8 = 1;

/// `NFNL_SUBSYS_NFTABLES`, in the upper byte of a message's type.
pub(crate) const SUBSYSTEM: u16 = 10 << 8;

/// Types of messages (`enum nf_tables_msg_types`), with the subsystem.
pub(crate) mod kind {
    use super::SUBSYSTEM;

    pub(crate) const NEW_TABLE: u16 = SUBSYSTEM;
    pub(crate) const GET_TABLE: u16 = SUBSYSTEM | 1;
    pub(crate) const DEL_TABLE: u16 = SUBSYSTEM | 2;
    pub(crate) const NEW_CHAIN: u16 = SUBSYSTEM | 3;
    pub(crate) const GET_CHAIN: u16 = SUBSYSTEM | 4;
    pub(crate) const NEW_RULE: u16 = SUBSYSTEM | 6;
    pub(crate) const GET_RULE: u16 = SUBSYSTEM | 7;
    pub(crate) const NEW_SET: u16 = SUBSYSTEM | 9;
    pub(crate) const GET_SET: u16 = SUBSYSTEM | 10;
    pub(crate) const NEW_ELEMENT: u16 = SUBSYSTEM | 12;
    pub(crate) const GET_ELEMENT: u16 = SUBSYSTEM | 13;
    pub(crate) const DEL_ELEMENT: u16 = SUBSYSTEM | 14;
    pub(crate) const NEW_GENERATION: u16 = SUBSYSTEM | 15;
    pub(crate) const GET_GENERATION: u16 = SUBSYSTEM | 16;
}

/// Attributes (the enums of linux/netfilter/nf_tables.h), by the object they describe.
pub(crate) mod attr {
    /// Of every object of a table: the table's name.
    pub(crate) const TABLE: u16 = 1;

    pub(crate) const TABLE_FLAGS: u16 = 2;
    pub(crate) const TABLE_HANDLE: u16 = 4;

    pub(crate) const CHAIN_NAME: u16 = 3;
    pub(crate) const CHAIN_HOOK: u16 = 4;
    pub(crate) const CHAIN_POLICY: u16 = 5;
    pub(crate) const CHAIN_TYPE: u16 = 7;
    pub(crate) const HOOK_NUMBER: u16 = 1;
    pub(crate) const HOOK_PRIORITY: u16 = 2;

    pub(crate) const RULE_CHAIN: u16 = 2;
    pub(crate) const RULE_EXPRESSIONS: u16 = 4;

    pub(crate) const LIST_ITEM: u16 = 1;
    pub(crate) const EXPR_NAME: u16 = 1;
    pub(crate) const EXPR_DATA: u16 = 2;

    pub(crate) const SET_NAME: u16 = 2;
    pub(crate) const SET_FLAGS: u16 = 3;
    pub(crate) const SET_KEY_TYPE: u16 = 4;
    pub(crate) const SET_KEY_LENGTH: u16 = 5;
    pub(crate) const SET_DATA_TYPE: u16 = 6;
    pub(crate) const SET_DATA_LENGTH: u16 = 7;
    pub(crate) const SET_DESCRIPTION: u16 = 9;
    pub(crate) const SET_ID: u16 = 10;
    pub(crate) const SET_EXPR: u16 = 17;
    pub(crate) const SET_DESCRIPTION_CONCAT: u16 = 2;
    pub(crate) const SET_FIELD_LENGTH: u16 = 1;

    pub(crate) const ELEMENTS_SET: u16 = 2;
    pub(crate) const ELEMENTS_LIST: u16 = 3;
    pub(crate) const ELEMENT_KEY: u16 = 1;
    pub(crate) const ELEMENT_DATA: u16 = 2;
    pub(crate) const ELEMENT_EXPR: u16 = 7;
    pub(crate) const ELEMENT_KEY_END: u16 = 10;
    pub(crate) const DATA_VALUE: u16 = 1;
    pub(crate) const DATA_VERDICT: u16 = 2;
    pub(crate) const VERDICT_CODE: u16 = 1;
    pub(crate) const VERDICT_CHAIN: u16 = 2;

    pub(crate) const COUNTER_BYTES: u16 = 1;
    pub(crate) const COUNTER_PACKETS: u16 = 2;

    pub(crate) const GENERATION_ID: u16 = 1;
    /// Of a batch's first message: the generation it was made for.
    pub(crate) const BATCH_GENERATION: u16 = 1;
}

#[cfg(test)]
mod tests;
