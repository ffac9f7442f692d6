//! Files that ask for more than a server has.

use super::*;

/// Fails when the services of a project together have more instances than one may have, or it has services without end.
#[test]
fn services_and_instances_are_counted() {
    let services = |count: usize, scale: usize| -> String {
        let each = |number| format!("  s{number:05}: {{image: x, scale: {scale}}}\n");
        format!("services:\n{}", (0..count).map(each).collect::<String>())
    };
    assert_eq!(mapped(&services(2, 500), &old()).instances().count(), 1_000);
    let said = fault(&services(3, 400), &old());
    assert!(said.contains("services.s00002: the project has more than 1000 instances"), "{said}");
    let said = fault(&services(1_001, 0), &old());
    assert!(said.contains("services.s01000: the project has more than 1000 services"), "{said}");
}
