use super::*;
use crate::netlink::{Attributes, Messages, Writer};
use proptest::prelude::*;

/// Sixteen bytes to a line, in hexadecimal.
fn hex(bytes: &[u8]) -> Vec<String> {
    let line = |line: &[u8]| {
        let words =
            line.chunks(4).map(|word| word.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        words.collect::<Vec<_>>().join(" ")
    };
    bytes.chunks(16).map(line).collect()
}

fn expressions() -> Vec<Expr> {
    let register = Register::word;
    vec![
        Expr::Meta { key: MetaKey::Protocol, to: register(1) },
        Expr::Payload { base: PayloadBase::Network, offset: 16, length: 4, to: register(0) },
        Expr::Compare { from: register(0), equal: false, value: vec![2, 0, 0, 0] },
        Expr::Mask { from: register(0), to: register(4), mask: vec![0xff, 0, 0, 1] },
        Expr::Value { to: register(12), value: vec![1; 16] },
        Expr::Verdict(Verdict::Accept),
        Expr::Verdict(Verdict::Return),
        Expr::Verdict(Verdict::Goto("published".to_owned())),
        Expr::Lookup { set: "address4".to_owned(), from: register(0), to: None },
        Expr::Lookup { set: "address4".to_owned(), from: register(0), to: Some(register(6)) },
        Expr::Fib { what: Fib::DestinationTypeOnInterface, to: register(0) },
        Expr::Ct { key: CtKey::Labels, to: register(0) },
        Expr::SetCt { key: CtKey::Labels, from: register(12) },
        Expr::Dnat { family: 2, address: register(6), first: register(7), last: None },
        Expr::Dnat { family: 10, address: register(6), first: register(10), last: Some(register(11)) },
        Expr::Masquerade,
        Expr::Counter,
    ]
}

#[test]
fn every_expression_reads_back() {
    for expr in expressions() {
        let mut out = Writer::default();
        out.message(0, 0, &[], |out| expr.write(out));
        let bytes = out.numbered(1).to_vec();
        let message = Messages::new(&bytes).next().unwrap().unwrap();
        assert_eq!(Expr::read(message.attributes_after(0).unwrap()).unwrap(), expr);
    }
}

/// The bytes of a whole transaction, as the kernel takes them on a machine whose lowest byte comes first. What
/// they mean was seen with `nft --debug=netlink` and `nft list table`.
#[test]
#[cfg(target_endian = "little")]
fn a_transaction_byte_for_byte() {
    let mut table = Table::default();
    let shape =
        SetShape::ranges(&[TypeId::PROTOCOL, TypeId::PORT]).map_to(&[TypeId::IPV4, TypeId::PORT]).counted();
    let mut set = Set::empty(shape);
    let key = Key { first: vec![6, 0, 0, 0, 0, 80, 0, 0], last: Some(vec![6, 0, 0, 0, 0, 90, 0, 0]) };
    let count = Count { packets: 3, bytes: 180 };
    set.elements.insert(key.clone(), Element { data: vec![10, 0, 0, 2, 0x1f, 0x90, 0, 0], count });
    table.sets.insert("m".to_owned(), set);
    let hook = Hook { kind: HookKind::Nat, number: Hook::PREROUTING, priority: -100, drops: false };
    let rules = vec![vec![Expr::Masquerade, Expr::Verdict(Verdict::Goto("c".to_owned()))]];
    table.chains.insert("c".to_owned(), Chain { hook: Some(hook), rules });
    let mut batch = Batch::new("t", Some(7));
    batch.delete_table();
    batch.create_table(&table);
    batch.delete_elements("m", std::iter::once(&key));
    let mut messages = batch.finish();
    assert_eq!(messages.count(), 9);
    assert_eq!(messages.wants_acknowledgement(), 7);
    insta::assert_snapshot!(hex(messages.numbered(1)).join("\n"));
}

#[test]
fn long_lists_are_cut_into_messages() {
    let keys: Vec<Key> =
        (0..9_000_u32).map(|number| Key { first: number.to_be_bytes().to_vec(), last: None }).collect();
    let mut batch = Batch::new("t", None);
    batch.delete_elements("s", keys.iter());
    let mut messages = batch.finish();
    let bytes = messages.numbered(1).to_vec();
    let mut read = std::collections::BTreeMap::new();
    let mut lists = 0;
    for message in Messages::new(&bytes) {
        let message = message.unwrap();
        if message.kind == kind::DEL_ELEMENT {
            lists += 1;
            read.extend(read_elements(message.attributes().unwrap()).unwrap().object);
        }
    }
    assert!(read.keys().eq(keys.iter()));
    assert!(lists > 1);
}

/// What a kernel or a foreign hand may have written, and is none of ours.
#[test]
fn what_is_not_understood_is_unknown() {
    let read = |name: &str, fill: &dyn Fn(&mut Writer)| {
        let mut out = Writer::default();
        out.message(0, 0, &[], |out| {
            out.text(attr::EXPR_NAME, name);
            out.nested(attr::EXPR_DATA, fill);
        });
        let bytes = out.numbered(1).to_vec();
        let message = Messages::new(&bytes).next().unwrap().unwrap();
        Expr::read(message.attributes_after(0).unwrap())
    };
    let unknown = |name: &str| Ok(Expr::Unknown(name.to_owned()));
    assert_eq!(read("synproxy", &|_| {}), unknown("synproxy"));
    assert_eq!(read("meta", &|out| out.u32(2, 999)), unknown("meta"));
    // `masquerade to :1-2`, `lookup != @s`, a direction of `ct`, a comparison that is neither.
    assert_eq!(read("masq", &|out| out.u32(2, 1)), unknown("masq"));
    let inverted = |out: &mut Writer| {
        out.text(1, "s");
        out.u32(2, 1);
        out.u32(5, 1);
    };
    assert_eq!(read("lookup", &inverted), unknown("lookup"));
    assert_eq!(read("cmp", &|out| out.u32(2, 4)), unknown("cmp"));
    read("cmp", &|out| out.u32(2, 0)).unwrap_err();
    read("immediate", &|out| out.bytes(1, &[1])).unwrap_err();
}

proptest! {
    /// Foreign bytes are read or refused; nothing else happens.
    #[test]
    fn bytes_of_anybody_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        crate::fuzz::answer(&bytes);
    }

    /// So is a true message with some bytes changed.
    #[test]
    fn damaged_messages_are_survived(
        which in 0_usize..17,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut out = Writer::default();
        out.netfilter(kind::NEW_RULE, 0, FAMILY_INET, 0, |out| {
            out.text(attr::TABLE, "t");
            out.text(attr::RULE_CHAIN, "c");
            out.nested(attr::RULE_EXPRESSIONS, |out| {
                out.nested(attr::LIST_ITEM, |out| expressions()[which].write(out));
            });
        });
        let mut bytes = out.numbered(1).to_vec();
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        crate::fuzz::answer(&bytes);
        let _ = read_rule(Attributes::new(&bytes[20..]));
    }
}
