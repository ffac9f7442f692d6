use std::collections::BTreeSet;

/// Path and method of everything the document describes.
fn documented() -> BTreeSet<(String, String)> {
    let text = include_str!("../../../../docs/openapi.yaml");
    let paths =
        text.split("\npaths:\n").nth(1).and_then(|rest| rest.split("\ncomponents:\n").next()).unwrap();
    let mut path = "";
    let mut found = BTreeSet::new();
    for line in paths.lines() {
        if let Some(name) = line.strip_prefix("  /").and_then(|rest| rest.strip_suffix(':')) {
            path = name;
        }
        let method = line.strip_prefix("    ").and_then(|rest| rest.strip_suffix(':'));
        if let Some(method) = method.filter(|word| !word.starts_with(' ') && !word.starts_with('/')) {
            found.insert((format!("/{path}"), method.to_owned()));
        }
    }
    found
}

/// Path and method of everything the router serves.
fn served() -> BTreeSet<(String, String)> {
    let text = include_str!("../http.rs");
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let Some(route) = line.trim().strip_prefix(".route(\"") else { continue };
        let (path, handlers) = route.split_once("\", ").unwrap();
        let methods = ["get(", "post(", "put(", "patch(", "delete("];
        for method in methods.iter().filter(|method| handlers.contains(*method)) {
            found.insert((path.to_owned(), method.trim_end_matches('(').to_owned()));
        }
    }
    found
}

/// Fails when a route is added without a word in `docs/openapi.yaml`, or the other way round.
#[test]
fn the_document_describes_every_route_and_no_other() {
    assert!(served().len() > 10);
    assert_eq!(served(), documented());
}
