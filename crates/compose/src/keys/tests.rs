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

/// All functions of tests below a folder.
fn functions(dir: &std::path::Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).expect("a folder").filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = std::fs::read_to_string(&path).expect("a text");
            let lines = text.lines().map(|line| line.trim_start().trim_start_matches("async "));
            let names = lines.filter_map(|line| line.strip_prefix("fn "));
            found.extend(names.filter_map(|rest| Some(rest.split_once('(')?.0.to_owned())));
        }
    }
}

/// Fails when the page of rare cases names a test that is not there.
#[test]
fn tests_that_the_manual_names_are_there() {
    let top = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut there = BTreeSet::new();
    functions(top, &mut there);
    let page = std::fs::read_to_string(top.join("../docs/compose-cases.md")).expect("the page is there");
    let rows = page.lines().filter(|line| line.starts_with("| ") && line.contains('`'));
    let names =
        rows.filter_map(|row| row.rsplit('|').nth(1)).flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let names: Vec<&str> = names.map(|name| name.rsplit("::").next().unwrap_or(name)).collect();
    // What is no crate and no binary.
    let named = names.iter().filter(|name| !name.contains('/') && !name.starts_with("incus_"));
    let missing: Vec<&&str> = named.filter(|name| !there.contains(**name)).collect();
    assert!(missing.is_empty() && names.len() > 60, "{missing:?} of {}", names.len());
}
