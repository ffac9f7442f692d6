//! The keys there are, and the ones a project says: by one path each, whatever names and numbers stand between.

use crate::fault::Place;
use crate::schema;
use crate::shape::{Shape, is_extension};
use crate::tree::{Map, Node, Value};

/// A key that a project says.
#[derive(Debug, Clone, PartialEq)]
pub struct Said<'t> {
    /// Path of the key in the schema: `services.build.args`.
    pub key: String,
    /// Path in the file: `services.web.build.args`.
    pub path: String,
    /// What it says.
    pub node: &'t Node,
}

impl Said<'_> {
    /// Where it stands.
    pub fn place(&self) -> &Place {
        &self.node.place
    }
}

/// Every key of the schema, each after the one it stands in. Extensions are none.
pub fn known() -> Vec<String> {
    let mut keys = Vec::new();
    list(&schema::FILE, "", &mut keys);
    keys
}

fn list(shape: &Shape, at: &str, keys: &mut Vec<String>) {
    match shape {
        Shape::Object(fields) => {
            for field in *fields {
                let key = joined(at, field.name);
                keys.push(key.clone());
                list(&field.shape, &key, keys);
            }
        }
        Shape::Named(inner) | Shape::List(inner) | Shape::Nullable(inner) | Shape::Long(_, inner) => {
            list(inner, at, keys);
        }
        _ => {}
    }
}

/// Every key that `tree` says, in the order of the names. What is below an extension is none.
pub fn said(tree: &Map) -> Vec<Said<'_>> {
    let mut found = Vec::new();
    object(tree, &schema::FILE, ("", ""), &mut found);
    found
}

fn object<'t>(map: &'t Map, shape: &Shape, at: (&str, &str), found: &mut Vec<Said<'t>>) {
    let Shape::Object(fields) = shape else { return };
    for field in *fields {
        let Some(node) = map.get(field.name) else { continue };
        let (key, path) = (joined(at.0, field.name), joined(at.1, field.name));
        found.push(Said { key: key.clone(), path: path.clone(), node });
        below(node, &field.shape, (&key, &path), found);
    }
}

fn below<'t>(node: &'t Node, shape: &Shape, at: (&str, &str), found: &mut Vec<Said<'t>>) {
    match (shape, &node.value) {
        (Shape::Nullable(inner) | Shape::Long(_, inner), _) => below(node, inner, at, found),
        (Shape::Object(_), Value::Map(map)) => object(map, shape, at, found),
        (Shape::Named(inner), Value::Map(map)) => {
            for (name, node) in map.iter().filter(|(name, _)| !is_extension(name)) {
                below(node, inner, (at.0, &joined(at.1, name)), found);
            }
        }
        (Shape::List(inner), Value::List(list)) => {
            for (number, node) in list.iter().enumerate() {
                below(node, inner, (at.0, &format!("{}[{number}]", at.1)), found);
            }
        }
        _ => {}
    }
}

fn joined(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Place;

    #[test]
    fn keys_are_found_below_names_and_numbers() {
        let place = Place::of_file("x");
        let map = |pairs: Vec<(&str, Node)>| {
            let members = pairs.into_iter().map(|(name, node)| (name.to_owned(), node)).collect();
            Node::new(Value::Map(members), &place)
        };
        let one = || Node::new(Value::Int(1), &place);
        let port = map(vec![("target", one()), ("x-portway", one())]);
        let web = map(vec![("ports", Node::new(Value::List(vec![port]), &place)), ("x-incus", map(vec![]))]);
        let tree = Map::from([("services".to_owned(), map(vec![("web", web)]))]);
        let said: Vec<(String, String)> = said(&tree).into_iter().map(|said| (said.key, said.path)).collect();
        let pair = |key: &str, path: &str| (key.to_owned(), path.to_owned());
        assert_eq!(
            said,
            [
                pair("services", "services"),
                pair("services.ports", "services.web.ports"),
                pair("services.ports.target", "services.web.ports[0].target"),
            ]
        );
    }

    #[test]
    fn the_schema_is_listed_to_its_leaves() {
        let known = known();
        for key in ["services", "services.deploy.resources.limits.cpus", "networks.ipam.config.subnet"] {
            assert!(known.iter().any(|one| one == key), "{key}");
        }
        let mut unique = known.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), known.len());
    }
}
