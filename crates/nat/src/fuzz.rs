//! The decoder of what the kernel sends, for a fuzzer. No part of the product.

use crate::conntrack::read_entry;
use crate::netlink::{Message, Messages};
use crate::nft::{read_chain, read_elements, read_rule, read_set};

/// Reads an answer of the kernel as everything it could be. Returns for whatever it is given.
pub fn answer(data: &[u8]) {
    for message in Messages::new(data) {
        let Ok(message) = message else { return };
        read(&message);
    }
}

fn read(message: &Message<'_>) {
    let Ok(attributes) = message.attributes() else { return };
    let _ = read_chain(attributes);
    let _ = read_rule(attributes);
    let _ = read_set(attributes);
    let _ = read_elements(attributes);
    let _ = read_entry(attributes);
}
