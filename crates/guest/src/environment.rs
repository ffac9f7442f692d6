//! The variables of a program.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStringExt as _;

use portway_proto::guest::Environment;

/// `entries` (`NAME=VALUE`) over what they are added to; of two with one name the later holds.
pub(crate) fn build(base: Environment, entries: Vec<Vec<u8>>) -> Vec<CString> {
    let mut variables = BTreeMap::new();
    if base == Environment::Instance {
        for (name, value) in std::env::vars_os() {
            variables.insert(name.into_vec(), value.into_vec());
        }
    }
    for entry in entries {
        let at = entry.iter().position(|byte| *byte == b'=').unwrap_or(entry.len());
        let value = entry.get(at + 1..).unwrap_or_default().to_vec();
        variables.insert(entry.get(..at).unwrap_or_default().to_vec(), value);
    }
    let strings = variables.into_iter().map(|(name, value)| [&name[..], b"=", &value].concat());
    // The protocol lets no zero byte through.
    strings.filter_map(|string| CString::new(string).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_of_two_holds() {
        let entries = [&b"A=1"[..], b"B=x=y", b"A=2", b"C="].map(<[u8]>::to_vec).to_vec();
        let built = build(Environment::Empty, entries);
        assert_eq!(built, [c"A=2", c"B=x=y", c"C="].map(CString::from));
    }

    #[test]
    fn what_the_instance_gave_stays_below() {
        let built = build(Environment::Instance, vec![b"PATH=/only".to_vec()]);
        assert!(built.contains(&CString::from(c"PATH=/only")));
        assert_eq!(built.iter().filter(|entry| entry.as_bytes().starts_with(b"PATH=")).count(), 1);
        assert!(built.len() > 1);
    }
}
