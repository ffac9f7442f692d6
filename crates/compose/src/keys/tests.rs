use std::collections::BTreeSet;

use portway_composefile::keys::known;

use super::*;

/// Fails when the schema gets a key that nobody has thought about, or the table has one that is none.
#[test]
fn every_key_of_the_schema_has_a_treatment() {
    let known = known();
    for path in &known {
        let key = of(path).unwrap_or_else(|| panic!("{path} is not in the table"));
        let exact = key.path == path;
        assert!(exact || key.treatment != Treatment::Mapped, "{path} is below {}, which is mapped", key.path);
    }
    let known: BTreeSet<&str> = known.iter().map(String::as_str).collect();
    let mut seen = BTreeSet::new();
    for key in KEYS {
        assert!(known.contains(key.path), "{} is no key", key.path);
        assert!(seen.insert(key.path), "{} is there twice", key.path);
        let above = key.path.rsplit_once('.').and_then(|(above, _)| of(above));
        assert!(
            above.is_none_or(|above| above.treatment == Treatment::Mapped),
            "{} is below one that is not mapped",
            key.path
        );
        assert!(!key.about.is_empty() && !key.about.contains('|'), "{}", key.path);
    }
}

/// Fails when the page is not what the table says. With `INSTA_UPDATE=always` it is written.
#[test]
fn the_manual_has_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/compose-keys.md");
    let page = std::fs::read_to_string(path).expect("the page is there");
    let (head, _) = page.split_once("| key |").expect("it has a table");
    let wanted = format!("{head}{}", markdown());
    if std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
        std::fs::write(path, &wanted).expect("it can be written");
    }
    assert!(page == wanted, "docs/compose-keys.md is not what the table of keys says");
}
