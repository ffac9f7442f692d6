//! A transaction: everything in it happens, or nothing.

use super::expr::write_value;
use super::{Chain, Count, Element, Expr, FAMILY_INET, Key, SUBSYSTEM, Set, Table, attr, kind};
use crate::netlink::{FLAG_ACK, FLAG_APPEND, FLAG_CREATE, FLAG_EXCL, Writer};

/// `NFNL_MSG_BATCH_BEGIN` and `_END`, whose resource is the subsystem.
const BEGIN: u16 = 16;
const END: u16 = 17;

/// Elements of one message stay below this: an attribute's length has 16 bits.
const LIST_BYTES: usize = 48 << 10;

/// `NF_DROP`, `NF_ACCEPT`: the policies of a chain.
const POLICIES: [u32; 2] = [1, 0];

/// A transaction under construction.
#[derive(Debug)]
pub(crate) struct Batch {
    out: Writer,
    table: String,
    sets: u32,
}

impl Batch {
    /// An empty one for a table, to be refused if the ruleset is not the one of `generation`.
    pub(crate) fn new(table: &str, generation: Option<u32>) -> Self {
        let mut out = Writer::default();
        out.netfilter(BEGIN, 0, 0, SUBSYSTEM >> 8, |out| {
            if let Some(generation) = generation {
                out.u32(attr::BATCH_GENERATION, generation);
            }
        });
        Self { out, table: table.to_owned(), sets: 0 }
    }

    /// The messages.
    pub(crate) fn finish(mut self) -> Writer {
        self.out.netfilter(END, 0, 0, SUBSYSTEM >> 8, |_| {});
        self.out
    }

    fn message(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Writer)) {
        let table = self.table.clone();
        self.out.netfilter(kind, flags | FLAG_ACK, FAMILY_INET, 0, |out| {
            out.text(attr::TABLE, &table);
            fill(out);
        });
    }

    /// Deletes the table with all that is in it.
    pub(crate) fn delete_table(&mut self) {
        self.message(kind::DEL_TABLE, 0, |_| {});
    }

    /// Makes the table, which must not be there, and all that is in it.
    pub(crate) fn create_table(&mut self, table: &Table) {
        self.message(kind::NEW_TABLE, FLAG_CREATE | FLAG_EXCL, |out| out.u32(attr::TABLE_FLAGS, 0));
        for (name, set) in &table.sets {
            self.create_set(name, set);
        }
        for (name, chain) in &table.chains {
            self.create_chain(name, chain);
        }
        for (name, chain) in &table.chains {
            for rule in &chain.rules {
                self.append_rule(name, rule);
            }
        }
        // After the rules: a kernel checks the whole table for loops once per rule, and walks the
        // elements of its maps.
        for (name, set) in &table.sets {
            let elements = set.elements.iter();
            self.add_elements(name, elements.map(|(key, element)| (key, element, set.shape.counts)));
        }
    }

    fn create_chain(&mut self, name: &str, chain: &Chain) {
        self.message(kind::NEW_CHAIN, FLAG_CREATE | FLAG_EXCL, |out| {
            out.text(attr::CHAIN_NAME, name);
            let Some(hook) = chain.hook else { return };
            out.nested(attr::CHAIN_HOOK, |out| {
                out.u32(attr::HOOK_NUMBER, hook.number);
                out.bytes(attr::HOOK_PRIORITY, &hook.priority.to_be_bytes());
            });
            let [accept, drop] = POLICIES;
            out.u32(attr::CHAIN_POLICY, if hook.drops { drop } else { accept });
            out.text(attr::CHAIN_TYPE, hook.kind.name());
        });
    }

    fn append_rule(&mut self, chain: &str, rule: &[Expr]) {
        self.message(kind::NEW_RULE, FLAG_CREATE | FLAG_APPEND, |out| {
            out.text(attr::RULE_CHAIN, chain);
            out.nested(attr::RULE_EXPRESSIONS, |out| {
                for expr in rule {
                    out.nested(attr::LIST_ITEM, |out| expr.write(out));
                }
            });
        });
    }

    fn create_set(&mut self, name: &str, set: &Set) {
        self.sets += 1;
        let id = self.sets;
        let shape = &set.shape;
        self.message(kind::NEW_SET, FLAG_CREATE | FLAG_EXCL, |out| {
            out.text(attr::SET_NAME, name);
            out.u32(attr::SET_FLAGS, shape.flags);
            out.u32(attr::SET_KEY_TYPE, shape.key_type);
            out.u32(attr::SET_KEY_LENGTH, shape.key_bytes);
            if let Some((kind, bytes)) = shape.data {
                out.u32(attr::SET_DATA_TYPE, kind);
                out.u32(attr::SET_DATA_LENGTH, bytes);
            }
            if !shape.fields.is_empty() {
                out.nested(attr::SET_DESCRIPTION, |out| {
                    out.nested(attr::SET_DESCRIPTION_CONCAT, |out| {
                        for bytes in &shape.fields {
                            out.nested(attr::LIST_ITEM, |out| out.u32(attr::SET_FIELD_LENGTH, *bytes));
                        }
                    });
                });
            }
            out.u32(attr::SET_ID, id);
            if shape.counts {
                out.nested(attr::SET_EXPR, |out| Expr::Counter.write(out));
            }
        });
    }

    /// Adds elements that are not there; each with its key, and whether it goes on counting from what
    /// it has counted.
    pub(crate) fn add_elements<'a>(
        &mut self,
        set: &str,
        elements: impl Iterator<Item = (&'a Key, &'a Element, bool)>,
    ) {
        self.elements(
            kind::NEW_ELEMENT,
            FLAG_CREATE | FLAG_EXCL,
            set,
            elements,
            |out, (key, element, counts)| {
                write_key(out, key);
                if !element.data.is_empty() {
                    write_value(out, attr::ELEMENT_DATA, &element.data);
                }
                if counts && element.count != Count::default() {
                    out.nested(attr::ELEMENT_EXPR, |out| write_count(out, element.count));
                }
            },
        );
    }

    /// Takes elements away that are there.
    pub(crate) fn delete_elements<'a>(&mut self, set: &str, keys: impl Iterator<Item = &'a Key>) {
        self.elements(kind::DEL_ELEMENT, 0, set, keys, write_key);
    }

    fn elements<T>(
        &mut self,
        kind: u16,
        flags: u16,
        set: &str,
        items: impl Iterator<Item = T>,
        write: impl Fn(&mut Writer, T),
    ) {
        let mut items = items.peekable();
        while items.peek().is_some() {
            self.message(kind, flags, |out| {
                out.text(attr::ELEMENTS_SET, set);
                out.nested(attr::ELEMENTS_LIST, |out| {
                    let begin = out.length();
                    while out.length() - begin < LIST_BYTES
                        && let Some(item) = items.next()
                    {
                        out.nested(attr::LIST_ITEM, |out| write(out, item));
                    }
                });
            });
        }
    }
}

/// Writes what names an element.
pub(crate) fn write_key(out: &mut Writer, key: &Key) {
    write_value(out, attr::ELEMENT_KEY, &key.first);
    if let Some(last) = &key.last {
        write_value(out, attr::ELEMENT_KEY_END, last);
    }
}

fn write_count(out: &mut Writer, count: Count) {
    Expr::Counter.write_name(out);
    out.nested(attr::EXPR_DATA, |out| {
        out.u64(attr::COUNTER_BYTES, count.bytes);
        out.u64(attr::COUNTER_PACKETS, count.packets);
    });
}
